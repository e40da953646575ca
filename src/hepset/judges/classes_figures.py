"""Figures of a classification: ROC curves, scores, confusion matrix, calibration."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from hepset.figures import (
    COLOURS,
    draw_histogram,
    draw_points,
    new_figure,
    start_at_zero,
    styled,
)
from hepset.interfaces.judge import Drawing
from hepset.judges.labelled import Labelled
from hepset.uncertainty import auc, efficiency, roc_curve, weighted_mean

__all__ = [
    "CLASSES",
    "Curve",
    "Figure",
    "Judged",
    "calibration",
    "confusion",
    "confusion_figure",
    "roc",
    "score_roc",
    "scores",
]

Array = NDArray[Any]
Probability = Callable[[int], Array]
"""Class to its predicted probability at every entry, shape ``(entry,)``."""

_FEWEST = 10
"""A point of a ROC curve needs so many background entries behind it."""
CLASSES = 6
"""Classes that one figure shows."""
_POINTS = 500
"""Points of a ROC curve, along either axis, that are drawn."""
_INSIDE = 2
"""Curves whose legend finds a place beside them."""
_LINE = 0.2
"""Height of a line of a legend in inches."""
_NUMBERED = 20
"""Classes up to which a confusion matrix has numbers."""
_TICKS = 50
"""Classes that a larger one names at its sides, at most."""


class Curve(NamedTuple):
    """What a ROC figure shows of one class.

    Attributes:
        name: Name of the class.
        label: Its integer.
        score: The model's score at every entry.
        baseline: The best single variable and its score, where there is one.
    """

    name: str
    label: int
    score: Array
    baseline: tuple[str, Array] | None


def roc(curves: Callable[[], Sequence[Curve]], entries: Labelled, about: str) -> Drawing:
    """Draw background rejection against signal efficiency, baselines dashed."""
    return Drawing(
        "roc",
        "Background rejection against signal efficiency",
        f"One over the background efficiency, on {about}; solid: the model, dashed: the best "
        f"single variable. Bands are the statistical error of the background; curves end where "
        f"fewer than {_FEWEST} background entries pass.",
        lambda: _roc(curves(), entries),
    )


class Judged(NamedTuple):
    """What a ROC figure shows of one score.

    Attributes:
        score: The score at every entry that is of either of its sides.
        entries: These, with truth 1 for signal and 0 for background.
        baseline: The best single variable and its score, where there is one.
    """

    score: Array
    entries: Labelled
    baseline: tuple[str, Array] | None


def score_roc(scores: Callable[[], Mapping[str, Judged]], about: str) -> Drawing:
    """Draw the rejection of every named score, baselines dashed."""
    return Drawing(
        "score-roc",
        "Background rejection of the scores",
        f"One over the background efficiency of each score's own background, on {about}; solid: "
        "the model, dashed: the best single variable for the same. Bands are the statistical error "
        f"of the background; curves end where fewer than {_FEWEST} background entries pass.",
        lambda: _score_roc(scores()),
    )


def scores(
    classes: Sequence[int],
    names: Sequence[str],
    entries: Labelled,
    probability: Probability,
    train: tuple[Labelled, Array] | None,
    about: str,
) -> list[Drawing]:
    """Draw the distribution of each class's probability, by true class."""
    overlay = "; lines: training events, which agree unless the model is over-trained"
    return [
        Drawing(
            f"score-{c}",
            f"Probability of {names[c]}",
            f"Distribution of the predicted probability of {names[c]} by true class, each "
            f"normalised to one. Points: {about}{overlay if train else ''}.",
            partial(_score, c, names, entries, probability, train),
        )
        for c in list(classes)[:CLASSES]
    ]


def confusion(draw: Callable[[], Figure], about: str) -> Drawing:
    """Draw the share of each true class that is decided as each class."""
    return Drawing(
        "confusion",
        "Confusion matrix",
        f"Share of each true class (row) whose most probable class is the column, on {about}; "
        "errors are statistical.",
        draw,
    )


def calibration(
    classes: Sequence[int],
    names: Sequence[str],
    entries: Labelled,
    probability: Probability,
    about: str,
    *,
    balanced: bool,
    drawn: Sequence[float] | None,
) -> Drawing:
    """Draw how often a class is true where its probability is predicted.

    Args:
        classes: Those to draw.
        names: Of all classes.
        entries: With their true classes.
        probability: Gives the predicted ones of a class (entry,).
        about: What was judged, for the caption.
        balanced: Whether the losses of classes were balanced in training.
        drawn: Share of every class among the events of a sampled training, NaN where it is not
            known; None where it was not sampled.
    """
    note = (
        " The training was class-balanced: the output is no posterior and need not lie on the line."
        if balanced
        else ""
    )
    if drawn is not None:
        note += _prior(classes, names, entries, drawn)
    return Drawing(
        "calibration",
        "Calibration",
        f"True share of a class against its mean predicted probability, in bins of equal numbers "
        f"of entries, on {about}. A calibrated output lies on the line.{note}",
        partial(_calibration, classes, names, entries, probability),
    )


def _prior(
    classes: Sequence[int], names: Sequence[str], entries: Labelled, drawn: Sequence[float]
) -> str:
    """Say what shares of classes the output of a sampled training has as its prior."""
    shown = list(classes)[:CLASSES]
    if not all(math.isfinite(drawn[c]) for c in shown):
        return (
            " The training was sampled event by event, which changes the shares of the objects' "
            "classes too: the output need not lie on the line."
        )
    here = [efficiency(entries.truth == c, entries.weight, entries.groups).value for c in shown]
    shares = ", ".join(
        f"{names[c]} {drawn[c]:.3f} (here {share:.3f})"
        for c, share in zip(shown, here, strict=True)
    )
    return (
        f" The training was sampled: the output has the shares drawn as its prior, {shares}; where "
        "they differ it need not lie on the line."
    )


@styled
def _roc(curves: Sequence[Curve], entries: Labelled) -> Figure:
    figure, axes = new_figure("Signal efficiency", "Background rejection")
    for curve, colour in zip(curves[:CLASSES], COLOURS, strict=False):
        positive = entries.truth == curve.label
        if positive.all() or not positive.any():
            continue
        shown = [(curve.name if len(curves) > 1 else "model", curve.score, "-")]
        if curve.baseline is not None:
            shown.append((*curve.baseline, "--"))
        for name, score, line in shown:
            tint = colour if line == "-" else "0.4" if len(curves) == 1 else colour
            _draw_roc(axes, name, score, positive, entries, line, tint)
    return _finish_roc(figure, axes)


@styled
def _score_roc(scores: Mapping[str, Judged]) -> Figure:
    figure, axes = new_figure("Signal efficiency", "Background rejection")
    for (name, judged), colour in zip(scores.items(), COLOURS, strict=False):
        positive = judged.entries.truth == 1
        if positive.all() or not positive.any():
            continue
        _draw_roc(axes, name, judged.score, positive, judged.entries, "-", colour)
        if judged.baseline is not None:
            _draw_roc(axes, *judged.baseline, positive, judged.entries, "--", colour)
    return _finish_roc(figure, axes)


def _draw_roc(
    axes: Axes, name: str, score: Array, positive: Array, entries: Labelled, line: str, tint: str
) -> None:
    background, signal, _ = roc_curve(score, positive, entries.weight)
    number = np.count_nonzero(~positive)
    if entries.weight is not None:
        others = entries.weight[~positive]
        number = others.sum() ** 2 / (others**2).sum()
    kept = _thinned(signal, background, np.flatnonzero(background * number >= _FEWEST))
    x, share = signal[kept], background[kept]
    error = np.sqrt(np.clip(share * (1 - share), 0, None) / number)
    area = auc(score, positive, entries.weight, entries.groups)
    label = f"{name} (AUC {area.value:.3f} ± {area.error:.3f})"
    axes.plot(x, 1 / share, line, color=tint, label=label)
    axes.fill_between(
        x, 1 / (share + error), 1 / np.maximum(share - error, share / 10),
        color=tint, alpha=0.2, linewidth=0,
    )  # fmt: skip


def _thinned(signal: Array, background: Array, kept: Array) -> Array:
    """Points of a curve that are drawn: as many as can be seen, close on either axis."""
    if len(kept) <= 4 * _POINTS:
        return kept
    x, share = signal[kept], background[kept]
    along = np.searchsorted(x, np.linspace(x[0], x[-1], _POINTS))
    across = np.searchsorted(share, np.geomspace(share[0], share[-1], _POINTS))
    chosen = np.concatenate([[0], along, across, [len(kept) - 1]])
    found: Array = kept[np.unique(np.clip(chosen, 0, len(kept) - 1))]
    return found


def _finish_roc(figure: Figure, axes: Axes) -> Figure:
    axes.set_yscale("log")
    axes.set_xlim(0, 1)
    axes.set_ylim(bottom=1)
    handles, labels = axes.get_legend_handles_labels()
    if len(handles) <= _INSIDE:
        if handles:
            axes.legend()
        return figure
    # Above the axes, where it hides no curve: models on the left, what they are compared to right.
    dashed = [isinstance(line, Line2D) and line.get_linestyle() == "--" for line in handles]
    order = sorted(range(len(handles)), key=dashed.__getitem__)
    figure.legend(
        [handles[i] for i in order],
        [labels[i] for i in order],
        loc="outside upper center",
        ncols=2,
        fontsize="x-small",
        frameon=False,
    )
    figure.set_figheight(figure.get_figheight() + _LINE * math.ceil(len(handles) / 2))
    return figure


@styled
def _score(
    c: int,
    names: Sequence[str],
    entries: Labelled,
    probability: Probability,
    train: tuple[Labelled, Array] | None,
) -> Figure:
    figure, axes = new_figure(f"Predicted probability of {names[c]}", "Arbitrary units")
    edges, own = np.linspace(0, 1, 26), probability(c)
    for true, colour in zip(range(min(len(names), CLASSES)), COLOURS, strict=False):
        parts = [(entries, own), None if train is None else (train[0], train[1][:, c])]
        for number, part in enumerate(parts):
            if part is None:
                continue
            chosen = part[0].truth == true
            if not chosen.any():
                continue
            weight = None if part[0].weight is None else part[0].weight[chosen]
            draw_histogram(
                axes,
                part[1][chosen],
                edges,
                weight,
                label=f"true {names[true]}" + (", training" if number else ""),
                colour=colour,
                density=True,
                points=number == 0,
            )
    axes.set_xlim(0, 1)
    start_at_zero(axes, entries.weight)
    axes.legend()
    return figure


@styled
def confusion_figure(names: Sequence[str], entries: Labelled, decided: Array) -> Figure:
    """Draw the matrix; colours alone where there are more classes than room for numbers.

    Args:
        names: Of the classes.
        entries: With their true classes.
        decided: The most probable class of each, (entry,).
    """
    count = len(names)
    if count > _NUMBERED:
        return _large_confusion(names, entries, decided)
    size = max(4.8, 0.9 * count + 1.5)
    figure, axes = new_figure("Most probable class", "True class", width=size + 0.8, height=size)
    shares = np.full((count, count), np.nan)
    for true in range(count):
        row = entries.only(entries.truth == true)
        for column in range(count):
            passed = decided[entries.truth == true] == column
            value, error = efficiency(passed, row.weight, row.groups)
            shares[true, column] = value
            if np.isfinite(value):
                dark = value > 0.5
                axes.text(
                    column,
                    true,
                    f"{value:.3f}\n± {error:.3f}" if np.isfinite(error) else f"{value:.3f}",
                    ha="center",
                    va="center",
                    color="white" if dark else "black",
                    fontsize="small",
                )
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    figure.colorbar(image, ax=axes, shrink=0.8)
    axes.minorticks_off()
    axes.set_xticks(range(count), names, rotation=30 if count > 3 else 0)
    axes.set_yticks(range(count), names)
    axes.tick_params(top=False, right=False)
    return figure


def _large_confusion(names: Sequence[str], entries: Labelled, decided: Array) -> Figure:
    """Colours alone, for more classes than there is room for numbers."""
    count, size = len(names), 10.0
    figure, axes = new_figure("Most probable class", "True class", width=size + 0.8, height=size)
    cell = entries.truth * count + decided
    sums = np.bincount(cell, entries.weight, count * count).reshape(count, count)
    totals = sums.sum(axis=1, keepdims=True)
    shares = np.divide(sums, totals, out=np.full(sums.shape, np.nan), where=totals != 0)
    image = axes.imshow(shares, vmin=0, vmax=1, cmap="Blues", interpolation="nearest")
    figure.colorbar(image, ax=axes, shrink=0.8)
    axes.minorticks_off()
    shown = range(0, count, -(-count // _TICKS))
    labels = [names[c] for c in shown]
    axes.set_xticks(list(shown), labels, rotation=90, fontsize="x-small")
    axes.set_yticks(list(shown), labels, fontsize="x-small")
    axes.tick_params(top=False, right=False)
    return figure


@styled
def _calibration(
    classes: Sequence[int], names: Sequence[str], entries: Labelled, probability: Probability
) -> Figure:
    figure, axes = new_figure("Mean predicted probability", "True share")
    axes.plot([0, 1], [0, 1], color="0.6", linestyle=":")
    for c, colour in zip(list(classes)[:CLASSES], COLOURS, strict=False):
        predicted = probability(c)
        edges = np.unique(np.quantile(predicted, np.linspace(0, 1, 11)))
        index = np.clip(np.searchsorted(edges, predicted, "right") - 1, 0, max(len(edges) - 2, 0))
        x, y, errors = [], [], []
        for here in range(max(len(edges) - 1, 1)):
            chosen = index == here
            part = entries.only(chosen)
            value, error = efficiency(part.truth == c, part.weight, part.groups)
            x.append(weighted_mean(predicted[chosen], part.weight).value)
            y.append(value)
            errors.append(error)
        label = names[c] if len(classes) > 1 else f"model, {names[c]}"
        draw_points(
            axes, np.asarray(x), np.asarray(y), np.asarray(errors), label=label, colour=colour
        )
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.02, 1.02)
    axes.legend()
    return figure
