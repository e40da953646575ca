from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch

from hepset.schema.event import EventInfo
from hepset.schema.symmetry import parse_permutations
from hepset_assignment.likelihood import (
    Combination,
    compatible,
    negative_log_likelihood,
    overlap_penalty,
    symmetrise,
)
from hepset_assignment.selection import FORBIDDEN
from hepset_assignment.topology import Kind, ProcessPlan, make_topology


@pytest.mark.parametrize(
    "symmetries",
    [[], [["a", "b"]], [["a", "b", "c"]], [[["a", "b", "c"]]]],
)
def test_compatible_are_the_tuples_that_agree_in_some_order(symmetries: list[object]) -> None:
    group = parse_permutations(symmetries, ["a", "b", "c"], where="test")
    kind = Kind(("a", "b", "c"), ("jets",) * 3, group, ("",))
    cells = list(itertools.permutations(range(4), 3))
    targets = [(0, 1, 2), (3, -1, 1), (-1, 2, -1), (-1, -1, -1)]
    found = compatible(torch.tensor(cells), torch.tensor(targets), kind)
    for target, row in zip(targets, found.tolist(), strict=True):
        for cell, agrees in zip(cells, row, strict=True):
            orders = [[cell[i] for i in element] for element in group.elements]
            expected = any(
                all(t in {-1, have} for t, have in zip(target, order, strict=True))
                for order in orders
            )
            assert agrees == expected


def test_likelihood_of_known_and_half_known_targets() -> None:
    """Scores ln 1, ln 2, ln 5 and none: probabilities 1/8, 2/8, 5/8."""
    scores = torch.tensor([[[0.0, math.log(2), math.log(5), FORBIDDEN]]])
    one = torch.tensor([[False, True, False, False]])
    two = torch.tensor([[False, True, True, True]])
    assert float(negative_log_likelihood(scores, one, 0.0)) == pytest.approx(math.log(4))
    assert float(negative_log_likelihood(scores, two, 0.0)) == pytest.approx(math.log(8 / 7))
    focal = negative_log_likelihood(scores, two, 2.0)
    assert float(focal) == pytest.approx(math.log(8 / 7) / 64, rel=1e-5)
    nothing = negative_log_likelihood(scores, torch.zeros_like(one), 0.0)
    assert torch.isfinite(nothing).all()


def test_certain_tuples_have_a_finite_gradient_with_focal_loss() -> None:
    scores = torch.tensor([[[0.0, FORBIDDEN]]], requires_grad=True)
    negative_log_likelihood(scores, torch.tensor([[True, False]]), 0.5).sum().backward()
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


def plan_of(count: int, symmetries: list[Any]) -> ProcessPlan:
    """Particles of one product each, every one with an output of its own."""
    names = [f"x{n}" for n in range(count)]
    event = EventInfo.model_validate(
        {
            "streams": {"jets": {"slots": 12, "features": ["pt"]}},
            "particles": {name: ["a"] for name in names},
            "symmetries": {"event": symmetries},
        }
    )
    return make_topology(event, queries=True, where="test").processes[0]


def test_permutations_are_combined() -> None:
    """Identity costs 1 + 2 (detection 0.5 + 0.1), the swap 0.5 + 0.7 (detection 1 + 2)."""
    assignment = torch.tensor([[[1.0, 0.5], [0.7, 2.0]]])
    detection = torch.tensor([[[0.5, 1.0], [2.0, 0.1]]])
    plan = plan_of(2, [["x0", "x1"]])

    def combined(combination: Combination, weight: float) -> tuple[float, float]:
        found = symmetrise(assignment, weight * detection, plan, combination)
        return float(found.assignment.sum()), float(found.detection.sum())

    assert combined("min", 1.0) == pytest.approx((3.0, 0.6))
    assert combined("min", 0.5) == pytest.approx((1.2, 1.5))
    assert combined("mean", 0.0) == pytest.approx((2.1, 0.0))
    weight = 1 / (1 + math.exp(3.0 - 1.2))
    expected = weight * 3.0 + (1 - weight) * 1.2
    assert combined("softmin", 0.0) == pytest.approx((expected, 0.0))
    choice = torch.tensor([[[0.0, 9.0], [9.0, 0.0]]])
    chosen = symmetrise(assignment, detection, plan, "min", choice)
    assert chosen.order.tolist() == [[0, 1]]
    assert chosen.assignment.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize("combination", ["min", "mean", "softmin"])
@pytest.mark.parametrize(
    ("count", "symmetries"),
    [
        (5, [["x0", "x1", "x2", "x3", "x4"]]),
        (7, [["x0", "x2", "x5", "x6"], ["x1", "x4"]]),
        (4, [["x0", "x1"], ["x2", "x3"], [["x0", "x2"], ["x1", "x3"]]]),
        (3, [[["x0", "x1", "x2"]]]),
        (3, []),
    ],
)
def test_combinations_equal_those_of_all_permutations(
    combination: Combination, count: int, symmetries: list[Any]
) -> None:
    plan = plan_of(count, symmetries)
    rng = np.random.default_rng(count)
    assignment, detection = torch.from_numpy(rng.exponential(1.0, (2, 20, count, count)))
    found = symmetrise(assignment, detection, plan, combination)
    own = range(count)
    for event in range(20):
        sums = [
            (float(assignment[event, own, s].sum()), float(detection[event, own, s].sum()))
            for s in (list(element) for element in plan.elements)
        ]
        total = np.array([a + d for a, d in sums])
        best = plan.elements[int(total.argmin())]
        assert tuple(found.order[event].tolist()) == best
        shares = {
            "min": (np.arange(len(total)) == total.argmin()).astype(float),
            "mean": np.full(len(total), 1 / len(total)),
            "softmin": np.exp(-total) / np.exp(-total).sum(),
        }[combination]
        expected = (shares[:, None] * np.array(sums)).sum(0)
        assert float(found.assignment[event].sum()) == pytest.approx(expected[0])
        assert float(found.detection[event].sum()) == pytest.approx(expected[1])


def test_large_groups_need_no_list() -> None:
    """Eight of eight: 40 320 permutations; a hidden one costs nothing, every other pair 1."""
    plan = plan_of(8, [[f"x{n}" for n in range(8)]])
    assert plan.elements == ()
    hidden = [3, 1, 4, 0, 5, 7, 2, 6]
    cost = torch.ones(2, 8, 8, requires_grad=True)
    mask = torch.zeros(8, 8)
    mask[range(8), hidden] = 1
    found = symmetrise(cost * (1 - mask), torch.zeros(2, 8, 8), plan, "min")
    assert found.order.tolist() == [hidden, hidden]
    assert found.assignment.tolist() == [[0.0] * 8] * 2
    mean = symmetrise(cost * (1 - mask), torch.zeros(2, 8, 8), plan, "mean")
    assert mean.assignment.tolist() == [pytest.approx([7 / 8] * 8)] * 2
    soft = symmetrise(cost * (1 - mask), torch.zeros(2, 8, 8), plan, "softmin")
    # By number of points that stay: 8! / k! / (8 - k)! times the derangements of the others.
    derangements = [1, 0, 1, 2, 9, 44, 265, 1854, 14833]
    ways = np.array([math.comb(8, k) * derangements[8 - k] for k in range(9)])
    weight = ways * np.exp(-(8.0 - np.arange(9)))
    expected = (weight * (8 - np.arange(9))).sum() / weight.sum()
    assert float(soft.assignment[0].sum().detach()) == pytest.approx(expected, rel=1e-5)
    soft.assignment.sum().backward()
    assert cost.grad is not None
    assert bool(torch.isfinite(cost.grad).all())


def test_overlaps_of_equal_and_of_disjoint_distributions() -> None:
    first = torch.tensor([[0.0, FORBIDDEN, FORBIDDEN], [0.0, 0.0, FORBIDDEN]])
    second = torch.tensor([[FORBIDDEN, 0.0, FORBIDDEN], [0.0, 0.0, FORBIDDEN]])
    found = overlap_penalty(first, second)
    assert found.tolist() == pytest.approx([math.exp(-(math.log(2) ** 2)), 1.0])
    half = overlap_penalty(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, FORBIDDEN]]))
    divergence = 0.5 * (0.5 * math.log(2 / 3) + 0.5 * math.log(2)) + 0.5 * math.log(4 / 3)
    assert float(half) == pytest.approx(math.exp(-(divergence**2)))


@pytest.mark.parametrize("parity", [False, True])
def test_only_the_right_penalty_of_overlaps_can_be_learnt(*, parity: bool) -> None:
    """A mixture of two constant distributions has a constant sum: nothing drives them apart."""
    scores = torch.tensor([[0.3, -0.4, 1.0]], dtype=torch.float64, requires_grad=True)
    other = torch.tensor([[0.0, 0.2, 0.1]])
    overlap_penalty(scores, other, parity=parity).sum().backward()
    assert scores.grad is not None
    assert (float(scores.grad.abs().max()) < 1e-7) == parity
