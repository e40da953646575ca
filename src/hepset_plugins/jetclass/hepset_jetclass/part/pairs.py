"""Which pairs of particles are real, and the square of an attention bias made of them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["PairList", "list_pairs", "square_bias"]


class PairList(NamedTuple):
    """The pairs (i, j), j ≤ i, of the real particles of every jet, one jet after the other.

    Attributes:
        first: Real particle i, counted through all jets, shape ``(pair,)``.
        second: Real particle j.
        start: First pair of each jet, shape ``(jet,)``.
    """

    first: Tensor
    second: Tensor
    start: Tensor


def list_pairs(counts: Tensor) -> PairList:
    """List the pairs of jets with so many real particles, shape ``(jet,)``."""
    device = counts.device
    particles = torch.repeat_interleave(torch.arange(len(counts), device=device), counts)
    before = torch.cumsum(counts, 0) - counts
    rank = torch.arange(len(particles), device=device) - before[particles]
    partners = rank + 1
    first = torch.repeat_interleave(torch.arange(len(particles), device=device), partners)
    passed = torch.cumsum(partners, 0) - partners
    offset = before[particles] - passed
    second = torch.arange(len(first), device=device) + offset[first]
    of_jet = counts * (counts + 1) // 2
    return PairList(first, second, torch.cumsum(of_jet, 0) - of_jet)


def square_bias(values: Tensor, start: Tensor, mask: Tensor) -> Tensor:
    """Spread numbers of pairs over both halves of a square per jet.

    Args:
        values: One number per pair and head, and two columns more: what a padded key adds, and
            what stands where nothing is read; shape ``(head, pair + 2)``.
        start: First pair of each jet, shape ``(jet,)``.
        mask: True where the particle is real, shape ``(jet, particle)``.

    Returns:
        Shape ``(jet, head, particle, particle)``. Keys are padded where they are not real; of a jet
        without any particle none is, so that a softmax stays finite.
    """
    rank = mask.cumsum(1) - 1
    row, column = rank[:, :, None], rank[:, None, :]
    larger = torch.maximum(row, column)
    index = larger * (larger + 1) // 2 + torch.minimum(row, column) + start[:, None, None]
    pairs = values.shape[1] - 2
    nobody = ~mask.any(1)[:, None, None]
    outside = torch.where(mask[:, None, :] | nobody, pairs + 1, pairs)
    index = torch.where(mask[:, :, None] & mask[:, None, :], index, outside)
    found: Tensor = _Square.apply(values, index)  # type: ignore[no-untyped-call]
    return found


class _Square(torch.autograd.Function):
    """Gathers both halves; the gradient of a pair is the sum of the two, gathered as well."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor) -> Tensor:  # noqa: ANN401  torch's own
        ctx.save_for_backward(index)
        ctx.size = values.shape[1]
        square = values.index_select(1, index.flatten())
        return torch.unflatten(square, 1, index.shape).transpose(0, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (index,) = ctx.saved_tensors
        side = index.shape[-1]
        row, column = torch.tril_indices(side, side, device=index.device)
        gradient = gradient.transpose(0, 1).flatten(2)
        lower = gradient.index_select(2, row * side + column)
        upper = gradient.index_select(2, column * side + row)
        both = lower + upper * (row != column)
        found = gradient.new_zeros(gradient.shape[0], ctx.size)
        target = index.flatten(1).index_select(1, row * side + column)
        # Pairs occur once; only the two columns without meaning are written more than once.
        found.index_copy_(1, target.flatten(), both.flatten(1))
        return found, None
