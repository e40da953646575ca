"""Figures of the assignment: purity by multiplicity, reconstructed masses, calibration."""

from __future__ import annotations

from typing import Any

import mplhep
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hepset.figures import COLOURS, bin_edges, draw_points, histogram, new_figure, styled
from hepset.interfaces.head import Drawing, Evaluation
from hepset.kinematics import mass_of
from hepset.uncertainty import efficiency
from hepset_spanet.assignment.baseline import (
    Simple,
    momenta,
    momentum_unit,
    simple_assignment,
)
from hepset_spanet.assignment.quality import Judged, cluster_names, judge, multiplicity_rows
from hepset_spanet.assignment.topology import ProcessPlan, Topology

__all__ = ["figures"]

Array = NDArray[Any]

_BINS = 10
_MASS_BINS = 40


def figures(topology: Topology, evaluation: Evaluation) -> list[Drawing]:
    """Draw what there is to see of every process with reconstructable particles."""
    found: list[Drawing] = []
    p4 = momenta(evaluation)
    for number, plan in enumerate(topology.processes):
        if not plan.particles or any(p.tensor not in evaluation.targets for p in plan.particles):
            continue
        judged = judge(plan, topology, evaluation)
        if judged.any_present.sum() < 2:
            continue
        simple = simple_assignment(plan, topology, evaluation)
        other = judge(plan, topology, evaluation, simple.predictions)
        tag = f"-{number}" if len(topology.processes) > 1 else ""
        title = f" ({plan.name})" if plan.name else ""
        about = f"{int(judged.any_present.sum())} events with a reconstructable particle" + (
            ", weighted" if evaluation.weighted else ""
        )
        found.append(
            Drawing(
                f"purity{tag}",
                f"Event purity by number of objects{title}",
                f"Share of events with every reconstructable particle right; {about}.",
                _purity(judged, other, simple),
            )
        )
        for orbit, label in zip(plan.orbits, cluster_names(plan), strict=True):
            shown = _mass(plan, topology, evaluation, judged, orbit, p4)
            if shown is not None:
                found.append(
                    Drawing(
                        f"mass-{orbit[0]}{tag}",
                        f"Reconstructed mass of {label}{title}",
                        "Invariant mass of the assigned objects: right, wrong though the particle "
                        "was reconstructable, and without a complete truth; the line is that of "
                        f"the true objects. {len(judged.rows)} events.",
                        shown,
                    )
                )
        found.append(
            Drawing(
                f"calibration{tag}",
                f"Calibration of the assignment{title}",
                "Share of right assignments of reconstructable particles against the predicted "
                f"probability; {about}.",
                _calibration(plan, judged, evaluation),
            )
        )
    return found


@styled
def _purity(judged: Judged, other: Judged, simple: Simple) -> Figure:
    figure, axes = new_figure("number of objects", "event purity")
    rows = multiplicity_rows(judged)
    x = np.arange(len(rows), dtype=float)
    for shift, which, label, colour in (
        (-0.05, judged, "model", COLOURS[0]),
        (0.05, other, simple.of, COLOURS[1]),
    ):
        points = []
        for _, row in rows:
            chosen = row & which.any_present
            weight = None if which.weight is None else which.weight[chosen]
            points.append(efficiency(which.event_right[chosen], weight))
        values = np.array([point.value for point in points])
        errors = np.array([point.error for point in points])
        draw_points(axes, x + shift, values, errors, label=label, colour=colour)
    axes.set_xticks(x, [label for label, _ in rows])
    axes.set_xlim(-0.5, len(rows) - 0.5)
    axes.set_ylim(0, 1)
    axes.legend()
    return figure


def _mass(
    plan: ProcessPlan,
    topology: Topology,
    evaluation: Evaluation,
    judged: Judged,
    orbit: tuple[int, ...],
    p4: dict[str, Array],
) -> Figure | None:
    streams = plan.particles[orbit[0]].streams
    wanted = topology.streams if None in streams else streams
    if any(stream not in p4 for stream in wanted if stream is not None):
        return None
    parts: dict[str, list[Array]] = {"right": [], "wrong": [], "no complete truth": [], "true": []}
    weights: dict[str, list[Array]] = {name: [] for name in parts}
    weight = np.ones(len(judged.rows)) if judged.weight is None else judged.weight
    for place in orbit:
        particle = plan.particles[place]
        mass = _masses(plan, topology, evaluation.predictions[particle.field], place, p4, judged)
        true = _masses(plan, topology, evaluation.targets[particle.tensor], place, p4, judged)
        present = np.take_along_axis(judged.present, judged.of, axis=1)[:, place]
        right = judged.matched[:, place]
        for name, chosen, values in (
            ("right", right, mass),
            ("wrong", present & ~right, mass),
            ("no complete truth", ~present, mass),
            ("true", judged.present[:, place], true),
        ):
            parts[name].append(values[chosen])
            weights[name].append(weight[chosen])
    unit = momentum_unit(evaluation, next(s for s in wanted if s is not None)) or "file units"
    return _draw_mass(
        {name: np.concatenate(values) for name, values in parts.items()},
        {name: np.concatenate(values) for name, values in weights.items()},
        unit,
    )


@styled
def _draw_mass(parts: dict[str, Array], weights: dict[str, Array], unit: str) -> Figure:
    figure, axes = new_figure(f"mass [{unit}]", "particles per bin")
    edges = bin_edges(list(parts.values()), _MASS_BINS, tail=0.02)
    names = ["right", "wrong", "no complete truth"]
    stack = [histogram(parts[name], edges, weights[name])[0] for name in names]
    mplhep.histplot(
        stack,
        edges,
        ax=axes,
        stack=True,
        histtype="fill",
        label=names,
        color=[COLOURS[2], COLOURS[1], COLOURS[5]],
    )
    content, error = histogram(parts["true"], edges, weights["true"])
    mplhep.histplot(
        content, edges, yerr=error, ax=axes, histtype="step", label="true", color=COLOURS[6]
    )
    axes.legend()
    return figure


@styled
def _calibration(plan: ProcessPlan, judged: Judged, evaluation: Evaluation) -> Figure:
    figure, axes = new_figure("predicted probability", "share right")
    present = np.take_along_axis(judged.present, judged.of, axis=1)
    chance = np.stack(
        [
            np.asarray(evaluation.predictions[f"{p.field}/probability"])[judged.rows]
            for p in plan.particles
        ],
        axis=1,
    )
    x, right = chance[present], judged.matched[present]
    groups = np.broadcast_to(judged.rows[:, None], present.shape)[present]
    weight = (
        None
        if judged.weight is None
        else np.broadcast_to(judged.weight[:, None], present.shape)[present]
    )
    bins = np.minimum((x * _BINS).astype(int), _BINS - 1)
    points = []
    for number in range(_BINS):
        chosen = bins == number
        if chosen.sum() < 2:
            continue
        share = efficiency(
            right[chosen], None if weight is None else weight[chosen], groups[chosen]
        )
        points.append((float(x[chosen].mean()), *share))
    table = np.array(points).reshape(-1, 3)
    draw_points(axes, table[:, 0], table[:, 1], table[:, 2])
    axes.plot([0, 1], [0, 1], color=COLOURS[6], linestyle=":")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    return figure


def _masses(
    plan: ProcessPlan,
    topology: Topology,
    index: Array,
    place: int,
    p4: dict[str, Array],
    judged: Judged,
) -> Array:
    """Mass of the objects with these indices, (E,); NaN where one is missing."""
    chosen = np.asarray(index)[judged.rows]
    total = np.zeros((len(chosen), 4))
    for product, stream in enumerate(plan.particles[place].streams):
        source = (
            np.concatenate([p4[s] for s in topology.streams], axis=1)
            if stream is None
            else p4[stream]
        )[judged.rows]
        slot = np.maximum(chosen[:, product], 0)
        total += np.take_along_axis(source, slot[:, None, None], axis=1)[:, 0]
    known: Array = np.where((chosen >= 0).all(axis=1), mass_of(total), np.nan)
    return known
