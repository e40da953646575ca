"""`Ranger`: rectified Adam inside Lookahead, the optimizer of the Particle Transformer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

__all__ = ["Ranger"]


class Ranger(Optimizer):
    """RAdam (arXiv:1908.03265) whose weights are drawn back to slow ones (arXiv:1907.08610).

    The rectification of the adaptive step is the published one: ε is added to the square root of
    the second moment before its bias is corrected, and the step is not adaptive while fewer than 5
    effective samples are known; `torch.optim.RAdam` does both differently. Every `k` steps the
    weights and the slow ones meet at ``slow + alpha (weights - slow)``. The slow weights are part
    of the state, so that a training that continues does as if it had never stopped.

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        betas: Decay of the mean of the gradient and of its square.
        eps: Added to the root of the second moment.
        weight_decay: Decay of the weights per step, in units of the learning rate.
        alpha: Share of the way from slow to fast weights.
        k: Steps between two meetings.

    Raises:
        ValueError: If an option is outside its range.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.95, 0.999),
        eps: float = 1e-5,
        weight_decay: float = 0.0,
        alpha: float = 0.5,
        k: int = 6,
    ) -> None:
        for name, value, good in (
            ("lr", lr, lr >= 0),
            ("betas", betas, all(0 <= beta < 1 for beta in betas)),
            ("eps", eps, eps >= 0),
            ("weight_decay", weight_decay, weight_decay >= 0),
            ("alpha", alpha, 0 < alpha <= 1),
            ("k", k, k >= 1),
        ):
            if not good:
                raise ValueError(f"{name} = {value} is outside its range")
        defaults = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "alpha": alpha,
            "k": k,
            "steps": 0,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # noqa: ANN401
        """Make one step."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            used = [p for p in group["params"] if p.grad is not None]
            by_step: dict[int, list[Tensor]] = {}
            for parameter in used:
                state = self.state[parameter]
                if not state:
                    state["step"] = 0
                    state["mean"] = torch.zeros_like(parameter)
                    state["square"] = torch.zeros_like(parameter)
                    state["slow"] = parameter.detach().clone()
                state["step"] += 1
                by_step.setdefault(state["step"], []).append(parameter)
            for step, parameters in by_step.items():
                self._move(group, parameters, step)
            group["steps"] += 1
            if group["steps"] % group["k"] == 0:
                self._meet(group, used)
        return loss

    def _move(self, group: dict[str, Any], parameters: list[Tensor], step: int) -> None:
        """One step of RAdam for parameters that have made equally many."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        means = [self.state[p]["mean"] for p in parameters]
        squares = [self.state[p]["square"] for p in parameters]
        (beta1, beta2), rate = group["betas"], group["lr"]
        torch._foreach_lerp_(means, gradients, 1 - beta1)
        torch._foreach_mul_(squares, beta2)
        torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
        if group["weight_decay"]:
            torch._foreach_mul_(parameters, 1 - rate * group["weight_decay"])
        factor = rectification(step, beta2)
        size = -rate / (1 - beta1**step)
        if factor is None:
            torch._foreach_add_(parameters, means, alpha=size)
        else:
            roots = torch._foreach_sqrt(squares)
            torch._foreach_add_(roots, group["eps"])
            torch._foreach_addcdiv_(parameters, means, roots, size * factor)

    def _meet(self, group: dict[str, Any], parameters: list[Tensor]) -> None:
        if not parameters:
            return
        slow = [self.state[p]["slow"] for p in parameters]
        torch._foreach_lerp_(slow, parameters, group["alpha"])
        torch._foreach_copy_(parameters, slow)


def rectification(step: int, beta2: float) -> float | None:
    """Return the factor of an adaptive step, with the bias of its second moment; None if too early.

    Args:
        step: Number of the step, from 1.
        beta2: Decay of the mean square of the gradient.
    """
    most = 2 / (1 - beta2) - 1
    left = beta2**step
    samples = most - 2 * step * left / (1 - left)
    if samples < 5:
        return None
    variance = (samples - 4) / (most - 4) * (samples - 2) / samples * most / (most - 2)
    return math.sqrt((1 - left) * variance)
