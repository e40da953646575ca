"""Names that are found, names that are refused, and what the map says about itself."""

from __future__ import annotations

from typing import Any

import pytest

from hepset.errors import ReadError
from hepset.readers.column_map import Column, check_keys, resolve
from hepset.readers.root import branch_names
from hepset.schema.event import EventInfo

EVENT = EventInfo.parse(
    {
        "streams": {
            "jets": {"features": ["pt", "btag"]},
            "leptons": {"features": ["pt", "charge"]},
        },
        "globals": {"met": {"features": ["pt"]}},
        "processes": {
            "ttbar": {"particles": {"t": {"b": "jets", "q": "jets"}}},
            "zh": {"particles": {"z": {"l": "leptons"}}},
        },
        "targets": {"t/mass": {"kind": "regression"}, "signal": {"kind": "classification"}},
    },
    "event",
)
INPUTS = ["Jet_pt", "Jet_btag", "Lepton_pt", "Lepton_charge", "MET_pt"]


def summary(names: list[str], **columns: Any) -> dict[str, str]:
    stated = {
        key.replace("__", "."): None if value is None else Column.model_validate(value)
        for key, value in columns.items()
    }
    return resolve(check_keys(stated, EVENT, ["a", "b"]), EVENT, names, "a.root").summary()


@pytest.mark.parametrize(
    "names",
    [
        INPUTS,
        ["jets.pt", "jets.btag", "leptons.pt", "leptons.charge", "met.pt"],
        ["jets_pt", "btag", "leptons_pt", "charge", "met_pt"],
        ["JET.PT", "Jet/BTag", "lepton_PT", "Charge", "met_pt"],
    ],
)
def test_inputs_are_found_by_name(names: list[str]) -> None:
    keys = [
        "streams.jets.pt",
        "streams.jets.btag",
        "streams.leptons.pt",
        "streams.leptons.charge",
        "globals.met.pt",
    ]
    assert summary(names) == dict(zip(keys, names, strict=True))


def test_a_name_that_two_inputs_share_is_not_guessed_plain() -> None:
    with pytest.raises(ReadError, match=r"a.root: streams.jets.pt: no column 'jets_pt'"):
        summary(["pt", *INPUTS[1:]])


def test_exact_name_wins_over_another_case() -> None:
    assert summary(["jets_pt", *INPUTS])["streams.jets.pt"] == "jets_pt"


def test_targets_are_read_where_the_file_has_them() -> None:
    names = ["t_mass", "is_signal", "ttbar_t_b", "ttbar_t_q", "target/assignment/zh/z", "process"]
    found = summary([*INPUTS, *names])
    assert {key: name for key, name in found.items() if name not in INPUTS} == {
        "targets.t/mass": "t_mass",
        "targets.assignment/ttbar/t": "ttbar_t_b, ttbar_t_q",
        "targets.assignment/zh/z": "target/assignment/zh/z",
        "process": "process",
    }


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("sigal", r"targets.signal: no column 'signal', but 'sigal'.*{targets.signal: sigal}"),
        ("t_mas", r"targets.t/mass: no column 't/mass', but 't_mas'"),
        ("weights", r"weight: no column 'weight', but 'weights'.*{weight: null}"),
    ],
)
def test_a_misspelt_target_or_weight_is_refused(column: str, message: str) -> None:
    with pytest.raises(ReadError, match=message):
        summary([*INPUTS, column])


def test_near_names_with_other_numbers_or_other_uses_are_not_misspelt() -> None:
    assert "weight" not in summary([*INPUTS, "weight_1", "t2_mass"])
    assert "weight" not in summary([*INPUTS, "weights"], extra__weights="weights")
    assert "weight" not in summary([*INPUTS, "weights"], weight=None)


def test_half_an_assignment_is_refused() -> None:
    with pytest.raises(ReadError, match=r"targets.assignment/ttbar/t: no column 'ttbar/t_q'"):
        summary([*INPUTS, "ttbar_t_b"])


def test_null_leaves_out_and_summary_shows_constants() -> None:
    found = summary(
        INPUTS,
        streams__jets__btag=None,
        streams__jets__pt={"from": "Jet_pt", "scale": 0.001},
        weight={"group": {"a": 1, "b": 2}},
        process={"value": "zh"},
        extra__run="MET_pt",
    )
    assert "streams.jets.btag" not in found
    assert found["streams.jets.pt"] == "Jet_pt × 0.001"
    assert found["weight"] == "by group {'a': 1.0, 'b': 2.0}"
    assert found["process"] == "value zh"
    assert found["extra.run"] == "MET_pt"


def test_branches_of_split_objects_keep_their_own_name_where_it_is_the_only_one() -> None:
    paths = ["Jet/Jet.PT", "A/x", "B/x", "run"]
    assert branch_names(paths, ["Jet.PT", "x", "x", "run"]) == ["Jet.PT", "A/x", "B/x", "run"]


def test_a_prediction_does_without_what_it_only_carries() -> None:
    stated = {
        "targets.signal": {"from": "isSignal"},
        "targets.t/mass": {"from": "m"},
        "targets.assignment/ttbar/t": {"from": ["b", "q"]},
        "process": {"from": "p"},
        "weight": {"from": "genWeight"},
        "extra.run": {"from": "run"},
    }
    keys = check_keys({k: Column.model_validate(v) for k, v in stated.items()}, EVENT, [])
    found = resolve(keys, EVENT, [*INPUTS, "m", "zh_signal"], "a", "predict").summary()
    assert list(found)[5:] == ["targets.t/mass"]
    with pytest.raises(ReadError, match="no column 'isSignal'"):
        resolve(keys, EVENT, [*INPUTS, "m"], "a")
    # One of two products is a mistake, and so is an input that is not there.
    with pytest.raises(ReadError, match="no column 'q'"):
        resolve(keys, EVENT, [*INPUTS, "b"], "a", "predict")
    with pytest.raises(ReadError, match="no column 'met_pt'"):
        resolve(keys, EVENT, INPUTS[:-1], "a", "predict")
