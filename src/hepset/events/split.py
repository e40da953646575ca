"""Which split an event belongs to, and its position in the split.

Both are functions of the identity of the event and the seed, so they depend neither on the order in
which files are read nor on how the work is cut.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import xxhash
from numpy.typing import NDArray

from hepset.batch import EventBatch
from hepset.errors import ConfigurationError
from hepset.hashes import Hashes, splitmix64
from hepset.schema.config import DEFAULT_FRACTIONS, GroupSplit, SplitConfig

Array = NDArray[Any]

_SPLIT: Final = 0x73706C6974
"""Separates the hash of the split from that of the order ("split", "order" in ASCII)."""
_ORDER: Final = 0x6F72646572
_WRAP: Final = (1 << 64) - 1

EVENT_NUMBER: Final = "extra/event"
RUN_NUMBER: Final = "extra/run"


def hash_rows(seed: int, parts: Sequence[Array]) -> Hashes:
    """Hash rows of integers one column after the other, each of shape ``(event,)``."""
    state = splitmix64(np.full(len(parts[0]), seed & _WRAP, np.uint64))
    for part in parts:
        state = splitmix64(state ^ part.astype(np.int64, copy=False).view(np.uint64))
    return state


def hash_key(key: str) -> int:
    """Hash a source's key to a signed 64-bit integer."""
    return int(np.uint64(xxhash.xxh3_64_intdigest(key.encode())).view(np.int64))


def shard_bounds(shards: int) -> list[int]:
    """Return the first hash of each shard, and 2⁶⁴: equal intervals of all hashes."""
    return [-(-(i << 64) // shards) for i in range(shards + 1)]


class Splitter:
    """Assigns events to splits.

    Attributes:
        names: The splits that exist, in order.
        config: Fractions, groups or folds, and what is hashed.
        seed: Seed of the hashes.
    """

    def __init__(
        self,
        config: SplitConfig,
        seed: int,
        keys: Sequence[str],
        groups: Sequence[str],
        official: Sequence[str] = (),
    ) -> None:
        """Prepare for some sources.

        Args:
            config: Fractions, groups or folds, and the key.
            seed: Seed of the hashes.
            keys: Key of every source.
            groups: Group of every source.
            official: Split that the data set itself puts every source in; empty for none.

        Raises:
            ConfigurationError: If a group is in two splits or in none, or does not exist; if the
                official splits are asked for and a source has none.
        """
        self.config = config
        self.seed = seed
        self._keys = np.array([hash_key(key) for key in keys], np.int64)
        self._by_source: Array | None = None
        self._thresholds: Hashes = np.zeros(0, np.uint64)
        if config.folds is not None:
            self.names: tuple[str, ...] = config.names
            fractions = [1 / config.folds] * config.folds
            self._thresholds = _thresholds(fractions)
            return
        if config.expressions:
            self.names = tuple(config.expressions)
            return
        parts = {"train": config.train, "val": config.val, "test": config.test}
        grouped = {name: part for name, part in parts.items() if isinstance(part, GroupSplit)}
        if grouped:
            self.names = tuple(grouped)
            self._by_source = _by_group(grouped, groups)
            return
        if _uses_official(config, keys, official):
            self.names = tuple(name for name in parts if name in official)
            self._by_source = np.array([self.names.index(name) for name in official], np.int64)
            return
        shares = {name: part for name, part in parts.items() if isinstance(part, float) and part}
        self.names = tuple(shares)
        self._thresholds = _thresholds(list(shares.values()))

    def assign(self, batch: EventBatch) -> tuple[Array, str]:
        """Return the split of every event as an index into `names`, and what was hashed.

        Args:
            batch: Events whose ``ids["source"]`` counts through the sources.

        Raises:
            ConfigurationError: If the event number was asked for but the files have none, or
                expressions decide: see `of_passing`.
        """
        if self.config.expressions:
            raise ConfigurationError("prepare.split: expressions decide, which the ids do not tell")
        if self._by_source is not None:
            return self._by_source[batch.ids["source"]], "entry"
        parts, hashed = self._identity(batch)
        hashes = hash_rows(self.seed ^ _SPLIT, parts)
        return np.searchsorted(self._thresholds, hashes, side="right"), hashed

    def of_passing(self, batch: EventBatch, passing: Mapping[str, Array]) -> Array:
        """Return the split of every event by what passes the expression of each split.

        Args:
            batch: The events, for the message.
            passing: Split → which events pass its expression, shape ``(event,)``.

        Raises:
            ConfigurationError: If an event is in no split or in several.
        """
        inside = np.stack([passing[name] for name in self.names])
        wrong = np.flatnonzero(inside.sum(axis=0) != 1)
        if wrong.size:
            first = int(wrong[0])
            where, entry = batch.where(first)
            found = [n for n, row in zip(self.names, inside, strict=True) if row[first]]
            raise ConfigurationError(
                f"prepare.split: {where}, entry {entry}: in {' and '.join(found) or 'no split'} "
                f"({wrong.size} of {len(batch)} events); the expressions must put every event in "
                "exactly one split, and select leaves events out"
            )
        split: Array = np.argmax(inside, axis=0)
        return split

    def order(self, batch: EventBatch) -> Hashes:
        """Return the hash that decides the place of every row, samples of one event apart."""
        ids = batch.ids
        return hash_rows(
            self.seed ^ _ORDER, [self._keys[ids["source"]], ids["entry"], ids["sample"]]
        )

    def _identity(self, batch: EventBatch) -> tuple[list[Array], str]:
        ids = batch.ids
        if self.config.key != "entry":
            number = batch.arrays.get(EVENT_NUMBER)
            usable = number is not None and number.dtype.kind in "iu" and number.ndim == 1
            if usable and number is not None:
                run = batch.arrays.get(RUN_NUMBER)
                if run is None or run.dtype.kind not in "iu" or run.ndim != 1:
                    run = np.zeros(len(number), np.int64)
                return [run, number], "event"
            if self.config.key == "event":
                where = batch.where(0)[0] if len(batch) else "the files"
                raise ConfigurationError(
                    f"prepare.split.key: event needs the integer {EVENT_NUMBER!r}, which {where} "
                    "does not give; read it into extra/event, or use key: entry"
                )
        return [self._keys[ids["source"]], ids["entry"]], "entry"


def _thresholds(fractions: Sequence[float]) -> Hashes:
    """Upper hash of every split but the last; a hash equal to it belongs to the next split."""
    ends = np.cumsum(fractions)[:-1]
    return np.array([min(round(float(end) * 2**64), _WRAP) for end in ends], np.uint64)


def _uses_official(config: SplitConfig, keys: Sequence[str], official: Sequence[str]) -> bool:
    """Whether every source stays in the split that the data set puts it in."""
    homeless = [key for key, name in zip(keys, official, strict=False) if not name]
    if config.key == "official":
        if homeless or not official:
            which = ", ".join(homeless[:3] or keys[:3])
            raise ConfigurationError(
                f"prepare.split.key: official: nothing says in which split {which} is; the reader "
                "knows it of official files only, for others give fractions or groups"
            )
        return True
    if config.key != "auto" or homeless or len(set(official)) < 2:
        return False
    return (config.train, config.val, config.test) == DEFAULT_FRACTIONS


def _by_group(parts: dict[str, GroupSplit], groups: Sequence[str]) -> Array:
    owner: dict[str, int] = {}
    for index, (name, part) in enumerate(parts.items()):
        for group in part.groups:
            if group in owner:
                other = list(parts)[owner[group]]
                raise ConfigurationError(
                    f"prepare.split: group {group!r} is in {other} and in {name}; events would be "
                    "trained and tested on"
                )
            owner[group] = index
    known = sorted(set(groups))
    absent = sorted(set(owner) - set(known))
    homeless = sorted(set(known) - set(owner))
    if absent or homeless:
        has = ", ".join(repr(group) for group in known)
        raise ConfigurationError(
            f"prepare.split: the files have the groups {has}; "
            + (f"no file is in {absent}" if absent else f"{homeless} belong to no split")
            + "; name every group in train, val or test (read.files: {group: [patterns]})"
        )
    return np.array([owner[group] for group in groups], np.int64)
