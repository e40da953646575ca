from __future__ import annotations

import math
from typing import Any

import pytest

from hepset.inference.headline import compare_metric, verdict
from hepset.interfaces.head import Metric


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
