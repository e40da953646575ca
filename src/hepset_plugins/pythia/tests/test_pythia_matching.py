from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from hepset_pythia.matching import match, merged_partons

Point = tuple[float, float]
points = st.tuples(st.floats(-1.0, 1.0), st.floats(-math.pi, math.pi - 1e-6))


def _distance(one: Point, other: Point) -> float:
    turn = abs(one[1] - other[1])
    return math.hypot(one[0] - other[0], min(turn, 2 * math.pi - turn))


def _brute_force(partons: list[Point], jets: list[Point]) -> list[int]:
    pairs = sorted(
        (_distance(parton, jet), i, j)
        for i, parton in enumerate(partons)
        for j, jet in enumerate(jets)
    )
    found = [-1] * len(partons)
    for distance, i, j in pairs:
        if distance < 0.4 and found[i] < 0 and j not in found:
            found[i] = j
    return found


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.lists(points, min_size=3, max_size=3), st.lists(points, max_size=6))))
def test_matching_agrees_with_sorted_pairs(events: list[tuple[list[Point], list[Point]]]) -> None:
    partons = np.array([event[0] for event in events]).reshape(-1, 3, 2)
    jets = [jet for event in events for jet in event[1]]
    number = np.repeat(np.arange(len(events)), [len(event[1]) for event in events])
    flat = np.array(jets).reshape(-1, 2)
    index, distance = match(partons[..., 0], partons[..., 1], number, flat[:, 0], flat[:, 1])
    for row, (truth, seen) in enumerate(events):
        assert index[row].tolist() == _brute_force(truth, seen)
        for parton, place in enumerate(index[row]):
            if place < 0:
                assert math.isnan(distance[row, parton])
            else:
                expected = _distance(truth[parton], seen[place])
                assert math.isclose(distance[row, parton], expected, abs_tol=1e-9)


def test_nearest_pair_wins_over_the_first_parton() -> None:
    # Both partons see the jet; the second is nearer and takes it, the first goes without.
    index, _ = match(
        np.array([[0.0, 0.25]]), np.zeros((1, 2)), np.array([0]), np.array([0.2]), np.zeros(1)
    )
    assert index.tolist() == [[-1, 0]]


def test_phi_wraps_and_missing_partons_match_nothing() -> None:
    index, distance = match(
        np.array([[0.0, np.nan]]),
        np.array([[3.1, np.nan]]),
        np.array([0, 0]),
        np.array([0.0, 0.0]),
        np.array([-3.1, 3.0]),
    )
    assert index.tolist() == [[0, -1]]
    assert math.isclose(distance[0, 0], 2 * math.pi - 6.2, rel_tol=1e-12)


def test_no_objects_at_all() -> None:
    nothing = np.zeros(0)
    index, distance = match(np.zeros((2, 3)), np.zeros((2, 3)), nothing.astype(int), *[nothing] * 2)
    assert (index == -1).all()
    assert np.isnan(distance).all()


def test_merged_partons() -> None:
    eta = np.array([[0.0, 1.0, 2.0], [0.0, 0.3, 2.0]])
    assert merged_partons(eta, np.zeros((2, 3))).tolist() == [False, True]
