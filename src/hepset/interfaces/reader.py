"""`Reader`: what a file format can provide, where its work can be cut, one chunk of it."""

from __future__ import annotations

import glob
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt, field_validator

from hepset.arrays import Array
from hepset.batch import EventBatch
from hepset.errors import ReadError
from hepset.interfaces.component import ComponentConfig
from hepset.interfaces.remote import expand_address, is_address
from hepset.schema.base import Model
from hepset.schema.event import EventInfo


class Sample(Model):
    """Bookkeeping of a physics sample; none of it changes the events."""

    label: str = ""
    """Name in tables, cutflows and figures."""
    cross_section: float | None = Field(default=None, gt=0)
    """Cross section, in `unit`."""
    unit: Literal["fb", "pb", "nb"] = "pb"
    """Unit of the cross section."""
    k_factor: float = 1.0
    """Multiplies the cross section."""
    sum_of_weights: float | Literal["auto"] | None = None
    """Sum of weights before any selection; ``auto`` adds up the events that are read."""


class ReaderConfig(ComponentConfig):
    """Options that every reader has."""

    sample: Sample = Sample()
    """Bookkeeping; a text is the label."""
    max_events: PositiveInt | None = None
    """Read at most so many events of this entry; null = all."""
    chunk_size: PositiveInt = 10_000
    """Events per chunk: what one task reads at once. Results do not depend on it."""

    @field_validator("sample", mode="before", json_schema_input_type=str | Sample)
    @classmethod
    def _label(cls, value: object) -> object:
        return {"label": value} if isinstance(value, str) else value


class FileReaderConfig(ReaderConfig):
    """Options of a reader of files."""

    files: list[str] | dict[str, list[str]]
    """Paths or glob patterns, or group → patterns, also written ``group:pattern``; the group is
    kept in ``extra/group``."""

    def expand(self) -> list[tuple[str, str]]:
        """Resolve the patterns to (path, group), see `expand_files`.

        Raises:
            ReadError: If a pattern matches nothing.
        """
        return expand_files(self.files)

    @field_validator(
        "files",
        mode="before",
        json_schema_input_type=str | list[str] | dict[str, str | list[str]],
    )
    @classmethod
    def _one_or_many(cls, value: object) -> object:
        if isinstance(value, str | os.PathLike):
            return _grouped([os.fspath(value)])
        if isinstance(value, dict):
            # YAML reads a group such as 2018 as a number.
            return {
                str(k) if isinstance(k, int) else k: [v] if isinstance(v, str) else v
                for k, v in value.items()
            }
        if isinstance(value, list | tuple):
            return _grouped(
                [os.fspath(item) if isinstance(item, os.PathLike) else item for item in value]
            )
        return value


def _grouped(patterns: list[object]) -> object:
    """Sort ``group:pattern`` by group; patterns without any group stay a list."""
    found: dict[str, list[object]] = {}
    for pattern in patterns:
        group, rest = named_group(pattern) if isinstance(pattern, str) else ("", pattern)
        found.setdefault(group, []).append(rest)
    return found if set(found) - {""} else patterns


def named_group(pattern: str, folder: Path | None = None) -> tuple[str, str]:
    """Divide ``group:pattern`` into the group and the pattern; no name gives no group.

    An address keeps its scheme: ``QCD:root://host//path`` has the group ``QCD``,
    ``root://host//path`` and ``simplecache::root://host//path`` none. What exists under the whole
    name is no group.

    Args:
        pattern: Path or pattern, with or without a group.
        folder: Where a relative path begins; the working directory where None.
    """
    name, colon, rest = pattern.partition(":")
    if not colon or not name or not rest or rest.startswith(("//", ":")) or "/" in name:
        return "", pattern
    exists = ((folder or Path()) / pattern).exists()
    return ("", pattern) if exists else (name, rest)


@dataclass(frozen=True)
class Source:
    """One file, or one generator with its seed.

    Attributes:
        key: Stable name. A reader gives the path; the dataset shortens it to the path relative to
            the common parent of all files. A generator gives ``<generator>:<process>:<seed>``.
        entries: Number of entries.
        group: Group of the file where files are grouped.
        is_file: Whether `key` is a path.
        split: Split that whoever made the data set put the file in: ``train``, ``val``, ``test``.
    """

    key: str
    entries: int
    group: str = ""
    is_file: bool = True
    split: str = ""


@dataclass(frozen=True)
class Chunk:
    """A range of entries of one source: cheap, picklable, the unit of reading.

    Attributes:
        source: Index into the reader's `sources()`.
        start: First entry.
        stop: One past the last entry.
    """

    source: int
    start: int
    stop: int

    def __len__(self) -> int:
        """Number of entries."""
        return self.stop - self.start


Purpose = Literal["train", "predict"]
"""What events are read for: to learn from and to evaluate on, or to predict every one of them."""


class Reader(ABC):
    """Reads one format. It never sees the whole data set, never shuffles, never scales.

    A reader is built from its options and, where the user gives one, the event description;
    without one `event_info` states what the format itself tells. It must survive pickling:
    keep open files out of the state.
    """

    Config: ClassVar[type[ReaderConfig]] = ReaderConfig
    """Model of the options."""
    sequential: ClassVar[bool] = False
    """True where the source has no random access, so that chunks must be read in order."""
    purpose: Purpose = "train"
    """What the events are for, set before anything is read. A reader with cuts or resampling of
    its own leaves them out to ``predict``, where every event of the files has a row."""

    def __init__(self, config: ReaderConfig, event: EventInfo | None = None) -> None:
        """Keep the options; files are opened by the methods."""
        self.config = config
        self.event = event

    @classmethod
    def guess(cls, path: str) -> float:  # noqa: ARG003  other readers look at the file
        """Say how likely a file is one of this format, where the user does not name the reader.

        Every installed reader is asked and the greatest answer counts, so this must be quick and
        must not fail: look at the name, or at the head of a file that is there.

        Args:
            path: Path or address of the file.

        Returns:
            0 for no, which is the default; 0.5 where only the name fits, as of any file of a
            general format; 1 where the content is this reader's own.
        """
        return 0.0

    @abstractmethod
    def event_info(self) -> EventInfo:
        """What the events have: the given description, or what the format tells.

        Raises:
            ConfigurationError: If the format says nothing and no description was given.
        """

    @abstractmethod
    def sources(self) -> list[Source]:
        """The files or generators in a fixed order, with their number of entries.

        Raises:
            ReadError: If a file cannot be opened.
        """

    @abstractmethod
    def read(self, chunk: Chunk) -> EventBatch:
        """Read one chunk; ``ids["source"]`` counts through `sources()`.

        Raises:
            ReadError: If the file does not hold what was asked for.
        """

    def read_scalars(self, chunk: Chunk) -> EventBatch:
        """Read what the events of a chunk have once; the batch has no streams.

        Its rows are those of `read`. Selection and sampling that need no objects are decided on it,
        and `read_rows` then reads the events that are wanted. This default reads everything.

        Raises:
            ReadError: If the file does not hold what was asked for.
        """
        batch = self.read(chunk)
        counted = {f"{stream}.counts" for stream in batch.streams}
        arrays = {name: array for name, array in batch.arrays.items() if name not in counted}
        return replace(batch, streams={}, slots={}, arrays=arrays)

    def read_rows(self, chunk: Chunk, rows: Array) -> EventBatch:
        """Read some rows of a chunk: ``read(chunk).take(rows)``.

        Args:
            chunk: One of `chunks()`, or any part of one.
            rows: A mask over the rows of `read`, or their numbers in any order, also repeated.

        Raises:
            ReadError: If the file does not hold what was asked for.
        """
        return self.read(chunk).take(rows)

    def block_start(self, source: int, entry: int) -> int:  # noqa: ARG002
        """First entry of what is decoded together with an entry; the entry itself by default.

        Who begins there to read in order decodes nothing twice.

        Args:
            source: Index into `sources()`.
            entry: An entry of it.

        Raises:
            ReadError: If the file cannot be opened.
        """
        return entry

    def chunks(self) -> list[Chunk]:
        """Cut the sources into chunks of at most ``chunk_size`` events, ``max_events`` in all."""
        left = self.config.max_events
        found: list[Chunk] = []
        for index, source in enumerate(self.sources()):
            entries = source.entries if left is None else min(source.entries, left)
            found += [
                Chunk(index, start, min(start + self.config.chunk_size, entries))
                for start in range(0, entries, self.config.chunk_size)
            ]
            if left is not None:
                left -= entries
        return found

    def input_slots(self) -> dict[str, int]:
        """Slots by stream where the format fixes them (padded arrays); empty where it does not."""
        return {}

    def fingerprint(self) -> Mapping[str, object]:
        """What else the events depend on, as plain data: equal data mean equal events.

        Files that are sources are digested, and options are known; this is for sources that are no
        files (the state of a data base) and for what options only name (the digest of a file of
        weights). Another fingerprint makes a dataset out of date.
        """
        return {}

    def provenance(self) -> dict[str, object]:
        """What else a reader wants on record: generator settings, versions, cross sections."""
        return {}

    def __iter__(self) -> Iterator[EventBatch]:
        """Read all chunks one after the other."""
        for chunk in self.chunks():
            yield self.read(chunk)


def expand_files(files: list[str] | dict[str, list[str]]) -> list[tuple[str, str]]:
    """Resolve patterns to (path, group), sorted within each pattern, no file twice.

    Addresses with a scheme (``root://…``) may be patterns too, where the server can list its files.

    Raises:
        ReadError: If a pattern matches nothing.
    """
    groups = files if isinstance(files, dict) else {"": files}
    found: dict[str, str] = {}
    for group, patterns in groups.items():
        for pattern in patterns:
            if is_address(pattern):
                for address in expand_address(pattern):
                    found.setdefault(address, group)
                continue
            expanded = str(Path(pattern).expanduser())
            is_file = Path(expanded).is_file()
            paths = [expanded] if is_file else sorted(glob.glob(expanded, recursive=True))  # noqa: PTH207  the pattern may be absolute
            if not paths:
                parent = Path(expanded).parent
                state = "its folder exists" if parent.is_dir() else f"no folder {str(parent)!r}"
                raise ReadError(
                    f"files: {pattern!r} matches no file ({state}; working directory "
                    f"{str(Path.cwd())!r})"
                )
            for path in paths:
                found.setdefault(path, group)
    if not found:
        raise ReadError("files: the list is empty; give at least one path or pattern")
    return list(found.items())
