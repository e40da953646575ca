"""Benchmarks 1, 3, 6 and 7: shards against other layouts, memory, statistics, shuffle.

The event table: 18x7 particles with mask, 10 conditions, 56x3 assignment indices with mask,
4x9, 4x18 and 4x4 segmentation targets, 2x5 invisibles; about 45 % of the particle slots and 10 % of
the target slots hold something. Peak memory is what reading adds to a process of its own that has
imported the libraries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.harness import (
    Cell,
    Cost,
    Floor,
    Options,
    Report,
    Table,
    cost_table,
    interleave,
    peak_memory,
)
from hepset.batch import make_ids
from hepset.convert import prepare_dataset
from hepset.convert.engines import LocalEngine, LocalEngineConfig
from hepset.dataset import open_dataset
from hepset.dataset.columns import ColumnLayout
from hepset.dataset.shards import ShardFile, ShardRecord, row_group_rows, write_shard
from hepset.dataset.statistics import StatisticsCollector
from hepset.schema.config import PrepareConfig
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo
from hepset.schema.statistics import ColumnStatistics
from synthetic_events import SyntheticConfig, SyntheticReader

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


def read_layout(kind: str, folder: str) -> int:
    """For `peak_memory`."""
    return CONTENDERS[kind](Path(folder)).read(False)


def peak_of_reading(kind: str, folder: Path) -> float:
    return peak_memory("benchmarks.bench_shards:read_layout", kind, str(folder)).added


def run(options: Options) -> Iterator[Report]:
    yield compare_layouts(options)
    yield watch_row_groups(options)
    yield check_statistics(options)
    yield check_shuffle(options)


def compare_layouts(options: Options) -> Report:
    """Benchmark 1."""
    events, folder = options.events(32_768), options.folder
    table = make_table(events)
    made = {name: kind(folder) for name, kind in CONTENDERS.items()}

    def measured(**tasks: Any) -> dict[str, Cost]:
        found = interleave(tasks, options.repeats)
        return {name: cost.per(events) for name, cost in found.items()}

    writing = measured(**{name: partial(each.write, table) for name, each in made.items()})
    in_order = measured(**{name: partial(each.read, False) for name, each in made.items()})
    shuffled = measured(**{name: partial(each.read, True) for name, each in made.items()})
    for name, layout in made.items():
        assert layout.read(False) == events, name
    size: dict[str, Cell] = {n: each.size / events / RAW for n, each in made.items()}
    peak: dict[str, Cell] = {name: peak_of_reading(name, folder) for name in made}
    scalars, lz4, zstd = "scalar columns [snappy]", "hepset [lz4]", "hepset [zstd]"
    report = Report(1, f"shard write and read, {events} events of {RAW} B")
    report.tables = [
        cost_table("write", writing, lz4, more={"size / raw": size}),
        cost_table("read in order", in_order, lz4, more={"peak MB": peak}),
        cost_table("read, rows shuffled", shuffled, lz4),
    ]
    report.floors = [
        Floor("read: scalar columns / hepset [lz4]", in_order[scalars].over(in_order[lz4]).cpu, 3),
        Floor(
            "read: scalar columns / hepset [zstd]", in_order[scalars].over(in_order[zstd]).cpu, 1.8
        ),
        Floor(
            "shuffled: hepset [lz4] / memmap",
            shuffled[lz4].over(shuffled["npy memmap"]).cpu,
            2.5,
            at_least=False,
        ),
    ]
    return report


def watch_row_groups(options: Options) -> Report:
    """Benchmark 3: what reading takes, by the size of the row groups and of the file."""
    few = options.events(32_768)
    rows: dict[str, tuple[Cell, ...]] = {}
    growth = []
    for group in (1024, 4096, 16_384, 65_536):
        peaks = []
        for events in (few, 4 * few):
            layout = Ours(options.folder)
            layout.group = group
            layout.write(make_table(events))
            peaks.append(peak_of_reading("hepset [lz4]", options.folder))
        rows[f"{group} rows per group"] = (*peaks, peaks[1] / peaks[0])
        if group < few:
            growth.append(peaks[1] / peaks[0])
    headings = (f"MB, {few} events", f"MB, {4 * few} events", "ratio")
    return Report(
        3,
        "peak memory of reading against row-group size",
        [Table("hepset [lz4], read in order", headings, rows)],
        [Floor("4 × the events / the events, worst", max(growth, default=1), 1.25, at_least=False)],
        ["row groups larger than the smaller file are not in the floor"],
    )


def check_statistics(options: Options) -> Report:
    """Benchmark 6."""
    events = options.events(32_768)
    table = make_table(events)
    mask, particles = table["particles.mask"], table["particles"]
    kinds = ("offset 1e4", "binary", "empty", "single entry", "normal", "normal, 2", "normal, 3")
    particles[..., 0] += 1e4
    particles[..., 1] = particles[..., 1] > 0
    particles[..., 2] = np.nan
    single = np.flatnonzero(mask.ravel())[:1]
    entry = np.full(mask.size, np.nan, "f4")
    entry[single] = 3.5
    particles[..., 3] = entry.reshape(mask.shape)
    names = [f"f{i}" for i in range(len(kinds))]
    features = {name: {"transform": "standardise"} for name in names}
    contract = compile_contract(
        EventInfo.model_validate({"streams": {"particles": {"slots": 18, "features": features}}})
    )
    columns = {name: table[name] for name in ("particles", "particles.mask")}

    def collect() -> StatisticsCollector:
        collector = StatisticsCollector(contract, columns)
        collector.add(columns, events)
        return collector

    layout = Ours(options.folder)
    costs = interleave(
        {"write of the event [lz4]": partial(layout.write, table), "statistics": collect},
        options.repeats,
    )
    real = particles[mask].astype(np.float64)
    found = collect().result().tensors["particles"].columns
    accuracy: dict[str, tuple[Cell, ...]] = {
        kind: errors_of(found[name], real[:, i])
        for i, (name, kind) in enumerate(zip(names, kinds, strict=True))
    }
    documents = {
        (prepare(options.folder / f"workers{workers}", workers, 2000) / "dataset.json").read_bytes()
        for workers in (1, 2, 7)
    }
    return Report(
        6,
        f"statistics of 18×7 particles, {events} events",
        [
            cost_table(
                "cost",
                {name: cost.per(events) for name, cost in costs.items()},
                "write of the event [lz4]",
            ),
            Table(
                "relative difference from two passes in float64",
                ("values", "mean", "width"),
                accuracy,
            ),
        ],
        [
            Floor(
                "statistics / write of the event [lz4], CPU",
                costs["statistics"].over(costs["write of the event [lz4]"]).cpu,
                1.0,
                at_least=False,
            ),
            Floor(
                "worst relative difference",
                max(float(cell) for row in accuracy.values() for cell in row[1:] if cell),
                1e-9,
                at_least=False,
            ),
            Floor("different dataset.json of 1, 2, 7 workers", len(documents), 1, at_least=False),
        ],
    )


def errors_of(found: ColumnStatistics, values: np.ndarray) -> tuple[Cell, ...]:
    """Compare count, mean and width with those of the finite values."""
    finite = values[np.isfinite(values)]
    assert found.count == len(finite)
    if not len(finite):
        return "none", None, None
    mean, width = float(finite.mean()), float(finite.std())
    difference = abs(found.std - width) / (width or 1)
    return f"{len(finite)}", abs(found.mean - mean) / (abs(mean) or 1), difference


def prepare(output: Path, workers: int, events: int) -> Path:
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


def check_shuffle(options: Options) -> Report:
    """Benchmark 7."""
    dataset = open_dataset(prepare(options.folder / "shuffle", 1, options.events(131_072)))
    labels = dataset.split("train").read("target/signal")["target/signal"]
    rows: dict[str, tuple[Cell, ...]] = {}
    floors = []
    size = 256
    ideal = 0.5 / np.sqrt(size)
    loader = dataset.loader(
        "train", batch_size=size, shuffle=True, seed=1, columns=["target/signal"]
    )
    fractions = {
        "files in order": fractions_of(
            [labels[i : i + size] for i in range(0, len(labels) - size + 1, size)]
        ),
        "loader, shuffled": fractions_of(
            [b["target/signal"].numpy() for b in loader if len(b["target/signal"]) == size]
        ),
    }
    for name, found in fractions.items():
        spread = float(found.std())
        rows[name] = (float(len(found)), spread, ideal, spread / ideal)
        floors.append(Floor(f"{name}: spread / ideal", spread / ideal, 1.1, at_least=False))
    headings = ("batches", "spread", "ideal", "ratio")
    title = f"fraction of signal in batches of {size}, input sorted by class"
    return Report(7, "shuffle quality", [Table(title, headings, rows)], floors)


def fractions_of(batches: Sequence[np.ndarray]) -> np.ndarray:
    return np.array([batch.mean() for batch in batches])
