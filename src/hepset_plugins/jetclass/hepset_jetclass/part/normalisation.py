"""Batch normalisation of the rows that are real, and its place among linear layers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Affine", "evaluation_affine", "normalise"]


class Affine(NamedTuple):
    """A factor and a shift per channel."""

    scale: Tensor
    shift: Tensor


def normalise(norm: nn.BatchNorm1d, x: Tensor) -> Tensor:
    """Normalise rows ``(row, channel)``, in training by the statistics of these rows.

    A single row has no spread, so fewer than two are normalised by the running statistics.
    """
    if norm.training and len(x) > 1:
        return norm(x)  # type: ignore[no-any-return]
    affine = evaluation_affine(norm)
    return torch.addcmul(affine.shift, x, affine.scale)


def evaluation_affine(norm: nn.BatchNorm1d) -> Affine:
    """Return what a normalisation does in evaluation."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return Affine(scale, norm.bias - norm.running_mean * scale)


def folded_linear(
    linear: nn.Conv1d, before: nn.BatchNorm1d | None, after: nn.BatchNorm1d
) -> tuple[Tensor, Tensor]:
    """Return weight and bias of one linear layer that normalises as well, in evaluation.

    Args:
        linear: A convolution of width 1.
        before: A normalisation of its input.
        after: The normalisation of its output.
    """
    weight, bias = linear.weight[..., 0], linear.bias
    assert bias is not None
    if before is not None:
        affine = evaluation_affine(before)
        weight, bias = weight * affine.scale, bias + weight @ affine.shift
    affine = evaluation_affine(after)
    return weight * affine.scale[:, None], torch.addcmul(affine.shift, bias, affine.scale)


def pointwise(linear: nn.Conv1d, x: Tensor) -> Tensor:
    """Apply a convolution of width 1 to rows ``(row, channel)``."""
    return functional.linear(x, linear.weight[..., 0], linear.bias)
