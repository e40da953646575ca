"""One Arrow column per tensor: how arrays become bytes in a shard, and back.

A tensor is stored as fixed-size binary, its little-endian C-order bytes event by event, because
nested Parquet lists pay for every value and bytes do not (`docs/explanation`). Masks take one byte
per slot, indices and labels the smallest integer that the contract's ranges allow. A stream with
very many or mostly empty slots is *jagged*: the rows of its real objects one after the other.

The column's Arrow type, `TensorType`, carries its `ColumnLayout`; the same stands in
``dataset.json``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa

from hepset.arrays import Array, Ragged, missing_value, padding_value
from hepset.arrays import join as join_ragged
from hepset.batch import ID_DTYPE
from hepset.errors import ContractError, DatasetError
from hepset.schema.base import Model
from hepset.schema.contract import Contract
from hepset.schema.tensors import Index, Labels, TensorSpec

MANY_SLOTS: Final = 4096
"""Above so many slots a stream is jagged."""
FEW_REAL: Final = 0.25
"""Below this fraction of real slots a stream is jagged."""

ID_COLUMNS: Final[dict[str, str]] = {
    "id.source": "source",
    "id.entry": "entry",
    "id.sample": "sample",
}
"""Column → field of `hepset.batch.ID_DTYPE`."""

_ARROW_IDS: Final = {"source": pa.uint32(), "entry": pa.int64(), "sample": pa.uint32()}
_KINDS: Final = frozenset("biufcUS")


class ColumnLayout(Model):
    """How one tensor is stored."""

    name: str
    """Name of the tensor and of the column."""
    layout: Literal["fixed", "jagged", "counts", "empty"] = "fixed"
    """``fixed``: the bytes of every slot. ``jagged``: the rows of the real objects. ``counts``: the
    mask of a jagged stream, stored as its number of objects. ``empty``: no bytes, no column."""
    dims: tuple[str, ...]
    """Names of the axes; ``event`` first."""
    shape: tuple[int, ...]
    """Shape of one event, slots included."""
    stored: str
    """Element type in the file, in numpy's notation (``<f4``)."""
    dtype: str
    """Element type in batches."""
    mask: str | None = None
    """Tensor that says which slots are real."""
    features: tuple[str, ...] = ()
    """Names along the last axis, if it has any."""

    @property
    def width(self) -> int:
        """Bytes of one event (``fixed``), or of one object (``jagged``)."""
        shape = self.shape[1:] if self.layout == "jagged" else self.shape
        if self.layout == "counts":
            return 4
        return int(np.prod(shape, dtype=np.int64)) * np.dtype(self.stored).itemsize

    @property
    def slots(self) -> int:
        """Number of slots of a tensor that belongs to a stream."""
        return self.shape[0]

    def missing(self, kind: str | None = None) -> Any:  # noqa: ANN401  of the element type's kind
        """Value of what a source does not have, as `missing_value` says; the weight is 1."""
        return 1.0 if kind == "weight" else missing_value(self.dtype)


Column = Array | Ragged
"""A stored tensor in memory, first axis event; of a jagged one the rows of the real objects."""


class TensorArray(pa.ExtensionArray):  # type: ignore[misc]  # pyarrow publishes no types
    """A column of tensors."""

    def to_numpy(self, zero_copy_only: bool = False, writable: bool = False) -> Array:
        """Return the tensor, shape ``(event, …)``, with the dtype of batches."""
        values = decode(self.type.layout, self)
        if zero_copy_only and not np.shares_memory(values, raw(self.type.layout, self)):
            raise pa.ArrowInvalid(f"{self.type.layout.name}: needs a copy to be decoded")
        return values.copy() if writable and not values.flags.writeable else values


class TensorType(pa.ExtensionType):  # type: ignore[misc]  # pyarrow publishes no types
    """Arrow type ``hepset.tensor``: bytes that know their dtype, shape, axes and mask."""

    def __init__(self, layout: ColumnLayout) -> None:
        self.layout = layout
        super().__init__(_storage(layout), "hepset.tensor")

    def __arrow_ext_serialize__(self) -> bytes:
        """Return the layout as JSON, which Arrow keeps in the field's metadata."""
        return self.layout.model_dump_json().encode()

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> TensorType:
        """Make the type again from its JSON."""
        kind = _deserialized(serialized)
        if kind.storage_type != storage_type:
            raise DatasetError(
                f"column {kind.layout.name!r}: stored as {storage_type}, but its metadata describe "
                f"{kind.storage_type}; the file is damaged"
            )
        return kind

    def __arrow_ext_class__(self) -> type[TensorArray]:
        """Return the class of the arrays."""
        return TensorArray


# Arrow asks for the type at every touch of a column: parsing it again costs more than reading.
@lru_cache(maxsize=4096)
def _deserialized(serialized: bytes) -> TensorType:
    return TensorType(ColumnLayout.model_validate_json(serialized))


@lru_cache(maxsize=4096)
def _tensor_type(layout: ColumnLayout) -> TensorType:
    return TensorType(layout)


def _storage(layout: ColumnLayout) -> pa.DataType:
    if layout.layout == "jagged":
        return pa.large_binary()
    if layout.layout == "counts":
        return pa.int32()
    return pa.binary(layout.width)


pa.register_extension_type(
    TensorType(ColumnLayout(name="", dims=("event",), shape=(), stored="|i1", dtype="|i1"))
)


def arrow_schema(layouts: Mapping[str, ColumnLayout]) -> pa.Schema:
    """Return the schema of a shard: the id columns, then one column per tensor."""
    fields = [
        pa.field(column, _ARROW_IDS[name], nullable=False) for column, name in ID_COLUMNS.items()
    ]
    fields += [
        pa.field(name, _tensor_type(layout), nullable=False)
        for name, layout in layouts.items()
        if layout.layout != "empty"
    ]
    return pa.schema(fields)


def record_batch(
    schema: pa.Schema,
    layouts: Mapping[str, ColumnLayout],
    ids: Array,
    columns: Mapping[str, Column],
) -> pa.RecordBatch:
    """Encode some events as rows of a shard."""
    arrays = [
        pa.array(np.ascontiguousarray(ids[name]), _ARROW_IDS[name]) for name in ID_COLUMNS.values()
    ]
    arrays += [encode(layouts[name], columns[name]) for name in schema.names[len(ID_COLUMNS) :]]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def encode(layout: ColumnLayout, column: Column) -> pa.ExtensionArray:
    """Encode a tensor as an Arrow column.

    Args:
        layout: How it is stored.
        column: Shape ``(event, *layout.shape)``; for a jagged layout a `Ragged`; for the mask of a
            jagged stream the number of objects, shape ``(event,)``.

    Raises:
        ContractError: If the shape is another one or a value does not fit the stored type.
    """
    kind = _tensor_type(layout)
    if isinstance(column, Ragged):
        if layout.layout != "jagged" or column.values.shape[1:] != layout.shape[1:]:
            raise ContractError(
                f"{layout.name}: objects of shape {column.values.shape[1:]} do not fit the "
                f"{layout.layout} column of shape {layout.shape}"
            )
        column = column.part(0, len(column))
        values = narrow(layout, column.values)
        ends = (column.offsets * layout.width).astype("<i8")
        buffers = [None, pa.py_buffer(ends), pa.py_buffer(values)]
        storage = pa.Array.from_buffers(pa.large_binary(), len(column), buffers)
    else:
        shape = () if layout.layout == "counts" else layout.shape
        if column.shape[1:] != shape:
            raise ContractError(
                f"{layout.name}: shape {column.shape} does not fit the stored (event, "
                f"{', '.join(map(str, shape))})"
            )
        if layout.layout == "counts":
            storage = pa.array(np.ascontiguousarray(column, "<i4"))
        else:
            buffers = [None, pa.py_buffer(narrow(layout, column))]
            storage = pa.Array.from_buffers(pa.binary(layout.width), len(column), buffers)
    return pa.ExtensionArray.from_storage(kind, storage)


def narrow(layout: ColumnLayout, values: Array) -> Array:
    """Convert values to the stored type in C order, without a copy where they have it.

    Raises:
        ContractError: If an integer does not fit the stored type, or a text is cut.
    """
    stored = np.dtype(layout.stored)
    if values.dtype == stored:
        return np.ascontiguousarray(values)
    if values.dtype.kind in "iu" and stored.kind in "iu" and values.size:
        limits = np.iinfo(stored)
        low, high = int(values.min()), int(values.max())
        if low < limits.min or high > limits.max:
            raise ContractError(
                f"{layout.name}: values from {low} to {high} do not fit {stored.name}, which the "
                "contract's ranges allow; run `hepset check --full`"
            )
    if values.dtype.kind in "US" and values.dtype.itemsize > stored.itemsize:
        raise ContractError(f"{layout.name}: {values.dtype} strings do not fit {stored}")
    # An extra of another type than the first files': promoted before, so this loses nothing.
    return np.ascontiguousarray(values, stored)


def raw(layout: ColumnLayout, column: pa.Array | pa.ChunkedArray) -> Column:
    """Return a column as it is stored, without a copy where it is one chunk.

    The result is read-only and keeps the Arrow memory alive.

    Args:
        layout: How it is stored.
        column: A column of a shard, any slice of it.

    Returns:
        Shape ``(event, *layout.shape)`` of ``layout.stored``; a `Ragged` for a jagged layout; the
        number of objects, shape ``(event,)``, for ``counts``.

    Raises:
        DatasetError: If rows are null or of another type: the file was not written by hepset or is
            damaged.
    """
    if isinstance(column, pa.ChunkedArray):
        if column.num_chunks == 1:
            return raw(layout, column.chunk(0))
        parts = [raw(layout, chunk) for chunk in column.chunks]
        if not parts:
            return empty_column(layout)
        return join(parts)
    if column.null_count:
        raise DatasetError(
            f"column {layout.name!r}: {column.null_count} of {len(column)} rows are null; "
            "the file is damaged or was not written by hepset"
        )
    storage = column.storage if isinstance(column, pa.ExtensionArray) else column
    if storage.type != _storage(layout):
        raise DatasetError(
            f"column {layout.name!r}: stored as {storage.type}, expected {_storage(layout)} as "
            "dataset.json says; the file is damaged or was not written by hepset"
        )
    buffers, start, rows = storage.buffers(), storage.offset, len(storage)
    if layout.layout == "jagged":
        return _raw_jagged(layout, buffers, start, rows)
    stored = np.dtype("<i4") if layout.layout == "counts" else np.dtype(layout.stored)
    shape = (rows,) if layout.layout == "counts" else (rows, *layout.shape)
    if rows == 0 or buffers[1] is None:
        return np.zeros(shape, stored)
    count = int(np.prod(shape, dtype=np.int64))
    found = np.frombuffer(buffers[1], stored, count=count, offset=start * layout.width)
    return found.reshape(shape)


def _raw_jagged(layout: ColumnLayout, buffers: list[Any], start: int, rows: int) -> Ragged:
    item = layout.shape[1:]
    if rows == 0 or buffers[1] is None:
        return Ragged.of(np.zeros(1, np.int64), np.zeros((0, *item), layout.stored))
    ends = np.frombuffer(buffers[1], "<i8", count=rows + 1, offset=start * 8)
    first, size = int(ends[0]), int(ends[-1] - ends[0])
    stored = np.dtype(layout.stored)
    if size % layout.width:
        raise DatasetError(
            f"column {layout.name!r}: {size} bytes are not an integer number of objects of "
            f"{layout.width} bytes; the file is damaged"
        )
    values = (
        np.frombuffer(buffers[2], stored, count=size // stored.itemsize, offset=first)
        if size
        else np.zeros(0, stored)
    )
    return Ragged.of((ends - first) // layout.width, values.reshape(-1, *item))


def join(parts: Sequence[Column]) -> Column:
    """Return several pieces of one column as one."""
    if len(parts) == 1:
        return parts[0]
    ragged = [part for part in parts if isinstance(part, Ragged)]
    if ragged:
        return join_ragged(ragged)
    return np.concatenate([part for part in parts if not isinstance(part, Ragged)])


def part(column: Column, start: int, stop: int) -> Column:
    """Return the events ``start:stop`` of a column, without a copy."""
    return column.part(start, stop) if isinstance(column, Ragged) else column[start:stop]


def take(column: Column, events: Array) -> Column:
    """Return some events of a column, given by index, in that order."""
    return column.take(events) if isinstance(column, Ragged) else column[events]


def room(layout: ColumnLayout, rows: int) -> Array:
    """Return memory for rows of a column that is not jagged, as they are stored."""
    if layout.layout == "counts":
        return np.zeros(rows, "<i4")
    return np.zeros((rows, *layout.shape), layout.stored)


def empty_column(layout: ColumnLayout) -> Column:
    """Return a stored column of no events."""
    if layout.layout == "empty":
        return np.zeros((0, *layout.shape), layout.stored)
    return raw(layout, pa.array([], _storage(layout)))


def widen(layout: ColumnLayout, column: Column) -> Array:
    """Return a stored column as a batch has it: padded, with the dtype of the contract."""
    if isinstance(column, Ragged):
        fill = padding_value(layout.name, layout.dtype)
        return column.pad(column.values, layout.slots, fill).astype(layout.dtype, copy=False)
    if layout.layout == "counts":
        return np.arange(layout.slots) < column[:, None]
    return column.astype(layout.dtype, copy=False)


def lengths_of(layout: ColumnLayout, mask: Column) -> Array:
    """Return the slots up to the last real one of each event, from the stored mask of a stream.

    Args:
        layout: How the mask is stored.
        mask: Its column.
    """
    assert not isinstance(mask, Ragged)
    if layout.layout == "counts":
        return mask.astype(np.int64)
    slots = mask.shape[1]
    if not slots:
        return np.zeros(len(mask), np.int64)
    last: Array = slots - np.argmax(mask[:, ::-1] != 0, axis=1)
    return np.where(mask.any(axis=1), last, 0)


def mask_columns(layouts: Mapping[str, ColumnLayout]) -> dict[str, str]:
    """Return the stream → the tensor that is its mask."""
    found = {}
    for name, layout in layouts.items():
        if len(layout.dims) == 2 and name == f"{layout.dims[1]}.mask":
            found[layout.dims[1]] = name
    return found


def decode(layout: ColumnLayout, column: pa.Array | pa.ChunkedArray) -> Array:
    """Return a tensor as a batch has it, shape ``(event, *layout.shape)``.

    Nothing is copied where the stored type is that of the batch and the column is one chunk.

    Raises:
        DatasetError: If rows are null.
    """
    return widen(layout, raw(layout, column))


def decode_ids(table: pa.Table | pa.RecordBatch) -> Array:
    """Return the structured ids (`hepset.batch.ID_DTYPE`) of the rows of a table."""
    ids = np.zeros(table.num_rows, ID_DTYPE)
    for column, name in ID_COLUMNS.items():
        ids[name] = table.column(column).to_numpy()
    return ids


def tensor_layout(
    contract: Contract, spec: TensorSpec, *, jagged: frozenset[str] = frozenset()
) -> ColumnLayout:
    """Return how a tensor of the contract is stored.

    Args:
        contract: The contract with all slots resolved; labels without a number of classes keep
            the wide type.
        spec: The tensor.
        jagged: Streams that are stored jagged.

    Raises:
        ContractError: If a size is not resolved, or a jagged stream has pair features.
    """
    open_axes = [d for d, n in zip(spec.dims[1:], spec.event_shape, strict=True) if n is None]
    if open_axes:
        raise ContractError(f"{spec.name}: the size of axis {open_axes[0]!r} is not resolved")
    shape = tuple(size for size in spec.event_shape if size is not None)
    layout: Literal["fixed", "jagged", "counts", "empty"] = "fixed"
    stream = spec.dims[1] if len(spec.dims) > 1 else ""
    if spec.is_table:
        for axis, size in zip(spec.dims[1:], shape, strict=True):
            if axis in jagged:
                raise ContractError(
                    f"{spec.name}: a target with axes of its own needs slots for every object, but "
                    f"{axis} has {size} slots and is stored jagged; reduce streams.{axis}.slots, "
                    "or leave the target out"
                )
    elif stream in jagged:
        if spec.kind == "pairs":
            raise ContractError(
                f"{spec.name}: features of pairs need slots for every object, but {stream} has "
                f"{shape[0]} slots and is stored jagged; reduce streams.{stream}.slots"
            )
        layout = "counts" if spec.kind == "mask" else "jagged"
    if 0 in shape:
        layout = "empty"
    return ColumnLayout(
        name=spec.name,
        layout=layout,
        dims=spec.dims,
        shape=shape,
        stored=_stored(contract, spec),
        dtype=np.dtype(spec.dtype).newbyteorder("<").str,
        mask=spec.mask,
        features=tuple(spec.columns),
    )


def extra_layout(
    name: str,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    *,
    stream: str | None = None,
    jagged: frozenset[str] = frozenset(),
) -> ColumnLayout:
    """Return how an ``extra/…`` tensor of any dtype is stored.

    Args:
        name: Name of the tensor.
        dtype: Its element type: boolean, number or text of fixed width.
        shape: Shape of one event; the first axis is the slots where it belongs to a stream.
        stream: The stream it belongs to.
        jagged: Streams that are stored jagged.

    Raises:
        ContractError: If the element type cannot be stored.
    """
    if dtype.kind not in _KINDS:
        raise ContractError(
            f"{name}: dtype {dtype} cannot be stored; make it a number, a boolean or a string of "
            "fixed width"
        )
    little = dtype.newbyteorder("<").str
    axes = tuple(f"axis{i}" for i in range(len(shape)))
    if stream is not None:
        axes = (stream, *axes[1:])
    empty = 0 in shape or dtype.itemsize == 0
    layout: Literal["fixed", "jagged", "empty"] = "jagged" if stream in jagged else "fixed"
    return ColumnLayout(
        name=name,
        layout="empty" if empty else layout,
        dims=("event", *axes),
        shape=shape,
        stored=little,
        dtype=little,
        mask=f"{stream}.mask" if stream is not None else None,
    )


def smallest_integer(low: int, high: int) -> str:
    """Return the smallest signed integer type that holds a range, in numpy's notation."""
    for name in ("|i1", "<i2", "<i4"):
        limits = np.iinfo(name)
        if limits.min <= low and high <= limits.max:
            return name
    return "<i8"


def _stored(contract: Contract, spec: TensorSpec) -> str:
    wide = np.dtype(spec.dtype).newbyteorder("<")
    if wide.kind != "i":
        return wide.str
    highest: list[int] = []
    for rule in spec.rules:
        if isinstance(rule, Labels) and rule.classes is not None:
            highest.append(rule.classes - 1)
        elif isinstance(rule, Index):
            slots = contract.slots
            total = sum(slots[name] or 0 for name in rule.order)
            own = [total if name is None else slots[name] or 0 for name in rule.streams]
            highest.append(max(own, default=1) - 1)
    return smallest_integer(-1, max(highest)) if highest else wide.str
