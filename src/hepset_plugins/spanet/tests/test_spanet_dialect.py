from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from hepset.dialects import describe_event, load_event
from hepset.errors import EventInfoError
from hepset.run.config import load_config
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo
from hepset_spanet.dialect import SpanetDialect

SHARED = Path(__file__).parents[5] / "shared"

GOOD: dict[str, Any] = {
    "INPUTS": {"SEQUENTIAL": {"Jets": {"pt": "log_normalize", "phi": "normalize"}}},
    "EVENT": {"t1": ["q1", "q2", "b"], "t2": ["q1", "q2", "b"]},
}


def test_default_heads_fit_the_heads_they_name() -> None:
    document = {
        **GOOD,
        "REGRESSIONS": {"EVENT": ["m", ["x", "laplacian"]], "t1": {"PARTICLE": ["m"]}},
        "CLASSIFICATIONS": {"EVENT": ["signal"]},
    }
    described = SpanetDialect().describe(document, where="event.yaml")
    contract = compile_contract(described.event, described.defaults["model"]["heads"])
    assert {spec.name for spec in contract.of_kind("target") if spec.required} == {
        "target/m",
        "target/x",
        "target/t1/m",
        "target/signal",
    }


def refuse(message: str, **changes: Any) -> str:
    with pytest.raises(EventInfoError) as caught:
        SpanetDialect().describe({**GOOD, **changes}, where="event.yaml")
    assert message in str(caught.value)
    return str(caught.value)


def load(**changes: Any) -> EventInfo:
    return SpanetDialect().describe({**GOOD, **changes}, where="event.yaml").event


def test_inputs_keep_their_order_and_transforms(event: EventInfo) -> None:
    assert list(event.streams) == ["Jets", "Leptons"]
    jets = event.streams["Jets"].features
    assert list(jets) == ["pt", "eta", "phi", "btag"]
    assert jets["pt"].transform == ("log1p", "standardise")
    assert jets["eta"].transform == ("standardise",)
    assert jets["phi"].transform == ("circular",)
    assert jets["btag"].transform == ()
    assert event.streams["Leptons"].features["pt"].transform == ("log1p",)
    assert event.globals["Met"].features["phi"].transform == ("circular",)
    assert jets["pt"].unit is None


def test_parity_standardises_phi() -> None:
    found = SpanetDialect().describe(GOOD, where="event.yaml", parity=True).event
    assert found.streams["Jets"].features["phi"].transform == ("standardise",)


def test_parity_keeps_the_squared_error() -> None:
    document = {**GOOD, "REGRESSIONS": {"EVENT": ["m", ["x", "laplacian"]]}}
    described = SpanetDialect().describe(document, where="event.yaml", parity=True)
    heads = described.defaults["model"]["heads"]
    assert heads["regression_mse"] == {"name": "regression", "targets": ["m"], "loss": "mse"}
    assert heads["regression_laplace"]["targets"] == ["x"]


def test_topology(event: EventInfo) -> None:
    (process,) = event.processes.values()
    assert list(event.processes) == [""]
    assert process.particles == {
        "t1": {"b": "Jets", "l": "Leptons"},
        "t2": {"q1": None, "q2": None},
    }
    assert process.symmetries == {"t2": [["q1", "q2"]]}


def test_targets_lose_the_words_that_only_spanet_needs(event: EventInfo) -> None:
    assert {name: target.transform for name, target in event.targets.items()} == {
        "mass": ("standardise",),
        "scale": ("asinh", "standardise"),
        "t1/pt": ("standardise",),
        "t1/b/energy": ("standardise",),
        "signal": (),
    }
    residuals = {name: target.residuals for name, target in event.targets.items()}
    assert residuals == {**dict.fromkeys(event.targets), "t1/pt": "laplace"}


def test_default_heads_name_every_target_with_its_loss() -> None:
    document = {
        **GOOD,
        "REGRESSIONS": {"EVENT": ["m", ["x", "laplacian"]], "t1": {"PARTICLE": ["m"]}},
        "CLASSIFICATIONS": {"EVENT": ["signal"], "t1": {"b": ["flavour"]}},
    }
    heads = SpanetDialect().describe(document, where="event.yaml").defaults["model"]["heads"]
    heads.pop("assignment", None)  # there as soon as a plugin provides that head
    assert heads == {
        "signal": {"name": "classification", "target": "signal"},
        "t1_b_flavour": {"name": "classification", "target": "t1/b/flavour"},
        "regression": {"name": "regression", "targets": ["m", "t1/m"]},
        "regression_laplace": {"name": "regression", "targets": ["x"], "loss": "laplace"},
    }


def test_options_of_heads_complete_the_files_own_heads() -> None:
    """``--set model.heads.assignment.selection=greedy``; a head with a name chooses heads."""
    document = {
        "event": {"inline": {**GOOD, "CLASSIFICATIONS": {"EVENT": ["signal"]}}},
        "read": {"reader": "spanet-hdf5", "files": ["a.h5"]},
    }

    def heads(*overrides: str) -> dict[str, Any]:
        return load_config(document, overrides).config.model.heads

    files = heads()
    assert {"assignment", "signal"} <= files.keys()
    found = heads("model.heads.assignment.selection=greedy")
    assert found == {**files, "assignment": {**files["assignment"], "selection": "greedy"}}
    chosen = {"name": "classification", "target": "signal"}
    assert heads(f"model.heads.mine={json.dumps(chosen)}") == {"mine": chosen}
    assert heads("model.heads={}") == {}


def test_null_sections_are_empty() -> None:
    found = load(PERMUTATIONS=None, REGRESSIONS=None, CLASSIFICATIONS={"EVENT": None, "t1": None})
    assert found.targets == {}
    assert load(INPUTS={**GOOD["INPUTS"], "GLOBAL": None}).globals == {}


def test_input_types_and_tags_ignore_case() -> None:
    found = load(INPUTS={"Relative": {"Jets": {"pt": "LOG_Normalize"}}})
    assert found.streams["Jets"].features["pt"].transform == ("log1p", "standardise")


def test_streams_count_in_file_order_over_all_input_types() -> None:
    inputs = {"RELATIVE": {"B": {"x": "none"}}, "GLOBAL": {"G": {"y": "none"}}}
    found = load(INPUTS={**inputs, "SEQUENTIAL": {"A": {"z": "none"}}})
    assert list(found.streams) == ["B", "A"]


@pytest.mark.parametrize("tag", ["normalise", "lognorm", "true", "", True, None, 1])
def test_only_the_documented_tags_are_read(tag: object) -> None:
    message = refuse("unknown tag", INPUTS={"SEQUENTIAL": {"Jets": {"pt": tag}}})
    assert "event.yaml: INPUTS.SEQUENTIAL.Jets.pt" in message
    assert "known: none, log, normalize, log_normalize" in message
    if tag == "normalise":
        assert "did you mean 'normalize'?" in message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"PERMUTATION": {}}, "unknown key; did you mean 'PERMUTATIONS'?"),
        ({"INPUTS": None}, "INPUTS: this key is required"),
        ({"EVENT": None}, "EVENT: this key is required"),
        ({"INPUTS": {"SEQUENTAL": {}}}, "did you mean 'SEQUENTIAL'?"),
        ({"INPUTS": {"GLOBAL": {"Met": {"x": "none"}}}}, "at least one SEQUENTIAL or RELATIVE"),
        ({"INPUTS": {"SEQUENTIAL": {"Jets": None}}}, "at least one feature"),
        (
            {"INPUTS": {"SEQUENTIAL": {"A": {"x": "none"}}, "GLOBAL": {"A": {"x": "none"}}}},
            "already under SEQUENTIAL",
        ),
        ({"INPUTS": {"SEQUENTIAL": {"MASK": {"x": "none"}}}}, "SPANet's files use themselves"),
        ({"INPUTS": {"SEQUENTIAL": {"a-b": {"x": "none"}}}}, "letters, digits and '_'"),
        ({"INPUTS": {"SEQUENTIAL": [{"Jets": {"x": "none"}}]}}, "write one map"),
        ({"EVENT": {"t1": "b"}}, "found 'b'; write t1: [b]"),
        ({"EVENT": {"t1": []}}, "expected a list of products"),
        ({"EVENT": {"t1": ["b", "b"]}}, "the product 'b' is named twice"),
        ({"EVENT": {"t1": [{"b": "Jet"}]}}, "input 'Jet'; did you mean 'Jets'?"),
        ({"EVENT": {"t1": [{"b": "Jets", "q": "Jets"}]}}, "a map of one entry"),
        ({"EVENT": {"t1": [True]}}, "put it in quotes"),
        ({"EVENT": {"WEIGHT": ["b"]}}, "SPANet's files use themselves"),
        ({"EVENT": {"event": ["b"]}}, "symmetries"),
        ({"PERMUTATIONS": {"t3": [["t1", "t2"]]}}, "no event particle 't3'"),
        ({"PERMUTATIONS": {"t1": ["q1", "q2"]}}, "list of lists"),
        ({"PERMUTATIONS": {"t1": [["q1", "q9"]]}}, "q9"),
        ({"PERMUTATIONS": {"t1": [[["q1", "q2"], "b"]]}}, "mixes names and cycles"),
        ({"REGRESSIONS": {"EVENT": "mass"}}, "expected a list of targets"),
        ({"REGRESSIONS": {"EVENT": [["m", "gausian"]]}}, "did you mean 'gaussian'?"),
        ({"REGRESSIONS": {"EVENT": [["m", "gaussian", "x"]]}}, "a name or [name, type]"),
        ({"REGRESSIONS": {"t3": {"PARTICLE": ["m"]}}}, "no event particle 't3'"),
        ({"REGRESSIONS": {"t1": ["m"]}}, "one level lower: t1: {PARTICLE: [mass], q1: [pt]}"),
        ({"REGRESSIONS": {"t1": [{"PARTICLE": ["m"]}]}}, "write one map: t1: {PARTICLE: [mass]"),
        ({"REGRESSIONS": {"t1": {"q9": ["m"]}}}, "'t1' has no product 'q9'"),
        ({"CLASSIFICATIONS": {"EVENT": [["s", "gaussian"]]}}, "a name is a string"),
        (
            {"REGRESSIONS": {"EVENT": ["x"]}, "CLASSIFICATIONS": {"EVENT": ["x"]}},
            "already stated as REGRESSIONS/EVENT/x",
        ),
    ],
)
def test_what_spanet_takes_in_silence_is_refused(changes: dict[str, Any], message: str) -> None:
    refuse(message, **changes)


def test_all_problems_are_reported_at_once() -> None:
    message = refuse("unknown key", EXTRA={}, EVENT={"t1": "b"})
    assert len(message.splitlines()) == 2


def test_a_global_cannot_hold_products() -> None:
    inputs = {**GOOD["INPUTS"], "GLOBAL": {"Met": {"x": "none"}}}
    refuse("'Met' is a GLOBAL input", INPUTS=inputs, EVENT={"t1": [{"n": "Met"}]})


def test_dialect_is_recognised_by_content(tmp_path: Path) -> None:
    path = tmp_path / "event.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    assert list(load_event(path).streams) == ["Jets"]


def test_evenet_files_are_not_taken_for_spanet() -> None:
    dialect = SpanetDialect()
    assert not dialect.recognises({"INPUTS": {}, "EVENT": {"TT": {"diagram": {}}}})
    assert not dialect.recognises({"INPUTS": {}, "EVENT": {}, "CLASSLABEL": {}})
    assert not dialect.recognises({"streams": {}})


@pytest.mark.skipif(not (SHARED / "fixtures/spanet").is_dir(), reason="no reference numbers here")
def test_groups_have_the_elements_that_spanet_finds() -> None:
    cases = json.loads((SHARED / "fixtures/spanet/groups.json").read_text())
    for name, case in cases.items():
        changes = {"EVENT": {"p": case["names"]}, "PERMUTATIONS": {"p": case["permutations"]}}
        if "error" in case:
            refuse("unknown name", **changes)
            continue
        group = load(**changes).processes[""].product_group("p")
        assert [list(s) for s in group.elements] == sorted(case["elements"]), name


@pytest.mark.skipif(not (SHARED / "data/spanet").is_dir(), reason="no public files here")
@pytest.mark.parametrize("name", ["full_hadronic_ttbar", "semi_leptonic_ttH"])
def test_public_event_files(name: str) -> None:
    described = describe_event(SHARED / f"data/spanet/{name}.yaml")
    if name == "full_hadronic_ttbar":
        assert described.event.processes[""].event_group.order == 2
    else:
        assert list(described.defaults["model"]["heads"])[-2:] == ["signal", "regression"]
