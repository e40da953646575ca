"""Figures of a regression: prediction and truth, residuals, bias, resolution, pulls, coverage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hepset.figures import (
    COLOURS,
    STYLE,
    bin_edges,
    draw_histogram,
    draw_points,
    new_figure,
    start_at_zero,
    styled,
)
from hepset.interfaces.judge import Drawing
from hepset.judges.labelled import Labelled
from hepset.kinematics import wrap_phi
from hepset.uncertainty import efficiency, half_width, median

__all__ = ["Shown", "coverage", "profile", "pulls", "residuals", "truth"]

Array = NDArray[Any]


class Shown(NamedTuple):
    """What the figures of one target show.

    Attributes:
        name: The target.
        unit: Its unit, ``file units`` where none is declared, empty for a pure number.
        angle: Whether residuals are angles.
        entries: The entries that have the target.
        field: Gives a field at the entries by what it is: ``value``, ``sigma``, a quantile.
        baseline: A simple prediction with its description.
        about: What data these are.
    """

    name: str
    unit: str
    angle: bool
    entries: Labelled
    field: Callable[[str], Array]
    baseline: tuple[str, Array] | None
    about: str

    def residual(self, values: Array) -> Array:
        """Return prediction minus truth, angles in [−π, π)."""
        difference: Array = values - self.entries.truth
        return wrap_phi(difference) if self.angle else difference

    def pull(self) -> Array:
        """Return residuals in units of the predicted width."""
        found: Array = self.residual(self.field("value")) / self.field("sigma")
        return found

    def axis(self, what: str) -> str:
        """Return an axis title with the unit."""
        return f"{what} [{self.unit}]" if self.unit else what

    def file(self, what: str) -> str:
        """Return the name of a figure."""
        return f"{what}-{self.name.replace('/', '-')}"


def truth(shown: Shown) -> Drawing:
    """Draw the prediction against the truth, as a histogram in two dimensions."""
    return Drawing(
        shown.file("truth"),
        f"{shown.name}: prediction against truth",
        f"Number (sum of weights) of entries, on {shown.about}. The line is the diagonal; bins "
        "without a positive sum are left white.",
        lambda: _truth(shown),
    )


def residuals(shown: Shown) -> Drawing:
    """Draw the distribution of prediction minus truth, with the baseline's."""
    simple = f" The histogram is the baseline: {shown.baseline[0]}." if shown.baseline else ""
    return Drawing(
        shown.file("residual"),
        f"{shown.name}: residuals",
        f"Prediction minus truth, each normalised to one, on {shown.about}; errors are "
        f"statistical.{simple}",
        lambda: _residuals(shown),
    )


def profile(shown: Shown) -> Drawing:
    """Draw bias and resolution in bins of the truth."""
    return Drawing(
        shown.file("resolution"),
        f"{shown.name}: bias and resolution",
        "Median residual and half the width of its central 68.3 % in bins of the truth with equal "
        f"numbers of entries, on {shown.about}; errors are bootstrapped."
        + (f" Grey squares: {shown.baseline[0]}." if shown.baseline else ""),
        lambda: _profile(shown),
    )


def pulls(shown: Shown) -> Drawing:
    """Draw residuals in units of the predicted width, beside a normal distribution."""
    inside = np.abs(shown.pull()) < 1
    value, error = efficiency(inside, shown.entries.weight, shown.entries.groups)
    return Drawing(
        shown.file("pull"),
        f"{shown.name}: pulls",
        "Residual in units of the predicted half width of the central 68.3 %, on "
        f"{shown.about}: {value:.3f} ± {error:.3f} lie within one (expected 0.683). The line is a "
        "normal distribution.",
        lambda: _pulls(shown, shown.pull()),
    )


def coverage(shown: Shown, levels: Mapping[str, float]) -> Drawing:
    """Draw which share of the entries lies below each predicted quantile.

    Args:
        shown: The target.
        levels: Suffix of the field → probability.
    """
    return Drawing(
        shown.file("coverage"),
        f"{shown.name}: coverage of the quantiles",
        f"Share of entries whose truth lies below the predicted quantile, on {shown.about}; "
        "correct quantiles lie on the line.",
        lambda: _coverage(shown, levels),
    )


@styled
def _truth(shown: Shown) -> Figure:
    figure, axes = new_figure(
        shown.axis(f"True {shown.name}"), shown.axis(f"Predicted {shown.name}"), width=6.0
    )
    predicted, true = shown.field("value"), shown.entries.truth
    edges = bin_edges([true, predicted], 50)
    content = np.histogram2d(true, predicted, [edges, edges], weights=shown.entries.weight)[0]
    positive = np.where(content > 0, content, np.nan)
    if np.isfinite(positive).any():
        low, high = float(np.nanmin(positive)), float(np.nanmax(positive))
        norm = LogNorm(low, max(high, low * 1.1))
        mesh = axes.pcolormesh(edges, edges, positive.T, norm=norm, cmap="viridis")
        figure.colorbar(mesh, ax=axes)
    axes.plot(edges[[0, -1]], edges[[0, -1]], color="0.3", linestyle=":")
    return figure


@styled
def _residuals(shown: Shown) -> Figure:
    x = f"Predicted minus true {shown.name}"
    figure, axes = new_figure(shown.axis(x), "Arbitrary units")
    own = shown.residual(shown.field("value"))
    simple = None if shown.baseline is None else shown.residual(shown.baseline[1])
    edges = bin_edges(own if simple is None else [own, simple], 50, 0.01)
    if simple is not None and shown.baseline is not None:
        draw_histogram(
            axes, simple, edges, shown.entries.weight,
            label=shown.baseline[0], colour="0.4", density=True,
        )  # fmt: skip
    draw_histogram(axes, own, edges, shown.entries.weight, label="model", density=True, points=True)
    axes.axvline(0, color="0.6", linestyle=":")
    start_at_zero(axes, shown.entries.weight)
    axes.legend()
    return figure


@styled
def _profile(shown: Shown) -> Figure:
    figure = Figure(figsize=(STYLE["figure.figsize"][0], 6.4))
    upper, lower = figure.subplots(2, 1, sharex=True)
    true = shown.entries.truth
    bins = int(np.clip(len(true) // 100, 1, 10))
    edges = np.unique(np.quantile(true, np.linspace(0, 1, bins + 1)))
    index = np.clip(np.searchsorted(edges, true, "right") - 1, 0, max(len(edges) - 2, 0))
    kinds = [("model", shown.field("value"), "o", COLOURS[0])]
    if shown.baseline is not None:
        kinds.append((shown.baseline[0], shown.baseline[1], "s", "0.4"))
    for label, predicted, marker, colour in kinds:
        residual = shown.residual(predicted)
        rows = []
        for here in range(max(len(edges) - 1, 1)):
            part = shown.entries.only(index == here)
            values = residual[index == here]
            if len(part) < 10:
                continue
            with_what = (part.weight, part.groups)
            rows.append(
                (
                    np.median(part.truth),
                    *median(values, *with_what),
                    *half_width(values, *with_what),
                )
            )
        if rows:
            x, bias, bias_error, width, width_error = np.asarray(rows).T
            draw_points(upper, x, bias, bias_error, colour=colour, marker=marker, label=label)
            draw_points(lower, x, width, width_error, colour=colour, marker=marker)
    upper.margins(x=0.05)
    upper.axhline(0, color="0.6", linestyle=":")
    upper.set_ylabel(shown.axis("Median residual"))
    lower.set_ylabel(shown.axis("Half 68 % width"))
    lower.set_xlabel(shown.axis(f"True {shown.name}"))
    lower.set_ylim(bottom=0)
    if upper.get_legend_handles_labels()[0]:
        upper.legend()
    return figure


@styled
def _pulls(shown: Shown, pull: Array) -> Figure:
    figure, axes = new_figure("Residual / predicted half width", "Arbitrary units")
    edges = np.linspace(-5, 5, 51)
    draw_histogram(
        axes, pull, edges, shown.entries.weight, label="model", density=True, points=True
    )
    x = np.linspace(-5, 5, 201)
    axes.plot(x, np.exp(-x * x / 2) / np.sqrt(2 * np.pi), color="0.4", label="normal distribution")
    axes.set_xlim(-5, 5)
    start_at_zero(axes, shown.entries.weight)
    axes.legend()
    return figure


@styled
def _coverage(shown: Shown, levels: Mapping[str, float]) -> Figure:
    figure, axes = new_figure("Probability of the quantile", "Share of entries below it")
    axes.plot([0, 1], [0, 1], color="0.6", linestyle=":")
    found = [
        efficiency(
            shown.entries.truth < shown.field(field), shown.entries.weight, shown.entries.groups
        )
        for field in levels
    ]
    values, errors = np.asarray(found).T
    draw_points(axes, np.asarray(list(levels.values())), values, errors, label="model")
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.legend()
    return figure
