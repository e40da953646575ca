"""Compute on real objects only: all of a batch as one list of rows, without padding.

What acts on each object alone (linear layers, norms, activations) costs as much as there are real
objects. Only inside the attention the rows are brought back into a table of events, as wide as the
longest of them. There, torch's softmax and fused attention are several times slower for fewer than
16 keys than for 16, so that the table of the keys is filled up to a multiple of 16.

The results are those of padded tensors, to rounding. This is for CPUs; a GPU is better served by
padded tensors and fused attention.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from hepset.nn.exporting import is_exporting

__all__ = ["MOST_KEYS", "Packing", "can_pack", "packed_attention"]

MOST_KEYS = 64
"""Objects of an event above which the weights of the attention take too much memory."""
_VECTOR = 16
"""Numbers that the softmax takes at a time."""
_NEVER = -1e30
"""Added to the score of what is not there."""
_CACHED = 2048
"""Vectors of one head that are treated at a time."""


def can_pack(x: Tensor) -> bool:
    """Tell whether packing is possible and pays: 32-bit numbers on a CPU, eager computation."""
    on_cpu = x.device.type == "cpu" and x.dtype == torch.float32
    return on_cpu and not is_exporting() and not torch.is_autocast_enabled("cpu")


@dataclass(frozen=True)
class Packing:
    """Where the rows of a batch belong.

    Attributes:
        rows: Number of each row among all (event, slot), ``(R,)``; in any order.
        batch: Number of events.
        slots: Number of slots of an event.
        width: Real objects of the longest event, at least 1.
        places: Place of each row in the table (event, width), ``(R,)``.
        table: Row at each place of that table, 0 where there is none, ``(batch * width,)``.
        lengths: Real objects of each event, ``(batch,)``.
    """

    rows: Tensor
    batch: int
    slots: int
    width: int
    places: Tensor
    table: Tensor
    lengths: Tensor
    _by_head: dict[int, _ByHead] = field(default_factory=dict)

    @classmethod
    def of(cls, mask: Tensor, rows: Tensor | None = None) -> Self:
        """Find the real objects of a batch.

        Args:
            mask: True = real, ``(batch, slots)``.
            rows: All real objects as numbers among (event, slot), in the wanted order; event by
                event where None.
        """
        batch, slots = mask.shape
        if rows is None:
            rows = mask.flatten().nonzero()[:, 0]
        rank = mask.cumsum(1)
        width = max(int(rank[:, -1].max()), 1) if mask.numel() else 1
        events = torch.div(rows, max(slots, 1), rounding_mode="floor")
        places = events * width + rank.flatten().index_select(0, rows) - 1
        table = torch.zeros(batch * width, dtype=torch.int64, device=mask.device)
        table[places] = torch.arange(len(rows), device=mask.device)
        return cls(rows, batch, slots, width, places, table, mask.sum(1))

    def take(self, x: Tensor) -> Tensor:
        """Return the rows ``(R, ...)`` of a padded tensor ``(batch, slots, ...)``."""
        taken: Tensor = _Take.apply(x.flatten(0, 1), self.rows)  # type: ignore[no-untyped-call]
        return taken

    def put(self, x: Tensor) -> Tensor:
        """Return ``(copies, batch, slots, ...)`` of rows ``(copies, R, ...)``, 0 elsewhere."""
        empty = x.new_zeros((x.shape[0], self.batch * self.slots, *x.shape[2:]))
        full = empty.index_copy(1, self.rows, x)
        return torch.unflatten(full, 1, (self.batch, self.slots))

    def by_head(self, heads: int) -> _ByHead:
        """Return where the vectors of each head go, worked out once."""
        if heads not in self._by_head:
            self._by_head[heads] = self._vectors(heads)
        return self._by_head[heads]

    def _vectors(self, heads: int) -> _ByHead:
        head = torch.arange(heads)[:, None]
        table = self.table.view(self.batch, 1, self.width)
        order = torch.argsort(self.lengths, stable=True)
        parts = []
        back = torch.zeros(self.batch, self.width, heads, dtype=torch.int64)
        of_key = torch.zeros_like(back)
        queries = keys = 0
        for events, width in _similar(order, self.lengths.index_select(0, order), heads):
            filled = -(-width // _VECTOR) * _VECTOR
            row = table.index_select(0, events)[:, :, :width]
            key = ((functional.pad(row, (0, filled - width)) * 3 + 1) * heads + head).flatten()
            length = self.lengths.index_select(0, events)
            there = torch.arange(filled) < length[:, None]
            bias = torch.where(there, 0.0, _NEVER)[:, None].repeat_interleave(heads, 0)
            real = there[:, None, :width].expand(-1, heads, -1).reshape(-1, 1).float()
            spans = [
                slice(begin, begin + len(events) * heads * n)
                for begin, n in ((queries, width), (keys, filled))
            ]
            for target, begin, n in ((back, queries, width), (of_key, keys, filled)):
                number = torch.arange(len(events) * heads).view(-1, 1, heads) * n
                target[events, :width] = begin + number + torch.arange(width)[:, None]
            parts.append(
                _Part(
                    width,
                    (row * 3 * heads + head).flatten(),
                    key,
                    key + heads,
                    (row * heads + head).flatten(),
                    real,
                    bias,
                    spans[0],
                    spans[1],
                )
            )
            queries, keys = spans[0].stop, spans[1].stop
        own_back, own_key = (
            each.flatten(0, 1).index_select(0, self.places) for each in (back, of_key)
        )
        inverse = torch.stack([own_back, queries + own_key, queries + keys + own_key], 1)
        return _ByHead(parts, own_back.flatten(), inverse.flatten(), queries, keys)


def _similar(order: Tensor, lengths: Tensor, heads: int) -> Iterator[tuple[Tensor, int]]:
    """Split events, in the order of their lengths, into parts that fit into the cache.

    Returns:
        Events, and the length of the longest.
    """
    ordered = lengths.tolist()
    start = 0
    while start < len(ordered):
        filled = -(-max(ordered[start], 1) // _VECTOR) * _VECTOR
        stop = start + max(_CACHED // (heads * filled), 1)
        stop = min(stop, bisect_right(ordered, filled))
        yield order[start:stop], max(ordered[stop - 1], 1)
        start = stop


class _Take(torch.autograd.Function):
    """Rows of a tensor, each at most once: the gradient is written, not added up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor) -> Tensor:  # noqa: ANN401  torch's context
        ctx.save_for_backward(rows)
        ctx.shape = x.shape
        return x.index_select(0, rows)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # noqa: ANN401
        (rows,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.shape).index_copy_(0, rows, gradient), None


def packed_attention(
    projected: Tensor, packing: Packing, heads: int, dropout: float = 0.0
) -> Tensor:
    """Scaled dot-product self-attention of rows, within events.

    Args:
        projected: Queries, keys and values of width D beside each other, ``(copies, R, 3 D)``.
        packing: Which rows belong to one event.
        heads: Attention heads, which divide D.
        dropout: Probability of dropout of attention weights.

    Returns:
        ``(copies, R, D)``.
    """
    if projected.shape[1] == 0:
        return projected.chunk(3, -1)[0]
    mixed: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        projected, packing, heads, dropout
    )
    return mixed


class _Attention(torch.autograd.Function):
    """Attention with a gradient by hand.

    Vectors of one head are gathered from the rows into (event, head, place), and back: every copy
    is one gather, and nothing has to be added up. Some events are treated at a time, so that all
    that is intermediate stays in the cache; it is gathered again for the gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        projected: Tensor,
        packing: Packing,
        heads: int,
        dropout: float,
    ) -> Tensor:
        copies, rows, width = projected.shape
        depth = width // (3 * heads)
        where = packing.by_head(heads)
        vectors = projected.reshape(copies, rows * 3 * heads, depth)
        mixed = vectors.new_empty(copies, where.queries, depth)
        all_weights, kept = [], []
        scale = 1 / math.sqrt(depth)
        for copy in range(copies):
            for part in where.parts:
                query, key, value = part.gather(vectors[copy])
                scores = torch.baddbmm(part.bias, query, key.transpose(1, 2), alpha=scale)
                weights = dropped = torch.softmax(scores, -1)
                if dropout > 0:
                    keep = torch.empty_like(weights).bernoulli_(1 - dropout).div_(1 - dropout)
                    kept.append(keep)
                    dropped = weights * keep
                torch.bmm(dropped, value, out=mixed[copy, part.span].view(query.shape))
                all_weights.append(weights)
        ctx.where, ctx.heads, ctx.scale = where, heads, scale
        ctx.save_for_backward(vectors, *all_weights, *kept)
        return mixed.index_select(1, where.back).view(copies, rows, heads * depth)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        where, heads = ctx.where, ctx.heads
        vectors, *saved = ctx.saved_tensors
        copies, rows, width = gradient.shape
        depth = vectors.shape[-1]
        count = copies * len(where.parts)
        given_rows = gradient.reshape(copies, rows * heads, depth)
        queries, keys = where.queries, where.keys
        found = gradient.new_empty(copies, queries + 2 * keys, depth)
        for number in range(count):
            copy, part = number // len(where.parts), where.parts[number % len(where.parts)]
            weights = dropped = saved[number]
            query, key, value = part.gather(vectors[copy])
            given = given_rows[copy].index_select(0, part.gradient)
            # Places without a row have no gradient.
            given = given.mul_(part.real).view(query.shape)
            d_weights = torch.bmm(given, value.transpose(1, 2))
            if len(saved) > count:
                d_weights, dropped = (
                    d_weights.mul_(saved[count + number]),
                    (weights * saved[count + number]),
                )
            d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype)
            d_scores.mul_(ctx.scale)
            own = found[copy]
            first = slice(queries + part.key_span.start, queries + part.key_span.stop)
            second = slice(first.start + keys, first.stop + keys)
            torch.bmm(d_scores, key, out=own[part.span].view(query.shape))
            torch.bmm(d_scores.transpose(1, 2), query, out=own[first].view(key.shape))
            torch.bmm(dropped.transpose(1, 2), given, out=own[second].view(key.shape))
        projected = found.index_select(1, where.inverse).view(copies, rows, 3 * width)
        return projected, None, None, None


class _Part(NamedTuple):
    """Some events, and which vectors go there; vectors are counted by row, part and head."""

    width: int
    """Places of an event."""
    query: Tensor
    """Vector at each (event, head, place)."""
    key: Tensor
    """Key at each (event, head, key)."""
    value: Tensor
    """Value at each (event, head, key)."""
    gradient: Tensor
    """Vector of the result at each (event, head, place)."""
    real: Tensor
    """1 where there is a row at (event, head, place), else 0."""
    bias: Tensor
    """Added to the scores, (event and head, 1, keys)."""
    span: slice
    """Where its (event, head, place) are among those of all events."""
    key_span: slice
    """Where its (event, head, key) are."""

    def gather(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values by event and head."""
        depth, keys = vectors.shape[-1], self.bias.shape[-1]
        return (
            vectors.index_select(0, self.query).view(-1, self.width, depth),
            vectors.index_select(0, self.key).view(-1, keys, depth),
            vectors.index_select(0, self.value).view(-1, keys, depth),
        )


class _ByHead(NamedTuple):
    """Where the vectors of each head go."""

    parts: list[_Part]
    back: Tensor
    """(event, head, place) of each vector of the result."""
    inverse: Tensor
    """Place of each projected vector among all queries, then all keys, then all values."""
    queries: int
    """Number of (event, head, place)."""
    keys: int
    """Number of (event, head, key)."""
