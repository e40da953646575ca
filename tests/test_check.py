"""Every rule of the contract, broken on purpose in batches small enough to count by hand."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hepset.arrays import Array, Ragged
from hepset.batch import EventBatch, FlatStream, PaddedStream, concatenate, make_ids
from hepset.check import check_batch
from hepset.errors import ContractError
from hepset.schema.contract import Contract, compile_contract
from hepset.schema.event import EventInfo
from hepset.schema.report import Report, Violation
from hepset.schema.tensors import NonNegative, OneHot, TensorSpec

EVENT: dict[str, Any] = {
    "streams": {
        "jets": {
            "slots": 4,
            "features": {
                "pt": {"unit": "GeV", "transform": ["log1p", "standardise"]},
                "eta": {},
                "btag": {},
            },
        },
        "leptons": {"slots": 2, "features": {"pt": {"unit": "GeV", "transform": "log"}}},
    },
    "globals": {"met": {"features": {"pt": {"unit": "GeV"}, "phi": {}}}},
    "particles": {
        "t1": {"b": "jets", "q": "jets"},
        "t2": {"b": "jets", "l": "leptons"},
        "h": {"x": None},
    },
    "targets": {
        "signal": {"kind": "classification", "classes": ["background", "signal"]},
        "flavour": {"kind": "classification"},
        "m": {"kind": "regression", "unit": "GeV", "transform": "log1p"},
        "jet_e": {"kind": "regression", "stream": "jets"},
    },
}
EVENTS = 10
NAN = float("nan")


def contract_of(**changes: Any) -> Contract:
    return compile_contract(EventInfo.parse({**EVENT, **changes}, "event"))


CONTRACT = contract_of()


def padded_batch(events: int = EVENTS) -> EventBatch:
    """Three jets in four slots, one lepton in two; padding is full of nonsense."""
    mask = np.tile(np.array([True, True, True, False]), (events, 1))
    lepton_mask = np.tile(np.array([True, False]), (events, 1))
    pt = np.where(mask, np.linspace(20, 200, mask.size).reshape(mask.shape), 0).astype(np.float32)
    eta = np.where(mask, 0.5, NAN).astype(np.float32)
    btag = np.where(mask, 1, 77)
    jet_e = np.where(mask, 30.0, np.inf).astype(np.float32)
    leptons = {"pt": np.where(lepton_mask, 30, -5).astype(np.float32)}

    def rows(*values: int) -> Array:
        return np.tile(np.array(values), (events, 1))

    streams = {
        "jets": PaddedStream({"pt": pt, "eta": eta, "btag": btag}, mask, {"target/jet_e": jet_e}),
        "leptons": PaddedStream(leptons, lepton_mask),
    }
    batch = EventBatch(
        make_ids(0, range(100, 100 + events)),
        streams,
        {
            "met": np.ones((events, 2), np.float32),
            "target/signal": np.arange(events) % 2,
            "target/flavour": np.arange(events) - 1,
            "target/m": np.full(events, 172.5, np.float32),
            "target/assignment/t1": rows(0, 1),
            "target/assignment/t2": rows(2, 0),
            "target/assignment/h": rows(-1),
            "weight": np.where(np.arange(events) == 3, -1.0, 1.0),
        },
        sources=["a.h5"],
    )
    for name, data in streams.items():
        SLOTS[id(batch.streams[name])] = batch.streams[name], data
    return batch


SLOTS: dict[int, tuple[Ragged, PaddedStream]] = {}
"""Compressed stream → the slots that it was given in, padding included."""


def as_given(batch: EventBatch, name: str) -> Any:
    """A stream as it was given: in slots, or as lists."""
    data = batch.streams[name]
    return SLOTS.get(id(data), (data, data))[1]


def as_lists(batch: EventBatch) -> EventBatch:
    streams = {
        name: Ragged(data.offsets, data.columns, data.attached)
        for name, data in batch.streams.items()
    }
    return dataclasses.replace(batch, streams=streams)


def flat_batch() -> EventBatch:
    return as_lists(padded_batch())


def arrays(batch: EventBatch, **changes: Any) -> EventBatch:
    """Replace values of arrays at (row…); a plain array replaces all. `__` stands for `/`."""
    changed = dict(batch.arrays)
    for key, change in changes.items():
        name = key.replace("__", "/")
        if isinstance(change, dict):
            changed[name] = changed[name].copy()
            for where, value in change.items():
                changed[name][where] = value
        else:
            changed[name] = change
    return dataclasses.replace(batch, arrays=changed)


def stream(batch: EventBatch, name: str, **changes: Any) -> EventBatch:
    data = dataclasses.replace(as_given(batch, name), **changes)
    streams: Any = {**batch.streams, name: data}
    changed = dataclasses.replace(batch, streams=streams)
    if isinstance(data, PaddedStream):
        SLOTS[id(changed.streams[name])] = changed.streams[name], data
    return changed


def mask_of(batch: EventBatch, name: str) -> Array:
    mask: Array = as_given(batch, name).mask
    return mask


def column(batch: EventBatch, name: str, feature: str, values: Any) -> EventBatch:
    """Replace a column, or single entries of it."""
    columns = dict(as_given(batch, name).columns)
    if isinstance(values, dict):
        columns[feature] = columns[feature].copy()
        for where, value in values.items():
            columns[feature][where] = value
    else:
        columns[feature] = values
    return stream(batch, name, columns=columns)


def check(batch: EventBatch, contract: Contract = CONTRACT, **options: bool) -> list[Violation]:
    return list(check_batch(contract, batch, **options).violations)


def only(batch: EventBatch, contract: Contract = CONTRACT, **options: bool) -> Violation:
    violations = check(batch, contract, **options)
    assert len(violations) == 1, "\n".join(map(str, violations))
    return violations[0]


def test_good_batches_have_no_violations() -> None:
    for batch in (padded_batch(), flat_batch(), concatenate([padded_batch(), flat_batch()])):
        report = batch_report(batch)
        assert report.violations == ()
        assert report.ok
        assert report.events == len(batch)


def batch_report(batch: EventBatch) -> Report:
    return CONTRACT.check(batch, strict=True)


def test_message_says_where_how_many_expected_found_and_what_to_do() -> None:
    batch = column(padded_batch(), "jets", "pt", {(4, 1): NAN, (7, 2): np.inf, (7, 3): NAN})
    assert str(only(batch)) == (
        "a.h5: jets.pt: finite in 2 of 10 events (first: entry 104): expected a finite number, "
        "found nan (slot 1); mask the object if it is not real, or replace the value where the "
        "file is made"
    )


def test_all_violations_at_once_and_strict_raises_them() -> None:
    batch = column(padded_batch(), "jets", "pt", {(4, 1): NAN})
    batch = arrays(batch, target__signal={2: 7}, weight={0: np.inf})
    rules = [(v.rule, v.tensor) for v in check(batch)]
    assert rules == [("finite", "jets.pt"), ("labels", "target/signal"), ("finite", "weight")]
    with pytest.raises(ContractError, match=r"\(3 violations\)") as raised:
        CONTRACT.check(batch, strict=True)
    assert "target/signal: labels in 1 of 10 events (first: entry 102)" in str(raised.value)


@pytest.mark.parametrize("make", [padded_batch, flat_batch])
def test_padded_and_flat_find_the_same(make: Any) -> None:
    batch = padded_batch()
    batch = column(batch, "jets", "pt", {(4, 1): -2.0, (5, 0): -np.inf})
    batch = arrays(batch, target__assignment__t1={(6, 1): 3})
    if make is flat_batch:
        batch = dataclasses.replace(batch, streams={n: batch.flat(n) for n in batch.streams})
    found = {(v.rule, v.tensor, v.events, v.entry) for v in check(batch)}
    assert found == {
        ("finite", "jets.pt", 1, 105),
        ("domain", "jets.pt", 2, 104),
        ("padding", "target/assignment/t1.q", 1, 106),
    }


class TestNames:
    def test_missing_stream_is_an_error_even_without_training(self) -> None:
        batch = padded_batch()
        batch = dataclasses.replace(batch, streams={"jets": batch.streams["jets"]})
        batch = arrays(batch, target__assignment__t2=np.full((EVENTS, 2), -1))
        violation = only(batch, training=False)
        assert (violation.rule, violation.tensor) == ("missing", "leptons")
        assert violation.expected == (
            "leptons (event, leptons: 2, feature: 1) float32, asked for by event"
        )

    def test_targets_are_required_by_heads_and_for_training_only(self) -> None:
        head = CONTRACT["target/signal"].model_copy(
            update={"required": True, "wanted_by": ("signal_head",)}
        )
        contract = CONTRACT.merge(Contract(tensors={"target/signal": head}))
        batch = padded_batch()
        del batch.arrays["target/signal"]
        assert check(batch) == []
        assert check(batch, contract, training=False) == []
        violation = only(batch, contract)
        assert violation.tensor == "target/signal"
        assert "signal_head" in violation.expected

    def test_misspelt_needs_a_missing_near_name(self) -> None:
        batch = padded_batch()
        batch.arrays["target/signl"] = batch.arrays.pop("target/signal")
        violation = only(batch)
        assert (violation.rule, violation.severity) == ("misspelt", "error")
        assert violation.advice == "rename it to 'target/signal'; that one is missing"

    def test_near_name_beside_the_right_one_is_a_note(self) -> None:
        batch = arrays(padded_batch(), target__signl=np.zeros(EVENTS))
        violation = only(batch)
        assert (violation.rule, violation.severity) == ("unknown", "note")
        assert check_batch(CONTRACT, batch).ok

    def test_short_names_that_differ_are_not_misspelt(self) -> None:
        batch = padded_batch()
        batch.arrays["target/k"] = batch.arrays.pop("target/m")
        assert only(batch).severity == "note"

    def test_extras_are_silent(self) -> None:
        batch = arrays(padded_batch(), extra__run=np.zeros(EVENTS), weight__signal=np.ones(EVENTS))
        assert check(batch) == []

    def test_missing_global_names_the_misspelt_one(self) -> None:
        batch = padded_batch()
        batch.arrays["mett"] = batch.arrays.pop("met")
        missing, misspelt = check(batch)
        assert missing.advice == "rename 'mett' to 'met'"
        assert misspelt.tensor == "mett"


class TestSizes:
    def test_feature_missing_names_the_nearest(self) -> None:
        batch = padded_batch()
        columns = dict(as_given(batch, "jets").columns)
        columns["btagg"] = columns.pop("btag")
        missing, extra = check(stream(batch, "jets", columns=columns))
        assert (missing.rule, missing.tensor) == ("features", "jets.btag")
        assert missing.advice.endswith("did you mean 'btagg'?")
        assert extra.severity == "note"

    def test_more_features_and_another_order(self) -> None:
        batch = padded_batch()
        more = column(batch, "jets", "charge", np.zeros((EVENTS, 4)))
        assert only(more).found == "4 features, also charge"
        assert only(more, raw=True).severity == "note"
        columns = dict(reversed(as_given(batch, "jets").columns.items()))
        turned = stream(batch, "jets", columns=columns)
        assert only(turned).found == "btag, eta, pt"
        assert check(turned, raw=True) == []

    def test_global_with_a_wrong_number_of_features(self) -> None:
        violation = only(arrays(padded_batch(), met=np.ones((EVENTS, 3))))
        assert violation.expected == "shape (event, feature: 2) (pt, phi)"
        assert violation.found == "shape (10, 3)"

    def test_slot_count_of_a_padded_stream(self) -> None:
        contract = CONTRACT.model_copy(
            update={
                "tensors": {
                    **CONTRACT.tensors,
                    "jets": CONTRACT["jets"].model_copy(update={"shape": (None, 5, 3)}),
                }
            }
        )
        violation = only(padded_batch(), contract)
        assert (violation.rule, violation.expected, violation.found) == (
            "slots",
            "5 slots",
            "4 slots",
        )
        fitted = dataclasses.replace(padded_batch(), slots={"jets": 5})
        assert check(fitted, contract) == []

    def test_more_objects_than_slots(self) -> None:
        batch = flat_batch()
        offsets = np.concatenate([[0], np.cumsum([3] * 4 + [6] + [3] * 4 + [0])])
        long = stream(batch, "jets", offsets=offsets)
        violations = check(long)
        assert (violations[0].rule, violations[0].events, violations[0].entry) == ("slots", 1, 104)
        assert violations[0].found == "6 objects, 6 in the longest event"
        assert check(long, raw=True)[0].severity == "warning"

    def test_shape_of_a_column_and_a_target(self) -> None:
        with pytest.raises(ContractError, match=r"a\.h5: jets\.pt: shape \(10, 5\) beside a mask"):
            column(padded_batch(), "jets", "pt", np.ones((EVENTS, 5), np.float32))
        wrong = column(flat_batch(), "jets", "pt", np.ones((30, 2), np.float32))
        assert only(wrong).rule == "shape"
        wrong = arrays(padded_batch(), target__signal=np.zeros((EVENTS, 1), int))
        assert only(wrong).found == "shape (10, 1)"

    def test_stream_given_as_arrays(self) -> None:
        batch = padded_batch()
        values, mask = batch["leptons"], batch["leptons.mask"]
        streams = {"jets": batch.streams["jets"]}
        plain = dataclasses.replace(batch, streams=streams)
        good = plain.with_arrays({"leptons": values, "leptons.mask": mask})
        assert check(good) == []
        assert check(plain.with_arrays({"leptons": values}))[0].tensor == "leptons.mask"
        two = np.concatenate([values, values], axis=2)
        bad = plain.with_arrays({"leptons": two, "leptons.mask": mask})
        assert check(bad)[0].expected == "shape (event, leptons: 2, feature: 1)"

    def test_predictions_and_ids(self) -> None:
        batch = dataclasses.replace(padded_batch(), predictions={"signal/p": np.zeros(3)})
        assert only(batch).found == "3 rows for 10 events"
        batch = dataclasses.replace(padded_batch(), ids=np.arange(EVENTS))
        assert only(batch).rule == "ids"


class TestDtypes:
    def test_float64_beyond_float32(self) -> None:
        values = as_given(padded_batch(), "jets").columns["pt"].astype(np.float64)
        values[6, 0] = 1e39
        values[7, 3] = 1e39
        violation = only(column(padded_batch(), "jets", "pt", values))
        assert (violation.rule, violation.events, violation.entry) == ("dtype", 1, 106)
        assert violation.found == "1e+39 (slot 0)"

    def test_integers_beyond_the_mantissa(self) -> None:
        fits = column(padded_batch(), "jets", "btag", {(6, 0): 2**24})
        assert check(fits) == []
        violation = only(column(padded_batch(), "jets", "btag", {(6, 0): 2**24 + 1}))
        assert violation.found == "16777217 (slot 0)"
        assert "up to 16777216" in violation.expected

    def test_fractional_label_and_index(self) -> None:
        whole = padded_batch().arrays["target/signal"].astype(np.float32)
        assert check(arrays(padded_batch(), target__signal=whole)) == []
        half = whole.copy()
        half[3] = 0.5
        violation = only(arrays(padded_batch(), target__signal=half))
        assert (violation.expected, violation.found, violation.entry) == (
            "integers",
            "0.5",
            103,
        )
        index = np.array([[0.0, NAN]] * EVENTS)
        assert only(arrays(padded_batch(), target__assignment__t1=index)).found == "nan (slot 1)"

    def test_unsigned_integer_beyond_int64(self) -> None:
        labels = np.zeros(EVENTS, np.uint64)
        labels[2] = 2**63
        assert only(arrays(padded_batch(), target__flavour=labels)).entry == 102

    def test_text_is_no_number(self) -> None:
        violation = only(arrays(padded_batch(), target__m=np.array(["x"] * EVENTS)))
        assert violation.found == "dtype <U1"

    def test_mask_of_zeros_and_ones(self) -> None:
        mask = mask_of(padded_batch(), "jets").astype(np.int8)
        assert check(stream(padded_batch(), "jets", mask=mask)) == []
        with pytest.raises(ContractError, match=r"a\.h5: jets\.mask: found 2 \(row 0, slot 0\)"):
            stream(padded_batch(), "jets", mask=mask * 2)
        batch = padded_batch()
        values, mask = batch["leptons"], 2 * batch["leptons.mask"]
        plain = dataclasses.replace(batch, streams={"jets": batch.streams["jets"]})
        violation = check(plain.with_arrays({"leptons": values, "leptons.mask": mask}))[0]
        assert (violation.tensor, violation.found) == ("leptons.mask", "2 (slot 0)")

    def test_mask_of_a_global(self) -> None:
        batch = arrays(padded_batch(), met={(4, 0): NAN})
        assert only(batch).entry == 104
        batch.arrays["met.mask"] = np.arange(EVENTS) != 4
        assert check(batch) == []
        batch.arrays["met.mask"] = np.full(EVENTS, 2)
        assert {v.tensor for v in check(batch)} == {"met.mask", "met.pt"}


class TestMasks:
    def test_inverted_by_vanishing_pt(self) -> None:
        batch = padded_batch()
        batch = stream(batch, "jets", mask=~mask_of(batch, "jets"))
        violation = next(v for v in check(batch) if v.rule == "mask-inverted")
        assert violation.tensor == "jets.mask"
        assert violation.found == (
            "pt or energy vanishes in 10 of 10 real slots and in 0 of 30 padded ones"
        )
        assert not [v for v in check(batch) if v.rule == "padding"]

    def test_inverted_by_targets_where_padding_is_not_zero(self) -> None:
        batch = column(padded_batch(), "jets", "pt", np.ones((EVENTS, 4), np.float32))
        batch = stream(batch, "jets", mask=~mask_of(batch, "jets"))
        violation = next(v for v in check(batch) if v.rule == "mask-inverted")
        assert violation.found == "30 of 30 target indices point at masked slots"

    def test_zero_pt_everywhere_is_no_inversion(self) -> None:
        batch = column(padded_batch(), "jets", "pt", np.zeros((EVENTS, 4), np.float32))
        assert check(batch) == []

    def test_empty(self) -> None:
        batch = stream(padded_batch(), "jets", mask=np.zeros((EVENTS, 4), bool))
        first = check(batch)[0]
        assert (first.rule, first.severity, first.events) == ("mask-empty", "error", EVENTS)
        assert first.found == "mask is empty, while its slots hold values"

    def test_stream_that_no_event_has_is_a_warning(self) -> None:
        batch = arrays(flat_batch(), target__assignment__t2=np.tile([2, -1], (EVENTS, 1)))
        nothing = FlatStream(np.zeros(EVENTS + 1, np.int64), {"pt": np.zeros(0)})
        batch = dataclasses.replace(batch, streams={**batch.streams, "leptons": nothing})
        assert (only(batch).rule, only(batch).severity) == ("mask-empty", "warning")

    def test_single_empty_event_is_fine(self) -> None:
        mask = mask_of(padded_batch(), "jets").copy()
        mask[4] = False
        batch = arrays(
            stream(padded_batch(), "jets", mask=mask),
            target__assignment__t1={4: -1},
            target__assignment__t2={(4, 0): -1},
        )
        assert check(batch) == []
        assert check(batch.take(np.array([4]))) == []

    def test_offsets(self) -> None:
        offsets = flat_batch().streams["jets"].offsets  # type: ignore[union-attr]
        falling = offsets.copy()
        falling[4] = 20
        violation = check(stream(flat_batch(), "jets", offsets=falling))[0]
        assert (violation.rule, violation.found, violation.entry) == (
            "counts",
            "20 followed by 15",
            104,
        )
        short = offsets.copy()
        short[-1] -= 1
        found = check(stream(flat_batch(), "jets", offsets=short))[0]
        assert found.found == "30 values for 29 objects"
        assert check(stream(flat_batch(), "jets", offsets=offsets + 1))[0].found == "first offset 1"
        kind = check(stream(flat_batch(), "jets", offsets=offsets.astype(float)))[0]
        assert kind.found == "float64 of shape (11,)"

    def test_counts(self) -> None:
        counts = np.full(EVENTS, 3)
        assert check(padded_batch().with_arrays({"jets.counts": counts})) == []
        counts[8] = 4
        violation = only(padded_batch().with_arrays({"jets.counts": counts}))
        assert (violation.tensor, violation.found, violation.entry) == (
            "jets.mask",
            "3 real slots where the count is 4",
            108,
        )
        odd = padded_batch().with_arrays({"jets.counts": np.ones((EVENTS, 2))})
        assert only(odd).rule == "counts"


class TestValues:
    @pytest.mark.parametrize(
        ("name", "good", "bad", "expected"),
        [
            ("jets", -0.99, -1.0, "a value above -1 for the transform log1p"),
            ("leptons", 1e-6, 0.0, "a value above 0 for the transform log"),
        ],
    )
    def test_domain(self, name: str, good: float, bad: float, expected: str) -> None:
        assert check(column(padded_batch(), name, "pt", {(2, 0): good})) == []
        violation = only(column(padded_batch(), name, "pt", {(2, 0): bad}))
        assert (violation.rule, violation.expected, violation.entry) == ("domain", expected, 102)

    def test_regression_target(self) -> None:
        assert check(arrays(padded_batch(), target__m={1: NAN})) == []
        violation = only(arrays(padded_batch(), target__m={1: np.inf}))
        assert violation.expected == "a finite number, or NaN for missing"
        assert only(arrays(padded_batch(), target__m={1: NAN, 5: -3.0})).entry == 105

    def test_target_of_objects(self) -> None:
        energies = as_given(padded_batch(), "jets").attached["target/jet_e"].copy()
        energies[3, 2] = np.inf
        energies[4, 2] = NAN
        batch = stream(padded_batch(), "jets", attached={"target/jet_e": energies})
        assert (only(batch).tensor, only(batch).found) == ("target/jet_e", "inf (slot 2)")
        assert only(as_lists(batch)).found == "inf (object 2)"

    @pytest.mark.parametrize(("name", "label"), [("signal", 2), ("signal", -2), ("flavour", -2)])
    def test_labels(self, name: str, label: int) -> None:
        violation = only(arrays(padded_batch(), **{f"target__{name}": {5: label}}))
        assert (violation.rule, violation.found, violation.entry) == ("labels", str(label), 105)

    def test_one_hot(self) -> None:
        spec = TensorSpec(
            name="extra/kind",
            kind="target",
            dims=("event", "class"),
            shape=(None, 3),
            dtype="float32",
            rules=(OneHot(),),
        )
        contract = CONTRACT.merge(Contract(tensors={spec.name: spec}))
        kinds = np.eye(3)[np.arange(EVENTS) % 3]
        kinds[1] = NAN
        assert check(arrays(padded_batch(), extra__kind=kinds), contract) == []
        for row in ([1, 1, 0], [0, 0, 0], [0.5, 0.5, 0]):
            violation = only(arrays(padded_batch(), extra__kind=kinds_with(kinds, row)), contract)
            assert (violation.rule, violation.entry) == ("one_hot", 106)
            assert violation.found == "[" + ", ".join(f"{x:g}" for x in row) + "]"

    def test_weights_of_targets_are_numbers(self) -> None:
        weights = np.ones(EVENTS)
        weights[[2, 5]] = np.nan, np.inf
        violation = only(arrays(padded_batch(), weight__signal=weights))
        found = (violation.rule, violation.tensor, violation.events, violation.severity)
        assert found == ("finite", "weight/signal", 2, "error")
        assert violation.found == "nan"

    def test_negative_weight_where_none_may_be(self) -> None:
        spec = CONTRACT["weight"].model_copy(update={"rules": (NonNegative(),)})
        contract = CONTRACT.merge(Contract(tensors={"weight": spec}))
        violation = only(padded_batch(), contract)
        assert (violation.rule, violation.entry, violation.found) == ("non_negative", 103, "-1")


def kinds_with(kinds: Array, row: Sequence[float]) -> Array:
    changed = kinds.copy()
    changed[6] = row
    return changed


class TestIndices:
    def test_out_of_range_and_below_minus_one(self) -> None:
        beyond = only(arrays(padded_batch(), target__assignment__t1={(2, 1): 4}))
        assert (beyond.rule, beyond.tensor, beyond.found) == (
            "index",
            "target/assignment/t1.q",
            "4",
        )
        below = only(arrays(padded_batch(), target__assignment__t1={(2, 0): -2}))
        assert (below.tensor, below.found, below.entry) == ("target/assignment/t1.b", "-2", 102)

    def test_padding(self) -> None:
        violation = only(arrays(padded_batch(), target__assignment__t2={(2, 1): 1}))
        assert violation.rule == "padding"
        assert violation.found == "1 in an event with 1 leptons"

    def test_absolute_index_counts_through_slots_with_padding(self) -> None:
        # Slots 0-3 are jets (3 is padding), 4 and 5 leptons (5 is padding).
        def h(index: int) -> list[tuple[str, str]]:
            batch = arrays(padded_batch(), target__assignment__h={(2, 0): index})
            return [(v.rule, v.tensor) for v in check(batch)]

        assert h(3) == [("padding", "target/assignment/h.x")]
        assert h(4) == [("twice", "target/assignment/t2")]  # t2's lepton
        assert h(5) == [("padding", "target/assignment/h.x")]
        assert h(6) == [("index", "target/assignment/h.x")]

    def test_twice_in_a_particle(self) -> None:
        violation = only(arrays(padded_batch(), target__assignment__t1={(2, 1): 0}))
        assert (violation.rule, violation.tensor) == ("twice", "target/assignment/t1.b")
        assert (violation.expected, violation.found) == (
            "another object than q",
            "both point at object 0",
        )

    def test_one_number_in_two_streams_is_not_twice(self) -> None:
        batch = arrays(
            padded_batch(),
            target__assignment__t2={(2, 0): 0},
            target__assignment__t1={(2, 0): 2},
        )
        assert check(batch) == []

    def test_twice_across_particles_unless_shared(self) -> None:
        batch = arrays(padded_batch(), target__assignment__t2={(2, 0): 1})
        violation = only(batch)
        assert violation.tensor == "target/assignment/t1"
        assert violation.found == "q and target/assignment/t2.b both point at object 1"
        assert "shared_objects: true" in violation.advice
        assert check(batch, contract_of(shared_objects=True)) == []

    def test_missing_indices_are_not_twice(self) -> None:
        batch = arrays(padded_batch(), target__assignment__t1=np.full((EVENTS, 2), -1))
        assert check(batch) == []


class TestUnits:
    def test_mev(self) -> None:
        pt = as_given(padded_batch(), "jets").columns["pt"] * 1000
        violation = only(column(padded_batch(), "jets", "pt", pt))
        assert (violation.rule, violation.severity) == ("unit", "warning")
        assert "scale: 0.001" in violation.advice

    def test_no_unit_no_warning(self) -> None:
        streams = {**EVENT["streams"]}
        streams["jets"] = {"slots": 4, "features": {"pt": {}, "eta": {}, "btag": {}}}
        pt = as_given(padded_batch(), "jets").columns["pt"] * 1000
        assert check(column(padded_batch(), "jets", "pt", pt), contract_of(streams=streams)) == []


def test_no_events() -> None:
    assert check(padded_batch().take(np.zeros(0, int))) == []
    assert check(flat_batch().take(np.zeros(0, int))) == []


@st.composite
def batches(draw: st.DrawFn) -> EventBatch:
    """Valid batches: random multiplicities, targets that point at distinct real jets."""
    counts = np.array(draw(st.lists(st.integers(0, 4), min_size=0, max_size=12)), int)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    events, total = len(counts), int(counts.sum())
    offsets = np.concatenate([[0], np.cumsum(counts)])
    jets = FlatStream(
        offsets,
        {
            "pt": rng.exponential(50, total).astype(draw(st.sampled_from(["f2", "f4", "f8"]))),
            "eta": rng.normal(size=total),
            "btag": rng.integers(0, 2, total),
        },
    )
    leptons = FlatStream(np.arange(events + 1), {"pt": rng.exponential(30, events) + 0.1})
    order = np.array([rng.permutation(4) for _ in range(events)], int).reshape(events, 4)
    order = np.where(order < counts[:, None], order, -1)
    signal = rng.integers(-1, 2, events)
    batch = EventBatch(
        make_ids(0, rng.permutation(events)),
        {"jets": jets, "leptons": leptons},
        {
            "met": rng.normal(size=(events, 2)),
            "target/signal": signal,
            "target/assignment/t1": order[:, :2],
            "target/assignment/t2": np.stack([order[:, 2], rng.integers(-1, 1, events)], axis=1),
            "weight": rng.normal(size=events),
        },
        slots={"jets": 4, "leptons": 2},
    )
    if draw(st.booleans()):
        batch = dataclasses.replace(batch, streams={n: batch.padded(n) for n in batch.streams})
    return batch


@settings(max_examples=60, deadline=None)
@given(batches())
def test_valid_batches_pass(batch: EventBatch) -> None:
    assert [v for v in check(batch) if v.severity == "error"] == []


@settings(max_examples=40, deadline=None)
@given(batches(), st.randoms(use_true_random=False))
def test_the_order_of_events_changes_only_which_is_first(batch: EventBatch, random: Any) -> None:
    spoilt = np.arange(len(batch)) % 3 == 0
    batch = batch.with_arrays(
        {
            "target/signal": np.where(spoilt, 9, batch.arrays["target/signal"]),
            "weight": np.where(spoilt, NAN, batch.arrays["weight"]),
        }
    )
    order = list(range(len(batch)))
    random.shuffle(order)

    def summary(of: EventBatch) -> list[tuple[Any, ...]]:
        return [(v.key, v.events) for v in check(of)]

    assert summary(batch.take(np.array(order, int))) == summary(batch)
