"""Dialect weaver: streams, transforms, labels, sampling, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from hepset.cli import main
from hepset.errors import EventInfoError
from hepset.interfaces import Description
from hepset.run.config import load_config
from hepset.testing import check_dialect
from hepset_jetclass.labels import NAMES
from hepset_jetclass.weaver.dialect import WeaverDialect
from hepset_jetclass.weaver.grammar import parse_weaver
from hepset_jetclass.weaver.translation import momentum_roles, translate
from hepset_jetclass.weaver.writing import tidy

from .conftest import make_jets, write_parquet

SOPHON = Path(__file__).parents[4].parent / "shared" / "data" / "jetclass2" / "JetClassII_full.yaml"


def document(**changed: Any) -> dict[str, Any]:
    """A small configuration with changed keys."""
    base: dict[str, Any] = {
        "new_variables": {"pf_mask": "ak.ones_like(pf_pt)", "pf_log": "np.log(pf_pt / jet_pt)"},
        "inputs": {
            "pf_features": {"length": 8, "vars": [["pf_log", 1.5, 2], ["pf_charge", None]]},
            "pf_mask": {"length": 8, "vars": [["pf_mask", None]]},
        },
        "labels": {"type": "custom", "value": {"truth": "flavour"}},
    }
    return {**base, **changed}


def describe(parity: bool = False, **changed: Any) -> Description:
    return WeaverDialect().describe(document(**changed), where="top.yaml", parity=parity)


def test_it_conforms() -> None:
    check_dialect(WeaverDialect(), [document(), document(selection="jet_pt > 200")])


def test_groups_of_one_prefix_are_one_stream_with_the_features_first() -> None:
    event = describe(
        inputs={
            "pf_points": {"length": 8, "vars": [["pf_eta", None]]},
            "pf_features": {"length": 8, "vars": [["pf_log", 1.5, 2], ["pf_eta", None]]},
            "pf_vectors": {"length": 8, "vars": ["px", "py", "pz", "e"]},
            "pf_mask": {"length": 8, "vars": ["pf_mask"]},
            "sv_a": {"length": 3, "vars": [["sv_pt", None]]},
            "jet_features": {"length": None, "vars": [["jet_pt", 300, 0.01]]},
        }
    ).event
    pf = event.streams["pf"]
    assert pf.slots == 8
    assert {name: feature.input for name, feature in pf.features.items()} == {
        "pf_log": True,
        "pf_eta": True,
        "px": False,
        "py": False,
        "pz": False,
        "e": False,
    }
    assert pf.p4 == {"px": "px", "py": "py", "pz": "pz", "energy": "e"}
    assert [str(step) for step in pf.features["pf_log"].transform] == [
        "(x - 1.5) * 2",
        "clip(-5, 5)",
    ]
    assert pf.features["pf_eta"].transform == ()
    assert list(event.streams) == ["pf", "sv"]
    assert list(event.globals["jet"].features) == ["jet_pt"]


@pytest.mark.parametrize(
    ("variable", "steps"),
    [
        ("x", []),
        (["x"], []),
        (["x", None, 3, -1, 1], []),
        (["x", 0], ["clip(-5, 5)"]),
        (["x", 0, 1, 0, 1], ["clip(0, 1)"]),
        (["x", 2, 1, None, None], ["(x - 2) * 1"]),
        (["x", 2, 0.5, None, 4, 9], ["(x - 2) * 0.5", "clip(–, 4)"]),
        (["x", "auto", 1, -2, 2], ["(x - median) / width", "clip(-2, 2)"]),
    ],
)
def test_what_a_line_of_vars_does(variable: object, steps: list[str]) -> None:
    event = describe(inputs={"pf_features": {"length": 8, "vars": [variable]}}).event
    assert [str(step) for step in event.streams["pf"].features["x"].transform] == steps


def test_automatic_scales() -> None:
    found = describe(
        preprocess={"method": "auto", "data_fraction": 0.3},
        inputs={
            "pf_features": {"length": 8, "vars": ["x", ["y", None], ["z", 1]]},
            "pf_mask": {"length": 8, "vars": ["pf_mask"]},
        },
    )
    features = found.event.streams["pf"].features
    texts = {name: [str(step) for step in f.transform] for name, f in features.items()}
    assert texts == {
        "x": ["(x - median) / width", "clip(-5, 5)"],
        "y": [],
        "z": ["(x - 1) * 1", "clip(-5, 5)"],
    }
    assert found.defaults["prepare"]["affine_fraction"] == 0.3


def test_params_replace_what_the_inputs_say() -> None:
    scale = {"length": 8, "pad_mode": "wrap", "center": 2.5, "scale": 3, "min": -1, "max": 1}
    found = describe(
        preprocess={"method": "auto", "params": {"x": scale}},
        inputs={"pf_features": {"length": 8, "vars": [["x", 7, 7]]}},
    )
    steps = found.event.streams["pf"].features["x"].transform
    assert [str(step) for step in steps] == ["(x - 2.5) * 3", "clip(-1, 1)"]


def test_simple_labels_name_the_classes_and_mark_what_is_none_or_two() -> None:
    found = describe(labels={"type": "simple", "value": ["a", "b", "c"]})
    assert found.event.targets["label"].classes == ("a", "b", "c")
    assert found.defaults["prepare"]["derive"]["target.label"] == (
        "where(a + b + c == 1, b + 2 * c, -2)"
    )
    heads = {"label": {"name": "classification", "target": "label"}}
    assert found.defaults["model"]["heads"] == heads


def test_custom_labels_are_classes_or_numbers() -> None:
    value = {
        "truth": "flavour",
        "sophon": "jet_label",
        "response": "np.log(gen_pt / jet_pt)",
        "gen": "gen_mass",
    }
    found = describe(labels={"type": "custom", "value": value})
    kinds = {name: target.kind for name, target in found.event.targets.items()}
    assert kinds == {
        "truth": "classification",
        "sophon": "classification",
        "response": "regression",
        "gen": "regression",
    }
    assert found.event.targets["sophon"].classes == NAMES
    assert found.event.targets["truth"].classes is None
    assert list(found.defaults["model"]["heads"]) == ["truth"]


def test_weights_become_sampling() -> None:
    found = describe(
        new_variables={
            "pf_mask": "ak.ones_like(pf_pt)",
            "pf_log": "np.log(pf_pt)",
            "is_b": "flavour == 5",
            "high": "ak.max(pf_pt, axis=1)",
        },
        weights={
            "use_precomputed_weights": False,
            "reweight_method": "ref",
            "reweight_vars": {"jet_pt": [200, 300, 400], "high": [0, 50, 100]},
            "reweight_classes": ["is_b", "is_light"],
            "class_weights": [1, 0.5],
            "reweight_threshold": 20,
            "reweight_discard_under_overflow": False,
            "reweight_basewgt": "jet_pt * 2",
            "reweight_hists": None,
        },
    )
    assert found.defaults["train"]["sampling"] == {
        "method": "reference",
        "variables": {"extra.jet_pt": [200, 300, 400], "extra.high": [0, 50, 100]},
        "classes": {"is_b": "extra.flavour == 5", "is_light": "extra.is_light == 1"},
        "threshold": 20,
        "out_of_range": "clip",
        "class_weights": {"is_b": 1, "is_light": 0.5},
        "base_weight": "extra.jet_pt * 2",
        "max_repeats": 10,
    }
    derive = found.defaults["prepare"]["derive"]
    assert derive["extra.high"] == "high"
    assert derive["high"] == "nanmax(pf_pt)"
    assert describe(
        weights={"use_precomputed_weights": True, "weight_branches": ["u", "v"]}, parity=True
    ).defaults["train"]["sampling"] == {
        "method": "weights",
        "base_weight": "extra.u * extra.v",
        "max_repeats": 10,
        "sampler": "accept_reject",
    }


def test_files_branches_trees_and_reserved_names() -> None:
    found = describe(
        treename="Events",
        branch_magic={"pf_": "PFCand_"},
        file_magic={"year": {"2017": 17, "2018.*": 18}},
        selection="(year > 17) & (weight > 0)",
        observers=["weight", "pi"],
    )
    prepare = found.defaults["prepare"]
    assert found.defaults["read"] == {"tree": "Events"}
    assert prepare["select"] == {"selection": "(year > 17) & (columns.weight > 0)"}
    assert prepare["derive"]["year"] == (
        "where(matches(file, '2017'), 17, where(matches(file, '2018.*'), 18, 0))"
    )
    assert prepare["derive"]["pf_log"] == "log(PFCand_pt / jet_pt)"
    assert prepare["derive"]["pf.pf_charge"] == "PFCand_charge"
    assert prepare["derive"]["extra.pi"] == "columns.pi"
    assert found.event.columns == {
        "PFCand_pt": "pf",
        "PFCand_charge": "pf",
        "jet_pt": "pf",
        "file": None,
        "weight": None,
        "flavour": None,
        "pi": None,
    }


def test_every_replacement_of_branch_magic_is_made() -> None:
    found = describe(branch_magic={"pf_": "PFCand_", "_pt": "_PT"}, selection="jet_pt > 1")
    assert found.defaults["prepare"]["derive"]["pf_log"] == "log(PFCand_PT / jet_PT)"
    assert found.defaults["prepare"]["select"] == {"selection": "jet_PT > 1"}


def test_a_number_selects_where_it_is_not_zero() -> None:
    changed = {"selection": "good", "test_time_selection": "is_b"}
    variables = {"pf_mask": "ak.ones_like(pf_pt)", "pf_log": "pf_pt", "is_b": "x > 1"}
    found = describe(new_variables=variables, **changed).defaults["prepare"]
    assert found["select"] == {"selection": "~(good == 0)"}
    assert found["predict_select"] == {"test_time_selection": "is_b"}


def test_numbers_are_kept_in_full() -> None:
    changed = {"file_magic": {"xsec": {"QCD": 831.7612345}}, "observers": ["xsec"]}
    derive = describe(**changed).defaults["prepare"]["derive"]
    assert derive["xsec"] == "where(matches(file, 'QCD'), 831.7612345, 0)"
    inputs = {"pf_features": {"length": 8, "vars": [["x", 1.23456789]]}}
    derive = describe(parity=True, inputs=inputs).defaults["prepare"]["derive"]
    assert derive["pf.x"] == "finite(x, 1.23456789)"


def test_the_tree_is_an_option_of_readers_that_have_one() -> None:
    def read(*entries: dict[str, Any]) -> list[dict[str, Any]]:
        inline = document(treename="Events")
        return list(load_config({"event": {"inline": inline}, "read": list(entries)}).config.read)

    root, parquet = (
        {"reader": "root", "files": "a.root"},
        {"reader": "parquet", "files": "a.parquet"},
    )
    found = read(root, parquet, {**root, "tree": "own"})
    assert [entry.get("tree") for entry in found] == ["Events", None, "own"]


def test_parity_takes_values_that_are_no_numbers() -> None:
    derive = describe(parity=True).defaults["prepare"]["derive"]
    # Where NaN is to be 0 for the network, it is the centre before.
    assert derive["pf.pf_log"] == "finite(pf_log, 1.5)"
    assert derive["pf.pf_charge"] == "finite(pf_charge, 0)"


def test_what_is_done_otherwise_is_noted() -> None:
    config = document(bucketing={"var": "n", "bins": 4}, monitor_variables=["jet_pt"])
    config["inputs"]["pf_features"]["pad_mode"] = "wrap"
    notes = "\n".join(translate(parse_weaver(config, "top.yaml"), "top.yaml").notes)
    for word in ("bucketing", "pad_mode wrap (pf_features)", "monitor_variables"):
        assert word in notes


def test_vectors_by_their_names() -> None:
    assert momentum_roles(("jet_pt", "jet_eta", "jet_phi", "jet_m")) == {
        "pt": "jet_pt",
        "eta": "jet_eta",
        "phi": "jet_phi",
        "mass": "jet_m",
    }
    unknown = momentum_roles(("a", "b", "c", "d"))
    assert unknown == {"px": "a", "py": "b", "pz": "c", "energy": "d"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"selecton": "x > 1"}, r"top.yaml: selecton: unknown key; did you mean 'selection'"),
        ({"labels": {"type": "simple", "value": {"a": "b"}}}, "takes a list of columns"),
        ({"labels": {"type": "custom", "value": ["a"]}}, "takes a mapping"),
        (
            {"labels": {"type": "custom", "value": {"t": "x"}, "names": ["a"]}},
            "labels.names: .*stream",
        ),
        *(
            (
                {
                    "inputs": {
                        "pf_features": {"length": 8, "vars": ["x"]},
                        name: {"length": 6, "vars": names},
                    }
                },
                rf"inputs\.{name}\.length: 6, but inputs\.pf_features has 8",
            )
            for name, names in (
                ("pf_vectors", ["px", "py", "pz", "energy"]),
                ("pf_mask", ["pf_mask"]),
            )
        ),
        ({"inputs": {"pf_features": {"length": 8, "vars": []}}}, "inputs.pf_features.vars"),
        ({"inputs": {"pf_features": {"length": 8, "vars": [["x", 1, 2, 3, 4, 5, 6]]}}}, "found 7"),
        (
            {"inputs": {"a": {"length": 8, "vars": ["x"]}, "b": {"length": 9, "vars": ["x"]}}},
            r"inputs.b|'x' is scaled or padded differently in another group: length 8 there",
        ),
        (
            {"inputs": {"pf_mask": {"length": 8, "pad_mode": "wrap", "vars": ["m"]}}},
            "the pad_mode of a mask is constant",
        ),
        (
            {"new_variables": {"pf_mask": "pf_pt > 3"}},
            r"inputs.pf_mask: the mask 'pf_pt > 3' is not 1 for every object",
        ),
        (
            {"inputs": {"pf_vectors": {"length": 8, "vars": ["px", "py"]}}},
            "a four-momentum has four components, found px, py",
        ),
        ({"observers": ["a"], "monitor_variables": ["b"]}, "exclude each other"),
        ({"selection": "aux_training_ & (x > 1)"}, "selection: 'aux_training_'.*splits"),
        ({"weights": {"use_precomputed_weights": True}}, "needs weight_branches"),
        ({"weights": {"use_precomputed_weights": False}}, "weights: reweight_method is required"),
        (
            {
                "weights": {
                    "use_precomputed_weights": False,
                    "reweight_method": "flat",
                    "reweight_vars": {"x": [0, 1]},
                    "reweight_classes": ["a"],
                }
            },
            "exactly two variables, found 1",
        ),
        ({"file_magic": {"year": {"(": 1}}, "observers": ["year"]}, r"file_magic.year: '\('"),
        ({"labels": {"type": "simple", "value": ["a"]}}, "at least two columns.*type: custom"),
        ({"labels": {"type": "simple", "value": ["a", "b", "a"]}}, "names a column twice"),
        (
            {"inputs": {"pf_features": {"length": 8, "vars": [["x", 0, 1, 3, -3]]}}},
            r"inputs.pf_features.vars: 'x': clip_min 3 is not below clip_max -3",
        ),
        (
            {"new_variables": {"pf_mask": "m", "m": "pf_mask"}},
            "in a circle: pf_mask -> m -> pf_mask",
        ),
    ],
)
def test_what_is_wrong_is_named(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(EventInfoError, match=message):
        describe(**changed)


def test_the_public_configuration_as_it_is(tmp_path: Path) -> None:
    if not SOPHON.is_file():
        pytest.skip("the public configuration is not here")
    resolved = load_config(
        {"event": str(SOPHON), "read": {"reader": "jetclass", "files": ["a.root"]}}
    )
    assert resolved.event is not None
    features = resolved.event.streams["pf"].features
    assert sum(feature.input for feature in features.values()) == 17
    assert list(features)[17:] == [f"part_{c}_scale" for c in ("px", "py", "pz", "energy")]
    sampling = resolved.config.train.sampling
    assert sampling is not None
    assert len(sampling.classes) == 30
    assert [len(edges) for edges in sampling.variables.values()] == [15, 49]
    files = ["--files", str(tmp_path / "jets" / "*.root"), "--files", "root://host//a.root"]
    result = CliRunner().invoke(
        main, ["convert-weaver", str(SOPHON), "-o", str(tmp_path / "own"), *files]
    )
    assert result.exit_code == 0, result.output
    own = load_config(tmp_path / "own" / "config.yaml")
    assert own.config.read[0]["files"] == [
        str(tmp_path / "jets" / "*.root"),
        "root://host//a.root",
    ]
    assert own.event is not None
    assert own.event.streams == resolved.event.streams
    assert own.event.targets == resolved.event.targets
    assert own.config.train.sampling == sampling
    assert yaml.safe_load((tmp_path / "own" / "config.yaml").read_text())["model"]["backbone"] == {
        "name": "part"
    }
    again = CliRunner().invoke(main, ["convert-weaver", str(SOPHON), "-o", str(tmp_path / "own")])
    assert again.exit_code == 2
    assert "exists already" in again.output


def test_new_variables_may_be_called_like_functions() -> None:
    derive = {"number": "where(x > 1, 2, 3)", "extra.number": "number", "jet.n": "number(x)"}
    assert tidy(derive, {}) == {"jet.n": "number(x)", "extra.number": "where(x > 1, 2, 3)"}


def test_files_of_a_written_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("top.yaml").write_text(yaml.safe_dump(document()))
    files = ["data/*.root", "QCD:data/q.root", "/data/a.root", "S:/data/b.root", "S:root://h//c"]
    options = [word for file in files for word in ("--files", file)]
    result = CliRunner().invoke(main, ["convert-weaver", "top.yaml", "-o", "own", *options])
    assert result.exit_code == 0, result.output
    written = yaml.safe_load(Path("own/config.yaml").read_text())["read"]["files"]
    assert written == ["../data/*.root", "QCD:../data/q.root", *files[2:]]
    wrong = CliRunner().invoke(
        main, ["convert-weaver", "top.yaml", "-o", "other", "--reader", "jetclas"]
    )
    assert wrong.exit_code == 2
    assert "did you mean 'jetclass'" in wrong.output
    assert not Path("other").exists()


def test_files_are_inspected_with_a_configuration_as_it_is(tmp_path: Path) -> None:
    write_parquet(tmp_path / "jets.parquet", make_jets(6, 3))
    configuration = {
        "selection": "jet_pt > 1e9",
        "new_variables": {
            "logpt": "np.log(np.hypot(part_px, part_py))",
            "m": "ak.ones_like(logpt)",
        },
        "inputs": {
            "pf_features": {"length": 8, "vars": ["logpt", "part_charge"]},
            "pf_mask": {"length": 8, "vars": ["m"]},
        },
        "labels": {"type": "custom", "value": {"truth": "jet_label"}},
    }
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(configuration))
    arguments = ["inspect", str(tmp_path / "jets.parquet"), "--reader", "jetclass"]
    shown = CliRunner().invoke(main, [*arguments, "--event", str(tmp_path / "data.yaml")])
    assert shown.exit_code == 0, shown.output
    for words in ("pf.logpt", "target/truth", "6 events checked, every rule holds"):
        assert words in shown.output, words
