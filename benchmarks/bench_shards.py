"""Benchmarks 1, 3, 6 and 7: shards against other layouts, memory, statistics, shuffle.

    python benchmarks/bench_shards.py [--events 32768] [--repeats 3]

The event table: 18x7 particles with mask, 10 conditions, 56x3 assignment indices with mask,
4x9, 4x18 and 4x4 segmentation targets, 2x5 invisibles; about 45 % of the particle slots and 10 % of
the target slots hold something. Contenders take turns in shuffled order in one process; the least
CPU and the least wall time of each are reported. Ratios are what to trust. Peak memory is that of
reading in a process of its own, above one that has only imported the libraries.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hepset.batch import make_ids
from hepset.dataset.columns import ColumnLayout
from hepset.dataset.shards import ShardFile, ShardRecord, row_group_rows, write_shard
from hepset.dataset.statistics import StatisticsCollector
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo

Tensors = dict[str, np.ndarray]
BATCH = 1024
SHAPES: dict[str, tuple[tuple[int, ...], str]] = {
    "particles": ((18, 7), "<f4"),
    "particles.mask": ((18,), "|b1"),
    "conditions": ((10,), "<f4"),
    "indices": ((56, 3), "|i1"),
    "indices.mask": ((56,), "|b1"),
    "cls": ((4, 9), "<f4"),
    "segments": ((4, 18), "<f4"),
    "boxes": ((4, 4), "<f4"),
    "invisible": ((2, 5), "<f4"),
}
RAW = sum(int(np.prod(s)) * np.dtype(d).itemsize for s, d in SHAPES.values())


def make_table(events: int, seed: int = 0) -> Tensors:
    rng = np.random.default_rng(seed)
    mask = np.arange(18) < rng.binomial(18, 0.45, events)[:, None]
    found: Tensors = {"particles.mask": mask, "indices.mask": rng.random((events, 56)) < 0.1}
    found["particles"] = rng.normal(size=(events, 18, 7)).astype("<f4") * mask[:, :, None]
    found["conditions"] = rng.normal(size=(events, 10)).astype("<f4")
    indices = rng.integers(0, 18, (events, 56, 3))
    found["indices"] = np.where(found["indices.mask"][:, :, None], indices, -1).astype("|i1")
    found["cls"] = np.eye(9, dtype="<f4")[rng.integers(0, 9, (events, 4))]
    found["segments"] = ((rng.random((events, 4, 18)) < 0.1) & mask[:, None]).astype("<f4")
    real = rng.random((events, 4, 1)) < 0.5
    found["boxes"] = (rng.normal(size=(events, 4, 4)) * real).astype("<f4")
    found["invisible"] = rng.normal(size=(events, 2, 5)).astype("<f4")
    return {name: found[name] for name in SHAPES}


def buffers() -> Tensors:
    return {name: np.zeros((BATCH, *shape), dtype) for name, (shape, dtype) in SHAPES.items()}


def batches(block: Tensors, out: Tensors, order: np.ndarray | None) -> Iterator[int]:
    """Copy a decoded block into re-used batch buffers, in order or permuted."""
    rows = len(next(iter(block.values())))
    for start in range(0, rows, BATCH):
        stop = min(start + BATCH, rows)
        for name, values in block.items():
            target = out[name][: stop - start]
            if order is None:
                np.copyto(target, values[start:stop])
            else:
                np.take(values, order[start:stop], axis=0, out=target, mode="clip")
        yield stop - start


def permutation(rows: int, shuffled: bool) -> np.ndarray | None:
    return np.random.default_rng(rows).permutation(rows) if shuffled else None


class Layout:
    """A way to keep the table on disk."""

    name = ""

    def __init__(self, folder: Path) -> None:
        self.path = folder / type(self).__name__

    def write(self, table: Tensors) -> None:
        raise NotImplementedError

    def blocks(self) -> Iterator[Tensors]:
        raise NotImplementedError

    def read(self, shuffled: bool) -> int:
        out, rows = buffers(), 0
        for block in self.blocks():
            count = len(next(iter(block.values())))
            rows += sum(batches(block, out, permutation(count, shuffled)))
        return rows

    @property
    def size(self) -> int:
        files = self.path.rglob("*") if self.path.is_dir() else [self.path]
        return sum(file.stat().st_size for file in files if file.is_file())


def layouts() -> dict[str, ColumnLayout]:
    return {
        name: ColumnLayout(
            name=name,
            dims=("event", *(f"axis{i}" for i in range(len(shape)))),
            shape=shape,
            stored=dtype,
            dtype=dtype,
        )
        for name, (shape, dtype) in SHAPES.items()
    }


class Ours(Layout):
    codec: Any = "lz4"
    group: int | None = None

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.path = folder / f"ours-{self.codec}.parquet"

    def write(self, table: Tensors) -> None:
        rows = len(table["particles"])
        step = self.group or row_group_rows(rows, rows * RAW)
        ids = make_ids(0, range(rows))
        blocks = (
            (ids[i : i + step], {name: values[i : i + step] for name, values in table.items()})
            for i in range(0, rows, step)
        )
        record = write_shard(self.path, layouts(), blocks, self.codec)
        self.path.with_suffix(".json").write_text(record.model_dump_json())

    def blocks(self) -> Iterator[Tensors]:
        record = ShardRecord.model_validate_json(self.path.with_suffix(".json").read_bytes())
        with ShardFile(self.path, record, layouts()) as shard:
            for group in range(len(record.row_groups)):
                yield shard.read_group(group)[1]  # type: ignore[misc]


class OursZstd(Ours):
    codec = "zstd"


class OursPlain(Ours):
    codec = "none"


class Scalars(Layout):
    """One column per number, as EveNet's files."""

    def write(self, table: Tensors) -> None:
        columns = {
            f"{name}.{i}": flat[:, i]
            for name, values in table.items()
            for flat in [values.reshape(len(values), -1)]
            for i in range(flat.shape[1])
        }
        pq.write_table(pa.table(columns), self.path, compression="snappy", row_group_size=16_384)

    def blocks(self) -> Iterator[Tensors]:
        file = pq.ParquetFile(self.path)
        for group in range(file.metadata.num_row_groups):
            table = file.read_row_group(group, use_threads=False)
            block, column = {}, 0
            for name, (shape, dtype) in SHAPES.items():
                width = int(np.prod(shape))
                flat = np.empty((table.num_rows, width), dtype)
                for i in range(width):
                    flat[:, i] = table.column(column + i).to_numpy()
                column += width
                block[name] = flat.reshape(-1, *shape)
            yield block


class Lists(Layout):
    """One FixedSizeList column per tensor."""

    def write(self, table: Tensors) -> None:
        columns = {
            name: pa.FixedSizeListArray.from_arrays(
                pa.array(values.ravel().view("|u1") if values.dtype == bool else values.ravel()),
                int(np.prod(values.shape[1:])),
            )
            for name, values in table.items()
        }
        pq.write_table(
            pa.table(columns),
            self.path,
            compression="lz4",
            use_dictionary=False,
            write_statistics=False,
            row_group_size=4096,
        )

    def blocks(self) -> Iterator[Tensors]:
        file = pq.ParquetFile(self.path)
        for group in range(file.metadata.num_row_groups):
            table = file.read_row_group(group, use_threads=False)
            yield {
                name: table.column(name)
                .combine_chunks()
                .flatten()
                .to_numpy()
                .view(dtype)
                .reshape(-1, *shape)
                for name, (shape, dtype) in SHAPES.items()
            }


class Hdf5(Layout):
    """Chunks of 1024 rows with lzf, as Umami's files."""

    def write(self, table: Tensors) -> None:
        with h5py.File(self.path, "w") as file:
            for name, values in table.items():
                chunk = (min(1024, len(values)), *values.shape[1:])
                file.create_dataset(name, data=values, chunks=chunk, compression="lzf")

    def blocks(self) -> Iterator[Tensors]:
        with h5py.File(self.path) as file:
            rows = len(file["particles"])
            for start in range(0, rows, 4096):
                yield {name: file[name][start : start + 4096] for name in SHAPES}


class Memmap(Layout):
    """The limit: one mapped file per tensor."""

    def write(self, table: Tensors) -> None:
        self.path.mkdir(exist_ok=True)
        for name, values in table.items():
            np.save(self.path / f"{name}.npy", values)

    def blocks(self) -> Iterator[Tensors]:
        yield {name: np.load(self.path / f"{name}.npy", mmap_mode="r") for name in SHAPES}


CONTENDERS: dict[str, type[Layout]] = {
    "npy memmap": Memmap,
    "hepset [none]": OursPlain,
    "hepset [lz4]": Ours,
    "hepset [zstd]": OursZstd,
    "FixedSizeList [lz4]": Lists,
    "scalar columns [snappy]": Scalars,
    "HDF5 [lzf]": Hdf5,
}


def measured(task: Callable[[], Any]) -> tuple[float, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    task()
    return time.process_time() - cpu, time.perf_counter() - wall


def interleaved(
    tasks: dict[str, Callable[[], Any]], repeats: int
) -> dict[str, tuple[float, float]]:
    best = dict.fromkeys(tasks, (np.inf, np.inf))
    shuffle = random.Random(1)
    for _ in range(repeats):
        names = list(tasks)
        shuffle.shuffle(names)
        for name in names:
            cpu, wall = measured(tasks[name])
            best[name] = (min(best[name][0], cpu), min(best[name][1], wall))
    return best


def peak_of_reading(kind: str, folder: Path) -> float:
    command = [sys.executable, __file__, "--peak", kind, "--folder", str(folder)]
    result = subprocess.run(command, capture_output=True, check=True, text=True)
    return float(json.loads(result.stdout)["mb"])


def print_peak(kind: str, folder: Path) -> None:
    before = peak_kb()
    CONTENDERS[kind](folder).read(False)
    print(json.dumps({"mb": (peak_kb() - before) / 1024}))


def peak_kb() -> int:
    """Largest resident set of this program; getrusage would count that of its parent too."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def bench_layouts(folder: Path, events: int, repeats: int) -> list[str]:
    """Benchmark 1. Returns the floors that were missed."""
    table = make_table(events)
    made = {name: kind(folder) for name, kind in CONTENDERS.items()}

    def writer(layout: Layout) -> Callable[[], None]:
        return lambda: layout.write(table)

    def reader(layout: Layout, shuffled: bool) -> Callable[[], int]:
        return lambda: layout.read(shuffled)

    writing = interleaved({name: writer(layout) for name, layout in made.items()}, repeats)
    sequential = interleaved({n: reader(layout, False) for n, layout in made.items()}, repeats)
    shuffled = interleaved({n: reader(layout, True) for n, layout in made.items()}, repeats)
    for name, layout in made.items():
        assert layout.read(False) == events, name
    print(f"1. {events} events of {RAW} B, us/event as CPU (wall), least of {repeats}")
    print(f"{'':<24}{'write':>16}{'sequential':>16}{'shuffled':>16}{'size':>7}{'peak MB':>9}")
    for name, layout in made.items():
        cells = "".join(
            f"{1e6 * part[name][0] / events:8.2f} ({1e6 * part[name][1] / events:5.2f})"
            for part in (writing, sequential, shuffled)
        )
        peak = peak_of_reading(name, folder)
        print(f"{name:<24}{cells}{layout.size / events / RAW:7.2f}{peak:9.0f}")

    def ratio(part: dict[str, tuple[float, float]], slow: str, fast: str) -> float:
        return part[slow][0] / part[fast][0]

    floors = {
        "scalar columns / hepset [lz4], read": (
            ratio(sequential, "scalar columns [snappy]", "hepset [lz4]"), 3.0, True,
        ),
        "scalar columns / hepset [zstd], read": (
            ratio(sequential, "scalar columns [snappy]", "hepset [zstd]"), 1.8, True,
        ),
        "hepset [lz4] / memmap, shuffled": (
            ratio(shuffled, "hepset [lz4]", "npy memmap"), 2.5, False,
        ),
    }  # fmt: skip
    return report(floors)


def report(floors: dict[str, tuple[float, float, bool]]) -> list[str]:
    missed = []
    for name, (found, limit, at_least) in floors.items():
        good = found >= limit if at_least else found <= limit
        print(f"   {name}: {found:.2f} (floor {'>=' if at_least else '<='} {limit:g})")
        if not good:
            missed.append(name)
    return missed


def bench_memory(folder: Path, events: int) -> None:
    """Benchmark 3."""
    print("3. peak memory of reading, MB, by rows per row group and number of events")
    for group in (1024, 4096, 16_384, 65_536):
        cells = []
        for count in (events, 4 * events):
            Ours.group = group
            Ours(folder).write(make_table(count))
            cells.append(f"{count} events {peak_of_reading('hepset [lz4]', folder):6.1f}")
        print(f"   {group:>6} rows: " + "   ".join(cells))
    Ours.group = None


def bench_statistics(folder: Path, events: int, repeats: int) -> list[str]:
    """Benchmark 6."""
    table = make_table(events)
    table["particles"][..., 0] += 1e4
    names = [f"f{i}" for i in range(7)]
    features = {name: {"transform": "standardise"} for name in names}
    contract = compile_contract(
        EventInfo.model_validate({"streams": {"particles": {"slots": 18, "features": features}}})
    )
    columns = {name: table[name] for name in ("particles", "particles.mask")}

    def collect() -> StatisticsCollector:
        collector = StatisticsCollector(contract, columns)
        collector.add(columns, events)
        return collector

    times = interleaved(
        {"statistics": collect, "write": lambda: Ours(folder).write(table)}, repeats
    )
    real = table["particles"][table["particles.mask"]].astype(np.float64)
    found = collect().result().tensors["particles"].columns
    errors = [abs(found[name].std / real[:, i].std() - 1) for i, name in enumerate(names)]
    print(
        f"6. statistics of particles: {1e6 * times['statistics'][0] / events:.2f} us/event CPU; "
        f"widths agree with two passes to {max(errors):.1e}"
    )
    share = times["statistics"][0] / times["write"][0]
    return report({"statistics / write of the event [lz4]": (share, 1.0, False)})


def bench_workers(folder: Path) -> list[str]:
    """Benchmark 6: the same statistics for any number of workers."""
    found = {
        workers: (
            prepare(folder / f"workers{workers}", workers, 2000) / "dataset.json"
        ).read_bytes()
        for workers in (1, 2, 7)
    }
    same = len(set(found.values())) == 1
    print(f"   dataset.json with statistics for 1, 2, 7 workers: {'same' if same else 'DIFFERENT'}")
    return [] if same else ["statistics depend on the number of workers"]


def prepare(output: Path, workers: int, events: int) -> Path:
    from hepset.prepare import prepare_dataset
    from hepset.prepare.engines import LocalEngine, LocalEngineConfig
    from hepset.schema.config import PrepareConfig
    from hepset.testing.events import SyntheticConfig, SyntheticReader

    reader = SyntheticReader(
        SyntheticConfig(events=events, chunk_size=events // 4, sorted_by_class=True, rich=False)
    )
    event = reader.event_info()
    engine = LocalEngine(LocalEngineConfig(workers=workers))
    prepare_dataset(
        [reader],
        event=event,
        contract=compile_contract(event),
        config=PrepareConfig.model_validate({"split": {"train": 1.0, "val": 0.0, "test": 0.0}}),
        seed=1,
        output=output,
        engine=engine,
    )
    engine.close()
    return output


def bench_shuffle(folder: Path) -> list[str]:
    """Benchmark 7."""
    from hepset.dataset import open_dataset

    dataset = open_dataset(prepare(folder / "shuffle", 1, 131_072))
    labels = dataset.split("train").read("target/signal")["target/signal"]
    size = 256
    fractions = labels[: len(labels) // size * size].reshape(-1, size).mean(axis=1)
    spread = float(fractions.std() / (0.5 / np.sqrt(size)))
    print(
        f"7. class-sorted input: spread of the class fraction in {len(fractions)} batches of {size}"
    )
    return report({"spread / ideal": (spread, 1.1, False)})


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=32_768)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peak", choices=CONTENDERS)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args(arguments)
    if options.peak:
        print_peak(options.peak, options.folder)
        return 0
    pa.set_cpu_count(1)
    with tempfile.TemporaryDirectory(prefix="hepset-shards-") as name:
        folder = Path(name)
        missed = bench_layouts(folder, options.events, options.repeats)
        bench_memory(folder, options.events)
        missed += bench_statistics(folder, options.events, options.repeats)
        missed += bench_workers(folder)
        missed += bench_shuffle(folder)
    for line in missed:
        print(f"missed: {line}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
