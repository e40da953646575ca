"""SPANet's own network, trained in hepset: what conforming means, and its losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hepset.errors import ConfigurationError
from hepset.interfaces.backbone import Backbone
from hepset.interfaces.component import parse_options
from hepset.schema.event import EventInfo
from hepset.testing import check_backbone, check_head
from hepset_spanet.backbone import SpanetBackbone, SpanetBackboneConfig
from hepset_spanet.network_assignment import SpanetAssignmentHead
from hepset_spanet.network_heads import SpanetClassificationHead, SpanetRegressionHead

SMALL: dict[str, Any] = {
    "hidden_dim": 8,
    "initial_embedding_dim": 4,
    "position_embedding_dim": 2,
    "num_encoder_layers": 1,
    "num_branch_embedding_layers": 1,
    "num_branch_encoder_layers": 1,
    "num_jet_encoder_layers": 1,
    "num_attention_heads": 2,
}

EVENT = EventInfo.model_validate(
    {
        "streams": {
            "jets": {
                "features": {
                    "pt": {"transform": ["log1p", "standardise"]},
                    "eta": {"transform": "standardise"},
                    "btag": {},
                }
            },
            "leptons": {"features": {"pt": {"transform": "log"}}},
        },
        "globals": {"met": {"features": {"pt": {"transform": "log1p"}}}},
        "particles": {
            "t1": {"b": "jets", "q1": None, "q2": None},
            "t2": {"b": "jets", "q1": None, "q2": None},
            "w": {"l": "leptons"},
        },
        "symmetries": {"event": [["t1", "t2"]], "t1": [["q1", "q2"]], "t2": [["q1", "q2"]]},
        "targets": {
            "m": {"kind": "regression", "transform": "standardise", "residuals": "laplace"},
            "t1/mass": {"kind": "regression", "transform": ["asinh", "standardise"]},
            "t2/mass": {"kind": "regression", "transform": ["asinh", "standardise"]},
            "w/l/charge": {"kind": "classification", "classes": ["minus", "plus"]},
            "t1/flavour": {"kind": "classification", "classes": ["u", "c", "t"]},
            "t2/flavour": {"kind": "classification", "classes": ["u", "c", "t"]},
            "signal": {"kind": "classification", "classes": ["no", "yes"]},
        },
    }
)


def small(**options: Any) -> Backbone:
    given = {"options": {**SMALL, **options}}
    return SpanetBackbone(parse_options(SpanetBackboneConfig, given, "test"))


def test_the_backbone_conforms() -> None:
    check_backbone(SpanetBackbone, {"options": SMALL})


@pytest.mark.parametrize("split", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"balance_particles": True, "balance_objects": True, "overlap_loss_weight": 0.5},
        {"combination": "softmin", "selection": "exact", "exclusive_sources": True},
    ],
)
def test_the_assignment_conforms(options: dict[str, Any], *, split: bool) -> None:
    check_head(
        SpanetAssignmentHead,
        options,
        event=EVENT,
        backbone=lambda: small(split_symmetric_attention=split),
    )


def test_the_regression_conforms() -> None:
    targets = ["m", "t1/mass", "t2/mass"]
    check_head(SpanetRegressionHead, {"targets": targets}, event=EVENT, backbone=small)
    options = {"targets": targets, "parity": "spanet"}
    check_head(SpanetRegressionHead, options, event=EVENT, backbone=small)


@pytest.mark.parametrize("target", ["signal", "w/l/charge", "t1/flavour"])
def test_the_classification_conforms(target: str) -> None:
    options = {"target": target, "class_balance": "effective"}
    check_head(SpanetClassificationHead, options, event=EVENT, backbone=small)


def test_what_does_not_fit_is_refused() -> None:
    head = SpanetRegressionHead(
        "x", parse_options(SpanetRegressionHead.Config, {"targets": ["n"]}, "")
    )
    with pytest.raises(ConfigurationError, match="declares no regression target 'n'"):
        head.contract(EVENT)
    with pytest.raises(ConfigurationError, match=r"model\.backbone\.name: spanet"):
        check_head(SpanetRegressionHead, {"targets": ["m"]}, event=EVENT)


def test_targets_follow_the_permutation_of_the_assignment() -> None:
    """Particle 1 is sure of t2's objects: its mass is compared with t2's; in parity with t1's."""
    event = EVENT
    scores = torch.full((1, 3, 3, 3), -8.0)
    first, second = scores.clone(), scores.clone()
    first[0, 2, 0, 1] = first[0, 2, 1, 0] = -0.1
    second[0, 0, 1, 2] = second[0, 0, 2, 1] = -0.1
    outputs = {
        "t1/log_probability": first,
        "t2/log_probability": second,
        "w/log_probability": torch.zeros(1, 3),
        "mask/jets": torch.ones(1, 3, dtype=torch.bool),
        "mask/leptons": torch.zeros(1, 0, dtype=torch.bool),
        "t1/PARTICLE/mass": torch.tensor([5.0]),
        "t2/PARTICLE/mass": torch.tensor([9.0]),
        "t1/PARTICLE/mass.std": torch.tensor([2.0]),
        "t2/PARTICLE/mass.std": torch.tensor([2.0]),
    }
    targets = {
        "target/t1/mass": torch.tensor([9.0]),
        "target/t2/mass": torch.tensor([6.0]),
        "target/assignment/t1": torch.tensor([[0, 1, 2]]),
        "target/assignment/t2": torch.tensor([[2, 0, 1]]),
        "target/assignment/w": torch.tensor([[-1]]),
    }
    expected = {"none": (0.25, 0.0), "spanet": (4.0, 2.25)}
    for parity, values in expected.items():
        options = {"targets": ["t1/mass", "t2/mass"], "parity": parity}
        head = SpanetRegressionHead("x", parse_options(SpanetRegressionHead.Config, options, ""))
        head.contract(event)
        head.kinds = dict.fromkeys(head.keys.values(), "gaussian")
        found = head.loss(outputs, targets)
        assert [float(found[n].value) for n in ("t1/mass", "t2/mass")] == pytest.approx(values)
