"""Conform: order the objects of a stream, cut them to its slots, let the targets follow.

Objects are sorted by the stream's `order` (stable; NaN last), or keep the places that the file
gives them. What lies beyond the last slot is cut and counted. Arrays per object, features of pairs,
targets along every axis that is a stream's, and assignment targets are rearranged alike; a target
whose object was cut becomes missing (−1), and so does one that never pointed at a real object (the
check of the contract reports those).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from hepset.arrays import Array, Ragged
from hepset.batch import EventBatch
from hepset.dataset.manifest import Truncation
from hepset.events.rows import of_contract
from hepset.schema.contract import Contract
from hepset.schema.event import EventInfo
from hepset.schema.tensors import Index, TensorSpec


@dataclass(frozen=True)
class _Moved:
    """Where the objects of a stream went.

    Attributes:
        stream: The rearranged objects.
        before: The objects as they were.
        places: New slot of each object as it was, ``(object,)``; −2 = cut; None where every object
            kept its slot.
        slots: Slots that indices counted through before.
        cut: Events with cut objects, cut objects.
    """

    stream: Ragged
    before: Ragged
    places: Array | None
    slots: int
    cut: tuple[int, int]

    def find(self, events: Array, old: Array) -> tuple[Array, Array]:
        """Return the new slots of what stood in old ones (−1 = none), and what was cut."""
        objects = self.before.object_at(events, old)
        places = np.append(self.before.place if self.places is None else self.places, -1)
        new = places[objects]
        return np.maximum(new, -1), new == -2

    def permutation(self, slots: int) -> Array | None:
        """Return which old slot is in each of `slots` new ones; None where all stay."""
        if self.places is None:
            return None
        before = self.before
        table = np.full((len(before), slots), -1, np.int64)
        table[before.event_of, before.place] = self.places
        own = np.broadcast_to(np.arange(slots), table.shape)
        moves = ((table != own) & (table != -1)).any(axis=1)
        # Real objects by their new slot, then those that were cut, then padding.
        place = np.where(table >= 0, table, np.where(table == -2, slots, slots + 1))
        return np.where(moves[:, None], np.argsort(place, axis=1, kind="stable"), own)


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
        before = data.slots if data.slots is not None else batch.slots.get(spec.name, slots)
        order = event.streams[spec.name].order if spec.name in event.streams else None
        move = moved[spec.name] = _move(data, order, slots, before)
        if pairs is not None:
            arrays[f"{spec.name}.pairs"] = _move_pairs(
                pairs, move.permutation(pairs.shape[1]), slots
            )
    for spec in contract.of_kind("target"):
        if spec.is_table and spec.name in arrays:
            arrays[spec.name] = _move_table(spec, arrays[spec.name], moved)
    lost = dict.fromkeys(moved, 0)
    for spec in contract.of_kind("index"):
        if spec.name in arrays:
            arrays[spec.name] = _remap(spec, arrays[spec.name], moved, contract, lost)
    truncated = {
        name: Truncation(
            events=move.cut[0],
            objects=move.cut[1],
            longest=move.before.longest,
            targets=lost[name],
        )
        for name, move in moved.items()
    }
    streams = {**batch.streams, **{name: move.stream for name, move in moved.items()}}
    slots_of = {name: size for name, size in contract.slots.items() if size is not None}
    return replace(batch, streams=streams, arrays=arrays, slots=slots_of), truncated


def _sort_key(values: Array, order: str) -> Array:
    key: Array = values.astype(np.float64)
    return -key if order.startswith("-") else key


def _move(data: Ragged, order: str | None, slots: int, before: int) -> _Moved:
    counts = data.counts
    cut = (int((counts > slots).sum()), int(np.maximum(counts - slots, 0).sum()))
    column = None if order is None else data.columns.get(order.removeprefix("-"))
    stream = replace(data, slots=None, in_padding={})
    if order is not None and column is not None:
        objects = np.lexsort((_sort_key(column, order), data.event_of))
        place = data.rank
        places = np.empty(data.objects, np.int64)
        places[objects] = np.where(place < slots, place, -2)
        stream = stream.reorder(objects)
    elif data.width <= slots:
        return _Moved(stream, data, None, before, cut)
    else:
        place = data.place
        if data.origin_slot is not None:
            # Only events with objects beyond the slots lose their gaps.
            event = data.event_of
            beyond = np.zeros(len(data), bool)
            beyond[event[place >= slots]] = True
            place = np.where(beyond[event], data.rank, place)
            stream = replace(stream, origin_slot=place)
        places = np.where(place < slots, place, -2)
    if cut[0]:
        stream = stream.select(place < slots)
    return _Moved(stream, data, places, before, cut)


def _move_pairs(pairs: Array, perm: Array | None, slots: int) -> Array:
    if perm is None and pairs.shape[1] == slots:
        return pairs
    if perm is None:
        perm = np.broadcast_to(np.arange(pairs.shape[1]), pairs.shape[:2])
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


def _move_table(spec: TensorSpec, values: Array, moved: dict[str, _Moved]) -> Array:
    """Rearrange a target along every axis that is a stream's; padding becomes missing."""
    values = of_contract(values, spec)
    for axis, dim in enumerate(spec.dims[1:], 1):
        move, slots = moved.get(dim), spec.shape[axis]
        if move is None or slots is None:
            continue
        before = values.shape[axis]
        others = tuple(other for other in range(1, values.ndim) if other != axis)
        perm = move.permutation(before)
        if perm is not None:
            values = np.take_along_axis(values, np.expand_dims(perm, others), axis)
        kept = min(slots, before)
        inside = (slice(None),) * axis
        full = np.full((*values.shape[:axis], slots, *values.shape[axis + 1 :]), spec.fill)
        full = full.astype(spec.dtype)
        full[(*inside, slice(0, kept))] = values[(*inside, slice(0, kept))]
        is_real = np.expand_dims(move.stream.mask(slots), others)
        values = np.where(is_real, full, np.array(spec.fill).astype(spec.dtype))
    return values


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
