"""Figures of reconstructed masses, in the signal and in backgrounds."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import mplhep
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hepset.figures import (
    COLOURS,
    bin_edges,
    draw_histogram,
    histogram,
    new_figure,
    start_at_zero,
    styled,
)
from hepset.interfaces.head import Drawing, Evaluation
from hepset_assignment.evaluation.baseline import Simple
from hepset_assignment.evaluation.masses import Masses, Observable, Truth, observables, truth_of
from hepset_assignment.evaluation.quality import Judged
from hepset_assignment.evaluation.sculpting import Sculpted, backgrounds, sculpted_masses
from hepset_assignment.topology import ProcessPlan, Topology

__all__ = ["background_figures", "mass_figures"]

Array = NDArray[Any]

_BINS = 40
_TAIL = 0.015
_BELOW, _ABOVE, _FAR = 8.0, 8.0, 18.0
"""Half widths of the true mass that are drawn around its middle: signal, and background."""


def mass_figures(
    plan: ProcessPlan,
    topology: Topology,
    evaluation: Evaluation,
    judged: Judged,
    other: Judged,
    simple: Simple,
    tag: str,
) -> Iterator[Drawing]:
    """Draw the masses of pairs, of particles, and of all particles of the event.

    Args:
        plan: The process.
        topology: All that is assigned.
        evaluation: The events.
        judged: The head's assignment.
        other: The simple one.
        simple: What it is and its indices.
        tag: End of the figures' names.
    """
    masses = Masses(topology, evaluation)
    title = f" ({plan.name})" if plan.name else ""
    for number, observable in enumerate(observables(plan, topology)):
        if not masses.has(plan, observable):
            continue
        if not truth_of(plan, observable, masses, judged).known.any():
            continue
        yield Drawing(
            f"mass-{number}{tag}",
            f"Reconstructed mass of {observable.label}{title}",
            "Invariant mass of the assigned objects: right, wrong though all true objects are "
            "there, and without a complete truth. Lines: the true objects, and the assignment by "
            f"{simple.of}. {len(judged.rows)} events; what lies beyond is not shown.",
            partial(_drawn, plan, masses, observable, judged, other, simple),
        )


def _drawn(
    plan: ProcessPlan,
    masses: Masses,
    observable: Observable,
    judged: Judged,
    other: Judged,
    simple: Simple,
) -> Figure:
    return _stack(
        masses.of(plan, observable, masses.evaluation.predictions, judged.rows),
        truth_of(plan, observable, masses, judged),
        masses.of(plan, observable, simple.predictions, other.rows),
        judged.weight,
        masses.unit(plan, observable) or "file units",
        simple.of,
        per="events" if observable.kind == "system" else "candidates",
    )


def background_figures(
    plan: ProcessPlan,
    topology: Topology,
    evaluation: Evaluation,
    judged: Judged,
    simple: Simple,
    tag: str,
) -> Iterator[Drawing]:
    """Draw the masses that are assigned in events without the particles; arguments as above."""
    for place, background in enumerate(backgrounds(plan, topology, evaluation)):
        mine = list(sculpted_masses(plan, topology, evaluation, judged, background))
        theirs = sculpted_masses(plan, topology, evaluation, judged, background, simple.predictions)
        for number, (part, beside) in enumerate(zip(mine, theirs, strict=True)):
            yield Drawing(
                f"background-{place}-{number}{tag}",
                f"Mass of {part.observable.label} in {background.name}",
                "Invariant mass of the assigned objects in events that have no such particle, "
                "beside objects drawn at random. A peak in the shaded window, the central 68 % of "
                "the true mass in the signal, is made by the assignment. "
                f"{len(background.rows)} events; what lies beyond counts but is not shown.",
                partial(_sculpting, part, beside, simple.of),
            )


@styled
def _stack(
    mass: Array,
    truth: Truth,
    beside: Array,
    weight: Array | None,
    unit: str,
    simple: str,
    *,
    per: str,
) -> Figure:
    figure, axes = new_figure(f"mass [{unit}]", f"{per} per bin")
    spread = np.broadcast_to(
        (np.ones(len(mass)) if weight is None else weight)[:, None], mass.shape
    )
    true = truth.mass[truth.known]
    if per == "events":
        edges = bin_edges([mass[np.isfinite(mass)], true], _BINS, tail=_TAIL)
    else:
        edges = _around(true, _BELOW, _ABOVE)
    parts = {
        "right": truth.right,
        "wrong": truth.known & ~truth.right,
        "no complete truth": ~truth.known,
    }
    mplhep.histplot(
        [histogram(mass[chosen], edges, spread[chosen])[0] for chosen in parts.values()],
        edges,
        ax=axes,
        stack=True,
        histtype="fill",
        label=list(parts),
        color=[COLOURS[2], COLOURS[1], COLOURS[5]],
    )
    draw_histogram(
        axes,
        true,
        edges,
        spread[truth.known],
        label="true objects",
        colour=COLOURS[6],
    )
    draw_histogram(
        axes, beside.ravel(), edges, spread.ravel(), label=_short(simple), colour=COLOURS[3]
    )
    start_at_zero(axes, weight)
    axes.set_xlim(edges[0], edges[-1])
    axes.legend()
    return figure


@styled
def _sculpting(part: Sculpted, beside: Sculpted, simple: str) -> Figure:
    unit = part.unit or "file units"
    figure, axes = new_figure(f"mass [{unit}]", f"share of candidates per {unit}")
    edges = _around(np.array(part.window), _BELOW, _FAR)
    axes.axvspan(*part.window, color="0.9", zorder=0, label="signal's window")
    for values, label, colour in (
        (part.random, "random objects", COLOURS[6]),
        (beside.chosen, _short(simple), COLOURS[3]),
        (part.chosen, "model", COLOURS[0]),
    ):
        weight = np.ones(values.shape)
        if part.weight is not None:
            weight = weight * part.weight[:, None]
        content, error = histogram(values.ravel(), edges, weight.ravel())
        # Of all candidates, those beyond the bins included.
        total = weight[np.isfinite(values)].sum()
        # Where there is no candidate, every bin is 0.
        scale = (total or 1.0) * np.diff(edges)
        if label == "random objects":
            axes.stairs(content / scale, edges, color=colour, label=label)
        else:
            mplhep.histplot(
                content / scale,
                edges,
                yerr=error / scale,
                ax=axes,
                histtype="step",
                label=label,
                color=colour,
            )
    start_at_zero(axes, part.weight)
    axes.set_xlim(edges[0], edges[-1])
    axes.legend()
    return figure


def _around(true: Array, below: float, above: float) -> Array:
    """Bins around the true mass, from so many half widths below the middle to so many above."""
    low, middle, high = np.quantile(true, [0.16, 0.5, 0.84])
    half = max((high - low) / 2, 1e-3 * abs(middle), 1e-6)
    edges: Array = np.linspace(max(middle - below * half, 0.0), middle + above * half, _BINS + 1)
    return edges


def _short(name: str) -> str:
    """A name for a legend: without the part in parentheses."""
    return name.partition(" (")[0]
