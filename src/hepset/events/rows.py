"""From a batch in its slots to the columns that are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hepset.arrays import Array, Ragged
from hepset.batch import EventBatch
from hepset.check.layout import stream_of
from hepset.dataset.columns import Column, ColumnLayout, extra_layout, tensor_layout
from hepset.errors import ContractError
from hepset.schema.contract import Contract
from hepset.schema.tensors import Labels, TensorSpec

KEPT = ("extra/", "weight/")
"""Tensors that the contract does not know and the data set keeps all the same."""


def pick(batch: EventBatch, contract: Contract) -> EventBatch:
    """Bring a reader's batch into the form that prepare works with.

    Streams have the contract's features in order; values per object are attached to their stream;
    arrays that nobody asked for are dropped.

    Args:
        batch: As a reader gives it, derived features included.
        contract: What is stored.
    """
    streams: dict[str, Ragged] = {}
    arrays = {
        name: values
        for name, values in batch.arrays.items()
        if name.startswith(KEPT) or (name in contract and contract[name].kind != "stream")
    }
    for spec in contract.of_kind("stream"):
        data = stream_of(batch, spec)
        if data is None:
            continue
        columns = {name: data.columns[name] for name in spec.columns if name in data.columns}
        attached = {
            name: values
            for name, values in data.attached.items()
            if name in contract or name.startswith(KEPT)
        }
        for other in contract.tensors.values():
            owned = other.dims[1:2] == (spec.name,) and other.kind not in {"stream", "pairs"}
            owned = owned and not other.is_table
            if owned and other.kind != "mask" and other.name in arrays:
                values = arrays.pop(other.name)
                attached[other.name] = values[data.mask(values.shape[1])]
        attached = {
            name: of_contract(values, contract[name]) if name in contract else values
            for name, values in attached.items()
        }
        arrays.pop(f"{spec.name}.mask", None)
        streams[spec.name] = replace(
            data,
            offsets=data.offsets.astype(np.int64),
            columns=columns,
            attached=attached,
            in_padding={},
        )
    return replace(batch, streams=streams, arrays=arrays)


def of_contract(values: Array, spec: TensorSpec) -> Array:
    """Return values in the element type of a tensor, so that padding is what it is to be.

    Args:
        values: As a reader gives them; NaN among integers is missing.
        spec: The tensor they are of.
    """
    wanted = np.dtype(spec.dtype)
    if values.dtype.kind not in "biuf":
        return values
    if values.dtype.kind == "f" and wanted.kind != "f":
        values = np.where(np.isfinite(values), values, spec.fill)
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(wanted, copy=False)


def stored_columns(
    batch: EventBatch, contract: Contract, jagged: frozenset[str]
) -> tuple[dict[str, ColumnLayout], dict[str, Column]]:
    """Return the tensors of a batch as they are stored, with their layouts.

    Args:
        batch: In its slots.
        contract: With all slots resolved.
        jagged: Streams that are stored jagged.

    Raises:
        ContractError: If an ``extra/…`` tensor cannot be stored.
    """
    layouts: dict[str, ColumnLayout] = {}
    columns: dict[str, Column] = {}
    for spec in contract.tensors.values():
        column = _column(batch, contract, spec, jagged)
        if column is not None:
            layouts[spec.name] = tensor_layout(contract, spec, jagged=jagged)
            columns[spec.name] = _typed(column, layouts[spec.name])
    for name, values in batch.arrays.items():
        if name.startswith(KEPT):
            plain = _plain(values)
            layouts[name] = extra_layout(name, plain.dtype, plain.shape[1:])
            columns[name] = plain.astype(layouts[name].stored, copy=False)
    for stream, data in batch.streams.items():
        for name, values in data.attached.items():
            if name.startswith(KEPT):
                layouts[name], columns[name] = _attached(stream, name, values, data, batch, jagged)
    return layouts, columns


def label_range(spec: TensorSpec, column: Column) -> tuple[int, int] | None:
    """Return the smallest and largest label of a tensor of labels; None for other tensors."""
    if not any(isinstance(rule, Labels) for rule in spec.rules):
        return None
    values = column.values if isinstance(column, Ragged) else column
    return (int(values.min()), int(values.max())) if values.size else (-1, -1)


def _column(
    batch: EventBatch, contract: Contract, spec: TensorSpec, jagged: frozenset[str]
) -> Column | None:
    owner = spec.dims[1] if len(spec.dims) > 1 else ""
    if spec.kind == "mask" and spec.dims == ("event",):
        of_global = spec.name.removesuffix(".mask")
        if of_global not in batch.arrays:
            return None
        return batch.arrays.get(spec.name, np.ones(len(batch), bool)).astype(bool)
    if owner in batch.streams and spec.kind != "pairs" and not spec.is_table:
        data = batch.streams[owner]
        if owner in jagged:
            return _jagged_column(data, spec, contract)
        if spec.kind in {"stream", "mask"} or spec.name in data.attached:
            return batch[spec.name]
        return None
    return batch.arrays.get(spec.name)


def _jagged_column(flat: Ragged, spec: TensorSpec, contract: Contract) -> Column | None:
    if spec.kind == "mask":
        return flat.counts
    if spec.kind == "stream":
        names = [name for name in contract[spec.name].columns if name in flat.columns]
        values = np.zeros((int(flat.offsets[-1]), len(names)), np.float32)
        for index, name in enumerate(names):
            values[:, index] = flat.columns[name]
        return Ragged.of(flat.offsets, values)
    if spec.name in flat.attached:
        return Ragged.of(flat.offsets, flat.attached[spec.name])
    return None


def _attached(
    stream: str,
    name: str,
    values: Array,
    data: Ragged,
    batch: EventBatch,
    jagged: frozenset[str],
) -> tuple[ColumnLayout, Column]:
    plain = _plain(values)
    slots = batch.slots[stream]
    shape = (slots, *plain.shape[1:])
    layout = extra_layout(name, plain.dtype, shape, stream=stream, jagged=jagged)
    if layout.layout == "jagged":
        return layout, Ragged.of(data.offsets, plain)
    return layout, _plain(batch[name]).astype(layout.stored, copy=False)


def _typed(column: Column, layout: ColumnLayout) -> Column:
    if isinstance(column, Ragged):
        return column.map(lambda values: _cast(values, layout))
    return column if layout.layout == "counts" else _cast(column, layout)


def _cast(values: Array, layout: ColumnLayout) -> Array:
    stored = np.dtype(layout.stored)
    if values.dtype.kind == "f" and stored.kind in "iu":
        # Integers by the contract; NaN is a missing label.
        values = np.where(np.isfinite(values), values, -1)
    with np.errstate(over="ignore"):
        return values.astype(stored, copy=False)


def _plain(values: Array) -> Array:
    """Strings of variable length become strings of fixed width."""
    if values.dtype == object:
        return values.astype(str)
    return values


def common_layouts(
    contract: Contract,
    found: Sequence[dict[str, ColumnLayout]],
    extremes: dict[str, tuple[int, int]],
) -> dict[str, ColumnLayout]:
    """Return one layout per tensor for many ranges: contract first, then extras by name.

    Args:
        contract: With slots and classes resolved.
        found: The layouts of every range.
        extremes: Smallest and largest value of every tensor of labels.

    Raises:
        ContractError: If an extra has different shapes, or texts here and numbers there.
    """
    merged: dict[str, ColumnLayout] = {}
    for layouts in found:
        for name, layout in layouts.items():
            known = merged.get(name)
            merged[name] = layout if known is None else _merged(known, layout)
    jagged = frozenset(
        name
        for name, layout in merged.items()
        if layout.layout == "jagged" and name in contract and contract[name].kind == "stream"
    )
    result: dict[str, ColumnLayout] = {}
    for spec in contract.tensors.values():
        if spec.name not in merged:
            continue
        layout = tensor_layout(contract, spec, jagged=jagged)
        low, high = extremes.get(spec.name, (0, 0))
        limits = np.iinfo(layout.stored) if np.dtype(layout.stored).kind == "i" else None
        if limits is not None and not limits.min <= low <= high <= limits.max:
            # Labels outside their classes that were let through (check: report).
            layout = layout.model_copy(update={"stored": layout.dtype})
        result[spec.name] = layout
    extras = sorted(name for name in merged if name not in contract)
    return result | {name: merged[name] for name in extras}


def _merged(known: ColumnLayout, other: ColumnLayout) -> ColumnLayout:
    if known == other:
        return known
    if (known.dims, known.shape, known.layout) != (other.dims, other.shape, other.layout):
        raise ContractError(
            f"{known.name}: {', '.join(known.dims)} of shape {known.shape} in some files, "
            f"{', '.join(other.dims)} of shape {other.shape} in others; give it one shape"
        )
    a, b = np.dtype(known.stored), np.dtype(other.stored)
    if (a.kind in "US") != (b.kind in "US"):
        raise ContractError(
            f"{known.name}: {a} in some files and {b} in others; read it as one type"
        )
    stored = np.promote_types(a, b).newbyteorder("<").str
    return known.model_copy(update={"stored": stored, "dtype": stored})
