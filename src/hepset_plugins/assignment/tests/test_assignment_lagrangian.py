"""Exact selection against a count over all subsets of objects; bounds by prices."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from hepset_assignment.selection import exact, greedy
from hepset_assignment.selection.branch_and_bound import Search
from hepset_assignment.selection.candidates import Candidates, alike, usable
from hepset_assignment.selection.lagrangian import find_prices, priced

Array = NDArray[Any]
SLOTS = 8


def all_tuples(slots: int, groups: Sequence[int]) -> Tensor:
    """Every tuple of distinct objects once; products of one group are in ascending order."""
    size = sum(groups)
    found = []
    starts = np.cumsum([0, *groups])
    for cell in itertools.permutations(range(slots), size):
        parts = [cell[a:b] for a, b in itertools.pairwise(starts)]
        if all(list(part) == sorted(part) for part in parts):
            found.append(cell)
    return torch.tensor(found)


def best_by_subsets(
    scores: Sequence[Array], objects: Sequence[Array], none: Sequence[float], slots: int
) -> float:
    """Largest sum of scores: particle by particle the best that fits into each set of objects."""
    best = np.zeros(1 << slots)
    for score, cells, left_out in zip(scores, objects, none, strict=True):
        single = np.full(1 << slots, -math.inf)
        np.maximum.at(single, (1 << cells).sum(1), score)
        new = best + left_out
        for used in np.flatnonzero(single > -1e5):
            inside = np.flatnonzero((np.arange(1 << slots) & used) == used)
            new[inside] = np.maximum(new[inside], best[inside ^ used] + single[used])
        best = new
    return float(best[-1])


def as_in_a_graph(patch: pytest.MonkeyPatch) -> None:
    """Let the selection do in torch what it does in an exported graph."""
    for module in ("select", "bounds", "beam"):
        patch.setattr(f"hepset_assignment.selection.{module}.is_exporting", lambda: True)


PARTICLE = st.sampled_from(
    [(1,), (2,), (1, 1), (3,), (2, 1), (1, 1, 1), (4,), (2, 2), (3, 1), (5,), (3, 2)]
)


def random_candidates(
    kinds: list[tuple[int, ...]],
    real: Tensor,
    *,
    identical: bool,
    spread: float,
    rounding: bool,
    seed: int,
    own: bool = False,
) -> tuple[list[Candidates], list[Tensor]]:
    """All tuples of some particles with random scores, and scores of leaving a particle out.

    Args:
        kinds: Products of the particles; of the first one only where they are `identical`.
        real: Which objects there are, (event, slot).
        identical: Whether all particles share the scores of the first.
        spread: Width of the scores.
        rounding: Whether to round them, which makes ties.
        seed: Of the scores.
        own: Whether every event has a list of tuples of its own.
    """
    generator = torch.Generator().manual_seed(seed)
    events, slots = real.shape
    candidates: list[Candidates] = []
    none: list[Tensor] = []
    for kind in kinds[:1] if identical else kinds:
        objects = all_tuples(slots, kind)
        scores = spread * torch.randn(events, len(objects), generator=generator)
        scores = scores.round() if rounding else scores
        scores = torch.where(real[:, objects].all(-1), scores, -math.inf)
        objects = objects.expand(events, -1, -1).contiguous() if own else objects
        candidates.append(Candidates(scores, objects))
        none.append(spread * torch.randn(events, generator=generator))
    copies = len(kinds) if identical else 1
    return candidates * copies, none * copies


@settings(max_examples=60, deadline=None)
@given(
    kinds=st.lists(PARTICLE, min_size=1, max_size=4),
    identical=st.booleans(),
    counts=st.lists(st.integers(0, SLOTS), min_size=1, max_size=4),
    detection=st.booleans(),
    rounding=st.booleans(),
    width=st.sampled_from([2, 8, 64]),
    own=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_exact_is_the_maximum(
    kinds: list[tuple[int, ...]],
    identical: bool,
    counts: list[int],
    detection: bool,
    rounding: bool,
    width: int,
    own: bool,
    seed: int,
) -> None:
    """1 to 4 particles of 1 to 5 products, whatever the width; with ties and padding."""
    real = torch.arange(SLOTS) < torch.tensor(counts)[:, None]
    candidates, none = random_candidates(
        kinds, real, identical=identical, spread=2, rounding=rounding, seed=seed, own=own
    )
    given_none = none if detection else None
    for select in (exact, greedy):
        options = {"width": width} if select is exact else {}
        found = select(candidates, SLOTS, unassigned=given_none, **options)  # type: ignore[operator]
        for row in range(len(counts)):
            used = [int(i) for index in found.indices for i in index[row] if i >= 0]
            assert len(used) == len(set(used))
            assert bool(real[row, used].all())
        if select is greedy:
            continue
        assert found.certified.all()
        for row in range(len(counts)):
            left_out = [float(n[row]) if detection else -1e7 for n in none]
            held = [each.objects[row] if own else each.objects for each in candidates]
            best = best_by_subsets(
                [each.scores[row].numpy() for each in candidates],
                [each.numpy() for each in held],
                left_out,
                SLOTS,
            )
            missing = sum(int(chosen[row]) < 0 for chosen in found.chosen)
            score = float(found.score[row]) - (0 if detection else 1e7 * missing)
            assert score == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("spread", [0.3, 3.0, 30.0])
def test_four_alike_particles_of_three_products(spread: float) -> None:
    """Every object of 12 is needed, so that the four best tuples never fit together."""
    generator = torch.Generator().manual_seed(3)
    objects = all_tuples(12, (2, 1))
    scores = torch.log_softmax(spread * torch.randn(6, len(objects), generator=generator), 1)
    one = Candidates(scores, objects)
    for width in (16, 64):
        found = exact([one] * 4, 12, width=width)
        for row in range(6):
            best = best_by_subsets([scores[row].numpy()] * 4, [objects.numpy()] * 4, [-1e7] * 4, 12)
            assert float(found.score[row]) == pytest.approx(best, abs=1e-4)
            assert sorted(torch.cat([i[row] for i in found.indices]).tolist()) == list(range(12))


@settings(max_examples=60, deadline=None)
@given(
    kinds=st.lists(PARTICLE, min_size=2, max_size=4),
    identical=st.booleans(),
    detection=st.booleans(),
    rounding=st.booleans(),
    spread=st.sampled_from([0.3, 2.0]),
    width=st.sampled_from([1, 8, 64]),
    most=st.sampled_from([(1, 1), (6, 4), (512, 1024)]),
    seed=st.integers(0, 1000),
)
def test_what_a_graph_certifies_is_the_maximum(
    kinds: list[tuple[int, ...]],
    identical: bool,
    detection: bool,
    rounding: bool,
    spread: float,
    width: int,
    most: tuple[int, int],
    seed: int,
) -> None:
    """However little may be listed; of three particles, by default all events are certified."""
    counts = [SLOTS, SLOTS, 7, 6, 3, 0]
    real = torch.arange(SLOTS) < torch.tensor(counts)[:, None]
    candidates, none = random_candidates(
        kinds, real, identical=identical, spread=spread, rounding=rounding, seed=seed
    )
    with pytest.MonkeyPatch.context() as patch:
        as_in_a_graph(patch)
        patch.setattr("hepset_assignment.selection.beam._MOST_TUPLES", most[0])
        patch.setattr("hepset_assignment.selection.beam._MOST_PARTIAL", most[1])
        found = exact(candidates, SLOTS, unassigned=none if detection else None, width=width)
    if most == (512, 1024) and width == 64 and len(kinds) <= 3:
        assert found.certified.all()
    for row in found.certified.nonzero()[:, 0].tolist():
        left_out = [float(n[row]) if detection else -1e7 for n in none]
        best = best_by_subsets(
            [each.scores[row].numpy() for each in candidates],
            [each.objects.numpy() for each in candidates],
            left_out,
            SLOTS,
        )
        missing = sum(int(chosen[row]) < 0 for chosen in found.chosen)
        score = float(found.score[row]) - (0 if detection else 1e7 * missing)
        assert score == pytest.approx(best, abs=1e-4)
        used = [int(i) for index in found.indices for i in index[row] if i >= 0]
        assert len(used) == len(set(used))
        assert bool(real[row, used].all())


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), count=st.integers(2, 4), rounds=st.integers(1, 40))
def test_prices_bound_every_assignment(seed: int, count: int, rounds: int) -> None:
    """Σ prices + Σ best reduced scores is never below the maximum, and sinks towards it."""
    generator = torch.Generator().manual_seed(seed)
    objects = all_tuples(9, (2,))
    values = [3 * torch.randn(2, len(objects), generator=generator) for _ in range(count)]
    candidates = [Candidates(value, objects) for value in values]
    none = [torch.zeros(2, 1, dtype=torch.float64)] * count

    def bound(prices: Tensor) -> Tensor:
        total = prices.sum(1)
        for each, value in zip(candidates, values, strict=True):
            total = total + priced(value, each, prices, 9).amax(1).clamp(min=0)
        return total

    prices = find_prices(candidates, values, none, [False] * count, 9, scarce=False, rounds=rounds)
    assert bool((prices >= 0).all())
    for row in range(2):
        best = best_by_subsets(
            [value[row].numpy() for value in values], [objects.numpy()] * count, [0.0] * count, 9
        )
        assert float(bound(prices)[row]) >= best - 1e-5
        assert float(bound(torch.zeros_like(prices))[row]) >= best - 1e-5
    if rounds >= 30:
        assert bool((bound(prices) <= bound(torch.zeros_like(prices)) + 1e-6).all())


def test_prices_of_tuples_that_events_have_of_their_own() -> None:
    generator = torch.Generator().manual_seed(1)
    objects = all_tuples(6, (2,))
    value = torch.randn(3, len(objects), generator=generator)
    none = [torch.full((3, 1), -1e7, dtype=torch.float64)] * 2
    common = [Candidates(value, objects)] * 2
    own = [Candidates(value, objects.expand(3, -1, -1).contiguous())] * 2
    found = [
        find_prices(each, [value] * 2, none, alike(each, None), 6, scarce=True, rounds=8)
        for each in (common, own)
    ]
    torch.testing.assert_close(found[0], found[1])
    assert bool((found[0] > 0).any())


def test_usable_forbids_what_is_not_a_number() -> None:
    assert usable(torch.tensor([math.nan, -math.inf, 1.0])).tolist()[2] == 1.0
    assert bool((usable(torch.tensor([math.nan, -math.inf, -2e5])) < -1e11).all())


def test_search_finds_only_what_is_better() -> None:
    """Two particles want object 0; 3 + 1 is the most."""
    values = [np.array([3.0, 2.0]), np.array([2.5, 1.0])]
    objects = [np.array([[0], [1]])] * 2

    def search(score: float) -> list[int]:
        return Search(
            values,
            values,
            objects,
            [np.arange(2)] * 2,
            none=[-1e7, -1e7],
            base=0.0,
            slots=2,
            score=score,
            alike=[False, False],
        ).run()

    assert search(0.0) == [1, 0]
    assert search(4.5) == [-2, -2]


@pytest.mark.parametrize("alike", [True, False])
def test_partners_beyond_the_top_are_found_without_search(
    alike: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all of the best tuples hold one object, a graph still finds the best partner."""
    as_in_a_graph(monkeypatch)
    generator = torch.Generator().manual_seed(4)
    tuples = torch.combinations(torch.arange(12), 3)
    held = (tuples == 0).any(1)

    def make() -> Candidates:
        return Candidates(torch.randn(20, len(tuples), generator=generator) + 9 * held, tuples)

    first = make()
    candidates = [first, first if alike else make()]
    assert int(held.sum()) > 16
    found = exact(candidates, 12, width=32)
    overlap = (tuples[:, None, :, None] == tuples[None, :, None, :]).any(-1).any(-1)
    total = candidates[0].scores[:, :, None] + candidates[1].scores[:, None, :]
    best = torch.where(overlap, -1e9, total.double()).flatten(1).amax(1)
    torch.testing.assert_close(found.score.double(), best, rtol=1e-6, atol=1e-5)
