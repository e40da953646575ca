"""From inputs of several kinds to one sequence of vectors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hepset_spanet.network.blocks import apply_all, make_block
from hepset_spanet.network.topology import SpanetInput, Topology
from hepset_spanet.options import SpanetOptions

__all__ = ["Embedded", "InputEmbedding", "Source"]


class Source(NamedTuple):
    """One input of a batch, after logarithms and before any normalisation.

    Attributes:
        values: Sequential ``(B, N, F)``, relative ``(B, N, N, F)`` with the features of object c
            and then those of the pair at ``[:, r, c]``, global ``(B, 1, F)``.
        mask: True = real, ``(B, N)``; global ``(B, 1)``.
    """

    values: Tensor
    mask: Tensor


class Embedded(NamedTuple):
    """All inputs as one sequence.

    Attributes:
        sequence: ``(B, T, D)``.
        mask: True where attention may look, ``(B, T)``: real positions.
        filled: True where blocks compute and objects may be assigned, ``(B, T)``: the same, unless
            the option ``mask_sequence_vectors`` is off.
        spans: First position of each sequential or relative input, and the one after its last.
    """

    sequence: Tensor
    mask: Tensor
    filled: Tensor
    spans: tuple[tuple[int, int], ...]

    def objects(self, x: Tensor) -> Tensor:
        """Return the assignable positions of a tensor ``(B, T, ...)``, in order."""
        parts = [x[:, start:end] for start, end in self.spans]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


class _Normalizer(nn.Module):
    """Standardises features; the moments are those of the training data, and are never learnt."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(features), requires_grad=False)
        self.std = nn.Parameter(torch.ones(features), requires_grad=False)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return torch.where(mask, (x - self.mean) / self.std, 0.0)


class _EmbeddingStack(nn.Module):
    """Blocks that double the width until it is nearly that of the network, and one up to it."""

    def __init__(self, options: SpanetOptions, features: int) -> None:
        super().__init__()
        width = options.initial_embedding_dim
        widths = [features, width]
        while 2 * width < options.hidden_dim and len(widths) - 2 < options.num_embedding_layers:
            width *= 2
            widths.append(width)
        widths.append(options.hidden_dim)
        self.embedding_layers = nn.ModuleList(
            make_block(options, low, high, skip=options.initial_embedding_skip_connections)
            for low, high in pairwise(widths)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return apply_all(self.embedding_layers, x, mask)


class _SequentialEmbedding(nn.Module):
    def __init__(self, options: SpanetOptions, features: int) -> None:
        super().__init__()
        self.embedding_stack = _EmbeddingStack(options, features)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        embedded: Tensor = self.embedding_stack(x, mask[..., None])
        return embedded


class _GlobalEmbedding(nn.Module):
    def __init__(self, options: SpanetOptions, features: int) -> None:
        super().__init__()
        self.embedding = _SequentialEmbedding(options, features)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        embedded: Tensor = self.embedding(x, mask)
        return embedded


class _RelativeEmbedding(nn.Module):
    """Each object attends to all its pairs."""

    def __init__(self, options: SpanetOptions, features: int) -> None:
        super().__init__()
        width = options.hidden_dim
        self.shared_embedding_stack = _EmbeddingStack(options, features)
        self.shared_embedding_norm = nn.LayerNorm(width)
        self.query_embedding = nn.Linear(width, width, bias=False)
        self.key_embedding = nn.Linear(width, width, bias=False)
        self.value_embedding = nn.Linear(width, width, bias=False)
        self.output = make_block(options, width, width, skip=options.skip_connections)
        self.scale = 1 / math.sqrt(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        pair_mask = mask[:, :, None] & mask[:, None, :]
        pairs = self.shared_embedding_norm(self.shared_embedding_stack(x, pair_mask[..., None]))
        diagonal = torch.diagonal(pairs, dim1=1, dim2=2).transpose(1, 2)
        query = self.query_embedding(diagonal)
        scores = torch.einsum("brd,brcd->brc", query, self.key_embedding(pairs)) * self.scale
        itself = torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
        weights = torch.softmax(scores.masked_fill(~(pair_mask | itself), -torch.inf), -1)
        mixed = torch.einsum("brc,brcd->brd", weights, self.value_embedding(pairs))
        out: Tensor = self.output(mixed, mask[..., None])
        return out


class _Position(nn.Module):
    """The learnt vector that says which input a position belongs to."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.position_embedding = nn.Parameter(torch.randn(1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.position_embedding.expand(*x.shape[:2], -1)], -1)


_EMBEDDINGS: dict[str, type[nn.Module]] = {
    "sequential": _SequentialEmbedding,
    "global": _GlobalEmbedding,
    "relative": _RelativeEmbedding,
}


class _VectorEmbedding(nn.Module):
    """One input: normalised, embedded, and marked with its learnt vector."""

    def __init__(self, options: SpanetOptions, source: SpanetInput) -> None:
        super().__init__()
        self.kind = source.kind
        self.fill = not options.mask_sequence_vectors and source.kind != "relative"
        self.normalizer = _Normalizer(source.features)
        self.vector_embeddings = _EMBEDDINGS[source.kind](options, source.features)
        self.position_embedding = _Position(options.position_embedding_dim)

    def forward(self, source: Source) -> tuple[Tensor, Tensor]:
        mask = source.mask
        within = mask[:, :, None] & mask[:, None, :] if self.kind == "relative" else mask
        values = self.normalizer(source.values, within[..., None])
        filled = torch.ones_like(mask) if self.fill else mask
        return self.position_embedding(self.vector_embeddings(values, filled)), filled


class InputEmbedding(nn.Module):
    """All inputs of an event as one sequence of vectors of the network's width."""

    def __init__(self, options: SpanetOptions, topology: Topology) -> None:
        super().__init__()
        self.names = tuple(each.name for each in topology.inputs)
        self.reconstructable = tuple(each.kind != "global" for each in topology.inputs)
        self.vector_embedding_layers = nn.ModuleList(
            _VectorEmbedding(options, each) for each in topology.inputs
        )
        self.final_embedding_layer = make_block(
            options,
            options.hidden_dim + options.position_embedding_dim,
            options.hidden_dim,
            skip=options.skip_connections,
        )

    def forward(self, sources: Mapping[str, Source]) -> Embedded:
        """Embed the inputs of a batch, given by name."""
        vectors, masks, filled, spans, start = [], [], [], [], 0
        for name, layer, can in zip(
            self.names, self.vector_embedding_layers, self.reconstructable, strict=True
        ):
            vector, computed = layer(sources[name])
            vectors.append(vector)
            masks.append(sources[name].mask)
            filled.append(computed)
            end = start + computed.shape[1]
            if can:
                spans.append((start, end))
            start = end
        computed = torch.cat(filled, 1)
        sequence = self.final_embedding_layer(torch.cat(vectors, 1), computed[..., None])
        return Embedded(sequence, torch.cat(masks, 1), computed, tuple(spans))
