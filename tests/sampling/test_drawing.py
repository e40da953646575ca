from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from hepset.errors import TrainingError
from hepset.sampling.drawing import accepted_counts, exact_counts, repeats_of


@given(st.integers(0, 2**32 - 1), st.integers(1, 300), st.integers(1, 500))
def test_exact_counts_are_the_expected_ones_rounded_up_or_down(
    seed: int, events: int, total: int
) -> None:
    rng = np.random.default_rng(seed)
    acceptance = rng.exponential(size=events).astype(np.float32) * (rng.random(events) < 0.7)
    acceptance[0] = 1
    strata = rng.integers(0, 3, events)
    counts = exact_counts(acceptance, strata, total, seed=seed, epoch=2)
    assert counts.sum() == total
    assert not counts[acceptance == 0].any()
    expected = acceptance.astype(np.float64) * total / acceptance.sum(dtype=np.float64)
    assert np.all(np.abs(counts - expected) < 1 + 1e-6 * total)
    for stratum in range(3):
        inside = strata == stratum
        assert abs(counts[inside].sum() - expected[inside].sum()) < 1 + 1e-6 * total


def test_exact_counts_have_the_right_mean() -> None:
    acceptance = np.array([0.1, 0.4, 0.9, 0.6])
    epochs = [exact_counts(acceptance, np.zeros(4, int), 2, seed=3, epoch=e) for e in range(4000)]
    # Each count is 0 or 1 with the expected mean: binomial, three standard deviations.
    assert_allclose(np.mean(epochs, 0), acceptance, atol=3 * 0.5 / np.sqrt(4000))


def test_epochs_and_seeds_differ_and_repeat() -> None:
    acceptance = np.full(1000, 0.5)
    strata = np.zeros(1000, int)

    def draw(seed: int, epoch: int) -> np.ndarray:
        return exact_counts(acceptance, strata, 500, seed=seed, epoch=epoch)

    assert_array_equal(draw(1, 0), draw(1, 0))
    assert (draw(1, 0) != draw(1, 1)).any()
    assert (draw(1, 0) != draw(2, 0)).any()


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(TrainingError, match="probability 0"):
        exact_counts(np.zeros(3), np.zeros(3, int), 2, seed=0, epoch=0)
    with pytest.raises(TrainingError, match="too small"):
        accepted_counts(np.zeros(3), 2, repeats=1, scale=1, seed=0, epoch=0)


def test_accepted_counts_follow_the_probabilities() -> None:
    acceptance = np.tile([0.1, 0.3, 0.9], 2000)
    counts = accepted_counts(acceptance, 5200, repeats=2, scale=1, seed=1, epoch=0)
    assert counts.sum() == 5200  # 6000 · (0.1 + 0.3 + 0.9) / 3 · 2: about one pass
    by_class = counts.reshape(-1, 3).sum(0) / 5200
    assert_allclose(by_class, np.array([0.1, 0.3, 0.9]) / 1.3, atol=4 * 0.5 / np.sqrt(5200))
    assert counts.max() <= 4  # two throws in each of at most two passes


def test_a_larger_epoch_takes_more_passes_and_a_smaller_one_a_random_part() -> None:
    acceptance = np.full(1000, 0.5)
    many = accepted_counts(acceptance, 1700, repeats=1, scale=1, seed=1, epoch=0)
    assert many.sum() == 1700
    assert many.max() <= 4
    few = accepted_counts(acceptance, 100, repeats=1, scale=1, seed=1, epoch=0)
    assert few.sum() == 100
    assert abs(few[:500].sum() - 50) < 20


def test_scale_above_one_accepts_fewer() -> None:
    acceptance = np.concatenate([np.full(1000, 0.5), np.full(1000, 1.0)])
    counts = accepted_counts(acceptance, 700, repeats=1, scale=2, seed=1, epoch=0)
    assert counts.sum() == 700
    assert counts[1000:].sum() / counts[:1000].sum() == pytest.approx(2, rel=0.25)


@pytest.mark.parametrize(
    ("events", "accepted", "most", "repeats"),
    [(100, 30, 10, 3), (100, 0, 10, 10), (100, 200, 10, 1), (100, 1, 200, 100)],
)
def test_repeats(events: int, accepted: float, most: int, repeats: int) -> None:
    assert repeats_of(events, accepted, most) == repeats
