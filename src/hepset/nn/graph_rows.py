"""Rows of real objects in an exported graph.

What acts on each object alone is computed of the real ones, as one list of rows; inside the
attention the rows are brought into a table of events by one gather that also separates the heads,
so that nothing has to be transposed. Plain operations throughout: ONNX Runtime fuses them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from hepset.nn.onednn import Linear

__all__ = ["GraphRows"]

_NEVER = -1e30
"""Added to the logit of a key that is not there."""


class GraphRows(NamedTuple):
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
    def of(cls, mask: Tensor, *, trim: bool) -> GraphRows:
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

    def attend(
        self, x: Tensor, query: Linear, key_value: Linear, heads: int, *, bias: Tensor
    ) -> Tensor:
        """Let every object look at those of its event.

        Args:
            x: Rows, ``(R, D)``.
            query: Makes the queries.
            key_value: Makes the keys, and then the values.
            heads: Attention heads.
            bias: Added to the logits, ``(batch, head or 1, 1 or place, place)``.

        Returns:
            ``(R, D)``.
        """
        width = x.shape[1]
        depth = width // heads
        batch, places = self.table.shape
        parts, back = self.by_head(heads)

        def separate(projected: Tensor) -> Tensor:
            found = projected.reshape(-1, depth).index_select(0, parts)
            return found.reshape(batch, heads, places, depth)

        # Keys and values apart: the halves of one product would have to be copied.
        (key, value), (key_bias, value_bias) = (
            part.chunk(2) for part in (key_value.weight, key_value.bias)
        )
        q = separate(query(x))
        k = separate(functional.linear(x, key, key_bias))
        v = separate(functional.linear(x, value, value_bias))
        logits = torch.matmul(q, k.transpose(2, 3)) * depth**-0.5
        mixed = torch.matmul(torch.softmax(logits + bias, -1), v)
        return mixed.reshape(-1, depth).index_select(0, back).reshape(-1, width)
