from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepset.batch import EventBatch, FlatStream, PaddedStream, concatenate, make_ids
from hepset.errors import ContractError


def flat_batch(counts: list[int], **parts: object) -> EventBatch:
    total = sum(counts)
    stream = FlatStream(
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        {"pt": np.arange(total, dtype=np.float32) + 1, "n": np.arange(total, dtype=np.int16)},
        {"target/origin": np.arange(total, dtype=np.int64)},
    )
    return EventBatch(
        ids=make_ids(0, range(len(counts))),
        streams={"jets": stream},
        arrays={"weight": np.ones(len(counts))},
        sources=("a.root",),
        **parts,  # type: ignore[arg-type]
    )


def test_padding_puts_objects_in_front() -> None:
    batch = flat_batch([2, 0, 1], slots={"jets": 3})
    assert batch["jets"].dtype == np.float32
    assert batch["jets"][..., 0].tolist() == [[1, 2, 0], [0, 0, 0], [3, 0, 0]]
    assert batch["jets.mask"].sum(axis=1).tolist() == [2, 0, 1]
    assert batch["target/origin"].tolist() == [[0, 1, -1], [-1, -1, -1], [2, -1, -1]]


def test_without_slots_the_longest_event_decides() -> None:
    assert flat_batch([2, 0, 1])["jets"].shape == (3, 2, 2)


def test_too_few_slots_are_an_error_with_the_way_out() -> None:
    with pytest.raises(ContractError, match=r"1 of 3 events have more than 1 objects.*slots: 2"):
        flat_batch([2, 0, 1], slots={"jets": 1})["jets"]


@given(st.lists(st.integers(0, 5), max_size=8))
def test_flat_and_padded_are_the_same_objects(counts: list[int]) -> None:
    batch = flat_batch(counts, slots={"jets": 6})
    again = PaddedStream(
        batch.padded("jets").columns, batch["jets.mask"], batch.padded("jets").attached
    ).flat()
    assert np.array_equal(again.offsets, batch.flat("jets").offsets)
    for name, column in batch.flat("jets").columns.items():
        assert np.array_equal(again.columns[name], column)
    assert np.array_equal(
        again.attached["target/origin"], batch["target/origin"][batch["jets.mask"]]
    )


@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.data())
def test_taking_events_takes_their_objects(counts: list[int], data: st.DataObject) -> None:
    rows = np.array(data.draw(st.lists(st.integers(0, len(counts) - 1), max_size=10)), dtype=int)
    batch = flat_batch(counts, slots={"jets": 4})
    taken = batch.take(rows)
    assert np.array_equal(taken["jets"], batch["jets"][rows])
    assert np.array_equal(taken.ids, batch.ids[rows])
    assert np.array_equal(taken["target/origin"], batch["target/origin"][rows])


def test_gaps_in_a_mask_keep_their_slots() -> None:
    mask = np.array([[True, False, True]])
    stream = PaddedStream({"pt": np.array([[5.0, 9.0, 7.0]])}, mask)
    batch = EventBatch(ids=make_ids(0, [0]), streams={"jets": stream})
    assert batch["jets"][0, :, 0].tolist() == [5, 0, 7]
    assert batch.flat("jets").columns["pt"].tolist() == [5, 7]
    doubled = batch.with_columns("jets", {"x": batch.flat("jets").columns["pt"] * 2})
    assert doubled["jets"][0, :, 1].tolist() == [10, 0, 14]


def test_only_padding_may_be_dropped() -> None:
    stream = PaddedStream({"pt": np.ones((1, 3))}, np.array([[True, False, False]]))
    batch = EventBatch(ids=make_ids(0, [0]), streams={"jets": stream}, slots={"jets": 2})
    assert batch["jets"].shape == (1, 2, 1)
    full = EventBatch(
        ids=make_ids(0, [0]),
        streams={"jets": PaddedStream({"pt": np.ones((1, 3))}, np.ones((1, 3), bool))},
        slots={"jets": 2},
    )
    with pytest.raises(ContractError, match="real objects beyond slot 2"):
        full["jets"]


def test_rows_that_disagree_are_refused() -> None:
    with pytest.raises(ContractError, match=r"a\.root: weight: rows disagree.*expected 2.*found 3"):
        EventBatch(
            ids=make_ids(0, [0, 1]), streams={}, arrays={"weight": np.ones(3)}, sources=("a.root",)
        )


def test_a_batch_goes_through_its_names() -> None:
    batch = flat_batch([1, 2])
    assert list(batch) == ["jets", "jets.mask", "target/origin", "weight"]
    assert all(name in batch for name in batch)


def test_indices_keep_pointing_at_objects_behind_gaps() -> None:
    mask = np.array([[True, False, True], [False, True, True]])
    values = np.array([[1.0, 2, 3], [4, 5, 6]])
    slots = PaddedStream({"x": values}, mask)
    lists = FlatStream(np.array([0, 1]), {"x": np.array([7.0])})
    parts = [
        EventBatch(make_ids(0, range(2)), {"jets": slots}),
        EventBatch(make_ids(1, range(1)), {"jets": lists}),
    ]
    whole = concatenate(parts)
    assert whole["jets"][..., 0].tolist() == [[1, 0, 3], [0, 5, 6], [7, 0, 0]]
    assert whole.take(np.array([1]))["jets"][0, 2, 0] == 6


def test_a_mask_that_is_none_is_refused_with_the_file() -> None:
    stream = PaddedStream({"x": np.ones((2, 3))}, np.array([[1, 0, 0], [1, 3, 0]]))
    with pytest.raises(ContractError, match=r"a\.h5: jets\.mask: found 3 \(row 1, slot 1\)"):
        EventBatch(make_ids(0, range(2)), {"jets": stream}, sources=("a.h5",))
    with pytest.raises(ContractError, match=r"jets\.x: shape \(2, 3\) beside a mask of shape"):
        EventBatch(make_ids(0, range(2)), {"jets": PaddedStream(stream.columns, np.ones((2, 4)))})


def test_an_unknown_tensor_is_a_key_error_with_a_hint() -> None:
    with pytest.raises(KeyError, match="did you mean 'weight'"):
        flat_batch([1])["wieght"]


@given(st.lists(st.lists(st.integers(0, 3), max_size=4), min_size=1, max_size=4))
def test_concatenation_is_the_inverse_of_cutting(parts: list[list[int]]) -> None:
    whole = flat_batch([n for part in parts for n in part], slots={"jets": 3})
    start, cut = 0, []
    for part in parts:
        cut.append(whole.take(np.arange(start, start + len(part))))
        start += len(part)
    joined = concatenate(cut)
    assert np.array_equal(joined["jets"], whole["jets"])
    assert np.array_equal(joined.ids, whole.ids)
