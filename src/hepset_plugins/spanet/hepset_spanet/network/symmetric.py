"""Symmetric attention: scores of all tuples of objects for one particle, and their distribution."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from hepset_spanet.network.blocks import Masking
from hepset_spanet.network.encoder import StackedEncoder
from hepset_spanet.network.topology import Particle
from hepset_spanet.options import SpanetOptions

__all__ = ["FullAttention", "SplitAttention", "symmetrise", "tuple_log_probability"]


class SplitAttention(nn.Module):
    """Scores of low rank: each product has its own vectors, and a score is their joint product."""

    def __init__(self, options: SpanetOptions, particle: Particle) -> None:
        super().__init__()
        width = options.hidden_dim
        self.group = particle.group
        self.encoders = nn.ModuleList(
            StackedEncoder(
                options, options.num_jet_embedding_layers, options.num_jet_encoder_layers
            )
            for _ in particle.products
        )
        self.linear_layers = nn.ModuleList(nn.Linear(width, width) for _ in particle.products)
        self.masking = Masking(options.masking)

    def forward(self, x: Tensor, mask: Tensor, filled: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Score all ordered tuples.

        Args:
            x: ``(B, T, D)``.
            mask: True where attention may look, ``(B, T)``.
            filled: True where blocks compute, ``(B, T)``; usually the same.

        Returns:
            Scores ``(B, T, ..., T)`` with one axis per product, and the products' vectors
            ``(B, D)``.
        """
        factors, vectors = [], []
        for encoder, linear in zip(self.encoders, self.linear_layers, strict=True):
            encoded, vector = encoder(x, mask, filled)
            factors.append(self.masking(linear(encoded), filled[..., None]))
            vectors.append(vector)
        scores = _joint_product(factors) / x.shape[-1] ** (len(factors) / 2)
        return symmetrise(scores, self.group), vectors


class FullAttention(nn.Module):
    """Scores by one weight for every combination of features, ``D^k`` of them.

    It has no vectors of products, so that nothing can be regressed or classified for them.
    """

    def __init__(self, options: SpanetOptions, particle: Particle) -> None:
        super().__init__()
        width, order = options.hidden_dim, len(particle.products)
        self.group = particle.group
        self.weights = nn.Parameter(torch.empty([width] * order))
        bound = math.sqrt(6 / (width * max(order, 1)))
        nn.init.uniform_(self.weights, -bound, bound)

    def forward(self, x: Tensor, mask: Tensor, filled: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Score all ordered tuples, see `SplitAttention.forward`."""
        del mask, filled
        order = self.weights.ndim
        batch, length, width = x.shape
        scores = symmetrise(self.weights[None], self.group).expand(batch, *self.weights.shape)
        for _ in range(order):
            # Contract the first feature axis; its object axis goes to the end.
            flat = scores.reshape(batch, width, -1)
            rest = scores.shape[2:]
            scores = (flat.transpose(1, 2) @ x.transpose(1, 2)) / math.sqrt(width)
            scores = scores.reshape(batch, *rest, length)
        return symmetrise(scores, self.group), []


def symmetrise(scores: Tensor, group: tuple[tuple[int, ...], ...]) -> Tensor:
    """Return the mean over a group of the tensor with its axes, after the first, permuted."""
    if len(group) == 1:
        return scores
    total = torch.zeros_like(scores)
    for element in group:
        total = total + scores.permute(0, *(1 + position for position in element))
    return total / len(group)


def tuple_log_probability(scores: Tensor, mask: Tensor) -> Tensor:
    """Normalise scores over tuples of different real objects.

    Args:
        scores: ``(B, T, ..., T)``.
        mask: True = real, ``(B, T)``.

    Returns:
        Log-probabilities of ordered tuples, -inf for impossible ones; NaN throughout for an event
        that has fewer objects than the particle has products.
    """
    order = scores.ndim - 1
    length = mask.shape[1]
    allowed = torch.ones_like(scores, dtype=torch.bool)
    different = ~torch.eye(length, dtype=torch.bool, device=mask.device)
    for axis in range(order):
        shape = [-1] + [length if other == axis else 1 for other in range(order)]
        allowed = allowed & mask.reshape(shape)
        for second in range(axis + 1, order):
            pair = [1] + [length if other in {axis, second} else 1 for other in range(order)]
            allowed = allowed & different.reshape(pair)
    masked = scores.masked_fill(~allowed, -torch.inf)
    return torch.log_softmax(masked.flatten(1), -1).reshape(scores.shape)


def _joint_product(factors: list[Tensor]) -> Tensor:
    """Sum over features of the product of one vector per axis, ``(B, T, ..., T)``."""
    batch, length, width = factors[0].shape
    if len(factors) == 1:
        return factors[0].sum(-1)
    left = factors[0]
    for factor in factors[1:-1]:
        left = (left[:, :, None] * factor[:, None]).reshape(batch, -1, width)
    scores = left @ factors[-1].transpose(1, 2)
    return scores.reshape(batch, *[length] * len(factors))
