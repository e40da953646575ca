from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepset.arrays import Array, Ragged, join, missing_value, offsets_of, padding_value


@st.composite
def in_slots(draw: st.DrawFn, events: int | None = None) -> tuple[Array, Array, Array]:
    """Values and attached vectors in slots, with a mask that may have gaps."""
    rows = draw(st.integers(0, 6)) if events is None else events
    slots = draw(st.integers(1, 5))
    bits = st.lists(st.booleans(), min_size=rows * slots, max_size=rows * slots)
    mask = np.array(draw(bits), bool).reshape(rows, slots)
    values = np.arange(1, mask.size + 1, dtype=np.int32).reshape(mask.shape)
    return values, np.stack([values, -values], -1).astype(np.float64), mask


def ragged(drawn: tuple[Array, Array, Array]) -> Ragged:
    values, vectors, mask = drawn
    return Ragged.from_slots({"n": values}, mask, {"target/v": vectors}, inspect_padding=True)


def by_event(data: Ragged) -> list[list[tuple[int, int, list[float]]]]:
    """Slot, value and vector of every object, event by event, one object at a time."""
    found: list[list[tuple[int, int, list[float]]]] = []
    for event in range(len(data)):
        found.append([])
        for place, index in enumerate(range(data.offsets[event], data.offsets[event + 1])):
            slot = place if data.origin_slot is None else int(data.origin_slot[index])
            vector = data.attached["target/v"][index].tolist()
            found[-1].append((slot, int(data.columns["n"][index]), vector))
    return found


@given(in_slots())
def test_slots_come_back_with_their_gaps(drawn: tuple[Array, Array, Array]) -> None:
    values, vectors, mask = drawn
    data = ragged(drawn)
    slots = mask.shape[1]
    assert (data.slots, data.objects) == (slots, mask.sum())
    assert data.counts.tolist() == mask.sum(axis=1).tolist()
    assert np.array_equal(data.mask(slots), mask)
    assert np.array_equal(data.pad(data.columns["n"], slots), np.where(mask, values, 0))
    wide = data.pad(data.attached["target/v"], slots + 2, np.nan)
    assert np.array_equal(wide[:, :slots][mask], vectors[mask])
    assert np.isnan(wide[:, :slots][~mask]).all()
    assert np.isnan(wide[:, slots:]).all()
    in_front = bool((np.sort(~mask, axis=1) == ~mask).all())
    assert (data.origin_slot is None) == in_front
    assert data.in_padding["n"].tolist() == (~mask).sum(axis=1).tolist()


@given(in_slots(), st.data())
def test_taking_and_cutting_follow_the_events(
    drawn: tuple[Array, Array, Array], choose: st.DataObject
) -> None:
    data = ragged(drawn)
    objects = by_event(data)
    number = st.integers(0, max(len(data) - 1, 0))
    rows = choose.draw(st.lists(number, max_size=9)) if len(data) else []
    taken = data.take(np.array(rows, np.int64))
    assert by_event(taken) == [objects[row] for row in rows]
    assert taken.in_padding["n"].tolist() == [data.in_padding["n"][row] for row in rows]
    start = choose.draw(st.integers(0, len(data)))
    stop = choose.draw(st.integers(start, len(data)))
    assert by_event(data.part(start, stop)) == objects[start:stop]
    assert by_event(join([data.part(0, start), data.part(start, len(data))])) == objects
    kept = np.array([choose.draw(st.booleans()) for _ in range(data.objects)], bool)
    flags = iter(kept)
    expected = [[o for o in own if next(flags)] for own in objects]
    if data.origin_slot is None:
        expected = [[(i, *o[1:]) for i, o in enumerate(own)] for own in expected]
    assert by_event(data.select(kept)) == expected


@given(in_slots(3), in_slots(2), st.booleans())
def test_lists_and_slots_are_joined_in_order(
    first: tuple[Array, Array, Array], second: tuple[Array, Array, Array], lists: bool
) -> None:
    parts = [ragged(first), ragged(second)]
    if lists:
        parts[1] = Ragged(parts[1].offsets, parts[1].columns, parts[1].attached)
    whole = join(parts)
    assert by_event(whole) == [own for part in parts for own in by_event(part)]
    assert whole.slots == (None if lists else max(first[2].shape[1], second[2].shape[1]))


@given(in_slots(), st.booleans())
def test_the_object_in_a_slot(drawn: tuple[Array, Array, Array], lists: bool) -> None:
    data = ragged(drawn)
    if lists:
        data = Ragged(data.offsets, data.columns, data.attached)
    slots = drawn[2].shape[1]
    events, places = (axis.ravel() for axis in np.indices((len(data), slots + 2)))
    found = data.object_at(events, places)
    position = iter(range(data.objects))
    where = {
        (event, slot): next(position)
        for event, own in enumerate(by_event(data))
        for slot, _, _ in own
    }
    expected = [
        where.get((e, s), -1) for e, s in zip(events.tolist(), places.tolist(), strict=True)
    ]
    assert found.tolist() == expected


def test_reordered_objects_stand_in_front() -> None:
    mask = np.array([[False, True, True], [True, False, False]])
    data = Ragged.from_slots({"n": np.array([[0, 5, 9], [7, 0, 0]])}, mask)
    assert data.origin_slot is not None
    turned = data.reorder(np.array([1, 0, 2]))
    assert turned.pad(turned.columns["n"], 3).tolist() == [[9, 5, 0], [7, 0, 0]]


def test_a_single_array_is_a_list_per_event() -> None:
    lists = Ragged.of(offsets_of([2, 0, 1]), np.array([1.5, 2.5, 3.5]))
    assert lists.map(lambda values: values * 2).values.tolist() == [3.0, 5.0, 7.0]
    assert (lists.width, lists.longest, lists.objects, len(lists)) == (2, 2, 3, 3)
    assert (lists.event_of.tolist(), lists.rank.tolist()) == ([0, 0, 2], [0, 1, 0])


def test_a_part_of_a_window_keeps_its_own_offsets() -> None:
    window = Ragged.of(np.array([4, 6, 7]), np.arange(10))
    assert window.rank.tolist() == [0, 1, 0]
    assert dataclasses.replace(window).part(0, 2).values.tolist() == [4, 5, 6]
    assert join([window, window]).values.tolist() == [4, 5, 6, 4, 5, 6]


@pytest.mark.parametrize(
    ("dtype", "missing", "padding"),
    [("i4", -1, 0), ("u2", 0, 0), ("bool", False, False), ("<U3", "", ""), ("S2", b"", b"")],
)
def test_what_is_missing_and_what_pads(dtype: str, missing: Any, padding: Any) -> None:
    assert missing_value(dtype) == missing
    assert padding_value("target/x", dtype) == missing
    assert padding_value("extra/x", dtype) == padding
    assert type(padding_value("target/x", dtype)) is type(missing)


def test_missing_numbers_are_nan() -> None:
    assert np.isnan(missing_value("float32"))
    assert np.isnan(padding_value("target/x", "f8"))
    assert padding_value("extra/x", "f8") == 0


def test_nothing_cannot_be_joined() -> None:
    with pytest.raises(ValueError, match="no part to join"):
        join([])
