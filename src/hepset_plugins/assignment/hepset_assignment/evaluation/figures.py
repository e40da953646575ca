"""Figures of the assignment: purity and efficiency, reconstructed masses, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hepset.figures import COLOURS, draw_points, new_figure, styled
from hepset.interfaces.head import Drawing, Evaluation
from hepset.uncertainty import Estimate, efficiency
from hepset_assignment.evaluation.mass_figures import background_figures, mass_figures
from hepset_assignment.evaluation.metrics import Case, compared
from hepset_assignment.evaluation.quality import (
    Judged,
    cluster_names,
    detection_of,
    detection_shares,
    multiplicity_rows,
    particle_purity,
)
from hepset_assignment.topology import ProcessPlan, Topology

__all__ = ["figures"]

Array = NDArray[Any]

_BINS = 10
_FEWEST = 2


def figures(
    topology: Topology, evaluation: Evaluation, cases: Sequence[Case] | None = None
) -> list[Drawing]:
    """Describe what there is to see of every process with reconstructable particles.

    Args:
        topology: All that is assigned.
        evaluation: The events.
        cases: As `compared` gives them, where available.
    """
    found: list[Drawing] = []
    for number, plan, judged, simple, other in cases or compared(topology, evaluation):
        if judged.any_present.sum() < _FEWEST:
            continue
        tag = f"-{number}" if len(topology.processes) > 1 else ""
        title = f" ({plan.name})" if plan.name else ""
        about = f"{int(judged.any_present.sum())} events with a reconstructable particle" + (
            ", weighted" if evaluation.weighted else ""
        )
        both = ((judged, "model"), (other, simple.of))
        found.append(
            Drawing(
                f"purity{tag}",
                f"Event purity{title}",
                "Share of events with every reconstructable particle right, by number of objects "
                f"and by number of reconstructable particles; {about}.",
                partial(_purity, both, len(plan.particles)),
            )
        )
        found.append(
            Drawing(
                f"efficiency{tag}",
                f"Efficiency{title}",
                "Share of the reconstructable particles that are found, by number of objects and "
                f"by number of reconstructable particles; {about}.",
                partial(_efficiency, both, plan),
            )
        )
        chance = detection_of(plan, judged, evaluation)
        if chance is not None:
            found.append(
                Drawing(
                    f"detection{tag}",
                    f"Detected particles{title}",
                    "Efficiency: share of the reconstructable particles that are found and said to "
                    "be there. Purity: share of the particles said to be there that are right. "
                    f"{len(judged.rows)} events.",
                    partial(_detection, judged, chance),
                )
            )
        found += mass_figures(plan, topology, evaluation, judged, other, simple, tag)
        found += background_figures(plan, topology, evaluation, judged, simple, tag)
        found.append(
            Drawing(
                f"calibration{tag}",
                f"Calibration of the assignment{title}",
                "Share of right assignments of reconstructable particles against the predicted "
                f"probability; {about}.",
                partial(_calibration, plan, judged, evaluation),
            )
        )
        whole = evaluation.predictions.get(f"{plan.prefix}probability")
        if whole is not None and len(plan.particles) > 1:
            complete = np.asarray(judged.present.all(axis=1))
            found.append(
                Drawing(
                    f"calibration-event{tag}",
                    f"Calibration of whole assignments{title}",
                    "Share of events with every particle right against the predicted probability "
                    f"of the whole assignment; {int(complete.sum())} events with all particles "
                    "reconstructable.",
                    partial(_whole, judged, np.asarray(whole), complete),
                )
            )
        confidence = evaluation.predictions.get(f"{plan.prefix}confidence")
        if confidence is not None:
            found.append(
                Drawing(
                    f"confidence{tag}",
                    f"Calibration of the confidence{title}",
                    "Share of events with every reconstructable particle right against the "
                    f"confidence, which was calibrated on other events; {about}.",
                    partial(
                        _whole, judged, np.asarray(confidence), judged.any_present, "confidence"
                    ),
                )
            )
    return found


_Methods = Sequence[tuple[Judged, str]]
_SHIFTS = (-0.06, 0.06)


@styled
def _purity(both: _Methods, count: int) -> Figure:
    """Left by number of objects, right by number of reconstructable particles."""
    figure, (left, right) = _two_panels("event purity")
    rows = multiplicity_rows(both[0][0])
    sizes = [(f"{n}", both[0][0].present.sum(axis=1) == n) for n in range(1, count + 1)]
    for (judged, label), shift, colour in zip(both, _SHIFTS, COLOURS, strict=False):
        for axes, parts in ((left, rows), (right, sizes)):
            points = []
            for _, chosen in parts:
                among = chosen & judged.any_present
                weight = None if judged.weight is None else judged.weight[among]
                points.append(efficiency(judged.event_right[among], weight))
            _draw_shares(axes, points, shift, label=label if axes is left else "", colour=colour)
    _name_places(left, [label for label, _ in rows], "number of objects")
    _name_places(right, [label for label, _ in sizes], "reconstructable")
    _legend_above(figure, left)
    return figure


@styled
def _efficiency(both: _Methods, plan: ProcessPlan) -> Figure:
    figure, (left, right) = _two_panels("share of particles found")
    rows = multiplicity_rows(both[0][0])
    count = len(plan.particles)
    sizes = [(f"{n}", both[0][0].present.sum(axis=1) == n) for n in range(1, count + 1)]
    labels = cluster_names(plan)
    markers = ("o", "s", "^", "D")
    for (judged, method), shift, colour in zip(both, _SHIFTS, COLOURS, strict=False):
        for orbit, name, marker in zip(plan.orbits, labels, markers, strict=False):
            for axes, parts in ((left, rows), (right, sizes)):
                points = [particle_purity(judged, orbit, chosen) for _, chosen in parts]
                text = f"{name}: {method}" if len(labels) > 1 else method
                label = text if axes is left else ""
                _draw_shares(axes, points, shift, label=label, colour=colour, marker=marker)
    _name_places(left, [label for label, _ in rows], "number of objects")
    _name_places(right, [label for label, _ in sizes], "reconstructable")
    _legend_above(figure, left)
    return figure


@styled
def _detection(judged: Judged, chance: Array) -> Figure:
    figure, axes = new_figure("", "share of particles")
    rows = multiplicity_rows(judged)
    shares = [detection_shares(judged, chance, chosen) for _, chosen in rows]
    for number, (label, shift) in enumerate(zip(("efficiency", "purity"), _SHIFTS, strict=True)):
        points = [pair[number] for pair in shares]
        _draw_shares(axes, points, shift, label=label, colour=COLOURS[2 + number])
    _name_places(axes, [label for label, _ in rows], "number of objects")
    axes.legend()
    return figure


@styled
def _calibration(plan: ProcessPlan, judged: Judged, evaluation: Evaluation) -> Figure:
    present = np.take_along_axis(judged.present, judged.of, axis=1)
    chance = np.stack(
        [
            np.asarray(evaluation.predictions[f"{p.field}/probability"])[judged.rows]
            for p in plan.particles
        ],
        axis=1,
    )
    groups = np.broadcast_to(judged.rows[:, None], present.shape)[present]
    weight = None
    if judged.weight is not None:
        weight = np.broadcast_to(judged.weight[:, None], present.shape)[present]
    figure, axes = new_figure("predicted probability", "share right")
    _draw_reliability(axes, chance[present], judged.matched[present], weight, groups)
    return figure


@styled
def _whole(
    judged: Judged, probability: Array, chosen: Array, label: str = "predicted probability"
) -> Figure:
    figure, axes = new_figure(label, "share of events right")
    weight = None if judged.weight is None else judged.weight[chosen]
    x = probability[judged.rows][chosen]
    _draw_reliability(axes, x, judged.event_right[chosen], weight, None)
    return figure


def _draw_reliability(
    axes: Axes, x: Array, right: Array, weight: Array | None, groups: Array | None
) -> None:
    """Points in bins of the prediction, beside the diagonal, above how often it is made."""
    edges = np.linspace(0, 1, _BINS + 1)
    content = np.histogram(x, edges, weights=weight)[0]
    if content.sum() > 0:
        axes.stairs(content / content.max() * 0.3, edges, fill=True, color="0.85")
    bins = np.minimum((x * _BINS).astype(int), _BINS - 1)
    points = []
    for number in range(_BINS):
        chosen = bins == number
        if chosen.sum() < _FEWEST:
            continue
        share = efficiency(
            right[chosen],
            None if weight is None else weight[chosen],
            None if groups is None else groups[chosen],
        )
        points.append((float(x[chosen].mean()), *share))
    table = np.array(points).reshape(-1, 3)
    draw_points(axes, table[:, 0], table[:, 1], table[:, 2])
    axes.plot([0, 1], [0, 1], color=COLOURS[6], linestyle=":")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)


def _two_panels(y: str) -> tuple[Figure, tuple[Axes, Axes]]:
    figure = Figure(figsize=(6.4, 4.8))
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
    left.set_ylabel(y)
    return figure, (left, right)


def _draw_shares(
    axes: Axes,
    points: Sequence[Estimate],
    shift: float,
    *,
    label: str,
    colour: str,
    marker: str = "o",
) -> None:
    values = np.array([point.value for point in points])
    errors = np.array([point.error for point in points])
    x = np.arange(len(points)) + shift
    draw_points(axes, x, values, errors, label=label, colour=colour, marker=marker)


def _name_places(axes: Axes, labels: Sequence[str], x: str) -> None:
    axes.set_xticks(np.arange(len(labels)), list(labels))
    axes.xaxis.set_minor_locator(_no_ticks())
    axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.set_ylim(0, 1)
    axes.set_xlabel(x)


def _no_ticks() -> Any:  # noqa: ANN401  a locator of matplotlib
    from matplotlib.ticker import NullLocator  # noqa: PLC0415

    return NullLocator()


def _legend_above(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=2, fontsize=10)
