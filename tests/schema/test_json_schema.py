"""The JSON Schema of the files takes what hepset takes, short forms included."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from hepset.plugins import registry
from hepset.schema.config import RunConfig
from hepset.schema.contract import Contract
from hepset.schema.event import EventInfo

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed")

EXAMPLES = Path(__file__).parents[2] / "examples"
EVENT: dict[str, Any] = {
    "streams": {
        "jets": {
            "features": {
                "pt": {"transform": "log1p"},
                "eta": None,
                "d0": {"transform": {"clip": [-1, None]}},
                "dz": {"transform": [{"affine": {"subtract": 1.7}}, "standardise"]},
            }
        }
    },
    "globals": {"met": {"features": ["pt", "phi"]}},
    "particles": {"t": ["b", "q"], "s": {"c": "jets"}},
    "symmetries": {"t": [["b", "q"]]},
    "targets": {"m": {"kind": "regression", "transform": "log1p"}},
}
RUN: dict[str, Any] = {
    "event": {"file": "e.yaml", "dialect": "spanet"},
    "read": [{"reader": "root", "files": "a.root"}],
    "prepare": {"select": "count(jets) > 1", "split": {"train": {"groups": [2018]}}},
    "model": {"backbone": "transformer", "heads": {"s": "classification"}},
    "train": None,
}
PARQUET: dict[str, Any] = {
    "files": {"a": "a.parquet", "b": ["b.parquet"]},
    "sample": "ttbar",
    "columns": {"streams.jets.pt": "pt", "targets.s": 1, "weight": None, "extra.x": {"from": "x"}},
}


def _problems(model: type[BaseModel], document: Any) -> list[str]:
    schema = model.model_json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return [
        problem.message for problem in jsonschema.Draft202012Validator(schema).iter_errors(document)
    ]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*/*.yaml")), ids=lambda p: p.parent.name)
def test_the_examples_fit(path: Path) -> None:
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    model = EventInfo if "streams" in document else RunConfig
    assert _problems(model, document) == []


@pytest.mark.parametrize(
    ("model", "document"),
    [
        (EventInfo, EVENT),
        (RunConfig, RUN),
        (RunConfig, {"event": "event.yaml", "read": {"reader": "root"}}),
        (RunConfig, {"event": EVENT, "dataset": "x"}),
        (registry().load("readers", "parquet").Config, PARQUET),
    ],
)
def test_what_the_models_take_fits(model: type[BaseModel], document: dict[str, Any]) -> None:
    model.model_validate(copy.deepcopy(document))
    assert _problems(model, document) == []


@pytest.mark.parametrize(
    ("model", "document"),
    [
        (EventInfo, {**EVENT, "target": {}}),
        (EventInfo, {"streams": {"jets": {"features": {"pt": {"units": "GeV"}}}}}),
        (RunConfig, {"trian": {}}),
        (RunConfig, {"train": {"epochs": 0}}),
        (registry().load("readers", "parquet").Config, {"files": 3}),
    ],
)
def test_what_the_models_refuse_does_not_fit(model: type[BaseModel], document: Any) -> None:
    assert _problems(model, document)


@pytest.mark.parametrize("kind", ["readers", "writers", "backbones", "heads", "engines"])
def test_every_component_has_a_schema(kind: Any) -> None:
    jsonschema.Draft202012Validator.check_schema(Contract.model_json_schema())
    for name in registry().names(kind):
        schema = registry().load(kind, name).Config.model_json_schema()
        jsonschema.Draft202012Validator.check_schema(schema)
        missing = [k for k, v in schema.get("properties", {}).items() if "description" not in v]
        assert not missing, (name, missing)
