"""Matrix products of many rows at the full speed of the CPU.

torch gives 32-bit products on a CPU to MKL, which uses vectors of 256 bits on CPUs of other makers
than its own, half of what they have. oneDNN, the other library of torch, uses all of them; torch
itself takes it for graphs that it compiles. Products that are large enough are given to it here.
The results are those of MKL, to rounding. Everywhere else this is `torch.nn.functional.linear`.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from hepset.nn.exporting import is_exporting

__all__ = ["Linear", "linear"]

_FEWEST_PRODUCTS = 1 << 21
"""Multiplications above which oneDNN is faster, preparation for a new number of rows included."""
_NARROWEST = 16
"""Features, of input and output, below which it is not."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x @ weight.T + bias``, as `torch.nn.functional.linear` does.

    Args:
        x: Shape ``(..., in)``.
        weight: Shape ``(out, in)``.
        bias: Shape ``(out,)``.

    Returns:
        Shape ``(..., out)``.
    """
    if not _pays(x, weight):
        return functional.linear(x, weight, bias)
    # Of a part of a larger matrix oneDNN takes each number alone.
    rows, weight = x.reshape(-1, x.shape[-1]).contiguous(), weight.contiguous()
    if torch.is_grad_enabled():
        found: Tensor = _Linear.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
    else:
        found = _product(rows, weight, bias)
    return found if x.dim() == 2 else found.unflatten(0, x.shape[:-1])


class Linear(nn.Linear):
    """`torch.nn.Linear` by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in)`` to ``(..., out)``."""
        return linear(x, self.weight, self.bias)


def _pays(x: Tensor, weight: Tensor) -> bool:
    return (
        not is_exporting()
        and x.numel() * weight.shape[0] >= _FEWEST_PRODUCTS
        and min(weight.shape) >= _NARROWEST
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and _has_wide_vectors()
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
    )


@cache
def _has_wide_vectors() -> bool:
    """Whether oneDNN is there, and uses more of this CPU than MKL does."""
    return (
        torch.backends.mkldnn.is_available()
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``x @ weight.T + bias`` of matrices that are contiguous, transposed or not."""
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found


class _Linear(torch.autograd.Function):
    """The product with its gradients, which are products too."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401  torch's context
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        gradient = gradient.contiguous()
        return (
            _product(gradient, weight.t()) if for_x else None,
            _product(gradient.t(), x.t()) if for_weight else None,
            gradient.sum(0) if for_bias else None,
        )
