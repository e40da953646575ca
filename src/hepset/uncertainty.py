"""Statistical errors of the numbers that hepset prints: efficiencies, means, quantiles, AUC.

Weights are physical: signed, and errors follow from Σw². Where several entries belong to one event
(the objects of a stream), `groups` names the event of each, and the error counts events. Intervals
of Wilson (1927) are for unweighted counts only; what has no formula is bootstrapped over events,
with Poisson counts instead of draws. Missing entries have to be taken out before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ONE_SIGMA",
    "REPLICAS",
    "Estimate",
    "auc",
    "auc_value",
    "bootstrap",
    "distance",
    "effective_number",
    "efficiency",
    "half_width",
    "largest_efficiency",
    "median",
    "quantiles",
    "roc_curve",
    "weighted_mean",
    "weighted_quantile",
    "wilson_interval",
]

Array: TypeAlias = NDArray[Any]

REPLICAS: Final = 200
"""Bootstrap replicas: the error of an error is then 5 %."""
ONE_SIGMA: Final = (0.158655, 0.841345)
"""Levels of the quantiles that enclose the central 68.3 %."""


class Estimate(NamedTuple):
    """A number with its statistical error, one standard deviation; NaN where unknown."""

    value: float
    error: float


def wilson_interval(passed: int, total: int, z: float = 1.0) -> tuple[float, float]:
    """Return the interval of a fraction by Wilson's score (JASA 22, 1927, 209).

    Args:
        passed: Number of successes.
        total: Number of trials.
        z: Number of standard deviations.
    """
    if total == 0:
        return 0.0, 1.0
    share, z2 = passed / total, z * z
    centre = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = z / (1 + z2 / total)
    half *= math.sqrt(share * (1 - share) / total + z2 / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def largest_efficiency(total: float, confidence: float = 0.95) -> float:
    """Return the largest efficiency that is not excluded where none of the entries pass.

    It solves (1 − ε)ⁿ = 1 − confidence; for many entries ε is 3.0 / n.

    Args:
        total: Number n of independent entries; the effective one where they are weighted.
        confidence: Confidence of the limit.
    """
    return -math.expm1(math.log1p(-confidence) / total) if total > 0 else 1.0


def effective_number(size: int, weight: Array | None = None, groups: Array | None = None) -> float:
    """Return how many independent, unweighted entries would say as much.

    Args:
        size: Number of entries.
        weight: Physical weights, shape ``(size,)``: (Σw)² / Σw².
        groups: Event of each entry, shape ``(size,)``: an event counts once, with the weight of its
            first entry.
    """
    if groups is not None:
        events, first = np.unique(groups, return_index=True)
        size, weight = len(events), None if weight is None else weight[first]
    if weight is None:
        return float(size)
    squares = float(np.square(weight).sum())
    return float(np.sum(weight)) ** 2 / squares if squares else 0.0


def efficiency(passed: Array, weight: Array | None = None, groups: Array | None = None) -> Estimate:
    """Return the share of entries that pass.

    Args:
        passed: Boolean, shape ``(n,)``.
        weight: Physical weights, shape ``(n,)``; without them the error is half of Wilson's
            interval, which is not 0 when all or none pass.
        groups: Event of each entry, shape ``(n,)``.
    """
    if weight is None and groups is None:
        total, count = len(passed), int(np.count_nonzero(passed))
        low, high = wilson_interval(count, total)
        return Estimate(count / total if total else math.nan, (high - low) / 2)
    value, error = weighted_mean(passed.astype(np.float64), weight, groups)
    # Where all or none pass, nothing varies that could tell the error.
    return Estimate(value, math.nan if passed.all() or not passed.any() else error)


def weighted_mean(
    values: Array, weight: Array | None = None, groups: Array | None = None
) -> Estimate:
    """Return the mean with the error of a ratio of sums over independent events.

    Args:
        values: Shape ``(n,)``.
        weight: Physical weights, shape ``(n,)``.
        groups: Event of each entry, shape ``(n,)``; every entry is an event of its own without.
    """
    values = np.asarray(values, dtype=np.float64)
    weight = np.ones(len(values)) if weight is None else np.asarray(weight, dtype=np.float64)
    total = float(weight.sum())
    if not len(values) or total == 0:
        return Estimate(math.nan, math.nan)
    mean = float((weight * values).sum() / total)
    pulls: Array = weight * (values - mean)
    if groups is not None:
        pulls = np.bincount(np.unique(groups, return_inverse=True)[1], pulls)
    if len(pulls) < 2:
        return Estimate(mean, math.nan)
    return Estimate(mean, float(math.sqrt((pulls**2).sum()) / abs(total)))


def weighted_quantile(values: Array, levels: Sequence[float], weight: Array | None = None) -> Array:
    """Return quantiles, interpolated between the midpoints of the entries' weights.

    Equal weights give numpy's method ``hazen``. Where weights are negative the cumulative sum is
    made monotone by its running maximum.

    Args:
        values: Shape ``(n,)``.
        levels: Probabilities in [0, 1], shape ``(level,)``.
        weight: Shape ``(n,)``.
    """
    order = np.argsort(values, kind="stable")
    sorted_weight = np.ones(len(values)) if weight is None else np.asarray(weight)[order]
    return _sorted_quantile(np.asarray(values, np.float64)[order], levels, sorted_weight)


def bootstrap(
    statistic: Callable[[Array], Array | float],
    size: int,
    *,
    weight: Array | None = None,
    groups: Array | None = None,
    replicas: int = REPLICAS,
    seed: int = 0,
) -> Array:
    """Return the standard deviation of a statistic over bootstrap replicas of the events.

    Args:
        statistic: Takes the weights ``(size,)`` of all entries, returns a number or an array.
        size: Number of entries.
        weight: Weights, shape ``(size,)``.
        groups: Event of each entry, shape ``(size,)``; its entries are drawn together.
        replicas: Number of replicas; those that are not finite are left out.
        seed: Seed of the draws, so that a number is the same each time it is printed.
    """
    random = np.random.default_rng(seed)
    base = np.ones(size) if weight is None else np.asarray(weight, dtype=np.float64)
    events, index = size, None
    if groups is not None:
        names, index = np.unique(groups, return_inverse=True)
        events = len(names)
    found = []
    for _ in range(replicas):
        counts = random.poisson(1.0, events)
        found.append(statistic(base * (counts if index is None else counts[index])))
    with np.errstate(invalid="ignore"):
        values = np.asarray(found, dtype=np.float64)
    values = np.where(np.isfinite(values), values, np.nan)
    known = np.isfinite(values).sum(axis=0)
    filled = np.where(known >= 2, values, 0.0)
    spread: Array = np.where(known >= 2, np.nanstd(filled, axis=0, ddof=1), np.nan)
    return spread


def quantiles(
    values: Array,
    levels: Sequence[float],
    weight: Array | None = None,
    groups: Array | None = None,
    *,
    combine: Callable[[Array], float] | None = None,
) -> list[Estimate]:
    """Return quantiles, or one number made of them, with bootstrap errors.

    Args:
        values: Shape ``(n,)``.
        levels: Probabilities.
        weight: Shape ``(n,)``.
        groups: Event of each entry, shape ``(n,)``.
        combine: Makes one number of the quantiles, such as half their distance.
    """
    if len(values) < 2:
        return [Estimate(math.nan, math.nan)] * (1 if combine else len(levels))
    order = np.argsort(values, kind="stable")
    x = np.asarray(values, np.float64)[order]
    w = np.ones(len(x)) if weight is None else np.asarray(weight, np.float64)[order]
    g = None if groups is None else np.asarray(groups)[order]

    def statistic(weights: Array) -> Array:
        found = _sorted_quantile(x, levels, weights)
        return found if combine is None else np.asarray([combine(found)])

    values_, errors = statistic(w), bootstrap(statistic, len(x), weight=w, groups=g)
    return [Estimate(float(v), float(e)) for v, e in zip(values_, errors, strict=True)]


def median(values: Array, weight: Array | None = None, groups: Array | None = None) -> Estimate:
    """Return the median with its bootstrap error."""
    return quantiles(values, [0.5], weight, groups)[0]


def half_width(values: Array, weight: Array | None = None, groups: Array | None = None) -> Estimate:
    """Return half the width of the central 68.3 %: σ of a normal distribution."""
    return quantiles(values, ONE_SIGMA, weight, groups, combine=lambda q: (q[1] - q[0]) / 2)[0]


def distance(chosen: Array, reference: Array, weight: Array | None = None) -> Estimate:
    """Return Kolmogorov's distance, the largest difference of two cumulative distributions.

    Both come from the same events, which the bootstrap of the error draws together. The distance
    of equal distributions is not 0 but about 0.9/√n for n candidates.

    Args:
        chosen: Shape ``(event, candidate)``, NaN where there is none.
        reference: The same of the other distribution.
        weight: Physical weights, shape ``(event,)``.
    """
    values = np.concatenate([chosen, reference], axis=1)
    first = np.arange(values.shape[1]) < chosen.shape[1]
    event, column = np.nonzero(np.isfinite(values))
    flat = values[event, column]
    order = np.argsort(flat, kind="stable")
    event, is_first = event[order], first[column[order]]
    base = np.ones(len(values)) if weight is None else np.asarray(weight, np.float64)
    # Ties count together: only the last of equal values is a place to compare at.
    last = np.append(np.diff(flat[order]) > 0, True)[: len(order)]

    def statistic(weights: Array) -> float:
        each = weights[event]
        parts = np.cumsum(np.where(is_first, each, 0.0)), np.cumsum(np.where(is_first, 0.0, each))
        if not len(order) or parts[0][-1] <= 0 or parts[1][-1] <= 0:
            return math.nan
        apart = np.abs(parts[0] / parts[0][-1] - parts[1] / parts[1][-1])
        return float(apart[last].max())

    return Estimate(statistic(base), float(bootstrap(statistic, len(base), weight=base)))


def auc_value(score: Array, positive: Array, weight: Array | None = None) -> float:
    """Return the probability that a positive has the higher score; ties count one half.

    Args:
        score: Shape ``(n,)``.
        positive: Boolean, shape ``(n,)``.
        weight: Physical weights, shape ``(n,)``.
    """
    ranks = np.unique(score, return_inverse=True)[1]
    return _ranked_auc(ranks, positive, np.ones(len(score)) if weight is None else weight)


def auc(
    score: Array, positive: Array, weight: Array | None = None, groups: Array | None = None
) -> Estimate:
    """Return the area under the ROC curve with its error.

    The error is DeLong's (Biometrics 44, 1988, 837) where entries are unweighted events, else
    bootstrapped. NaN where one of the classes is absent.
    """
    positive = np.asarray(positive, dtype=bool)
    if positive.all() or not positive.any():
        return Estimate(math.nan, math.nan)
    if weight is None and groups is None:
        return _delong(np.asarray(score), positive)
    ranks = np.unique(score, return_inverse=True)[1]
    base = np.ones(len(ranks)) if weight is None else np.asarray(weight, np.float64)
    error = bootstrap(
        lambda weights: _ranked_auc(ranks, positive, weights),
        len(ranks),
        weight=base,
        groups=groups,
    )
    return Estimate(_ranked_auc(ranks, positive, base), float(error))


def roc_curve(
    score: Array, positive: Array, weight: Array | None = None
) -> tuple[Array, Array, Array]:
    """Return background efficiency, signal efficiency and threshold, from the tightest cut on.

    An entry passes where its score is at least the threshold. The first point is (0, 0) at
    infinity; entries of one score enter together.
    """
    order = np.argsort(-np.asarray(score, np.float64), kind="stable")
    sorted_score = np.asarray(score, np.float64)[order]
    is_positive = np.asarray(positive, bool)[order]
    w = np.ones(len(order)) if weight is None else np.asarray(weight, np.float64)[order]
    last = np.append(np.flatnonzero(np.diff(sorted_score)), len(order) - 1)
    signal = np.cumsum(w * is_positive)[last]
    background = np.cumsum(w * ~is_positive)[last]
    first = np.zeros(1)
    return (
        np.concatenate([first, background / background[-1]]),
        np.concatenate([first, signal / signal[-1]]),
        np.concatenate([first + np.inf, sorted_score[last]]),
    )


def _sorted_quantile(values: Array, levels: Sequence[float], weight: Array) -> Array:
    total = np.cumsum(weight)
    if not len(values) or total[-1] <= 0:
        return np.full(len(levels), np.nan)
    used = weight != 0
    middle = (total - weight / 2)[used] / total[-1]
    found: Array = np.interp(levels, np.maximum.accumulate(middle), values[used])
    return found


def _ranked_auc(ranks: Array, positive: Array, weight: Array) -> float:
    size = int(ranks.max()) + 1
    signal = np.bincount(ranks, weight * positive, size)
    background = np.bincount(ranks, weight * ~np.asarray(positive, bool), size)
    both = signal.sum() * background.sum()
    if both == 0:
        return math.nan
    below = np.cumsum(background) - background / 2
    return float((signal * below).sum() / both)


def _delong(score: Array, positive: Array) -> Estimate:
    signal, background = score[positive], score[~positive]
    m, n = len(signal), len(background)
    joint = _midranks(np.concatenate([signal, background]))
    above = (joint[:m] - _midranks(signal)) / n
    below = 1 - (joint[m:] - _midranks(background)) / m
    value = float(above.mean())
    if m < 2 or n < 2:
        return Estimate(value, math.nan)
    return Estimate(value, math.sqrt(above.var(ddof=1) / m + below.var(ddof=1) / n))


def _midranks(values: Array) -> Array:
    """Ranks from 1, ties share the mean of theirs."""
    _, index, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Array = (last - (counts - 1) / 2)[index]
    return ranks
