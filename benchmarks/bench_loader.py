"""Benchmark 2: loader throughput, in process, through DataLoader workers, event by event.

The *event table*: 18×7 particles with a mask, 10 conditions, 56×3 assignment indices, segmentation
targets, 2×5 invisible; about 45 % of the slots are real. The reference is copying the same bytes
from one batch buffer to another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from benchmarks.harness import (
    Cell,
    Cost,
    Floor,
    Options,
    Report,
    Task,
    cost_table,
    interleave,
    peak_memory,
)
from hepset.batch import make_ids
from hepset.dataset import Dataset as Shards
from hepset.dataset import Manifest, open_dataset
from hepset.dataset.columns import ColumnLayout
from hepset.dataset.manifest import SplitRecord, SplitRule
from hepset.dataset.shards import row_group_rows, write_shard
from hepset.schema.config import SplitConfig
from hepset.schema.contract import Contract
from hepset.schema.event import EventInfo
from hepset.schema.tensors import TensorSpec

BATCH = 1024
WORKERS = 2
MEMCPY = "memcpy of a batch"
SHUFFLED = "hepset, shuffled"
MAPPED = "hepset, mmap, shuffled"
SINGLE = "DataLoader, event by event"
PROCESSES = f"hepset in {WORKERS} DataLoader workers"
OURS: dict[str, dict[str, Any]] = {
    "hepset, in order": {"shuffle": False},
    SHUFFLED: {},
    "hepset, shuffled, no thread": {"threads": 0},
    "hepset, shuffled, 2 threads": {"threads": 2},
    "hepset, shuffled, fresh memory": {"copy": True},
    MAPPED: {"cache": "mmap"},
}

SHAPES = {
    "particles": ((18, 7), "<f4", "<f4"),
    "particles.mask": ((18,), "|b1", "|b1"),
    "conditions": ((10,), "<f4", "<f4"),
    "target/assignment": ((56, 3), "|i1", "<i8"),
    "target/assignment.mask": ((56,), "|b1", "|b1"),
    "target/class": ((4, 9), "<f4", "<f4"),
    "target/segmentation": ((4, 18), "|b1", "|b1"),
    "target/full": ((4, 4), "<f4", "<f4"),
    "invisible": ((2, 5), "<f4", "<f4"),
    "weight": ((), "<f8", "<f8"),
}


def make_shards(directory: Path, events: int, shards: int, codec: Any) -> Shards:
    """Write the event table."""
    rng = np.random.default_rng(0)
    layouts = {
        name: ColumnLayout(
            name=name,
            dims=("event", *(f"axis{i}" for i in range(len(shape)))),
            shape=shape,
            stored=stored,
            dtype=dtype,
        )
        for name, (shape, stored, dtype) in SHAPES.items()
    }
    width = sum(layout.width for layout in layouts.values())
    files = []
    for number in range(shards):
        rows = events // shards
        group = row_group_rows(rows, rows * width)
        blocks = []
        for start in range(0, rows, group):
            count = min(group, rows - start)
            real = np.arange(18) < rng.binomial(18, 0.45, count)[:, None]
            columns: dict[str, Any] = {
                "particles": rng.normal(size=(count, 18, 7)).astype("<f4") * real[..., None],
                "particles.mask": real,
                "conditions": rng.normal(size=(count, 10)).astype("<f4"),
                "target/assignment": rng.integers(-1, 18, (count, 56, 3)).astype("|i1"),
                "target/assignment.mask": rng.random((count, 56)) < 0.05,
                "target/class": np.eye(9, dtype="<f4")[rng.integers(0, 9, (count, 4))],
                "target/segmentation": rng.random((count, 4, 18)) < 0.1,
                "target/full": np.eye(4, dtype="<f4")[rng.integers(0, 4, (count, 4))],
                "invisible": rng.normal(size=(count, 2, 5)).astype("<f4"),
                "weight": rng.normal(size=count),
            }
            columns["target/assignment"][~columns["target/assignment.mask"]] = -1
            blocks.append((make_ids(0, range(start, start + count)), columns))
        files.append(write_shard(directory / f"train-{number:05d}.parquet", layouts, blocks, codec))
    specs = {
        name: TensorSpec(
            name=name, kind="target", dims=layout.dims, shape=(None, *layout.shape),
            dtype=np.dtype(layout.dtype).name,
        )
        for name, layout in layouts.items()
    }  # fmt: skip
    rows = sum(file.rows for file in files)
    Manifest(
        plan="0" * 32,
        seed=0,
        contract=Contract(tensors=specs),
        event=EventInfo.model_validate({"globals": {"conditions": {"features": ["x"]}}}),
        columns=tuple(layouts.values()),
        splits={"train": SplitRecord(rows=rows, shards=tuple(files))},
        split_rule=SplitRule(config=SplitConfig(), seed=0, hashed=("entry",)),
        sources=(),
        samples=(),
    ).write(directory)
    return open_dataset(directory)


class Events(Dataset[dict[str, Tensor]]):
    """The usual map-style data set: all in memory, one event at a time."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}

    def __len__(self) -> int:
        return len(self.tensors["weight"])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: tensor[index] for name, tensor in self.tensors.items()}


class Copies:
    """Copies one batch again and again: what moving the same bytes costs alone."""

    def __init__(self, loader: Any) -> None:
        self.batch = {name: tensor.clone() for name, tensor in next(iter(loader)).items()}
        self.target = {name: torch.empty_like(tensor) for name, tensor in self.batch.items()}
        self.times = len(loader)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for _ in range(self.times):
            for name, tensor in self.batch.items():
                self.target[name].copy_(tensor)
            yield self.target


class WorkerParts(torch.utils.data.IterableDataset[dict[str, Tensor]]):
    """Gives each worker process its own part of a loader's events."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        worker = torch.utils.data.get_worker_info()
        assert worker is not None
        return iter(
            self.loader.split.dataset.loader(
                "train",
                batch_size=self.loader.batch_size,
                shuffle=True,
                threads=0,
                rank=worker.id,
                world=worker.num_workers,
            )
        )


def ours(folder: str, way: dict[str, Any]) -> Any:
    """A loader of the shards; without options shuffled, with one thread and buffers used again."""
    chosen = {"copy": False, "shuffle": True, "threads": 1, **way}
    return open_dataset(Path(folder)).loader("train", batch_size=BATCH, **chosen)


def in_workers(folder: str) -> DataLoader[Any]:
    """Every worker reads its own part: the usual pattern of sharded streams."""
    loader = ours(folder, {"threads": 0, "copy": True})
    return DataLoader(WorkerParts(loader), batch_size=None, num_workers=WORKERS)


def count(batches: Iterable[dict[str, Tensor]]) -> int:
    return sum(len(batch["weight"]) for batch in batches)


def epoch(folder: str, way: dict[str, Any]) -> int:
    """For `peak_memory`."""
    return count(ours(folder, way))


def run(options: Options) -> Iterator[Report]:
    events, few = options.events(200_000), options.events(20_000)
    events -= events % 4
    folder = str(options.folder)
    shards = make_shards(options.folder, events, 4, "lz4")
    split = shards.split("train")
    single = Events({n: array[:few] for n, array in split.read(list(SHAPES)).items()})
    copied = Copies(ours(folder, {"shuffle": False, "threads": 0}))

    makers: dict[str, Callable[[], Iterable[dict[str, Tensor]]]] = {MEMCPY: lambda: copied}
    makers |= {name: partial(ours, folder, way) for name, way in OURS.items()}
    makers[PROCESSES] = partial(in_workers, folder)
    makers[SINGLE] = lambda: DataLoader(single, batch_size=BATCH, shuffle=True)
    sizes = dict.fromkeys(makers, events) | {MEMCPY: copied.times * BATCH, SINGLE: few}

    def task(name: str) -> Task:
        def read() -> None:
            seen = count(makers[name]())
            assert seen == sizes[name], (name, seen, sizes[name])

        return read

    task(MAPPED)()
    found = interleave({name: task(name) for name in makers}, options.repeats)
    costs: dict[str, Cost] = {name: cost.per(sizes[name]) for name, cost in found.items()}
    peaks: dict[str, Cell] = {
        name: peak_memory("benchmarks.bench_loader:epoch", folder, OURS[name]).added
        for name in (SHUFFLED, MAPPED)
    }
    width = sum(layout.width for layout in shards.layouts.values())

    def ratio(name: str, base: str) -> float:
        return costs[name].over(costs[base]).cpu

    yield Report(
        2,
        f"loader, {events} events of {width} B, batches of {BATCH}, lz4",
        [cost_table("one epoch", costs, MEMCPY, more={"peak MB": peaks})],
        [
            Floor(f"{SINGLE} / {SHUFFLED}, CPU", ratio(SINGLE, SHUFFLED), 10),
            Floor(f"{PROCESSES} / {SHUFFLED}, CPU", ratio(PROCESSES, SHUFFLED), 1),
            Floor(f"{MAPPED} / {MEMCPY}, CPU", ratio(MAPPED, MEMCPY), 10, at_least=False),
        ],
        [f"the split decoded has {events * width / 1e6:.0f} MB"],
    )
