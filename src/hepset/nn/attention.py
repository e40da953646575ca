"""Transformer encoder for sets, and the pooling of a set into one vector.

`TransformerEncoder` takes padded sets and decides how their padding costs nothing: on a CPU real
objects become packed rows (`hepset.nn.packed`), on a GPU fused attention takes the mask.

Masks are boolean with True = real. A padded object never influences a real one, whatever its slot
holds (NaN included), and its own output is exactly 0. An event without any object is well-defined
everywhere: its outputs are 0, or, with extra tokens or pooling, those of the tokens alone. While a
model is exported, nothing depends on data in its control flow, so that all modules export to ONNX
with dynamic numbers of events and objects; torch takes tensors without any slot,
ONNX Runtime needs one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from hepset.errors import ConfigurationError
from hepset.nn.export_mode import is_exporting
from hepset.nn.graph_rows import GraphRows
from hepset.nn.onednn import Linear
from hepset.nn.packed import Group, PackedRows, can_pack

__all__ = [
    "AttentionPool",
    "EncodedTokens",
    "EncoderLayer",
    "FeedForward",
    "FeedForwardKind",
    "GivenBias",
    "MultiHeadAttention",
    "ObjectBias",
    "TransformerEncoder",
    "attention_logit_bias",
]

FeedForwardKind = Literal["gelu", "swiglu"]
"""Which network follows the attention in a layer."""


class ObjectBias(Protocol):
    """A bias of the attention between objects that is computed where it is needed."""

    def everywhere(self) -> Tensor:
        """Return the bias between all slots, ``(batch, head or 1, slot, slot)``."""

    def among(self, events: Tensor, slots: Tensor) -> Tensor:
        """Return it between some slots of some events.

        Args:
            events: Numbers of events, ``(E,)``.
            slots: Slots of each, ``(E, L)``.

        Returns:
            ``(E, head or 1, L, L)``.
        """


class GivenBias:
    """An `ObjectBias` that is there already, ``(batch, head or 1, slot, slot)``."""

    def __init__(self, bias: Tensor) -> None:
        self.bias = bias

    def everywhere(self) -> Tensor:
        """Return the bias between all slots."""
        return self.bias

    def among(self, events: Tensor, slots: Tensor) -> Tensor:
        """Return it between some slots ``(E, L)`` of some events ``(E,)``."""
        table = self.bias.movedim(1, -1)
        flat = (events[:, None, None] * table.shape[1] + slots[:, :, None]) * table.shape[2]
        found = table.flatten(0, 2).index_select(0, (flat + slots[:, None, :]).flatten())
        return torch.unflatten(found, 0, (*slots.shape, slots.shape[1])).movedim(-1, 1)


def attention_logit_bias(mask: Tensor, bias: Tensor | None = None) -> Tensor:
    """Combine a key mask and a bias into what `scaled_dot_product_attention` takes.

    Where no key is real, all keys are let in: a softmax over nothing is NaN in some runtimes. The
    caller zeroes such rows, or they belong to padding.

    Args:
        mask: True where the key is real, shape ``(batch, key)``.
        bias: Added to the logits, shape ``(batch, head or 1, query, key)``.

    Returns:
        Boolean ``(batch, 1, 1, key)`` without a bias, else float of the shape of `bias`.
    """
    allowed = (mask | ~mask.any(-1, keepdim=True))[:, None, None, :]
    if bias is None:
        return allowed
    return torch.where(allowed, bias, float("-inf"))


class MultiHeadAttention(nn.Module):
    """Scaled dot-product attention with a key mask and an optional additive bias.

    Args:
        width: Width of the tokens; a multiple of `heads`.
        heads: Attention heads.
        dropout: Probability of dropout of attention weights, in training.

    Raises:
        ConfigurationError: If the heads do not divide the width.
    """

    def __init__(self, width: int, heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            message = (
                f"{heads} attention heads do not divide the width {width}; "
                "choose a width that is a multiple of the heads"
            )
            raise ConfigurationError(message)
        self.heads = heads
        self.dropout = dropout
        self.query = Linear(width, width)
        self.key_value = Linear(width, 2 * width)
        self.out = Linear(width, width)

    def forward(
        self, query: Tensor, key: Tensor, mask: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """Let every query look at the real keys.

        Args:
            query: Shape ``(batch, query, width)``.
            key: What is looked at, finite everywhere, shape ``(batch, key, width)``.
            mask: True where the key is real, shape ``(batch, key)``.
            bias: Added to the logits, shape ``(batch, head or 1, query, key)``.

        Returns:
            Shape ``(batch, query, width)``; without meaning for events without a real key.
        """
        q = self._split(self.query(query))
        k, v = (self._split(part) for part in self.key_value(key).chunk(2, -1))
        attended = functional.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=attention_logit_bias(mask, bias),
            dropout_p=self.dropout if self.training else 0.0,
        )
        merged = attended.transpose(1, 2)
        if is_exporting():
            # The exporter replaces the attention by one whose output lies differently in memory.
            merged = merged.clone(memory_format=torch.contiguous_format)
        out: Tensor = self.out(merged.flatten(2))
        return out

    def within(
        self,
        x: Tensor,
        rows: PackedRows | GraphRows,
        bias: Any = None,  # noqa: ANN401  as the kind of rows takes it
    ) -> Tensor:
        """Let real objects look at those of their own event.

        Args:
            x: Real objects only, shape ``(row, width)``.
            rows: Which rows belong to one event.
            bias: Added to the logits, as the `attend` of `rows` takes it.

        Returns:
            Shape ``(row, width)``.
        """
        if isinstance(rows, GraphRows):
            mixed = rows.attend(x, self.query, self.key_value, self.heads, bias=bias)
        else:
            dropout = self.dropout if self.training else 0.0
            mixed = rows.attend(
                x, self.query, self.key_value, self.heads, dropout=dropout, bias=bias
            )
        out: Tensor = self.out(mixed)
        return out

    def _split(self, x: Tensor) -> Tensor:
        return torch.unflatten(x, -1, (self.heads, -1)).transpose(1, 2)


class FeedForward(nn.Module):
    """The network that follows the attention, on each token alone.

    Args:
        width: Width of the tokens.
        hidden: Width of the hidden layer.
        kind: ``gelu``: Linear, GELU, Linear. ``swiglu``: the first Linear is gated by the SiLU of
            another one (Shazeer, arXiv:2002.05202), half as many parameters again.
        dropout: Probability of dropout of the hidden layer, in training.

    Raises:
        ConfigurationError: If the kind is unknown.
    """

    def __init__(
        self, width: int, hidden: int, *, kind: FeedForwardKind = "gelu", dropout: float = 0.0
    ) -> None:
        super().__init__()
        if kind not in {"gelu", "swiglu"}:
            message = f"unknown feed-forward network {kind!r}; known: gelu, swiglu"
            raise ConfigurationError(message)
        self.kind = kind
        self.enter = Linear(width, hidden if kind == "gelu" else 2 * hidden)
        self.dropout = nn.Dropout(dropout)
        self.leave = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., width)`` to ``(..., width)``."""
        x = self.enter(x)
        if self.kind == "gelu":
            x = functional.gelu(x)
        else:
            value, gate = x.chunk(2, -1)
            x = value * functional.silu(gate)
        out: Tensor = self.leave(self.dropout(x))
        return out


class _LayerScale(nn.Module):
    """A learned factor per channel of a residual branch (CaiT, arXiv:2103.17239)."""

    def __init__(self, width: int, start: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((width,), start))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class EncoderLayer(nn.Module):
    """Pre-norm transformer layer: ``x + attend(norm(x))``, then ``x + feed_forward(norm(x))``.

    Args:
        width: Width of the tokens; a multiple of `heads`.
        heads: Attention heads.
        hidden: Hidden width of the feed-forward network, default ``4 width`` (``8/3 width``
            rounded up to a multiple of 8 for swiglu, the same number of parameters).
        feed_forward: Kind of the feed-forward network.
        layer_scale: Start value of a learned factor per channel on both branches; without it
            there is none.
        dropout: Probability of dropout of attention weights, hidden layer and both branches.
        condition_width: Width of what an event is conditioned by, 0 = nothing: both norms are then
            scaled by 1 + γ and shifted by β, linear functions of it that begin at 0 (FiLM,
            arXiv:1709.07871; adaptive layer norm).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        hidden: int | None = None,
        feed_forward: FeedForwardKind = "gelu",
        layer_scale: float | None = None,
        dropout: float = 0.0,
        condition_width: int = 0,
    ) -> None:
        super().__init__()
        if hidden is None:
            hidden = 4 * width if feed_forward == "gelu" else -(-width // 3) * 8
        self.attention_norm = nn.LayerNorm(width)
        self.attention = MultiHeadAttention(width, heads, dropout=dropout)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, hidden, kind=feed_forward, dropout=dropout)
        scaled = layer_scale is not None
        self.attention_scale = _LayerScale(width, layer_scale or 0.0) if scaled else nn.Identity()
        self.feed_forward_scale = (
            _LayerScale(width, layer_scale or 0.0) if scaled else nn.Identity()
        )
        self.dropout = nn.Dropout(dropout)
        self.modulation: nn.Linear | None = None
        if condition_width:
            self.modulation = nn.Linear(condition_width, 4 * width)
            nn.init.zeros_(self.modulation.weight)
            nn.init.zeros_(self.modulation.bias)

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        bias: Tensor | None = None,
        modulation: Tensor | None = None,
    ) -> Tensor:
        """Update the tokens.

        Args:
            x: Finite everywhere, shape ``(batch, token, width)``.
            mask: True where the token is real, shape ``(batch, token)``.
            bias: Added to the logits, shape ``(batch, head or 1, token, token)``.
            modulation: What `modulation` gives of the condition, ``(batch, 1, 4 width)``.

        Returns:
            Shape of `x`; exactly 0 where the token is padded.
        """
        normed = _modulated(self.attention_norm(x), modulation, 0)
        x = self._add(x, self.attention(normed, normed, mask, bias), modulation)
        return torch.where(mask[..., None], x, 0.0)

    def within(
        self,
        x: Tensor,
        rows: PackedRows | GraphRows,
        bias: Any = None,  # noqa: ANN401  as the kind of rows takes it
        modulation: Tensor | None = None,
    ) -> Tensor:
        """Update real objects only, shape ``(row, width)``; see `MultiHeadAttention.within`."""
        normed = _modulated(self.attention_norm(x), modulation, 0)
        return self._add(x, self.attention.within(normed, rows, bias), modulation)

    def _add(self, x: Tensor, attended: Tensor, modulation: Tensor | None) -> Tensor:
        """Add the attention's branch, and then that of the feed-forward network."""
        x = x + self.dropout(self.attention_scale(attended))
        branch = self.feed_forward(_modulated(self.feed_forward_norm(x), modulation, 1))
        out: Tensor = x + self.dropout(self.feed_forward_scale(branch))
        return out


def _modulated(x: Tensor, modulation: Tensor | None, number: int) -> Tensor:
    """Scale and shift by the first or second half of a modulation."""
    if modulation is None:
        return x
    scale, shift = modulation.chunk(2, -1)[number].chunk(2, -1)
    return x * (1 + scale) + shift


class EncodedTokens(NamedTuple):
    """What a `TransformerEncoder` gives."""

    objects: Tensor
    """Shape ``(batch, object, width)``; exactly 0 where the object is padded."""
    tokens: Tensor
    """The extra tokens, shape ``(batch, token, width)``; ``token`` is 0 if none were given."""


class TransformerEncoder(nn.Module):
    """A stack of `EncoderLayer` and a last LayerNorm.

    Permuting the objects of an event permutes their outputs; there is no position encoding.

    Args:
        width: Width of the objects; a multiple of `heads`.
        depth: Number of layers; 0 leaves the LayerNorm alone.
        heads: Attention heads.
        hidden: Hidden width of the feed-forward networks, see `EncoderLayer`.
        feed_forward: Kind of the feed-forward networks.
        layer_scale: Start value of a learned factor per channel, see `EncoderLayer`.
        dropout: Probability of dropout everywhere, in training.
        skip_padding: Whether a CPU computes real objects only. The outputs do not depend on it;
            without it there are gradients of gradients too.
        condition_width: Width of what an event is conditioned by, see `EncoderLayer`; 0 = nothing.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        *,
        hidden: int | None = None,
        feed_forward: FeedForwardKind = "gelu",
        layer_scale: float | None = None,
        dropout: float = 0.0,
        skip_padding: bool = True,
        condition_width: int = 0,
    ) -> None:
        super().__init__()
        self.skip_padding = skip_padding
        self.layers = nn.ModuleList(
            EncoderLayer(
                width,
                heads,
                hidden=hidden,
                feed_forward=feed_forward,
                layer_scale=layer_scale,
                dropout=dropout,
                condition_width=condition_width,
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        x: Tensor,
        mask: Tensor,
        *,
        bias: Tensor | ObjectBias | None = None,
        tokens: Tensor | None = None,
        tokens_mask: Tensor | None = None,
        condition: Tensor | None = None,
    ) -> EncodedTokens:
        """Encode the objects of events, together with extra tokens.

        Args:
            x: Objects, shape ``(batch, object, width)``; padded slots may hold anything.
            mask: True where the object is real, shape ``(batch, object)``.
            bias: Added to the logits between objects, shape ``(batch, head or 1, object,
                object)``, or what computes that; extra tokens have a bias of 0.
            tokens: Extra tokens, such as a class token or a global, that attend to all and are
                attended by all, shape ``(batch, token, width)``.
            tokens_mask: True where the token is present, shape ``(batch, token)``; all are
                without it.
            condition: What every layer is conditioned by, shape ``(batch, condition_width)``.
        """
        count = 0
        if tokens is not None:
            count = tokens.shape[1]
            if tokens_mask is None:
                tokens_mask = mask.new_ones(()).expand(tokens.shape[:2])
            x = torch.cat([tokens, x], 1)
            mask = torch.cat([tokens_mask, mask], 1)
        given = GivenBias(bias) if isinstance(bias, Tensor) else bias
        if self.skip_padding and can_pack(x) and mask.numel():
            x = self._packed(x, mask, given, count, condition)
        else:
            whole = None if given is None else given.everywhere()
            if whole is not None and count:
                whole = functional.pad(whole, (count, 0, count, 0))
            x = torch.where(mask[..., None], self._encode(x, mask, whole, condition), 0.0)
        return EncodedTokens(x[:, count:], x[:, :count])

    def for_export(self) -> TransformerEncoder:
        """Return the same encoder, with the same parameters, in the form that suits a graph."""
        return _EncoderInGraph(self)

    def within(
        self,
        x: Tensor,
        rows: PackedRows | GraphRows,
        bias: Any = None,  # noqa: ANN401  as the kind of rows takes it
        modulations: Sequence[Tensor | None] | None = None,
    ) -> Tensor:
        """Encode real objects only, extra tokens among them.

        Args:
            x: Shape ``(row, width)``.
            rows: Which rows belong to one event.
            bias: Added to the logits, as the `attend` of `rows` takes it.
            modulations: What each layer's condition gives, ``(row, 4 width)``.

        Returns:
            Shape of `x`.
        """
        for layer, modulation in zip(self.layers, self._each(modulations), strict=True):
            assert isinstance(layer, EncoderLayer)
            x = layer.within(x, rows, bias, modulation)
        out: Tensor = self.norm(x)
        return out

    def _each(self, modulations: Sequence[Tensor | None] | None) -> Sequence[Tensor | None]:
        return [None] * len(self.layers) if modulations is None else modulations

    def _modulations(self, condition: Tensor | None) -> list[Tensor | None]:
        """What each layer's condition gives, ``(batch, 1, 4 width)``."""
        found: list[Tensor | None] = []
        for layer in self.layers:
            assert isinstance(layer, EncoderLayer)
            given = condition is not None and layer.modulation is not None
            found.append(layer.modulation(condition)[:, None] if given else None)  # type: ignore[misc]
        return found

    def _of_rows(
        self, condition: Tensor | None, rows: PackedRows | GraphRows, slots: int
    ) -> list[Tensor | None]:
        """The same for every real object, ``(row, 4 width)``."""
        return [
            None if part is None else rows.take(part.expand(-1, slots, -1))
            for part in self._modulations(condition)
        ]

    def _encode(
        self, x: Tensor, mask: Tensor, bias: Tensor | None, condition: Tensor | None
    ) -> Tensor:
        """Encode all slots; padded ones hold anything then."""
        x = torch.where(mask[..., None], x, 0.0)
        for layer, modulation in zip(self.layers, self._modulations(condition), strict=True):
            x = layer(x, mask, bias, modulation)
        out: Tensor = self.norm(x)
        return out

    def _packed(
        self,
        x: Tensor,
        mask: Tensor,
        bias: ObjectBias | None,
        tokens: int,
        condition: Tensor | None,
    ) -> Tensor:
        """Encode real objects as packed rows; the first `tokens` slots have no bias."""
        rows = PackedRows.of(mask)
        added = None
        if bias is not None and mask.shape[1] > tokens:
            added = [_bias_of(group, rows, bias, tokens) for group in rows.groups]
        modulations = self._of_rows(condition, rows, mask.shape[1])
        return rows.put(self.within(rows.take(x), rows, added, modulations))


def _bias_of(group: Group, rows: PackedRows, bias: ObjectBias, tokens: int) -> Tensor:
    """Bias of the events of one length, ``(E, head or 1, L, L)``; 0 for the first slots."""
    slots = rows.rows.index_select(0, group.rows.flatten()).reshape(group.rows.shape)
    slots = slots - group.events[:, None] * rows.slots - tokens
    found = bias.among(group.events, slots.clamp(min=0))
    if not tokens:
        return found
    objects = slots >= 0
    return torch.where((objects[:, :, None] & objects[:, None, :])[:, None], found, 0.0)


class _EncoderInGraph(TransformerEncoder):
    """The encoder on real objects only, by operations that ONNX Runtime fuses."""

    def __init__(self, encoder: TransformerEncoder) -> None:
        nn.Module.__init__(self)
        self.skip_padding = False
        self.layers, self.norm = encoder.layers, encoder.norm
        self.train(encoder.training)

    def _encode(
        self, x: Tensor, mask: Tensor, bias: Tensor | None, condition: Tensor | None
    ) -> Tensor:
        # A bias is by slots, which have to be the places then.
        rows = GraphRows.of(mask, trim=bias is None)
        added = rows.bias if bias is None else rows.bias + bias
        modulations = self._of_rows(condition, rows, mask.shape[1])
        return rows.put(self.within(rows.take(x), rows, added, modulations))


class AttentionPool(nn.Module):
    """Pool a set into one vector with a learned query, as in class attention (arXiv:2103.17239).

    The query looks at the real objects and at itself, so that an event without objects gives a
    learned vector, and the number of objects can be felt.

    Args:
        width: Width of the objects; a multiple of `heads`.
        heads: Attention heads.
        hidden: Hidden width of the feed-forward network, default ``4 width``.
        dropout: Probability of dropout of attention weights and hidden layer.
    """

    def __init__(
        self, width: int, heads: int, *, hidden: int | None = None, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, 1, width))
        nn.init.trunc_normal_(self.query, std=0.02)
        self.attention_norm = nn.LayerNorm(width)
        self.attention = MultiHeadAttention(width, heads, dropout=dropout)
        self.feed_forward_norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, hidden or 4 * width, dropout=dropout)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor, context: Tensor | None = None) -> Tensor:
        """Pool objects ``(batch, object, width)`` into ``(batch, width)``.

        Args:
            x: Objects; padded slots may hold anything.
            mask: True where the object is real, shape ``(batch, object)``.
            context: Added to the learned query, shape ``(batch, width)``.
        """
        query = self.query.expand(x.shape[0], 1, -1)
        if context is not None:
            query = query + context[:, None]
        everything = torch.cat([query, torch.where(mask[..., None], x, 0.0)], 1)
        present = functional.pad(mask, (1, 0), value=True)
        normed = self.attention_norm(everything)
        pooled = query + self.attention(normed[:, :1], normed, present)
        pooled = pooled + self.feed_forward(self.feed_forward_norm(pooled))
        out: Tensor = self.norm(pooled)[:, 0]
        return out
