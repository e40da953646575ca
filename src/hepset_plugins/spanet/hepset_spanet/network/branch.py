"""One branch per particle, and the heads on vectors."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from hepset_spanet.network.blocks import LinearStack
from hepset_spanet.network.embedding import Embedded
from hepset_spanet.network.encoder import StackedEncoder
from hepset_spanet.network.symmetric import FullAttention, SplitAttention, tuple_log_probability
from hepset_spanet.network.topology import Particle, RegressionKind
from hepset_spanet.options import SpanetOptions

__all__ = ["Branch", "BranchOutputs", "RegressionHead", "VectorHead"]

_EXPONENT_LIMIT = 80.0
"""Largest argument of sinh: exp(80) is still finite in float32."""


class VectorHead(nn.Module):
    """Blocks, BatchNorm and a linear layer on one vector per event."""

    def __init__(self, options: SpanetOptions, blocks: int, outputs: int) -> None:
        super().__init__()
        width = options.hidden_dim
        self.hidden_layers = LinearStack(options, blocks, width, skip=options.skip_connections)
        self.output_norm = nn.BatchNorm1d(width)
        self.output_layer = nn.Linear(width, outputs)

    def forward(self, vector: Tensor) -> Tensor:
        """Return ``(B, outputs)`` for vectors ``(B, D)``."""
        hidden = self.hidden_layers(vector[:, None])[:, 0]
        out: Tensor = self.output_layer(self.output_norm(hidden))
        return out


class RegressionHead(nn.Module):
    """One number in the target's own unit; its moments are those of the training data."""

    def __init__(self, options: SpanetOptions, kind: RegressionKind) -> None:
        super().__init__()
        self.kind = kind
        self.mean = nn.Parameter(torch.tensor(0.0), requires_grad=False)
        self.std = nn.Parameter(torch.tensor(1.0), requires_grad=False)
        self.linear = VectorHead(options, options.num_regression_layers, 1)

    def forward(self, vector: Tensor) -> Tensor:
        """Return ``(B,)`` for vectors ``(B, D)``."""
        value: Tensor = self.std * self.linear(vector)[:, 0] + self.mean
        if self.kind == "log_gaussian":
            return 2 * torch.sinh(value.clamp(-_EXPONENT_LIMIT, _EXPONENT_LIMIT))
        return value


class BranchOutputs(NamedTuple):
    """What a branch gives.

    Attributes:
        log_probability: Of every ordered tuple, ``(B, T, ..., T)`` over assignable positions.
        detection: Logit that the particle is there, ``(B,)``.
        vector: The particle's vector, ``(B, D)``.
        product_vectors: The products' vectors, ``(B, D)`` each.
    """

    log_probability: Tensor
    detection: Tensor
    vector: Tensor
    product_vectors: list[Tensor]


class Branch(nn.Module):
    """Where a particle's products are, and whether it is there at all."""

    def __init__(self, options: SpanetOptions, particle: Particle) -> None:
        super().__init__()
        self.encoder = StackedEncoder(
            options, options.num_branch_embedding_layers, options.num_branch_encoder_layers
        )
        attention = SplitAttention if options.split_symmetric_attention else FullAttention
        self.attention = attention(options, particle)
        self.detection_classifier = VectorHead(options, options.num_detector_layers, 1)

    def forward(self, embedded: Embedded) -> BranchOutputs:
        """Decode one particle from the central encoding of a batch."""
        encoded, vector = self.encoder(embedded.sequence, embedded.mask, embedded.filled)
        detection = self.detection_classifier(vector)[:, 0]
        filled = embedded.objects(embedded.filled)
        mask = embedded.objects(embedded.mask)
        scores, products = self.attention(embedded.objects(encoded), mask, filled)
        return BranchOutputs(tuple_log_probability(scores, filled), detection, vector, products)
