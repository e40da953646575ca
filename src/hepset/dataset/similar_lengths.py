"""Batches of events of similar length, so that padding costs little: pure functions of the seed."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from hepset.arrays import Array, offsets_of
from hepset.dataset.order import BATCHES, ROWS, EpochOrder, permutation
from hepset.errors import DatasetError

__all__ = ["POOL", "ObjectLimit", "by_length", "similar_in_window"]

POOL: Final = 64
"""Batches whose rows are sorted by length together."""


def similar_in_window(epoch: EpochOrder, start: int, stop: int) -> Callable[[Array], Array]:
    """Return what gives the order of a window in which batches have rows of similar length.

    The batches end where they always do; full ones come in any order.

    Args:
        epoch: The order without regard to lengths.
        start: First position of the window in the rank's order.
        stop: One past its last position.
    """
    rows = epoch.rows(start, stop)
    order = np.arange(stop - start) if rows is None else rows
    inside = epoch.ends[bisect_right(epoch.ends, start) : bisect_left(epoch.ends, stop)]
    ends = [end - start for end in inside]
    key = (epoch.seed, epoch.epoch, BATCHES, epoch.first + start)
    return lambda lengths: by_length(order, lengths, ends, key)


def by_length(order: Array, lengths: Array, ends: Sequence[int], key: Sequence[int]) -> Array:
    """Let rows of similar length follow each other, batch by batch.

    Every `POOL` batches are sorted by length, rows of one length in the order that they had; then
    batches of one size change places with each other.

    Args:
        order: Row at each position.
        lengths: Length of each row.
        ends: Positions at which batches end, increasing; what is before the first and behind the
            last one belongs to batches of the windows beside this one.
        key: What the order of the batches depends on.

    Returns:
        The same rows in another order.
    """
    bounds = [0, *ends, len(order)]
    blocks: list[Array] = []
    for first in range(0, len(bounds) - 1, POOL):
        edges = bounds[first : first + POOL + 1]
        pool = order[edges[0] : edges[-1]]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        blocks += np.split(pool, np.asarray(edges[1:-1]) - edges[0])
    usual = max(map(len, blocks))
    same = [number for number, block in enumerate(blocks) if len(block) == usual]
    turned = [same[place] for place in permutation(len(same), *key)]
    placed = dict(zip(same, turned, strict=True))
    return np.concatenate([blocks[placed.get(number, number)] for number in range(len(blocks))])


@dataclass(frozen=True)
class ObjectLimit:
    """Batches of rows of similar length with a limit on their objects.

    Rows are sorted by length and cut where a batch, padded to its longest row, would hold more than
    the limit. Which lengths stand in which batch is the same in all epochs; rows of one length
    change places, and batches come in any order.

    Attributes:
        rows: Rows by length.
        same: Number of the length of each of them: rows of one number may change places.
        ends: One past the last position of each batch, as many as ranks can share.
    """

    rows: Array
    same: Array
    ends: Array

    @classmethod
    def of(
        cls, lengths: Mapping[str, Array], batch_size: int, most: int, world: int = 1
    ) -> ObjectLimit:
        """Cut rows into batches.

        Args:
            lengths: Stream → slots that each row needs, shape ``(row,)``.
            batch_size: Most rows of a batch.
            most: Most objects of a batch, padding included; a longer row is alone in its batch.
            world: Number of ranks.

        Raises:
            DatasetError: If there are fewer rows than ranks need.
        """
        table = np.stack([np.maximum(values, 1) for values in lengths.values()], axis=1)
        rows = np.lexsort((*table.T, table.sum(axis=1)))
        table = table[rows]
        same = np.cumsum(np.r_[0, (table[1:] != table[:-1]).any(axis=1)])[: len(rows)]
        ends: list[int] = []
        start = 0
        while start < len(rows):
            longest = np.maximum.accumulate(table[start : start + batch_size])
            size = np.arange(1, len(longest) + 1) * longest.sum(axis=1)
            start += max(1, int(np.searchsorted(size, most, side="right")))
            ends.append(start)
        return cls(rows, same, _shared(ends, world))

    def epoch(
        self, *, seed: int, epoch: int, shuffle: bool, rank: int = 0, world: int = 1
    ) -> tuple[Array, tuple[int, ...]]:
        """Return the rows of a rank in order, and one past the last position of each batch."""
        rows, batches = self.rows, np.arange(len(self.ends))
        if shuffle:
            turned = permutation(len(rows), seed, epoch, ROWS, 0)
            rows = rows[turned[np.argsort(self.same[turned], kind="stable")]]
            batches = batches[permutation(len(batches), seed, epoch, BATCHES, 0)]
        starts = np.r_[0, self.ends]
        own = [rows[starts[batch] : starts[batch + 1]] for batch in batches[rank::world].tolist()]
        if not own:
            return rows[:0], ()
        return np.concatenate(own), tuple(offsets_of([len(batch) for batch in own])[1:].tolist())


def _shared(ends: Sequence[int], world: int) -> Array:
    """Halve the largest batches until every rank has as many as the others."""
    bounds = [0, *ends]
    while (len(bounds) - 1) % world:
        sizes = np.diff(bounds)
        largest = int(np.argmax(sizes))
        if sizes[largest] < 2:
            raise DatasetError(
                f"{bounds[-1]} events in batches of one cannot be divided evenly over {world} "
                "devices; use a larger train.max_objects"
            )
        bounds.insert(largest + 1, bounds[largest] + int(sizes[largest]) // 2)
    return np.array(bounds[1:], np.int64)
