from __future__ import annotations

import gc
import pickle
import threading
import time
from typing import Any

import numpy as np
import pytest
import torch

from hepset.batch import EventBatch, FlatStream, make_ids
from hepset.dataset import Dataset
from hepset.dataset.loader import Loader, ids_of, reader_loader
from hepset.errors import ConfigurationError, ContractError, DatasetError
from hepset.interfaces import Reader, ReaderConfig, Source
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo

EVENT = EventInfo.model_validate(
    {
        "streams": {"jets": {"slots": 5, "features": ["pt", "eta"]}},
        "globals": {"met": {"features": {"pt": {"unit": "GeV"}}}},
        "particles": {"h": {"b1": "jets", "b2": "jets"}},
        "targets": {
            "signal": {"kind": "classification", "classes": ["no", "yes"]},
            "mass": {"kind": "regression"},
        },
    }
)
NAMES = [
    "jets",
    "jets.mask",
    "met",
    "target/assignment/h",
    "target/mass",
    "target/signal",
    "weight",
]


def tensors(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 6, rows)
    mask = np.arange(5) < counts[:, None]
    jets = rng.normal(size=(rows, 5, 2)).astype(np.float32)
    jets[~mask] = 0
    return {
        "jets": jets,
        "jets.mask": mask,
        "met": np.arange(rows, dtype=np.float32)[:, None],
        "target/signal": rng.integers(-1, 2, rows),
        "target/mass": np.arange(rows, dtype=np.float32) / 2,
        "target/assignment/h": rng.integers(-1, 5, (rows, 2)),
        "weight": rng.normal(size=rows),
        "extra/number": rng.integers(0, 9, rows).astype(np.uint32),
        "extra/name": np.array(["a", "bc"])[rng.integers(0, 2, rows)],
    }


@pytest.fixture(params=["fixed", "jagged"])
def dataset(request: pytest.FixtureRequest, write_dataset: Any) -> Dataset:
    jagged = frozenset({"jets"} if request.param == "jagged" else set())
    splits = {"train": tensors(1030), "val": tensors(7, 1), "test": tensors(0, 2)}
    found: Dataset = write_dataset(EVENT, splits, shards=3, group=60, jagged=jagged)
    return found


def rows(batches: Any) -> np.ndarray:
    return np.concatenate([batch["met"][:, 0].numpy() for batch in batches]).astype(int)


def loader_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("hepset-loader")]


@pytest.mark.parametrize("cache", ["none", "mmap"])
@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("threads", [0, 1, 3])
def test_batches_are_the_rows_with_the_dtypes_of_the_contract(
    dataset: Dataset, cache: str, copy: bool, threads: int
) -> None:
    expected = tensors(1030)
    loader = dataset.loader(
        "train", batch_size=64, shuffle=True, seed=5, cache=cache, copy=copy, threads=threads,
        ids=True, columns=[*NAMES, "extra/number"],
    )  # fmt: skip
    assert len(loader) == 17
    seen = []
    for batch in loader:
        index = batch["met"][:, 0].long().numpy()
        seen.append(index)
        assert set(batch) == {*NAMES, "ids", "extra/number"}
        for name in NAMES:
            np.testing.assert_array_equal(batch[name].numpy(), expected[name][index], name)
            assert batch[name].dtype == getattr(torch, dataset.contract[name].dtype)
        assert batch["extra/number"].dtype == torch.int64
        np.testing.assert_array_equal(batch["extra/number"], expected["extra/number"][index])
        np.testing.assert_array_equal(ids_of(batch["ids"])["entry"], index)
        assert batch["jets"].is_contiguous()
    assert [len(part) for part in seen] == [64] * 16 + [6]
    assert sorted(np.concatenate(seen).tolist()) == list(range(1030))
    assert not loader_threads()


def test_in_order_without_shuffle_and_listing_is_safe(dataset: Dataset) -> None:
    for cache in ("none", "mmap"):
        batches = list(dataset.loader("train", batch_size=100, cache=cache))
        assert set(batches[0]) == set(NAMES)
        np.testing.assert_array_equal(rows(batches), np.arange(1030))
    assert len(list(dataset.loader("val", batch_size=100))) == 1
    assert list(dataset.loader("test", batch_size=100)) == []


@pytest.mark.parametrize("cache", ["none", "mmap"])
def test_the_order_does_not_depend_on_threads_and_changes_with_the_epoch(
    dataset: Dataset, cache: str
) -> None:
    def order(threads: int, epoch: int, **options: Any) -> list[int]:
        loader = dataset.loader(
            "train", batch_size=64, shuffle=True, seed=2, threads=threads, cache=cache, **options
        )
        loader.set_epoch(epoch)
        return rows(loader).tolist()

    first = order(0, 0)
    assert order(1, 0) == order(4, 0, buffers=3) == order(2, 0, columns=["met"]) == first
    assert order(1, 1) != first
    loader = dataset.loader("train", batch_size=64, shuffle=True, seed=2, cache=cache)
    assert rows(loader).tolist() == first
    assert loader.epoch == 1
    assert rows(loader).tolist() == order(1, 1)


@pytest.mark.parametrize("cache", ["none", "mmap"])
@pytest.mark.parametrize("stop", [1, 6, 11, 17])
def test_resuming_gives_the_rest(dataset: Dataset, cache: str, stop: int) -> None:
    def make() -> Loader:
        return dataset.loader("train", batch_size=64, shuffle=True, seed=9, cache=cache)

    def epochs(loader: Loader, count: int) -> list[torch.Tensor]:
        return [batch["met"] for _ in range(count) for batch in loader]

    whole = epochs(make(), 3)
    loader = make()
    iterator = iter(loader)
    for _ in range(stop):
        next(iterator)
    state = pickle.loads(pickle.dumps(loader.state_dict()))
    resumed = make()
    resumed.load_state_dict(state)
    rest = epochs(resumed, 2)
    assert len(rest) == (34 - stop if stop < 17 else 34)
    for a, b in zip(rest, whole[stop:], strict=False):
        assert torch.equal(a, b)
    other = dataset.loader("train", batch_size=32, shuffle=True, seed=9)
    with pytest.raises(DatasetError, match="batch_size = 64"):
        other.load_state_dict(state)


def test_skipped_batches_are_not_decoded(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    from hepset.dataset.shards import ShardFile

    read: list[int] = []
    original = ShardFile.read_group

    def counted(self: ShardFile, group: int, columns: Any = None) -> Any:
        read.append(group)
        return original(self, group, columns)

    monkeypatch.setattr(ShardFile, "read_group", counted)
    loader = dataset.loader("train", batch_size=64, window=2)
    list(loader)
    assert len(read) == 18
    read.clear()
    state = {**loader.state_dict(), "batches": 15}
    loader.load_state_dict(state)
    assert rows(loader).tolist() == list(range(960, 1030))
    assert len(read) <= 3


def test_ranks_read_different_events_in_as_many_batches(dataset: Dataset) -> None:
    for cache in ("none", "mmap"):
        parts = [
            list(dataset.loader(
                "train", batch_size=50, shuffle=True, rank=rank, world=3, cache=cache
            ))
            for rank in range(3)
        ]  # fmt: skip
        assert {len(part) for part in parts} == {7}
        assert sorted(np.concatenate([rows(part) for part in parts])) == list(range(1030))
    with pytest.raises(DatasetError, match="cannot be divided over 8 devices"):
        dataset.loader("val", batch_size=2, world=8)


def test_dropping_the_last_batch(dataset: Dataset) -> None:
    loader = dataset.loader("train", batch_size=100, shuffle=True, drop_last=True)
    assert (len(loader), loader.events) == (10, 1000)
    left = [set(range(1030)) - set(rows(loader).tolist()) for _ in range(2)]
    assert [len(part) for part in left] == [30, 30]
    assert left[0] != left[1]
    small = dataset.loader("val", batch_size=100, drop_last=True)
    assert [len(batch["met"]) for batch in small] == [7]
    assert small.events == 7


def test_reused_memory_keeps_two_batches(dataset: Dataset) -> None:
    expected = [b["met"].clone() for b in dataset.loader("train", batch_size=16, shuffle=True)]
    loader = dataset.loader("train", batch_size=16, shuffle=True, copy=False, buffers=5, threads=2)
    drawn = []
    for index, batch in enumerate(loader):
        drawn.append(batch["met"])
        time.sleep(0.0005)
        for back in range(min(index, 2) + 1):
            assert torch.equal(drawn[index - back], expected[index - back])
    assert not torch.equal(drawn[0], expected[0]), "memory is used again"
    assert len({tensor.data_ptr() for tensor in drawn}) == 5


def test_leaving_early_leaves_no_thread(dataset: Dataset) -> None:
    loader = dataset.loader("train", batch_size=16, threads=2)
    for _ in loader:
        break
    gc.collect()
    assert not loader_threads()
    iterator = iter(loader)
    next(iterator)
    assert loader_threads()
    iter(loader)
    assert not loader_threads()
    with pytest.raises(StopIteration):
        next(iterator)
    iterator = iter(loader)
    next(iterator)
    loader.close()
    assert not loader_threads()


@pytest.mark.parametrize("threads", [0, 2])
def test_a_corrupt_shard_is_named(dataset: Dataset, threads: int) -> None:
    path = dataset.split("train").paths[1]
    content = bytearray(path.read_bytes())
    content[4 : len(content) // 2] = b"\x00" * (len(content) // 2 - 4)
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=f"{path.name}: row group"):
        list(dataset.loader("train", batch_size=32, threads=threads))
    assert not loader_threads()


def test_wrong_options_are_refused(dataset: Dataset) -> None:
    for options in (
        {"batch_size": 0},
        {"batch_size": 1, "threads": -1},
        {"batch_size": 1, "rank": 2, "world": 2},
        {"batch_size": 1, "buffers": 2},
        {"batch_size": 1, "seed": -1},
    ):
        with pytest.raises(ConfigurationError, match="loader"):
            dataset.loader("train", **options)
    with pytest.raises(KeyError, match="target/signal"):
        dataset.loader("train", batch_size=1, columns=["target/signl"])
    with pytest.raises(ConfigurationError, match="holds strings"):
        dataset.loader("train", batch_size=1, columns=["extra/name"])


def test_the_expanded_files_are_made_once_and_completed(dataset: Dataset) -> None:
    list(dataset.loader("train", batch_size=64, columns=["met"], cache="mmap"))
    folder = next((dataset.path / ".cache").glob("*/train"))
    made = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert set(made) == {"met.npy", "ids.npy"}
    list(dataset.loader("train", batch_size=64, cache="mmap"))
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert made.items() <= after.items()
    assert "target%2Fsignal.npy" in after
    assert not list(folder.glob(".*"))
    assert np.load(folder / "target%2Fsignal.npy").dtype == np.int8


def test_torch_data_loader_accepts_it(dataset: Dataset) -> None:
    loader = torch.utils.data.DataLoader(dataset.loader("train", batch_size=100), batch_size=None)
    assert rows(loader).tolist() == list(range(1030))


class MadeReader(Reader):
    def event_info(self) -> EventInfo:
        return EVENT

    def sources(self) -> list[Source]:
        return [Source("made", 25, is_file=False)]

    def read(self, chunk: Any) -> EventBatch:
        entries = np.arange(chunk.start, chunk.stop)
        offsets = np.concatenate([[0], np.cumsum(entries % 4)])
        count = int(offsets[-1])
        eta, pt = np.zeros(count), np.repeat(entries, entries % 4).astype(float)
        return EventBatch(
            make_ids(0, entries),
            {"jets": FlatStream(offsets, {"eta": eta, "pt": pt})},
            {"met": entries[:, None].astype(np.float32)},
        )


@pytest.mark.parametrize("chunk_size", [3, 10, 100])
def test_batches_straight_from_a_reader(chunk_size: int) -> None:
    contract = compile_contract(EVENT)
    reader = MadeReader(ReaderConfig(chunk_size=chunk_size))
    batches = list(reader_loader(reader, contract, 10))
    assert [len(batch["met"]) for batch in batches] == [10, 10, 5]
    assert set(batches[0]) == {"jets", "jets.mask", "met", "ids"}
    assert rows(batches).tolist() == list(range(25))
    jets = torch.cat([batch["jets"] for batch in batches])
    assert jets.shape == (25, 5, 2)
    assert jets[7, :, 0].tolist() == [7, 7, 7, 0, 0]
    assert torch.cat([b["jets.mask"] for b in batches]).sum(1).tolist() == [
        i % 4 for i in range(25)
    ]
    narrow = contract.model_copy(
        update={"tensors": {k: v.model_copy(update={"shape": (None, 2, *v.shape[2:])})
                            if k.startswith("jets") else v for k, v in contract.tensors.items()}}
    )  # fmt: skip
    with pytest.raises(ContractError, match="more than 2 objects"):
        list(reader_loader(reader, narrow, 10))
