"""Embeddings of particles and of pairs of particles."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from hepset.nn.onednn import linear
from hepset.nn.pairs import PAIR_FEATURES, features_between
from hepset_jetclass.part.normalisation import folded_linear, normalise, pointwise
from hepset_jetclass.part.pair_training import embed_in_training

__all__ = ["PairEmbedding", "ParticleEmbedding"]

CHUNK = 8192
"""Pairs that are embedded at a time: they stay in the cache."""


class ParticleEmbedding(nn.Module):
    """Batch normalisation of the features, then [LayerNorm, Linear, GELU] for every width.

    Args:
        features: Number of features of a particle.
        widths: Width of every layer.
    """

    def __init__(self, features: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.input_bn = nn.BatchNorm1d(features)
        layers: list[nn.Module] = []
        for width, next_width in pairwise([features, *widths]):
            layers += [nn.LayerNorm(width), nn.Linear(width, next_width), nn.GELU()]
        self.embed = nn.Sequential(*layers)

    def normalise(self, x: Tensor) -> Tensor:
        """Normalise the features of real particles, ``(particle, feature)``."""
        return normalise(self.input_bn, x)

    def forward(self, x: Tensor) -> Tensor:
        """Embed normalised features, ``(..., feature)`` to ``(..., width)``."""
        layers = list(self.embed)
        for norm, dense in zip(layers[::3], layers[1::3], strict=True):
            assert isinstance(dense, nn.Linear)
            x = linear(norm(x), dense.weight, dense.bias, gelu=True)
        return x


class PairEmbedding(nn.Module):
    """Pair features to one number per attention head: convolutions of width 1 with batch norms.

    Args:
        hidden: Widths of the hidden layers.
        heads: Attention heads.
        last_activation: Whether a GELU follows the last normalisation.
    """

    def __init__(self, hidden: Sequence[int], heads: int, *, last_activation: bool) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.BatchNorm1d(len(PAIR_FEATURES))]
        for width, next_width in pairwise([len(PAIR_FEATURES), *hidden, heads]):
            layers += [nn.Conv1d(width, next_width, 1), nn.BatchNorm1d(next_width), nn.GELU()]
        if not last_activation:
            layers.pop()
        self.embed = nn.Sequential(*layers)
        self.last_activation = last_activation

    def forward(self, coordinates: Tensor, first: Tensor, second: Tensor) -> Tensor:
        """Embed pairs of real particles.

        Args:
            coordinates: Of `hepset.nn.pairs.pair_coordinates`, shape ``(7, particle)``.
            first: Index of one member, shape ``(pair,)``.
            second: Index of the other.

        Returns:
            Shape ``(head, pair)``.
        """
        if self.training:
            features = _features(coordinates, first, second)
            learning = all(norm.training for norm in (self.first_norm, *self._norms()))
            if learning and features.is_cpu and len(features) > 1:
                return embed_in_training(
                    features, self.first_norm, self._layers(), last_activation=self.last_activation
                ).t()
            return self._normalised(features).t()
        if torch.is_grad_enabled():
            return self.of_features(_features(coordinates, first, second)).t()
        layers = self._folded()
        values = coordinates.new_empty(len(layers[-1][1]), len(first))
        parts = zip(first.split(CHUNK), second.split(CHUNK), values.split(CHUNK, 1), strict=True)
        for one, other, place in parts:
            features = _features(coordinates, one, other)
            place.copy_(self._pointwise(layers, features).t())
        return values

    def of_features(self, features: Tensor) -> Tensor:
        """Embed features ``(..., 4)`` as in evaluation, to ``(..., head)``."""
        return self._pointwise(self._folded(), features)

    @property
    def first_norm(self) -> nn.BatchNorm1d:
        """The normalisation of the features."""
        norm = self.embed[0]
        assert isinstance(norm, nn.BatchNorm1d)
        return norm

    def _layers(self) -> list[tuple[nn.Conv1d, nn.BatchNorm1d]]:
        convolutions = [layer for layer in self.embed if isinstance(layer, nn.Conv1d)]
        return list(zip(convolutions, self._norms(), strict=True))

    def _norms(self) -> list[nn.BatchNorm1d]:
        """The normalisations behind the convolutions."""
        return [layer for layer in self.embed if isinstance(layer, nn.BatchNorm1d)][1:]

    def _normalised(self, x: Tensor) -> Tensor:
        x, layers = normalise(self.first_norm, x), self._layers()
        for number, (convolution, norm) in enumerate(layers):
            x = normalise(norm, pointwise(convolution, x))
            if self.last_activation or number < len(layers) - 1:
                x = functional.gelu(x)
        return x

    def _folded(self) -> list[tuple[Tensor, Tensor]]:
        return [
            folded_linear(convolution, None if number else self.first_norm, norm)
            for number, (convolution, norm) in enumerate(self._layers())
        ]

    def _pointwise(self, layers: Sequence[tuple[Tensor, Tensor]], x: Tensor) -> Tensor:
        for number, (weight, bias) in enumerate(layers):
            activated = self.last_activation or number < len(layers) - 1
            x = linear(x, weight, bias, gelu=activated)
        return x


def _features(coordinates: Tensor, first: Tensor, second: Tensor) -> Tensor:
    columns = features_between(
        coordinates.index_select(1, first), coordinates.index_select(1, second)
    )
    return torch.stack(columns, -1)
