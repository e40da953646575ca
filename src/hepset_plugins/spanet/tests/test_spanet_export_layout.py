"""SPANet's names and axes for exported graphs, of both kinds of networks."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from hepset.arrays import Array
from hepset.errors import ExportError
from hepset.export import export_onnx
from hepset.model import Model, build_model
from hepset.model.onnx_model import open_session
from hepset.schema.config import ModelConfig
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo
from hepset.schema.statistics import Statistics
from hepset_assignment.head import AssignmentHead
from hepset_spanet import load_spanet
from hepset_spanet.event_file import parse_event_file
from hepset_spanet.export_layout import SpanetLayout, SpanetLayoutConfig
from hepset_spanet.network import Particle, SpanetInput, SpanetNetwork, Topology
from hepset_spanet.network.embedding import Source
from hepset_spanet.options import SpanetOptions

FIXTURES = Path(__file__).parents[4].parent / "shared" / "fixtures" / "spanet" / "tiny_ttH"
DATA = Path(__file__).parents[4].parent / "shared" / "data" / "spanet" / "semi_leptonic_ttH.yaml"
EVENT = """
INPUTS:
  SEQUENTIAL:
    Jets: {pt: log, eta: none, phi: none}
    Leptons: {pt: log}
  GLOBAL:
    Met: {met: log}
EVENT:
  t1: [b: Jets, l: Leptons]
  t2: [q1, q2]
PERMUTATIONS:
  t2: [[q1, q2]]
CLASSIFICATIONS:
  EVENT: [signal]
"""


def make_event() -> EventInfo:
    event = parse_event_file(yaml.safe_load(EVENT), where="event.yaml")
    data: dict[str, Any] = event.model_dump(mode="json")
    data["streams"]["Jets"]["slots"], data["streams"]["Leptons"]["slots"] = 4, 2
    data["targets"]["signal"]["classes"] = ["background", "signal"]
    return EventInfo.model_validate(data)


def make_model(**heads: Any) -> Model:
    event = make_event()
    heads = heads or {"assignment": {"name": "assignment", "hidden": 4}}
    config = ModelConfig.model_validate(
        {
            "backbone": {"name": "transformer", "width": 8, "depth": 0, "attention_heads": 2},
            "heads": {**heads, "signal": {"name": "classification", "target": "signal"}},
        }
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = build_model(config, event, compile_contract(event), Statistics(tensors={}))
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    return model.eval()


def events() -> dict[str, Array]:
    """Three events: all objects, some, and none of one stream."""
    rng = np.random.default_rng(1)
    f = np.float32
    return {
        "Jets": np.abs(rng.normal(size=(3, 4, 3))).astype(f),
        "Jets.mask": np.array([[1, 1, 1, 1], [1, 0, 1, 0], [1, 1, 0, 0]], bool),
        "Leptons": np.abs(rng.normal(size=(3, 2, 1))).astype(f),
        "Leptons.mask": np.array([[1, 1], [0, 1], [0, 0]], bool),
        "Met": np.abs(rng.normal(size=(3, 1))).astype(f),
        "Met.mask": np.ones(3, bool),
    }


def run(model: Model, arrays: Mapping[str, Array], **options: Any) -> dict[str, Tensor]:
    layout = SpanetLayout(model.contract.inputs(), model.event, SpanetLayoutConfig(**options))
    layout.bind(model)
    feed = layout.feed(arrays)
    with torch.no_grad():
        return layout.run(model, {name: torch.from_numpy(feed[name]) for name in layout.axes()})


def test_names_are_spanets() -> None:
    found = run(make_model(), events())
    assert list(found) == [
        "t1_assignment_probability",
        "t2_assignment_probability",
        "t1_detection_probability",
        "t2_detection_probability",
        "EVENT/signal",
    ]
    logarithms = run(make_model(), events(), output_log_transform=True)
    assert list(logarithms) == [
        "t1_assignment_log_probability",
        "t2_assignment_log_probability",
        "t1_detection_log_probability",
        "t2_detection_log_probability",
        "EVENT/signal",
    ]
    for (name, value), logarithm in zip(found.items(), logarithms.values(), strict=True):
        torch.testing.assert_close(value, logarithm.exp(), equal_nan=True, msg=name)


def test_targets_that_the_assignment_learns_are_outputs_too() -> None:
    """They are those of the tuples that the head itself chooses."""
    event = make_event()
    data = event.model_dump(mode="json")
    data["targets"]["t2/mass"] = {"kind": "regression"}
    data["targets"]["t1/b/flavour"] = {"kind": "classification", "classes": ["light", "b"]}
    event = EventInfo.model_validate(data)
    own = {"regressions": ["t2/mass"], "classifications": ["t1/b/flavour"], "hidden": 4}
    config = ModelConfig.model_validate(
        {
            "backbone": {"name": "transformer", "width": 8, "depth": 0, "attention_heads": 2},
            "heads": {"tops": {"name": "assignment", **own}},
        }
    )
    model = build_model(config, event, compile_contract(event), Statistics(tensors={})).eval()
    found = run(model, events())
    expected = model.predict(events())
    np.testing.assert_allclose(found["t2/PARTICLE/mass"], expected["tops/t2/mass"], rtol=1e-5)
    chances = expected["tops/t1/b/flavour/probabilities"]
    np.testing.assert_allclose(found["t1/b/flavour"], chances, rtol=1e-5)
    assert list(found)[-2:] == ["t2/PARTICLE/mass", "t1/b/flavour"]


def test_the_own_network_gives_a_distribution_over_ordered_tuples() -> None:
    """Six positions: four jets, then two leptons. The last event has no lepton."""
    found = run(make_model(), events())
    first, second = found["t1_assignment_probability"], found["t2_assignment_probability"]
    assert first.shape == second.shape == (3, 6, 6)
    assert bool(torch.isnan(first[2]).all())
    assert first[:2].sum((1, 2)).tolist() == pytest.approx([1, 1], abs=1e-5)
    assert second.sum((1, 2)).tolist() == pytest.approx([1, 1, 1], abs=1e-5)
    # b is a jet, l a lepton; q1 and q2 may be anything that is real, not the same twice.
    assert int((first[0] > 0).sum()) == 8
    assert int((first[1] > 0).sum()) == 2
    assert int((second[1] > 0).sum()) == 6
    torch.testing.assert_close(second, second.transpose(1, 2))
    assert bool((second.diagonal(dim1=1, dim2=2) == 0).all())


def test_probabilities_are_those_of_the_head() -> None:
    model, arrays = make_model(), events()
    found = run(model, arrays)
    head = model.heads["assignment"]
    assert isinstance(head, AssignmentHead)
    with torch.no_grad():
        outputs = model({name: torch.from_numpy(value) for name, value in arrays.items()})
        decided = model.decode(outputs)
    raw = outputs["assignment"]
    second = head.topology.processes[0].particles[1]
    unordered = torch.softmax(raw[f"scores.{second.kind}"][:, second.query], 1)
    cells = head.space.of(second.kind, raw).objects.tolist()
    table = found["t2_assignment_probability"]
    for number, (one, two) in enumerate(cells[:-1]):
        both = table[:, one, two] + table[:, two, one]
        torch.testing.assert_close(both, unordered[:, number])
    detection = decided["assignment/t1/detection"]
    torch.testing.assert_close(found["t1_detection_probability"], detection)
    torch.testing.assert_close(found["EVENT/signal"], decided["signal/probabilities"])


def test_logarithms_are_taken_inside_or_outside() -> None:
    model, arrays = make_model(), events()
    layout = SpanetLayout(model.contract.inputs(), model.event)
    inside = SpanetLayout(
        model.contract.inputs(), model.event, SpanetLayoutConfig(input_log_transform=True)
    )
    given, physical = layout.feed(arrays)["Jets_data"], inside.feed(arrays)["Jets_data"]
    np.testing.assert_array_equal(physical, arrays["Jets"])
    np.testing.assert_allclose(given[..., 0], np.log(arrays["Jets"][..., 0] + 1), rtol=1e-6)
    np.testing.assert_array_equal(given[..., 1:], arrays["Jets"][..., 1:])
    assert layout.feed(arrays)["Met_data"].shape == (3, 1, 1)
    one = run(model, arrays)
    other = run(model, arrays, input_log_transform=True)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], equal_nan=True, rtol=1e-5, atol=1e-6)


def test_the_graph_takes_any_number_of_objects(tmp_path: Path) -> None:
    model, arrays = make_model(), events()
    path = tmp_path / "spanet.onnx"
    assert export_onnx(model, path, layout="spanet").layout == "spanet"
    session = open_session(str(path), threads=1)
    shapes = {node.name: node.shape for node in session.get_inputs()}
    assert shapes["Jets_data"] == ["batch_size", "num_Jets", 3]
    assert shapes["Jets_mask"] == ["batch_size", "num_Jets"]
    assert shapes["Met_data"] == ["batch_size", 1, 1]
    arrays = {**arrays, **{n: arrays[n][:, :3] for n in ("Jets", "Jets.mask")}}
    feed = SpanetLayout(model.contract.inputs(), model.event).feed(arrays)
    names = [node.name for node in session.get_outputs()]
    found = dict(zip(names, session.run(names, {n: feed[n] for n in shapes}), strict=True))
    assert found["t2_assignment_probability"].shape == (3, 5, 5)
    for name, value in run(model, arrays).items():
        np.testing.assert_allclose(found[name], value.numpy(), rtol=1e-5, atol=1e-6)


def test_models_that_do_not_fit() -> None:
    none = make_model(other={"name": "classification", "target": "signal"})
    with pytest.raises(ExportError, match="one head that assigns, this model has 0"):
        run(none, events())
    with pytest.raises(ExportError, match="output_embeddings: only SPANet's own network"):
        run(make_model(), events(), output_embeddings=True)


@pytest.mark.skipif(
    not (FIXTURES.is_dir() and DATA.is_file()), reason="shared/fixtures/spanet is not there"
)
def test_an_imported_network_gives_spanets_own_numbers() -> None:
    """Outputs of SPANet 2.2 for 32 events, stored before softmax and sigmoid."""
    options = json.loads((FIXTURES / "options.json").read_text())
    with np.load(FIXTURES / "state_dict.npz") as file:
        weights = {name: torch.from_numpy(file[name]) for name in file}
    model = load_spanet(weights, options, str(DATA)).eval()
    layout = SpanetLayout(
        model.contract.inputs(), model.event, SpanetLayoutConfig(output_embeddings=True)
    )
    layout.bind(model)
    with np.load(FIXTURES / "io.npz") as file:
        stored = {name: file[name] for name in file}
    # The data are after the logarithm, as the graph takes them.
    given = {
        f"{name}_{part}": torch.from_numpy(stored[f"source/{name}/{part}"])
        for name in ("Momenta", "Met")
        for part in ("data", "mask")
    }
    with torch.no_grad():
        found = {name: value.numpy() for name, value in layout.run(model, given).items()}
    for particle in ("lt", "ht", "h"):
        np.testing.assert_allclose(
            found[f"{particle}_assignment_probability"],
            np.exp(stored[f"out/{particle}/assignment_log_probability"]),
            atol=1e-5,
        )
        logit = stored[f"out/{particle}/detection_logit"]
        detection = found[f"{particle}_detection_probability"]
        np.testing.assert_allclose(detection, 1 / (1 + np.exp(-logit)), atol=1e-5)
    for name, expected in stored.items():
        kind, _, key = name.removeprefix("out/").partition("/")
        if kind == "regression":
            np.testing.assert_allclose(found[key], expected, rtol=1e-5, atol=1e-5)
        elif kind == "vector":
            vector = found[f"{key}/embedding_vector"]
            np.testing.assert_allclose(vector, expected, rtol=1e-4, atol=1e-5)


def relative_event() -> EventInfo:
    """Jets with features of their own (pt, phi) and of pairs (dr, dphi), and leptons."""
    document = {
        "INPUTS": {
            "RELATIVE": {"Jets": {"pt": "log_normalize", "phi": "normalize"}},
            "SEQUENTIAL": {"Leptons": {"pt": "log"}},
        },
        "EVENT": {"t": ["a", "b"]},
        "PERMUTATIONS": {"t": [["a", "b"]]},
    }
    data = parse_event_file(document, where="event.yaml").model_dump(mode="json")
    data["streams"]["Jets"]["pairs"] = {"dr": {"transform": ["log1p"]}, "dphi": {}}
    data["streams"]["Jets"]["slots"], data["streams"]["Leptons"]["slots"] = 4, 2
    return EventInfo.model_validate(data)


def test_pairs_of_objects_are_given_as_spanet_gives_them(tmp_path: Path) -> None:
    """Entry [r, c] holds the features of object c, then those of the pair, after logarithms."""
    options = {"hidden_dim": 8, "initial_embedding_dim": 4, "position_embedding_dim": 2,
               "num_encoder_layers": 1, "num_branch_embedding_layers": 0,
               "num_branch_encoder_layers": 1, "num_attention_heads": 2}  # fmt: skip
    topology = Topology(
        inputs=(
            SpanetInput(name="Jets", kind="relative", features=4),
            SpanetInput(name="Leptons", kind="sequential", features=1),
        ),
        particles=(Particle(name="t", products=("a", "b"), group=((0, 1), (1, 0))),),
        permutations=((0,),),
        regressions={},
        classifications={},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        network = SpanetNetwork(SpanetOptions(**options), topology).eval()
    jets = network.embedding.vector_embedding_layers[0]
    jets.get_parameter("normalizer.mean").data = torch.tensor([3.0, 0.2, 0.5, 0.0])
    jets.get_parameter("normalizer.std").data = torch.tensor([0.7, 1.8, 0.4, 1.0])
    model = load_spanet(network.state_dict(), options, relative_event()).eval()

    rng = np.random.default_rng(3)
    pt, phi = rng.exponential(30, (3, 4)), rng.uniform(-np.pi, np.pi, (3, 4))
    dphi = phi[:, :, None] - phi[:, None, :]
    mask = np.array([[1, 1, 1, 1], [1, 0, 1, 0], [0, 1, 0, 0]], bool)
    both = mask[:, :, None] & mask[:, None, :]
    data = np.stack([np.broadcast_to(np.log1p(pt)[:, None], dphi.shape),
                     np.broadcast_to(phi[:, None], dphi.shape),
                     np.log1p(np.abs(dphi)), dphi], -1)  # fmt: skip
    data = np.where(both[..., None], data, 0).astype(np.float32)
    leptons = np.log1p(rng.exponential(30, (3, 2, 1))).astype(np.float32)
    there = np.array([[1, 1], [1, 0], [1, 0]], bool)
    leptons[~there] = 0
    given = {"Jets_data": data, "Jets_mask": both, "Leptons_data": leptons, "Leptons_mask": there}
    sources = {
        "Jets": Source(torch.from_numpy(data), torch.from_numpy(mask)),
        "Leptons": Source(torch.from_numpy(leptons), torch.from_numpy(there)),
    }
    with torch.no_grad():
        expected = network(sources).log_probabilities["t"].exp().numpy()

    physical = {
        "Jets": np.where(mask[..., None], np.stack([pt, phi], -1), 0).astype(np.float32),
        "Jets.pairs": np.where(both[..., None], np.stack([np.abs(dphi), dphi], -1), 0),
        "Jets.mask": mask,
        "Leptons": np.expm1(leptons),
        "Leptons.mask": there,
    }
    physical["Jets.pairs"] = physical["Jets.pairs"].astype(np.float32)
    layout = SpanetLayout(model.contract.inputs(), model.event)
    fed = layout.feed(physical)
    np.testing.assert_array_equal(fed["Jets_mask"], both)
    np.testing.assert_allclose(fed["Jets_data"][both], data[both], atol=1e-5)
    np.testing.assert_allclose(fed["Leptons_data"], leptons, atol=1e-5)

    path = tmp_path / "spanet.onnx"
    export_onnx(model, path, layout="spanet")
    session = open_session(str(path), threads=1)
    shapes = {node.name: node.shape for node in session.get_inputs()}
    assert shapes["Jets_data"] == ["batch_size", "num_Jets", "num_Jets", 4]
    assert shapes["Jets_mask"] == ["batch_size", "num_Jets", "num_Jets"]
    (found,) = session.run(["t_assignment_probability"], given)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    shorter = {"Jets_data": data[1:, :3, :3], "Jets_mask": both[1:, :3, :3]}
    (found,) = session.run(
        ["t_assignment_probability"],
        {**{name: array[1:] for name, array in given.items()}, **shorter},
    )
    kept = [0, 1, 2, 4, 5]
    np.testing.assert_allclose(found, expected[1:][:, kept][:, :, kept], atol=1e-5)


def test_scores_learnt_jointly_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    run(make_model(), events())
    assert "learnt the scores of all particles jointly" in caplog.text
    assert "likelihood: separate" in caplog.text
    caplog.clear()
    head = {"name": "assignment", "hidden": 4, "likelihood": "separate"}
    run(make_model(assignment=head), events())
    assert not caplog.records
