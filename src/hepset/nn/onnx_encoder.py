"""A transformer on real objects only, as part of an exported graph.

What acts on each object alone is computed of the real ones, as one list of rows; inside the
attention the rows are brought into a table of events by one gather that also separates the heads,
so that nothing has to be transposed. Plain operations throughout: ONNX Runtime fuses them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from hepset.nn.attention import EncoderLayer, MultiHeadAttention, TransformerEncoder

__all__ = ["RealRows", "encode_rows"]

_NEVER = -1e30
"""Added to the logit of a key that is not there."""


class RealRows(NamedTuple):
    """Where the real objects of a batch are.

    There is one row more than there are real objects, so that there always is one; it belongs to
    nothing.

    Attributes:
        rows: Number of each row among all (event, slot), ``(R,)``.
        places: Row of each (event, slot), ``(batch, slot)``; some row where it is padded.
        table: Row at each (event, place), ``(batch, place)``, where the attention takes place.
        back: (event, place) of each row, ``(R, 2)``.
        bias: Added to the logits of each key, ``(batch, 1, 1, place)``.
    """

    rows: Tensor
    places: Tensor
    table: Tensor
    back: Tensor
    bias: Tensor

    @classmethod
    def of(cls, mask: Tensor, *, trim: bool) -> RealRows:
        """Find the real objects.

        Args:
            mask: True = real, ``(batch, slot)``.
            trim: Whether there are as many places as the longest event has objects, instead of
                one per slot.
        """
        slots = mask.shape[1]
        flat = mask.flatten()
        rows = torch.cat([flat.nonzero()[:, 0], torch.zeros_like(flat[:1], dtype=torch.int64)])
        places = (flat.cumsum(0) - 1).clamp(min=0).reshape(mask.shape)
        event = torch.div(rows, slots, rounding_mode="floor")
        slot = torch.arange(slots, device=mask.device)
        table, place, there = places, rows - event * slots, mask
        if trim:
            counts = mask.sum(1)
            number = (slot < counts.amax(0).clamp(min=1)).nonzero()[:, 0]
            first = counts.cumsum(0) - counts
            last = (counts.sum() - 1).clamp(min=0)
            table = torch.minimum(first[:, None] + number, last)
            rank = (mask.cumsum(1) - 1).clamp(min=0)
            place = rank.flatten().index_select(0, rows)
            there = number < counts[:, None]
        bias = torch.where(there, 0.0, _NEVER)[:, None, None, :]
        return cls(rows, places, table, torch.stack([event, place], 1), bias)

    def take(self, x: Tensor) -> Tensor:
        """Return the rows ``(R, width)`` of ``(batch, slot, width)``."""
        return x.flatten(0, 1).index_select(0, self.rows)

    def put(self, x: Tensor) -> Tensor:
        """Return ``(batch, slot, width)`` of rows; padded slots hold those of others."""
        return torch.unflatten(x.index_select(0, self.places.flatten()), 0, self.places.shape)

    def by_head(self, heads: int) -> tuple[Tensor, Tensor]:
        """Number the parts of rows that belong to one head.

        Returns:
            Part ``row * heads + head`` at each (event, head, place); and the number of
            (event, head, place) of each part.
        """
        head = torch.arange(heads, device=self.rows.device)
        width = self.table.shape[1]
        parts = self.table[:, None, :] * heads + head[:, None]
        back = (self.back[:, :1] * heads + head) * width + self.back[:, 1:]
        return parts.flatten(), back.flatten()


def encode_rows(
    encoder: TransformerEncoder, x: Tensor, mask: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Run an encoder on the real objects of events.

    Args:
        encoder: Layers and norm; nothing is dropped.
        x: Objects, ``(batch, slot, width)``; padded slots may hold anything.
        mask: True where the object is real, ``(batch, slot)``.
        bias: Added to the logits, ``(batch, head or 1, slot, slot)``.

    Returns:
        ``(batch, slot, width)``; padded slots hold anything.
    """
    # A bias is by slots, which have to be the places then.
    rows = RealRows.of(mask, trim=bias is None)
    added = rows.bias if bias is None else rows.bias + bias
    real = rows.take(x)
    for layer in encoder.layers:
        assert isinstance(layer, EncoderLayer)
        mixed = _attention(layer.attention, layer.attention_norm(real), rows, added)
        real = real + layer.attention_scale(mixed)
        real = real + layer.feed_forward_scale(layer.feed_forward(layer.feed_forward_norm(real)))
    return rows.put(encoder.norm(real))


def _attention(layer: MultiHeadAttention, x: Tensor, rows: RealRows, bias: Tensor) -> Tensor:
    """Let rows look at the rows of their event."""
    heads, width = layer.heads, x.shape[1]
    depth = width // heads
    batch, places = rows.table.shape
    parts, back = rows.by_head(heads)

    def separate(projected: Tensor) -> Tensor:
        found = projected.reshape(-1, depth).index_select(0, parts)
        return found.reshape(batch, heads, places, depth)

    # Keys and values apart: the halves of one product would have to be copied.
    (key, value), (key_bias, value_bias) = (
        part.chunk(2) for part in (layer.key_value.weight, layer.key_value.bias)
    )
    q = separate(layer.query(x))
    k = separate(functional.linear(x, key, key_bias))
    v = separate(functional.linear(x, value, value_bias))
    logits = torch.matmul(q, k.transpose(2, 3)) * depth**-0.5
    mixed = torch.matmul(torch.softmax(logits + bias, -1), v)
    out: Tensor = layer.out(mixed.reshape(-1, depth).index_select(0, back).reshape(-1, width))
    return out
