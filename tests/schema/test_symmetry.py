"""Permutation groups against SPANet's own, brute force and sympy."""

from __future__ import annotations

import json
import pickle
from itertools import combinations, islice, permutations, product
from math import factorial
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hepset.errors import EventInfoError
from hepset.schema.symmetry import (
    MAX_ELEMENTS,
    PermutationGroup,
    compose,
    identity,
    inverse,
    parse_permutation,
    parse_permutations,
    permute,
)

FIXTURE = Path(__file__).parents[3] / "shared" / "fixtures" / "spanet" / "groups.json"
ABCD = ["a", "b", "c", "d"]


def brute_force_closure(size: int, generators: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Multiply until nothing new appears."""
    found = {tuple(range(size))}
    while True:
        more = {tuple(a[i] for i in b) for a, b in product(found, [*generators, *found])}
        if more <= found:
            return sorted(found)
        found |= more


@st.composite
def groups(draw: st.DrawFn, max_size: int = 5) -> PermutationGroup:
    size = draw(st.integers(1, max_size))
    generators = draw(st.lists(st.permutations(range(size)), max_size=3))
    return PermutationGroup(
        tuple(f"x{i}" for i in range(size)), tuple(tuple(g) for g in generators)
    )


@pytest.mark.parametrize(
    ("names", "entries", "order", "orbits"),
    [
        (["t1", "t2"], [["t1", "t2"]], 2, [(0, 1)]),
        (["q1", "q2", "b"], [["q1", "q2"]], 2, [(0, 1), (2,)]),
        (["a", "b", "c"], [["a", "b", "c"]], 6, [(0, 1, 2)]),
        (ABCD, [["a", "b", "c", "d"]], 24, [(0, 1, 2, 3)]),
        (ABCD, [["a", "b"], ["c", "d"]], 4, [(0, 1), (2, 3)]),
        (ABCD, [[["a", "b"], ["c", "d"]]], 2, [(0, 1), (2, 3)]),
        (ABCD, [[["a", "b"]], [["c", "d"]]], 4, [(0, 1), (2, 3)]),
        (["a", "b", "c"], [[["a", "b", "c"]]], 3, [(0, 1, 2)]),
        (ABCD, [[["a", "b", "c", "d"]], [["a", "c"]]], 8, [(0, 1, 2, 3)]),
        (ABCD, [["a", "b"], ["c", "d"], [["a", "c"], ["b", "d"]]], 8, [(0, 1, 2, 3)]),
        (ABCD, [], 1, [(0,), (1,), (2,), (3,)]),
        (ABCD, None, 1, [(0,), (1,), (2,), (3,)]),
        (ABCD, [["b"]], 1, [(0,), (1,), (2,), (3,)]),
        (ABCD, [[["b"]]], 1, [(0,), (1,), (2,), (3,)]),
        ([], [], 1, []),
    ],
)
def test_the_published_table(
    names: list[str], entries: object, order: int, orbits: list[tuple[int, ...]]
) -> None:
    group = parse_permutations(entries, names)
    assert group.order == order == len(group.elements) == len(group)
    assert list(group.orbits) == orbits
    assert group.elements[0] == tuple(range(len(names)))
    assert group.is_trivial == (order == 1)


def test_the_groups_that_spanet_builds() -> None:
    if not FIXTURE.exists():
        pytest.skip(f"no reference groups at {FIXTURE}")
    cases = json.loads(FIXTURE.read_text())
    assert cases
    for name, case in cases.items():
        if "error" in case:
            with pytest.raises(EventInfoError, match="unknown name 'zz'"):
                parse_permutations(case["permutations"], case["names"])
            continue
        group = parse_permutations(case["permutations"], case["names"])
        assert group.order == case["order"], name
        assert [list(s) for s in group.elements] == case["elements"], name
        assert [list(orbit) for orbit in group.orbits] == case["orbits"], name
        expanded = [parse_permutation(cycles, group.names)[0] for cycles in case["expanded"]]
        assert set(group.generators) == set(expanded), name


def test_position_receives_the_successor_in_the_cycle() -> None:
    (cycle,) = parse_permutation([["a", "b", "c"]], ["a", "b", "c"])
    assert cycle == (1, 2, 0)
    assert permute(cycle, ["A", "B", "C"]) == ["B", "C", "A"]


def test_a_flat_list_gives_every_transposition() -> None:
    assert parse_permutation(["c", "a", "b"], ["a", "b", "c"]) == [(1, 0, 2), (2, 1, 0), (0, 2, 1)]


@settings(deadline=None)
@given(groups())
def test_elements_are_the_sorted_closure(group: PermutationGroup) -> None:
    expected = brute_force_closure(len(group.names), list(group.generators))
    assert list(group.elements) == expected
    assert group.order == len(expected)
    members = set(expected)
    for candidate in permutations(range(len(group.names))):
        assert group.contains(candidate) == (candidate in members)
        assert (candidate in group) == (candidate in members)


@settings(deadline=None)
@given(groups(max_size=8))
def test_order_orbits_and_transpositions_as_in_sympy(group: PermutationGroup) -> None:
    combinatorics = pytest.importorskip("sympy.combinatorics")
    size = len(group.names)
    rest = combinatorics.Permutation(size - 1)
    theirs = combinatorics.PermutationGroup(
        [rest, *(combinatorics.Permutation(list(g)) for g in group.generators)]
    )
    assert group.order == theirs.order()
    moved = sorted(tuple(sorted(orbit)) for orbit in theirs.orbits() if len(orbit) > 1)
    assert [orbit for orbit in group.orbits if len(orbit) > 1] == moved
    if group.order <= 1000:
        pairs = {
            tuple(sorted(pair))
            for element in theirs.generate()
            for pair in element.transpositions()
        }
        assert set(group.transpositions) == pairs


@settings(deadline=None)
@given(groups())
def test_subsets_are_equivalent_when_an_element_maps_one_to_the_other(
    group: PermutationGroup,
) -> None:
    size = len(group.names)
    subsets = [frozenset(s) for n in range(size + 1) for s in combinations(range(size), n)]
    elements = brute_force_closure(size, list(group.generators))
    expected = {
        frozenset(frozenset(element[i] for i in subset) for element in elements)
        for subset in subsets
    }
    found = {frozenset(map(frozenset, members)) for members in group.subset_classes}
    assert found == expected
    assert sum(map(len, group.subset_classes)) == 2**size
    assert group.subset_classes[0] == ((),)


@settings(deadline=None)
@given(groups())
def test_full_symmetry_of_an_orbit_is_brute_forced(group: PermutationGroup) -> None:
    members = set(brute_force_closure(len(group.names), list(group.generators)))
    for orbit in group.orbits:
        free = all(
            tuple(dict(zip(orbit, image, strict=True)).get(i, i) for i in range(len(group.names)))
            in members
            for image in permutations(orbit)
        )
        assert group.is_full_symmetric(orbit) == free
    size = 1
    for orbit in group.orbits:
        size *= factorial(len(orbit))
    assert group.is_product_of_symmetric == (size == len(members))


@settings(deadline=None)
@given(groups())
def test_entries_round_trip(group: PermutationGroup) -> None:
    again = parse_permutations(group.entries(), group.names)
    assert again == group
    assert hash(again) == hash(group)


@settings(deadline=None)
@given(st.integers(1, 6).flatmap(lambda n: st.tuples(*[st.permutations(range(n))] * 2)))
def test_composition_applies_first_then_then(pair: tuple[list[int], list[int]]) -> None:
    s, t = map(tuple, pair)
    items = [f"item{i}" for i in range(len(s))]
    assert permute(compose(s, t), items) == permute(t, permute(s, items))
    assert compose(s, inverse(s)) == compose(inverse(s), s) == identity(len(s))


def test_simultaneous_swap_is_not_free_in_either_orbit() -> None:
    group = parse_permutations([[["a", "b"], ["c", "d"]]], ABCD)
    assert not group.is_full_symmetric((0, 1))
    assert not group.is_product_of_symmetric
    assert group.transpositions == ((0, 1), (2, 3))
    assert group.orbit_names == (("a", "b"), ("c", "d"))
    assert not group.contains((1, 0, 2, 3))
    assert not group.contains((0, 1))


def test_the_subset_classes_of_two_tops_and_a_higgs() -> None:
    group = parse_permutations([["t1", "t2"]], ["t1", "t2", "h"])
    assert group.subset_classes == (
        ((),),
        ((0,), (1,)),
        ((2,),),
        ((0, 1),),
        ((0, 2), (1, 2)),
        ((0, 1, 2),),
    )


def test_cyclic_transpositions_are_those_of_the_smallest_member() -> None:
    group = parse_permutations([[["a", "b", "c"]]], ["a", "b", "c"])
    assert group.transpositions == ((0, 1), (0, 2))


def test_ten_names_are_described_without_listing_them() -> None:
    names = [f"j{i}" for i in range(10)]
    group = parse_permutations([names], names)
    assert group.order == factorial(10) > MAX_ELEMENTS
    assert group.orbits == (tuple(range(10)),)
    assert group.is_full_symmetric(range(10))
    assert len(group.transpositions) == 45
    assert len(group.subset_classes) == 11
    assert list(islice(group.iter_elements(), 3)) == [
        (0, 1, 2, 3, 4, 5, 6, 7, 8, 9),
        (0, 1, 2, 3, 4, 5, 6, 7, 9, 8),
        (0, 1, 2, 3, 4, 5, 6, 8, 7, 9),
    ]
    with pytest.raises(EventInfoError, match=r"3,628,800 elements, more than the 362,880"):
        _ = group.elements


def test_too_many_subsets_are_refused() -> None:
    group = PermutationGroup(tuple(f"j{i}" for i in range(20)))
    with pytest.raises(EventInfoError, match="1,048,576 subsets"):
        _ = group.subset_classes


def test_equality_is_about_elements_not_generators() -> None:
    flat = parse_permutations([["a", "b", "c"]], ["a", "b", "c"])
    cycles = parse_permutations([[["a", "b", "c"]], [["b", "c"]]], ["a", "b", "c"])
    cyclic = parse_permutations([[["a", "b", "c"]]], ["a", "b", "c"])
    assert flat == cycles
    assert flat != cyclic
    assert flat != "S3"
    assert flat != PermutationGroup(("a", "c", "b"), flat.generators)
    assert pickle.loads(pickle.dumps(flat)) == flat


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            [[["a", "b"], "c"]],
            r"where\[0\]: \[\[a, b\], c\] mixes names and cycles",
        ),
        ([["a", ["b", "c"]]], r"mixes names and cycles \(item 1 is \[b, c\]\)"),
        ([["a", "b"], ["a", "e1"]], r"where\[1\]: unknown name 'e1'; known names: a, b, c, delta"),
        ([["a", "detla"]], r"unknown name 'detla'; did you mean 'delta'\?"),
        ([["a", "b", "a"]], r"where\[0\]: 'a' appears twice in \[a, b, a\]"),
        ([[["a", "b"], ["b", "c"]]], r"'b' appears twice in \[\[a, b\], \[b, c\]\]"),
        ([[["a", "a"]]], r"'a' appears twice"),
        ([[]], r"where\[0\]: .* found an empty list"),
        ([[["a", "b"], []]], r"where\[0\]\[1\]: a cycle is a list of names, found an empty list"),
        (["a", "b"], r"where\[0\]: .* found the text 'a'; write a list of lists"),
        ("ab", r"where: expected a list of entries, found ab"),
        ({"a": "b"}, r"where: expected a list of entries"),
        ([{"a": "b"}], r"where\[0\]: an entry is a list of names or a list of cycles, found"),
        ([["a", 1]], r"1 is a int, not a name; put quotes"),
        ([["a", True]], r"True is a bool, not a name"),
        ([[[["a", "b"]]]], r"where\[0\]\[0\]: \[a, b\] is nested too deeply"),
    ],
)
def test_errors_name_the_entry_and_the_fault(entries: object, message: str) -> None:
    with pytest.raises(EventInfoError, match=message):
        parse_permutations(entries, ["a", "b", "c", "delta"], where="where")


def test_wrong_generators_and_names_are_refused() -> None:
    with pytest.raises(EventInfoError, match="not a permutation"):
        PermutationGroup(("a", "b"), ((0, 0),))
    with pytest.raises(EventInfoError, match="'a' appears twice"):
        PermutationGroup(("a", "a"))
