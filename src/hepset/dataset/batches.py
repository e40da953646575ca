"""Stored columns to `EventBatch`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hepset.arrays import Array, Ragged
from hepset.batch import EventBatch
from hepset.dataset.columns import Column, ColumnLayout, widen
from hepset.errors import did_you_mean


def stream_of(layout: ColumnLayout) -> str | None:
    """Return the stream that a tensor has one value per object of, itself included."""
    if len(layout.dims) < 2:
        return None
    stream = layout.dims[1]
    owned = layout.mask == f"{stream}.mask" or layout.name == f"{stream}.mask"
    pairs = layout.dims[1:3] == (stream, stream)
    return stream if owned and not pairs else None


def with_masks(
    layouts: Mapping[str, ColumnLayout], names: Sequence[str] | None
) -> dict[str, ColumnLayout]:
    """Return the layouts of some tensors and of the masks they need; null = all.

    Raises:
        KeyError: If there is no such tensor.
    """
    if names is None:
        return dict(layouts)
    chosen: dict[str, ColumnLayout] = {}
    for name in names:
        if name not in layouts:
            raise KeyError(f"no tensor {name!r} in the data set{did_you_mean(name, layouts)}")
        chosen[name] = layouts[name]
        mask = layouts[name].mask
        if mask is not None and mask in layouts:
            chosen.setdefault(mask, layouts[mask])
    return chosen


def assemble(
    layouts: Mapping[str, ColumnLayout],
    columns: Mapping[str, Column],
    ids: Array,
    sources: Sequence[str],
) -> EventBatch:
    """Make a batch of stored columns, every tensor with the dtype of the contract.

    A jagged stream stays flat; a tensor per object without its stream becomes an ordinary array.
    """
    streams: dict[str, Ragged] = {}
    arrays: dict[str, Array] = {}
    slots: dict[str, int] = {}
    for name, layout in layouts.items():
        if stream_of(layout) == name:
            slots[name] = layout.slots
            streams[name] = _stream(layout, layouts, columns)
    for name, layout in layouts.items():
        stream = stream_of(layout)
        if stream is None or stream not in streams:
            arrays[name] = widen(layout, columns[name])
    return EventBatch(ids=ids, streams=streams, arrays=arrays, slots=slots, sources=sources)


def _stream(
    layout: ColumnLayout, layouts: Mapping[str, ColumnLayout], columns: Mapping[str, Column]
) -> Ragged:
    stream = layout.name
    own = columns[stream]
    others = {
        name: columns[name]
        for name, other in layouts.items()
        if stream_of(other) == stream and name not in {stream, f"{stream}.mask"}
    }
    if isinstance(own, Ragged):
        return Ragged(
            own.offsets,
            {feature: own.values[:, i] for i, feature in enumerate(layout.features)},
            {
                name: column.values.astype(layouts[name].dtype, copy=False)
                for name, column in others.items()
                if isinstance(column, Ragged)
            },
        )
    objects = Ragged.from_slots(
        {"": widen(layout, own)},
        widen(layouts[f"{stream}.mask"], columns[f"{stream}.mask"]),
        {name: widen(layouts[name], column) for name, column in others.items()},
    )
    features = {feature: objects.values[:, i] for i, feature in enumerate(layout.features)}
    return replace(objects, columns=features)
