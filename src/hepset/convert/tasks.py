"""The tasks of a conversion: do something with every chunk of a range, merge spills to a shard.

A task is a function of a small item; what all tasks share is a `Context` in a file beside the
spills, written by every conversion. A task writes its files in one step, with its result in them or
beside them, so that a repeated task is harmless and an interrupted conversion goes on.
"""

from __future__ import annotations

import itertools
import math
import pickle
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
from pydantic import Field

from hepset.arrays import Array, Ragged, offsets_of
from hepset.batch import ID_DTYPE, EventBatch
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
from hepset.events.pipeline import Prepared
from hepset.events.rows import label_range, pick, stored_columns
from hepset.events.select import Tally
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
RESULT: Final = b"hepset.result"
"""Metadata of a spill file: the `ChunkResult`, also of a chunk that leaves no event."""


@dataclass(frozen=True)
class Context:
    """What all tasks of one phase share.

    Attributes:
        plan: The plan; its contract has all slots resolved, but for counting.
        work: Folder of spills and records.
        output: Folder of the shards.
        jagged: Streams that are stored jagged.
        layouts: How each tensor is stored; empty before the ranges are read.
        spills: Spill files in order with their rows per split.
        counted: Splits whose events go into the statistics.
    """

    plan: Plan
    work: Path
    output: Path
    jagged: frozenset[str] = frozenset()
    layouts: Mapping[str, ColumnLayout] = field(default_factory=dict)
    spills: tuple[tuple[str, Mapping[str, int]], ...] = ()
    counted: frozenset[str] = frozenset()

    def save(self, name: str) -> str:
        """Write the context for the workers; return its path."""
        path = self.work / name
        # Not for later: an interrupted conversion that continues writes it again.
        with atomic_file(path, durable=False) as file:
            pickle.dump(self, file)
        _OWN.clear()
        _OWN[str(path)] = self
        return str(path)


_OWN: Final[dict[str, Context]] = {}
"""The context that this process saved last, with the files that its readers keep open."""


def forget_context() -> None:
    """Let go of the context that was saved last, and of the files that its readers keep open."""
    _OWN.clear()


def _context(path: str, stamp: str) -> Context:
    own = _OWN.get(path)
    return own if own is not None else _loaded(path, stamp)


@lru_cache(maxsize=2)
def _loaded(path: str, _stamp: str) -> Context:
    # Written by the conversion that started this task, never taken from a user.
    context: Context = pickle.loads(Path(path).read_bytes())
    return context


class RangeWork(ABC):
    """What is done with the events of a range; small, and travels to worker processes."""

    @abstractmethod
    def __call__(self, context: Context, item: RangeItem) -> Any:  # noqa: ANN401  of each kind
        """Do it; return what the range adds to the result."""

    @abstractmethod
    def without(self, item: RangeItem, problem: Exception) -> Any:  # noqa: ANN401
        """Return what a range adds whose file is left out (``on_error: skip``)."""


@dataclass(frozen=True)
class RangeItem:
    """One range, and what to do with it."""

    context: str
    stamp: str
    range: Range
    label: str
    work: RangeWork

    def __str__(self) -> str:
        """Name the source and the entries."""
        chunks = self.range.chunks
        return f"{self.label}: entries {chunks[0].start} to {chunks[-1].stop}"


def run_range(item: RangeItem) -> Any:  # noqa: ANN401  what the work gives
    """Do with a range what its item says."""
    context = _context(item.context, item.stamp)
    try:
        return item.work(context, item)
    except UNUSABLE as problem:
        if context.plan.config.on_error == "stop":
            raise
        return item.work.without(item, problem)


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
    """Spill file; empty where it holds no event."""
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


class CountObjects(RangeWork):
    """Count the objects of selected events."""

    def __call__(self, context: Context, item: RangeItem) -> Lengths:
        """Count those of a range."""
        plan = context.plan
        parts: list[Lengths] = []
        for chunk in item.range.chunks:
            batch = plan.pipeline.run(read_chunk(plan, item.range, chunk), "select").batch
            parts.append(count_lengths(pick(batch, plan.contract).streams))
        return added_lengths(parts)

    def without(self, item: RangeItem, problem: Exception) -> Lengths:  # noqa: ARG002
        """Count none."""
        return {}


@dataclass(frozen=True)
class CountValues(RangeWork):
    """Count values of the training events at the beginning of each source, see `Quantiles`."""

    columns: Mapping[tuple[str, str], tuple[TransformStep, ...]]
    quantiles: Quantiles

    def __call__(self, context: Context, item: RangeItem) -> Counts:
        """Count those of a range."""
        plan = context.plan
        only = "train" if "train" in plan.splitter.names else None
        entries = plan.sources[item.range.source].entries
        stop = max(1, math.floor(plan.config.affine_fraction * entries))
        parts: list[Counts] = []
        for chunk in item.range.chunks:
            if chunk.start >= stop:
                continue
            if not plan.readers[item.range.reader].sequential:
                chunk = replace(chunk, stop=min(chunk.stop, stop))  # noqa: PLW2901
            batch = read_chunk(plan, item.range, chunk)
            batch = batch.take(batch.ids["entry"] < stop)
            batch = plan.pipeline.run(batch, "select", only=only).batch
            counted: Counts = {}
            for (tensor, feature), steps in self.columns.items():
                values = _feature_values(batch, plan.contract, tensor, feature)
                counted[tensor, feature] = self.quantiles.count(
                    (tensor, feature), values_before(values, steps)
                )
            parts.append(counted)
        return added(parts)

    def without(self, item: RangeItem, problem: Exception) -> Counts:  # noqa: ARG002
        """Count none."""
        return {}


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


class ReadEvents(RangeWork):
    """Prepare the events, and spill them sorted by split and hash."""

    def __call__(self, context: Context, item: RangeItem) -> list[ChunkResult]:
        """Spill those of a range, chunk by chunk."""
        return [_read_chunk(context, item, chunk) for chunk in item.range.chunks]

    def without(self, item: RangeItem, problem: Exception) -> list[ChunkResult]:
        """Say why the source cannot be read."""
        start = item.range.chunks[0].start
        result = ChunkResult(work=item.stamp, source=item.range.source, start=start)
        return [result.model_copy(update={"error": str(problem)})]


def spill_path(work: Path, source: int, chunk: Chunk) -> Path:
    """Where the events of a chunk are kept until they are merged."""
    return work / f"range-{source:06d}-{chunk.start:012d}.arrow"


def finished_range(work: Path, key: str, part: Range) -> list[ChunkResult] | None:
    """Return the results of a range that an earlier run has finished, else None."""
    results = []
    for chunk in part.chunks:
        path = spill_path(work, part.source, chunk)
        try:
            with pa.memory_map(str(path)) as source:
                known = pa.ipc.open_file(source).schema.metadata[RESULT]
            result = ChunkResult.model_validate_json(known)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if result.work != key:
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


def _read_chunk(context: Context, item: RangeItem, chunk: Chunk) -> ChunkResult:
    """Prepare a chunk: derive, select, split, check, conform; and spill what is left."""
    plan = context.plan
    batch = read_chunk(plan, item.range, chunk)
    prepared = replace(plan.pipeline, tally=True).run(batch, "check")
    result = ChunkResult(
        work=item.stamp,
        source=item.range.source,
        start=chunk.start,
        tallies=tuple(TallyRecord.of(tally) for tally in prepared.tallies),
        report=prepared.report,
        hashed=prepared.hashed,
    )
    if not len(prepared) or (not prepared.report.ok_as_part and plan.pipeline.strict):
        return _spill(context, chunk, result, {}, {}, ())
    try:
        return _sorted_spill(context, chunk, plan.pipeline.conform(prepared), result)
    except (ArithmeticError, LookupError, ValueError) as problem:
        if prepared.report.ok:
            raise
        raise ContractError(
            f"{item}: the data cannot be stored ({problem}), because they do not obey the "
            "contract:\n" + "\n".join(f"  {violation}" for violation in prepared.report.errors)
        ) from problem


def _sorted_spill(
    context: Context, chunk: Chunk, prepared: Prepared, result: ChunkResult
) -> ChunkResult:
    """Spill the events of a chunk, those of one split after those of another."""
    plan, batch, split = context.plan, prepared.batch, prepared.split
    assert split is not None
    hashes = plan.splitter.order(batch)
    ids = batch.ids
    order = np.lexsort((ids["sample"], ids["entry"], ids["source"], hashes, split))
    layouts, columns = stored_columns(batch, plan.contract, context.jagged)
    names = plan.splitter.names
    rows = np.bincount(split, minlength=len(names)).tolist()
    result = result.model_copy(
        update={
            "file": spill_path(context.work, result.source, chunk).name,
            "rows": {name: n for name, n in zip(names, rows, strict=True) if n},
            "objects": {
                name: int(column.offsets[-1])
                for name, column in columns.items()
                if isinstance(column, Ragged) and name in context.jagged
            },
            "truncated": prepared.truncated,
            "labels": {
                name: extremes
                for name, column in columns.items()
                if name in plan.contract and (extremes := label_range(plan.contract[name], column))
            },
            "layouts": tuple(layouts.values()),
        }
    )
    ends = np.cumsum([0, *rows])
    parts = [order[start:stop] for start, stop in itertools.pairwise(ends) if start < stop]
    return _spill(context, chunk, result, layouts, columns, [(ids[p], hashes[p], p) for p in parts])


def _spill(
    context: Context,
    chunk: Chunk,
    result: ChunkResult,
    layouts: Mapping[str, ColumnLayout],
    columns: Mapping[str, Column],
    parts: Sequence[tuple[Array, Array, Array]],
) -> ChunkResult:
    """Write a spill: a record batch for each part (ids, hashes, rows), and the result itself."""
    schema = arrow_schema(layouts)
    fields = schema.append(pa.field(HASH, pa.uint64(), nullable=False))
    fields = fields.with_metadata({RESULT: result.model_dump_json().encode()})
    with (
        atomic_file(spill_path(context.work, result.source, chunk)) as file,
        pa.ipc.new_file(file, fields) as writer,
    ):
        for ids, hashes, rows in parts:
            taken = {name: take(column, rows) for name, column in columns.items()}
            encoded = record_batch(schema, layouts, ids, taken)
            arrays = [*encoded.columns, pa.array(hashes, pa.uint64())]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=fields))
    return result


def write_one_shard(item: ShardItem) -> ShardResult:
    """Merge the pieces of one shard, order its rows, write it, and collect its statistics."""
    context = _context(item.context, item.stamp)
    ids, hashes, columns = _gather(context, item)
    order = np.lexsort((ids["sample"], ids["entry"], ids["source"], hashes))
    _refuse_duplicates(ids[order], context.plan)
    collector = None
    if item.split in context.counted:
        present = [name for name, layout in context.layouts.items() if layout.layout != "empty"]
        collector = StatisticsCollector(context.plan.contract, present)
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
    # Lost in a power cut, it costs nothing but writing the shard again.
    with atomic_file(context.work / f"{item.name}.json", durable=False) as file:
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
    contract = context.plan.contract
    spec = contract.tensors.get(layout.name)
    fill = layout.missing(spec.kind if spec is not None else None)
    if layout.layout == "jagged":
        index = table.schema.get_field_index(f"{contract[layout.dims[1]].mask}")
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
