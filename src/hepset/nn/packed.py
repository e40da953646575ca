"""Packed rows: the real objects of a batch as one list, without padding.

What acts on each object alone (linear layers, norms, activations) costs as much as there are real
objects. Inside the attention the rows of an event are brought together, and events of one length
are treated as one table, so that nothing is padded there either. Sums, means and largest values
over the objects of each event are those of `PackedRows`.

The results are those of padded tensors, to rounding. Which objects are real has to be known before
anything is computed, for which a GPU would be waited for at every step; it is better served by
padded tensors and fused attention, as `hepset.nn.attention.TransformerEncoder` does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from hepset.nn.export_mode import is_exporting
from hepset.nn.onednn import Linear, is_transformed, linear

__all__ = ["Group", "PackedRows", "can_pack", "on_real_objects", "packed_attention"]

_MOST_KEYS = 64
"""Objects of an event above which the weights of the attention take too much memory."""
_VECTOR = 16
"""Numbers that torch's softmax takes at a time; of fewer it is several times slower."""
_CACHED = 4096
"""Vectors of one head that are treated at a time."""


def can_pack(x: Tensor) -> bool:
    """Tell whether packing is possible and pays: 32-bit numbers on a CPU, eager computation."""
    on_cpu = x.device.type == "cpu" and x.dtype == torch.float32
    plain = not is_exporting() and not is_transformed()
    return on_cpu and plain and not torch.is_autocast_enabled("cpu")


def on_real_objects(function: Callable[[Tensor], Tensor], x: Tensor, mask: Tensor) -> Tensor:
    """Apply a function that treats every object alone, where that pays to real objects only.

    Args:
        function: Maps ``(..., F)`` to ``(..., D)``, such as an embedding.
        x: Shape ``(batch, slot, F)``.
        mask: True where the object is real, shape ``(batch, slot)``.

    Returns:
        Shape ``(batch, slot, D)``; anything in padded slots, 0 if they were left out.
    """
    if not can_pack(x) or not mask.numel():
        return function(x)
    rows = mask.flatten().nonzero()[:, 0]
    found = function(x.flatten(0, 1).index_select(0, rows))
    empty = found.new_zeros((mask.numel(), *found.shape[1:]))
    return torch.unflatten(empty.index_copy(0, rows, found), 0, mask.shape)


class Group(NamedTuple):
    """Events of one length.

    Attributes:
        events: Their numbers, ``(E,)``.
        rows: The rows of each, ``(E, L)``.
    """

    events: Tensor
    rows: Tensor


@dataclass(frozen=True)
class PackedRows:
    """Which rows are the real objects of which event.

    Attributes:
        rows: Number of each row among all (event, slot), ``(R,)``; in any order.
        batch: Number of events.
        slots: Number of slots of an event.
        width: Real objects of the longest event, at least 1.
        table: Row at each (event, place), 0 where there is none, ``(batch * width,)``.
        lengths: Real objects of each event, ``(batch,)``.
    """

    rows: Tensor
    batch: int
    slots: int
    width: int
    table: Tensor
    lengths: Tensor
    _by_head: dict[tuple[int, int], _ByHead] = field(default_factory=dict)

    @classmethod
    def of(cls, mask: Tensor, rows: Tensor | None = None) -> Self:
        """Find the real objects of a batch.

        Args:
            mask: True = real, ``(batch, slot)``.
            rows: All real objects as numbers among (event, slot), in the wanted order. Where None,
                events of one length are beside each other, as the attention takes them.
        """
        batch, slots = mask.shape
        lengths = mask.sum(1)
        if rows is None:
            rows = mask.flatten().nonzero()[:, 0]
            length = lengths.index_select(0, torch.div(rows, max(slots, 1), rounding_mode="floor"))
            rows = rows.index_select(0, torch.argsort(length, stable=True))
        width = max(int(lengths.max()), 1) if mask.numel() else 1
        events = torch.div(rows, max(slots, 1), rounding_mode="floor")
        places = events * width + mask.cumsum(1).flatten().index_select(0, rows) - 1
        table = torch.zeros(batch * width, dtype=torch.int64, device=mask.device)
        table[places] = torch.arange(len(rows), device=mask.device)
        return cls(rows, batch, slots, width, table, lengths)

    @cached_property
    def events(self) -> Tensor:
        """Event of each row, ``(R,)``."""
        return torch.div(self.rows, max(self.slots, 1), rounding_mode="floor")

    @cached_property
    def groups(self) -> list[Group]:
        """The events of each length that occurs but 0, shortest first."""
        table = self.table.view(self.batch, self.width)
        return [
            Group(events, table.index_select(0, events)[:, :length])
            for events, length in _alike(self.lengths)
        ]

    @cached_property
    def _grouped(self) -> tuple[Tensor, Tensor]:
        """Rows in the order of `groups`, and the place of each row there."""
        order = torch.cat([group.rows.flatten() for group in self.groups])
        return order, torch.argsort(order)

    def take(self, x: Tensor) -> Tensor:
        """Return the rows ``(R, ...)`` of a padded tensor ``(batch, slot, ...)``."""
        return _take(x.flatten(0, 1), self.rows)

    def put(self, x: Tensor) -> Tensor:
        """Return the padded tensor ``(batch, slot, ...)`` of rows ``(R, ...)``, 0 elsewhere."""
        empty = x.new_zeros((self.batch * self.slots, *x.shape[1:]))
        return torch.unflatten(empty.index_copy(0, self.rows, x), 0, (self.batch, self.slots))

    def spread(self, x: Tensor) -> Tensor:
        """Give every row ``(R, ...)`` what belongs to its event, ``(batch, ...)``."""
        return x.index_select(0, self.events)

    def sum(self, x: Tensor) -> Tensor:
        """Sum rows ``(R, ...)`` over the objects of each event, ``(batch, ...)``."""
        return x.new_zeros((self.batch, *x.shape[1:])).index_add(0, self.events, x)

    def mean(self, x: Tensor) -> Tensor:
        """Average rows ``(R, ...)`` over the objects of each event; 0 without any."""
        count = self.lengths.clamp(min=1).to(x.dtype)
        return self.sum(x) / count.reshape(-1, *[1] * (x.dim() - 1))

    def max(self, x: Tensor) -> Tensor:
        """Return the largest of the rows ``(R, ...)`` of each event; 0 without any.

        Equally large ones share the gradient.
        """
        index = self.events.reshape(-1, *[1] * (x.dim() - 1)).expand_as(x)
        empty = x.new_zeros((self.batch, *x.shape[1:]))
        return empty.scatter_reduce(0, index, x, "amax", include_self=False)

    def attend(
        self,
        x: Tensor,
        query: Linear,
        key_value: Linear,
        heads: int,
        *,
        dropout: float = 0.0,
        bias: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Let every object look at those of its event.

        Args:
            x: Rows, ``(R, D)``.
            query: Makes the queries.
            key_value: Makes the keys, and then the values.
            heads: Attention heads.
            dropout: Probability of dropout of attention weights.
            bias: Added to the logits; per group ``(E, head or 1, L, L)``.

        Returns:
            ``(R, D)``.
        """
        weight = torch.cat([query.weight, key_value.weight])
        projected = linear(x, weight, torch.cat([query.bias, key_value.bias]))
        return packed_attention(projected[None], self, heads, dropout, bias)[0]

    def by_head(self, heads: int, copies: int = 1) -> _ByHead:
        """Return where the vectors of each head go, worked out once."""
        key = heads, copies
        if key not in self._by_head:
            self._by_head[key] = self._vectors(heads, copies)
        return self._by_head[key]

    def _vectors(self, heads: int, copies: int) -> _ByHead:
        count = len(self.rows)
        copy = torch.arange(copies)[:, None, None, None] * count
        head = torch.arange(heads)[:, None]
        third = torch.arange(3)[:, None] * heads
        table = self.table.view(self.batch, 1, self.width)
        parts = []
        back = torch.zeros(copies * count * heads, dtype=torch.int64)
        inverse = torch.zeros(3 * len(back), dtype=torch.int64)
        start = 0
        for events, length in _alike(self.lengths, copies * heads):
            row = copy + table.index_select(0, events)[None, :, :, :length]
            own = (row * heads + head).flatten()
            projected = ((row * 3 * heads + head).flatten() + third).flatten()
            stop = start + len(own)
            back[own] = torch.arange(start, stop)
            inverse[projected] = torch.arange(3 * start, 3 * stop)
            parts.append(_Part(length, projected, own, slice(start, stop)))
            start = stop
        return _ByHead(parts, back, inverse)


def _alike(lengths: Tensor, vectors: int | None = None) -> Iterator[tuple[Tensor, int]]:
    """Split events into parts of one length.

    Args:
        lengths: Objects of each event; events without any are left out.
        vectors: Vectors of an object, of which a part is to fit into the cache.

    Returns:
        Events, and their length.
    """
    order = torch.argsort(lengths, stable=True)
    values, counts = torch.unique_consecutive(lengths.index_select(0, order), return_counts=True)
    start = 0
    for length, count in zip(values.tolist(), counts.tolist(), strict=True):
        events = order[start : start + count]
        start += count
        if length:
            most = len(events) if vectors is None else max(_CACHED // (vectors * length), 1)
            for part in events.split(most):
                yield part, length


def _take(x: Tensor, rows: Tensor) -> Tensor:
    """Rows of a tensor, each at most once."""
    taken: Tensor = _Take.apply(x, rows)  # type: ignore[no-untyped-call]
    return taken


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
    projected: Tensor,
    packed: PackedRows,
    heads: int,
    dropout: float = 0.0,
    bias: Sequence[Tensor] | None = None,
) -> Tensor:
    """Scaled dot-product self-attention of rows, within events.

    Args:
        projected: Queries, keys and values of width D beside each other, ``(copies, R, 3 D)``.
        packed: Which rows belong to one event.
        heads: Attention heads, which divide D.
        dropout: Probability of dropout of attention weights.
        bias: Added to the logits; per group of `packed` ``(copies * E, head or 1, L, L)``.

    Returns:
        ``(copies, R, D)``.
    """
    if projected.shape[1] == 0:
        return projected.chunk(3, -1)[0]
    if bias is not None or packed.width > _MOST_KEYS:
        return _by_length(projected, packed, heads, dropout, bias)
    mixed: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        projected, packed, heads, dropout
    )
    return mixed


def _by_length(
    projected: Tensor,
    packed: PackedRows,
    heads: int,
    dropout: float,
    bias: Sequence[Tensor] | None,
) -> Tensor:
    """Attend by torch's own function; without a bias it keeps no weights."""
    copies = len(projected)
    order, back = packed._grouped
    beside = _take(projected.transpose(0, 1), order)
    parts = beside.split([group.rows.numel() for group in packed.groups])
    found = []
    for number, (part, group) in enumerate(zip(parts, packed.groups, strict=True)):
        events, length = group.rows.shape
        # (event, object, copy, third, head, depth)
        vectors = part.reshape(events, length, copies, 3, heads, -1)
        query, key, value = vectors.permute(3, 2, 0, 4, 1, 5).flatten(1, 2).unbind(0)
        mixed = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=None if bias is None else bias[number],
            dropout_p=dropout,
        )
        mixed = torch.unflatten(mixed, 0, (copies, events)).permute(1, 3, 0, 2, 4)
        found.append(mixed.reshape(events * length, copies, -1))
    return _take(torch.cat(found), back).transpose(0, 1)


class _Attention(torch.autograd.Function):
    """Attention with a gradient by hand.

    Vectors of one head are gathered from the rows into (copy, event, head, place), and back: every
    copy is one gather, and nothing has to be added up. Events of one length are treated together,
    so that nothing is padded, some of them at a time, so that all that is intermediate stays in the
    cache; it is gathered again for the gradient.
    """

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401
        projected: Tensor,
        packed: PackedRows,
        heads: int,
        dropout: float,
    ) -> Tensor:
        copies, rows, width = projected.shape
        depth = width // (3 * heads)
        where = packed.by_head(heads, copies)
        vectors = projected.reshape(-1, depth)
        mixed = vectors.new_empty(copies * rows * heads, depth)
        all_weights, kept = [], []
        scale = 1 / math.sqrt(depth)
        for part in where.parts:
            query, key, value = part.gather(vectors)
            weights = dropped = _softmax(torch.bmm(query, key.transpose(1, 2)), scale)
            if dropout > 0:
                keep = torch.empty_like(weights).bernoulli_(1 - dropout).div_(1 - dropout)
                kept.append(keep)
                dropped = weights * keep
            torch.bmm(dropped, value, out=mixed[part.span].view(query.shape))
            all_weights.append(weights)
        ctx.where, ctx.heads, ctx.scale = where, heads, scale
        ctx.save_for_backward(vectors, *all_weights, *kept)
        return mixed.index_select(0, where.back).view(copies, rows, heads * depth)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        where, heads = ctx.where, ctx.heads
        vectors, *saved = ctx.saved_tensors
        copies, rows, width = gradient.shape
        depth = vectors.shape[-1]
        given_vectors = gradient.reshape(copies * rows * heads, depth)
        found = torch.empty_like(vectors)
        for number, part in enumerate(where.parts):
            weights = dropped = saved[number]
            query, key, value = part.gather(vectors)
            given = given_vectors.index_select(0, part.own).view(query.shape)
            d_weights = torch.bmm(given, value.transpose(1, 2))
            if len(saved) > len(where.parts):
                keep = saved[len(where.parts) + number]
                d_weights, dropped = d_weights.mul_(keep), weights * keep
            d_scores = _softmax_backward(d_weights, weights).mul_(ctx.scale)
            d_query, d_key, d_value = part.thirds(found)
            torch.bmm(d_scores, key, out=d_query)
            torch.bmm(d_scores.transpose(1, 2), query, out=d_key)
            torch.bmm(dropped.transpose(1, 2), given, out=d_value)
        projected = found.index_select(0, where.inverse).view(copies, rows, 3 * width)
        return projected, None, None, None


def _softmax(scores: Tensor, scale: float) -> Tensor:
    """Softmax of `scale` times the scores, (..., keys); the scores are overwritten."""
    keys = scores.shape[-1]
    if keys >= _VECTOR:
        return torch.softmax(scores.mul_(scale), -1)
    weights = scores.sub_(scores.amax(-1, keepdim=True)).mul_(scale).exp_()
    return weights.div_(weights @ weights.new_ones(keys, 1))


def _softmax_backward(gradient: Tensor, weights: Tensor) -> Tensor:
    """Gradient of the scores, given that of the weights, which is overwritten."""
    keys = weights.shape[-1]
    if keys >= _VECTOR:
        return torch._softmax_backward_data(gradient, weights, -1, weights.dtype)
    gradient.mul_(weights)
    return gradient.addcmul_(weights, gradient @ weights.new_ones(keys, 1), value=-1)


class _Part(NamedTuple):
    """Some events of one length, and which vectors go there; counted by copy, row and head."""

    length: int
    """Objects of an event."""
    projected: Tensor
    """Projected vector at each (query, key or value; copy, event, head, place)."""
    own: Tensor
    """Vector of the result at each (copy, event, head, place)."""
    span: slice
    """Where these are among those of all parts."""

    def gather(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values by event and head."""
        return self._split(vectors.index_select(0, self.projected))

    def thirds(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return where queries, keys and values are among those of all parts."""
        return self._split(vectors[3 * self.span.start : 3 * self.span.stop])

    def _split(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value = vectors.view(3, -1, self.length, vectors.shape[-1]).unbind(0)
        return query, key, value


class _ByHead(NamedTuple):
    """Where the vectors of each head go."""

    parts: list[_Part]
    back: Tensor
    """Place of each vector of the result among those of all parts."""
    inverse: Tensor
    """Place of each projected vector among those of all parts."""
