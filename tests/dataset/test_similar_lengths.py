from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hepset.dataset import Dataset
from hepset.dataset.loader import Loader
from hepset.dataset.similar_lengths import ObjectLimit, by_length
from hepset.errors import ConfigurationError, DatasetError
from hepset.schema.event import EventInfo

EVENT = EventInfo.model_validate(
    {
        "streams": {"cells": {"slots": 30, "features": ["e"]}},
        "globals": {"number": {"features": ["n"]}},
        "targets": {"origin": {"kind": "regression", "stream": "cells"}},
    }
)
EVENTS = 500
COUNTS = np.random.default_rng(3).geometric(0.15, EVENTS).clip(0, 30)


def tensors(counts: np.ndarray) -> dict[str, np.ndarray]:
    mask = np.arange(30) < counts[:, None]
    number = np.arange(len(counts), dtype=np.float32)
    cells = np.where(mask, number[:, None] + np.arange(30) / 64, 0).astype(np.float32)
    return {
        "cells": cells[:, :, None],
        "cells.mask": mask,
        "number": number[:, None],
        "target/origin": np.where(mask, 2 * cells, np.nan).astype(np.float32),
    }


@pytest.fixture(params=["fixed", "jagged"])
def dataset(request: pytest.FixtureRequest, write_dataset: Any) -> Dataset:
    jagged = frozenset({"cells"} if request.param == "jagged" else set())
    splits = {"train": tensors(COUNTS), "val": tensors(COUNTS[:50])}
    found: Dataset = write_dataset(EVENT, splits, shards=2, group=60, jagged=jagged)
    return found


def numbers(batch: dict[str, torch.Tensor]) -> list[int]:
    return [int(n) for n in batch["number"][:, 0].tolist()]


def check_trimmed(batch: dict[str, torch.Tensor]) -> None:
    """A batch holds its events, in as many slots as the longest needs."""
    own = tensors(COUNTS)
    rows = numbers(batch)
    slots = max(1, int(COUNTS[rows].max()))
    for name in ("cells", "cells.mask", "target/origin"):
        assert batch[name].shape[1] == slots
        assert batch[name].is_contiguous()
        np.testing.assert_array_equal(batch[name].numpy(), own[name][rows][:, :slots])


@pytest.mark.parametrize("cache", ["none", "mmap"])
@pytest.mark.parametrize("copy", [True, False])
def test_trimmed_batches_hold_the_same_events(dataset: Dataset, cache: Any, copy: bool) -> None:
    options: dict[str, Any] = {"batch_size": 32, "seed": 5, "shuffle": True, "cache": cache}
    whole = [numbers(batch) for batch in dataset.loader("train", **options)]
    found = []
    for batch in dataset.loader("train", trim=True, copy=copy, **options):
        check_trimmed(batch)
        found.append(numbers(batch))
    assert found == whole


@pytest.mark.parametrize("cache", ["none", "mmap"])
@pytest.mark.parametrize("world", [1, 3])
def test_batches_by_length_read_everything_with_less_padding(
    dataset: Dataset, cache: Any, world: int
) -> None:
    def epoch(by_length: bool, threads: int = 1) -> list[list[int]]:
        found = []
        for rank in range(world):
            loader = dataset.loader(
                "train",
                batch_size=16,
                seed=2,
                shuffle=True,
                cache=cache,
                by_length=by_length,
                rank=rank,
                world=world,
                threads=threads,
            )
            batches = []
            for batch in loader:
                if by_length:
                    check_trimmed(batch)
                batches.append(numbers(batch))
            assert len(batches) == len(loader)
            found += batches
        return found

    plain, similar = epoch(False), epoch(True)
    assert sorted(n for batch in similar for n in batch) == list(range(EVENTS))
    assert sorted(map(len, similar)) == sorted(map(len, plain))
    padded = [sum(len(b) * COUNTS[b].max() for b in batches) for batches in (plain, similar)]
    assert padded[1] < 0.7 * padded[0]
    assert similar == epoch(True, threads=3)


@pytest.mark.parametrize("world", [1, 2])
def test_a_limit_on_objects(dataset: Dataset, world: int) -> None:
    def epochs(rank: int, count: int = 2) -> list[list[list[int]]]:
        loader = dataset.loader(
            "train", batch_size=40, max_objects=100, shuffle=True, seed=1, rank=rank, world=world
        )
        found = []
        for _ in range(count):
            batches = []
            for batch in loader:
                check_trimmed(batch)
                assert batch["cells.mask"].numel() <= 100 or len(batch["number"]) == 1
                assert len(batch["number"]) <= 40
                batches.append(numbers(batch))
            assert len(batches) == len(loader)
            found.append(batches)
        return found

    ranks = [epochs(rank) for rank in range(world)]
    for epoch in range(2):
        read = [number for rank in ranks for batch in rank[epoch] for number in batch]
        assert sorted(read) == list(range(EVENTS))
        assert len({len(rank[epoch]) for rank in ranks}) == 1
    assert ranks[0][0] != ranks[0][1]
    assert ranks == [epochs(rank) for rank in range(world)]


@pytest.mark.parametrize("options", [{"by_length": True}, {"max_objects": 90}])
def test_an_epoch_continues_exactly(dataset: Dataset, options: dict[str, Any]) -> None:
    def loader(**more: Any) -> Loader:
        chosen = {"batch_size": 20, "seed": 4, "shuffle": True, **options, **more}
        return dataset.loader("train", **chosen)

    whole = [numbers(batch) for batch in loader()]
    first = loader()
    batches = iter(first)
    before = [numbers(next(batches)) for _ in range(7)]
    state = first.state_dict()
    first.close()
    second = loader()
    second.load_state_dict(state)
    assert before + [numbers(batch) for batch in second] == whole
    with pytest.raises(DatasetError, match=f"taken with {next(iter(options))} = "):
        loader(by_length=False, max_objects=None).load_state_dict(state)


def test_what_does_not_go_together(dataset: Dataset) -> None:
    with pytest.raises(ConfigurationError, match="max_objects = 0"):
        dataset.loader("train", batch_size=8, max_objects=0)
    sampler: Any = object()
    with pytest.raises(ConfigurationError, match="max_objects and sampling"):
        dataset.loader("train", batch_size=8, max_objects=9, sampling=sampler)


@given(st.lists(st.integers(0, 9), max_size=40), st.integers(1, 6), st.integers(1, 30), st.data())
@settings(deadline=None)
def test_limit_by_brute_force(
    lengths: list[int], batch_size: int, most: int, data: st.DataObject
) -> None:
    other = data.draw(st.lists(st.integers(0, 3), min_size=len(lengths), max_size=len(lengths)))
    limit = ObjectLimit.of({"a": np.array(lengths), "b": np.array(other)}, batch_size, most)
    assert sorted(limit.rows.tolist()) == list(range(len(lengths)))
    need = [(max(1, a), max(1, b)) for a, b in zip(lengths, other, strict=True)]
    ordered = sorted(need, key=lambda pair: (sum(pair), pair[1], pair[0]))
    batches: list[list[tuple[int, int]]] = []
    for pair in ordered:
        tried = [*batches[-1], pair] if batches else [pair]
        padded = len(tried) * (max(a for a, _ in tried) + max(b for _, b in tried))
        if batches and len(tried) <= batch_size and padded <= most:
            batches[-1] = tried
        else:
            batches.append([pair])
    sizes = np.diff([0, *limit.ends.tolist()]).tolist()
    assert sizes == [len(batch) for batch in batches]
    for seed in (0, 1):
        rows, ends = limit.epoch(seed=seed, epoch=0, shuffle=True)
        found = [sorted(need[row] for row in part) for part in np.split(rows, ends)[:-1]]
        assert sorted(found) == sorted(map(sorted, batches))


def test_batches_are_halved_until_ranks_have_equally_many() -> None:
    limit = ObjectLimit.of({"a": np.full(7, 5)}, 4, 100, world=4)
    assert np.diff([0, *limit.ends.tolist()]).tolist() == [2, 2, 1, 2]
    with pytest.raises(DatasetError, match="3 events in batches of one"):
        ObjectLimit.of({"a": np.full(3, 5)}, 4, 5, world=2)


def test_rows_are_sorted_between_the_ends_of_batches() -> None:
    lengths = np.array([9, 1, 8, 2, 7, 3, 6, 4])
    order = by_length(np.arange(8), lengths, [1, 4, 7], (1,))
    assert sorted(order.tolist()) == list(range(8))
    blocks = [sorted(lengths[part].tolist()) for part in np.split(order, [1, 4, 7])]
    assert [blocks[0], blocks[3]] == [[1], [9]]
    assert sorted(blocks[1:3]) == [[2, 3, 4], [6, 7, 8]]
