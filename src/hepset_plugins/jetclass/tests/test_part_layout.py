"""Graphs in weaver's layout: inputs, output, `preprocess.json`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import yaml

from hepset.errors import ConfigurationError, ExportError
from hepset.export import export_onnx
from hepset.model import Model, build_model
from hepset.schema.config import ModelConfig
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo
from hepset.schema.statistics import Statistics
from hepset_jetclass.part.layout import WeaverLayout, WeaverLayoutConfig
from hepset_jetclass.weaver.grammar import parse_weaver
from hepset_jetclass.weaver.translation import translate

CONFIGURATION: dict[str, Any] = {
    "inputs": {
        "pf_points": {"length": 6, "vars": [["deta", None]]},
        "pf_features": {
            "length": 6,
            "vars": [["logpt", 1.7, 0.7], ["d0err", 0, 1, 0, 1], ["deta", None]],
        },
        "pf_vectors": {
            "length": 6,
            "vars": [["px", None], ["py", None], ["pz", None], ["energy", None]],
        },
        "pf_mask": {"length": 6, "vars": [["part_mask", None]]},
    },
    "new_variables": {"part_mask": "ak.ones_like(px)", "logpt": "np.log(np.hypot(px, py))"},
    "labels": {"type": "simple", "value": ["label_b", "label_q"]},
}


def make(event: EventInfo | None = None, **heads: Any) -> Model:
    if event is None:
        event = translate(parse_weaver(CONFIGURATION, "weaver"), "weaver").event
    target = next(iter(event.targets))
    config = ModelConfig(
        backbone={
            "name": "part", "embedding": [8], "depth": 1, "class_depth": 1, "attention_heads": 2,
            "mlp_ratio": 1, "pair_embedding": [4],
        },
        heads=heads or {"label": {"name": "classification", "target": target, "hidden": []}},
    )  # fmt: skip
    torch.manual_seed(3)
    return build_model(config, event, compile_contract(event), Statistics()).eval()


def bind(model: Model, **options: Any) -> WeaverLayout:
    config = WeaverLayoutConfig.model_validate(options)
    layout = WeaverLayout(model.contract.inputs(), model.event, config)
    layout.bind(model)
    return layout


def physical(model: Model, events: int = 5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    mask = np.arange(6) < np.array([6, 1, 0, 4, 3])[:events, None]
    px, py, pz = 30 * rng.standard_normal((3, events, 6))
    values = {
        "logpt": np.log(np.hypot(px, py)), "d0err": rng.exponential(1, px.shape),
        "deta": rng.standard_normal(px.shape), "px": px, "py": py, "pz": pz,
        "energy": np.sqrt(px**2 + py**2 + pz**2 + 1),
    }  # fmt: skip
    columns = np.stack([values[name] for name in model.contract["pf"].columns], -1)
    return {"pf": np.where(mask[..., None], columns, 0).astype(np.float32), "pf.mask": mask}


def test_the_graph_has_weavers_names_and_takes_what_weaver_has_preprocessed(
    tmp_path: Path,
) -> None:
    (tmp_path / "data.yaml").write_text(yaml.safe_dump(CONFIGURATION, sort_keys=False))
    model = make()
    path = tmp_path / "model.onnx"
    layout = {"name": "weaver", "embedding": True, "data_config": str(tmp_path / "data.yaml")}
    export_onnx(model, path, layout=layout)
    session = onnxruntime.InferenceSession(str(path))
    assert [node.name for node in session.get_inputs()] == ["pf_features", "pf_vectors", "pf_mask"]
    assert [node.name for node in session.get_outputs()] == ["softmax"]
    arrays = physical(model)
    columns = dict(zip(model.contract["pf"].columns, np.moveaxis(arrays["pf"], -1, 0), strict=True))
    features = [
        np.clip((columns["logpt"] - 1.7) * 0.7, -5, 5),
        np.clip(columns["d0err"], 0, 1),
        columns["deta"],
    ]
    feed = {
        "pf_features": np.stack(features, 1).astype(np.float32),
        "pf_vectors": np.stack([columns[n] for n in ("px", "py", "pz", "energy")], 1),
        "pf_mask": arrays["pf.mask"][:, None].astype(np.float32),
    }
    (found,) = session.run(None, feed)
    expected = model.predict(arrays)["label/probabilities"]
    np.testing.assert_allclose(found[:, :2], expected, atol=1e-6)
    with torch.no_grad():
        event = model.encode({name: torch.from_numpy(a) for name, a in arrays.items()}).event
    np.testing.assert_allclose(found[:, 2:], event, atol=1e-5)
    shorter = {name: array[1:2, :, :2] for name, array in feed.items()}
    np.testing.assert_allclose(session.run(None, shorter)[0], found[1:2], atol=1e-5)
    written = json.loads((tmp_path / "preprocess.json").read_text())
    assert written["output_names"] == ["label_b", "label_q"]
    assert written["input_names"] == ["pf_points", "pf_features", "pf_vectors", "pf_mask"]
    assert "hepset.contract" in session.get_modelmeta().custom_metadata_map


def test_preprocessing_is_told_by_the_event_alone() -> None:
    stated = json.loads(bind(make()).files()["preprocess.json"])
    assert stated["output_names"] == ["label_b", "label_q"]
    assert stated["input_names"] == ["pf_features", "pf_vectors", "pf_mask"]
    features = stated["pf_features"]
    assert features["var_names"] == ["logpt", "d0err", "deta"]
    assert features["var_length"] == 6
    common = {"replace_inf_value": 0, "pad": 0}
    assert features["var_infos"] == {
        "logpt": {"median": 1.7, "norm_factor": 0.7, "lower_bound": -5, "upper_bound": 5, **common},
        "d0err": {"median": 0, "norm_factor": 1, "lower_bound": 0, "upper_bound": 1, **common},
        "deta": {
            "median": 0, "norm_factor": 1, "lower_bound": -1e32, "upper_bound": 1e32, **common
        },
    }  # fmt: skip
    assert stated["pf_vectors"]["var_names"] == ["px", "py", "pz", "energy"]


def test_scales_that_were_computed_are_those_of_the_model(tmp_path: Path) -> None:
    inputs = dict(CONFIGURATION["inputs"])
    first, *others = inputs["pf_features"]["vars"]
    assert first == ["logpt", 1.7, 0.7]
    inputs["pf_features"] = {**inputs["pf_features"], "vars": ["logpt", *others]}
    automatic = {**CONFIGURATION, "inputs": inputs, "preprocess": {"method": "auto"}}
    (tmp_path / "manual.yaml").write_text(yaml.safe_dump(CONFIGURATION))
    (tmp_path / "auto.yaml").write_text(yaml.safe_dump(automatic))
    manual, auto = (
        json.loads(
            bind(make(), data_config=str(tmp_path / f"{name}.yaml")).files()["preprocess.json"]
        )
        for name in ("manual", "auto")
    )
    assert auto["pf_features"]["var_infos"]["logpt"]["median"] == 1.7
    assert auto == manual


def test_models_that_weaver_has_no_form_for_are_refused(tmp_path: Path) -> None:
    own = make().event
    stream = own.streams["pf"]
    feature = stream.features["logpt"].model_copy(update={"transform": ("log1p",)})
    other = stream.model_copy(update={"features": {**stream.features, "logpt": feature}})
    with pytest.raises(ExportError, match="logpt is transformed by log1p; weaver's preprocessing"):
        bind(make(own.model_copy(update={"streams": {"pf": other}})))
    two = {
        name: {"name": "classification", "target": "label", "hidden": []} for name in ("one", "two")
    }
    with pytest.raises(ConfigurationError, match="2 classifications"):
        bind(make(None, **two))
    assert bind(make(None, **two), head="two").head == "two"
    with pytest.raises(ConfigurationError, match="no classification 'three'"):
        bind(make(None, **two), head="three")
    inputs = dict(CONFIGURATION["inputs"])
    inputs["pf_features"] = {"length": 6, "vars": [["deta", None], ["logpt", 1.7, 0.7]]}
    (tmp_path / "data.yaml").write_text(yaml.safe_dump({**CONFIGURATION, "inputs": inputs}))
    with pytest.raises(ConfigurationError, match=r"pf_features are deta, logpt; the model's"):
        bind(make(), data_config=str(tmp_path / "data.yaml"))
