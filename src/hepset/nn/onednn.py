"""Linear layers of many rows at the full speed of the CPU.

torch gives 32-bit products on a CPU to MKL, which uses vectors of 256 bits on CPUs of other makers
than its own, half of what they have. oneDNN, the other library in torch's wheels, uses all of them
and applies a GELU before the result leaves the registers; torch itself takes it for graphs that it
compiles. Products that are large enough are given to it here. The results are those of MKL, to
rounding. Everywhere else these are `torch.nn.functional.linear` and `torch.nn.functional.gelu`.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional

from hepset.nn.export_mode import is_exporting

__all__ = ["Linear", "is_transformed", "linear"]

_FEWEST_PRODUCTS: Final = 1 << 24
"""Multiplications above which oneDNN is faster, although it compiles a kernel for a new shape."""
_NARROWEST: Final = 16
"""Features, of input and output, below which oneDNN is not faster."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """Return ``x @ weight.T + bias``, as `torch.nn.functional.linear` does, and a GELU of it.

    Args:
        x: Shape ``(..., in)``.
        weight: Shape ``(out, in)``.
        bias: Shape ``(out,)``.
        gelu: Whether to apply the (exact) GELU.

    Returns:
        Shape ``(..., out)``.
    """
    if not _pays(x, weight, bias):
        found = functional.linear(x, weight, bias)
        return functional.gelu(found) if gelu else found
    rows, weight = _dense(x.reshape(-1, x.shape[-1])), _dense(weight)
    if torch.is_grad_enabled() and any(
        part is not None and part.requires_grad for part in (rows, weight, bias)
    ):
        found = _Linear.apply(rows, weight, bias)  # type: ignore[no-untyped-call]
        found = functional.gelu(found) if gelu else found
    else:
        found = _product(rows, weight, bias, gelu=gelu)
    return found if x.dim() == 2 else found.unflatten(0, x.shape[:-1])


class Linear(nn.Linear):
    """`torch.nn.Linear` by `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., in)`` to ``(..., out)``."""
        return linear(x, self.weight, self.bias)


def _pays(x: Tensor, weight: Tensor, bias: Tensor | None) -> bool:
    return (
        not is_exporting()
        and x.dim() > 1
        and x.numel() * len(weight) >= _FEWEST_PRODUCTS
        and min(weight.shape) >= _NARROWEST
        and all(p is None or (p.is_cpu and p.dtype == torch.float32) for p in (x, weight, bias))
        and _has_wide_vectors()
        and bool(torch.backends.mkldnn.enabled)
        and not torch.is_autocast_enabled("cpu")
        and not is_transformed()
    )


def is_transformed() -> bool:
    """Tell whether `torch.func` or forward derivatives, unknown to oneDNN, are at work."""
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


@cache
def _has_wide_vectors() -> bool:
    """Whether oneDNN is there, and can use more of a CPU than MKL does."""
    return (
        bool(torch.backends.mkldnn.is_available())
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _dense(matrix: Tensor) -> Tensor:
    """Return a matrix without gaps: of a part of a larger one oneDNN takes each number alone."""
    whole = matrix.is_contiguous() or matrix.t().is_contiguous()
    return matrix if whole else matrix.contiguous()


def _product(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False
) -> Tensor:
    name, algorithm = ("gelu", "none") if gelu else ("none", "")
    product = torch.ops.mkldnn._linear_pointwise
    found: Tensor = product(x, weight, bias, name, [], algorithm)
    return found


class _Linear(torch.autograd.Function):
    """The product; its gradients are products too, and can be differentiated."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        (gradient,) = gradients
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad
        gradient = _dense(gradient)
        return (
            linear(gradient, weight.t()) if for_x else None,
            linear(gradient.t(), x.t()) if for_weight else None,
            gradient.sum(0) if for_bias else None,
        )
