"""How the positions of a batch lie in the rows that the layers take: all of them, or real ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from hepset.nn.export_mode import is_exporting
from hepset.nn.packed import PackedRows, packed_attention

__all__ = ["AllRows", "RealRows", "Rows"]


class Rows(ABC):
    """The positions of a batch, as rows ``(copies, rows, width)``.

    Args:
        mask: True where attention may look, ``(B, T)``: real positions.
        filled: True where blocks compute and objects may be assigned, ``(B, T)``: the same, unless
            the option ``mask_sequence_vectors`` is off.

    Attributes:
        mask: True where attention may look, ``(B, T)``.
        filled: True where blocks compute, ``(B, T)``.
    """

    def __init__(self, mask: Tensor, filled: Tensor) -> None:
        self.mask = mask
        self.filled = filled

    @property
    @abstractmethod
    def row_mask(self) -> Tensor | None:
        """`filled` for rows, ``(rows, 1)``; None where all are."""

    @abstractmethod
    def begin(self, x: Tensor, vector: Tensor) -> Tensor:
        """Put a vector ``(copies, 1, 1, D)`` before each event; the rows are those of `longer`."""

    @abstractmethod
    def separate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Undo `begin`: the rows, and what the vectors ``(copies, B, D)`` have become."""

    @property
    @abstractmethod
    def longer(self) -> Rows:
        """These positions with another one before each event."""

    @abstractmethod
    def attend(self, projected: Tensor, heads: int, dropout: float) -> Tensor:
        """Attend within events: queries, keys, values ``(copies, rows, 3 D)`` → ``(…, D)``."""

    @abstractmethod
    def padded(self, x: Tensor) -> Tensor:
        """Return ``(copies, B, T, D)``, without meaning or 0 where nothing is real."""

    @abstractmethod
    def append(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Rows]:
        """Put further members ``(B, K, D)`` after each event of `x`, shape ``(1, rows, D)``."""

    @abstractmethod
    def without_last(self, x: Tensor, count: int) -> Tensor:
        """Leave out the last members of each event, as many as were appended."""

    @abstractmethod
    def spread(self, x: Tensor) -> Tensor:
        """Return ``(1, rows, D)`` of what is common to an event, ``(B, D)``; 0 in padding."""

    def _appended_masks(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        there = torch.ones_like(tokens[..., 0], dtype=torch.bool)
        return torch.cat([self.mask, there], 1), torch.cat([self.filled, there], 1)

    def _longer_masks(self) -> tuple[Tensor, Tensor]:
        first = torch.ones_like(self.mask[:, :1])
        return torch.cat([first, self.mask], 1), torch.cat([first, self.filled], 1)


class AllRows(Rows):
    """Every position is a row, event by event: in exported models, on GPUs, for BatchNorm."""

    @property
    def row_mask(self) -> Tensor | None:
        """`filled` for rows, ``(rows, 1)``."""
        return self.filled.reshape(-1, 1)

    def begin(self, x: Tensor, vector: Tensor) -> Tensor:
        """Put a vector before each event."""
        table = self.padded(x)
        first = vector.expand(len(x), self.mask.shape[0], -1, -1)
        return torch.cat([first, table], 2).flatten(1, 2)

    def separate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Undo `begin`."""
        table = self.longer.padded(x)
        return table[:, :, 1:].flatten(1, 2), table[:, :, 0]

    @cached_property
    def longer(self) -> AllRows:
        """These positions with another one before each event."""
        return AllRows(*self._longer_masks())

    def append(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Rows]:
        """Put further members after each event."""
        table = torch.cat([self.padded(x), tokens[None]], 2)
        return table.flatten(1, 2), AllRows(*self._appended_masks(tokens))

    def without_last(self, x: Tensor, count: int) -> Tensor:
        """Leave out the last members of each event."""
        return self.padded(x)[:, :, :-count].flatten(1, 2) if count else x

    def spread(self, x: Tensor) -> Tensor:
        """Return what is common to an event for each row."""
        return torch.where(self.filled[..., None], x[:, None], 0.0).flatten(0, 1)[None]

    def attend(self, projected: Tensor, heads: int, dropout: float) -> Tensor:
        """Attend within events."""
        copies = projected.shape[0]
        batch, length = self.mask.shape
        table = projected.reshape(copies * batch, length, -1)
        query, key, value = (
            torch.unflatten(part, -1, (heads, -1)).transpose(1, 2) for part in table.chunk(3, -1)
        )
        mask = self.mask[:, None, None, :]
        if copies > 1:
            mask = mask.repeat(copies, 1, 1, 1)
        mixed = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout
        )
        merged = mixed.transpose(1, 2)
        if is_exporting():
            # The exporter replaces the attention by one whose output lies differently in memory.
            merged = merged.clone(memory_format=torch.contiguous_format)
        return merged.flatten(2).reshape(copies, batch * length, -1)

    def padded(self, x: Tensor) -> Tensor:
        """Return ``(copies, B, T, D)``."""
        return x.reshape(x.shape[0], *self.mask.shape, x.shape[-1])


class RealRows(Rows):
    """Only real positions are rows, in any order; padding costs nothing.

    Args:
        mask: True = real, ``(B, T)``.
        rows: All real positions as numbers among (event, position), in the order of the rows.
    """

    def __init__(self, mask: Tensor, rows: Tensor) -> None:
        super().__init__(mask, mask)
        self.rows = rows

    @property
    def row_mask(self) -> None:
        """None: all rows are real."""
        return None

    def begin(self, x: Tensor, vector: Tensor) -> Tensor:
        """Put a vector before each event: those of all events come first."""
        return torch.cat([vector[:, 0].expand(len(x), len(self.mask), -1), x], 1)

    def separate(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Undo `begin`."""
        count = len(self.mask)
        return x[:, count:], x[:, :count]

    @cached_property
    def longer(self) -> RealRows:
        """These positions with another one before each event."""
        mask, _ = self._longer_masks()
        batch, length = mask.shape
        firsts = torch.arange(batch, device=mask.device) * length
        return RealRows(mask, torch.cat([firsts, self.rows + self._events + 1]))

    def append(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Rows]:
        """Put further members after each event: those of all events come last."""
        mask, _ = self._appended_masks(tokens)
        batch, count, _ = tokens.shape
        before = self.mask.shape[1]
        last = torch.arange(batch, device=mask.device)[:, None] * (before + count) + before
        last = last + torch.arange(count, device=mask.device)
        rows = torch.cat([self.rows + self._events * count, last.flatten()])
        return torch.cat([x, tokens.flatten(0, 1)[None]], 1), RealRows(mask, rows)

    def without_last(self, x: Tensor, count: int) -> Tensor:
        """Leave out the last members of each event."""
        return x[:, : x.shape[1] - count * len(self.mask)]

    def spread(self, x: Tensor) -> Tensor:
        """Return what is common to an event for each row."""
        return x.index_select(0, self._events)[None]

    @property
    def _events(self) -> Tensor:
        """Event of each row."""
        return torch.div(self.rows, self.mask.shape[1], rounding_mode="floor")

    @cached_property
    def packed(self) -> PackedRows:
        """Where the rows belong."""
        return PackedRows.of(self.mask, self.rows)

    def attend(self, projected: Tensor, heads: int, dropout: float) -> Tensor:
        """Attend within events."""
        return packed_attention(projected, self.packed, heads, dropout)

    def padded(self, x: Tensor) -> Tensor:
        """Return ``(copies, B, T, D)``, 0 where nothing is real."""
        batch, length = self.mask.shape
        empty = x.new_zeros((x.shape[0], batch * length, x.shape[-1]))
        return torch.unflatten(empty.index_copy(1, self.rows, x), 1, (batch, length))
