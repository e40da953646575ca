"""From acceptances to how often each event is drawn in an epoch, a pure function of seed and epoch.

Every process of a training computes the same numbers from the same acceptances. Only the raw
streams of numpy's bit generators are used, which numpy promises not to change.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hepset.errors import TrainingError

__all__ = ["accepted_counts", "exact_counts", "repeats_of", "throws"]

Array = NDArray[Any]

_EXACT, _ACCEPT, _TRIM = range(3)
_MOST_PASSES: Final = 1000
"""Passes over the events after which an epoch that is still not full is given up."""


def repeats_of(events: int, accepted: float, most: int) -> int:
    """Return how many times each event is tried in a pass, so that about `events` are drawn."""
    return max(1, min(most, int(events / max(1.0, accepted))))


def exact_counts(acceptance: Array, strata: Array, total: int, *, seed: int, epoch: int) -> Array:
    """Draw a fixed number of events, each as often as expected up to rounding.

    Systematic sampling (W. G. Madow and L. H. Madow, Ann. Math. Statist. 15 (1944) 1): the events
    of a stratum follow each other in random order, each as long as the number of times it is
    expected, and a grid of step one with a random beginning is laid over the line.

    Args:
        acceptance: Relative probability of each event (event,), not negative.
        strata: Number of the group of each event (event,); the share of each group is exact to
            one event.
        total: Number of events to draw.
        seed: Seed of the training.
        epoch: Number of the epoch.

    Returns:
        How often each event is drawn (event,), adding up to `total`.

    Raises:
        TrainingError: If no event can be drawn.
    """
    chosen = np.flatnonzero(acceptance > 0)
    if not chosen.size:
        raise TrainingError("train.sampling: every training event has the probability 0")
    numbers = throws(len(chosen) + 1, seed, epoch, _EXACT)
    order = chosen[np.lexsort((numbers[:-1], strata[chosen]))]
    ends = np.cumsum(np.asarray(acceptance[order], np.float64))
    ends *= total / ends[-1]
    ends[-1] = total
    marks = np.floor(ends + numbers[-1]).astype(np.int64)
    marks[-1] = total
    counts = np.zeros(len(acceptance), np.int64)
    counts[order] = np.diff(np.minimum(marks, total), prepend=0)
    return counts


def accepted_counts(
    acceptance: Array, total: int, *, repeats: int, scale: float, seed: int, epoch: int
) -> Array:
    """Accept or reject every event by throws of its own, pass after pass, until there are enough.

    Args:
        acceptance: Probability of each event (event,).
        total: Number of events to draw; of the last pass only as many as are wanted, at random.
        repeats: Throws per event and pass.
        scale: Upper end of the throws.
        seed: Seed of the training.
        epoch: Number of the epoch.

    Returns:
        How often each event is drawn (event,), adding up to `total`.

    Raises:
        TrainingError: If hardly any event is ever accepted.
    """
    counts = np.zeros(len(acceptance), np.int64)
    for number in range(_MOST_PASSES):
        accepted = np.zeros(len(acceptance), np.int64)
        for trial in range(repeats):
            dice = throws(len(acceptance), seed, epoch, _ACCEPT, number, trial)
            accepted += dice * scale < acceptance
        lacking = total - int(counts.sum())
        found = int(accepted.sum())
        if found >= lacking:
            drawn = np.repeat(np.arange(len(acceptance)), accepted)
            order = np.argsort(throws(found, seed, epoch, _TRIM), kind="stable")
            return counts + np.bincount(drawn[order[:lacking]], minlength=len(acceptance))
        counts += accepted
    raise TrainingError(
        f"train.sampling: after {_MOST_PASSES} passes only {int(counts.sum())} of {total} events "
        "were accepted; their probabilities are too small: lower train.sampling.events"
    )


def throws(count: int, *key: int) -> Array:
    """Return float64 numbers in [0, 1) that depend on nothing but the key."""
    raw = np.random.Philox(np.random.SeedSequence(key)).random_raw(count)
    return (raw >> np.uint64(11)) * 2.0**-53
