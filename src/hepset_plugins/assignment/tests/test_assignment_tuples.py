from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hepset.schema.symmetry import parse_permutations
from hepset_assignment.topology import Kind
from hepset_assignment.tuples import (
    blocks_of,
    candidate_limits,
    canonical,
    combine_blocks,
    unordered,
)

CPU = torch.device("cpu")


def make_kind(count: int, symmetries: list[object], streams: tuple[str, ...] = ()) -> Kind:
    names = [f"p{n}" for n in range(count)]
    group = parse_permutations(symmetries, names, where="test")
    return Kind(tuple(names), streams or ("jets",) * count, group, ("",))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 9), st.integers(1, 5))
def test_unordered_are_all_combinations(size: int, members: int) -> None:
    found = [tuple(row) for row in unordered(size, members).tolist()]
    assert sorted(found) == sorted(itertools.combinations(range(size), members))


@pytest.mark.parametrize(
    ("count", "symmetries"),
    [
        (1, []),
        (3, [["p0", "p1"]]),
        (3, [["p0", "p1", "p2"]]),
        (3, [[["p0", "p1", "p2"]]]),
        (4, [[["p0", "p1"], ["p2", "p3"]]]),
        (4, [["p0", "p1"], ["p2", "p3"], [["p0", "p2"], ["p1", "p3"]]]),
        (5, [["p0", "p2"], ["p1", "p3", "p4"]]),
    ],
)
def test_one_tuple_stands_for_all_that_are_equivalent(count: int, symmetries: list[object]) -> None:
    """Orbits of the ordered tuples, counted one by one."""
    kind, slots = make_kind(count, symmetries), 6
    places = combine_blocks(blocks_of(kind), [slots] * len(blocks_of(kind)), CPU)[:-1]
    distinct = torch.tensor([len(set(row)) == count for row in places.tolist()])
    chosen = canonical(places, kind, slots)
    kept = places[distinct if chosen is None else distinct & chosen].tolist()
    orbits = {
        frozenset(tuple(row[i] for i in element) for element in kind.group.elements)
        for row in itertools.permutations(range(slots), count)
    }
    found = [next(orbit for orbit in orbits if tuple(row) in orbit) for row in kept]
    assert len(found) == len(set(found)) == len(orbits)


def test_there_always_is_a_tuple() -> None:
    kind = make_kind(3, [["p0", "p1"]])
    assert combine_blocks(blocks_of(kind), [1, 1], CPU).tolist() == [[0, 0, 0]]


def test_candidates_are_limited_where_tuples_are_too_many() -> None:
    """Pairs of 18 and one of 18: 153 * 18 = 2754; of 12 it is 66 * 12 = 792."""
    kind = make_kind(3, [["p0", "p1"]])
    blocks = blocks_of(kind)
    assert candidate_limits(blocks, {"jets": 18}, 2754) is None
    assert candidate_limits(blocks, {"jets": 18}, 800) == [12, 12]
    mixed = make_kind(3, [["p0", "p1"]], ("jets", "jets", "leptons"))
    assert candidate_limits(blocks_of(mixed), {"jets": 18, "leptons": 2}, 200) == [14, 2]
