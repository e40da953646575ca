from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hepset.errors import ConfigurationError
from hepset.testing.modules import check_export
from hepset_assignment.selection import (
    FORBIDDEN,
    Candidates,
    Selection,
    dense_candidates,
    exact,
    greedy,
)

FIXTURES = Path(__file__).parents[4].parent / "shared" / "fixtures" / "spanet" / "selection.npz"
Array = NDArray[Any]


def random_candidates(
    sizes: Sequence[int], slots: int, counts: Sequence[int], seed: int, *, ties: bool = False
) -> list[Candidates]:
    """Scores of all unordered tuples of `slots` objects; those with padded objects are -inf."""
    generator = torch.Generator().manual_seed(seed)
    real = torch.arange(slots) < torch.tensor(counts)[:, None]
    found = []
    for size in sizes:
        objects = torch.tensor(list(itertools.combinations(range(slots), size)))
        scores = torch.randn(len(counts), len(objects), generator=generator)
        if ties:
            scores = scores.mul(2).round()
        allowed = real[:, objects].all(-1)
        found.append(Candidates(torch.where(allowed, scores, -math.inf), objects))
    return found


def brute_force(
    candidates: Sequence[Candidates], row: int, none: Sequence[float] | None, *, shared: bool
) -> float:
    """Best sum of scores over all combinations of tuples, each particle left out or not."""
    options = []
    for number, each in enumerate(candidates):
        cells: list[tuple[float, frozenset[int]]] = [
            (float(score), frozenset(cell))
            for score, cell in zip(each.scores[row].tolist(), each.objects.tolist(), strict=True)
            if score > -1e4
        ]
        cells.append((-1e7 if none is None else none[number], frozenset()))
        options.append(cells)
    best = -math.inf

    def visit(number: int, used: frozenset[int], total: float) -> None:
        nonlocal best
        if number == len(options):
            best = max(best, total)
            return
        for score, cell in options[number]:
            if shared or not used & cell:
                visit(number + 1, used | cell, total + score)

    visit(0, frozenset(), 0.0)
    return best


def require_valid(found: Selection, candidates: Sequence[Candidates], *, shared: bool) -> None:
    """Indices are those of the chosen tuples, none is padded, none is used twice."""
    for row in range(len(found.score)):
        used: list[int] = []
        for each, index, chosen in zip(candidates, found.indices, found.chosen, strict=True):
            cell = int(chosen[row])
            if cell < 0:
                assert index[row].eq(-1).all()
                continue
            assert index[row].tolist() == each.objects[cell].tolist()
            assert each.scores[row, cell] > -1e4
            used += index[row].tolist()
        assert shared or len(used) == len(set(used))


@pytest.mark.parametrize(
    ("sizes", "slots"),
    [
        ((1,), 3),
        ((5,), 8),
        ((3, 3), 8),
        ((2, 3), 7),
        ((4, 3), 8),
        ((5, 2), 8),
        ((2, 2, 2), 7),
        ((3, 1, 2), 7),
        ((1, 1, 1, 1), 6),
        ((2, 2, 1, 2), 7),
    ],
)
@pytest.mark.parametrize("ties", [False, True])
def test_exact_equals_brute_force(sizes: tuple[int, ...], slots: int, ties: bool) -> None:
    """Also with a width so small that events have to be searched."""
    counts = [slots, slots, slots - 1, slots, 4, 2, 1, 0]
    candidates = random_candidates(sizes, slots, counts, seed=3, ties=ties)
    for width in (64, 4):
        found = exact(candidates, slots, width=width)
        require_valid(found, candidates, shared=False)
        assert found.certified.all()
        for row in range(len(counts)):
            best = brute_force(candidates, row, None, shared=False)
            left_out = sum(int(chosen[row]) < 0 for chosen in found.chosen)
            assert float(found.score[row]) - 1e7 * left_out == pytest.approx(best, abs=1e-4)
    first = greedy(candidates, slots)
    require_valid(first, candidates, shared=False)


@pytest.mark.parametrize("sizes", [(3, 3), (2, 1, 3)])
def test_exact_with_the_scores_of_leaving_out(sizes: tuple[int, ...]) -> None:
    counts = [7, 7, 6, 5, 3, 0]
    candidates = random_candidates(sizes, 7, counts, seed=5)
    none = torch.randn(len(sizes), len(counts), generator=torch.Generator().manual_seed(1)) + 1
    for shared in (False, True):
        found = exact(candidates, 7, unassigned=list(none), width=8, shared=shared)
        require_valid(found, candidates, shared=shared)
        for row in range(len(counts)):
            best = brute_force(candidates, row, none[:, row].tolist(), shared=shared)
            assert float(found.score[row]) == pytest.approx(best, abs=1e-5)


def test_shared_objects_are_chosen_one_by_one() -> None:
    scores = torch.tensor([[3.0, 1.0]])
    both = [Candidates(scores, torch.tensor([[0], [1]]))] * 2
    assert [int(i) for i in exact(both, 2, shared=True).indices] == [0, 0]
    assert [int(i) for i in greedy(both, 2, shared=True).indices] == [0, 0]
    assert sorted(int(i) for i in exact(both, 2).indices) == [0, 1]


def test_greedy_is_not_the_joint_maximum() -> None:
    """The first takes object 0 for 3, which leaves the second with -5 instead of 2."""
    one = Candidates(torch.tensor([[3.0, 2.5]]), torch.tensor([[0], [1]]))
    two = Candidates(torch.tensor([[2.0, -5.0]]), torch.tensor([[0], [1]]))
    first, best = greedy([one, two], 2), exact([one, two], 2)
    assert [int(i) for i in first.indices] == [0, 1]
    assert [int(i) for i in best.indices] == [1, 0]
    assert (float(first.score), float(best.score)) == (-2.0, 4.5)
    assert not first.certified.any()


def test_two_are_assigned_rather_than_one() -> None:
    """The first alone would score 100, but leave the second without an object."""
    one = Candidates(torch.tensor([[100.0, 0.0]]), torch.tensor([[0], [1]]))
    two = Candidates(torch.tensor([[-3.0]]), torch.tensor([[0]]))
    found = exact([one, two], 2)
    assert [int(i) for i in found.indices] == [1, 0]


def test_detection_can_leave_a_particle_out() -> None:
    one = Candidates(torch.tensor([[-0.1], [-0.1]]), torch.tensor([[0]]))
    none = torch.tensor([-1.0, -0.01])
    for select in (greedy, exact):
        found = select([one], 1, unassigned=[none])
        assert found.indices[0][:, 0].tolist() == [0, -1]
        assert found.score.tolist() == pytest.approx([-0.1, -0.01])


def test_four_particles_without_enough_objects() -> None:
    """Two of four fit into seven objects; the bound on what fits keeps the search short."""
    candidates = random_candidates((3, 3, 3, 3), 8, [7, 8, 6, 2], seed=9)
    found = exact(candidates, 8, width=16)
    require_valid(found, candidates, shared=False)
    assigned = torch.stack([chosen >= 0 for chosen in found.chosen]).sum(0)
    assert assigned.tolist() == [2, 2, 2, 0]
    best = brute_force(candidates, 2, None, shared=False)
    assert float(found.score[2]) - 2e7 == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize(("size", "count"), [(3, 2), (2, 3), (2, 4)])
def test_particles_that_share_their_candidates(size: int, count: int) -> None:
    """They are put in order, which may not cost the maximum, also where some are left out."""
    counts = [8, 8, 7, 6, 5, 3, 0]
    one = random_candidates((size,), 8, counts, seed=11)[0]
    none = torch.randn(len(counts), generator=torch.Generator().manual_seed(4))
    for unassigned in (None, none):
        left_out = None if unassigned is None else [unassigned] * count
        found = exact([one] * count, 8, unassigned=left_out, width=4)
        require_valid(found, [one] * count, shared=False)
        for row in range(len(counts)):
            given = None if unassigned is None else [float(unassigned[row])] * count
            best = brute_force([one] * count, row, given, shared=False)
            missing = sum(int(chosen[row]) < 0 for chosen in found.chosen)
            score = float(found.score[row]) - (1e7 * missing if unassigned is None else 0)
            assert score == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("choose", [exact, greedy])
def test_particles_that_share_their_candidates_have_tuples_in_one_order(
    count: int, choose: Any
) -> None:
    """Rounding moves no tuple from one of them to another; who is left out comes last."""
    generator = torch.Generator().manual_seed(0)
    pairs = torch.combinations(torch.arange(8))
    number = torch.randint(2, 9, (300, 1), generator=generator)
    there = (torch.arange(8) < number)[:, pairs].all(-1)
    scores = torch.where(there, torch.randn(300, 28, generator=generator), FORBIDDEN)
    nearly = scores * (1 + 1e-7 * torch.randn(300, 28, generator=generator))
    found = [
        torch.stack(choose([Candidates(x, pairs)] * count, 8).chosen, 1) for x in (scores, nearly)
    ]
    assert torch.equal(*found)
    left_out = found[0] < 0
    own = scores.gather(1, found[0].clamp(min=0)).where(~left_out, FORBIDDEN)
    assert (own.diff(dim=1) <= 0).all()
    assert ((~left_out).sum(1) == (number[:, 0] // 2).clamp(max=count)).all()


def test_events_with_tuples_of_their_own() -> None:
    candidates = random_candidates((3, 3), 7, [7, 6, 4], seed=2)
    own = [
        Candidates(each.scores, each.objects.expand(3, -1, -1).contiguous()) for each in candidates
    ]
    for select in (greedy, exact):
        common, separate = select(candidates, 7), select(own, 7)
        for a, b in zip(common.indices, separate.indices, strict=True):
            assert a.equal(b)


def test_nan_is_forbidden_too() -> None:
    scores = torch.tensor([[math.nan, -math.inf, FORBIDDEN, -2.0]])
    each = Candidates(scores, torch.arange(4)[:, None])
    assert int(exact([each], 4).indices[0]) == 3
    assert int(greedy([each], 4).indices[0]) == 3


def test_bad_arguments() -> None:
    with pytest.raises(ConfigurationError, match="no particle"):
        greedy([], 3)
    with pytest.raises(ConfigurationError, match="width must be at least 1, got 0"):
        exact(random_candidates((1, 1), 3, [3], seed=1), 3, width=0)


class _Select(nn.Module):
    def __init__(self, sizes: Sequence[int], which: str, *, detection: bool) -> None:
        super().__init__()
        self.sizes, self.which, self.detection = sizes, which, detection

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        mask, x = inputs
        slots = mask.shape[1]
        axis = torch.arange(slots)
        candidates = []
        for number, size in enumerate(self.sizes):
            grid = torch.meshgrid(*[axis] * size, indexing="ij")
            objects = torch.stack([each.reshape(-1) for each in grid], -1)
            flat = objects.flatten()
            values = x[:, number].index_select(1, flat).reshape(-1, objects.shape[0], size)
            weights = torch.arange(1, size + 1) * 1.7
            scores = (values * weights).sum(-1)
            allowed = mask.index_select(1, flat).reshape(-1, objects.shape[0], size).all(-1)
            for a, b in itertools.combinations(range(size), 2):
                allowed = allowed & (objects[:, a] < objects[:, b])
            candidates.append(Candidates(torch.where(allowed, scores, FORBIDDEN), objects))
        none = [x[:, number, 0] - 1.0 for number in range(len(self.sizes))]
        select = greedy if self.which == "greedy" else exact
        found = select(candidates, slots, unassigned=none if self.detection else None)
        return (*found.indices, *found.chosen, found.score, found.certified)


@pytest.mark.parametrize(
    ("sizes", "which", "detection"),
    [
        ((3, 3), "greedy", True),
        ((2, 1, 3), "exact", False),
    ],
)
def test_the_graph_selects_the_same(sizes: tuple[int, ...], which: str, detection: bool) -> None:
    def values(events: int, slots: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(events)
        counts = torch.randint(0, slots + 1, (events, 1), generator=generator)
        counts[:1] = slots
        mask = torch.arange(slots) < counts
        return mask, torch.randn(events, len(sizes), slots, generator=generator)

    count = len(sizes)
    names = [f"{kind}{n}" for kind in ("index", "cell") for n in range(count)]
    check_export(
        _Select(sizes, which, detection=detection).eval(),
        [("mask", ("event", "objects")), ("x", ("event", "=", "objects"))],
        values(3, 7),
        [values(1, 6), values(200, 8), values(40, 4), values(2, 2)],
        [*names, "score", "certified"],
        f"{which} {sizes}",
        tolerance=1e-5,
    )


@pytest.mark.skipif(not FIXTURES.is_file(), reason="shared/fixtures/spanet is not there")
@pytest.mark.parametrize("group", ["deg33", "deg33_ties", "deg231", "deg222_ties", "deg1111"])
def test_greedy_is_spanets_with_minus_infinity_kept(group: str) -> None:
    """Numbers of SPANet 2.2; -2 marks particles that stay unassigned there."""
    with np.load(FIXTURES) as file:
        stored = {name.split("/")[1]: file[name] for name in file if name.startswith(f"{group}/")}
    count = sum(name.startswith("raw") for name in stored)
    candidates = [dense_candidates(torch.from_numpy(stored[f"p{n}"])) for n in range(count)]
    found = greedy(candidates, stored["mask"].shape[1])
    best = exact(candidates, stored["mask"].shape[1])
    for number in range(count):
        expected = stored[f"raw{number}"]
        have = found.indices[number].numpy()
        np.testing.assert_array_equal(have, np.where(expected < 0, -1, expected))
    left = [torch.stack([c < 0 for c in one.chosen]).sum(0) for one in (found, best)]
    assert bool((left[1] <= left[0]).all())
    same = left[0] == left[1]
    assert (best.score[same] >= found.score[same] - 1e-5).all()
