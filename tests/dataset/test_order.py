from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hepset.dataset.order import count_batches, order_epoch, order_rows
from hepset.errors import DatasetError

GROUPS = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=4), min_size=1, max_size=4)


def rows_of(order: object, groups: list[list[int]]) -> list[list[int]]:
    """Brute force: the number of every row of every batch, counted through the shards."""
    first = {}
    count = 0
    for shard, sizes in enumerate(groups):
        for group, rows in enumerate(sizes):
            first[shard, group] = count
            count += rows
    starts = order.starts()
    batches = []
    for index in range(len(order)):
        found = []
        for stretch in order.batch(index, starts):
            everything = [
                first[piece.shard, piece.group] + row
                for piece in order.windows[stretch.window]
                for row in range(piece.start, piece.stop)
            ]
            low, high = int(starts[stretch.window]), int(starts[stretch.window + 1])
            permutation = order.rows(low, high)
            if permutation is not None:
                everything = [everything[i] for i in permutation]
            found += everything[stretch.start : stretch.stop]
        batches.append(found)
    return batches


@given(
    GROUPS, st.integers(1, 12), st.integers(1, 4), st.booleans(), st.booleans(), st.integers(0, 3)
)
@settings(deadline=None, max_examples=200)
def test_every_event_once_and_as_many_batches_on_every_rank(
    groups: list[list[int]], size: int, world: int, shuffle: bool, drop: bool, epoch: int
) -> None:
    total = sum(map(sum, groups))
    if total < world:
        with pytest.raises(DatasetError, match="cannot be divided"):
            count_batches(total, size, world=world)
        return
    if size == 1 and total % world and not drop:
        with pytest.raises(DatasetError, match="batches of one"):
            count_batches(total, size, world=world)
        return
    ranks = [
        rows_of(
            order_epoch(
                groups, batch_size=size, seed=3, epoch=epoch, shuffle=shuffle,
                rank=rank, world=world, drop_last=drop, window=2,
            ),
            groups,
        )
        for rank in range(world)
    ]  # fmt: skip
    expected = count_batches(total, size, world=world, drop_last=drop)
    assert [len(batches) for batches in ranks] == [expected] * world
    assert all(0 < len(batch) <= size for batches in ranks for batch in batches)
    seen = [row for batches in ranks for batch in batches for row in batch]
    assert len(seen) == len(set(seen))
    if not drop:
        assert sorted(seen) == list(range(total))
        if not shuffle:
            assert seen == list(range(total))
    elif total // world >= size:
        assert all(len(batch) == size for batches in ranks for batch in batches)
        assert total - len(seen) < world * size + world


def test_epochs_and_seeds_differ_and_repeat() -> None:
    groups = [[50] * 4] * 3

    def batches(seed: int, epoch: int) -> list[list[int]]:
        order = order_epoch(groups, batch_size=64, seed=seed, epoch=epoch, shuffle=True)
        return rows_of(order, groups)

    assert batches(1, 0) == batches(1, 0)
    assert batches(1, 0) != batches(1, 1)
    assert batches(1, 0) != batches(2, 0)


def test_a_window_mixes_its_row_groups() -> None:
    order = order_epoch([[100] * 8], batch_size=100, seed=0, epoch=0, shuffle=True, window=4)
    first = rows_of(order, [[100] * 8])[0]
    assert len({row // 100 for row in first}) == 4


@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 4), st.booleans())
def test_free_order_reads_every_event_once(rows: int, size: int, world: int, shuffle: bool) -> None:
    if rows < world or (size == 1 and rows % world):
        return
    parts = [
        order_rows(rows, batch_size=size, seed=1, epoch=0, shuffle=shuffle, rank=rank, world=world)
        for rank in range(world)
    ]
    assert sorted(np.concatenate([own for own, _ in parts]).tolist()) == list(range(rows))
    for own, ends in parts:
        assert len(ends) == count_batches(rows, size, world=world)
        assert ends[-1] == len(own)
        assert all(0 < n <= size for n in np.diff([0, *ends]))


def test_the_last_batches_share_when_ranks_are_uneven() -> None:
    # 9 events over 2 ranks: 4 and 5. Two batches each of at most 4: the rank with 4 makes 3 + 1.
    sizes = [
        [len(batch) for batch in rows_of(
            order_epoch([[9]], batch_size=4, seed=0, epoch=0, shuffle=False, rank=rank, world=2),
            [[9]],
        )]
        for rank in range(2)
    ]  # fmt: skip
    assert sizes == [[3, 1], [4, 1]]
