from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from pydantic import ValidationError

from hepset.errors import ConfigurationError
from hepset.sampling.reweighting import OUTSIDE, Histograms
from hepset.schema.sampling import SamplingConfig


def config(**options: object) -> SamplingConfig:
    document = {"variables": {"x": [0, 1, 2, 3]}, "classes": {"a": "a", "b": "b"}, **options}
    return SamplingConfig.model_validate(document)


def filled(counts: list[list[int]], **options: object) -> tuple[Histograms, np.ndarray]:
    """Histograms of two classes with so many events in the middle of the bins."""
    values = np.concatenate([np.repeat([0.5, 1.5, 2.5], row) for row in counts])
    labels = np.repeat([0, 1], [sum(row) for row in counts])
    histograms = Histograms(config(**options), ["a", "b"])
    cells = histograms.add([values], labels[:, None] == np.arange(2))
    return histograms, cells


def test_flat_acceptances_by_pencil() -> None:
    histograms, cells = filled([[100, 50, 25], [10, 10, 40]], threshold=0)
    # a: r = 25, w = (1/4, 1/2, 1), N = 75.  b: r = 10, w = (1, 1, 1/4), N = 30: the smaller one.
    expected = [[0.9 * 30 / 75 * w for w in (0.25, 0.5, 1)], [0.9, 0.9, 0.225]]
    acceptance = histograms.acceptances()
    assert_allclose(acceptance.reshape(2, 3), expected, rtol=1e-12)
    # Every class is flat, and both have the same number of events.
    assert_allclose(
        np.bincount(cells, acceptance[cells]).reshape(2, 3), [[9.0] * 3] * 2, rtol=1e-12
    )


def test_class_weights_are_the_fractions_of_what_is_drawn() -> None:
    histograms, cells = filled([[100, 50, 25], [10, 10, 40]], class_weights={"a": 3})
    acceptance = histograms.acceptances()
    drawn = np.bincount(cells, acceptance[cells]).reshape(2, 3).sum(1)
    assert drawn[0] / drawn[1] == pytest.approx(3)
    assert acceptance.max() <= 0.9


def test_reference_gives_every_class_the_reference_spectrum() -> None:
    histograms, cells = filled(
        [[30, 20, 10], [60, 80, 20]], method="reference", reference="a", threshold=0
    )
    acceptance = histograms.acceptances()
    drawn = np.bincount(cells, acceptance[cells]).reshape(2, 3)
    assert_allclose(drawn / drawn[:, :1], [[1, 2 / 3, 1 / 3]] * 2, rtol=1e-12)


def test_rare_bins_are_not_followed() -> None:
    # The percentile 50 of (1, 100, 100) is 100: the rare bin is accepted as often as the others.
    histograms, _ = filled([[1, 100, 100], [50, 50, 50]], threshold=50)
    assert_allclose(np.unique(histograms.acceptances().reshape(2, 3)[0]).size, 1)


def test_the_last_edge_belongs_to_the_last_bin_and_the_rest_is_dropped_or_clipped() -> None:
    values = np.array([0.0, 3.0, 3.1, -0.1, np.nan])
    both = np.ones((5, 1), bool)
    dropped = Histograms(config(classes={"a": "a"}), ["a"])
    assert_array_equal(dropped.add([values], both), [0, 2, OUTSIDE, OUTSIDE, OUTSIDE])
    clipped = Histograms(config(classes={"a": "a"}, out_of_range="clip"), ["a"])
    assert_array_equal(clipped.add([values], both), [0, 2, 2, 0, OUTSIDE])
    assert_array_equal(clipped.counts, [[2, 0, 2]])


def test_an_event_of_two_classes_counts_in_both_and_is_drawn_as_the_last() -> None:
    histograms = Histograms(config(), ["a", "b"])
    cells = histograms.add([np.array([1.5])], np.array([[True, True]]))
    assert_array_equal(histograms.counts, [[0, 1, 0], [0, 1, 0]])
    assert_array_equal(cells, [4])


def test_a_class_without_events_is_named() -> None:
    histograms, _ = filled([[1, 2, 3], [0, 0, 0]])
    with pytest.raises(ConfigurationError, match="class b has its variables"):
        histograms.acceptances()


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_chunks_do_not_matter(seed: int, size: int) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(-1, 4, 200), rng.integers(0, 2, 200)
    base = rng.uniform(0, 2, 200)
    whole, parts = (Histograms(config(), ["a", "b"]) for _ in range(2))
    members = y[:, None] == np.arange(2)
    cells = whole.add([x], members, base)
    found = [
        parts.add([x[s : s + size]], members[s : s + size], base[s : s + size])
        for s in range(0, 200, size)
    ]
    assert_array_equal(np.concatenate(found), cells)
    assert_allclose(parts.counts, whole.counts, rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variables": {"x": [1, 1]}}, "rising order"),
        ({"variables": {"x": [1]}}, "at least two edges"),
        ({"variables": {"x": [0, float("inf")]}}, "finite"),
        ({"class_weights": {"c": 1}}, "no class 'c'"),
        ({"class_weights": {"a": 0}}, "greater than 0"),
        ({"reference": "a"}, "needs method: reference"),
        ({"method": "reference", "variables": {}}, "spectrum of what"),
        ({"method": "weights"}, "needs base_weight"),
        ({"method": "weights", "base_weight": "w"}, "base_weight alone"),
        ({"scale": 2}, "scale: 2 is the upper end of throws, which need sampler: accept_reject"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**options)
