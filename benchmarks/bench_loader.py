"""Loader throughput: ours in process, batches through DataLoader workers, events one by one.

The *event table*: 18×7 particles with a mask, 10 conditions, 56×3 assignment indices, segmentation
targets, 2×5 invisible; about 45 % of the slots are real. Contenders run interleaved in a random
order in one process; the best of the repeats is reported, with the ratio to copying the same bytes
from one batch buffer to another.

    python benchmarks/bench_loader.py [--events 200000] [--batch 1024] [--repeats 3]
"""

from __future__ import annotations

import argparse
import random
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

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


def copies(loader: Any) -> Iterator[dict[str, Tensor]]:
    """Copy one batch again and again: what moving the same bytes costs alone."""
    batch = {name: tensor.clone() for name, tensor in next(iter(loader)).items()}
    target = {name: torch.empty_like(tensor) for name, tensor in batch.items()}
    for _ in range(len(loader)):
        for name, tensor in batch.items():
            target[name].copy_(tensor)
        yield target


def cpu() -> float:
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--single", type=int, default=20_000, help="events of the per-event one")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--codec", choices=("lz4", "zstd", "none"), default="lz4")
    parser.add_argument("--directory", type=Path, default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=options.directory) as folder:
        shards = make_shards(Path(folder), options.events, 4, options.codec)
        split = shards.split("train")

        def ours(**more: Any) -> Any:
            chosen = {"copy": False, "shuffle": False, "threads": 1, **more}
            return shards.loader("train", batch_size=options.batch, **chosen)

        def workers() -> Any:
            # Every worker reads its own part: the usual pattern of sharded streams.
            loader = ours(shuffle=True, threads=0, copy=True)
            return DataLoader(WorkerParts(loader), batch_size=None, num_workers=options.workers)

        part = {name: array[: options.single] for name, array in split.read(list(SHAPES)).items()}
        single = Events(part)
        contenders: dict[str, tuple[int, Callable[[], Any]]] = {
            "memcpy of a batch": (len(ours()) * options.batch, lambda: copies(ours(threads=0))),
            "ours, in order": (len(split), ours),
            "ours, shuffled": (len(split), lambda: ours(shuffle=True)),
            "ours, shuffled, no thread": (len(split), lambda: ours(shuffle=True, threads=0)),
            "ours, shuffled, 2 threads": (len(split), lambda: ours(shuffle=True, threads=2)),
            "ours, shuffled, fresh memory": (len(split), lambda: ours(shuffle=True, copy=True)),
            "ours, mmap, shuffled": (len(split), lambda: ours(shuffle=True, cache="mmap")),
            f"ours in {options.workers} DataLoader workers": (len(split), workers),
            "DataLoader, event by event": (
                len(single),
                lambda: DataLoader(single, batch_size=options.batch, shuffle=True),
            ),
        }
        for _ in ours(shuffle=True, cache="mmap"):
            pass
        best: dict[str, tuple[float, float]] = {}
        for _ in range(options.repeats):
            order = list(contenders)
            random.shuffle(order)
            for name in order:
                events, make = contenders[name]
                began, used = time.perf_counter(), cpu()
                seen = sum(len(batch["weight"]) for batch in make())
                wall, used = time.perf_counter() - began, cpu() - used
                assert seen == events, (name, seen, events)
                known = best.get(name, (np.inf, np.inf))
                best[name] = min(known[0], wall / events), min(known[1], used / events)
    limit = best["memcpy of a batch"]
    print(f"{options.events} events, batches of {options.batch}, codec {options.codec}")
    print(f"{'':34} {'wall us/event':>14} {'CPU us/event':>14} {'CPU / memcpy':>13}")
    for name in contenders:
        wall, used = best[name]
        print(f"{name:34} {wall * 1e6:14.3f} {used * 1e6:14.3f} {used / limit[1]:13.1f}")
    slow = best["DataLoader, event by event"][1] / best["ours, shuffled"][1]
    print(f"event by event costs {slow:.0f} times the CPU of ours, shuffled")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(
        f"peak memory of this process {peak:.0f} MB, the split decoded "
        f"{options.events * sum(x.width for x in shards.layouts.values()) / 1e6:.0f} MB"
    )


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


if __name__ == "__main__":
    main()
