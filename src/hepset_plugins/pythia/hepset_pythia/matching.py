"""One-to-one matching of partons to reconstructed objects."""

from __future__ import annotations

import numpy as np

from hepset.kinematics import delta_r
from hepset_pythia.arrays import BoolArray, FloatArray, IntArray

MATCH_DELTA_R = 0.4
"""Largest distance of a match."""


def match(
    parton_eta: FloatArray,
    parton_phi: FloatArray,
    event: IntArray,
    eta: FloatArray,
    phi: FloatArray,
    *,
    limit: float = MATCH_DELTA_R,
) -> tuple[IntArray, FloatArray]:
    """Match partons to objects, the globally nearest pair of an event first.

    Every parton and every object is used at most once.

    Args:
        parton_eta: Shape ``(event, parton)``; NaN where the event has no such parton.
        parton_phi: Shape ``(event, parton)``.
        event: Event of each object, shape ``(object,)``, ascending.
        eta: Object eta_of, shape ``(object,)``.
        phi: Object azimuth, shape ``(object,)``.
        limit: Matches have a smaller distance than this.

    Returns:
        The place of the matched object within its event, −1 for none, and its distance in
        (eta, phi), NaN for none; both of shape ``(event, parton)``.
    """
    n_events, n_partons = parton_eta.shape
    index = np.full((n_events, n_partons), -1, dtype=np.int64)
    distance = np.full((n_events, n_partons), np.nan)
    counts = np.bincount(event, minlength=n_events)
    slots = int(counts.max(initial=0))
    if slots == 0 or n_partons == 0:
        return index, distance
    place = np.arange(len(event)) - np.repeat(np.cumsum(counts) - counts, counts)
    padded = np.zeros((2, n_events, slots))
    padded[0, event, place], padded[1, event, place] = eta, phi
    real = np.arange(slots) < counts[:, None]
    known = np.isfinite(parton_eta) & np.isfinite(parton_phi)
    pairs = delta_r(
        parton_eta[:, :, None], parton_phi[:, :, None], padded[0][:, None], padded[1][:, None]
    )
    allowed = known[:, :, None] & real[:, None] & (pairs < limit)
    pairs = np.where(allowed, pairs, np.inf)
    rows = np.arange(n_events)
    for _ in range(min(n_partons, slots)):
        best = pairs.reshape(n_events, -1).argmin(axis=1)
        parton, slot = np.divmod(best, slots)
        nearest = pairs[rows, parton, slot]
        hit = np.isfinite(nearest)
        if not hit.any():
            break
        index[rows[hit], parton[hit]] = slot[hit]
        distance[rows[hit], parton[hit]] = nearest[hit]
        pairs[rows[hit], parton[hit], :] = np.inf
        pairs[rows[hit], :, slot[hit]] = np.inf
    return index, distance


def merged_partons(
    parton_eta: FloatArray, parton_phi: FloatArray, *, limit: float = MATCH_DELTA_R
) -> BoolArray:
    """Tell in which events two of these partons are nearer than `limit`.

    Args:
        parton_eta: Shape ``(event, parton)``.
        parton_phi: Shape ``(event, parton)``.
        limit: Distance below which one jet holds both.

    Returns:
        Shape ``(event,)``.
    """
    pairs = delta_r(
        parton_eta[:, :, None], parton_phi[:, :, None], parton_eta[:, None], parton_phi[:, None]
    )
    first, second = np.triu_indices(parton_eta.shape[1], k=1)
    near: BoolArray = np.any(pairs[:, first, second] < limit, axis=1)
    return near
