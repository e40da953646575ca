from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from hepset.interfaces.head import Metric
from hepset.judges.labelled import Labelled
from hepset.judges.rejection import rejection, threshold_at
from hepset.numbers import metric_text
from hepset.report.summary import compare_metric


def entries(truth: list[int], weight: list[float] | None = None) -> Labelled:
    labels = np.array(truth)
    keep = np.ones(len(labels), bool)
    return Labelled(keep, labels, None if weight is None else np.array(weight), None)


SCORE = np.array([0.9, 0.8, 0.7, 0.2, 0.75, 0.5, 0.4, 0.3, 0.1, 0.05])
TRUTH = [1, 1, 1, 1, 0, 0, 0, 0, 0, 0]


def test_rejection_by_hand() -> None:
    """At 75 % of the signal the threshold is 0.7: one of six backgrounds passes."""
    found = rejection(SCORE, entries(TRUTH), 0.75, prefix="s: ", of="me")
    assert found.name == "s: background rejection at 75 % signal efficiency"
    assert found.value == pytest.approx(6)
    # Half of Wilson's interval for one of six, over the square of the efficiency.
    interval = stats.binomtest(1, 6).proportion_ci(2 * stats.norm.cdf(1) - 1, method="wilson")
    assert found.error == pytest.approx((interval.high - interval.low) / 2 * 36)
    assert (found.of, found.bound) == ("me", False)


def test_no_background_gives_a_bound() -> None:
    found = rejection(SCORE, entries(TRUTH), 0.5)
    assert found.bound
    assert found.value == pytest.approx(1 / (1 - 0.05 ** (1 / 6)))
    assert math.isnan(found.error)
    assert metric_text(found) == "> 2.54 (95 % CL)"
    assert math.isnan(compare_metric(found, Metric("x", 1.0, 0.1)))
    assert math.isnan(compare_metric(Metric("x", 1.0, 0.1), found))


def test_weights_and_objects_count_what_they_are_worth() -> None:
    weight = [1.0] * 4 + [2.0, 1, 1, 1, 1, 4]
    found = rejection(SCORE, entries(TRUTH, weight), 0.75)
    assert found.value == pytest.approx(10 / 2)
    none = rejection(SCORE, entries(TRUTH, weight), 0.5)
    assert none.value == pytest.approx(1 / (1 - 0.05 ** (24 / 100)))
    keep = np.ones((5, 2), bool)
    groups = np.repeat(np.arange(5), 2)
    objects = Labelled(keep, np.array(TRUTH), None, groups)
    # The six objects of background belong to three events.
    assert rejection(SCORE, objects, 0.5).value == pytest.approx(1 / (1 - 0.05 ** (1 / 3)))


@pytest.mark.parametrize("truth", [[1] * 10, [0] * 10])
def test_a_class_that_is_absent_gives_nothing(truth: list[int]) -> None:
    found = rejection(SCORE, entries(truth), 0.5)
    assert math.isnan(found.value)
    assert not found.bound


def test_the_threshold_keeps_at_least_the_share() -> None:
    background: NDArray[np.bool_] = np.array(TRUTH) == 0
    assert threshold_at(SCORE, background, 0.01) == 0.75
    assert threshold_at(SCORE, background, 2 / 6) == 0.5
    assert threshold_at(SCORE, background, 0.5, np.r_[np.zeros(9), 1.0]) == 0.05


def test_scores_that_are_no_numbers_reject_nothing() -> None:
    found = rejection(np.array([0.9, math.nan, 0.2, 0.1]), entries([1, 1, 0, 0]), 0.3)
    assert math.isnan(found.value)
    assert not found.bound
