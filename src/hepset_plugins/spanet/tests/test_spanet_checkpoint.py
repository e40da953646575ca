"""Trained SPANet networks as models of hepset."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner

import hepset
from hepset.batch import EventBatch, PaddedStream, make_ids
from hepset.errors import ConfigurationError
from hepset.schema.event import EventInfo
from hepset_spanet.checkpoint import SpanetModel, import_spanet, load_spanet, load_spanet_run
from hepset_spanet.commands import import_spanet_run
from hepset_spanet.matching import Matching
from hepset_spanet.network import Particle, SpanetInput, SpanetNetwork, Topology
from hepset_spanet.options import SpanetOptions
from hepset_spanet.reader import SpanetReader, SpanetReaderConfig

SHARED = Path(__file__).parents[5] / "shared"
needs_numbers = pytest.mark.skipif(
    not (SHARED / "fixtures/spanet").is_dir(), reason="SPANet's numbers are not here"
)

# A global before the streams: the order of inputs is the file's, and the checkpoint knows it.
EVENT = """
INPUTS:
  GLOBAL: {Met: {met: log_normalize, phi: normalize}}
  SEQUENTIAL:
    Jets: {pt: log_normalize, eta: normalize, phi: normalize, btag: none}
    Leptons: {pt: log}
EVENT:
  t1: [b: Jets, l: Leptons]
  t2: [b: Jets, l: Leptons]
PERMUTATIONS: {EVENT: [[t1, t2]]}
REGRESSIONS: {EVENT: [mass], t1: {PARTICLE: [[pt, log_gaussian]]}}
CLASSIFICATIONS: {EVENT: [signal]}
"""
OPTIONS: dict[str, Any] = {
    "hidden_dim": 8,
    "initial_embedding_dim": 4,
    "position_embedding_dim": 2,
    "num_encoder_layers": 1,
    "num_branch_embedding_layers": 0,
    "num_branch_encoder_layers": 1,
    "num_attention_heads": 2,
}


def make_network() -> SpanetNetwork:
    torch.manual_seed(4)
    topology = Topology(
        inputs=(
            SpanetInput(name="Met", kind="global", features=2),
            SpanetInput(name="Jets", kind="sequential", features=4),
            SpanetInput(name="Leptons", kind="sequential", features=1),
        ),
        particles=tuple(
            Particle(name=name, products=("b", "l"), group=((0, 1),)) for name in ("t1", "t2")
        ),
        permutations=((0, 1), (1, 0)),
        regressions={"EVENT/mass": "gaussian", "t1/PARTICLE/pt": "log_gaussian"},
        classifications={"EVENT/signal": 3},
    )
    options = SpanetOptions(**OPTIONS)
    tables = {"particle_weights_tensor": torch.tensor([0.5, 1.0, 1.0, 1.5])}
    network = SpanetNetwork(options, topology, tables).eval()
    layer = network.embedding.vector_embedding_layers[1]
    layer.get_parameter("normalizer.mean").data = torch.tensor([3.0, 0.0, 0.1, 0.0])
    layer.get_parameter("normalizer.std").data = torch.tensor([0.5, 1.2, 1.8, 1.0])
    network.regression_decoder.set_moments("EVENT/mass", 170.0, 1.0)
    return network


@pytest.fixture
def document() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(EVENT)
    return found


def make_batch() -> EventBatch:
    """Three events: four jets and two leptons, two and one, and no object at all."""
    rng = np.random.default_rng(3)
    jets = np.arange(4) < np.array([4, 2, 0])[:, None]
    leptons = np.arange(2) < np.array([2, 1, 0])[:, None]

    def values(shape: tuple[int, ...], low: float) -> Any:
        return (rng.random(shape) * 5 + low).astype(np.float32)

    streams = {
        "Jets": PaddedStream(
            {
                "pt": values(jets.shape, 20),
                "eta": values(jets.shape, -2),
                "phi": values(jets.shape, -2),
                "btag": (values(jets.shape, 0) > 2).astype(np.float32),
            },
            jets,
        ),
        "Leptons": PaddedStream({"pt": values(leptons.shape, 10)}, leptons),
    }
    arrays = {"Met": values((3, 2), 1)}
    return EventBatch(make_ids(0, range(3)), streams, arrays, {}, ("events",))


def test_importing_the_plugin_leaves_torch_alone() -> None:
    code = "import sys, hepset_spanet; assert 'torch' not in sys.modules; hepset_spanet.load_spanet"
    subprocess.run([sys.executable, "-c", code], check=True)


@needs_numbers
@pytest.mark.parametrize(
    ("name", "data"),
    [("tiny_ttbar", "full_hadronic_ttbar"), ("tiny_ttH", "semi_leptonic_ttH")],
)
def test_physical_inputs_give_spanets_outputs(name: str, data: str) -> None:
    path = SHARED / "data/spanet" / f"{data}.h5"
    if not path.is_file():
        pytest.skip("the public files are not here")
    folder = SHARED / "fixtures/spanet" / name
    with np.load(folder / "state_dict.npz") as stored:
        weights = {key: torch.from_numpy(stored[key]) for key in stored}
    model = load_spanet(weights, folder / "options.json", folder / "event.yaml")
    event = hepset.load_event(folder / "event.yaml")
    reader = SpanetReader(SpanetReaderConfig(files=[str(path)], max_events=32), event)
    found = model.predict(next(iter(reader)), raw=True)
    numbers = np.load(folder / "io.npz")
    for particle in model.network.topology.particles:
        key = f"assignment/{particle.name}"
        expected = numbers[f"out/{particle.name}/assignment_log_probability"]
        np.testing.assert_allclose(found[f"{key}/log_probability"], expected, atol=1e-5)
        expected = numbers[f"out/{particle.name}/detection_logit"]
        np.testing.assert_allclose(found[f"{key}/detection_logit"], expected, atol=1e-5)
        np.testing.assert_array_equal(found[key], numbers[f"selection/{particle.name}"])
    for key in model.network.topology.regressions:
        expected = numbers[f"out/regression/{key}"]
        np.testing.assert_allclose(found[key], expected, atol=1e-5)
        np.testing.assert_array_equal(found[f"regression/{key[6:]}"], found[key])
    for key in model.network.topology.classifications:
        np.testing.assert_allclose(found[key], numbers[f"out/classification/{key}"], atol=1e-5)
    assert model.network.state_dict().keys() == weights.keys()


def test_names_shapes_and_none(document: dict[str, Any]) -> None:
    network = make_network()
    model = load_spanet(network.state_dict(), OPTIONS, document)
    found = model.predict(make_batch(), raw=True)
    assert {name: array.shape for name, array in found.items()} == {
        "assignment/t1": (3, 2),
        "assignment/t1/probability": (3,),
        "assignment/t1/detection": (3,),
        "assignment/t2": (3, 2),
        "assignment/t2/probability": (3,),
        "assignment/t2/detection": (3,),
        "regression/mass": (3,),
        "regression/t1/pt": (3,),
        "signal/probabilities": (3, 3),
        "assignment/t1/log_probability": (3, 6, 6),
        "assignment/t1/detection_logit": (3,),
        "assignment/t2/log_probability": (3, 6, 6),
        "assignment/t2/detection_logit": (3,),
        "EVENT/mass": (3,),
        "t1/PARTICLE/pt": (3,),
        "EVENT/signal": (3, 3),
    }
    assert found["assignment/t1"][2].tolist() == [-1, -1]
    assert found["assignment/t1/probability"][2] == 0
    assert np.isnan(found["assignment/t1/log_probability"][2]).all()
    assert abs(found["regression/mass"] - 170).max() < 20
    np.testing.assert_allclose(found["signal/probabilities"].sum(1), 1, rtol=1e-6)
    assert "EVENT/mass" not in model.predict(make_batch())


def test_products_have_indices_of_their_own_streams(document: dict[str, Any]) -> None:
    weights = make_network().state_dict()
    anywhere = load_spanet(weights, OPTIONS, document).predict(make_batch(), raw=True)
    strict = load_spanet(weights, OPTIONS, document, exclusive_sources=True).predict(make_batch())
    joint = {p: anywhere[f"assignment/{p}/log_probability"][0] for p in ("t1", "t2")}
    first = max(joint, key=lambda particle: joint[particle].max())
    b, lepton = np.unravel_index(joint[first].argmax(), (6, 6))
    expected = [b if b < 4 else -1, lepton - 4 if lepton >= 4 else -1]
    assert anywhere[f"assignment/{first}"][0].tolist() == expected
    inside = {p: values[:4, 4:] for p, values in joint.items()}
    first = max(inside, key=lambda particle: inside[particle].max())
    expected = [int(i) for i in np.unravel_index(inside[first].argmax(), (4, 2))]
    assert strict[f"assignment/{first}"][0].tolist() == expected
    assert strict[f"assignment/{first}/probability"][0] == pytest.approx(
        np.exp(inside[first].max()), rel=1e-5
    )


def test_circular_angles_of_an_event_are_plain_numbers_for_spanet(document: dict[str, Any]) -> None:
    weights = make_network().state_dict()
    event = hepset.load_event(document)
    assert isinstance(event, EventInfo)
    assert event.streams["Jets"].features["phi"].transform == ("circular",)
    from_event = load_spanet(
        {k: v for k, v in weights.items() if "t1/PARTICLE" not in k},
        OPTIONS,
        event.model_copy(update={"targets": {k: event.targets[k] for k in ("mass", "signal")}}),
    )
    expected = load_spanet(weights, OPTIONS, document).predict(make_batch())
    found = from_event.predict(make_batch())
    np.testing.assert_array_equal(found["assignment/t1"], expected["assignment/t1"])
    np.testing.assert_array_equal(found["regression/mass"], expected["regression/mass"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["EVENT"].pop("t2"), "2 branches, the event 1 particles"),
        (lambda d: d.pop("PERMUTATIONS"), "the event declares a group of 1"),
        (lambda d: d["INPUTS"].pop("GLOBAL"), "2 sequential or relative inputs and 1 global"),
        (lambda d: d["INPUTS"]["SEQUENTIAL"]["Jets"].pop("btag"), "has 4 features, Jets has 3"),
        (lambda d: d["REGRESSIONS"].pop("EVENT"), "declares no regression target 'mass'"),
        (lambda d: d["REGRESSIONS"]["EVENT"].append("more"), "no head for it"),
    ],
)
def test_another_event_is_refused(document: dict[str, Any], change: Any, message: str) -> None:
    weights = make_network().state_dict()
    change(document)
    if "PERMUTATIONS" not in document or "t2" not in document["EVENT"]:
        document.pop("PERMUTATIONS", None)
    with pytest.raises(ConfigurationError, match=message):
        load_spanet(weights, OPTIONS, document)


def test_other_options_are_refused_with_names(document: dict[str, Any]) -> None:
    weights = make_network().state_dict()
    with pytest.raises(ConfigurationError, match=r"lacks encoder\.encoder\.layers\.1\."):
        load_spanet(weights, {**OPTIONS, "num_encoder_layers": 2}, document)
    with pytest.raises(ConfigurationError, match="no such option; did you mean 'hidden_dim'"):
        load_spanet(weights, {**OPTIONS, "hiden_dim": 8}, document)


def test_parameters_that_are_no_numbers_are_refused(document: dict[str, Any]) -> None:
    weights = make_network().state_dict()
    name = next(name for name in weights if name.endswith("weight"))
    for bad in (math.nan, math.inf):
        broken = {**weights, name: torch.full_like(weights[name], bad)}
        with pytest.raises(ConfigurationError, match=f"NaN or infinite in {name}: the training"):
            load_spanet(broken, OPTIONS, document)
    with pytest.raises(ConfigurationError, match="expected parameters by name, found NoneType"):
        load_spanet(None, OPTIONS, document)  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=r"expected a mapping or the name of a JSON file"):
        load_spanet(weights, [1], document)  # type: ignore[arg-type]


def write_run(folder: Path, names: list[str]) -> SpanetNetwork:
    network = make_network()
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "options.json").write_text(json.dumps(OPTIONS))
    (folder / "event.yaml").write_text(EVENT)
    for name in names:
        torch.save({"state_dict": network.state_dict()}, folder / "checkpoints" / name)
    return network


def test_best_and_last_checkpoint(tmp_path: Path) -> None:
    stem = "epoch={}-step={}-validation_average_jet_accuracy={}.ckpt"
    names = [stem.format(9, 90, 0.4), stem.format(10, 100, 0.4), stem.format(11, 110, 0.3)]
    write_run(tmp_path, names)

    def chosen(model: SpanetModel) -> str:
        return Path(model.provenance["imported"]["checkpoint"]).name

    assert chosen(load_spanet_run(tmp_path)) == names[1]
    assert chosen(load_spanet_run(tmp_path, which="last")) == names[2]
    write_run(tmp_path / "plain", ["epoch=9-step=90.ckpt", "epoch=10-step=100.ckpt"])
    assert chosen(load_spanet_run(tmp_path / "plain")) == "epoch=10-step=100.ckpt"
    write_run(tmp_path / "with_last", ["last.ckpt", *names])
    assert chosen(load_spanet_run(tmp_path / "with_last", which="last")) == "last.ckpt"


def test_imported_run_opens_as_any_other(tmp_path: Path) -> None:
    write_run(tmp_path / "spanet", ["last.ckpt"])
    run = tmp_path / "run"
    arguments = [str(tmp_path / "spanet"), "-o", str(run)]
    result = CliRunner().invoke(import_spanet_run, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    found = hepset.load_model(run).predict(make_batch())
    expected = load_spanet_run(tmp_path / "spanet").predict(make_batch())
    assert found.keys() == expected.keys()
    for name, array in found.items():
        np.testing.assert_array_equal(array, expected[name])
    continued = hepset.Run.from_yaml(run / "config.yaml").config
    assert continued.model.heads.keys() == {"assignment", "regression", "signal"}
    assert continued.train.start_from is not None
    assert Path(continued.train.start_from.path) == run / "checkpoints/best.ckpt"
    assert continued.train.learning_rate == SpanetOptions().learning_rate
    assert Path(continued.output) == tmp_path / "run-continued"
    with pytest.raises(ConfigurationError, match="there is a checkpoint already"):
        CliRunner().invoke(import_spanet_run, arguments, catch_exceptions=False)


def test_a_run_is_imported_where_its_data_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paths of the options are relative to the working directory, not to the new run."""
    write_run(tmp_path / "spanet", ["last.ckpt"])
    stated = tmp_path / "spanet/options.json"
    more = {"training_file": "data/train.h5", "dataset_limit": 0.5}
    stated.write_text(json.dumps({**json.loads(stated.read_text()), **more}))
    monkeypatch.chdir(tmp_path)
    import_spanet(tmp_path / "spanet", tmp_path / "runs/a")
    read = hepset.Run.from_yaml(tmp_path / "runs/a/config.yaml").config.read
    assert [entry["files"] for entry in read] == [[str(tmp_path / "data/train.h5")]]


def test_data_tell_which_features_of_an_imported_run_belong_to_pairs(
    tmp_path: Path, write_file: Callable[[dict[str, Any]], str]
) -> None:
    event = "INPUTS: {RELATIVE: {Pairs: {dr: none, pt: log}}}\nEVENT: {h: [a, b]}\n"
    torch.manual_seed(1)
    topology = Topology(
        inputs=(SpanetInput(name="Pairs", kind="relative", features=2),),
        particles=(Particle(name="h", products=("a", "b"), group=((0, 1),)),),
        permutations=((0,),),
    )
    network = SpanetNetwork(SpanetOptions(**OPTIONS), topology)
    (tmp_path / "spanet/checkpoints").mkdir(parents=True)
    (tmp_path / "spanet/options.json").write_text(json.dumps(OPTIONS))
    (tmp_path / "spanet/event.yaml").write_text(event)
    torch.save({"state_dict": network.state_dict()}, tmp_path / "spanet/checkpoints/last.ckpt")
    rng = np.random.default_rng(1)
    content = {
        "INPUTS/Pairs/MASK": np.ones((5, 4), bool),
        "INPUTS/Pairs/pt": rng.random((5, 4), np.float32),
        "INPUTS/Pairs/dr": rng.random((5, 4, 4), np.float32),
    }
    data = write_file(content)
    arguments = [str(tmp_path / "spanet"), "-o", str(tmp_path / "run"), "--data", data]
    result = CliRunner().invoke(import_spanet_run, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    model = hepset.load_model(tmp_path / "run")
    stated = model.event
    assert list(stated.streams["Pairs"].pairs) == ["dr"]
    reader = SpanetReader(SpanetReaderConfig(files=[data]), stated)
    found = model.predict(next(iter(reader)))
    content["INPUTS/Pairs/dr"] = content["INPUTS/Pairs/dr"] + 1
    other = SpanetReader(SpanetReaderConfig(files=[write_file(content)]), stated)
    changed = model.predict(next(iter(other)))
    assert abs(found["assignment/h/detection"] - changed["assignment/h/detection"]).max() > 0


def test_types_of_regressions_are_those_of_the_event_however_it_was_loaded(
    document: dict[str, Any],
) -> None:
    document["REGRESSIONS"]["EVENT"] = [["mass", "laplacian"]]
    event = hepset.load_event(document, dialect="spanet", parity=True)
    again = hepset.load_event(event.model_dump(mode="json", exclude_none=True))
    expected = {"EVENT/mass": "laplacian", "t1/PARTICLE/pt": "log_gaussian"}
    targets = {"target/mass": torch.tensor([3.0]), "target/t1/pt": torch.tensor([math.nan])}
    for given in (document, event, again):
        model = load_spanet(make_network().state_dict(), OPTIONS, given)
        assert model.network.topology.regressions == expected
        head = model.head("regression")
        head.kinds = model.network.topology.regressions
        head.matching = Matching(model.event, (), follow=False)
        ones = dict.fromkeys(["EVENT/mass.std", "t1/PARTICLE/pt.std"], torch.ones(1))
        zeros = dict.fromkeys(expected, torch.zeros(1))
        assert float(head.loss(zeros | ones, targets)["mass"].value) == 3.0


def test_pickled_code_is_not_run(tmp_path: Path) -> None:
    write_run(tmp_path, [])
    torch.save({"state_dict": Path("x")}, tmp_path / "checkpoints/last.ckpt")
    with pytest.raises(ConfigurationError, match="cannot be read safely"):
        load_spanet_run(tmp_path)
