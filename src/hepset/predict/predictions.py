"""Predictions as Parquet: what a model said of each event, beside the event's identity."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Unpack

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hepset.arrays import Array, Ragged, offsets_of
from hepset.batch import EventBatch, make_ids
from hepset.errors import ContractError
from hepset.files import temporary_path
from hepset.interfaces.writer import Known, Writer, WriterConfig
from hepset.schema.contract import Contract
from hepset.schema.tensors import TensorSpec

__all__ = ["PREDICTIONS_FORMAT", "SELECTED", "TRAINED_ON", "ParquetWriter", "read_predictions"]

PREDICTIONS_FORMAT: Final = "hepset-predictions/1"
"""Format of the file, in its metadata."""
SELECTED: Final = "selected"
"""Column: whether the event passes the selection that the model was trained on."""
INDEX: Final = "extra/{}.index"
"""Attached array of a stream: place of each object in its file, before objects were ordered."""
TRAINED_ON: Final = "trained_on"
"""Column: whether the model was trained on the event."""


_FIRST: Final = (
    "source",
    "source_index",
    "entry",
    "sample",
    "weight",
    "process",
    SELECTED,
    TRAINED_ON,
)
"""Columns before all others, in this order; extras follow the identity."""


class ParquetWriter(Writer):
    """Writes predictions for pandas, awkward, polars or ROOT.

    Columns: ``source`` (file), ``source_index``, ``entry``, ``sample``; ``extra/run`` and the like
    where the events have them; ``weight``, ``process``, ``selected``, ``trained_on``; targets and
    their weights; ``<head>/<field>``. What is a vector for each event is a list. What objects have,
    a prediction, a target or an extra, is a list with one value per real object, pairs are lists of
    lists; ``<stream>.index`` says which object of the file each is, or which slot. The file's
    metadata holds the contract and the provenance. Events that were not selected have empty
    predictions (null), and so has a column that some files lack.

    Attributes:
        provenance: Where the predictions come from, stored in the file; set it before `close`.
    """

    wants_model_order: ClassVar[bool] = True

    def __init__(self, config: WriterConfig | None = None) -> None:
        super().__init__(config)
        self._axes: dict[str, tuple[str, ...]] = {}
        self.provenance: Mapping[str, Any] = {}
        self._target: Path | None = None
        self._temporary: Path | None = None
        self._contract = Contract()
        self._file: pq.ParquetWriter | None = None

    def open(self, target: Path, contract: Contract, **known: Unpack[Known]) -> None:
        """Start to write `target`.

        Args:
            target: The file.
            contract: Its targets, the weight and the process are columns in any case, null where
                files do not have them.
            **known: ``axes`` says which fields belong to objects.
        """
        self._axes = dict(known.get("axes") or {})
        target.parent.mkdir(parents=True, exist_ok=True)
        self._target = target
        self._temporary = temporary_path(target)
        self._contract = contract
        self._file = None

    def write(self, batch: EventBatch) -> None:
        """Add events with ``batch.predictions``; the first batch settles the columns.

        Raises:
            ContractError: If a later batch has other columns.
        """
        if self._temporary is None:
            raise ValueError("open the writer before writing")
        table = self._completed(pa.table(_columns(batch, self._axes)))
        if self._file is None:
            self._file = pq.ParquetWriter(self._temporary, table.schema, compression="zstd")
        elif table.schema != self._file.schema:
            found, wanted = set(table.schema), set(self._file.schema)
            if wanted < found and all(_may_lack(field.name) for field in found - wanted):
                self._widen(table.schema)
                self._file.write_table(table)
                return
            names = sorted({field.name for field in found ^ wanted})
            raise ContractError(
                f"{self._target}: columns differ from those of the first events: {', '.join(names)}"
            )
        self._file.write_table(table)

    def _completed(self, table: pa.Table) -> pa.Table:
        """Return the columns in their order, with those of the contract that files may lack."""
        wanted = {
            spec.name: _type(spec)
            for spec in self._contract.tensors.values()
            if spec.kind in {"weight", "process"} or spec.name.startswith("target/")
        }
        if self._file is not None:
            wanted |= {field.name: field.type for field in self._file.schema}
        for name, kind in wanted.items():
            if name not in table.column_names:
                if _may_lack(name):
                    table = table.append_column(name, pa.nulls(table.num_rows, kind))
                continue
            place = table.column_names.index(name)
            if table.column(place).type != kind:
                table = table.set_column(place, name, self._cast(table.column(place), name, kind))
        first = [] if self._file is None else list(self._file.schema.names)
        order = dict.fromkeys([*_FIRST, *wanted])
        rank = {name: number for number, name in enumerate(order)}

        def key(name: str) -> tuple[int, int]:
            if name in first:
                return 0, first.index(name)
            group = 1 if name in _FIRST[:4] else 2 if name.startswith("extra/") else 3
            return group, rank.get(name, len(rank))

        return table.select(sorted(table.column_names, key=key))

    def _cast(self, column: pa.ChunkedArray, name: str, kind: pa.DataType) -> pa.ChunkedArray:
        """Give a column the type that it has in all files."""
        try:
            return column.cast(kind)
        except pa.ArrowInvalid as error:
            raise ContractError(
                f"{self._target}: column {name!r} is {column.type} where {kind} is expected: "
                f"{error}"
            ) from error

    def _widen(self, schema: pa.Schema) -> None:
        """Write again what is there, with the columns that only later events have: null so far."""
        assert self._file is not None
        assert self._temporary is not None
        self._file.close()
        before = self._temporary.with_suffix(".before")
        self._temporary.replace(before)
        try:
            self._file = pq.ParquetWriter(self._temporary, schema, compression="zstd")
            with pq.ParquetFile(before) as written:
                for number in range(written.num_row_groups):
                    table = written.read_row_group(number)
                    for field in schema:
                        if field.name not in table.column_names:
                            empty = pa.nulls(table.num_rows, field.type)
                            table = table.append_column(field.name, empty)
                    self._file.write_table(table.select(schema.names).cast(schema))
        finally:
            before.unlink()

    def close(self) -> None:
        """Finish the file and make it visible under its name."""
        if self._temporary is None or self._target is None:
            return
        if self._file is None:
            self.write(EventBatch(make_ids(0, []), {}))
            assert self._file is not None
        self._file.add_key_value_metadata(
            {
                "hepset.format": PREDICTIONS_FORMAT,
                "hepset.contract": json.dumps(self._contract.dump()),
                "hepset.provenance": json.dumps(dict(self.provenance)),
            }
        )
        self._file.close()
        self._temporary.replace(self._target)
        self._temporary = self._file = None

    def abort(self) -> None:
        """Remove what was written so far; no-op when the writer is closed."""
        if self._temporary is None:
            return
        if self._file is not None:
            self._file.close()
        self._temporary.unlink(missing_ok=True)
        self._temporary = self._file = None


def read_predictions(path: str | os.PathLike[str]) -> tuple[pa.Table, dict[str, Any]]:
    """Read a file of predictions: the table and its provenance.

    Raises:
        ContractError: If the file is not one of hepset's predictions.
    """
    table = pq.read_table(path)
    stored = pq.read_metadata(path).metadata or {}
    if b"hepset.provenance" not in stored:
        raise ContractError(f"{path}: a Parquet file without hepset's metadata, no predictions")
    provenance: dict[str, Any] = json.loads(stored[b"hepset.provenance"])
    return table, provenance


def _may_lack(name: str) -> bool:
    """Whether a file may lack a column that others have."""
    return name in {"weight", "process"} or name.startswith(("target/", "weight/", "extra/"))


def _columns(batch: EventBatch, axes: Mapping[str, tuple[str, ...]]) -> dict[str, pa.Array]:
    """Ids, bookkeeping, targets and predictions as Arrow columns."""
    ids = batch.ids
    keys = pa.array([*batch.sources, *_unnamed(batch)], pa.string())
    # Plain text: Parquet stores it as a dictionary anyway, and awkward cannot join dictionaries.
    columns: dict[str, pa.Array] = {
        "source": keys.take(pa.array(ids["source"])),
        "source_index": pa.array(ids["source"]),
        "entry": pa.array(ids["entry"]),
        "sample": pa.array(ids["sample"]),
    }
    for name, array in batch.arrays.items():
        if name.startswith("extra/") and array.ndim == 1:
            columns[name] = _column(array)
    for name in ("weight", "process", SELECTED, TRAINED_ON):
        if name in batch.arrays:
            columns[name] = _column(batch.arrays[name])
    for name, array in batch.arrays.items():
        if name.startswith(("target/", "weight/")):
            columns[name] = _column(array)
    selected = batch.arrays.get(SELECTED)
    missing = None if selected is None or selected.all() else ~selected
    for stream, data in batch.streams.items():
        columns |= _of_objects(stream, data, batch.predictions, axes, missing)
    for name, array in batch.predictions.items():
        if _stream_of(name, axes) not in batch.streams:
            columns[name] = _column(array, missing)
    return columns


def _stream_of(name: str, axes: Mapping[str, tuple[str, ...]]) -> str | None:
    named = axes.get(name, ())
    return named[1] if len(named) > 1 else None


def _of_objects(
    stream: str,
    data: Ragged,
    predictions: Mapping[str, Array],
    axes: Mapping[str, tuple[str, ...]],
    missing: Array | None,
) -> dict[str, pa.Array]:
    """Columns of a stream's objects, real ones only; none where nothing is said of them."""
    found: dict[str, pa.Array] = {}
    place, event = data.place, data.event_of
    key = INDEX.format(stream)
    for name, values in data.attached.items():
        if name.startswith(("target/", "extra/", "weight/")) and name != key:
            found[name] = _lists(data.offsets, _column(values), missing)
    for name, array in predictions.items():
        if _stream_of(name, axes) != stream:
            continue
        if axes[name][2:3] == (stream,):
            count = data.counts
            pairs = np.repeat(count, count)
            start = np.repeat(data.offsets[:-1] - data.offsets[0], count)
            other = place[_ranges(start, pairs)]
            of_pairs = array[np.repeat(event, pairs), np.repeat(place, pairs), other]
            values = _lists(offsets_of(pairs), _column(of_pairs), None)
        else:
            values = _column(array[event, place])
        found[name] = _lists(data.offsets, values, missing)
    if not found:
        return {}
    index = data.attached.get(key, place)
    return {
        f"{stream}.index": _lists(data.offsets, _column(index.astype(np.int32)), missing),
        **found,
    }


def _ranges(start: Array, length: Array) -> Array:
    """Numbers from each start on, so many of each, one range after the other."""
    ends = offsets_of(length)
    found: Array = np.arange(ends[-1]) + np.repeat(start - ends[:-1], length)
    return found


def _lists(offsets: Array, values: pa.Array, missing: Array | None) -> pa.Array:
    """Lists of objects; null where an event was not selected."""
    ends = pa.array((offsets - offsets[0]).astype(np.int32))
    if missing is None:
        return pa.ListArray.from_arrays(ends, values)
    return pa.ListArray.from_arrays(ends, values, mask=pa.array(missing))


def _type(spec: TensorSpec) -> pa.DataType:
    """Type of the column of a target."""
    kind = pa.from_numpy_dtype(np.dtype(spec.dtype))
    for _ in spec.dims[1:]:
        kind = pa.list_(kind)
    return kind


def _unnamed(batch: EventBatch) -> list[str]:
    """Keys for sources that the batch has no name for."""
    largest = int(batch.ids["source"].max(initial=0)) if len(batch) else -1
    return [f"source {index}" for index in range(len(batch.sources), largest + 1)]


def _column(array: Array, missing: Array | None = None) -> pa.Array:
    """Return an array with first axis event as a column; further axes become nested lists."""
    if array.dtype.kind in "SU":
        return pa.array(array.astype(str).tolist(), pa.string(), mask=missing)
    if array.ndim == 1:
        return pa.array(np.ascontiguousarray(array), mask=missing)
    values = pa.array(np.ascontiguousarray(array).reshape(-1))
    for axis in range(array.ndim - 1, 0, -1):
        size = array.shape[axis]
        rows = int(np.prod(array.shape[:axis], dtype=np.int64))
        offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * np.int32(size))
        if axis == 1 and missing is not None:
            # A missing list takes no values: its offset is null.
            values = pa.ListArray.from_arrays(offsets, values, mask=pa.array(missing))
        else:
            values = pa.ListArray.from_arrays(offsets, values)
    return values
