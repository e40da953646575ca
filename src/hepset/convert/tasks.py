"""The tasks of a conversion: count objects, read a range into a spill, merge spills to a shard.

A task is a function of a small item; what all tasks share is a `Context` in a file beside the
spills, written anew by every conversion. A task writes its files in one step and leaves a record of
its result, so that a repeated task is harmless and an interrupted conversion goes on.
"""

from __future__ import annotations

import itertools
import math
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
from pydantic import Field

from hepset.arrays import Array, Ragged, offsets_of
from hepset.batch import ID_DTYPE, EventBatch
from hepset.check import check_batch
from hepset.convert.lengths import Lengths, added_lengths, count_lengths
from hepset.convert.plan import Plan, Range
from hepset.convert.quantiles import Counts, Quantiles, added, values_before
from hepset.convert.reading import UNUSABLE, read_chunk
from hepset.dataset.columns import (
    Column,
    ColumnLayout,
    TensorType,
    arrow_schema,
    decode_ids,
    empty_column,
    join,
    narrow,
    raw,
    record_batch,
    take,
)
from hepset.dataset.manifest import Truncation
from hepset.dataset.shards import ShardRecord, row_group_rows, write_shard
from hepset.dataset.statistics import StatisticsCollector
from hepset.errors import ContractError, DatasetError
from hepset.events.rows import label_range, pick, stored_columns
from hepset.events.select import Tally, derive_and_select
from hepset.events.slots import conform
from hepset.events.split import shard_bounds
from hepset.files import atomic_file
from hepset.interfaces import Chunk
from hepset.schema.base import Model
from hepset.schema.contract import Contract
from hepset.schema.report import Report
from hepset.schema.statistics import Statistics
from hepset.schema.steps import TransformStep

HASH: Final = "order"
"""Column of a spill file: the hash that decides the place of a row."""


@dataclass(frozen=True)
class Context:
    """What all tasks of one conversion share.

    Attributes:
        plan: The plan; its contract has all slots resolved, but for counting.
        jagged: Streams that are stored jagged.
        work: Folder of spills and records.
        output: Folder of the shards.
        layouts: How each tensor is stored; empty before the ranges are read.
        spills: Spill files in order with their rows per split.
        contract: The contract of the data set, once classes are resolved.
        counted: Splits whose events go into the statistics.
    """

    plan: Plan
    jagged: frozenset[str]
    work: Path
    output: Path
    layouts: Mapping[str, ColumnLayout]
    spills: tuple[tuple[str, Mapping[str, int]], ...]
    contract: Contract
    counted: frozenset[str]

    def save(self, name: str) -> str:
        """Write the context for the workers; return its path."""
        path = self.work / name
        with atomic_file(path) as file:
            pickle.dump(self, file)
        return str(path)


@lru_cache(maxsize=2)
def _context(path: str, _stamp: str) -> Context:
    # Written by the conversion that started this task, never taken from a user.
    context: Context = pickle.loads(Path(path).read_bytes())
    return context


@dataclass(frozen=True)
class RangeItem:
    """One range to read."""

    context: str
    stamp: str
    range: Range
    label: str

    def __str__(self) -> str:
        """Name the source and the entries."""
        chunks = self.range.chunks
        return f"{self.label}: entries {chunks[0].start} to {chunks[-1].stop}"


@dataclass(frozen=True)
class ShardItem:
    """One shard to write."""

    context: str
    stamp: str
    split: str
    index: int
    shards: int

    @property
    def name(self) -> str:
        """Name of the file."""
        return f"{self.split}-{self.index:05d}.parquet"

    def __str__(self) -> str:
        """Name the file."""
        return self.name


class TallyRecord(Model):
    """A `Tally` in a record."""

    events: int
    weights: str
    squares: str

    @classmethod
    def of(cls, tally: Tally) -> TallyRecord:
        """Write the exact sums as hexadecimal integers."""
        return cls(events=tally.events, weights=hex(tally.weights), squares=hex(tally.squares))

    @property
    def tally(self) -> Tally:
        """The tally."""
        return Tally(self.events, int(self.weights, 16), int(self.squares, 16))


class ChunkResult(Model):
    """What became of one chunk."""

    work: str
    """Digest of the plan and its ranges."""
    source: int
    """Index of the source."""
    start: int
    """First entry."""
    file: str = ""
    """Spill file; empty where nothing was selected."""
    bytes: int = 0
    """Size of the spill file."""
    error: str = ""
    """Why the source could not be read."""
    tallies: tuple[TallyRecord, ...] = ()
    """Before any cut, and after each."""
    rows: dict[str, int] = Field(default_factory=dict)
    """Split → number of its rows, in the order of the record batches of the spill."""
    objects: dict[str, int] = Field(default_factory=dict)
    """Jagged stream → number of objects."""
    truncated: dict[str, Truncation] = Field(default_factory=dict)
    """What was cut to fit the slots."""
    labels: dict[str, tuple[int, int]] = Field(default_factory=dict)
    """Tensor of labels → smallest and largest."""
    layouts: tuple[ColumnLayout, ...] = ()
    """How the spill stores each tensor."""
    hashed: str = "entry"
    """What decided the splits."""
    report: Report = Report()
    """What the check found."""


class ShardResult(Model):
    """What became of one shard."""

    work: str
    """Digest of the plan and its ranges."""
    shard: ShardRecord
    """The file."""
    statistics: Statistics | None = None
    """Of its rows, where the split counts."""


def count_range(item: RangeItem) -> Lengths:
    """Count the objects of the selected events of a range."""
    context = _context(item.context, item.stamp)
    parts: list[Lengths] = []
    for chunk in item.range.chunks:
        try:
            batch = read_chunk(context.plan, item.range, chunk)
            batch, _ = _selected(context, batch)
        except UNUSABLE:
            if context.plan.config.on_error == "stop":
                raise
            return {}
        parts.append(count_lengths(pick(batch, context.plan.contract).streams))
    return added_lengths(parts)


@dataclass(frozen=True)
class QuantileItem:
    """One range whose values are counted for ``affine: auto``."""

    item: RangeItem
    columns: Mapping[tuple[str, str], tuple[TransformStep, ...]]
    quantiles: Quantiles

    def __str__(self) -> str:
        """Name the source and the entries."""
        return str(self.item)


def quantile_range(work: QuantileItem) -> Counts:
    """Count values of the training events at the beginning of a source, see `Quantiles`."""
    context = _context(work.item.context, work.item.stamp)
    plan = context.plan
    splitter = plan.splitter()
    entries = plan.sources[work.item.range.source].entries
    stop = max(1, math.floor(plan.config.affine_fraction * entries))
    parts: list[Counts] = []
    for chunk in work.item.range.chunks:
        if chunk.start >= stop:
            continue
        if not plan.readers[work.item.range.reader].sequential:
            chunk = replace(chunk, stop=min(chunk.stop, stop))  # noqa: PLW2901
        try:
            batch = read_chunk(plan, work.item.range, chunk)
            batch, _ = _selected(context, batch.take(batch.ids["entry"] < stop))
        except UNUSABLE:
            if plan.config.on_error == "stop":
                raise
            return {}
        if "train" in splitter.names:
            batch = batch.take(splitter.assign(batch)[0] == splitter.names.index("train"))
        counted: Counts = {}
        for (tensor, feature), steps in work.columns.items():
            values = values_before(_feature_values(batch, plan.contract, tensor, feature), steps)
            counted[tensor, feature] = work.quantiles.count((tensor, feature), values)
        parts.append(counted)
    return added(parts)


def _feature_values(batch: EventBatch, contract: Contract, tensor: str, feature: str) -> Array:
    """Return all real values of a feature, also of objects beyond the slots."""
    if tensor in batch.streams:
        values: Array = batch.flat(tensor).columns[feature]
        return values
    array = batch[tensor]
    column = array[..., contract[tensor].columns.index(feature)]
    mask = batch.get(contract[tensor].mask or "")
    if mask is None:
        return column.ravel()
    both = mask[:, :, None] & mask[:, None, :] if contract[tensor].kind == "pairs" else mask
    return column[both]


def read_range(item: RangeItem) -> list[ChunkResult]:
    """Read a range: derive, select, check, conform, split, and spill what is left."""
    context = _context(item.context, item.stamp)
    results = []
    for chunk in item.range.chunks:
        result = _read_chunk(context, item, chunk)
        with atomic_file(record_path(context.work, result.source, chunk)) as file:
            file.write(result.model_dump_json().encode())
        results.append(result)
        if result.error:
            break
    return results


def record_path(work: Path, source: int, chunk: Chunk) -> Path:
    """Where the record of a chunk is."""
    return work / f"range-{source:06d}-{chunk.start:012d}.json"


def finished_range(work: Path, key: str, item: RangeItem) -> list[ChunkResult] | None:
    """Return the results of a range that an earlier run has finished, else None."""
    results = []
    for chunk in item.range.chunks:
        path = record_path(work, item.range.source, chunk)
        try:
            result = ChunkResult.model_validate_json(path.read_bytes())
        except (OSError, ValueError):
            return None
        if result.work != key or result.error:
            return None
        if result.file and not _has_size(work / result.file, result.bytes):
            return None
        results.append(result)
    return results


def finished_shard(context: Context, key: str, item: ShardItem) -> ShardResult | None:
    """Return the result of a shard that an earlier run has written, else None."""
    path = context.work / f"{item.name}.json"
    try:
        result = ShardResult.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return None
    same = result.work == key and _has_size(context.output / item.name, result.shard.bytes)
    return result if same else None


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _selected(context: Context, batch: EventBatch) -> tuple[EventBatch, list[Tally]]:
    plan = context.plan
    return derive_and_select(batch, plan.event, plan.config.derive, plan.config.select)


def _read_chunk(context: Context, item: RangeItem, chunk: Chunk) -> ChunkResult:
    plan = context.plan
    result = ChunkResult(work=item.stamp, source=item.range.source, start=chunk.start)
    try:
        batch = read_chunk(context.plan, item.range, chunk)
        batch, tallies = _selected(context, batch)
    except UNUSABLE as problem:
        if plan.config.on_error == "stop":
            raise
        return result.model_copy(update={"error": str(problem)})
    report = check_batch(plan.contract, batch, raw=True)
    result = result.model_copy(
        update={"tallies": tuple(TallyRecord.of(t) for t in tallies), "report": report}
    )
    if not len(batch) or (not report.ok and plan.config.check == "strict"):
        return result
    try:
        return _spill(context, item, chunk, batch, result)
    except (ArithmeticError, LookupError, ValueError) as problem:
        if report.ok:
            raise
        raise ContractError(
            f"{item}: the data cannot be stored ({problem}), because they do not obey the "
            "contract:\n" + "\n".join(f"  {violation}" for violation in report.errors)
        ) from problem


def _spill(
    context: Context, item: RangeItem, chunk: Chunk, batch: EventBatch, result: ChunkResult
) -> ChunkResult:
    plan = context.plan
    splitter = plan.splitter()
    batch, truncated = conform(pick(batch, plan.contract), plan.event, plan.contract)
    split, hashed = splitter.assign(batch)
    hashes = splitter.order(batch)
    ids = batch.ids
    order = np.lexsort((ids["sample"], ids["entry"], ids["source"], hashes, split))
    layouts, columns = stored_columns(batch, plan.contract, context.jagged)
    labels = {
        name: extremes
        for name, column in columns.items()
        if name in plan.contract and (extremes := label_range(plan.contract[name], column))
    }
    schema = arrow_schema(layouts)
    fields = schema.append(pa.field(HASH, pa.uint64(), nullable=False))
    rows = np.bincount(split, minlength=len(splitter.names)).tolist()
    path = context.work / f"range-{item.range.source:06d}-{chunk.start:012d}.arrow"
    ends = np.cumsum([0, *rows])
    with atomic_file(path) as file:
        with pa.ipc.new_file(file, fields) as writer:
            for start, stop in itertools.pairwise(ends):
                if start < stop:
                    events = order[start:stop]
                    taken = {name: take(column, events) for name, column in columns.items()}
                    encoded = record_batch(schema, layouts, ids[events], taken)
                    arrays = [*encoded.columns, pa.array(hashes[events], pa.uint64())]
                    writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=fields))
        size = file.tell()
    return result.model_copy(
        update={
            "file": path.name,
            "bytes": size,
            "rows": {name: n for name, n in zip(splitter.names, rows, strict=True) if n},
            "objects": {
                name: int(column.offsets[-1])
                for name, column in columns.items()
                if isinstance(column, Ragged) and name in context.jagged
            },
            "truncated": truncated,
            "labels": labels,
            "layouts": tuple(layouts.values()),
            "hashed": hashed,
        }
    )


def write_one_shard(item: ShardItem) -> ShardResult:
    """Merge the pieces of one shard, order its rows, write it, and collect its statistics."""
    context = _context(item.context, item.stamp)
    ids, hashes, columns = _gather(context, item)
    order = np.lexsort((ids["sample"], ids["entry"], ids["source"], hashes))
    _refuse_duplicates(ids[order], context.plan)
    collector = None
    if item.split in context.counted:
        present = [name for name, layout in context.layouts.items() if layout.layout != "empty"]
        collector = StatisticsCollector(context.contract, present)
    total = sum(_decoded_bytes(column) for column in columns.values())
    step = row_group_rows(len(ids), total)

    def blocks() -> Iterator[tuple[Array, dict[str, Column]]]:
        for start in range(0, len(ids), step):
            events = order[start : start + step]
            block = {name: take(column, events) for name, column in columns.items()}
            if collector is not None:
                collector.add(block, len(events))
            yield ids[events], block

    record = write_shard(
        context.output / item.name, context.layouts, blocks(), context.plan.config.codec
    )
    result = ShardResult(
        work=item.stamp,
        shard=record,
        statistics=collector.result() if collector is not None else None,
    )
    with atomic_file(context.work / f"{item.name}.json") as file:
        file.write(result.model_dump_json().encode())
    return result


def _decoded_bytes(column: Column) -> int:
    return column.values.nbytes if isinstance(column, Ragged) else column.nbytes


@dataclass(frozen=True)
class _Piece:
    """The rows of one spill that belong to a shard."""

    path: Path
    batch: int
    start: int
    stop: int


def _gather(context: Context, item: ShardItem) -> tuple[Array, Array, dict[str, Column]]:
    """Read all rows of a shard, as they are stored, in the order of the spills."""
    bounds = shard_bounds(item.shards)
    pieces = list(_pieces(context, item.split, bounds[item.index], bounds[item.index + 1]))
    total = sum(piece.stop - piece.start for piece in pieces)
    ids = np.zeros(total, ID_DTYPE)
    hashes = np.zeros(total, np.uint64)
    columns: dict[str, Column] = {}
    jagged: dict[str, list[Column]] = {}
    for name, layout in context.layouts.items():
        if layout.layout == "jagged":
            jagged[name] = [empty_column(layout)]
        else:
            shape = () if layout.layout == "counts" else layout.shape
            dtype = "<i4" if layout.layout == "counts" else layout.stored
            columns[name] = np.empty((total, *shape), dtype)
    row = 0
    for piece in pieces:
        rows = slice(row, row + piece.stop - piece.start)
        with pa.memory_map(str(piece.path)) as source:
            table = pa.ipc.open_file(source).get_batch(piece.batch)
            table = table.slice(piece.start, piece.stop - piece.start)
            ids[rows] = decode_ids(table)
            hashes[rows] = table.column(HASH).to_numpy()
            for name, layout in context.layouts.items():
                found = _stored(table, name, layout, context)
                target = columns.get(name)
                if isinstance(target, np.ndarray):
                    target[rows] = found
                elif isinstance(found, Ragged):
                    # A copy: the file is closed before the rows are used.
                    jagged[name].append(found.map(np.copy))
            del table, found
        row = rows.stop
    columns |= {name: join(parts) for name, parts in jagged.items()}
    return ids, hashes, {name: columns[name] for name in context.layouts}


def _pieces(context: Context, split: str, low: int, high: int) -> Iterator[_Piece]:
    for name, rows in context.spills:
        if not rows.get(split):
            continue
        path = context.work / name
        batch = list(rows).index(split)
        with pa.memory_map(str(path)) as source:
            hashes = pa.ipc.open_file(source).get_batch(batch).column(HASH).to_numpy()
            start = int(np.searchsorted(hashes, np.uint64(low), side="left"))
            stop = len(hashes)
            if high < 1 << 64:
                stop = int(np.searchsorted(hashes, np.uint64(high), side="left"))
            del hashes
        if start < stop:
            yield _Piece(path, batch, start, stop)


def _stored(table: pa.RecordBatch, name: str, layout: ColumnLayout, context: Context) -> Column:
    """Return a column of a spill in the type that the shard has."""
    rows = table.num_rows
    index = table.schema.get_field_index(name)
    if index < 0:
        return _absent(layout, rows, table, context)
    kind: TensorType = table.schema.field(index).type
    found = raw(kind.layout, table.column(index))
    if isinstance(found, Ragged):
        return found.map(lambda values: narrow(layout, values))
    return found if layout.layout == "counts" else narrow(layout, found)


def _absent(layout: ColumnLayout, rows: int, table: pa.RecordBatch, context: Context) -> Column:
    """Rows of a source that does not have a tensor which others have."""
    known = layout.name in context.contract
    spec = context.contract[layout.name] if known else None
    fill = layout.missing(spec.kind if spec is not None else None)
    if layout.layout == "jagged":
        mask = context.plan.contract if spec is None else context.contract
        stream = layout.dims[1]
        index = table.schema.get_field_index(f"{mask[stream].mask}")
        counts = raw(table.schema.field(index).type.layout, table.column(index))
        offsets = offsets_of(np.asarray(counts))
        return Ragged.of(offsets, np.full((offsets[-1], *layout.shape[1:]), fill, layout.stored))
    if spec is not None and spec.kind == "mask":
        fill = 0
    return np.full((rows, *layout.shape), fill, layout.stored)


def _refuse_duplicates(ids: Array, plan: Plan) -> None:
    """Raise where two rows of a shard, in order, are the same sample of the same event."""
    same = np.flatnonzero(ids[1:] == ids[:-1])
    if same.size:
        first = ids[same[0]]
        raise DatasetError(
            f"{plan.keys[int(first['source'])]}: entry {int(first['entry'])}, sample "
            f"{int(first['sample'])} occurs twice ({same.size} such rows in this shard); ids are "
            "unique: the reader must number the entries of a source, and the samples of an entry"
        )
