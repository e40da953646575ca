"""The branches of all particles, computed at once, and the heads on vectors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hepset.nn.export_mode import is_exporting
from hepset_spanet.network.blocks import LinearStack, Masking
from hepset_spanet.network.embedding import Embedded
from hepset_spanet.network.encoder import StackedEncoder
from hepset_spanet.network.normalisation import StackedBatchNorm
from hepset_spanet.network.stacked import Stacked, StackedLinear
from hepset_spanet.network.symmetric import (
    contract_weights,
    joint_product,
    symmetrise,
    tuple_log_probability,
)
from hepset_spanet.network.topology import Particle, RegressionKind
from hepset_spanet.options import SpanetOptions

__all__ = ["BranchOutputs", "Branches", "RegressionHeads", "VectorHead"]

_EXPONENT_LIMIT = 80.0
"""Largest argument of sinh: exp(80) is still finite in float32."""


class VectorHead(nn.Module):
    """Blocks, BatchNorm and a linear layer on one vector per event, for each copy."""

    def __init__(self, options: SpanetOptions, copies: int, blocks: int, outputs: int) -> None:
        super().__init__()
        width, skip = options.hidden_dim, options.skip_connections
        self.hidden_layers = LinearStack(options, copies, blocks, width, skip=skip)
        self.output_norm = StackedBatchNorm(copies, width)
        self.output_layer = StackedLinear(copies, width, outputs)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return ``(copies, B, outputs)`` for vectors ``(copies, B, D)``."""
        out: Tensor = self.output_layer(self.output_norm(self.hidden_layers(vectors)))
        return out


class RegressionHeads(Stacked):
    """A number per event and target, in its own unit; the moments are those of training data."""

    def __init__(self, options: SpanetOptions, kinds: Sequence[RegressionKind]) -> None:
        super().__init__()
        self.kinds = tuple(kinds)
        self.mean = nn.Parameter(torch.zeros(len(kinds)), requires_grad=False)
        self.std = nn.Parameter(torch.ones(len(kinds)), requires_grad=False)
        self.linear = VectorHead(options, len(kinds), options.num_regression_layers, 1)

    def forward(self, vectors: Tensor) -> list[Tensor]:
        """Return ``(B,)`` for every target, given vectors ``(targets, B, D)``."""
        values = self.std[:, None] * self.linear(vectors)[..., 0] + self.mean[:, None]
        return [
            2 * torch.sinh(value.clamp(-_EXPONENT_LIMIT, _EXPONENT_LIMIT))
            if kind == "log_gaussian"
            else value
            for kind, value in zip(self.kinds, values.unbind(0), strict=True)
        ]


class BranchOutputs(NamedTuple):
    """What the branches give, by particle.

    Attributes:
        log_probabilities: Of every ordered tuple, ``(B, T, ..., T)`` over assignable positions.
        detections: Logit that the particle is there, ``(B,)``.
        vectors: The particles' vectors, ``(B, D)``.
        product_vectors: The products' vectors, ``(B, D)`` each; none with full attention.
    """

    log_probabilities: list[Tensor]
    detections: list[Tensor]
    vectors: list[Tensor]
    product_vectors: list[list[Tensor]]


class Branches(nn.Module):
    """Where the products of all particles are, and whether the particles are there at all.

    The encoders of all particles have one structure, and so have those of all their products:
    both kinds are computed at once. With full attention a particle has one weight for every
    combination of features instead of encoders for its products.
    """

    def __init__(self, options: SpanetOptions, particles: Sequence[Particle]) -> None:
        super().__init__()
        self.particles = tuple(particles)
        count, width = len(particles), options.hidden_dim
        self.encoder = StackedEncoder(
            options,
            count,
            options.num_branch_embedding_layers,
            options.num_branch_encoder_layers,
        )
        self.detection_classifier = VectorHead(options, count, options.num_detector_layers, 1)
        self.split = options.split_symmetric_attention
        if self.split:
            products = sum(len(particle.products) for particle in particles)
            self.encoders = StackedEncoder(
                options, products, options.num_jet_embedding_layers, options.num_jet_encoder_layers
            )
            self.linear_layers = StackedLinear(products, width, width)
        else:
            self.weights = nn.ModuleList(
                _FullWeights(width, len(particle.products)) for particle in particles
            )
        self.masking = Masking(options.masking)

    def forward(self, embedded: Embedded) -> BranchOutputs:
        """Decode all particles from the central encoding of a batch."""
        count = len(self.particles)
        encoded, vectors = self.encoder(embedded.x.expand(count, -1, -1), embedded.rows)
        detections = self.detection_classifier(vectors)[..., 0]
        rows = embedded.assignable
        objects = embedded.objects(encoded)
        scores, products = [], []
        slots = rows.filled.shape[1]
        used = slots if is_exporting() else _used(rows.filled)
        filled = rows.filled[:, :used]
        if self.split:
            sizes = [len(particle.products) for particle in self.particles]
            shared = [
                each.expand(size, -1, -1)
                for each, size in zip(objects.split(1), sizes, strict=True)
            ]
            found, product_vectors = self.encoders(torch.cat(shared), rows)
            factors = rows.padded(self.masking(self.linear_layers(found), rows.row_mask))
            parts = factors[:, :, :used].unbind(0)
            start = 0
            for particle, size in zip(self.particles, sizes, strict=True):
                score = joint_product(parts[start : start + size])
                scores.append(symmetrise(score, particle.group))
                products.append(list(product_vectors[start : start + size].unbind(0)))
                start += size
        else:
            table = rows.padded(objects)[:, :, :used]
            for particle, full, x in zip(self.particles, self.weights, table, strict=True):
                assert isinstance(full, _FullWeights)
                score = contract_weights(full.weights, x, particle.group)
                scores.append(symmetrise(score, particle.group))
                products.append([])
        return BranchOutputs(
            [tuple_log_probability(score, filled, slots) for score in scores],
            list(detections.unbind(0)),
            list(vectors.unbind(0)),
            products,
        )


class _FullWeights(nn.Module):
    """A weight for every combination of the features of a particle's products."""

    def __init__(self, width: int, order: int) -> None:
        super().__init__()
        bound = math.sqrt(6 / (width * max(order, 1)))
        self.weights = nn.Parameter(torch.empty([width] * order).uniform_(-bound, bound))


def _used(filled: Tensor) -> int:
    """Number of positions after which no event has anything; all of them on a GPU."""
    if not filled.is_cpu:
        return filled.shape[1]
    positions = torch.arange(1, filled.shape[1] + 1, device=filled.device)
    return max(int((positions * filled.any(0)).max()), 1) if filled.numel() else filled.shape[1]
