from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hepset.interfaces.head import Evaluation
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo
from hepset_assignment.evaluation.baseline import simple_assignment
from hepset_assignment.evaluation.figures import figures
from hepset_assignment.evaluation.metrics import baselines, metrics
from hepset_assignment.evaluation.quality import judge
from hepset_assignment.topology import Topology, make_topology

Array = NDArray[Any]
EXAMPLE = Path(__file__).parents[4].parent / "shared" / "data" / "spanet"

FEATURES = {"pt": {"unit": "GeV"}, "eta": {}, "phi": {}, "mass": {"unit": "GeV"}, "btag": {}}
EVENT = EventInfo.model_validate(
    {
        "streams": {"jets": {"slots": 8, "features": FEATURES}},
        "particles": {
            "t1": {"q1": "jets", "q2": "jets", "b": "jets"},
            "t2": {"q1": "jets", "q2": "jets", "b": "jets"},
        },
        "symmetries": {"event": [["t1", "t2"]], "t1": [["q1", "q2"]], "t2": [["q1", "q2"]]},
    }
)


def topology_of(event: EventInfo) -> Topology:
    return make_topology(event, queries=False, where="test")


def evaluation_of(
    event: EventInfo,
    predictions: dict[str, list[list[int]]],
    truth: dict[str, list[list[int]]],
    jets: Array | None = None,
    counts: list[int] | None = None,
) -> Evaluation:
    size = len(next(iter(truth.values())))
    columns = len(event.streams["jets"].features)
    mask = np.arange(8) < np.asarray(counts or [6] * size)[:, None]
    return Evaluation(
        event,
        compile_contract(event),
        {
            **{name: np.asarray(index) for name, index in predictions.items()},
            **{f"{name}/probability": np.full(size, 0.5) for name in predictions},
            **{f"{name}/detection": np.full(size, 0.7) for name in predictions},
        },
        {f"target/assignment/{name}": np.asarray(index) for name, index in truth.items()},
        {"jets": np.zeros((size, 8, columns)) if jets is None else jets, "jets.mask": mask},
        np.ones(size),
    )


NONE = [-1, -1, -1]
PREDICTED = {
    "t1": [[0, 1, 2], [3, 4, 5], [0, 1, 2], [0, 1, 2], NONE],
    "t2": [[3, 4, 5], [0, 1, 2], [3, 4, 5], [5, 4, 3], [3, 4, 5]],
}
TRUTH = {
    # Right with q1 and q2 swapped; right with the tops swapped; only the second is there, and
    # found as the first; b and q are confused in the second; neither is there.
    "t1": [[1, 0, 2], [0, 1, 2], NONE, [1, 0, 2], NONE],
    "t2": [[3, 4, 5], [3, 4, 5], [0, 1, 2], [3, 4, 5], [3, -1, 5]],
}


def test_purities_by_hand() -> None:
    evaluation = evaluation_of(EVENT, PREDICTED, TRUTH, counts=[6, 7, 6, 8, 9])
    topology = topology_of(EVENT)
    judged = judge(topology.processes[0], topology, evaluation)
    assert judged.right.tolist() == [2, 2, 1, 1, 0]
    assert judged.event_right.tolist() == [True, True, True, False, True]
    assert judged.partial[4].tolist() == [False, True]
    found = {m.name: m for m in metrics(topology, evaluation)}
    assert found["event purity"].value == pytest.approx(3 / 4)
    assert found["event purity, 1 of 2 reconstructable"].value == 1
    assert found["event purity, 2 of 2 reconstructable"].value == pytest.approx(2 / 3)
    assert found["t purity"].value == pytest.approx(6 / 7)
    assert found["t purity, all 2 reconstructable"].value == pytest.approx(5 / 6)
    assert found["event purity, 6 objects"].value == 1
    assert found["event purity, 7 objects"].value == 1
    assert found["event purity, >= 8 objects"].value == 0
    assert found["efficiency of detected particles"].value == pytest.approx(6 / 7)
    # Ten particles are said to be there, six are right.
    assert found["purity of detected particles"].value == pytest.approx(6 / 10)
    assert all(m.error >= 0 for m in found.values() if math.isfinite(m.error))


def test_shares_of_detected_particles_by_multiplicity() -> None:
    evaluation = evaluation_of(EVENT, PREDICTED, TRUTH, counts=[6, 7, 6, 8, 9])
    found = {m.name: m.value for m in metrics(topology_of(EVENT), evaluation)}
    # Two events of six objects: three particles of four are there, all found.
    assert found["efficiency of detected particles, 6 objects"] == 1
    assert found["purity of detected particles, 6 objects"] == pytest.approx(3 / 4)
    assert found["efficiency of detected particles, >= 8 objects"] == pytest.approx(1 / 2)
    assert found["purity of detected particles, >= 8 objects"] == pytest.approx(1 / 4)


def test_greedy_and_exact_are_compared_up_to_symmetries() -> None:
    """Greedy: tops swapped, quarks swapped, another b, one top missing, the same."""
    evaluation = evaluation_of(EVENT, PREDICTED, TRUTH, counts=[6, 7, 6, 8, 9])
    greedy = {
        "greedy/t1": [[3, 4, 5], [4, 3, 5], [0, 1, 6], NONE, NONE],
        "greedy/t2": [[0, 1, 2], [0, 1, 2], [3, 4, 5], [5, 4, 3], [3, 4, 5]],
    }
    evaluation = replace(
        evaluation, diagnoses={name: np.asarray(index) for name, index in greedy.items()}
    )
    found = {m.name: m for m in metrics(topology_of(EVENT), evaluation)}
    assert found["greedy and exact selection differ"].value == pytest.approx(2 / 5)
    assert found["greedy and exact selection differ"].better == "lower"
    # The third event has lost its only top.
    assert found["event purity with greedy selection"].value == pytest.approx(2 / 4)


def test_the_confidence_is_held_against_what_is_right() -> None:
    evaluation = evaluation_of(EVENT, PREDICTED, TRUTH, np.tile(two_tops(), (5, 1, 1)))
    said = {**evaluation.predictions, "confidence": np.array([0.9, 0.8, 0.3, 0.5, 0.1])}
    evaluation = replace(evaluation, predictions=said)
    found = {m.name: m for m in metrics(topology_of(EVENT), evaluation)}
    # Right: .9, .8 and .3; wrong: .5, which two of three exceed; the last has nothing to find.
    assert found["confidence, AUC of right events"].value == pytest.approx(2 / 3)
    assert found["confidence: bias"].value == pytest.approx((2.5 - 3) / 4)
    names = [drawing.name for drawing in figures(topology_of(EVENT), evaluation)]
    assert names[-1] == "confidence"


def test_symmetries_are_the_group_and_not_its_orbits() -> None:
    """Of a simultaneous swap (a b)(c d), swapping only a and b is not right."""
    event = EventInfo.model_validate(
        {
            "streams": {"jets": {"slots": 8, "features": FEATURES}},
            "particles": {"x": dict.fromkeys("abcd", "jets")},
            "symmetries": {"x": [[["a", "b"], ["c", "d"]]]},
        }
    )
    truth = {"x": [[0, 1, 2, 3]] * 3}
    predicted = {"x": [[1, 0, 3, 2], [1, 0, 2, 3], [0, 1, 2, 3]]}
    topology = topology_of(event)
    judged = judge(topology.processes[0], topology, evaluation_of(event, predicted, truth))
    assert judged.event_right.tolist() == [True, False, True]


def two_tops() -> Array:
    """Six massless jets of two tops of one mass, from W of 81.3 and 82.9 GeV; a soft seventh."""
    side, other = 81.3 / 2, 82.9 / 2
    jets = np.zeros((1, 8, 5))
    # Back-to-back quarks have m = 2 pt; with a b at right angles, m² = (2 pt)² + 2 (2 pt) pt_b.
    pt_b = (81.3**2 + 2 * 81.3 * 70 - 82.9**2) / (2 * 82.9)
    for place, (pt, phi, eta, tag) in enumerate(
        [
            (side, 0.0, 0.0, 0),
            (70.0, math.pi / 2, 0.0, 1),
            (side, math.pi, 0.0, 0),
            (other, 0.5, 1.2, 0),
            (other, 0.5 + math.pi, 1.2, 0),
            (pt_b, 0.5 + math.pi / 2, 1.2, 1),
            (25.0, 2.0, -2.0, 0),
        ]
    ):
        jets[0, place] = (pt, eta, phi, 0.0, tag)
    return jets


def test_the_mass_chi_square_finds_the_tops() -> None:
    evaluation = evaluation_of(
        EVENT, {"t1": [NONE], "t2": [NONE]}, {"t1": [[0, 2, 1]], "t2": [[3, 4, 5]]}, two_tops(), [7]
    )
    topology = topology_of(EVENT)
    simple = simple_assignment(topology.processes[0], topology, evaluation)
    assert simple.of == "mass χ² with b-tag penalty"
    found = sorted(sorted(simple.predictions[t][0].tolist()) for t in ("t1", "t2"))
    assert found == [[0, 1, 2], [3, 4, 5]]
    assert {int(simple.predictions[t][0][2]) for t in ("t1", "t2")} == {1, 5}
    assert {m.value for m in baselines(topology, evaluation)} >= {1.0}


def test_other_topologies_have_the_leading_objects() -> None:
    event = EventInfo.model_validate(
        {
            "streams": {
                "jets": {"slots": 8, "features": FEATURES},
                "leptons": {"slots": 2, "features": ["charge"]},
            },
            "particles": {"h": {"a": "jets", "b": "jets"}, "w": {"l": "leptons", "any": None}},
        }
    )
    jets = np.zeros((2, 8, 5))
    jets[:, :3, 0] = [[30, 50, 40], [30, 50, 40]]
    evaluation = Evaluation(
        event,
        compile_contract(event),
        {},
        {},
        {
            "jets": jets,
            "jets.mask": np.arange(8) < np.array([[3], [1]]),
            "leptons": np.zeros((2, 2, 1)),
            "leptons.mask": np.ones((2, 2), bool),
        },
        np.ones(2),
    )
    topology = topology_of(event)
    simple = simple_assignment(topology.processes[0], topology, evaluation)
    assert simple.predictions["h"].tolist() == [[1, 2], [-1, -1]]
    assert simple.predictions["w"].tolist() == [[0, 0], [-1, -1]]


def test_figures_are_drawn_for_events_with_truth() -> None:
    evaluation = evaluation_of(EVENT, PREDICTED, TRUTH, np.tile(two_tops(), (5, 1, 1)))
    names = [drawing.name for drawing in figures(topology_of(EVENT), evaluation)]
    masses = ["mass-0", "mass-1", "mass-2"]
    assert names == ["purity", "efficiency", "detection", *masses, "calibration"]
    nothing = {name: [NONE] * 5 for name in TRUTH}
    assert figures(topology_of(EVENT), evaluation_of(EVENT, PREDICTED, nothing)) == []
