"""The plan of a conversion: sources with stable keys, ranges of entries, and the plan's digest."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Final

import xxhash

from hepset.dataset.manifest import DATASET_FORMAT, SkippedSource, SourceRecord
from hepset.errors import ConfigurationError, ReadError
from hepset.events.derive import derived_contract, derived_event
from hepset.events.pipeline import EventPipeline
from hepset.events.select import plugin_functions
from hepset.events.split import Splitter
from hepset.expressions.named_files import may_name_files, named_files
from hepset.files import digest_file
from hepset.interfaces import Chunk, FileReaderConfig, Reader, Source
from hepset.plugins import registry
from hepset.schema.config import PrepareConfig
from hepset.schema.contract import Contract
from hepset.schema.event import EventInfo

ALGORITHM: Final = 1
"""Raised when the same inputs would give other bytes than before."""


@dataclass(frozen=True)
class Range:
    """What one task reads: chunks of one source in order.

    Attributes:
        reader: Index of the reader.
        source: Index of the source among those of all readers.
        chunks: One chunk, or all of a source that cannot be read from the middle.
    """

    reader: int
    source: int
    chunks: tuple[Chunk, ...]

    def __len__(self) -> int:
        """Number of entries."""
        return sum(len(chunk) for chunk in self.chunks)


@dataclass(frozen=True)
class Plan:
    """Everything that is known before the first event is read.

    Attributes:
        readers: One per sample; without files that cannot be opened.
        offsets: Index of each reader's first source.
        sources: All sources with their keys and digests.
        paths: Where each source is, for messages.
        ranges: The tasks of the first phase.
        skipped: Files that could not be opened.
        event: What an event of the data set is, derived features included.
        contract: The same as a contract; slots may be open.
        config: The configuration of the conversion.
        seed: Seed of splits and shuffle.
        inputs: Everything that the bytes depend on, by name.
    """

    readers: tuple[Reader, ...]
    offsets: tuple[int, ...]
    sources: tuple[SourceRecord, ...]
    paths: tuple[str, ...]
    ranges: tuple[Range, ...]
    skipped: tuple[SkippedSource, ...]
    event: EventInfo
    contract: Contract
    config: PrepareConfig
    seed: int
    inputs: dict[str, Any]

    @cached_property
    def key(self) -> str:
        """Digest of `inputs`: equal keys mean equal bytes."""
        return digest_of(self.inputs)

    @cached_property
    def work_key(self) -> str:
        """Digest of the plan with its ranges: whether unfinished work can be continued."""
        ranges = [[r.reader, r.source, [[c.start, c.stop] for c in r.chunks]] for r in self.ranges]
        return digest_of([self.key, ranges])

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The keys of the sources."""
        return tuple(source.key for source in self.sources)

    @cached_property
    def splitter(self) -> Splitter:
        """What assigns events to splits."""
        groups = [source.group for source in self.sources]
        official = [source.split for source in self.sources]
        return Splitter(self.config.split, self.seed, self.keys, groups, official)

    @cached_property
    def pipeline(self) -> EventPipeline:
        """What becomes of the events."""
        return EventPipeline(
            self.event,
            self.contract,
            self.config.derive,
            self.config.select,
            self.splitter,
            strict=self.config.check == "strict",
        )

    def with_contract(self, contract: Contract) -> Plan:
        """Return the plan with sizes that the files have told."""
        if contract == self.contract:
            return self
        changed = replace(self, contract=contract)
        # The splits do not depend on the contract.
        changed.__dict__["splitter"] = self.splitter
        return changed


def digest_of(document: object) -> str:
    """Return the xxh3-128 digest of JSON-ready data."""
    text = json.dumps(document, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return xxhash.xxh3_128_hexdigest(text.encode())


def make_plan(
    readers: Sequence[Reader],
    *,
    event: EventInfo,
    contract: Contract,
    config: PrepareConfig,
    seed: int,
    digests: bool = True,
) -> Plan:
    """Plan a conversion: list the sources, digest the files, cut the work.

    Args:
        readers: One per sample.
        event: What an event is.
        contract: What every array obeys.
        config: Selection, derived features, splits, shards.
        seed: Seed of splits and shuffle.
        digests: Whether files are digested, for the record; not where nothing is recorded.

    Raises:
        ConfigurationError: If two sources have one key, or file groups do not fit the splits.
        ReadError: If a file cannot be opened (and is not to be skipped).
    """
    if not readers:
        raise ConfigurationError("read: there is nothing to read; name a reader with its files")
    usable: list[Reader] = []
    listed: list[list[Source]] = []
    unreadable: list[tuple[str, str]] = []
    for reader in readers:
        kept, sources, bad = open_sources(reader, skip=config.on_error == "skip")
        usable.append(kept)
        listed.append(sources)
        unreadable += bad
    offsets = [sum(len(sources) for sources in listed[:i]) for i in range(len(listed))]
    keys = _keys([source for sources in listed for source in sources], [p for p, _ in unreadable])
    full = derived_event(event, config.derive)
    records = [
        SourceRecord(
            key=keys[source.key],
            entries=source.entries,
            sample=sample,
            group=source.group,
            split=source.split,
            digest=_digest(source) if digests else "",
        )
        for sample, sources in enumerate(listed)
        for source in sources
    ]
    ranges = [
        Range(index, offsets[index] + chunks[0].source, tuple(chunks))
        for index, reader in enumerate(usable)
        for chunks in _tasks(reader)
    ]
    completed = derived_contract(contract, full) if config.derive else contract
    inputs = {
        "format": DATASET_FORMAT,
        "algorithm": ALGORITHM,
        "event": full.model_dump(mode="json"),
        "contract": completed.dump(),
        "prepare": config.model_dump(mode="json"),
        "seed": seed,
        "readers": [_options(reader) for reader in usable],
        "sources": [record.model_dump(mode="json") for record in records],
        "skipped": [keys[path] for path, _ in unreadable],
    }
    inputs |= digests_of_named_files(inputs["prepare"])
    plan = Plan(
        readers=tuple(usable),
        offsets=tuple(offsets),
        sources=tuple(records),
        paths=tuple(source.key for sources in listed for source in sources),
        ranges=tuple(ranges),
        skipped=tuple(SkippedSource(key=keys[path], reason=why) for path, why in unreadable),
        event=full,
        contract=completed,
        config=config,
        seed=seed,
        inputs=inputs,
    )
    plan.splitter  # noqa: B018  raises now where groups and splits do not fit.
    return plan


def _tasks(reader: Reader) -> list[list[Chunk]]:
    chunks = [chunk for chunk in reader.chunks() if len(chunk)]
    if not reader.sequential:
        return [[chunk] for chunk in chunks]
    by_source: dict[int, list[Chunk]] = {}
    for chunk in chunks:
        by_source.setdefault(chunk.source, []).append(chunk)
    return [sorted(group, key=lambda chunk: chunk.start) for group in by_source.values()]


def open_sources(
    reader: Reader, *, skip: bool
) -> tuple[Reader, list[Source], list[tuple[str, str]]]:
    """List the sources of a reader, without files that cannot be opened if they may be skipped.

    Args:
        reader: With all of its files.
        skip: Whether files that cannot be opened are left out.

    Returns:
        A reader of the usable files, its sources, and path and reason of every other file.

    Raises:
        ReadError: If a file cannot be opened and is not to be skipped, or none can be.
    """
    try:
        return reader, reader.sources(), []
    except ReadError:
        if not skip or not isinstance(reader.config, FileReaderConfig):
            raise
    config = reader.config
    # One description for all: a file that lacks something does not describe itself without it.
    event = reader.event if reader.event is not None else reader.event_info()
    good: dict[str, list[str]] = {}
    bad: list[tuple[str, str]] = []
    for path, group in config.expand():
        alone = config.model_copy(update={"files": {group: [path]}})
        try:
            _of_files(reader, alone, event).sources()
        except ReadError as problem:
            bad.append((path, str(problem)))
        else:
            good.setdefault(group, []).append(path)
    if not good:
        lines = "\n".join(f"  {why}" for _, why in bad)
        raise ReadError(f"none of the {len(bad)} files can be read:\n{lines}")
    kept = _of_files(reader, config.model_copy(update={"files": good}), event)
    return kept, kept.sources(), bad


def _of_files(reader: Reader, config: FileReaderConfig, event: EventInfo) -> Reader:
    """Return a reader of other files for the same purpose."""
    other = type(reader)(config, event)
    other.purpose = reader.purpose
    return other


def _keys(sources: Sequence[Source], unreadable: Sequence[str]) -> dict[str, str]:
    """Source's own key → stable key: a file's path relative to the common parent of all files."""
    local = [s.key for s in sources if s.is_file and "://" not in s.key] + list(unreadable)
    resolved = {path: os.path.abspath(path) for path in local}  # noqa: PTH100  keeps symlinks
    parents = {str(Path(path).parent) for path in resolved.values()}
    common = os.path.commonpath(parents) if parents else ""
    keys = {
        path: os.path.relpath(full, common).replace(os.sep, "/") for path, full in resolved.items()
    }
    keys |= {source.key: source.key for source in sources if source.key not in keys}
    seen: set[str] = set()
    for source in sources:
        key = keys[source.key]
        if key in seen:
            raise ConfigurationError(
                f"read: {source.key!r} is read twice; events of one source would be counted "
                "twice, and could be trained and tested on. Name every file in one sample only; "
                "give a generator another seed"
            )
        seen.add(key)
    return keys


def _digest(source: Source) -> str:
    # Not every source that calls itself a file is one on this machine; its entries count.
    return _local_digest(source.key) if source.is_file else ""


def digests_of_named_files(document: object) -> dict[str, dict[str, str]]:
    """Return the files that the expressions of a document name, with their digests.

    Args:
        document: JSON-ready data.

    Returns:
        Path → digest under the one key ``files``; empty where no file is named.
    """
    named = named_files(document, plugin_functions()) if may_name_files(document) else []
    return {"files": {path: _local_digest(path) for path in named}} if named else {}


def _local_digest(name: str) -> str:
    """Digest of a file of this machine; empty for what is none."""
    if "://" in name:
        return ""
    path = Path(name)
    try:
        state = path.stat()
        return _digest_file(str(path.absolute()), state.st_size, state.st_mtime_ns)
    except OSError:
        return ""


@lru_cache(maxsize=100_000)
def _digest_file(path: str, size: int, time: int) -> str:  # noqa: ARG001  part of the cache's key
    return digest_file(Path(path))


def _options(reader: Reader) -> dict[str, Any]:
    """What a reader was asked, without what the bytes do not depend on."""
    options: Mapping[str, Any] = reader.config.model_dump(mode="json")
    kept = {name: value for name, value in options.items() if name not in {"files", "chunk_size"}}
    fingerprint = dict(reader.fingerprint())
    found = {"reader": type(reader).__name__, **_provider(reader), **kept}
    return {**found, "fingerprint": fingerprint} if fingerprint else found


def _provider(reader: Reader) -> dict[str, str]:
    """Name the plugin that a reader comes from: another version may read other numbers.

    The core's readers change with `ALGORITHM`.
    """
    package = type(reader).__module__.partition(".")[0]
    for plugin in registry().loaded:
        modules = (str(found.reference) for found in plugin.of_kind("readers").values())
        if package != "hepset" and any(m.partition(".")[0] == package for m in modules):
            return {plugin.distribution: plugin.version}
    return {}
