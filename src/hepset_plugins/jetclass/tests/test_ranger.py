"""The optimizer `ranger` against the formulas, written down for single numbers."""

from __future__ import annotations

import math

import pytest
import torch

from hepset.plugins import registry
from hepset_jetclass.ranger import Ranger, rectification


def by_hand(
    start: float, gradients: list[float], rate: float, *, decay: float = 0.0, k: int = 6
) -> list[float]:
    """One weight: RAdam as published, drawn back every k steps."""
    beta1, beta2, eps, alpha = 0.95, 0.999, 1e-5, 0.5
    weight, slow, mean, square, found = start, start, 0.0, 0.0, []
    most = 2 / (1 - beta2) - 1
    for step, gradient in enumerate(gradients, start=1):
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * gradient**2
        samples = most - 2 * step * beta2**step / (1 - beta2**step)
        weight *= 1 - rate * decay
        if samples >= 5:
            part = (samples - 4) / (most - 4) * (samples - 2) / samples * most / (most - 2)
            size = math.sqrt((1 - beta2**step) * part) / (1 - beta1**step)
            weight -= rate * size * mean / (math.sqrt(square) + eps)
        else:
            weight -= rate * mean / (1 - beta1**step)
        if step % k == 0:
            slow += alpha * (weight - slow)
            weight = slow
        found.append(weight)
    return found


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_it_follows_the_formulas(decay: float) -> None:
    gradients = [math.sin(3.0 * i) + 0.3 for i in range(40)]
    weight = torch.nn.Parameter(torch.tensor([1.5], dtype=torch.float64))
    optimizer = Ranger([weight], lr=0.01, weight_decay=decay)
    found = []
    for gradient in gradients:
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        found.append(weight.item())
    assert found == pytest.approx(by_hand(1.5, gradients, 0.01, decay=decay), rel=1e-12)


def test_the_step_is_adaptive_from_the_sixth_on() -> None:
    assert [rectification(step, 0.999) is None for step in (1, 5, 6)] == [True, True, False]
    # Much later the factor is 1.
    assert rectification(100_000, 0.999) == pytest.approx(1.0, abs=2e-3)


def test_a_stored_state_continues_as_if_never_interrupted() -> None:
    torch.manual_seed(1)
    gradients = torch.randn(20, 3)

    def optimizer_of(weight: torch.nn.Parameter) -> Ranger:
        return Ranger([{"params": [weight], "weight_decay": 0.1}], lr=0.02)

    whole, half = (torch.nn.Parameter(torch.ones(3)) for _ in range(2))
    one, other = optimizer_of(whole), optimizer_of(half)
    for step in range(20):
        if step == 9:
            # In the middle between two meetings of slow and fast weights.
            state = other.state_dict()
            half = torch.nn.Parameter(half.detach().clone())
            other = optimizer_of(half)
            other.load_state_dict(state)
        for weight, optimizer in ((whole, one), (half, other)):
            weight.grad = gradients[step].clone()
            optimizer.step()
    assert torch.equal(whole, half)


def test_parameters_without_a_gradient_stay() -> None:
    used, idle = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = Ranger([used, idle], lr=0.1)
    for _ in range(7):
        used.grad = torch.ones(2)
        assert float(optimizer.step(lambda: torch.tensor(3.0))) == 3.0
    assert torch.equal(idle, torch.ones(2))
    assert not torch.equal(used, torch.ones(2))
    with pytest.raises(ValueError, match=r"alpha = 2 is outside"):
        Ranger([used], alpha=2)


def test_configurations_find_it_by_name() -> None:
    assert registry().load("optimizers", "ranger") is Ranger
