"""Linear layers by oneDNN on a CPU.

torch multiplies 32-bit matrices by the BLAS that it was built with. Its usual wheels have Intel's,
which uses half of the vector width of other makers' processors; oneDNN, in the same wheels, uses
all of it, and applies a GELU before the result leaves the registers.
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from hepset.nn.exporting import is_exporting

__all__ = ["linear"]

_WORTH: Final = 2**20
"""Multiplications from which the product by oneDNN makes up for its call, some 10 µs."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """Do what `torch.nn.functional.linear` does, to rounding, and a GELU after it.

    Where oneDNN does not apply, or a product is small, torch's own function is called.

    Args:
        x: Shape ``(..., n)``.
        weight: Shape ``(m, n)``.
        bias: Shape ``(m,)``.
        gelu: Whether to apply the (exact) GELU.

    Returns:
        Shape ``(..., m)``.
    """
    if not _suits(x, weight, bias):
        y = functional.linear(x, weight, bias)
    elif torch.is_grad_enabled() and _learns(x, weight, bias):
        y = _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    else:
        return _product(x, weight, bias, gelu=gelu)
    return functional.gelu(y) if gelu else y


def _suits(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    return (
        x.is_cpu
        and x.numel() * len(weight) >= _WORTH
        and all(t is None or t.dtype == torch.float32 for t in (x, weight, bias))
        and not is_exporting()
        and not torch.is_autocast_enabled("cpu")
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
    )


def _learns(*tensors: Tensor | None) -> bool:
    return any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _product(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False
) -> Tensor:
    # What torch's compiler calls for linear layers on a CPU.
    product = torch.ops.mkldnn._linear_pointwise
    name, algorithm = ("gelu", "none") if gelu else ("none", "")
    found: Tensor = product(x, weight, bias, name, [], algorithm)
    return found


class _Linear(torch.autograd.Function):
    """The linear layer; its gradients are such products too, and can be differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        to_x, to_weight, to_bias = ctx.needs_input_grad
        rows = gradient.flatten(0, -2)
        return (
            linear(gradient, weight.t()) if to_x else None,
            linear(rows.t(), x.flatten(0, -2).t()) if to_weight else None,
            rows.sum(0) if to_bias else None,
        )
