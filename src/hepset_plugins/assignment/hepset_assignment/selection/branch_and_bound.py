"""`Search`: branch and bound on one event, where bounds alone do not prove a maximum."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Search"]

Array = NDArray[Any]


class Search:
    """Tries tuples particle by particle, those of the highest rank first.

    Args:
        values: Per particle the scores (n,) of its tuples.
        ranks: The same less the prices of their objects.
        objects: Per particle the objects of its tuples, (n, k).
        cells: Per particle the numbers (n,) that the tuples are known by.
        none: Per particle the score of leaving it out.
        base: Sum of all prices.
        slots: Number of positions.
        score: What has to be surpassed.
        alike: Whether each particle has the tuples of the one before.
    """

    def __init__(
        self,
        values: Sequence[Array],
        ranks: Sequence[Array],
        objects: Sequence[Array],
        cells: Sequence[Array],
        *,
        none: list[float],
        base: float,
        slots: int,
        score: float,
        alike: Sequence[bool],
    ) -> None:
        self.none = none
        self.base = base
        self.alike = [*alike, False]
        self.sizes = [each.shape[1] for each in objects]
        self.values: list[Array] = []
        self.ranks: list[Array] = []
        self.cells: list[Array] = []
        self.used: list[Array] = []
        for value, rank, held, numbers in zip(values, ranks, objects, cells, strict=True):
            order = np.argsort(-rank, kind="stable")
            occupied = np.zeros((len(order), slots), bool)
            occupied[np.arange(len(order))[:, None], held[order]] = True
            self.cells.append(numbers[order])
            self.values.append(value[order])
            self.ranks.append(rank[order])
            self.used.append(occupied)
        self.best = score
        self.picks = [-2] * len(values)

    def run(self) -> list[int]:
        """Return the number of each particle's tuple, −1 = left out; −2 where nothing is better."""
        everything = [np.arange(len(cells)) for cells in self.cells]
        self._visit(0, everything, 0.0, self.base, [])
        return self.picks

    def _visit(
        self, number: int, left: list[Array], score: float, rank: float, picks: list[int]
    ) -> None:
        if number == len(self.values):
            if score > self.best:
                self.best, self.picks = score, list(picks)
            return
        rest = left[number + 1 :]
        follows = self.alike[number + 1]
        loose = self._bound(number + 1, rest)
        for place in left[number]:
            here = rank + float(self.ranks[number][place])
            if here + loose <= self.best:
                break
            mine = self.used[number][place]
            later_places = [cells[cells > place] for cells in rest[:1]] if follows else rest[:1]
            free = [
                cells[~(self.used[number + 1 + later][cells] & mine).any(1)]
                for later, cells in enumerate([*later_places, *rest[1:]])
            ]
            if here + self._bound(number + 1, free) > self.best:
                cell = int(self.cells[number][place])
                value = score + float(self.values[number][place])
                self._visit(number + 1, [*left[: number + 1], *free], value, here, [*picks, cell])
        if follows:
            # The next one is left out too.
            rest = [rest[0][:0], *rest[1:]]
            left = [*left[: number + 1], *rest]
        none = self.none[number]
        if rank + none + self._bound(number + 1, rest) > self.best:
            self._visit(number + 1, left, score + none, rank + none, [*picks, -1])

    def _bound(self, first: int, left: Sequence[Array]) -> float:
        """Most that the particles from `first` on can add with the tuples that are left."""
        total, gains = 0.0, []
        free = np.zeros(self.used[0].shape[1], bool)
        for number, cells in enumerate(left, start=first):
            total += self.none[number]
            if len(cells):
                gain = float(self.ranks[number][cells[0]]) - self.none[number]
                gains.append(max(gain, 0.0))
                free |= self.used[number][cells].any(0)
        if not gains:
            return total
        room = int(free.sum())
        count = sum(taken <= room for taken in accumulate(sorted(self.sizes[first:])))
        return total + sum(sorted(gains, reverse=True)[:count])
