from __future__ import annotations

import math
from typing import Any

import pytest

from hepset.interfaces.head import Metric
from hepset.report.summary import best_baseline, compare_metric, verdict


@pytest.mark.parametrize(
    ("values", "better", "expected"),
    [
        ((0.9, 0.8), "higher", "2.0 σ better"),
        ((0.9, 0.8), "lower", "2.0 σ worse"),
        ((0.8, 0.8), "higher", "equal"),
        ((math.nan, 0.8), "higher", ""),
    ],
)
def test_the_verdict_in_words(values: tuple[float, float], better: Any, expected: str) -> None:
    ours, simple = (
        Metric("m", value, error, better=better)
        for value, error in zip(values, (0.03, 0.04), strict=True)
    )
    assert verdict(compare_metric(ours, simple)) == expected


def test_a_limit_is_no_baseline_to_beat() -> None:
    metric = Metric("width", 20.0, 1.0, "GeV", "lower")
    worse = Metric("width", 30.0, 1.0, "GeV", "lower", "χ²")
    truth = Metric("width", 15.0, 1.0, "GeV", "lower", "truth", limit=True)
    assert best_baseline(metric, [truth, worse]) == worse
    assert best_baseline(metric, [truth]) is None
