from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hepset import compile_contract, load_event
from hepset.batch import EventBatch, FlatStream, PaddedStream, concatenate, make_ids
from hepset.dataset.event_buffer import EventPool
from hepset.dataset.loader import batch_tensors
from hepset.errors import ContractError, DatasetError

CONTRACT = compile_contract(
    load_event(
        {
            "streams": {"jets": {"slots": 4, "features": ["pt", "tag"]}},
            "globals": {"met": {"features": ["pt"]}},
            "targets": {
                "origin": {"kind": "classification", "classes": ["a", "b"], "stream": "jets"},
                "signal": {"kind": "classification", "classes": ["no", "yes"]},
            },
        }
    ),
    heads={},
)


def events(counts: list[int], seed: int = 0, *, padded: bool = False) -> EventBatch:
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    total, number = int(offsets[-1]), len(counts)
    flat = FlatStream(
        offsets,
        {"pt": rng.random(total), "tag": rng.random(total) < 0.5, "unused": rng.random(total)},
        {"target/origin": rng.integers(0, 2, total)},
    )
    batch = EventBatch(
        make_ids(seed, np.arange(number)),
        {"jets": flat},
        {
            "met": rng.random((number, 1)).astype(np.float32),
            "target/signal": rng.integers(-1, 2, number),
            "extra/run": np.arange(number),
        },
        slots={"jets": 4},
    )
    if not padded:
        return batch
    slots = batch.padded("jets")
    gap = np.roll(np.arange(4), 1)  # the first slot may be empty
    moved = PaddedStream(
        {name: values[:, gap] for name, values in slots.columns.items()},
        slots.mask[:, gap],
        {name: values[:, gap] for name, values in slots.attached.items()},
    )
    return EventBatch(batch.ids, {"jets": moved}, batch.arrays, slots={"jets": 4})


COUNTS = st.lists(st.integers(0, 4), min_size=1, max_size=6)


@settings(deadline=None, max_examples=40)
@given(parts=st.lists(COUNTS, min_size=1, max_size=4), padded=st.booleans(), data=st.data())
def test_a_pool_gives_what_the_events_alone_give(
    parts: list[list[int]], padded: bool, data: st.DataObject
) -> None:
    batches = [events(counts, seed, padded=padded) for seed, counts in enumerate(parts)]
    whole = concatenate(batches)
    number = st.integers(0, len(whole) - 1)
    rows = np.array(data.draw(st.lists(number, min_size=1, max_size=9)), np.int64)
    pool = EventPool(CONTRACT)
    for _ in range(2):  # the second time in memory that was used before
        pool.clear()
        for left, batch in zip(range(len(batches), 0, -1), batches, strict=True):
            pool.append(batch, portions=left)
        assert len(pool) == len(whole)
        expected = batch_tensors(whole.take(rows), CONTRACT)
        for found in (pool.tensors(rows), batch_tensors(pool.take(rows), CONTRACT)):
            assert list(found) == list(expected)
            for name, tensor in expected.items():
                assert found[name].dtype == tensor.dtype
                assert torch.equal(found[name], tensor), name
        pool.append(pool.take(rows))
        again = np.arange(len(whole), len(whole) + len(rows))
        assert torch.equal(pool.tensors(again)["jets"], expected["jets"])


def test_lists_and_slots_may_be_mixed() -> None:
    first, second = events([2, 4], 1), events([1, 3], 2, padded=True)
    expected = torch.cat([batch_tensors(part, CONTRACT)["jets"] for part in (first, second)])
    for order in ([0, 1], [1, 0]):
        pool = EventPool(CONTRACT)
        for index in order:
            pool.append((first, second)[index])
        rows = np.arange(4) if order[0] == 0 else np.array([2, 3, 0, 1])
        assert torch.equal(pool.tensors(rows)["jets"], expected)


def test_what_does_not_fit_is_named() -> None:
    pool = EventPool(CONTRACT)
    with pytest.raises(ContractError, match="jets: the longest event has 5 objects"):
        pool.append(events([5]))
    batch = events([1])
    with pytest.raises(DatasetError, match="lack the input met"):
        pool.append(EventBatch(batch.ids, batch.streams, {}))
    pool.append(batch)
    lacking = {name: array for name, array in batch.arrays.items() if name != "target/signal"}
    with pytest.raises(DatasetError, match=r"target/signal .* and others lack it"):
        pool.append(EventBatch(batch.ids, batch.streams, lacking))
