from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from hepset.schema.event import EventInfo
from hepset_assignment.confidence import Confidence, features_of, right_events
from hepset_assignment.topology import ProcessPlan, make_topology


def plan_of(symmetries: dict[str, Any]) -> ProcessPlan:
    event = EventInfo.model_validate(
        {
            "streams": {"jets": {"slots": 8, "features": ["pt"]}},
            "particles": {f"h{n}": ["a", "b"] for n in range(3)},
            "symmetries": symmetries,
        }
    )
    return make_topology(event, queries=False, where="test").processes[0]


def test_at_first_it_is_the_joint_probability() -> None:
    plan = plan_of({})
    chances = torch.tensor([0.0, 0.3, 0.99, 1.0])
    fields = {"probability": chances, **{f"h{n}/probability": chances for n in range(3)}}
    features = features_of(plan, fields, torch.tensor([2, 3, 4, 5]))
    assert bool(torch.isfinite(features).all())
    assert Confidence()(features).tolist() == pytest.approx(chances.tolist(), abs=2e-6)


def test_the_fit_finds_the_coefficients_and_is_calibrated() -> None:
    rng = np.random.default_rng(2)
    features = torch.from_numpy(rng.normal(size=(20_000, 5)) * [1, 2, 0.5, 1, 0.1] + 3)
    logit = 0.8 * features[:, 0] - 0.5 * features[:, 1] - 1
    right = torch.from_numpy(rng.random(20_000)) < torch.sigmoid(logit)
    confidence = Confidence()
    assert confidence.fit(features, right)
    found = confidence(features.float())
    own = confidence.coefficients[:2] / confidence.scale[:2]
    assert own.tolist() == pytest.approx([0.8, -0.5], abs=0.06)
    for low, high in itertools.pairwise([0, 0.1, 0.3, 0.6, 1.0]):
        chosen = (found > low) & (found <= high)
        share, said = right[chosen].double().mean(), found[chosen].double().mean()
        error = float((share * (1 - share) / chosen.sum()).sqrt())
        assert abs(float(share - said)) < 4 * error
    before = confidence.coefficients.clone()
    assert not confidence.fit(features[:60], torch.zeros(60, dtype=torch.bool))
    assert torch.equal(confidence.coefficients, before)


@pytest.mark.parametrize(
    "symmetries",
    [
        {},
        {"h0": [["a", "b"]], "h1": [["a", "b"]], "h2": [["a", "b"]], "event": [["h0", "h1", "h2"]]},
        {"event": [[["h0", "h1", "h2"]]], "h2": [["a", "b"]], "h0": [["a", "b"]],
         "h1": [["a", "b"]]},
    ],
)  # fmt: skip
def test_an_event_is_right_if_all_that_can_be_found_is(symmetries: dict[str, Any]) -> None:
    plan = plan_of(symmetries)
    group = plan.particles[0].group
    rng = np.random.default_rng(5)
    truth = np.stack([rng.permutation(6).reshape(3, 2) for _ in range(200)])
    truth[rng.random((200, 3)) < 0.3, 1] = -1
    predicted = np.stack([rng.permutation(6).reshape(3, 2) for _ in range(200)])
    # Half of the events are right up to symmetries.
    for event in range(0, 200, 2):
        chosen = plan.elements[rng.integers(len(plan.elements))]
        inner = group.elements[rng.integers(len(group.elements))]
        full = np.where(truth[event] < 0, 7, truth[event])
        predicted[event] = full[list(chosen)][:, list(inner)]
    fields = {f"h{n}": torch.from_numpy(predicted[:, n]) for n in range(3)}
    targets = {f"target/assignment/h{n}": torch.from_numpy(truth[:, n]) for n in range(3)}
    right, known = right_events(plan, fields, targets)
    for event in range(200):
        there = [n for n in range(3) if (truth[event, n] >= 0).all()]
        assert bool(known[event]) == bool(there)
        expected = any(
            all(
                any(
                    [predicted[event, list(order).index(n)][i] for i in inner]
                    == truth[event, n].tolist()
                    for inner in group.elements
                )
                for n in there
            )
            for order in plan.elements
        )
        assert bool(right[event]) == expected
    assert 100 <= int(right.sum()) < 180
