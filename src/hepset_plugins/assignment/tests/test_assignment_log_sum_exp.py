"""Logarithms of sums, and selections by addition."""

from __future__ import annotations

import pytest
import torch

from hepset_assignment.log_sum_exp import log_sum_exp, only
from hepset_assignment.selection import FORBIDDEN


def test_a_sum_of_probabilities() -> None:
    probabilities = torch.tensor([[0.25, 0.5, 0.125], [1.0, 1e-3, 1e-30]])
    found = log_sum_exp(probabilities.log())
    torch.testing.assert_close(found, probabilities.sum(1).log())


@pytest.mark.parametrize("shift", [0.0, -500.0, 1e4])
def test_values_and_gradients_are_those_of_torch(shift: float) -> None:
    torch.manual_seed(0)
    x = 30 * torch.randn(7, 4, 50, dtype=torch.float64) + shift
    x[0, 0, 3:] = FORBIDDEN
    x[1] = FORBIDDEN
    weight = torch.randn(7, 4, dtype=torch.float64)
    own, plain = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = log_sum_exp(own), torch.logsumexp(plain, -1)
    torch.testing.assert_close(found, expected)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(own.grad, plain.grad, rtol=1e-4, atol=1e-6)


def test_what_is_allowed_keeps_its_very_score() -> None:
    scores = torch.randn(3, 2, 5)
    allowed = torch.rand(3, 1, 5) < 0.5
    found = only(scores, allowed)
    assert torch.equal(found[allowed.expand_as(found)], scores[allowed.expand_as(found)])
    assert (found[~allowed.expand_as(found)] < FORBIDDEN / 2).all()
