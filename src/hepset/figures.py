"""The look that all figures share: mplhep's style, errors on every histogram, no global state.

Figures are made without pyplot, so none stays behind in memory and no display is needed. A
function that draws carries the decorator `styled`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, Final, ParamSpec, cast

import matplotlib as mpl
import mplhep
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

__all__ = [
    "COLOURS",
    "STYLE",
    "bin_edges",
    "draw_histogram",
    "draw_points",
    "histogram",
    "new_figure",
    "save",
    "start_at_zero",
    "styled",
]

Array = NDArray[Any]
P = ParamSpec("P")

STYLE: Final[dict[str, Any]] = {
    **mplhep.style.ATLAS,
    "figure.figsize": (6.4, 4.8),
    "figure.constrained_layout.use": True,
    "font.size": 12,
    "axes.autolimit_mode": "data",
    "axes.labelpad": 4,
    "legend.fontsize": "small",
    "lines.linewidth": 1.5,
    "lines.markersize": 5,
    "ytick.major.size": 6,
    "ytick.minor.size": 3,
    "mathtext.fontset": "dejavusans",
    "axes.unicode_minus": True,
    # Plain tick labels: parsing formulas was most of the time of a drawing.
    "axes.formatter.use_mathtext": False,
}
"""Settings of matplotlib for every figure of hepset."""

COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Colours that people with colour blindness can distinguish (Okabe and Ito)."""


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Run a function that makes a figure under `STYLE`, and lay the figure out."""

    @functools.wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with mpl.rc_context(cast(Any, STYLE)):
            figure = draw(*args, **kwargs)
            # matplotlib makes ticks when it first draws, with the settings of that moment.
            figure.draw_without_rendering()
            return figure

    return wrapper


def new_figure(
    x: str = "", y: str = "", *, width: float = 6.4, height: float = 4.8
) -> tuple[Figure, Axes]:
    """Return a figure with one pair of axes; sizes in inches. Call it in a `styled` function."""
    figure = Figure(figsize=(width, height))
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    return figure, axes


def save(figure: Figure, path: Any, **options: Any) -> None:  # noqa: ANN401  as savefig
    """Write a figure to a path or an open file, with the settings it was drawn under."""
    with mpl.rc_context(cast(Any, STYLE)):
        figure.savefig(path, **options)


def histogram(
    values: Array, edges: Array, weight: Array | None = None, *, density: bool = False
) -> tuple[Array, Array]:
    """Return the content and the error √Σw² of every bin.

    Args:
        values: Shape ``(n,)``; those outside the edges, and NaN, are left out.
        edges: Shape ``(bin + 1,)``.
        weight: Shape ``(n,)``.
        density: Divide by the sum over all bins, and by their widths.
    """
    inside = np.isfinite(values)
    x = values[inside]
    w = np.ones(len(x)) if weight is None else np.asarray(weight, np.float64)[inside]
    content = np.histogram(x, edges, weights=w)[0]
    error = np.sqrt(np.histogram(x, edges, weights=w * w)[0])
    if density and content.sum() != 0:
        scale = 1 / (content.sum() * np.diff(edges))
        content, error = content * scale, error * abs(scale)
    return content, error


def draw_histogram(
    axes: Axes,
    values: Array,
    edges: Array,
    weight: Array | None = None,
    *,
    label: str = "",
    colour: str = COLOURS[0],
    density: bool = False,
    points: bool = False,
    filled: bool = False,
) -> None:
    """Draw a histogram with errors: a line, a filled area, or points."""
    content, error = histogram(values, edges, weight, density=density)
    kind = "errorbar" if points else "fill" if filled else "step"
    extra: dict[str, Any] = {"alpha": 0.3} if filled else {}
    mplhep.histplot(
        content,
        edges,
        yerr=None if filled else error,
        ax=axes,
        histtype=kind,
        label=label or None,
        color=colour,
        **extra,
    )


def start_at_zero(axes: Axes, weight: Array | None) -> None:
    """Let a histogram's axis begin at 0, unless negative weights may have made bins negative."""
    if weight is None or (weight >= 0).all():
        axes.set_ylim(bottom=0)
    else:
        axes.axhline(0, color="0.6", linewidth=0.8)


def draw_points(
    axes: Axes,
    x: Array,
    y: Array,
    error: Array | None = None,
    *,
    label: str = "",
    colour: str = COLOURS[0],
    x_error: Array | None = None,
    marker: str = "o",
) -> None:
    """Draw points with error bars; those that are not finite are left out."""
    known = np.isfinite(x) & np.isfinite(y)
    axes.errorbar(
        x[known],
        y[known],
        yerr=None if error is None else np.nan_to_num(error[known]),
        xerr=None if x_error is None else x_error[known],
        fmt=marker,
        color=colour,
        label=label or None,
    )


def bin_edges(values: Sequence[Array] | Array, bins: int = 40, tail: float = 0.005) -> Array:
    """Return equal bins over the range of the values without the outermost share on each side."""
    joined = np.concatenate([np.ravel(part) for part in values]) if len(values) else np.zeros(0)
    joined = joined[np.isfinite(joined)]
    if not len(joined):
        return np.linspace(0, 1, bins + 1)
    low, high = np.quantile(joined, [tail, 1 - tail])
    if not high > low:
        low, high = low - 0.5, high + 0.5
    edges: Array = np.linspace(low, high, bins + 1)
    return edges
