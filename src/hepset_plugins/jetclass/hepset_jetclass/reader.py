"""The reader ``jetclass``: JetClass and JetClass-II, ROOT and Parquet."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
from pydantic import field_validator

from hepset.batch import EventBatch
from hepset.errors import ConfigurationError, ReadError, did_you_mean
from hepset.interfaces.reader import Chunk, Source, expand_files
from hepset.readers.assembly import Data
from hepset.readers.column_map import Column
from hepset.readers.columnar import ColumnarConfig, ColumnarFile, ColumnarReader
from hepset.readers.parquet import ParquetFile
from hepset.schema.event import EventInfo
from hepset_jetclass.columns import N_PARTICLES, STREAMS
from hepset_jetclass.describe import Truth, describe, label_column
from hepset_jetclass.files import Split, in_folder, parse_name
from hepset_jetclass.truth import computed_columns

logger = logging.getLogger(__name__)


class JetClassConfig(ColumnarConfig):
    """Options of the reader ``jetclass``."""

    tree: str | None = None
    """Path of the TTree or RNTuple in ROOT files; null = the only one there is."""
    parts: tuple[str, ...] = ()
    """Keep the files of these parts, by their names: ``Res2P``, ``Res34P``, ``QCD``; in JetClass
    ``HToBB``, ``ZJetsToNuNu``, …"""
    splits: tuple[Split, ...] = ()
    """Keep the files of these official splits."""
    numbers: tuple[int, int] | None = None
    """Keep the files whose number is between these two, both included."""
    truth: tuple[Truth, ...] = ()
    """What else to read where no event is described: ``resonances`` (momenta of X, Y1, Y2) and
    ``gen_jet`` as targets, ``decay_products`` and ``gen_particles`` as streams."""

    @field_validator("numbers")
    @classmethod
    def _rising(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and value[0] > value[1]:
            raise ValueError(f"the first number {value[0]} is above the last, {value[1]}")
        return value

    def expand(self) -> list[tuple[str, str]]:
        """Resolve patterns and folders, and keep the files that were asked for.

        Raises:
            ReadError: If nothing matches, a part has no file, or nothing is left.
        """
        every = [
            (file, group) for path, group in expand_files(self.files) for file in in_folder(path)
        ]
        if not every:
            raise ReadError(f"files: no .root or .parquet file in {self.files}")
        kept = [item for item in every if self._wants(item[0])]
        parts = sorted({parse_name(path).part or "(no part)" for path, _ in every})
        lacking = [part for part in self.parts if part not in parts]
        if not kept or lacking:
            asked = {
                "parts": self.parts,
                "splits": self.splits,
                "numbers": self.numbers and [f"{self.numbers[0]} to {self.numbers[1]}"],
            }
            asked = {"parts": lacking} if lacking else asked
            shown = ", ".join(f"{k}: {', '.join(map(str, v))}" for k, v in asked.items() if v)
            hint = did_you_mean(lacking[0], parts) if lacking else ""
            raise ReadError(
                f"files: none of {len(every)} files is of {shown} by its name; there are "
                f"{', '.join(parts)} (first: {every[0][0]}){hint}"
            )
        return kept

    def _wants(self, path: str) -> bool:
        name = parse_name(path)
        low, high = self.numbers or (name.number, name.number)
        return (
            (not self.parts or name.part in self.parts)
            and (not self.splits or name.split in self.splits)
            and low <= name.number <= high
        )


class JetClassFile(ColumnarFile):
    """One file with the columns that are computed of its own."""

    def __init__(self, path: str, file: ColumnarFile) -> None:
        """Wrap an open file."""
        self.path = path
        self._file = file
        self._own = set(file.names())
        self._computed = computed_columns(self._own)

    @property
    def entries(self) -> int:
        """Number of jets."""
        return self._file.entries

    def names(self) -> list[str]:
        """Names of the columns of the file and of the computed ones."""
        return [*self._file.names(), *self._computed]

    def holds_lists(self, name: str) -> bool:
        """Whether a column has a list per jet."""
        return name in self._own and self._file.holds_lists(name)

    def block_start(self, entry: int) -> int:
        """First jet of what is decoded together with a jet."""
        return self._file.block_start(entry)

    def read(self, names: Sequence[str], start: int, stop: int) -> dict[str, Data]:
        """Read columns of a range of jets, and compute those that are made of others.

        Raises:
            ReadError: If a column cannot be read, or has not the form that is needed.
        """
        needed = dict.fromkeys(
            need
            for name in names
            for need in ((name,) if name in self._own else self._computed[name].needs)
        )
        data = self._file.read(list(needed), start, stop)
        found: dict[str, Data] = {}
        for name in names:
            if name in self._own:
                found[name] = data[name]
                continue
            try:
                found[name] = self._computed[name].compute(data)
            except ReadError as problem:
                raise ReadError(
                    f"{self.path}: entries {start} to {stop - 1}: {problem}"
                ) from problem
        return found

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class JetClassReader(ColumnarReader):
    """Reads the jets of JetClass and JetClass-II, and of files made like them.

    Any stream, global, target or extra of an event description is filled from the columns, by the
    map of `ColumnarReader`; besides, the streams ``particles``, ``gen_particles`` and
    ``decay_products`` are known, and columns computed while reading (`computed_columns`). Without
    a description the columns of the first file tell.
    """

    Config: ClassVar[type[JetClassConfig]] = JetClassConfig

    def __init__(self, config: JetClassConfig, event: EventInfo | None = None) -> None:
        """Keep the options; files are opened by the methods."""
        super().__init__(config, event)
        self._described: EventInfo | None = None

    @property
    def options(self) -> JetClassConfig:
        """The options, typed."""
        config: JetClassConfig = self.config  # type: ignore[assignment]
        return config

    def open(self, path: str) -> JetClassFile:
        """Open one file, ROOT or Parquet by its beginning.

        Raises:
            ReadError: If it is neither or is damaged.
        """
        if _is_parquet(path):
            return JetClassFile(path, ParquetFile(path))
        from hepset.readers.root import RootFile  # noqa: PLC0415  uproot takes long to import

        return JetClassFile(path, RootFile(path, self.options.tree))

    def event_info(self) -> EventInfo:
        """Return the given description, or what the columns of the first file that opens tell.

        Raises:
            ReadError: If no file can be opened.
            ConfigurationError: If it has no constituents.
        """
        if self.event is not None:
            return self.event
        if self._described is None:
            self._described = self._description()
        return self._described

    def _description(self) -> EventInfo:
        problems: list[ReadError] = []
        for path, _ in self._files():
            try:
                file = self.open(path)
            except ReadError as problem:
                problems.append(problem)
                continue
            try:
                return describe(file.names(), self.options.truth)
            except ConfigurationError as problem:
                raise ConfigurationError(f"{path}: {problem}") from problem
            finally:
                file.close()
        raise problems[0]

    def sources(self) -> list[Source]:
        """The files in a fixed order, with their number of jets and their official split.

        Raises:
            ReadError: If a file cannot be opened or lacks a column.
        """
        return [replace(s, split=parse_name(s.key).split) for s in super().sources()]

    def known_columns(self, file: ColumnarFile) -> Mapping[str, Column]:
        """Where the streams with known names, the number of particles and classes by name are.

        Raises:
            ConfigurationError: If a class of the target ``label`` is no label, or the first file
                lacks columns that this one has.
        """
        event, present = self.event_info(), set(file.names())
        if self.event is None and isinstance(file, JetClassFile):
            self._require_complete(event, file)
        found: dict[str, Column] = {}
        for stream, block in event.streams.items():
            table = STREAMS.get(stream, {})
            columns = {f: table[f].column if f in table else f for f in block.features}
            for feature, column in columns.items():
                plain = {f"{stream}_{feature}", f"{stream}.{feature}", feature} & present
                if feature in table and (column in present or not plain):
                    found[f"streams.{stream}.{feature}"] = Column.model_validate(column)
            counted = any(column.startswith("part_") for column in columns.values())
            if counted and N_PARTICLES in present:
                found[f"counts.{stream}"] = Column.model_validate(N_PARTICLES)
        try:
            return found | label_column(event, present)
        except ConfigurationError as problem:
            where = f"{file.path}: " if isinstance(file, JetClassFile) else ""
            raise ConfigurationError(f"{where}{problem}") from problem

    def _require_complete(self, event: EventInfo, file: JetClassFile) -> None:
        """Refuse a description that leaves out what this file has."""
        try:
            other = describe(file.names(), self.options.truth)
        except ConfigurationError:
            return  # Reading this file says what it lacks.
        lost = sorted(set(other.targets) - set(event.targets))
        for mine, theirs in ((event.streams, other.streams), (event.globals, other.globals)):
            for name, block in theirs.items():
                own = mine[name].features if name in mine else {}
                lost += [f"{name}.{feature}" for feature in block.features if feature not in own]
        if lost:
            raise ConfigurationError(
                f"{self._files()[0][0]}: the first file tells what an event is, and lacks the "
                f"columns of {', '.join(lost)}, which {file.path} has; name a complete file first, "
                "leave this one out, or describe what to read in an event file (event: event.yaml)"
            )

    def read(self, chunk: Chunk) -> EventBatch:
        """Read one chunk.

        Raises:
            ReadError: If a column is not there, is not of the expected form, or cannot be read.
        """
        batch = super().read(chunk)
        matched = batch.arrays.get("target/gen_jet/pt")
        if matched is not None and matched.dtype.kind == "f":
            lost = int(np.isnan(matched).sum())
            if lost:
                where = self._files()[chunk.source][0]
                logger.info(
                    "%s: %d of %d jets from entry %d on have no generator jet: missing",
                    *(where, lost, len(batch), chunk.start),
                )
        return batch


def _is_parquet(path: str) -> bool:
    """Whether a file begins as Parquet files do; of an address its name has to tell."""
    if "://" in path:
        return path.partition("?")[0].endswith((".parquet", ".pq"))
    try:
        with Path(path).open("rb") as file:
            begin = file.read(4)
    except OSError as problem:
        raise ReadError(f"{path}: cannot be opened: {problem.strerror}") from problem
    if not begin:
        raise ReadError(f"{path}: the file is empty (0 bytes); make or copy it again")
    if begin not in {b"PAR1", b"root"}:
        raise ReadError(
            f"{path}: neither ROOT nor Parquet: it begins with {begin!r}, expected b'root' or "
            "b'PAR1'"
        )
    return begin == b"PAR1"
