"""Targets of particles and products follow their objects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hepset.errors import ConfigurationError
from hepset.interfaces.component import parse_options
from hepset.interfaces.head import Evaluation
from hepset.schema.contract import Contract, compile_contract
from hepset.schema.event import EventInfo
from hepset.schema.statistics import Statistics
from hepset.testing import check_head
from hepset_assignment.head import AssignmentConfig, AssignmentHead

PARTICLES = {"h1": {"a": "jets", "b": "jets"}, "h2": {"a": "jets", "b": "jets"}}
SYMMETRIES = {"event": [["h1", "h2"]], "h1": [["a", "b"]], "h2": [["a", "b"]]}
NAMES = [f"{h}/{rest}" for h in ("h1", "h2") for rest in ("mass", "a/pt", "b/pt")]
CLASSES = ["h1/a/flavour", "h2/a/flavour"]


def event_of(**more: Any) -> EventInfo:
    targets: dict[str, Any] = {n: {"kind": "regression", "unit": "GeV"} for n in NAMES}
    targets |= {n: {"kind": "classification", "classes": ["u", "b"]} for n in CLASSES}
    targets["total"] = {"kind": "regression"}
    jets = {"slots": 6, "features": ["px", "py", "pz", "energy"]}
    return EventInfo.model_validate(
        {
            "streams": {"jets": jets},
            "particles": PARTICLES,
            "symmetries": SYMMETRIES,
            "targets": targets,
            **more,
        }
    )


@pytest.mark.parametrize("queries", [False, True])
def test_the_head_conforms_with_quantities(*, queries: bool) -> None:
    options = {"regressions": NAMES, "classifications": CLASSES, "particle_queries": queries}
    check_head(AssignmentHead, options, event=event_of())


def test_targets_of_nothing_that_is_assigned_are_refused() -> None:
    for options, message in (
        ({"regressions": ["total"]}, "'total' belongs to no particle and to no product"),
        ({"regressions": ["h1/mas"]}, "no regression target 'h1/mas'; did you mean 'h1/mass'"),
        ({"classifications": ["h1/mass"]}, "no classification target 'h1/mass'"),
    ):
        head = AssignmentHead("x", parse_options(AssignmentConfig, options, "test"))
        with pytest.raises(ConfigurationError, match=message):
            head.contract(event_of())


def built(**options: Any) -> tuple[AssignmentHead, EventInfo, Contract]:
    event = event_of()
    config = parse_options(AssignmentConfig, {"regressions": NAMES, **options}, "test")
    head = AssignmentHead("assignment", config)
    contract = compile_contract(event, [head.contract(event)])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        head.build(contract, Statistics(), 8)
    return head, event, contract


def outputs_of(head: AssignmentHead, best: tuple[tuple[int, int], tuple[int, int]]) -> Any:
    """Six jets; the pairs of `best` are nearly certain."""
    generator = torch.Generator().manual_seed(1)
    given = {"mask.jets": torch.ones(1, 6, dtype=torch.bool)}
    objects = head.space.of(0, given).objects.tolist()
    scores = torch.zeros(1, 1, len(objects))
    for pair in best:
        scores[0, 0, [tuple(o) for o in objects].index(pair)] = 20.0
    scores[0, 0, -1] = -1e12
    return {
        **given,
        "scores.0": scores,
        "detection.0": torch.zeros(1, 1),
        "event": torch.randn(1, 8, generator=generator),
        "x.jets": torch.randn(1, 6, 8, generator=generator),
        "moving.jets": torch.rand(1, 6, 8, generator=generator),
    }


def truth(
    first: tuple[int, int], second: tuple[int, int], values: list[float]
) -> dict[str, Tensor]:
    return {
        "target/assignment/h1": torch.tensor([first]),
        "target/assignment/h2": torch.tensor([second]),
        **{f"target/{n}": torch.tensor([v]) for n, v in zip(NAMES, values, strict=True)},
    }


def test_interchanging_particles_or_products_changes_no_loss() -> None:
    head, _, _ = built()
    outputs = outputs_of(head, ((0, 1), (2, 3)))
    plain = head.loss(outputs, truth((0, 1), (2, 3), [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))
    # h2 with its b and a interchanged is first, then h1.
    moved = head.loss(outputs, truth((3, 2), (0, 1), [0.4, 0.6, 0.5, 0.1, 0.2, 0.3]))
    assert {"h1/mass", "h1/a/pt"} <= plain.keys()
    for name, term in plain.items():
        assert float(moved[name].value.detach()) == pytest.approx(
            float(term.value.detach()), rel=1e-5
        )
    # The masses stay where the particles are interchanged: that is another event.
    wrong = head.loss(outputs, truth((2, 3), (0, 1), [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]))
    assert float(wrong["h1/mass"].value.detach()) != pytest.approx(
        float(plain["h1/mass"].value.detach()), rel=1e-3
    )


def test_predictions_are_of_the_chosen_objects_and_metrics_of_the_true_ones() -> None:
    head, event, contract = built()
    outputs = outputs_of(head, ((0, 1), (2, 3)))
    with torch.no_grad():
        found = head.decode(outputs)
    first = 0 if 0 in found["h1"][0].tolist() else 1
    mine, other = ("h1", "h2")[first], ("h1", "h2")[1 - first]
    assert sorted(found[mine][0].tolist()) == [0, 1]
    # In the true event h2 is made of these objects, its a and b interchanged.
    targets = truth((2, 3), (1, 0), [float("nan")] * 6)
    targets |= {"target/h1/mass": torch.tensor([50.0]), "target/h2/mass": torch.tensor([90.0])}
    targets |= {"target/h2/a/pt": torch.tensor([5.0]), "target/h2/b/pt": torch.tensor([6.0])}
    evaluation = Evaluation(
        event,
        contract,
        {name: value.numpy() for name, value in found.items()},
        {name: value.numpy() for name, value in targets.items()},
        {
            "jets": np.zeros((1, 6, 4), np.float32),
            "jets.mask": np.ones((1, 6), bool),
        },
        np.ones(1),
    )
    from hepset_assignment.evaluation.particle_target_quality import quantity_metrics

    metrics = {
        m.name: m.value for m in quantity_metrics(head._quantities, head.topology, evaluation)
    }
    residuals = sorted([float(found[f"{mine}/mass"]) - 90.0, float(found[f"{other}/mass"]) - 50.0])
    assert metrics["h1/mass: bias"] == pytest.approx(sum(residuals) / 2)
    # True a of h2 is object 1, b is object 0, whatever the decision calls them.
    of_object = dict(zip(found[mine][0].tolist(), ("a", "b"), strict=True))
    expected = [
        float(found[f"{mine}/{of_object[1]}/pt"]) - 5.0,
        float(found[f"{mine}/{of_object[0]}/pt"]) - 6.0,
    ]
    assert metrics["h1/a/pt: bias"] == pytest.approx(sum(expected) / 2)
