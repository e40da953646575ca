"""Weights of weaver: names, layouts, models, run directories."""

from __future__ import annotations

import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from click.testing import CliRunner
from torch import Tensor

import hepset
from hepset.cli import main
from hepset.errors import ConfigurationError
from hepset.model.inputs import input_arrays
from hepset_jetclass.part.backbone import PartBackbone
from hepset_jetclass.part.checkpoint import import_weaver, load_part
from hepset_jetclass.part.commands import import_weaver_run
from hepset_jetclass.part.names import convert_head_layout, read_weights

SHARED = Path(__file__).parents[5] / "shared"
FIXTURES = SHARED / "fixtures/weaver"
CONFIGURATION = SHARED / "data/jetclass2/JetClassII_full.yaml"
needs_numbers = pytest.mark.skipif(
    not (FIXTURES / "part_outputs.npz").is_file() or not CONFIGURATION.is_file(),
    reason="weaver's numbers are not here",
)

EVENT: dict[str, Any] = {
    "inputs": {
        "pf_features": {
            "length": 8,
            "pad_mode": "wrap",
            "vars": [["logpt", 1.7, 0.7], ["charge", None], ["d0err", 0, 1, 0, 1]],
        },
        "pf_vectors": {
            "length": 8,
            "pad_mode": "wrap",
            "vars": [["px", None], ["py", None], ["pz", None], ["energy", None]],
        },
        "pf_mask": {"length": 8, "vars": [["part_mask", None]]},
    },
    "new_variables": {
        "part_mask": "ak.ones_like(px)",
        "logpt": "np.log(np.hypot(px, py))",
    },
    "labels": {"type": "simple", "value": ["label_b", "label_c", "label_q"]},
}
SMALL = {
    "embedding": (8, 16),
    "depth": 2,
    "class_depth": 1,
    "attention_heads": 4,
    "mlp_ratio": 2,
    "pair_embedding": (6, 5),
}


def state(hidden: tuple[int, ...] = (12,), prefix: str = "mod.") -> dict[str, Tensor]:
    """A state dict as weaver 0.5 writes it, of a small network."""
    from hepset.interfaces.backbone import InputLayout
    from hepset_jetclass.part.options import PartConfig

    torch.manual_seed(4)
    backbone = PartBackbone(PartConfig.model_validate(SMALL))
    backbone.build(InputLayout(streams={"pf": 3}, p4=("pf",)))
    found = dict(backbone.state_dict())
    for name, value in found.items():
        if value.is_floating_point():
            found[name] = value + 0.2 * torch.rand_like(value)
    widths = (16, *hidden, 3)
    for number, (width, following) in enumerate(pairwise(widths)):
        stem = f"fc.{number}.0" if number < len(hidden) else f"fc.{number}"
        found[f"{stem}.weight"] = torch.randn(following, width)
        found[f"{stem}.bias"] = torch.randn(following)
    return {f"{prefix}{name}": value for name, value in found.items()}


def old_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("attn.in_proj.", "attn.in_proj_"): v for name, v in weights.items()}


def jets(events: int = 6) -> dict[str, np.ndarray]:
    """Physical inputs in the order of the configuration."""
    rng = np.random.default_rng(3)
    mask = np.arange(8) < rng.integers(1, 9, events)[:, None]
    px, py, pz = 30 * rng.standard_normal((3, events, 8))
    energy = np.sqrt(px**2 + py**2 + pz**2 + 1)
    columns = [
        np.log(np.hypot(px, py)), rng.integers(-1, 2, px.shape), rng.random(px.shape),
        px, py, pz, energy,
    ]  # fmt: skip
    values = np.where(mask[..., None], np.stack(columns, -1), 0).astype(np.float32)
    return {"pf": values, "pf.mask": mask}


def predicted(weights: dict[str, Tensor], **options: Any) -> np.ndarray:
    found: np.ndarray = load_part(weights, EVENT, **options).predict(jets())["label/probabilities"]
    return found


@pytest.mark.parametrize("hidden", [(), (12,), (12, 7)])
@pytest.mark.parametrize("prefix", ["", "mod.", "module.mod."])
def test_all_weights_find_their_place(hidden: tuple[int, ...], prefix: str) -> None:
    weights = state(hidden, prefix)
    model = load_part(weights, EVENT)
    assert sum(v.numel() for v in weights.values()) == sum(
        v.numel() for part in (model.backbone, model.head("label").network)
        for v in part.state_dict().values()
    )  # fmt: skip
    assert model.config.backbone["embedding"] == [8, 16]
    assert model.config.backbone["pair_embedding"] == [6, 5]
    assert model.head("label").config.hidden == hidden
    assert model.to("cpu").predict(jets())["label/probabilities"].shape == (6, 3)


def test_old_weights_have_the_old_layout_and_can_be_converted() -> None:
    new, old = state(), old_names(state())
    assert read_weights(new).version == "0.5"
    assert read_weights(old).version == "0.4"
    interleaved = predicted(old)
    assert np.abs(interleaved - predicted(new)).max() > 1e-3
    np.testing.assert_allclose(predicted(new, weaver="0.4"), interleaved, atol=1e-6)
    np.testing.assert_allclose(predicted(old, weaver="0.5"), predicted(new), atol=1e-6)
    converted = convert_head_layout(old)
    assert set(converted) == set(new)
    assert read_weights(converted).version == "0.5"
    np.testing.assert_allclose(predicted(converted), interleaved, atol=1e-5)


def test_the_last_activation_of_the_pairs_is_asked_for() -> None:
    assert load_part(state(), EVENT, pair_activation=True).backbone.config.pair_activation
    assert not np.array_equal(predicted(state()), predicted(state(), pair_activation=True))


def test_what_is_not_a_particle_transformer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no 'cls_token'"):
        load_part({"mod.conv.weight": torch.ones(2)}, EVENT)
    weights = state()
    more = {**weights, "mod.pair_embed.embed.0.weight": torch.ones(6)}
    with pytest.raises(ConfigurationError, match="6 features of a pair"):
        load_part(more, EVENT)
    other = {**EVENT, "labels": {"type": "simple", "value": ["label_b", "label_c"]}}
    with pytest.raises(ConfigurationError, match=r"has 3 classes, the target 'label'.*has 2"):
        load_part(weights, other)
    with pytest.raises(ConfigurationError, match=r"no classification 'colour'.*it has label"):
        load_part(weights, EVENT, target="colour")
    groups = dict(EVENT["inputs"])
    groups["pf_features"] = {**groups["pf_features"], "vars": [["logpt", 1.7, 0.7]]}
    with pytest.raises(ConfigurationError, match="the weights do not fit the event's inputs"):
        load_part(weights, {**EVENT, "inputs": groups})
    gated = {**weights, "mod.blocks.0.gate_proj.weight": torch.ones(2)}
    with pytest.raises(ConfigurationError, match="gate_proj"):
        load_part(gated, EVENT)
    file = tmp_path / "net_state.pt"
    file.write_bytes(pickle.dumps({"mod.cls_token": Path()}, protocol=2))
    with pytest.raises(ConfigurationError, match="cannot be read safely"):
        load_part(file, EVENT)
    file.write_text("selection:\n   (jet_pt > 200)\n")
    with pytest.raises(ConfigurationError, match=r"cannot be read safely") as caught:
        load_part(file, EVENT)
    assert "weights_only" not in str(caught.value)
    torch.save({"state": {}, "param_groups": []}, file)
    with pytest.raises(ConfigurationError, match=r"not …_optimizer\.pt"):
        load_part(file, EVENT)


def test_weights_of_a_training_that_broke_down_are_refused() -> None:
    weights = state()
    weights["mod.blocks.1.fc1.bias"][3] = float("nan")
    with pytest.raises(ConfigurationError, match=r"1 of \d+ parameters .* blocks\.1\.fc1\.bias"):
        load_part(weights, EVENT)


def test_scores_and_likely_classes_are_given_on_request(tmp_path: Path) -> None:
    torch.save(state(), tmp_path / "net_state.pt")
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(EVENT))
    arguments = [str(tmp_path / "net_state.pt"), "--event", str(tmp_path / "data.yaml")]
    arguments += ["-o", str(tmp_path / "run"), "--top", "2", "--score", "b=label_b/label_[cq]"]
    arguments += ["--score", "heavy=label_b,label_c/label_q"]
    done = CliRunner().invoke(main, ["import-weaver", *arguments])
    assert done.exit_code == 0, done.output
    found = hepset.load_model(tmp_path / "run").predict(jets())
    probabilities = found["label/probabilities"]
    np.testing.assert_allclose(found["label/b"], probabilities[:, 0], atol=1e-6)
    np.testing.assert_allclose(found["label/heavy"], probabilities[:, :2].sum(1), atol=1e-6)
    assert np.array_equal(found["label/top"], np.argsort(-probabilities, axis=1)[:, :2])
    wrong = [*arguments[:-1], "heavy=label_b"]
    refused = CliRunner().invoke(main, ["import-weaver", *wrong])
    assert refused.exit_code == 2
    assert "expected NAME=SIGNAL/BACKGROUND" in refused.output


def test_the_command_writes_a_run_that_loads_and_is_inspected(tmp_path: Path) -> None:
    torch.save(old_names(state()), tmp_path / "net_state.pt")
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(EVENT))
    arguments = [str(tmp_path / "net_state.pt"), "--event", str(tmp_path / "data.yaml")]
    arguments += ["-o", str(tmp_path / "run")]
    done = CliRunner().invoke(import_weaver_run, arguments)
    assert done.exit_code == 0, done.output
    model = hepset.load_model(tmp_path / "run")
    assert model.config.backbone["head_layout"] == "interleaved"
    assert model.provenance["imported"] == {"system": "weaver", "version": "0.4"}
    assert "pf.logpt" in model.provenance["prepare"]["derive"]
    np.testing.assert_allclose(
        model.predict(jets())["label/probabilities"], predicted(old_names(state())), atol=1e-6
    )
    shown = CliRunner().invoke(main, ["inspect", str(tmp_path / "run")])
    assert shown.exit_code == 0, shown.output
    assert "label" in shown.output
    with pytest.raises(ConfigurationError, match="there is a checkpoint already"):
        import_weaver(tmp_path / "net_state.pt", EVENT, tmp_path / "run")


@needs_numbers
def test_the_numbers_are_those_of_weaver(jets_file: Path) -> None:
    from hepset_jetclass.weaver.inputs import weaver_batches

    weights = FIXTURES / "part_sophon_random_state.pt"
    model = load_part(weights, CONFIGURATION)
    assert sum(p.numel() for p in model.parameters()) == 2_304_688
    expected = np.load(FIXTURES / "part_outputs.npz")
    chosen = np.load(FIXTURES / "inputs_selected.npz")["entry_index"]
    (batch,) = weaver_batches(CONFIGURATION, [jets_file])
    arrays = input_arrays(model.contract, batch)
    tensors = {name: torch.tensor(array) for name, array in arrays.items()}
    with torch.no_grad():
        embedding = model.encode(tensors).event.numpy()
        logits = model(tensors)["truth_label"]["logits"].numpy()
    assert np.abs(embedding - expected["embed"][chosen]).max() < 1e-5
    assert np.abs(logits - expected["logits"][chosen]).max() < 1e-5


@needs_numbers
def test_pair_features_and_bias_are_those_of_weaver() -> None:
    from hepset.nn.pairs import pair_features

    expected = np.load(FIXTURES / "part_outputs.npz")
    inputs = np.load(FIXTURES / "inputs_selected.npz")
    model = load_part(FIXTURES / "part_sophon_random_state.pt", CONFIGURATION)
    assert list(inputs["entry_index"][:4]) == [0, 1, 2, 3]
    vectors = torch.from_numpy(inputs["pf_vectors"][:4, :, :16]).transpose(1, 2)
    features = pair_features(vectors, torch.ones(4, 16, dtype=torch.bool))
    np.testing.assert_allclose(features, expected["pair_features_4x16"], atol=1e-5)
    with torch.no_grad():
        bias = model.backbone.pair_embed.of_features(features.movedim(1, -1)).movedim(-1, 1)
    np.testing.assert_allclose(bias, expected["pair_bias_first4_16"], atol=1e-5)
