from __future__ import annotations

import json

import pytest

from hepset.errors import ConfigurationError, ContractError
from hepset.schema.contract import Contract, compile_contract
from hepset.schema.event import EventInfo
from hepset.schema.tensors import Domain, Index, Labels, TensorSpec


def event(**parts: object) -> EventInfo:
    document: dict[str, object] = {
        "streams": {
            "jets": {"features": {"pt": {"transform": "log1p"}, "eta": None}, "slots": "auto"},
            "leptons": {"features": ["pt"], "slots": 2},
        },
        "globals": {"met": {"features": ["pt"]}},
        "processes": {
            "ttbar": {"particles": {"t1": {"b": "jets", "l": "leptons"}, "t2": ["b", "q"]}},
            "qcd": {"particles": {}},
        },
        "targets": {"signal": {"kind": "classification"}, "m": {"kind": "regression"}},
    }
    return EventInfo.parse({**document, **parts}, "event")


def test_every_declared_tensor_is_in_the_contract() -> None:
    contract = compile_contract(event())

    assert list(contract.tensors) == [
        "jets", "jets.mask", "leptons", "leptons.mask", "met", "met.mask",
        "target/signal", "target/m",
        "target/assignment/ttbar/t1", "target/assignment/ttbar/t2",
        "process", "weight",
    ]  # fmt: skip
    assert contract["jets"].shape == (None, None, 2)
    assert contract["leptons"].shape == (None, 2, 1)
    assert contract["jets"].required
    assert not contract["target/signal"].required
    assert Domain(feature="pt", above=-1.0, transform="log1p") in contract["jets"].rules
    index = contract["target/assignment/ttbar/t1"].rules[0]
    assert isinstance(index, Index)
    assert index.streams == ("jets", "leptons")
    assert index.order == ("jets", "leptons")
    assert contract.exclusive == (("target/assignment/ttbar/t1", "target/assignment/ttbar/t2"),)


def test_boosted_particles_may_share_objects() -> None:
    assert compile_contract(event(shared_objects=True)).exclusive == ()


def test_a_head_makes_its_targets_required() -> None:
    heads = {"s": {"name": "classification", "target": "signal"}}
    contract = compile_contract(event(), heads)
    assert contract["target/signal"].required
    assert "s" in contract["target/signal"].wanted_by
    assert not contract["target/m"].required


def test_a_head_without_name_is_refused() -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"model\.heads\.s: 'name' is missing or not a string; available heads",
    ):
        compile_contract(event(), {"s": {"target": "signal"}})


def test_resolve_fills_slots_and_classes() -> None:
    contract = compile_contract(event())
    assert not contract.resolved
    resolved = contract.resolve(slots={"jets": 12}, classes={"target/signal": 3})
    assert resolved.resolved
    assert resolved["jets"].shape == (None, 12, 2)
    assert resolved["jets.mask"].shape == (None, 12)
    assert resolved["target/signal"].rules == (Labels(classes=3),)
    assert resolved.slots == {"jets": 12, "leptons": 2}


def test_a_contract_survives_json() -> None:
    contract = compile_contract(event())
    assert Contract.load(json.loads(json.dumps(contract.dump())), "file") == contract


def test_a_newer_format_is_refused() -> None:
    with pytest.raises(ContractError, match=r"x\.json: contract format 2 is newer"):
        Contract.load({"format": 2, "tensors": {}}, "x.json")


def test_merging_tensors_that_differ_says_who_wants_what() -> None:
    one = TensorSpec(
        name="a", kind="global", dims=("event", "feature"), shape=(None, 3), dtype="float32",
        wanted_by=("event",),
    )  # fmt: skip
    other = one.model_copy(update={"shape": (None, 4), "wanted_by": ("origin",)})
    with pytest.raises(ContractError) as caught:
        Contract(tensors={"a": one}).merge(Contract(tensors={"a": other}))
    assert str(caught.value) == (
        "a: event describe a (event, feature: 3) float32, "
        "but origin need a (event, feature: 4) float32"
    )


def test_contracts_that_do_not_fit_show_the_difference() -> None:
    mine = compile_contract(event()).resolve(slots={"jets": 10})
    theirs = compile_contract(event(globals={})).resolve(slots={"jets": 12})
    with pytest.raises(ContractError) as caught:
        mine.require_same_inputs(theirs, here="the model", there="data.h5")
    text = str(caught.value)
    assert "the inputs of data.h5 do not fit the model" in text
    assert "jets (event, jets: 12, feature: 2) float32 there" in text
    assert "met: missing there" in text


def test_units_that_differ_are_a_difference() -> None:
    def with_unit(unit: str | None) -> Contract:
        streams = {"jets": {"slots": 4, "features": {"pt": {"unit": unit}}}}
        return compile_contract(EventInfo.parse({"streams": streams}, "e"))

    assert with_unit("GeV").differences(with_unit("MeV")) == ["jets.pt: unit MeV there, GeV here"]
    assert with_unit("GeV").differences(with_unit(None)) == []
