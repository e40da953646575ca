"""What a cut on a score makes of a background's spectrum: does it build a peak?

A score that was learnt on signals of one mass can be a measure of the mass, and the background that
it lets through then looks like signal. The cut is set at a fixed background efficiency (mistag).
Two numbers say what it does to a column that is looked at afterwards: the largest distance
(Kolmogorov's) of its cumulative distributions in the background with and without the cut, and the
share of the background that passes within the central 68 % of the signal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from hepset.arrays import Array
from hepset.errors import ConfigurationError, did_you_mean
from hepset.evaluate.columns import KeptColumn, Quantity, quantity, require_quantity
from hepset.figures import COLOURS, bin_edges, draw_histogram, new_figure, start_at_zero, styled
from hepset.interfaces.head import create_head
from hepset.interfaces.judge import Drawing, Evaluation, Metric, Separation
from hepset.judges import HeadJudge, separations_of
from hepset.judges.rejection import threshold_at
from hepset.schema.config import SculptingConfig
from hepset.schema.event import EventInfo
from hepset.uncertainty import (
    ONE_SIGMA,
    Estimate,
    distance,
    effective_number,
    efficiency,
    weighted_quantile,
)

__all__ = ["Sculpting", "require_sculpting", "sculpting"]

KOLMOGOROV_MEAN: Final = 0.8687
"""Mean √(π/2) ln 2 of Kolmogorov's distribution, that of √n times the distance."""
KOLMOGOROV_SPREAD: Final = 0.2603
"""Its standard deviation."""
FEWEST: Final = 5
"""Background entries that have to pass, for a distance to be given."""
BINS: Final = 25
FEWEST_BINS: Final = 8


class Sculpting(NamedTuple):
    """What a sculpting adds to a head's part of the report."""

    metrics: list[Metric]
    baselines: list[Metric]
    drawings: list[Drawing]


class _Cut(NamedTuple):
    """A background with and without a cut.

    Attributes:
        signal: Column of the signal (entry,), NaN where it does not exist.
        background: Column of the background.
        passed: Which entries of the background pass.
        signal_passed: Which of the signal.
        signal_weight: Weights; None where all are one.
        weight: Weights of the background.
        groups: Event of each background entry, rising; None where entries are events.
    """

    signal: Array
    background: Array
    passed: Array
    signal_passed: Array
    signal_weight: Array | None
    weight: Array | None
    groups: Array | None


def require_sculpting(
    asked: SculptingConfig,
    event: EventInfo,
    heads: Mapping[str, Mapping[str, object]],
    extras: Mapping[str, KeptColumn],
    where: str,
) -> None:
    """Refuse a sculpting of what is not there.

    Args:
        asked: The score and the column.
        event: What an event is.
        heads: ``model.heads``.
        extras: What the extra tensors hold.
        where: Place in the configuration, for messages.

    Raises:
        ConfigurationError: If a head, its score or the column does not exist, or they belong to
            different objects.
    """
    head, _, score = asked.score.partition("/")
    if head not in heads:
        raise ConfigurationError(
            f"{where}.score: {asked.score!r}: expected <head>/<score>; there is no head {head!r}"
            f"{did_you_mean(head, heads)}; there are {', '.join(heads)}"
        )
    known = separations_of(create_head(head, heads[head]), event)
    if score not in known:
        raise ConfigurationError(
            f"{where}.score: the head {head!r} has no score {score!r}{did_you_mean(score, known)}; "
            f"it has {', '.join(list(known)[:12]) or 'none'}{', …' if len(known) > 12 else ''}"
        )
    of_column = require_quantity(asked.against, event, extras, f"{where}.against")
    of_score = known[score]
    if of_column not in {None, of_score}:
        judged = "one per event" if of_score is None else f"one per object of {of_score!r}"
        raise ConfigurationError(
            f"{where}.against: {asked.against!r} has one value per object of {of_column!r}, but "
            f"the score {asked.score!r} {judged}; take a column of "
            f"{'the event' if of_score is None else f'the event or of {of_score}'}"
        )


def sculpting(asked: SculptingConfig, judge: HeadJudge, evaluation: Evaluation) -> Sculpting:
    """Judge what a cut on a score makes of a column in the background.

    Args:
        asked: Score, column, mistag.
        judge: Of the head that has the score.
        evaluation: The judged events.

    The configuration has been judged by `require_sculpting`.
    """
    name = asked.score.partition("/")[2]
    separation = judge.separation(name)
    column = quantity(evaluation, asked.against)
    entries = _column_of_entries(column, separation)
    if separation.signal.all() or not separation.signal.any():
        return Sculpting([], [], [])
    cut = _cut(separation.values, separation, entries, asked.mistag, evaluation)
    prefix = f"{name} at {100 * asked.mistag:g} % mistag: "
    found = Sculpting(_metrics(cut, prefix, column.name), [], [])
    window = _window(cut)
    uncut = Estimate(*_share(cut, window, np.ones(len(cut.passed), bool)))
    found.baselines.append(
        Metric(_share_name(prefix, column.name), *uncut, better="lower", of="without a cut")
    )
    if separation.baseline is not None:
        label, values = separation.baseline
        alone = _cut(values, separation, entries, asked.mistag, evaluation)
        found.baselines.extend(_metrics(alone, prefix, column.name, of=label))
    found.baselines.append(_at_random(cut, prefix, column.name))
    number = int(np.count_nonzero(cut.passed))
    found.drawings.append(
        Drawing(
            f"sculpting-{name}-{column.name}-{asked.mistag:g}".replace("/", "-"),
            f"{column.name} of background at {100 * asked.mistag:g} % mistag of {name}",
            f"Background before (filled) and after (points, {number} of {len(cut.passed)}) the "
            "cut, and signal after it (line), each of unit area. The grey band has the central "
            "68 % of the signal.",
            lambda: _draw(cut, column, window),
        )
    )
    return found


def _column_of_entries(column: Quantity, separation: Separation) -> Array:
    values, keep = column.values, separation.keep
    if keep.ndim == 2 and values.ndim == 1:
        values = np.broadcast_to(values[:, None], keep.shape)
    chosen: Array = values[keep]
    return chosen


def _cut(
    values: Array, separation: Separation, column: Array, mistag: float, evaluation: Evaluation
) -> _Cut:
    signal = separation.signal
    rows = np.nonzero(separation.keep)[0]
    groups = evaluation.groups
    if groups is not None:
        groups = groups[rows]
    elif separation.keep.ndim == 2:
        groups = rows
    weight = np.asarray(evaluation.weight, np.float64)[rows] if evaluation.weighted else None
    other = None if weight is None else weight[~signal]
    threshold = threshold_at(values, ~signal, mistag, weight)
    return _Cut(
        column[signal],
        column[~signal],
        values[~signal] >= threshold,
        values[signal] >= threshold,
        None if weight is None else weight[signal],
        other,
        None if groups is None else groups[~signal],
    )


def _share_name(prefix: str, column: str) -> str:
    return f"{prefix}share of background in the signal's window of {column}"


def _metrics(cut: _Cut, prefix: str, column: str, of: str = "") -> list[Metric]:
    apart = _distance(cut, cut.passed)
    share = _share(cut, _window(cut), cut.passed)
    kept = efficiency(cut.signal_passed, cut.signal_weight)
    return [
        Metric(f"{prefix}signal efficiency", *kept, of=of),
        Metric(f"{prefix}distance of {column} to all background", *apart, better="lower", of=of),
        Metric(_share_name(prefix, column), *share, better="lower", of=of),
    ]


def _window(cut: _Cut) -> tuple[float, float]:
    known = np.isfinite(cut.signal)
    weight = None if cut.signal_weight is None else cut.signal_weight[known]
    low, high = weighted_quantile(cut.signal[known], ONE_SIGMA, weight)
    return float(low), float(high)


def _share(cut: _Cut, window: tuple[float, float], passed: Array) -> Estimate:
    inside = (cut.background >= window[0]) & (cut.background <= window[1])
    return efficiency(
        inside[passed],
        None if cut.weight is None else cut.weight[passed],
        None if cut.groups is None else cut.groups[passed],
    )


def _distance(cut: _Cut, passed: Array) -> Estimate:
    if np.count_nonzero(passed) < FEWEST:
        return Estimate(math.nan, math.nan)
    after = np.where(passed, cut.background, np.nan)
    if cut.groups is None:
        return distance(after[:, None], cut.background[:, None], cut.weight)
    _, first, event = np.unique(cut.groups, return_index=True, return_inverse=True)
    place = event, np.arange(len(event)) - first[event]
    part, whole = np.full((2, len(first), int(place[1].max()) + 1), np.nan)
    part[place], whole[place] = after, cut.background
    return distance(part, whole, None if cut.weight is None else cut.weight[first])


def _at_random(cut: _Cut, prefix: str, column: str) -> Metric:
    """Kolmogorov's distance of as many entries drawn at random: it is never zero for few."""
    size = {
        kind: effective_number(
            int(chosen.sum()),
            None if cut.weight is None else cut.weight[chosen],
            None if cut.groups is None else cut.groups[chosen],
        )
        for kind, chosen in (("part", cut.passed), ("all", np.ones(len(cut.passed), bool)))
    }
    scale = math.nan
    if 0 < size["part"] <= size["all"]:
        scale = math.sqrt(1 / size["part"] - 1 / size["all"])
    return Metric(
        f"{prefix}distance of {column} to all background",
        KOLMOGOROV_MEAN * scale,
        KOLMOGOROV_SPREAD * scale,
        better="lower",
        of=f"{int(cut.passed.sum())} at random",
        limit=True,
    )


@styled
def _draw(cut: _Cut, column: Quantity, window: tuple[float, float]) -> Figure:
    figure, axes = new_figure(column.label, "Arbitrary units")
    # Few entries are told from nothing in wide bins only.
    bins = max(FEWEST_BINS, min(BINS, int(2 * math.sqrt(cut.passed.sum()))))
    edges = bin_edges([cut.signal, cut.background], bins)
    if 0 <= edges[0] < 0.2 * edges[-1]:
        edges = np.linspace(0, edges[-1], bins + 1)
    after = None if cut.weight is None else cut.weight[cut.passed]
    kept = None if cut.signal_weight is None else cut.signal_weight[cut.signal_passed]
    axes.axvspan(*window, color="0.5", alpha=0.12, linewidth=0)
    draw_histogram(
        axes, cut.background, edges, cut.weight,
        label="background", colour=COLOURS[0], density=True, filled=True,
    )  # fmt: skip
    draw_histogram(
        axes, cut.signal[cut.signal_passed], edges, kept,
        label="signal, after the cut", colour=COLOURS[1], density=True,
    )  # fmt: skip
    draw_histogram(
        axes, cut.background[cut.passed], edges, after,
        label="background, after the cut", colour="black", density=True, points=True,
    )  # fmt: skip
    axes.set_xlim(edges[0], edges[-1])
    start_at_zero(axes, cut.weight)
    axes.legend()
    return figure
