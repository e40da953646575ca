"""Which numbers of an evaluation are worth seeing first, and whether they beat their baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hepset.interfaces.judge import Metric

__all__ = ["best_baseline", "compare_metric", "headline", "metric_of", "quality", "verdict"]


def headline(
    heads: Mapping[str, tuple[list[Metric], list[Metric]]], count: int = 3
) -> list[tuple[str, Metric, Metric | None]]:
    """Return up to three numbers worth seeing, the first metric of every head first.

    Metrics with a baseline come before those without.

    Args:
        heads: Head name → its metrics and its baselines.
        count: How many.

    Returns:
        Head, metric, and its best baseline.
    """
    found: list[tuple[bool, int, str, Metric, Metric | None]] = []
    for head, (metrics, baselines) in heads.items():
        known = [
            (metric, best_baseline(metric, baselines))
            for metric in metrics
            if math.isfinite(metric.value)
        ]
        # A bias says little by itself: it is shown where there is nothing else.
        known.sort(key=lambda item: ("bias" in item[0].name, item[1] is None))
        found += [
            (best is None, place, head, metric, best) for place, (metric, best) in enumerate(known)
        ]
    found.sort(key=lambda item: item[:2])
    return [(head, metric, best) for _, _, head, metric, best in found[:count]]


def best_baseline(metric: Metric, baselines: list[Metric]) -> Metric | None:
    """Return the best baseline of the same name; None where there is none.

    Limits are no baselines.
    """
    same = [
        b for b in baselines if b.name == metric.name and math.isfinite(b.value) and not b.limit
    ]
    return max(same, key=quality, default=None)


def quality(metric: Metric) -> float:
    """Return a number that is larger for a better value; a bias is best at zero."""
    if "bias" in metric.name:
        return -abs(metric.value)
    return metric.value if metric.better == "higher" else -metric.value


def compare_metric(metric: Metric, baseline: Metric) -> float:
    """Return by how many standard deviations a metric is better than a baseline.

    The errors are added in quadrature, as if they were independent. NaN where one is a bound.
    """
    if metric.bound or baseline.bound:
        return math.nan
    errors = [error for error in (metric.error, baseline.error) if math.isfinite(error)]
    error = math.hypot(*errors)
    return (quality(metric) - quality(baseline)) / error if error else math.nan


def verdict(sigma: float) -> str:
    """Say in words what `compare_metric` found; empty where that is not known."""
    if not math.isfinite(sigma):
        return ""
    if abs(sigma) < 0.05:
        return "equal"
    return f"{abs(sigma):.1f} σ {'better' if sigma > 0 else 'worse'}"


def metric_of(document: Mapping[str, Any]) -> Metric:
    """Read a metric of ``metrics.json``; null becomes NaN."""
    return Metric(
        document["name"],
        math.nan if document["value"] is None else document["value"],
        math.nan if document["error"] is None else document["error"],
        document.get("unit", ""),
        document.get("better", "higher"),
        document.get("of", ""),
        document.get("limit", False),
        document.get("bound", False),
        document.get("note", ""),
    )
