"""The best tuples of each particle, and how much what was left aside could still be worth."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from hepset.nn.export_mode import is_exporting
from hepset_assignment.selection.candidates import (
    FORBIDDEN,
    LOWEST,
    Candidates,
    incidence,
    occupancy,
)

__all__ = ["Limits", "Top", "find_top"]


class Top(NamedTuple):
    """The best tuples of a particle, and leaving it out as the last of them.

    Attributes:
        values: Scores (B, K + 1), float64.
        ranks: The same less the prices of their objects, which they are ordered by.
        cells: Numbers of the tuples (B, K + 1), −1 = left out.
        occupied: 1 where an object is used, (B, K + 1, T) float32.
        cut: (B, 1), no other tuple has a higher rank; None where there is no other.
    """

    values: Tensor
    ranks: Tensor
    cells: Tensor
    occupied: Tensor
    cut: Tensor | None


def find_top(
    each: Candidates, value: Tensor, rank: Tensor, none: Tensor, objects: int, width: int
) -> Top:
    """Take the `width` tuples of the highest ranks.

    Args:
        each: The candidates.
        value: Their scores (B, C).
        rank: What they are chosen by, (B, C).
        none: (B, 1) float64, the score of leaving the particle out.
        objects: Number of positions.
        width: Number of tuples.
    """
    if is_exporting():
        # The number of tuples may be smaller than `width`, and is not known.
        padding = torch.full_like(rank[:, :1], FORBIDDEN).expand(-1, width)
        rank = torch.cat([rank, padding], 1)
        value = torch.cat([value, padding.to(value.dtype)], 1)
        size, cut = width, True
    else:
        size = min(width, rank.shape[1])
        cut = size < rank.shape[1]
    found, cells = rank.topk(size, 1)
    if not is_exporting():
        # Of equal ranks the first tuple comes first, as in ONNX.
        cells = cells.sort(1).values
        found, order = rank.gather(1, cells).sort(dim=1, descending=True, stable=True)
        cells = cells.gather(1, order)
    scores = value.gather(1, cells)
    allowed = scores > LOWEST
    used = occupancy(each, torch.where(allowed, cells, 0), allowed, objects)
    return Top(
        torch.cat([scores.double(), none], 1),
        torch.cat([found.double(), none], 1),
        torch.cat([cells, torch.full_like(cells[:, :1], -1)], 1),
        functional.pad(used, (0, 0, 0, 1)),
        found[:, -1:].double() if cut else None,
    )


class Limits:
    """Upper bounds by the best ranks and the number of free objects.

    An assignment scores at most the ranks of its tuples and the prices of all objects.

    Args:
        candidates: One per particle.
        values: Their scores (B, C).
        none: Per particle (B, 1), the score of leaving it out.
        best: Per particle (B, 1), the highest rank.
        prices: (B, T), or None where ranks are scores.
        objects: Number of positions T.
    """

    def __init__(
        self,
        candidates: Sequence[Candidates],
        values: Sequence[Tensor],
        none: Sequence[Tensor],
        best: Sequence[Tensor],
        prices: Tensor | None,
        objects: int,
    ) -> None:
        self.none = torch.cat(list(none), 1)
        self.gains = (torch.cat(list(best), 1) - self.none).clamp(min=0)
        self.sizes = [each.objects.shape[-1] for each in candidates]
        self.base = torch.zeros_like(self.none[:, :1])
        if prices is not None:
            self.base = self.base + prices.sum(1, keepdim=True)
        slot = torch.arange(objects, device=self.none.device)
        present = torch.zeros_like(values[0][:, :1], dtype=torch.bool) & (slot >= 0)
        for each, value in zip(candidates, values, strict=True):
            if each.objects.dim() == 3:
                present = present | (slot >= 0)
            else:
                present = present | ((value > LOWEST).float() @ incidence(each, objects) > 0.5)
        self.objects = present.sum(1, keepdim=True)

    def of_rows(self, rows: Tensor) -> Limits:
        """Return the bounds of some events."""
        found = Limits.__new__(Limits)
        found.sizes = self.sizes
        found.none, found.gains = self.none.index_select(0, rows), self.gains.index_select(0, rows)
        found.base = self.base.index_select(0, rows)
        found.objects = self.objects.index_select(0, rows)
        return found

    def rest(self, first: int, used: Tensor) -> Tensor:
        """Most that the particles from `first` on can add where (B, M) objects are used.

        Ranks of the others, summed, and this are an upper bound.
        """
        return self.base + self._most(list(range(first, len(self.sizes))), self.objects - used)

    def with_one(self, number: int, rank: Tensor) -> Tensor:
        """Upper bound (B, M) of assignments in which one particle has at most `rank` (B, M)."""
        others = [p for p in range(len(self.sizes)) if p != number]
        free = self.objects - self.sizes[number]
        return rank + self.base + self._most(others, free)

    def _most(self, particles: list[int], free: Tensor) -> Tensor:
        none = self.none[:, particles].sum(1, keepdim=True)
        # Without a stable order of equal numbers: only their sums matter.
        gains = self.gains[:, particles].sort(dim=1, descending=True).values
        total = none
        # As many find objects as those of the fewest products would.
        fitting = accumulate(sorted(self.sizes[p] for p in particles))
        for place, taken in enumerate(fitting):
            total = total + torch.where(free >= taken, gains[:, place : place + 1], 0.0)
        return total
