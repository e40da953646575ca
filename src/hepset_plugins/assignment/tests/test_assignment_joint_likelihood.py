"""Probabilities of whole assignments, against sums over all of them one by one."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from hepset.schema.event import EventInfo
from hepset_assignment.joint_likelihood import IMPOSSIBLE, Joint, has_joint, touching
from hepset_assignment.selection import FORBIDDEN, Candidates
from hepset_assignment.topology import ProcessPlan, make_topology

SLOTS = 5


def _plan(particles: int, *, alike: bool = True) -> ProcessPlan:
    names = [f"h{n}" for n in range(particles)]
    symmetries = {"event": [names]} if alike else {}
    event = EventInfo.model_validate(
        {
            "streams": {"jets": {"features": {"pt": {}}}},
            "particles": {name: {"a": "jets", "b": "jets"} for name in names},
            "symmetries": {**symmetries, **{name: [["a", "b"]] for name in names}},
        }
    )
    return make_topology(event, queries=True, where="here").processes[0]


def _pairs(slots: int = SLOTS) -> torch.Tensor:
    return torch.tensor(list(itertools.combinations(range(slots), 2)))


def _brute(
    scores: list[list[float]], allowed: list[set[int]], orders: list[tuple[int, ...]]
) -> float:
    pairs = list(itertools.combinations(range(SLOTS), 2))
    total = part = 0.0
    for cells in itertools.product(range(len(pairs)), repeat=len(scores)):
        objects = [o for c in cells for o in pairs[c]]
        if len(set(objects)) < len(objects):
            continue
        weight = math.exp(sum(s[c] for s, c in zip(scores, cells, strict=True)))
        total += weight
        if any(all(cells[i] in allowed[o] for i, o in enumerate(order)) for order in orders):
            part += weight
    return math.log(part / total)


@pytest.mark.parametrize("alike", [True, False])
def test_two_particles_as_all_combinations_counted(alike: bool) -> None:
    plan = _plan(2, alike=alike)
    generator = torch.Generator().manual_seed(3)
    scores = [torch.randn(4, 10, generator=generator) for _ in range(2)]
    candidates = [Candidates(part, _pairs()) for part in scores]
    allowed = [torch.rand(4, 10, generator=generator) < 0.4 for _ in range(2)]
    found = Joint(plan, candidates, SLOTS, allowed).logarithm(allowed)
    orders = [(0, 1), (1, 0)] if alike else [(0, 1)]
    for event in range(4):
        sets = [{c for c in range(10) if part[event, c]} for part in allowed]
        expected = _brute([part[event].tolist() for part in scores], sets, orders)
        assert found[event].item() == pytest.approx(expected, abs=1e-5)


def test_chances_of_all_assignments_add_up_to_one() -> None:
    plan = _plan(2)
    scores = torch.randn(1, 10)
    candidates = [Candidates(scores, _pairs())] * 2
    total = 0.0
    for first, second in itertools.combinations(range(10), 2):
        if set(_pairs()[first].tolist()) & set(_pairs()[second].tolist()):
            continue
        allowed = [torch.arange(10)[None] == first, torch.arange(10)[None] == second]
        total += Joint(plan, candidates, SLOTS, allowed).logarithm(allowed).exp().item()
    assert total == pytest.approx(1, abs=1e-5)


def test_the_true_tuples_are_listed_however_improbable() -> None:
    plan = _plan(2)
    pairs = _pairs(14)
    scores = torch.linspace(9, -9, len(pairs))[None]
    allowed = [torch.arange(len(pairs))[None] == len(pairs) - 1, torch.ones_like(scores) > 0]
    found = Joint(plan, [Candidates(scores, pairs)] * 2, 14, allowed).logarithm(allowed)
    assert -20 < found.item() < -12


def test_too_few_objects_leave_a_particle_out() -> None:
    plan = _plan(2)
    scores = torch.full((1, 10), FORBIDDEN)
    scores[0, 0], scores[0, 1], scores[0, 4] = 0.0, 1.0, 2.0  # (0, 1), (0, 2), (1, 2): three jets
    candidates = [Candidates(scores, _pairs())] * 2
    everything = torch.ones_like(scores) > 0
    allowed = [torch.arange(10)[None] == 4, everything]
    found = Joint(plan, candidates, SLOTS, allowed).logarithm(allowed)
    expected = 2 - math.log(1 + math.e + math.e**2)
    assert found.item() == pytest.approx(expected, abs=1e-3)
    impossible = [torch.arange(10)[None] == 4, torch.arange(10)[None] == 1]
    assert Joint(plan, candidates, SLOTS, impossible).logarithm(impossible).item() < -1e11


def test_three_particles() -> None:
    plan = _plan(3)
    pairs = _pairs(6)
    scores = torch.randn(2, len(pairs))
    allowed = [
        (pairs == torch.tensor(pair)).all(1)[None].expand(2, -1)
        for pair in ([0, 1], [2, 3], [4, 5])
    ]
    found = Joint(plan, [Candidates(scores, pairs)] * 3, 6, allowed).logarithm(allowed)
    ways = [
        [pairs.tolist().index(sorted(p)) for p in (order[:2], order[2:4], order[4:])]
        for order in itertools.permutations(range(6))
        if order[0] < order[1]
        and order[2] < order[3]
        and order[4] < order[5]
        and order[0] < order[2] < order[4]
    ]
    assert len(ways) == 15
    sums = scores[:, torch.tensor(ways)].sum(-1)
    true = ways.index([pairs.tolist().index(p) for p in ([0, 1], [2, 3], [4, 5])])
    expected = torch.log_softmax(sums, 1)[:, true]
    assert torch.allclose(found, expected, atol=1e-4)


def test_only_few_particles_that_hinder_each_other() -> None:
    assert has_joint(_plan(2), shared=False)
    assert not has_joint(_plan(2), shared=True)
    assert not has_joint(_plan(1), shared=False)
    assert not has_joint(_plan(5), shared=False)


def test_a_free_particle_finds_room_beside_an_improbable_truth() -> None:
    """All of the 64 best triplets share an object with the true one of the other particle."""
    plan = _plan(2)
    triplets = torch.tensor(list(itertools.combinations(range(14), 3)))
    shares = (triplets < 3).any(1)
    assert int(shares.sum()) > 64
    scores = torch.where(shares, 20.0, 0.0)[None]
    true = torch.arange(len(triplets))[None] == 0
    anything = torch.ones_like(true)
    taken = torch.arange(14)[None] < 3
    candidates = [Candidates(scores, triplets)] * 2
    listed = [true, anything & ~touching(triplets, taken)]
    assert int(listed[1].sum()) == math.comb(11, 3)
    found = Joint(plan, candidates, 14, listed).logarithm([true, anything])
    assert IMPOSSIBLE < found.item() < 0
    unlucky = Joint(plan, candidates, 14, [true, true]).logarithm([true, anything])
    assert unlucky.item() < IMPOSSIBLE


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_probability_is_that_of_the_logarithm(count: int, symmetric: bool) -> None:
    """Of sets that overlap, of leaving out, and of what cannot be."""
    plan, pairs = _plan(count, alike=symmetric), _pairs(6)
    number = len(pairs)
    candidates = [Candidates(torch.randn(5, number), pairs) for _ in range(count)]
    if symmetric:
        candidates = [candidates[0]] * count
    allowed = [torch.rand(5, number) < 0.4 for _ in range(count)]
    allowed[0][0], allowed[-1][1] = True, False
    joint = Joint(plan, candidates, 6, allowed)
    found, expected = joint.probability(allowed), joint.logarithm(allowed).exp()
    assert torch.allclose(found, expected, atol=1e-6)
    assert 0 < expected[2] < 1
    assert found[1] == 0


def test_which_of_two_almost_equal_tuples_is_the_last_one_listed_does_not_matter() -> None:
    slots, listed = 16, 64  # of 120 pairs
    plan, pairs = _plan(2), _pairs(slots)
    scores = 0.5 * torch.randn(20, len(pairs), generator=torch.Generator().manual_seed(5))
    order = scores.argsort(1, descending=True)
    last, next_one = order[:, listed - 1 : listed], order[:, listed : listed + 1]
    best = torch.zeros_like(scores, dtype=torch.bool).scatter(1, order[:, :1], True)
    allowed = [best, torch.ones_like(best)]

    def chances(first: float, second: float, *, fade: bool) -> torch.Tensor:
        level = scores.gather(1, last)
        varied = scores.scatter(1, last, level + first).scatter(1, next_one, level + second)
        joint = Joint(plan, [Candidates(varied, pairs)] * 2, slots, [best, best], fade=fade)
        return joint.probability(allowed)

    torch.testing.assert_close(
        chances(1e-6, 0, fade=True), chances(0, 1e-6, fade=True), rtol=3e-4, atol=0
    )
    jump = chances(1e-6, 0, fade=False) / chances(0, 1e-6, fade=False) - 1
    assert jump.abs().max() > 3e-3
    # Otherwise it changes little.
    torch.testing.assert_close(
        chances(0, -1, fade=True), chances(0, -1, fade=False), rtol=2e-2, atol=0
    )
