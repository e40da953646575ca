"""Conform: order the objects of a stream, cut them to its slots, let the targets follow.

Objects are sorted by the stream's `order` (stable; NaN last), or keep the places that the file
gives them. What lies beyond the last slot is cut and counted. Arrays per object, features of pairs
and assignment targets are rearranged alike; a target whose object was cut becomes missing (−1), and
so does one that never pointed at a real object (the check of the contract reports those).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepset.batch import EventBatch, FlatStream, PaddedStream, StreamData
from hepset.dataset.manifest import Truncation
from hepset.schema.contract import Contract
from hepset.schema.event import EventInfo
from hepset.schema.tensors import Index, TensorSpec

Array = NDArray[Any]


@dataclass(frozen=True)
class _Moved:
    """Where the objects of a stream went.

    Attributes:
        stream: The rearranged objects.
        places: New position of the object at ``(event, old position)``, −1 = not there any more;
            for a flat stream one number per object.
        offsets: Where the objects of each event began, for a flat stream.
        perm: Old position of every new one, ``(event, position)``; None for a flat stream.
        slots: Positions that indices counted through before.
        cut: Events with cut objects, cut objects.
    """

    stream: StreamData
    places: Array
    offsets: Array | None
    perm: Array | None
    slots: int
    cut: tuple[int, int]
    longest: int

    def find(self, events: Array, old: Array) -> tuple[Array, Array]:
        """Return the new positions (−1 = none), and which objects were cut."""
        if self.offsets is not None:
            counts = np.diff(self.offsets)[events]
            inside = old < counts
            flat = np.where(inside, self.offsets[:-1][events] + old, 0)
            new = self.places[flat] if len(self.places) else np.full(len(old), -1)
        else:
            inside = old < self.places.shape[1]
            new = self.places[events, np.where(inside, old, 0)] if self.places.size else old * 0 - 1
        lost = inside & (new == -2)
        return np.where(inside & (new >= 0), new, -1), lost


def conform(
    batch: EventBatch, event: EventInfo, contract: Contract
) -> tuple[EventBatch, dict[str, Truncation]]:
    """Bring a batch into the slots of the contract.

    Args:
        batch: As a reader gives it; derived features included.
        event: Gives the order of each stream.
        contract: With all slots resolved.

    Returns:
        The batch in its slots, and what was cut of every stream.
    """
    moved: dict[str, _Moved] = {}
    arrays = dict(batch.arrays)
    for spec in contract.of_kind("stream"):
        data = batch.streams.get(spec.name)
        slots = spec.shape[1]
        if data is None or slots is None:
            continue
        pairs = arrays.get(f"{spec.name}.pairs")
        if pairs is not None and isinstance(data, FlatStream):
            wide = replace(batch, slots={**batch.slots, spec.name: pairs.shape[1]})
            data = wide.padded(spec.name)
        before = data.slots if isinstance(data, PaddedStream) else batch.slots.get(spec.name, slots)
        order = event.streams[spec.name].order if spec.name in event.streams else None
        indexed = bool(contract.of_kind("index"))
        moved[spec.name] = _move(data, order, slots, before, indexed=indexed)
        if pairs is not None:
            arrays[f"{spec.name}.pairs"] = _move_pairs(pairs, moved[spec.name].perm, slots)
    lost = dict.fromkeys(moved, 0)
    for spec in contract.of_kind("index"):
        if spec.name in arrays:
            arrays[spec.name] = _remap(spec, arrays[spec.name], moved, contract, lost)
    truncated = {
        name: Truncation(
            events=move.cut[0], objects=move.cut[1], longest=move.longest, targets=lost[name]
        )
        for name, move in moved.items()
    }
    streams = {**batch.streams, **{name: move.stream for name, move in moved.items()}}
    slots_of = {name: size for name, size in contract.slots.items() if size is not None}
    return replace(batch, streams=streams, arrays=arrays, slots=slots_of), truncated


def _sort_key(values: Array, order: str) -> Array:
    key: Array = values.astype(np.float64)
    return -key if order.startswith("-") else key


def _move(data: StreamData, order: str | None, slots: int, before: int, *, indexed: bool) -> _Moved:
    if isinstance(data, FlatStream):
        longest = int(data.counts.max(initial=0))
        stays = order is None or order.removeprefix("-") not in data.columns
        if stays and longest <= slots and not indexed:
            return _Moved(data, np.zeros(0, np.int64), data.offsets, None, before, (0, 0), longest)
        return _move_flat(data, order, slots, before)
    return _move_padded(data, order, slots)


def _move_flat(data: FlatStream, order: str | None, slots: int, before: int) -> _Moved:
    counts, offsets = data.counts, data.offsets
    total = int(offsets[-1])
    events = np.repeat(np.arange(len(data)), counts)
    rank = np.arange(total) - offsets[:-1][events]
    objects = np.arange(total)
    column = None if order is None else data.columns.get(order.removeprefix("-"))
    if order is not None and column is not None:
        objects = np.lexsort((_sort_key(column, order), events))
    places = np.empty(total, np.int64)
    places[objects] = np.where(rank < slots, rank, -2)
    longest = int(counts.max(initial=0))
    cut = (int((counts > slots).sum()), int(np.maximum(counts - slots, 0).sum()))
    stream = data if column is None else data.reorder(objects)
    if cut[0]:
        kept = rank < slots
        ends = np.concatenate([[0], np.cumsum(np.minimum(counts, slots))]).astype(np.int64)
        stream = FlatStream(
            ends,
            {name: values[kept] for name, values in stream.columns.items()},
            {name: values[kept] for name, values in stream.attached.items()},
        )
    return _Moved(stream, places, offsets, None, before, cut, longest)


def _move_padded(data: PaddedStream, order: str | None, slots: int) -> _Moved:
    mask, before, rows = data.mask, data.slots, len(data)
    counts = data.counts
    perm = np.broadcast_to(np.arange(before), mask.shape)
    column = None if order is None else data.columns.get(order.removeprefix("-"))
    if order is not None and column is not None:
        perm = np.argsort(_sort_key(column, order), axis=1, kind="stable")
        real = np.take_along_axis(mask, perm, 1)
        perm = np.take_along_axis(perm, np.argsort(~real, axis=1, kind="stable"), 1)
    elif slots < before:
        beyond = mask[:, slots:].any(axis=1)
        if beyond.any():
            # Only these events lose their gaps; the others keep the places of the file.
            perm = perm.copy()
            perm[beyond] = np.argsort(~mask[beyond], axis=1, kind="stable")
    moves = bool((perm != np.arange(before)).any())
    kept = min(slots, before)

    def arrange(values: Array, fill: float) -> Array:
        if moves:
            index = perm[:, :kept].reshape(rows, kept, *[1] * (values.ndim - 2))
            values = np.take_along_axis(values, index, 1)
        if slots == values.shape[1]:
            return values
        full = np.full((rows, slots, *values.shape[2:]), fill, values.dtype)
        full[:, :kept] = values[:, :kept]
        return full

    places = np.full(mask.shape, -1, np.int64)
    new = np.broadcast_to(np.arange(before), mask.shape)
    np.put_along_axis(places, perm, np.where(new < slots, new, -2), 1)
    places[~mask] = -1
    stream = PaddedStream(
        {name: arrange(values, 0) for name, values in data.columns.items()},
        arrange(mask, 0),
        {name: arrange(values, _fill(name, values)) for name, values in data.attached.items()},
    )
    over = np.maximum(counts - slots, 0)
    cut = (int((over > 0).sum()), int(over.sum()))
    return _Moved(stream, places, None, perm, before, cut, int(counts.max(initial=0)))


def _fill(name: str, values: Array) -> Any:  # noqa: ANN401  of the array's own type
    if values.dtype.kind in "US":
        return ""
    if not name.startswith("target/"):
        return 0
    return float("nan") if values.dtype.kind == "f" else -1


def _move_pairs(pairs: Array, perm: Array | None, slots: int) -> Array:
    if perm is None or pairs.shape[1] != perm.shape[1]:
        return pairs
    rows, before = perm.shape
    kept = min(slots, before)
    first = perm[:, :kept]
    event = np.arange(rows)[:, None, None]
    moved = pairs[event, first[:, :, None], first[:, None, :]]
    if kept == slots:
        return moved
    full = np.zeros((rows, slots, slots, *pairs.shape[3:]), pairs.dtype)
    full[:, :kept, :kept] = moved
    return full


def _remap(
    spec: TensorSpec,
    values: Array,
    moved: dict[str, _Moved],
    contract: Contract,
    lost: dict[str, int],
) -> Array:
    rule = next((rule for rule in spec.rules if isinstance(rule, Index)), None)
    if rule is None or values.ndim != 2 or values.shape[1] != len(rule.products):
        return values
    result = np.full(values.shape, -1, np.int64)
    slots = contract.slots
    for column, stream in enumerate(rule.streams):
        old = values[:, column].astype(np.int64)
        spans = _spans(stream, rule.order, moved, slots)
        for name, start, stop, target in spans:
            if name not in moved:
                continue
            here = (old >= start) if stop is None else (old >= start) & (old < stop)
            events = np.flatnonzero(here)
            new, gone = moved[name].find(events, old[events] - start)
            result[events, column] = np.where(new >= 0, new + target, -1)
            lost[name] += int(gone.sum())
    return result


def _spans(
    stream: str | None,
    order: tuple[str, ...],
    moved: dict[str, _Moved],
    slots: dict[str, int | None],
) -> list[tuple[str, int, int | None, int]]:
    """Stream, first and last index before, first index after: what one product counts through."""
    if stream is not None or len(order) == 1:
        return [(stream if stream is not None else order[0], 0, None, 0)]
    spans: list[tuple[str, int, int | None, int]] = []
    base, new_base = 0, 0
    for name in order:
        size = moved[name].slots if name in moved else slots[name] or 0
        spans.append((name, base, base + size, new_base))
        base, new_base = base + size, new_base + (slots[name] or 0)
    return spans
