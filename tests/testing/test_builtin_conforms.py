from __future__ import annotations

import pytest

from hepset.backbones.transformer import TransformerBackbone
from hepset.testing import check_backbone, check_head
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
)
def test_classification(options: dict[str, object]) -> None:
    from hepset.heads.classification import ClassificationHead

    check_head(ClassificationHead, options)
