"""Logarithms of sums of probabilities, where most terms are hugely negative."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from hepset.nn.export_mode import is_exporting
from hepset_assignment.selection import FORBIDDEN

__all__ = ["log_sum_exp", "only"]

_LEAST: Final = -60.0
"""Exponent that smaller ones are taken for: exp(-60) is 1e-26. Exponentials that underflow take a
CPU ten times longer than others, and so do products with numbers below 1e-38."""


def log_sum_exp(x: Tensor) -> Tensor:
    """Return ln Σ exp(x) of finite x over the last axis; terms below 1e-26 of the largest are 0."""
    if is_exporting():
        return torch.logsumexp(x, -1)
    found: Tensor = _LogSumExp.apply(x)  # type: ignore[no-untyped-call]
    return found


def only(scores: Tensor, allowed: Tensor) -> Tensor:
    """Return the scores, hugely negative where not allowed (broadcast to them)."""
    if is_exporting():
        return torch.where(allowed, scores, FORBIDDEN)
    # A selection by a condition that changes often takes a CPU ten times longer than a sum.
    return torch.add(scores, (~allowed).to(scores.dtype), alpha=FORBIDDEN)


class _LogSumExp(torch.autograd.Function):
    """The sum with a gradient by hand, which keeps one tensor instead of four."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ANN401  torch's context
        top = x.amax(-1, keepdim=True)
        terms = (x - top).clamp_(min=_LEAST).exp_()
        total = terms.sum(-1, keepdim=True)
        ctx.save_for_backward(terms, total)
        return (total.log() + top).squeeze(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ANN401
        terms, total = ctx.saved_tensors
        found: Tensor = terms * (gradient[..., None] / total)
        return found
