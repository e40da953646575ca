"""`prepare_dataset`: from readers to a data set, in two phases of independent tasks.

Range tasks read chunks and spill rows sorted by split and hash; shard tasks each merge one interval
of hashes. The bytes depend on the inputs, the configuration and the seed, not on workers, chunk
sizes or interruptions. Unfinished work is kept in ``<data set>/.work`` and continued.
"""

from __future__ import annotations

import contextlib
import logging
import math
import re
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import IO, Any, Final

from hepset.convert.engines import LocalEngine
from hepset.convert.lengths import (
    Lengths,
    added_lengths,
    jagged_streams,
    quantile_of,
    slots_for,
)
from hepset.convert.plan import Plan, make_plan
from hepset.convert.quantiles import Counts, Quantiles, added, automatic_columns
from hepset.convert.records import (
    class_prior,
    cutflow_of,
    label_extremes,
    merged_report,
    nothing_left,
    resolve_classes,
    resolved_event,
    sample_records,
    source_records,
    truncations,
    warn_of_unused_splits,
)
from hepset.convert.tasks import (
    ChunkResult,
    Context,
    CountObjects,
    CountValues,
    RangeItem,
    RangeWork,
    ReadEvents,
    ShardItem,
    ShardResult,
    finished_range,
    finished_shard,
    forget_context,
    run_range,
    write_one_shard,
)
from hepset.dataset import Dataset, open_dataset
from hepset.dataset.columns import ColumnLayout
from hepset.dataset.manifest import (
    MANIFEST,
    WORK,
    Manifest,
    SkippedSource,
    SplitRecord,
    SplitRule,
)
from hepset.errors import ConfigurationError, DatasetError
from hepset.events.rows import common_layouts
from hepset.files import atomic_file, remove_temporary
from hepset.interfaces import Engine, Reader
from hepset.schema.config import PrepareConfig
from hepset.schema.contract import Contract
from hepset.schema.event import EventInfo
from hepset.schema.statistics import Statistics

logger = logging.getLogger(__name__)

SHARD_BYTES: Final = 128_000_000
"""Largest decoded size that a shard aims at."""

_SHARD_NAME: Final = re.compile(r"(train|val|test|fold\d+)-\d{5,}\.parquet\Z")


@dataclass(frozen=True)
class Progress:
    """How far a conversion is.

    Attributes:
        phase: ``count`` (only where slots are ``auto``), ``read`` or ``write``.
        done: Entries read, or events written.
        total: The same at the end of the phase.
    """

    phase: str
    done: int
    total: int


ProgressCallback = Callable[[Progress], None]


def prepare_dataset(
    readers: Sequence[Reader],
    *,
    event: EventInfo,
    contract: Contract,
    config: PrepareConfig,
    seed: int,
    output: Path,
    engine: Engine | None = None,
    provenance: Mapping[str, Any] | None = None,
    progress: ProgressCallback | None = None,
    force: bool = False,
) -> Dataset:
    """Convert what readers read into a data set; return at once if it is up to date.

    Args:
        readers: One per sample, built for `hepset.events.derive.input_event` (an event without the
            features that prepare derives).
        event: What an event is.
        contract: What every array obeys; targets that it requires must be there.
        config: Selection, derived features, splits, shards.
        seed: Seed of splits and shuffle.
        output: Directory of the data set. Another data set in it is replaced.
        engine: Where the tasks run; null = processes of this machine.
        provenance: JSON-ready data to keep in ``dataset.json``, the same for equal inputs.
        progress: Called after every task.
        force: Convert also what is up to date.

    Raises:
        ConfigurationError: If the configuration does not fit the data.
        ReadError: If a source cannot be read and is not to be skipped.
        ContractError: Listing every violation of the contract (``check: strict``).
        DatasetError: If no event is left, ids are not unique, or another conversion is writing.
    """
    plan = make_plan(readers, event=event, contract=contract, config=config, seed=seed)
    return write_dataset(
        plan, output, engine=engine, provenance=provenance, progress=progress, force=force
    )


def write_dataset(
    plan: Plan,
    output: Path,
    *,
    engine: Engine | None = None,
    provenance: Mapping[str, Any] | None = None,
    progress: ProgressCallback | None = None,
    force: bool = False,
) -> Dataset:
    """Carry out a plan; the arguments and errors are those of `prepare_dataset`."""
    finished = None if force else _up_to_date(output, plan)
    if finished is not None:
        logger.info("%s is up to date", output)
        shutil.rmtree(output / WORK, ignore_errors=True)
        return finished
    if not plan.splitter.names:
        raise ConfigurationError("prepare.split: every fraction is 0; give at least one split")
    _warn_of_copies(plan)
    for skipped in plan.skipped:
        logger.warning("%s: skipped: %s", skipped.key, skipped.reason)
    work = output / WORK
    work.mkdir(parents=True, exist_ok=True)
    own_engine = engine is None
    runner = LocalEngine() if engine is None else engine
    try:
        with _lock(work):
            conversion = _Conversion(plan, output, work, runner, progress or (lambda _: None))
            conversion.run(dict(provenance or {}))
            shutil.rmtree(work)
    finally:
        forget_context()
        if own_engine:
            runner.close()
    return open_dataset(output)


def _up_to_date(output: Path, plan: Plan) -> Dataset | None:
    try:
        dataset = open_dataset(output)
    except DatasetError:
        return None
    return dataset if dataset.manifest.plan == plan.key else None


def _warn_of_copies(plan: Plan) -> None:
    """Warn where files of different names hold the same bytes."""
    seen: dict[str, str] = {}
    for source in plan.sources:
        if not source.digest or not source.entries:
            continue
        first = seen.setdefault(source.digest, source.key)
        if first != source.key:
            logger.warning(
                "%s is a copy of %s: its events are counted twice, and may be trained and tested "
                "on; take one of the two out of read.files",
                source.key,
                first,
            )


@contextlib.contextmanager
def _lock(work: Path) -> Iterator[IO[bytes]]:
    """Keep a second conversion out of the directory; the lock dies with the process."""
    with (work / "lock").open("wb") as file:
        try:
            import fcntl  # noqa: PLC0415  exists on POSIX systems only

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass
        except BlockingIOError:
            raise DatasetError(
                f"{work.parent}: another conversion is writing this data set; wait for it, or "
                "choose another output"
            ) from None
        yield file


class _Conversion:
    """One conversion, phase by phase."""

    def __init__(
        self, plan: Plan, output: Path, work: Path, engine: Engine, progress: ProgressCallback
    ) -> None:
        self.plan = plan
        self.output = output
        self.work = work
        self.engine = engine
        self.progress = progress
        self.key = plan.work_key

    def run(self, provenance: dict[str, Any]) -> None:
        self._start()
        jagged = self._resolve_slots()
        self._resolve_scales()
        context = Context(self.plan, self.work, self.output, jagged)
        results, failed = self._read(context)
        report = merged_report(self.plan, results)
        if self.plan.config.check == "strict" and not report.ok:
            shutil.rmtree(self.work, ignore_errors=True)
            report.raise_if_bad()
        for violation in report.violations:
            if violation.severity != "note":
                logger.warning("%s", violation)
        cutflow = cutflow_of(self.plan, results)
        if not any(result.file for result in results):
            shutil.rmtree(self.work, ignore_errors=True)
            raise nothing_left(self.plan, failed, cutflow)
        warn_of_unused_splits(self.plan, results)
        contract, names = resolve_classes(self.plan, results)
        found = [{layout.name: layout for layout in r.layouts} for r in results if r.file]
        extremes = label_extremes(results)
        layouts = common_layouts(contract, found, extremes)
        splits = self.plan.splitter.names
        counted = frozenset({"train"} if "train" in splits else splits)
        context = replace(
            context,
            plan=self.plan.with_contract(contract),
            layouts=layouts,
            spills=tuple((r.file, r.rows) for r in results if r.file),
            counted=counted,
        )
        shards = self._write(context, self._shards(results, layouts))
        parts = [s.statistics for s in shards.values() if s.statistics is not None]
        statistics = reduce(Statistics.merge, parts, Statistics())
        Manifest(
            plan=self.plan.key,
            seed=self.plan.seed,
            contract=contract,
            event=resolved_event(self.plan.event, contract, names),
            columns=tuple(layouts.values()),
            class_names=names,
            prior=class_prior(statistics),
            splits={
                name: SplitRecord(
                    rows=sum(r.rows.get(name, 0) for r in results),
                    shards=tuple(s.shard for item, s in shards.items() if item.split == name),
                )
                for name in splits
            },
            split_rule=SplitRule(
                config=self.plan.config.split,
                seed=self.plan.seed,
                hashed=tuple(
                    kind
                    for kind in ("event", "entry")
                    if any(r.hashed == kind for r in results if r.file)
                ),
            ),
            sources=source_records(self.plan, results),
            samples=sample_records(self.plan, results),
            cutflow=cutflow,
            truncated=truncations(results),
            skipped=(*self.plan.skipped, *failed),
            report=report,
            statistics=statistics,
            prepare=self.plan.config.model_dump(mode="json"),
            provenance=provenance,
        ).write(self.output)
        self._remove_shards({item.name for item in shards})

    def _start(self) -> None:
        """Clear what does not belong to this plan."""
        (self.output / MANIFEST).unlink(missing_ok=True)
        remove_temporary(self.output)
        remove_temporary(self.work)
        stamp = self.work / "plan"
        if not stamp.is_file() or stamp.read_text() != self.key:
            for path in self.work.iterdir():
                if path.name != "lock":
                    path.unlink()
            self._remove_shards(set())
            with atomic_file(stamp, durable=False) as file:
                file.write(self.key.encode())
        else:
            logger.info("%s: continuing an interrupted conversion", self.output)

    def _remove_shards(self, keep: set[str]) -> None:
        for path in self.output.glob("*.parquet"):
            if _SHARD_NAME.match(path.name) and path.name not in keep:
                path.unlink()

    def _over_ranges(
        self, context: Context, name: str, work: RangeWork, known: Collection[int] = ()
    ) -> Iterator[tuple[int, Any]]:
        """Do the same with every range that is not known; yield its index and the result.

        Args:
            context: What the tasks share.
            name: Of the file that it is kept in.
            work: What to do.
            known: Indices of ranges that are left out.
        """
        path = context.save(name)
        ranges = self.plan.ranges
        left = [index for index in range(len(ranges)) if index not in known]
        items = [
            RangeItem(path, self.key, ranges[i], self.plan.paths[ranges[i].source], work)
            for i in left
        ]
        for position, result in self.engine.map(run_range, items):
            yield left[position], result

    def _resolve_slots(self) -> frozenset[str]:
        """Fill in slots that are `auto`; return the streams that are stored jagged."""
        contract = self.plan.contract
        slots = contract.slots
        wanted = [name for name, size in slots.items() if size is None]
        stated = [reader.input_slots() for reader in self.plan.readers]
        known = {
            name: max(s[name] for s in stated)
            for name in wanted
            if self.plan.event.streams[name].slots == "auto" and all(name in s for s in stated)
        }
        counted: Lengths = {}
        if set(wanted) - set(known):
            counted = {n: c for n, c in self._count().items() if n in wanted and n not in known}
            for name in set(wanted) - set(known):
                fraction = quantile_of(self.plan.event, name)
                known[name] = slots_for(counted.get(name, Counter()), fraction)
        contract = contract.resolve(slots=known)
        self.plan = self.plan.with_contract(contract)
        return jagged_streams(self.plan.event, contract, counted)

    def _resolve_scales(self) -> None:
        """Fill in the constants of transforms with ``affine: auto``, in two passes."""
        columns = automatic_columns(self.plan.contract)
        if not columns:
            return
        logger.info("reading twice for percentiles, because a transform has `affine: auto`")
        context = Context(self.plan, self.work, self.output)
        total, done = 2 * self._entries(), 0
        passes: list[Counts] = []
        for _ in range(2):
            work = CountValues(columns, Quantiles(passes[0] if passes else None))
            counted: Counts = {}
            for index, part in self._over_ranges(context, "quantiles", work):
                counted = added([counted, part])
                done += len(self.plan.ranges[index])
                self.progress(Progress("count", done, total))
            passes.append(counted)
        found = {column: Quantiles(passes[0]).affine(column, passes[1]) for column in columns}
        self.plan = self.plan.with_contract(self.plan.contract.resolve(affine=found))

    def _entries(self) -> int:
        """Number of entries of all ranges."""
        return sum(len(part) for part in self.plan.ranges)

    def _count(self) -> Lengths:
        """How many of the selected events have how many objects."""
        logger.info("counting objects, because the number of slots is left open")
        context = Context(self.plan, self.work, self.output)
        parts: list[Lengths] = []
        total, done = self._entries(), 0
        for index, counts in self._over_ranges(context, "count", CountObjects()):
            parts.append(counts)
            done += len(self.plan.ranges[index])
            self.progress(Progress("count", done, total))
        return added_lengths(parts)

    def _read(self, context: Context) -> tuple[list[ChunkResult], list[SkippedSource]]:
        """Run the range tasks; return the results of usable sources in order of the plan."""
        ranges, work = self.plan.ranges, ReadEvents()
        found: dict[int, list[ChunkResult]] = {}
        for index, part in enumerate(ranges):
            earlier = finished_range(self.work, self.key, part)
            if earlier is not None:
                found[index] = earlier
        total = self._entries()
        done = sum(len(ranges[index]) for index in found)
        if found:
            logger.info("%d of %d ranges are already read", len(found), len(ranges))
        logger.info("reading %d entries of %d sources", total, len(self.plan.sources))
        for index, result in self._over_ranges(context, "read", work, known=list(found)):
            found[index] = result
            done += len(ranges[index])
            self.progress(Progress("read", done, total))
        results = [result for index in sorted(found) for result in found[index]]
        errors: dict[int, str] = {}
        for result in results:
            if result.error:
                errors.setdefault(result.source, result.error)
        failed = [
            SkippedSource(key=self.plan.sources[source].key, reason=reason)
            for source, reason in sorted(errors.items())
        ]
        for skipped in failed:
            logger.warning("%s: skipped: %s", skipped.key, skipped.reason)
        # A source is used whole or not at all: what was read before the error depends on chunks.
        return [result for result in results if result.source not in errors], failed

    def _shards(
        self, results: Sequence[ChunkResult], layouts: Mapping[str, ColumnLayout]
    ) -> list[tuple[str, int, int]]:
        """Split, index and number of shards of every shard, in order."""
        events = sum(sum(result.rows.values()) for result in results)
        per_event = 16.0
        for name, layout in layouts.items():
            if layout.layout == "jagged":
                objects = sum(result.objects.get(name, 0) for result in results)
                per_event += layout.width * objects / max(1, events)
            else:
                per_event += layout.width
        limit = max(1, min(self.plan.config.shard_size, int(SHARD_BYTES / per_event)))
        shards = []
        for name in self.plan.splitter.names:
            rows = sum(result.rows.get(name, 0) for result in results)
            count = math.ceil(rows / limit)
            shards += [(name, index, count) for index in range(count)]
        return shards

    def _write(
        self, context: Context, shards: Sequence[tuple[str, int, int]]
    ) -> dict[ShardItem, ShardResult]:
        path = context.save("write")
        items = [ShardItem(path, self.key, *shard) for shard in shards]
        found: dict[int, ShardResult] = {}
        for index, item in enumerate(items):
            earlier = finished_shard(context, self.key, item)
            if earlier is not None:
                found[index] = earlier
        missing = [index for index in range(len(items)) if index not in found]
        total = sum(sum(rows.values()) for _, rows in context.spills)
        done = sum(result.shard.rows for result in found.values())
        logger.info("writing %d events to %d shards", total, len(items))
        for position, result in self.engine.map(write_one_shard, [items[i] for i in missing]):
            found[missing[position]] = result
            done += result.shard.rows
            self.progress(Progress("write", done, total))
        return {items[index]: found[index] for index in range(len(items))}
