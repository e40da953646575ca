"""`ColumnarReader`: events from named columns, whatever file they are in.

The reader keeps files open in its own process and hands the columns of a chunk to `Assembly`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from hepset.arrays import Array
from hepset.batch import EventBatch, make_ids
from hepset.errors import ConfigurationError
from hepset.interfaces.reader import Chunk, FileReaderConfig, Reader, Source
from hepset.readers.assembly import Assembly, Data, Where
from hepset.readers.column_map import Column, ColumnMap, Entry, check_keys, resolve
from hepset.schema.event import EventInfo

_OPEN_FILES = 8
"""Files kept open at a time; a run reads its chunks file by file."""


class ColumnarFile(ABC):
    """One open file of columns."""

    @property
    @abstractmethod
    def entries(self) -> int:
        """Number of events."""

    @abstractmethod
    def names(self) -> list[str]:
        """Names of the columns; parts of a nested one are joined by dots."""

    def holds_lists(self, name: str) -> bool:  # noqa: ARG002  a file that cannot tell says no
        """Whether a column is known to have a list per event."""
        return False

    def rows(self, start: int, stop: int) -> tuple[Array, Array] | None:  # noqa: ARG002
        """Entry and number within its entry of every row of a range; None = a row per entry.

        For files whose entries hold any number of samples, such as the jets of an event.

        Raises:
            ReadError: If the file cannot be read.
        """
        return None

    def block_start(self, entry: int) -> int:
        """First entry of what is decoded together with an entry."""
        return entry

    @abstractmethod
    def read(self, names: Sequence[str], start: int, stop: int) -> dict[str, Data]:
        """Read columns of a range of entries.

        Raises:
            ReadError: If a column cannot be read.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the file."""


class ColumnarConfig(FileReaderConfig):
    """Options of the readers of columns."""

    columns: dict[str, Column | None] = Field(default_factory=dict)
    """Place in the event → column: ``streams.jets.pt: Jet_pt`` or ``{from: Jet_pt, scale: 0.001}``,
    ``targets.assignment/t1: [b_index, q1_index, q2_index]``, ``targets.signal: {group: {ttbar: 1,
    qcd: 0}}``, ``extra.run: run``. What is not mapped is found by name; null = not in the files."""


@dataclass
class _State:
    """What is known in this process only and does not travel to another."""

    files: OrderedDict[int, tuple[ColumnarFile, ColumnMap]] = field(default_factory=OrderedDict)


class ColumnarReader(Reader):
    """Reads events from the columns of files, with a column map; the base of `root` and `parquet`.

    Values keep the file's dtype. Streams come from lists (flat) or fixed-size arrays (padded, all
    slots real unless ``masks.<stream>`` or ``counts.<stream>`` is mapped). Targets, weights and
    the process are optional in the files. ``extra/group`` is the group of the file, where files are
    grouped.
    """

    Config: ClassVar[type[FileReaderConfig]] = ColumnarConfig

    def __init__(self, config: ColumnarConfig, event: EventInfo | None = None) -> None:
        """Keep the options; files are opened by the methods."""
        super().__init__(config, event)
        self._sources: list[Source] | None = None
        self._paths: list[tuple[str, str]] | None = None
        self._state = _State()

    @property
    def options(self) -> ColumnarConfig:
        """The options, typed."""
        config: ColumnarConfig = self.config  # type: ignore[assignment]
        return config

    @abstractmethod
    def open(self, path: str) -> ColumnarFile:
        """Open one file.

        Raises:
            ReadError: If it cannot be opened as what it should be.
        """

    def known_columns(self, file: ColumnarFile) -> Mapping[str, Column]:  # noqa: ARG002
        """Places in the event whose columns the format itself tells, as keys of ``columns``.

        What the user maps goes first. For readers of formats with fixed names; the default knows
        none.
        """
        return {}

    def event_info(self) -> EventInfo:
        """Return the given description; columns alone do not say what an event is.

        Raises:
            ConfigurationError: If none was given.
        """
        if self.event is None:
            raise ConfigurationError(
                "ntuples do not say what an event is: give an event file (event: event.yaml, or "
                "open_reader(…, event=…)) with the streams, features and targets to read"
            )
        return self.event

    def sources(self) -> list[Source]:
        """The files in a fixed order, with their number of entries.

        Raises:
            ReadError: If a file cannot be opened or lacks a column.
        """
        if self._sources is None:
            self._sources = [
                Source(path, self._file(index)[0].entries, group)
                for index, (path, group) in enumerate(self._files())
            ]
        return self._sources

    def read(self, chunk: Chunk) -> EventBatch:
        """Read one chunk.

        Raises:
            ReadError: If a column is not there, is not of the expected form, or cannot be read.
        """
        _, columns = self._file(chunk.source)
        return self._assembled(chunk, columns)

    def read_scalars(self, chunk: Chunk) -> EventBatch:
        """Read what the events of a chunk have once: only these columns are decoded.

        Raises:
            ReadError: If a column is not there, is not of the expected form, or cannot be read.
        """
        event = self.event_info()
        file, columns = self._file(chunk.source)
        once = ColumnMap([e for e in columns.entries if _is_scalar(e, event, file)])
        return self._assembled(chunk, once, streams=False)

    def read_rows(self, chunk: Chunk, rows: Array) -> EventBatch:
        """Read some events of a chunk, all of which is decoded.

        Raises:
            ReadError: If a column is not there, is not of the expected form, or cannot be read.
        """
        batch = self.read(chunk)
        rows = np.asarray(rows)
        chosen = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
        first, last = (int(chosen.min()), int(chosen.max())) if len(chosen) else (0, -1)
        if first < 0 or last >= len(batch) or (rows.dtype == bool and len(rows) != len(batch)):
            raise IndexError(
                f"rows: a chunk of {len(batch)} events has the rows 0 to {len(batch) - 1}, or a "
                f"mask of that length; asked for {first} to {last} of {len(rows)}"
            )
        everything = np.array_equal(chosen, np.arange(len(batch)))
        return batch if everything else batch.take(chosen)

    def block_start(self, source: int, entry: int) -> int:
        """First entry of the row group, or the cluster, that holds an entry.

        Raises:
            ReadError: If the file cannot be opened.
        """
        return self._file(source)[0].block_start(entry)

    def _assembled(self, chunk: Chunk, columns: ColumnMap, *, streams: bool = True) -> EventBatch:
        """Read columns of a chunk and put them in their places."""
        file, _ = self._file(chunk.source)
        path, group = self._files()[chunk.source]
        data = file.read(columns.names(), chunk.start, chunk.stop)
        entry, sample = file.rows(chunk.start, chunk.stop) or (
            np.arange(chunk.start, chunk.stop),
            0,
        )
        where = Where(path, entry)
        assembly = Assembly(self.event_info(), columns, data, group, len(entry), where)
        found = assembly.streams() if streams else {}
        arrays = assembly.arrays(found)
        if any(name for _, name in self._files()):
            arrays["extra/group"] = np.full(len(entry), group)
        return EventBatch(
            make_ids(chunk.source, entry, sample),
            found,
            arrays,
            sources=[source for source, _ in self._files()],
        )

    def provenance(self) -> dict[str, object]:
        """Which column of the first file became what."""
        return {"columns": self._file(0)[1].summary()}

    def close(self) -> None:
        """Close the open files; they open again when needed."""
        for file, _ in self._state.files.values():
            file.close()
        self._state.files.clear()

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files behind."""
        return {**self.__dict__, "_state": _State()}

    def _files(self) -> list[tuple[str, str]]:
        if self._paths is None:
            self._paths = self.options.expand()
        return self._paths

    def _file(self, index: int) -> tuple[ColumnarFile, ColumnMap]:
        """Return a file with its column map, opened on first use."""
        files = self._state.files
        if index not in files:
            path, _ = self._files()[index]
            event = self.event_info()
            groups = [group for _, group in self._files()]
            file = self.open(path)
            columns = {**self.known_columns(file), **self.options.columns}
            stated = check_keys(columns, event, groups)
            files[index] = file, resolve(stated, event, file.names(), path, self.purpose)
            if len(files) > _OPEN_FILES:
                files.popitem(last=False)[1][0].close()
        files.move_to_end(index)
        return files[index]


def _is_scalar(entry: Entry, event: EventInfo, file: ColumnarFile) -> bool:
    """Whether an event has a value of this entry once."""
    if entry.kind == "target":
        return event.targets[entry.owner].stream is None
    if entry.kind == "extra":
        return entry.column.stream is None
    if entry.kind == "mask":
        return entry.owner in event.globals
    if entry.kind == "column":
        loose = event.columns[entry.owner] is None
        return loose and not any(file.holds_lists(name) for name in entry.names)
    return entry.kind not in {"stream", "count"}
