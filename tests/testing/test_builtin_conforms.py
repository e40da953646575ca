from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hepset.backbones.transformer import TransformerBackbone
from hepset.batch import EventBatch, make_ids
from hepset.dialects import HepsetDialect
from hepset.heads.classification import ClassificationHead
from hepset.heads.regression import RegressionHead
from hepset.predict.predictions import ParquetWriter, read_predictions
from hepset.schema.contract import compile_contract
from hepset.testing import (
    check_backbone,
    check_dialect,
    check_head,
    check_writer,
    make_batch,
    make_event_info,
)
from hepset.testing.backbones import DEFAULT_LAYOUTS

SMALL = {"width": 16, "depth": 2, "attention_heads": 2}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"skip_padding": False, "feed_forward": "swiglu", "layer_scale": 0.1},
        {"embedding_layers": 0},
    ],
)
def test_transformer(options: dict[str, object]) -> None:
    check_backbone(TransformerBackbone, {**SMALL, **options})


def test_transformer_with_pair_bias() -> None:
    layouts = DEFAULT_LAYOUTS[1:]
    check_backbone(TransformerBackbone, {**SMALL, "pair_bias": True}, layouts=layouts)


@pytest.mark.slow
def test_transformer_exports() -> None:
    layouts = DEFAULT_LAYOUTS[1:]
    options = {**SMALL, "pair_bias": True}
    check_backbone(TransformerBackbone, options, layouts=layouts, onnx=True)


@pytest.mark.parametrize(
    "options",
    [
        {"target": "signal"},
        {"target": "flavour", "class_balance": "inverse", "label_smoothing": 0.1},
        {"target": "jet_origin", "class_balance": "effective", "hidden": []},
    ],
    ids=lambda options: options["target"],
)
def test_classification(options: dict[str, object]) -> None:
    check_head(ClassificationHead, options)


@pytest.mark.parametrize(
    "options",
    [
        {"targets": ["m_ttbar", "neutrino_eta", "neutrino_phi"], "loss": "gaussian"},
        {"target": "m_ttbar", "loss": "quantile", "baselines": {"m_ttbar": "sum(jets.pt)"}},
        {"target": "neutrino_phi", "loss": "laplace"},
        {"targets": ["jet_energy", "neutrino_eta"], "loss": "huber"},
    ],
    ids=lambda options: options["loss"],
)
def test_regression(options: dict[str, object]) -> None:
    check_head(RegressionHead, options)


@pytest.mark.slow
def test_heads_export() -> None:
    check_head(ClassificationHead, {"target": "jet_origin"}, onnx=True)
    targets = ["m_ttbar", "neutrino_phi"]
    check_head(RegressionHead, {"targets": targets, "loss": "gaussian"}, onnx=True)


def test_hepsets_own_dialect() -> None:
    documents = [
        make_event_info(processes=count).model_dump(mode="json", exclude_none=True)
        for count in (1, 2)
    ]
    check_dialect(HepsetDialect(), documents)


def test_predictions_as_parquet() -> None:
    def read(path: Path) -> EventBatch:
        table, _ = read_predictions(path)
        columns = {name: table[name].to_pylist() for name in table.column_names}
        own = {"source", "source_index", "entry", "sample"}
        if not set(columns) > own:
            return EventBatch(make_ids(0, []), {})
        return EventBatch(
            make_ids(np.array(columns["source_index"]), columns["entry"], columns["sample"]),
            {},
            {n: np.array(c, batch[n].dtype) for n, c in columns.items() if n in batch.arrays},
            predictions={
                n: np.array(c, batch.predictions[n].dtype).reshape(
                    -1, *batch.predictions[n].shape[1:]
                )
                for n, c in columns.items()
                if n in batch.predictions
            },
        )

    contract = compile_contract(make_event_info())
    batch = make_batch(contract, 9)
    rng = np.random.default_rng(2)
    predictions = {
        "signal/probabilities": rng.random((9, 2), np.float32),
        "neutrino/neutrino_eta": rng.random(9, np.float32),
        "assignment/t1": rng.integers(-1, 7, (9, 3)),
    }
    batch = replace(batch, predictions=predictions)
    targets = [name for name in batch.arrays if name.startswith("target/")]
    names = ["ids", "weight", *targets, *predictions]
    check_writer(ParquetWriter, batch, contract, read_back=read, tensors=names)
