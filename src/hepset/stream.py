"""`SourceStream`: training batches straight from files, without converting them first.

A conversion checks everything and pays off from the second epoch on; a stream starts at once. Each
epoch reads some sources at a time, evenly mixed, a window of their events after the other, and
shuffles the events of a window. Files that hold one class each are mixed where they are given as
groups. Where cuts and sampling need nothing but what events have once, they are decided
on that, and only the events that are wanted are read whole.

What becomes of an event depends on its id, the seed and the epoch alone: not on the other events of
its chunk, nor on how the files are cut.
"""

from __future__ import annotations

import itertools
import logging
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from hepset.batch import EventBatch
from hepset.convert.plan import Plan, Range, digest_of, digests_of_named_files
from hepset.convert.reading import UNUSABLE, read_chunk
from hepset.dataset.event_buffer import EventPool
from hepset.errors import (
    ConfigurationError,
    ContractError,
    DatasetError,
    ExpressionError,
    ReadError,
    did_you_mean,
)
from hepset.events.derivations import compile_derivations, names_of
from hepset.events.pipeline import Prepared
from hepset.events.select import BatchColumns, derive, plugin_functions, without_columns
from hepset.events.split import hash_rows
from hepset.expressions.language import Scope, compile_selection
from hepset.interfaces import Chunk
from hepset.plugins import registry
from hepset.sampling.acceptance import Acceptances
from hepset.sampling.cache import Decision, Learnt, kept_or_learnt
from hepset.sampling.drawing import repeats_of, throws
from hepset.sampling.rule import SamplingRule
from hepset.schema.sampling import SamplingConfig

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SourceStream"]

Array = NDArray[Any]

_T = TypeVar("_T")

_LOG = logging.getLogger(__name__)

_CHUNKS, _ROWS = range(2)

_PORTION: Final = 4096
"""Most events that are read at a time."""
_SOURCES: Final = 8
"""Sources that are read in turn; readers keep as many open, with what they have decoded."""


class SourceStream:
    """Batches of tensors straight from files, name → tensor with the dtype of the contract.

    Each iteration is one epoch, the next iteration the next one. Besides the tensors of the
    contract a batch holds ``ids``, int64 (event, 3).

    With ``prepare.on_error: skip`` a file that cannot be read, or lacks a column that is needed, is
    left out from there on and from the next epoch on whole; what was read of it before has been
    shown. It is named in the log, and in `skipped`.

    Args:
        plan: Readers, selection, derived features and splits.
        split: Name of the split to read.
        batch_size: Events per batch; the last of an epoch is shorter.
        seed: Seed of the shuffle and of the sampling.
        shuffle: Whether to shuffle chunks, and the events of a window.
        sampling: How often each event is shown; null = once.
        window: Portions of at most 4096 events that are shuffled together; two windows are in
            memory at a time. The first window of an epoch is one portion, so that the first batch
            is there early.
        check: Whether every chunk is checked against the contract, as a conversion does.
        keep: Folder for what sampling learns in a pass over all events, so that the next start on
            the same local files needs none; null = learn it again.

    Attributes:
        epoch: Number of the epoch that the next iteration reads.
        contract: What every batch obeys.
        skipped: Key of every file that was left out so far → the reason.

    Raises:
        ConfigurationError: If an option does not fit, or a stream's slots are left to be found
            out.
        ExpressionError: If an expression cannot be compiled.
        ReadError: If a file cannot be read and is not to be skipped, or none can be.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        split: str = "train",
        batch_size: int = 512,
        seed: int = 0,
        shuffle: bool = True,
        sampling: SamplingConfig | None = None,
        window: int = 6,
        check: bool = True,
        keep: Path | None = None,
    ) -> None:
        if split not in plan.splitter.names:
            known = plan.splitter.names
            raise ConfigurationError(
                f"stream: no split {split!r}; there are {', '.join(known)}"
                f"{did_you_mean(split, known)}"
            )
        for name, least in {"batch_size": batch_size, "window": window}.items():
            if least < 1:
                raise ConfigurationError(f"stream: {name} = {least}, expected at least 1")
        for name, slots in plan.contract.slots.items():
            if slots is None:
                raise ConfigurationError(
                    f"streams.{name}.slots: a stream of batches has no counting pass; give the "
                    "number of slots"
                )
        self.plan = plan
        self.contract = plan.contract
        self.split = split
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.window = window
        self.check = check
        self.epoch = 0
        self._chunks = [
            (work, part) for work in plan.ranges for chunk in work.chunks for part in _cut(chunk)
        ]
        self.skipped = {skipped.key: skipped.reason for skipped in plan.skipped}
        for key, reason in self.skipped.items():
            _LOG.warning("%s: skipped: %s", key, reason)
        self._left_out: set[int] = set()
        self._pipeline = plan.pipeline
        self._example = self._example_chunk()
        self._early = (
            None if self._example is None else _EarlyColumns.of(plan, sampling, *self._example)
        )
        if self._early is not None:
            self._pipeline = replace(plan.pipeline, derivations=self._early.derive)
        self._decision: Decision | None = None
        self._scale = 1.0
        if sampling is not None:
            self._begin_sampling(sampling, keep)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Read one epoch."""
        epoch = self.epoch
        self.epoch += 1
        number = 0
        left = threading.Event()
        with ThreadPoolExecutor(1, thread_name_prefix="hepset-stream") as executor:
            windows = self._windows(epoch, left)
            ahead = executor.submit(next, windows, None)
            try:
                while (found := ahead.result()) is not None:
                    ahead = executor.submit(next, windows, None)
                    number += 1
                    pool, rows = found
                    for start in range(0, len(rows), self.batch_size):
                        yield pool.tensors(rows[start : start + self.batch_size])
            finally:
                left.set()  # Who stops early does not wait for a window.
        if not number:
            _LOG.warning(
                "stream: no event of the files is in the split %r after the cuts, so that epoch %d "
                "has no batch",
                self.split,
                epoch,
            )

    def _windows(self, epoch: int, left: threading.Event) -> Iterator[tuple[EventPool, Array]]:
        """Read window after window until `left` is set: events, and their order in whole batches.

        Events that fill no batch go to the front of the next window; the last window ends with a
        short batch. While one window is given out, the next one is read into the other pool.
        """
        pools = itertools.cycle([EventPool(self.contract), EventPool(self.contract)])
        pool = next(pools)
        order = self._order(epoch)
        waiting: EventBatch | None = None
        number = 0
        parts = list(itertools.islice(order, 1))
        while parts:
            following = list(itertools.islice(order, self.window))
            pool.clear()
            if waiting is not None:
                pool.append(waiting)
            before = len(pool)
            shown = [np.zeros(0, np.int64)]
            for portions, (work, chunk) in zip(range(len(parts), 0, -1), parts, strict=True):
                if left.is_set():
                    return
                found = self._usable(work, partial(self._chunk, work, chunk, epoch))
                if found is not None and len(found[0]):
                    events, repeats = found
                    pool.append(events, portions=portions)
                    shown.append(repeats)
            rows = np.repeat(np.arange(before, len(pool)), np.concatenate(shown))
            if self.shuffle:
                dice = throws(len(rows), self.seed, epoch, _ROWS, number)
                rows = rows[np.argsort(dice, kind="stable")]
            number += bool(len(rows))
            rows = np.concatenate([np.arange(before), rows])
            whole = len(rows) - len(rows) % self.batch_size if following else len(rows)
            waiting = pool.take(rows[whole:]) if whole < len(rows) else None
            if whole:
                yield pool, rows[:whole]
                pool = next(pools)
            parts = following

    def _order(self, epoch: int) -> Iterator[tuple[Range, Chunk]]:
        """Some sources at a time, in random order, their chunks evenly spread over their part.

        Each source is read from a random place on to its end and from its beginning to there. The
        place is where a row group, or a cluster, begins, so that each is decoded once.
        """
        if not self.shuffle:
            yield from self._chunks
            return
        by_source: dict[int, list[tuple[Range, Chunk]]] = {}
        for work, chunk in self._chunks:
            by_source.setdefault(work.source, []).append((work, chunk))
        numbers = throws(3 * len(by_source), self.seed, epoch, _CHUNKS).reshape(3, -1)
        shuffled = np.array(list(by_source))[np.argsort(numbers[0], kind="stable")].tolist()
        rows = {source: row for row, source in enumerate(by_source)}
        for together in _mixed(shuffled, [self.plan.sources[source].group for source in shuffled]):
            places: list[tuple[float, tuple[Range, Chunk]]] = []
            for source in together:
                chunks, row = by_source[source], rows[source]
                begin = partial(self._first, chunks, float(numbers[1, row]))
                first = self._usable(chunks[0][0], begin)
                if first is None:
                    continue
                places += [
                    ((place + numbers[2, row]) / len(chunks), chunk)
                    for place, chunk in enumerate(chunks[first:] + chunks[:first])
                ]
            yield from (chunk for _, chunk in sorted(places, key=lambda found: found[0]))

    def _first(self, chunks: list[tuple[Range, Chunk]], place: float) -> int:
        """Which chunk of a source to begin with, near a place in [0, 1)."""
        work, chunk = chunks[int(place * len(chunks))]
        reader = self.plan.readers[work.reader]
        if reader.sequential:
            return 0
        start = reader.block_start(chunk.source, chunk.start)
        starts = [other.start for _, other in chunks]
        return max(bisect_right(starts, start) - 1, 0)

    def _usable(self, work: Range, read: Callable[[], _T]) -> _T | None:
        """Return what is read of a file; None where the file is left out, before or from now on.

        Raises:
            ReadError: If the file cannot be read and is not to be skipped, or none is left.
        """
        if work.source in self._left_out:
            return None
        try:
            return read()
        except UNUSABLE as problem:
            if self.plan.config.on_error == "stop":
                raise
            key = self.plan.keys[work.source]
            self._left_out.add(work.source)
            self.skipped[key] = str(problem)
            _LOG.warning("%s: skipped from here on: %s", key, problem)
            if self._left_out >= {other.source for other, _ in self._chunks}:
                raise ReadError(
                    f"every file was skipped (prepare.on_error: skip), the last one is {key}: "
                    f"{problem}"
                ) from problem
        return None

    def _example_chunk(self) -> tuple[Range, Chunk] | None:
        """Return the first event of a file, of one that can be read where others are skipped."""
        for _, parts in itertools.groupby(self._chunks, key=lambda part: part[0].source):
            work, chunk = next(parts)
            one = Chunk(chunk.source, chunk.start, chunk.start + 1)
            if self.plan.config.on_error == "stop":
                return work, one
            if self._usable(work, partial(self._whole, work, one)) is not None:
                return work, one
        return None

    def _whole(self, work: Range, chunk: Chunk) -> EventBatch:
        """Read all of the events of a chunk that are in the split and pass the cuts."""
        batch = read_chunk(self.plan, work, chunk)
        return self.plan.pipeline.run(batch, "select", only=self.split).batch

    def _chunk(self, work: Range, chunk: Chunk, epoch: int) -> tuple[EventBatch, Array]:
        """Read the events of a chunk that are shown, and how often each is."""
        head, repeats = self._wanted(self._head(work, chunk), epoch)
        found = Prepared(head)
        if self._early is not None and len(head):
            # What is wanted is known; now it is read whole, and derived, but not cut again.
            rows = head.arrays[_ROW]
            batch = read_chunk(self.plan, work, chunk, lambda reader, c: reader.read_rows(c, rows))
            found = replace(self.plan.pipeline, cuts={}, splitter=None).select(batch)
        if not len(head):
            return head, repeats
        if self.check:
            found = self.plan.pipeline.check(found)
            if not found.report.ok_as_part:
                raise ContractError(
                    f"{self.plan.paths[work.source]}: the events do not obey the contract:\n"
                    + "\n".join(f"  {violation}" for violation in found.report.errors)
                )
        return self.plan.pipeline.conform(found).batch, repeats

    def _wanted(self, batch: EventBatch, epoch: int) -> tuple[EventBatch, Array]:
        """Keep the events that are drawn, with how often each is."""
        if self._decision is None:
            return batch, np.ones(len(batch), np.int64)
        config = self._decision.config
        acceptance = self._decision.of(batch)
        counts = np.zeros(len(batch), np.int64)
        if config.sampler == "exact":
            expected = acceptance.astype(np.float64) * self._scale
            whole = np.floor(expected)
            counts += whole.astype(np.int64)
            counts += self._dice(batch, epoch, 0) < expected - whole
        else:
            for trial in range(int(self._scale)):
                counts += self._dice(batch, epoch, trial) * config.scale < acceptance
        return batch.take(counts > 0), counts[counts > 0]

    def _dice(self, batch: EventBatch, epoch: int, trial: int) -> Array:
        """A number in [0, 1) for every event, which nothing but its id and the key decide."""
        key = np.full(len(batch), (epoch << 8) + trial, np.int64)
        hashes = hash_rows(self.seed, [self.plan.splitter.order(batch).view(np.int64), key])
        return (hashes >> np.uint64(11)) * 2.0**-53

    def _begin_sampling(self, config: SamplingConfig, keep: Path | None) -> None:
        """Have the probabilities: from an earlier start, or from a pass over all events."""
        if self._example is None:
            raise ConfigurationError("train.sampling: there is nothing to read")
        if self._early is None:
            whole = replace(self.plan.pipeline, cuts={}, splitter=None)
            example = whole.select(read_chunk(self.plan, *self._example)).batch
        else:
            example = self._early.example
        rule = SamplingRule(config, self.plan.event, example, {})
        key = self._sampling_key(config) if keep is not None else None
        path = None if keep is None or key is None else keep / f"sampling-{self.split}.npz"
        learnt = kept_or_learnt(path, key or "", lambda: self._learn(rule))
        # Streams decide about every event alone, so the epoch's length is only expected.
        self._scale = float(repeats_of(learnt.events, learnt.expected, config.max_repeats))
        if config.events is not None:
            if config.sampler != "exact":
                raise ConfigurationError(
                    "train.sampling.events: a stream accepts or rejects every event once; leave "
                    "events out, or use sampler: exact"
                )
            self._scale = config.events / max(learnt.expected, np.finfo(float).tiny)
        self._decision = Decision(rule, learnt)

    def _learn(self, rule: SamplingRule) -> Learnt:
        """Make the pass over all events, again where it comes upon a file that is to be skipped."""
        while True:
            before = len(self._left_out)
            learnt = Acceptances(rule, self._heads()).learnt
            if len(self._left_out) == before:
                return replace(learnt, complete=not before)

    def _heads(self) -> Iterator[EventBatch]:
        """Read of all events of the split what decides about them."""
        for work, chunk in self._chunks:
            found = self._usable(work, partial(self._head, work, chunk))
            if found is not None:
                yield found

    def _head(self, work: Range, chunk: Chunk) -> EventBatch:
        """Read what decides about the events of a chunk: all of them, or what they have once."""
        if self._early is None:
            return self._whole(work, chunk)
        batch = read_scalars(self.plan, work, chunk)
        numbered = batch.with_arrays({_ROW: np.arange(len(batch))})
        return self._pipeline.run(numbered, "select", only=self.split).batch

    def _sampling_key(self, config: SamplingConfig) -> str | None:
        """Digest of what the probabilities depend on; None where files cannot be distinguished."""
        states = [_state(path) for path in self.plan.paths]
        if None in states:
            return None
        inputs = self.plan.inputs
        kept = ("algorithm", "event", "seed", "readers", "sources", "skipped")
        prepare = self.plan.config.model_dump(mode="json", include={"select", "derive", "split"})
        sampling = config.model_dump(mode="json", exclude={"events", "max_repeats"})
        known = [{k: inputs[k] for k in kept}, prepare, self.split, sampling, states, _versions()]
        named = digests_of_named_files([prepare, sampling])
        return digest_of([*known, named] if named else known)


_ROW: Final = "extra/row"
"""Where the number of a row is kept while cuts are decided."""


def read_scalars(plan: Plan, work: Range, chunk: Chunk) -> EventBatch:
    """Read what the events of a chunk have once."""
    return read_chunk(plan, work, chunk, lambda reader, c: reader.read_scalars(c))


def _versions() -> dict[str, str]:
    """Versions of hepset and of all plugins: functions of expressions come from any of them."""
    found = {plugin.distribution: plugin.version for plugin in registry().loaded}
    return {**found, "hepset": version("hepset")}


def _state(path: str) -> list[int] | None:
    """Size and time of change of a local file; None for what is none."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns]


def _cut(chunk: Chunk) -> list[Chunk]:
    """Cut a chunk of a reader into portions, where files are decoded in portions too."""
    first = chunk.start - chunk.start % _PORTION + _PORTION
    edges = [chunk.start, *range(first, chunk.stop, _PORTION), chunk.stop]
    return [Chunk(chunk.source, *edge) for edge in itertools.pairwise(edges)]


def _mixed(sources: list[int], groups: list[str]) -> list[list[int]]:
    """Divide sources into sets that are read together, each with all groups as far as they go."""
    waiting: dict[str, list[int]] = {}
    for source, group in zip(sources, groups, strict=True):
        waiting.setdefault(group, []).append(source)
    turns = itertools.zip_longest(*waiting.values())
    order = [source for turn in turns for source in turn if source is not None]
    size = max(_SOURCES, len(waiting))
    return [order[start : start + size] for start in range(0, len(order), size)]


class _EarlyColumns:
    """Derived columns that can be had from what events have once.

    Attributes:
        derive: The derivations that need no objects.
        example: An event with these columns.
    """

    def __init__(self, derivations: Mapping[str, str], example: EventBatch) -> None:
        self.derive = dict(derivations)
        self.example = example

    @classmethod
    def of(
        cls, plan: Plan, sampling: SamplingConfig | None, work: Range, chunk: Chunk
    ) -> _EarlyColumns | None:
        """Return them where cuts and sampling need nothing else, None where they do."""
        if not plan.config.select and sampling is None:
            return None
        head = read_scalars(plan, work, chunk)
        found = _early_derivations(plan, head)
        try:
            batch = derive(head, plan.event, found)
            scope = BatchColumns(batch, plan.event).scope
            for name, text in plan.config.select.items():
                where = f"prepare.select.{name}"
                compile_selection(text, scope, plugin_functions(), where=where)
            if sampling is not None:
                SamplingRule(sampling, plan.event, batch, {})
        except (ConfigurationError, DatasetError, ExpressionError):
            return None
        return cls(found, without_columns(batch, found))


def _early_derivations(plan: Plan, head: EventBatch) -> dict[str, str]:
    """Return the derived columns that need nothing but what events have once."""
    scope = BatchColumns(head, plan.event).scope
    lost = {*scope.absent, *plan.event.streams}
    left = dict(plan.config.derive)
    while gone := {name for name, text in left.items() if {_block(name), *names_of(text)} & lost}:
        lost |= gone
        left = {name: text for name, text in left.items() if name not in gone}
    if _compiles(left, scope):
        return left
    # Rarely, what is left is more than the names tell: what compiles is found one by one.
    found: dict[str, str] = {}
    while ready := [n for n in left if n not in found and _compiles({**found, n: left[n]}, scope)]:
        found |= {name: left[name] for name in ready}
    return found


def _block(name: str) -> str:
    """Stream, global or group that a derived column belongs to."""
    return name.replace("/", ".", 1).partition(".")[0]


def _compiles(derivations: Mapping[str, str], scope: Scope) -> bool:
    """Whether derived columns can be compiled."""
    try:
        compile_derivations(derivations, scope, plugin_functions())
    except ExpressionError:
        return False
    return True
