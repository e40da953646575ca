"""Masses of assigned objects, by hand; and what an assignment makes of a background."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hepset.interfaces.head import Evaluation
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo
from hepset_assignment.evaluation.figures import figures
from hepset_assignment.evaluation.masses import Masses, mass_metrics, observables, truth_of
from hepset_assignment.evaluation.metrics import baselines, metrics
from hepset_assignment.evaluation.quality import judge
from hepset_assignment.evaluation.sculpting import (
    backgrounds,
    random_assignment,
    sculpting_metrics,
)
from hepset_assignment.topology import Topology, make_topology

Array = NDArray[Any]

FEATURES = {"pt": {"unit": "GeV"}, "eta": {}, "phi": {}, "mass": {"unit": "GeV"}, "btag": {}}
TOPS = {
    "particles": {
        "t1": {"q1": "jets", "q2": "jets", "b": "jets"},
        "t2": {"q1": "jets", "q2": "jets", "b": "jets"},
    },
    "symmetries": {"event": [["t1", "t2"]], "t1": [["q1", "q2"]], "t2": [["q1", "q2"]]},
}
STREAMS = {"jets": {"slots": 8, "features": FEATURES}}
EVENT = EventInfo.model_validate(
    {
        "streams": STREAMS,
        **TOPS,
        "targets": {"m_ttbar": {"kind": "regression", "unit": "GeV"}},
    }
)
FIRST, SECOND, NONE = [0, 1, 2], [3, 4, 5], [-1, -1, -1]


def topology_of(event: EventInfo) -> Topology:
    return make_topology(event, queries=False, where="test")


def jets_of(size: int, seed: int = 0) -> Array:
    """Seven jets per event with random momenta."""
    rng = np.random.default_rng(seed)
    jets = np.zeros((size, 8, 5))
    jets[..., 0] = rng.uniform(30, 150, (size, 8))
    jets[..., 1] = rng.normal(0, 1, (size, 8))
    jets[..., 2] = rng.uniform(-math.pi, math.pi, (size, 8))
    return jets


def evaluation_of(
    event: EventInfo,
    jets: Array,
    predictions: dict[str, Any],
    truth: dict[str, Any],
    **more: Any,
) -> Evaluation:
    size = len(jets)
    mask = np.tile(np.arange(8) < 7, (size, 1))
    return Evaluation(
        event,
        compile_contract(event),
        {name: np.broadcast_to(index, (size, 3)) for name, index in predictions.items()}
        | {f"{name}/probability": np.full(size, 0.5) for name in predictions},
        {
            f"target/assignment/{name}": np.broadcast_to(index, (size, 3))
            for name, index in truth.items()
        },
        {"jets": jets, "jets.mask": mask},
        np.ones(size),
        **more,
    )


def mass_by_hand(jets: Array, *objects: int) -> float:
    """Massless: m² = Σ 2 pt pt' (cosh Δη − cos Δφ) over pairs."""
    total = 0.0
    for place, a in enumerate(objects):
        for b in objects[place + 1 :]:
            (pt, eta, phi), (pt_, eta_, phi_) = jets[a, :3], jets[b, :3]
            total += 2 * pt * pt_ * (math.cosh(eta - eta_) - math.cos(phi - phi_))
    return math.sqrt(total)


def test_masses_of_pairs_particles_and_the_event() -> None:
    jets = jets_of(3)
    predictions = {"t1": [FIRST, FIRST, SECOND], "t2": [SECOND, NONE, FIRST]}
    evaluation = evaluation_of(EVENT, jets, predictions, {"t1": FIRST, "t2": [SECOND] * 2 + [NONE]})
    topology = topology_of(EVENT)
    (plan,) = topology.processes
    pair, top, system = observables(plan, topology)
    assert (pair.label, top.label, system.label) == ("t (q1 q2)", "t", "t1 + t2")
    masses, judged = Masses(topology, evaluation), judge(plan, topology, evaluation)
    assert masses.unit(plan, top) == "GeV"
    found = masses.of(plan, pair, evaluation.predictions, judged.rows)
    assert found[0, 0] == pytest.approx(mass_by_hand(jets[0], 0, 1))
    found = masses.of(plan, top, evaluation.predictions, judged.rows)
    assert found[0, 1] == pytest.approx(mass_by_hand(jets[0], 3, 4, 5))
    assert np.isnan(found[1, 1])
    truth = truth_of(plan, top, masses, judged)
    assert truth.known.tolist() == [[True, True], [True, True], [False, True]]
    assert truth.right.tolist() == [[True, True], [True, False], [False, True]]
    # The third event has its only top in the second place.
    assert truth.mass[2, 1] == pytest.approx(mass_by_hand(jets[2], 0, 1, 2))
    assert np.isnan(truth.mass[2, 0])
    found = masses.of(plan, system, evaluation.predictions, judged.rows)
    assert found[0, 0] == pytest.approx(mass_by_hand(jets[0], *range(6)))
    assert np.isnan(found[1, 0])
    truth = truth_of(plan, system, masses, judged)
    assert truth.known[:, 0].tolist() == [True, True, False]
    assert truth.right[:, 0].tolist() == [True, False, False]


def test_a_particle_that_is_never_complete_has_no_figure_of_its_mass() -> None:
    """The other one has: there is something to draw, and nothing to draw it around for this one."""
    event = EventInfo.model_validate(
        {
            "streams": STREAMS,
            "particles": {
                "z": {"a": "jets", "b": "jets", "c": "jets"},
                "y": {"d": "jets", "e": "jets", "f": "jets"},
            },
        }
    )
    evaluation = evaluation_of(
        event, jets_of(6), {"z": FIRST, "y": SECOND}, {"z": FIRST, "y": [3, 4, -1]}
    )
    titles = [drawing.title for drawing in figures(topology_of(event), evaluation)]
    assert "Reconstructed mass of z" in titles
    assert not any("mass of y" in title for title in titles)


def test_bias_and_width_by_hand() -> None:
    """Half of the events have another third jet; the truth has no bias against itself."""
    jets = jets_of(400)
    wrong = np.tile([[0, 1, 6]], (400, 1))
    wrong[::2] = FIRST
    evaluation = evaluation_of(
        EVENT, jets, {"t1": wrong, "t2": SECOND}, {"t1": FIRST, "t2": SECOND}
    )
    topology = topology_of(EVENT)
    (plan,) = topology.processes
    judged = judge(plan, topology, evaluation)
    found = {
        m.name: m for m in mass_metrics(plan, topology, evaluation, judged, evaluation.predictions)
    }
    chosen = [mass_by_hand(jet, *row) for jet, row in zip(jets, wrong.tolist(), strict=True)]
    chosen += [mass_by_hand(jet, *SECOND) for jet in jets]
    true = [mass_by_hand(jet, *which) for jet in jets for which in (FIRST, SECOND)]
    low, high = np.quantile(chosen, [0.158655, 0.841345], method="hazen")
    assert found["m(t): half 68 % width"].value == pytest.approx((high - low) / 2)
    assert found["m(t): bias"].value == pytest.approx(np.median(chosen) - np.median(true))
    assert 0 < found["m(t): bias"].error < found["m(t): half 68 % width"].value
    assert found["m(t): bias"].unit == "GeV"
    limit = mass_metrics(plan, topology, evaluation, judged, None, "truth", limit=True)
    assert [m.name for m in limit] == ["m(t): half 68 % width", "m(t1 + t2): half 68 % width"]
    assert all(m.limit for m in limit)


def test_a_stated_mass_is_what_the_reconstructed_one_is_held_against() -> None:
    jets = jets_of(50)
    system = np.array([mass_by_hand(jet, *range(6)) for jet in jets])
    evaluation = evaluation_of(
        EVENT, jets, {"t1": FIRST, "t2": SECOND}, {"t1": SECOND, "t2": FIRST}
    )
    shift = np.linspace(-1, 1, 50) + 5
    targets = {**evaluation.targets, "target/m_ttbar": (system - shift).astype(np.float32)}
    found = {m.name: m for m in metrics(topology_of(EVENT), replace(evaluation, targets=targets))}
    assert found["m(t1 + t2): bias"].value == pytest.approx(5, abs=1e-3)
    low, high = np.quantile(shift, [0.158655, 0.841345], method="hazen")
    assert found["m(t1 + t2): half 68 % width"].value == pytest.approx((high - low) / 2, abs=1e-3)
    # Another mass is none of them.
    other = {"streams": STREAMS, **TOPS, "targets": {"m_higgs": {"kind": "regression"}}}
    event = EventInfo.model_validate(other)
    targets = {**evaluation.targets, "target/m_higgs": system.astype(np.float32)}
    found = {m.name: m for m in metrics(topology_of(event), replace(evaluation, event=event,
                                                                    targets=targets))}  # fmt: skip
    assert found["m(t1 + t2): bias"].value == pytest.approx(0, abs=1e-3)


def test_random_assignments_are_valid_and_even() -> None:
    event = EventInfo.model_validate(
        {
            "streams": {**STREAMS, "leptons": {"slots": 3, "features": ["charge"]}},
            "particles": {
                "t1": {"q": "jets", "b": "jets", "l": "leptons"},
                "t2": {"q": "jets", "any": None, "l": "leptons"},
            },
        }
    )
    size = 4000
    mask = np.tile(np.arange(8) < 5, (size, 1))
    leptons = np.tile(np.arange(3) < 2, (size, 1))
    leptons[:1] = False
    evaluation = Evaluation(
        event,
        compile_contract(event),
        {},
        {},
        {
            "jets": np.random.default_rng(3).normal(size=(size, 8, 5)),
            "jets.mask": mask,
            "leptons": np.random.default_rng(4).normal(size=(size, 3, 1)),
            "leptons.mask": leptons,
        },
        np.ones(size),
    )
    topology = topology_of(event)
    (plan,) = topology.processes
    found = random_assignment(plan, topology, evaluation, np.arange(size))
    assert found["t1"][0].tolist() == found["t2"][0].tolist() == NONE
    first, second = found["t1"][1:], found["t2"][1:]
    anywhere = second[:, 1]
    jets = np.column_stack([first[:, :2], second[:, 0], np.where(anywhere < 8, anywhere, -9)])
    assert (jets[:, :3] >= 0).all()
    assert (jets < 5).all()
    leps = np.column_stack([first[:, 2], second[:, 2], np.where(anywhere >= 8, anywhere - 8, -9)])
    for objects in (jets, leps):
        ordered = np.sort(objects, axis=1)
        assert ((np.diff(ordered, axis=1) != 0) | (ordered[:, 1:] < 0)).all()
    # Each of five jets as often as another: 800 ± 25.
    assert np.bincount(first[:, 0], minlength=5) == pytest.approx(800, abs=110)
    again = random_assignment(plan, topology, evaluation, np.arange(size))
    np.testing.assert_array_equal(found["t1"], again["t1"])


def mixed(event: EventInfo, **more: Any) -> Evaluation:
    """120 events with tops, then 80 without, in which the lightest triplets are assigned."""
    jets = jets_of(200, 3)
    truth = np.tile([FIRST], (200, 1))
    truth[120:] = -1
    names = [p.field for plan in topology_of(event).processes for p in plan.particles]
    predictions: dict[str, Any] = {name: np.tile([FIRST], (200, 1)) for name in names}
    from itertools import combinations

    for row in range(120, 200):
        triplets = list(combinations(range(7), 3))
        best = min(triplets, key=lambda t: abs(mass_by_hand(jets[row], *t) - 172))
        predictions[names[0]][row] = best
        predictions[names[1]][row] = -1
    return evaluation_of(event, jets, predictions, {names[0]: truth, names[1]: NONE}, **more)


def test_a_sample_without_tops_is_a_background() -> None:
    sample = np.repeat([0, 1], [120, 80])
    evaluation = mixed(EVENT, sample=sample, sample_names=("ttbar", "QCD"))
    topology = topology_of(EVENT)
    (plan,) = topology.processes
    (background,) = backgrounds(plan, topology, evaluation)
    assert background.name == "QCD"
    assert background.rows.tolist() == list(range(120, 200))
    judged = judge(plan, topology, evaluation)
    share, apart = sculpting_metrics(plan, topology, evaluation, judged)
    true = [mass_by_hand(jet, *FIRST) for jet in evaluation.inputs["jets"][:120]]
    low, high = np.quantile(true, [0.158655, 0.841345], method="hazen")
    chosen = [
        mass_by_hand(jet, *row)
        for jet, row in zip(
            evaluation.inputs["jets"][120:], evaluation.predictions["t1"][120:], strict=True
        )
    ]
    expected = np.mean([(low <= mass <= high) for mass in chosen])
    assert share.name == "QCD: m(t) in the signal's window"
    assert share.value == pytest.approx(expected)
    assert share.better == apart.better == "lower"
    noise = {m.name: m for m in baselines(topology, evaluation) if m.limit and "QCD" in m.name}
    # A constant mass is far from random objects; one random draw of 160 is not.
    assert apart.value > 0.4
    assert noise[apart.name].value < 0.15
    assert {m.name for m in metrics(topology, evaluation)} >= {share.name, apart.name}
    names = [drawing.name for drawing in figures(topology, evaluation)]
    assert [name for name in names if "background" in name] == ["background-0-0", "background-0-1"]
    # Without samples nothing says what is background, and a few events say nothing.
    assert backgrounds(plan, topology, replace(evaluation, sample=None)) == []
    assert backgrounds(plan, topology, evaluation.take(np.arange(130))) == []


def test_events_of_another_process_are_a_background_unless_they_have_the_particle() -> None:
    event = EventInfo.model_validate(
        {
            "streams": STREAMS,
            "processes": {
                "tops": TOPS,
                "qcd": {"particles": {}},
                "four": {
                    "particles": {"t1": {"q1": "jets", "q2": "jets", "b": "jets"}},
                    "symmetries": {"t1": [["q1", "q2"]]},
                },
                "other": {"particles": {"x": {"a": "jets", "b": "jets"}}},
            },
        }
    )  # fmt: skip
    two = EventInfo.model_validate(
        {"streams": STREAMS, "processes": {"tops": TOPS, "qcd": {"particles": {}}}}
    )
    evaluation = mixed(two)
    process = np.repeat([0, 1, 2, 3], [120, 30, 25, 25])
    evaluation = replace(evaluation, targets={**evaluation.targets, "process": process})
    topology = topology_of(event)
    found = backgrounds(topology.processes[0], topology, evaluation)
    assert [(b.name, len(b.rows)) for b in found] == [("qcd", 30), ("other", 25)]
