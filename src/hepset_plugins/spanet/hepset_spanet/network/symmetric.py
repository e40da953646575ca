"""Symmetric attention: scores of all tuples of objects for one particle, and their distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["contract_weights", "joint_product", "symmetrise", "tuple_log_probability"]


def joint_product(factors: Sequence[Tensor]) -> Tensor:
    """Score all ordered tuples with low rank: the joint product of a vector per product.

    Args:
        factors: Per product vectors of all objects, ``(B, T, D)``.

    Returns:
        ``(B, T, ..., T)`` with one axis per product, divided by ``D^(k/2)``.
    """
    batch, length, width = factors[0].shape
    left: Tensor = factors[0] / float(width ** (len(factors) / 2))
    if len(factors) == 1:
        return left.sum(-1)
    for factor in factors[1:-1]:
        left = (left[:, :, None] * factor[:, None]).reshape(batch, -1, width)
    scores = left @ factors[-1].transpose(1, 2)
    return scores.reshape(batch, *[length] * len(factors))


def contract_weights(weights: Tensor, x: Tensor, group: tuple[tuple[int, ...], ...]) -> Tensor:
    """Score all ordered tuples by one weight for every combination of features.

    Args:
        weights: ``(D, ..., D)`` with one axis per product.
        x: Vectors of all objects, ``(B, T, D)``.
        group: Permutations of the products that change nothing.

    Returns:
        ``(B, T, ..., T)``.
    """
    order = weights.ndim
    batch, length, width = x.shape
    scores = symmetrise(weights[None], group).expand(batch, *weights.shape)
    for _ in range(order):
        # Contract the first feature axis; its object axis goes to the end.
        flat = scores.reshape(batch, width, -1)
        rest = scores.shape[2:]
        scores = (flat.transpose(1, 2) @ x.transpose(1, 2)) / math.sqrt(width)
        scores = scores.reshape(batch, *rest, length)
    return scores


def symmetrise(scores: Tensor, group: tuple[tuple[int, ...], ...]) -> Tensor:
    """Return the mean over a group of the tensor with its axes, after the first, permuted."""
    if len(group) == 1:
        return scores
    identity, *others = group
    total = scores.permute(0, *(1 + position for position in identity))
    for element in others:
        total = total + scores.permute(0, *(1 + position for position in element))
    return total / len(group)


def tuple_log_probability(scores: Tensor, mask: Tensor, slots: int | None = None) -> Tensor:
    """Normalise scores over tuples of different real objects.

    Args:
        scores: ``(B, T, ..., T)``.
        mask: True = real, ``(B, T)``.
        slots: Length of the axes of the result, where objects beyond T are not real.

    Returns:
        Log-probabilities of ordered tuples, -inf for impossible ones; NaN throughout for an event
        that has fewer objects than the particle has products.
    """
    order = scores.ndim - 1
    length = mask.shape[1]
    different = ~torch.eye(length, dtype=torch.bool, device=mask.device)
    allowed = torch.ones((), dtype=torch.bool, device=mask.device)
    for axis in range(order):
        for second in range(axis + 1, order):
            pair = [1] + [length if other in {axis, second} else 1 for other in range(order)]
            allowed = allowed & different.reshape(pair)
    for axis in range(order):
        shape = [-1] + [length if other == axis else 1 for other in range(order)]
        allowed = allowed & mask.reshape(shape)
    masked = torch.where(allowed, scores, -torch.inf)
    found = torch.log_softmax(masked.flatten(1), -1).reshape(scores.shape)
    if slots is None or slots == length:
        return found
    found = functional.pad(found, (0, slots - length) * order, value=-torch.inf)
    too_few = mask.sum(1) < order
    if not too_few.is_cpu or bool(too_few.any()):
        found = torch.where(too_few.reshape(-1, *[1] * order), torch.nan, found)
    return found
