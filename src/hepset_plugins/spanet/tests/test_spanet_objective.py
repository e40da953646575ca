from __future__ import annotations

import itertools
import math

import pytest
import torch

from hepset.schema.symmetry import parse_permutations
from hepset_spanet.assignment.objective import compatible, negative_log_likelihood, symmetrise
from hepset_spanet.assignment.topology import Kind
from hepset_spanet.selection import FORBIDDEN


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


def test_permutations_are_combined() -> None:
    """Identity costs 1 + 2 (detection 0.5 + 0.1), the swap 0.5 + 0.7 (detection 1 + 2)."""
    assignment = torch.tensor([[[1.0, 0.5], [0.7, 2.0]]])
    detection = torch.tensor([[[0.5, 1.0], [2.0, 0.1]]])
    elements = [(0, 1), (1, 0)]
    best = symmetrise(assignment, detection, elements, "min", 1.0)
    assert (float(best.assignment), float(best.detection)) == pytest.approx((3.0, 0.6))
    best = symmetrise(assignment, detection, elements, "min", 0.5)
    assert (float(best.assignment), float(best.detection)) == pytest.approx((1.2, 3.0))
    mean = symmetrise(assignment, None, elements, "mean", 1.0)
    assert float(mean.assignment) == pytest.approx(2.1)
    soft = symmetrise(assignment, None, elements, "softmin", 1.0)
    weight = 1 / (1 + math.exp(3.0 - 1.2))
    assert float(soft.assignment) == pytest.approx(weight * 3.0 + (1 - weight) * 1.2)
