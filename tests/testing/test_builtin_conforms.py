from __future__ import annotations

import pytest

from hepset.backbones.transformer import TransformerBackbone
from hepset.dialects import HepsetDialect
from hepset.heads.classification import ClassificationHead
from hepset.heads.regression import RegressionHead
from hepset.testing import check_backbone, check_dialect, check_head, make_event_info
from hepset.testing.backbones import DEFAULT_LAYOUTS

SMALL = {"width": 16, "depth": 2, "attention_heads": 2}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"buckets": 0, "feed_forward": "swiglu", "layer_scale": 0.1},
        {"buckets": 1, "embedding_layers": 0},
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
