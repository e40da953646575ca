"""Reader ``parquet``: flat or nested columns, lists of numbers and lists of structs."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hepset.arrays import Array, Ragged, offsets_of
from hepset.errors import ReadError
from hepset.interfaces.remote import is_address, open_address
from hepset.readers.assembly import Data
from hepset.readers.columnar import ColumnarFile, ColumnarReader

_BATCH = (4096, 16_384)
"""Fewest and most rows decoded at a time, which bounds the memory however large a row group is."""
_BUFFER = 1 << 16
"""Compressed bytes of a column that are in memory at a time."""
_CURSORS = 2
"""Passes under way: over the columns that decide, and over those of chosen events."""


class ParquetReader(ColumnarReader):
    """Reads Parquet files through pyarrow, see `ColumnarReader`.

    The fields of a struct, or of a list of structs, are columns with a dotted name: ``jets.pt``.
    Only the row groups that overlap a chunk are read, in batches of some thousand rows; reading
    chunks in order decodes every row once.
    """

    @classmethod
    def guess(cls, path: str) -> float:
        """Take files by their name, ``.parquet`` or ``.pq``."""
        return 0.5 if path.lower().endswith((".parquet", ".pq")) else 0.0

    def open(self, path: str) -> ColumnarFile:
        """Open one file.

        Raises:
            ReadError: If it is no Parquet file or is damaged.
        """
        return ParquetFile(path)


@dataclass
class _Cursor:
    """Position of a sequential pass over a file."""

    names: tuple[str, ...]
    position: int
    batches: Iterator[pa.RecordBatch]
    rest: pa.RecordBatch | None = None


class ParquetFile(ColumnarFile):
    """One open Parquet file."""

    def __init__(self, path: str) -> None:
        """Open the file and read its footer."""
        self.path = path
        try:
            if is_address(path):
                self._file = pq.ParquetFile(open_address(path), pre_buffer=True)
            else:
                self._file = pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False)
            metadata = self._file.metadata
            sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        except ReadError:
            raise
        except (OSError, ValueError, pa.ArrowException) as problem:
            raise _unreadable(path, problem) from problem
        self._starts = offsets_of(sizes)
        leaves = [name for part in self._file.schema_arrow for name in _leaves(part)]
        stored = [self._file.schema.column(i) for i in range(len(leaves))]
        self._stored = {name: column.path for name, column in zip(leaves, stored, strict=True)}
        self._repeated: dict[str, bool] = {
            name: column.max_repetition_level > 0
            for name, column in zip(leaves, stored, strict=True)
        }
        self._cursors: OrderedDict[tuple[str, ...], _Cursor] = OrderedDict()

    @property
    def entries(self) -> int:
        """Number of rows."""
        return int(self._starts[-1])

    def names(self) -> list[str]:
        """Dotted names of all leaves."""
        return list(self._stored)

    def holds_lists(self, name: str) -> bool:
        """Whether a column has a list per row."""
        return self._repeated.get(name, False)

    def read(self, names: Sequence[str], start: int, stop: int) -> dict[str, Data]:
        """Read columns of a range of rows.

        Raises:
            ReadError: If a column is damaged or has a form that is not supported.
        """
        if not names:
            return {}
        try:
            rows = self._rows(tuple(names), start, stop)
        except (OSError, ValueError, pa.ArrowException) as problem:
            self._cursors.clear()
            raise _unreadable(self.path, problem, f" in rows {start} to {stop - 1}") from problem
        places = {top: place for place, top in enumerate(rows.schema.names)}
        return {name: self._data(rows, name, places) for name in names}

    def close(self) -> None:
        """Close the file."""
        self._cursors.clear()
        self._file.close()

    def _rows(self, names: tuple[str, ...], start: int, stop: int) -> pa.Table:
        if start == stop:
            return self._file.schema_arrow.empty_table()
        cursor = self._cursors.pop(names, None)
        if cursor is None or not cursor.position <= start < self._group_end(cursor.position):
            cursor = self._begin(names, start, stop - start)
        self._skip(cursor, start)
        self._cursors[names] = cursor
        while len(self._cursors) > _CURSORS:
            self._cursors.popitem(last=False)
        pieces: list[pa.RecordBatch] = []
        while cursor.position < stop:
            batch = cursor.rest if cursor.rest is not None else self._next(cursor)
            taken = min(batch.num_rows, stop - cursor.position)
            pieces.append(batch.slice(0, taken))
            cursor.rest = batch.slice(taken) if taken < batch.num_rows else None
            cursor.position += taken
        found = pa.Table.from_batches(pieces)
        return found if len(pieces) == 1 else found.combine_chunks()

    def block_start(self, entry: int) -> int:
        """First row of the row group that holds a row."""
        return int(self._starts[np.searchsorted(self._starts, entry, side="right") - 1])

    def _next(self, cursor: _Cursor) -> pa.RecordBatch:
        batch = next(cursor.batches, None)
        if batch is None:
            raise ReadError(
                f"{self.path}: ends at row {cursor.position} of {self.entries}; it is incomplete"
            )
        return batch

    def _group_end(self, row: int) -> int:
        """First row of the row group after the one that holds a row."""
        following = int(np.searchsorted(self._starts, row, side="right"))
        return int(self._starts[min(following, len(self._starts) - 1)])

    def _begin(self, names: tuple[str, ...], start: int, rows: int) -> _Cursor:
        """Begin a pass with the row group that holds a row."""
        group = int(np.searchsorted(self._starts, start, side="right")) - 1
        batches = self._file.iter_batches(
            batch_size=min(max(rows, _BATCH[0]), _BATCH[1]),
            row_groups=list(range(group, len(self._starts) - 1)),
            columns=[self._stored[name] for name in names],
            use_threads=False,
        )
        return _Cursor(names, int(self._starts[group]), batches)

    def _skip(self, cursor: _Cursor, start: int) -> None:
        """Go on to a row."""
        while cursor.position < start:
            batch = cursor.rest if cursor.rest is not None else self._next(cursor)
            skipped = min(batch.num_rows, start - cursor.position)
            cursor.rest = batch.slice(skipped) if skipped < batch.num_rows else None
            cursor.position += skipped

    def _data(self, rows: pa.Table, name: str, places: Mapping[str, int]) -> Data:
        top, path = self._split(places, name)
        column = rows.column(places[top])
        array = column.chunk(0) if column.num_chunks else pa.array([], column.type)
        data = _data(array, path)
        if data is None:
            raise ReadError(
                f"{self.path}: column {name!r} has the type {column.type}; numbers, arrays of "
                "numbers and lists of numbers or of structs of numbers can be read"
            )
        return data

    @staticmethod
    def _split(tops: Mapping[str, int], name: str) -> tuple[str, list[str]]:
        """Split a dotted name into the column and the path inside; columns may hold dots too."""
        if name in tops:
            return name, []
        top = next(c for c in tops if name.startswith(f"{c}."))
        return top, name.removeprefix(f"{top}.").split(".")


def _unreadable(path: str, problem: Exception, where: str = "") -> ReadError:
    reason = str(problem).strip().partition("\n")[0] or type(problem).__name__
    return ReadError(
        f"{path}: cannot be read as Parquet{where}, it may be damaged or incomplete: {reason}"
    )


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


def _leaves(part: pa.Field) -> Iterator[str]:
    """Dotted names of the leaves of a column, in the order in which they are stored."""
    kind = part.type
    while _is_list(kind):
        kind = kind.value_type
    if pa.types.is_struct(kind):
        for child in kind:
            for leaf in _leaves(child):
                yield f"{part.name}.{leaf}"
    elif pa.types.is_map(kind):
        yield f"{part.name}.key"
        yield f"{part.name}.value"
    else:
        yield part.name


def _data(array: pa.Array, path: list[str]) -> Data | None:
    """Return the leaf of an Arrow array as numpy arrays; None where it is too nested."""
    kind = array.type
    if pa.types.is_struct(kind):
        index = kind.get_field_index(path[0]) if path else -1
        return None if index < 0 or array.null_count else _data(array.field(index), path[1:])
    if pa.types.is_fixed_size_list(kind):
        if array.null_count:
            return None
        inner = _data(array.flatten(), path)
        if inner is None or isinstance(inner, Ragged):
            return None
        return inner.reshape(len(array), kind.list_size, *inner.shape[1:])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        offsets = array.offsets.to_numpy().astype(np.int64) if len(array) else np.zeros(1, np.int64)
        content = array.values.slice(offsets[0], offsets[-1] - offsets[0])
        inner = _data(content, path)
        if inner is None or isinstance(inner, Ragged):
            return None
        return Ragged.of(offsets - offsets[0], inner)
    return _leaf(array)


def _leaf(array: pa.Array) -> Array | None:
    """Numbers as they are, missing ones as NaN, text as unicode."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        return _leaf(array.dictionary_decode())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        text: Array = array.fill_null("").to_numpy(zero_copy_only=False).astype(np.str_)
        return text
    numeric = pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)
    if not numeric:
        return None
    if pa.types.is_boolean(kind):
        if not array.null_count:
            return _flags(array)
        array = array.cast(pa.int8())
    values: Array = array.to_numpy(zero_copy_only=False)
    return values


def _flags(array: pa.BooleanArray) -> Array:
    """Booleans without nulls, one byte each; Arrow's own conversion takes many times as long."""
    if not len(array):
        return np.zeros(0, bool)
    begin, first = divmod(array.offset, 8)
    bits = np.frombuffer(array.buffers()[1], np.uint8)[begin:]
    flags = np.unpackbits(bits, bitorder="little", count=first + len(array))
    return flags[first:].view(bool)
