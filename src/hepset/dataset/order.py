"""In which order the events of a split are read: a pure function of seed and epoch.

Events were shuffled over all shards when the data set was made. An epoch shuffles again, at the
cost of reading in order: the shards, the row groups of each shard, and the rows of every few
consecutive row groups, a *window*. Each rank reads one stretch of that order, so that every event
is read once, and all ranks make the same number of batches.

Only the raw streams of numpy's bit generators are used, which numpy promises not to change.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from hepset.arrays import Array, offsets_of
from hepset.errors import DatasetError

_SHARDS, _GROUPS, ROWS, BATCHES = range(4)
"""What is permuted, part of the key of the permutation."""


class RowSampler(Protocol):
    """Says how often each row of a split is read in an epoch."""

    @property
    def events(self) -> int:
        """Rows that are read in an epoch, the same in all."""
        ...

    def counts(self, epoch: int) -> Array:
        """Return how often each row of the split is read (row,), adding up to `events`."""
        ...


@dataclass(frozen=True)
class Piece:
    """Some rows of a row group.

    Attributes:
        shard: Number of the shard.
        group: Number of the row group in the shard.
        start: First row, or first position in `rows`.
        stop: One past the last one.
        rows: The rows of the group that are read, some of them perhaps several times; null = all.
    """

    shard: int
    group: int
    start: int
    stop: int
    rows: Array | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return self.stop - self.start


@dataclass(frozen=True)
class Stretch:
    """Consecutive rows of a window's order.

    Attributes:
        window: Number of the window.
        start: First position in the window's order.
        stop: One past the last position.
    """

    window: int
    start: int
    stop: int

    def __len__(self) -> int:
        """Number of rows."""
        return self.stop - self.start


@dataclass(frozen=True)
class EpochOrder:
    """What one rank reads in one epoch.

    Attributes:
        windows: The pieces of each window, in order.
        ends: One past the last row of each batch, counted through the windows.
        seed: Seed of the shuffle.
        epoch: Number of the epoch.
        shuffled: Whether the rows of a window are shuffled.
        first: Position of the rank's first row in the order of all ranks.
    """

    windows: tuple[tuple[Piece, ...], ...]
    ends: tuple[int, ...]
    seed: int
    epoch: int
    shuffled: bool
    first: int

    def __len__(self) -> int:
        """Number of batches."""
        return len(self.ends)

    def starts(self) -> Array:
        """Position of the first row of each window, and one past the last row of all."""
        rows = [sum(len(piece) for piece in window) for window in self.windows]
        return offsets_of(rows)

    def rows(self, start: int, stop: int) -> Array | None:
        """Return which row of a window is at which position; None where in order.

        Args:
            start: First position of the window in the rank's order.
            stop: One past its last position.
        """
        if not self.shuffled:
            return None
        return permutation(stop - start, self.seed, self.epoch, ROWS, self.first + start)

    def batch(self, index: int, starts: Array) -> list[Stretch]:
        """Return the stretches of windows that make one batch; `starts` as from `starts`."""
        begin = self.ends[index - 1] if index else 0
        end = self.ends[index]
        found = []
        window = int(np.searchsorted(starts, begin, side="right")) - 1
        while begin < end:
            stop = min(end, int(starts[window + 1]))
            if stop > begin:
                offset = int(starts[window])
                found.append(Stretch(window, begin - offset, stop - offset))
            begin = stop
            window += 1
        return found


def count_batches(rows: int, batch_size: int, *, world: int = 1, drop_last: bool = False) -> int:
    """Return the number of batches of every rank.

    A split smaller than a batch makes one short batch, also with `drop_last`.

    Raises:
        DatasetError: If there are fewer events than ranks, or no equal number of batches of one
            event each.
    """
    if rows == 0:
        return 0
    if rows < world:
        raise DatasetError(
            f"{rows} events cannot be divided over {world} devices: every device needs one; use "
            "fewer devices"
        )
    if drop_last:
        return max(1, rows // world // batch_size)
    if batch_size == 1 and rows % world:
        raise DatasetError(
            f"{rows} events in batches of one cannot be divided evenly over {world} devices; use "
            "a larger batch_size"
        )
    longest = -(-rows // world)
    return -(-longest // batch_size)


def order_epoch(
    groups: Sequence[Sequence[int]],
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    shuffle: bool,
    rank: int = 0,
    world: int = 1,
    drop_last: bool = False,
    window: int = 4,
    counts: Array | None = None,
) -> EpochOrder:
    """Plan what a rank reads in an epoch.

    Args:
        groups: Rows of the row groups of each shard.
        batch_size: Rows per batch.
        seed: Seed of the shuffle.
        epoch: Number of the epoch.
        shuffle: Whether to shuffle at all; otherwise rows come in the order of the files.
        rank: Which of the ranks.
        world: Number of ranks.
        drop_last: Leave out rows that do not fill a batch (other ones in every epoch).
        window: Row groups whose rows are shuffled together.
        counts: How often each row of the split is read; null = once.

    Raises:
        DatasetError: If there are fewer events than ranks.
    """
    chosen: list[list[Array]] | None = None
    if counts is not None:
        chosen = _chosen_rows(groups, counts)
        groups = [[len(rows) for rows in shard] for shard in chosen]
    shards = np.arange(len(groups))
    if shuffle:
        shards = shards[permutation(len(groups), seed, epoch, _SHARDS, 0)]
    order: list[tuple[int, int]] = []
    for shard in shards.tolist():
        numbers = np.arange(len(groups[shard]))
        if shuffle:
            numbers = numbers[permutation(len(numbers), seed, epoch, _GROUPS, shard)]
        order += [(shard, group) for group in numbers.tolist()]
    total = sum(map(sum, groups))
    first, last = rank * total // world, (rank + 1) * total // world
    batches = count_batches(total, batch_size, world=world, drop_last=drop_last)
    ends = _ends(last - first, batch_size, batches, drop_last=drop_last)
    last = first + (ends[-1] if ends else 0)
    pieces = []
    position = 0
    for shard, group in order:
        rows = groups[shard][group]
        start, stop = max(first - position, 0), min(last - position, rows)
        if start < stop:
            own = None if chosen is None else chosen[shard][group]
            pieces.append(Piece(shard, group, start, stop, own))
        position += rows
    windows = tuple(tuple(pieces[i : i + window]) for i in range(0, len(pieces), window))
    return EpochOrder(windows, ends, seed, epoch, shuffle, first)


def order_rows(
    rows: int,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    shuffle: bool,
    rank: int = 0,
    world: int = 1,
    drop_last: bool = False,
    counts: Array | None = None,
) -> tuple[Array, tuple[int, ...]]:
    """Plan an epoch over rows that can be had in any order; options as `order_epoch` has them.

    Returns:
        The rank's rows in order, and one past the last position of each batch.

    Raises:
        DatasetError: If there are fewer events than ranks.
    """
    available = np.arange(rows) if counts is None else np.repeat(np.arange(rows), counts)
    rows = len(available)
    order = available[permutation(rows, seed, epoch, ROWS, 0)] if shuffle else available
    own = order[rank * rows // world : (rank + 1) * rows // world]
    batches = count_batches(rows, batch_size, world=world, drop_last=drop_last)
    return own, _ends(len(own), batch_size, batches, drop_last=drop_last)


def _chosen_rows(groups: Sequence[Sequence[int]], counts: Array) -> list[list[Array]]:
    """Rows of every row group of every shard, each as often as it is read."""
    found: list[list[Array]] = []
    start = 0
    for shard in groups:
        found.append([])
        for rows in shard:
            found[-1].append(np.repeat(np.arange(rows), counts[start : start + rows]))
            start += rows
    return found


def _ends(rows: int, size: int, batches: int, *, drop_last: bool) -> tuple[int, ...]:
    """Cut rows into batches: full ones, and the last short.

    Where a rank has one row less than another that needs one more batch, its last batches give up
    a row each instead of being empty.
    """
    if drop_last:
        return tuple(min(size * i, rows) for i in range(1, batches + 1))
    return tuple(min(size * i, rows - (batches - i)) for i in range(1, batches + 1))


def permutation(count: int, *key: int) -> Array:
    """Return a permutation that depends on nothing but the key."""
    numbers = np.random.Philox(np.random.SeedSequence(key)).random_raw(count)
    return np.argsort(numbers, kind="stable")
