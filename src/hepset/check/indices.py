"""Rules on indices: they point at real objects, and no object is used twice.

Columns of an index tensor are products. A product with a stream counts through that stream's
slots, one without counts through the slots of all declared streams in file order, padding
included. −1 is a missing product.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from hepset.arrays import Array, Ragged
from hepset.check.findings import Findings, View
from hepset.schema.contract import Contract
from hepset.schema.tensors import Index, TensorSpec

_STRIDE = 1 << 32


@dataclass(frozen=True)
class Place:
    """Where one product points to.

    Attributes:
        label: Name in messages, ``target/assignment/t1.q1``.
        values: The index as written, shape ``(event,)``, int64.
        stream: Position of the stream among the declared ones, per event; −1 where the index is
            missing or not to be placed.
        local: Index in that stream, per event.
        beyond: True where the index lies outside all slots, per event.
    """

    label: str
    values: Array
    stream: Array
    local: Array
    beyond: Array


@dataclass(frozen=True)
class Pointers:
    """The products of one index tensor, placed."""

    spec: TensorSpec
    rule: Index
    places: list[Place]

    def codes(self) -> Iterator[tuple[str, Array]]:
        """One number per (stream, object) that a product points at; negative = nothing."""
        for place in self.places:
            yield place.label, np.where(place.stream >= 0, place.stream * _STRIDE + place.local, -1)


def place_indices(
    contract: Contract, views: Mapping[str, Mapping[str, View]], streams: Mapping[str, Ragged]
) -> list[Pointers]:
    """Find out where every product of every index tensor points to."""
    slots = {name: _slots(name, data, contract) for name, data in streams.items()}
    ends = {name: _end(data, slots[name]) for name, data in streams.items()}
    found = []
    for spec in contract.of_kind("index"):
        view = views.get(spec.name, {}).get("")
        rules = [rule for rule in spec.rules if isinstance(rule, Index)]
        if view is None or not rules:
            continue
        rule = rules[0]
        columns = np.ascontiguousarray(view.values.T).astype(np.int64, copy=False)
        places = [
            _place(f"{spec.name}.{product}", values, stream, rule.order, slots, ends)
            for product, stream, values in zip(rule.products, rule.streams, columns, strict=True)
        ]
        found.append(Pointers(spec, rule, places))
    return found


def check_indices(
    pointers: list[Pointers],
    streams: Mapping[str, Ragged],
    exclusive: tuple[tuple[str, ...], ...],
    inverted: set[str],
    findings: Findings,
) -> None:
    """Check range, padding and double use.

    Args:
        pointers: All index tensors.
        streams: The streams they point into.
        exclusive: Groups of index tensors that may not share an object.
        inverted: Streams whose mask was found to be inverted: pointing at padding follows from it.
        findings: Takes the violations.
    """
    codes: dict[str, list[tuple[str, Array]]] = {}
    for pointer in pointers:
        for place in pointer.places:
            _range(place, findings)
            _padding(place, pointer.rule, streams, inverted, findings)
        codes[pointer.spec.name] = list(pointer.codes())
        _twice_in(pointer.spec.name, codes[pointer.spec.name], findings)
    for group in exclusive:
        members = [name for name in group if name in codes]
        for position, name in enumerate(members):
            for other in members[position + 1 :]:
                _twice_across(name, codes[name], other, codes[other], findings)


def points_at_padding(pointers: list[Pointers], name: str, data: Ragged) -> tuple[Array, int, int]:
    """Return the events that point at padding of a stream, and how many indices do, of how many."""
    rows = np.zeros(len(data), bool)
    masked = valid = 0
    for pointer in pointers:
        for place in pointer.places:
            if name not in pointer.rule.order:
                continue
            here = place.stream == pointer.rule.order.index(name)
            events = np.flatnonzero(here)
            bad = ~_is_real(data, events, place.local[events])
            rows[events[bad]] = True
            masked += int(bad.sum())
            valid += len(events)
    return np.flatnonzero(rows), masked, valid


def _slots(name: str, data: Ragged, contract: Contract) -> int | None:
    if data.slots is not None:
        return data.slots
    return contract[name].shape[1] if name in contract else None


def _end(data: Ragged, slots: int | None) -> int:
    """First index that no event can have; the longest event counts where slots do not bound."""
    return data.slots if data.slots is not None else max(slots or 0, data.width)


def _place(
    label: str,
    values: Array,
    stream: str | None,
    order: tuple[str, ...],
    slots: Mapping[str, int | None],
    ends: Mapping[str, int],
) -> Place:
    if stream is not None or len(order) == 1:
        name = stream if stream is not None else order[0]
        beyond = values >= ends[name] if name in ends else np.ones(len(values), bool)
        number = np.where((values >= 0) & ~beyond, order.index(name), -1)
        return Place(label, values, number, values, beyond & (name in ends))
    number = np.full(len(values), -1)
    local = values.copy()
    base = 0
    for position, name in enumerate(order):
        size = slots.get(name)
        if size is None:
            # Where this stream ends is not known; only the last stream may be open-ended.
            if position == len(order) - 1 and name in slots:
                rest = values >= base
                number[rest], local[rest] = position, values[rest] - base
            return Place(label, values, number, local, np.zeros(len(values), bool))
        inside = (values >= base) & (values < base + size)
        number[inside], local[inside] = position, values[inside] - base
        base += size
    return Place(label, values, number, local, values >= base)


def _is_real(data: Ragged, events: Array, local: Array) -> Array:
    real: Array = data.object_at(events, local) >= 0
    return real


def _range(place: Place, findings: Findings) -> None:
    values = place.values
    if not len(values):
        return
    if values.min() < -1:
        rows = np.flatnonzero(values < -1)
        findings.events(
            "index",
            place.label,
            rows,
            expected="an index from 0, or −1 for missing",
            found=str(values[rows[0]]),
            advice="write −1 for a product that was not found",
        )
    if place.beyond.any():
        rows = np.flatnonzero(place.beyond)
        findings.events(
            "index",
            place.label,
            rows,
            expected="an index inside the slots",
            found=str(values[rows[0]]),
            advice="indices count from 0; check the number of slots and the stream of this product",
        )


def _padding(
    place: Place,
    rule: Index,
    streams: Mapping[str, Ragged],
    inverted: set[str],
    findings: Findings,
) -> None:
    for position, name in enumerate(rule.order):
        data = streams.get(name)
        if data is None or name in inverted:
            continue
        events = np.flatnonzero(place.stream == position)
        bad = ~_is_real(data, events, place.local[events])
        if not bad.any():
            continue
        rows = events[bad]
        found = f"{place.values[rows[0]]} in an event with {int(data.counts[rows[0]])} {name}"
        findings.events(
            "padding",
            place.label,
            rows,
            expected=f"the index of a real object of {name}",
            found=found,
            advice="write −1 where the object was lost, or check the mask and the counting",
        )


def _twice_in(name: str, codes: list[tuple[str, Array]], findings: Findings) -> None:
    for position, (label, mine) in enumerate(codes):
        for other, theirs in codes[position + 1 :]:
            rows = _same(mine, theirs)
            if len(rows):
                product = other.removeprefix(f"{name}.")
                findings.events(
                    "twice",
                    label,
                    rows,
                    expected=f"another object than {product}",
                    found=f"both point at object {mine[rows[0]] % _STRIDE}",
                    advice="one object is one product: write −1 for the one that was not found",
                )


def _twice_across(
    name: str,
    mine: list[tuple[str, Array]],
    other: str,
    theirs: list[tuple[str, Array]],
    findings: Findings,
) -> None:
    hits: dict[int, str] = {}
    for label, codes in mine:
        for other_label, other_codes in theirs:
            for row in _same(codes, other_codes):
                text = f"{label.removeprefix(name + '.')} and {other_label} both point at object "
                hits.setdefault(int(row), text + str(codes[row] % _STRIDE))
    if not hits:
        return
    rows = np.array(sorted(hits))
    findings.events(
        "twice",
        name,
        rows,
        expected=f"other objects than {other}",
        found=hits[int(rows[0])],
        advice="set shared_objects: true if two particles may share an object (boosted topologies)",
    )


def _same(mine: Array, theirs: Array) -> Array:
    rows: Array = np.flatnonzero((mine == theirs) & (mine >= 0))
    return rows
