"""From inputs of several kinds to one sequence of vectors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from hepset.nn.packed import can_pack
from hepset_spanet.network.blocks import apply_all, make_block
from hepset_spanet.network.rows import AllRows, RealRows, Rows
from hepset_spanet.network.stacked import StackedLayerNorm, StackedLinear
from hepset_spanet.network.topology import SpanetInput, Topology
from hepset_spanet.options import SpanetOptions, folded

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
        x: ``(1, rows, D)``.
        rows: What the rows are.
        assignable: What those rows are that objects of sequential and relative inputs have.
        objects: Picks these rows, ``(copies, rows, D)``.
    """

    x: Tensor
    rows: Rows
    assignable: Rows
    objects: Callable[[Tensor], Tensor]


class _Normalizer(nn.Module):
    """Standardises features; the moments are those of the training data, and are never learnt."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(features), requires_grad=False)
        self.std = nn.Parameter(torch.ones(features), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


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
            make_block(options, 1, low, high, skip=options.initial_embedding_skip_connections)
            for low, high in pairwise(widths)
        )

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return apply_all(self.embedding_layers, x, mask)


class _SequentialEmbedding(nn.Module):
    def __init__(self, options: SpanetOptions, features: int) -> None:
        super().__init__()
        self.embedding_stack = _EmbeddingStack(options, features)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        embedded: Tensor = self.embedding_stack(x, mask)
        return embedded


class _GlobalEmbedding(nn.Module):
    def __init__(self, options: SpanetOptions, features: int) -> None:
        super().__init__()
        self.embedding = _SequentialEmbedding(options, features)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        embedded: Tensor = self.embedding(x, mask)
        return embedded


class _RelativeEmbedding(nn.Module):
    """Each object attends to all its pairs."""

    def __init__(self, options: SpanetOptions, features: int) -> None:
        super().__init__()
        width = options.hidden_dim
        self.shared_embedding_stack = _EmbeddingStack(options, features)
        self.shared_embedding_norm = StackedLayerNorm(1, width)
        self.query_embedding = StackedLinear(1, width, width, bias=False)
        self.key_embedding = StackedLinear(1, width, width, bias=False)
        self.value_embedding = StackedLinear(1, width, width, bias=False)
        self.output = make_block(options, 1, width, width, skip=options.skip_connections)
        self.scale = 1 / math.sqrt(width)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Embed ``(B, N, N, F)`` with the mask ``(B, N)`` as ``(1, B * N, D)``."""
        batch, count = mask.shape
        pair_mask = mask[:, :, None] & mask[:, None, :]
        flat = self.shared_embedding_stack(
            x.reshape(1, batch * count * count, -1), pair_mask.reshape(-1, 1)
        )
        rows = self.shared_embedding_norm(flat)
        pairs = rows.reshape(batch, count, count, -1)
        diagonal = torch.diagonal(pairs, dim1=1, dim2=2).transpose(1, 2)
        query = self.query_embedding(diagonal.reshape(1, batch * count, -1))
        query = query.reshape(batch, count, -1)
        key = self.key_embedding(rows).reshape(pairs.shape)
        scores = torch.einsum("brd,brcd->brc", query, key) * self.scale
        itself = torch.eye(count, dtype=torch.bool, device=mask.device)
        weights = torch.softmax(scores.masked_fill(~(pair_mask | itself), -torch.inf), -1)
        value = self.value_embedding(rows).reshape(pairs.shape)
        mixed = torch.einsum("brc,brcd->brd", weights, value)
        out: Tensor = self.output(mixed.reshape(1, batch * count, -1), mask.reshape(-1, 1))
        return out


class _Position(nn.Module):
    """The learnt vector that says which input a position belongs to."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.position_embedding = nn.Parameter(torch.randn(1, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.position_embedding.expand(1, x.shape[1], -1)], -1)


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

    def filled(self, mask: Tensor) -> Tensor:
        """Where blocks compute."""
        return torch.ones_like(mask) if self.fill else mask

    def forward(self, source: Source, real: Tensor | None) -> Tensor:
        """Embed all positions, or those with the numbers `real` among (event, position)."""
        values, mask = source
        if self.kind == "relative":
            within = (mask[:, :, None] & mask[:, None, :])[..., None]
            normal = torch.where(within, self.normalizer(values), 0.0)
            x = self.vector_embeddings(normal, mask)
            x = x if real is None else x.index_select(1, real)
        elif real is None:
            normal = torch.where(mask[..., None], self.normalizer(values), 0.0)
            flat = normal.reshape(1, -1, values.shape[-1])
            x = self.vector_embeddings(flat, self.filled(mask).reshape(-1, 1))
        else:
            rows = values.flatten(0, 1).index_select(0, real)
            x = self.vector_embeddings(self.normalizer(rows)[None], None)
        marked: Tensor = self.position_embedding(x)
        return marked


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
            1,
            options.hidden_dim + options.position_embedding_dim,
            options.hidden_dim,
            skip=options.skip_connections,
        )
        # Otherwise padding is not zero, or takes part in the moments of a batch.
        self.pads_with_nothing = (
            options.mask_sequence_vectors
            and folded(options.masking) in {"filling", "multiplicative"}
            and folded(options.normalization) != "batchnorm"
        )

    def forward(self, sources: Mapping[str, Source]) -> Embedded:
        """Embed the inputs of a batch, given by name."""
        given = [sources[name] for name in self.names]
        mask = torch.cat([source.mask for source in given], 1)
        if self.pads_with_nothing and can_pack(given[0].values) and mask.numel():
            return self._real(given, mask)
        parts, fills = [], []
        for source, layer in zip(given, self.vector_embedding_layers, strict=True):
            assert isinstance(layer, _VectorEmbedding)
            fills.append(layer.filled(source.mask))
            x = layer(source, None)
            parts.append(x.reshape(*source.mask.shape, x.shape[-1]))
        filled = torch.cat(fills, 1)
        rows = AllRows(mask, filled)
        x = self.final_embedding_layer(torch.cat(parts, 1).flatten(0, 1)[None], rows.row_mask)
        if all(self.reconstructable):
            return Embedded(x, rows, rows, lambda x: x)
        assignable = AllRows(self._assignable(mask, given), self._assignable(filled, given))

        def objects(x: Tensor) -> Tensor:
            table = rows.padded(x).movedim(0, 2)
            return self._assignable(table, given).movedim(2, 0).flatten(1, 2)

        return Embedded(x, rows, assignable, objects)

    def _real(self, given: list[Source], mask: Tensor) -> Embedded:
        """Embed real positions only: first those that can be assigned, input by input."""
        total, start, before = mask.shape[1], 0, 0
        lengths = mask.sum(1)
        slots = sum(
            source.mask.shape[1]
            for source, can in zip(given, self.reconstructable, strict=True)
            if can
        )
        first: list[tuple[Tensor, Tensor]] = []
        last: list[tuple[Tensor, Tensor]] = []
        own = []
        for source, layer, can in zip(
            given, self.vector_embedding_layers, self.reconstructable, strict=True
        ):
            length = source.mask.shape[1]
            real = source.mask.flatten().nonzero()[:, 0]
            event = torch.div(real, max(length, 1), rounding_mode="floor")
            # Events of one length beside each other, as the attention takes them.
            order = torch.argsort(lengths.index_select(0, event), stable=True)
            real, event = real.index_select(0, order), event.index_select(0, order)
            place = real - event * length
            (first if can else last).append((layer(source, real), event * total + start + place))
            if can:
                own.append(event * slots + before + place)
                before += length
            start += length
        found, numbers = zip(*first, *last, strict=True)
        rows = RealRows(mask, torch.cat(numbers))
        x = self.final_embedding_layer(torch.cat(found, 1), None)
        if not last:
            return Embedded(x, rows, rows, lambda x: x)
        assignable = RealRows(self._assignable(mask, given), torch.cat(own))
        count = len(assignable.rows)
        return Embedded(x, rows, assignable, lambda x: x[:, :count])

    def _assignable(self, x: Tensor, given: list[Source]) -> Tensor:
        """The assignable positions of ``(B, T, ...)``, in order."""
        parts = x.split([source.mask.shape[1] for source in given], 1)
        kept = [part for part, can in zip(parts, self.reconstructable, strict=True) if can]
        return kept[0] if len(kept) == 1 else torch.cat(kept, 1)
