from __future__ import annotations

import numpy as np
import pytest

from hepset.batch import EventBatch, make_ids
from hepset.errors import ConfigurationError
from hepset.events.split import Splitter, hash_rows, shard_bounds, splitmix64
from hepset.schema.config import GroupSplit, SplitConfig


def batch(source: int, rows: int, **arrays: np.ndarray) -> EventBatch:
    extra = {f"extra/{name}": values for name, values in arrays.items()}
    return EventBatch(
        ids=make_ids(source, range(rows)), streams={}, arrays=extra, sources=("a", "b")
    )


def splitter(config: SplitConfig | None = None, seed: int = 0) -> Splitter:
    return Splitter(config or SplitConfig(), seed, ["a", "b"], ["", ""])


def test_mixer_is_the_published_one() -> None:
    # The first outputs of splitmix64 from the seed 1234567, as Vigna's reference program prints.
    state = np.uint64(1234567) + np.arange(5, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert splitmix64(state).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_fractions_are_kept() -> None:
    found, hashed = splitter().assign(batch(0, 100_000))
    assert hashed == "entry"
    counts = np.bincount(found, minlength=3)
    for count, fraction in zip(counts, (0.8, 0.1, 0.1), strict=True):
        assert abs(count - 1e5 * fraction) < 4 * np.sqrt(1e5 * fraction * (1 - fraction))
    folds = splitter(SplitConfig(folds=7)).assign(batch(0, 70_000))[0]
    assert np.bincount(folds).size == 7
    assert abs(np.bincount(folds) - 10_000).max() < 4.5 * 93
    one = splitter(SplitConfig(train=1.0, val=0.0, test=0.0))
    assert one.names == ("train",)
    assert set(one.assign(batch(0, 1000))[0]) == {0}


def test_split_follows_the_event_number_where_there_is_one() -> None:
    numbers = np.arange(1000)
    with_numbers = [batch(source, 1000, event=numbers) for source in (0, 1)]
    one, other = (splitter().assign(b)[0] for b in with_numbers)
    np.testing.assert_array_equal(one, other)
    run = batch(0, 1000, event=numbers, run=np.full(1000, 7))
    assert (splitter().assign(run)[0] != one).any()
    entry = splitter(SplitConfig(key="entry"))
    assert (entry.assign(with_numbers[0])[0] != entry.assign(with_numbers[1])[0]).any()
    with pytest.raises(ConfigurationError, match="a does not give"):
        splitter(SplitConfig(key="event")).assign(batch(0, 3, event=np.ones(3)))


def test_split_and_order_are_independent() -> None:
    events = batch(0, 100_000)
    chosen = splitter().assign(events)[0] == 0
    order = splitter().order(events) / 2**64
    assert abs(order[chosen].mean() - 0.5) < 4 * 0.289 / np.sqrt(chosen.sum())
    assert abs(np.corrcoef(np.arange(len(order)), order)[0, 1]) < 4 / np.sqrt(len(order))
    assert (splitter(seed=1).order(events) != splitter().order(events)).all()


def test_shard_intervals_cover_all_hashes() -> None:
    for shards in (1, 2, 3, 7, 1000):
        bounds = shard_bounds(shards)
        assert bounds[0] == 0
        assert bounds[-1] == 2**64
        sizes = np.diff(np.array(bounds, object))
        assert max(sizes) - min(sizes) <= 1
    hashes = hash_rows(1, [np.arange(10)])
    assert hashes.dtype == np.uint64


def test_groups_are_used_once_and_all() -> None:
    config = SplitConfig(
        train=GroupSplit(groups=("a",)),
        val=GroupSplit(groups=("b",)),
        test=GroupSplit(groups=("b",)),
    )
    with pytest.raises(ConfigurationError, match="'b' is in val and in test"):
        Splitter(config, 0, ["x", "y"], ["a", "b"])
    config = SplitConfig(train=GroupSplit(groups=("a", "z")), val=0.0, test=0.0)
    with pytest.raises(ConfigurationError, match=r"no file is in \['z'\]"):
        Splitter(config, 0, ["x"], ["a"])


@pytest.mark.parametrize("key", ["auto", "official"])
def test_official_splits_are_used(key: str) -> None:
    config = SplitConfig.model_validate({"key": key})
    official = Splitter(config, 0, ["a", "b"], ["", ""], ["test", "train"])
    assert official.names == ("train", "test")
    assert set(official.assign(batch(0, 5))[0]) == {1}
    assert set(official.assign(batch(1, 5))[0]) == {0}


def test_official_splits_give_way_to_what_is_said() -> None:
    sources = (["a", "b"], ["", ""])
    plain = splitter().assign(batch(0, 1000))[0]
    for config, official in (
        ({"train": 0.6, "val": 0.2, "test": 0.2}, ["test", "train"]),
        ({"folds": 3}, ["test", "train"]),
        ({"key": "entry"}, ["test", "train"]),
        ({}, ["train", "train"]),
        ({}, ["train", ""]),
    ):
        split = Splitter(SplitConfig.model_validate(config), 0, *sources, official)
        assert len(split.names) == 3, config
        if "train" not in config and "folds" not in config:
            assert np.array_equal(split.assign(batch(0, 1000))[0], plain)
    asked = SplitConfig(key="official")
    with pytest.raises(ConfigurationError, match=r"in which split b is; the reader knows"):
        Splitter(asked, 0, *sources, ["train", ""])
    with pytest.raises(ConfigurationError, match="in which split a, b is"):
        Splitter(asked, 0, *sources)
