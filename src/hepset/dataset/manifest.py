"""``dataset.json``: everything a data set says of itself.

It is written last and in one step, so that a directory without it is not a data set. Its bytes
depend on the inputs, the configuration and the seed alone: no times, no worker counts, no chunk
sizes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field

from hepset.dataset.columns import ColumnLayout
from hepset.dataset.shards import ShardRecord
from hepset.errors import DatasetError
from hepset.files import atomic_file
from hepset.schema.base import Model
from hepset.schema.config import SplitConfig
from hepset.schema.contract import Contract
from hepset.schema.event import EventInfo
from hepset.schema.report import Report
from hepset.schema.statistics import Statistics

MANIFEST: Final = "dataset.json"
DATASET_FORMAT: Final = "hepset-dataset/1"
WORK: Final = ".work"
"""Folder of an unfinished conversion inside the data set's directory."""


class SourceRecord(Model):
    """One file or generator that events came from."""

    key: str
    """Path relative to the common parent of all files, or the generator's key."""
    entries: int
    """Number of entries that the source has."""
    sample: int
    """Index into `Manifest.samples`."""
    group: str = ""
    """Group of the file, where files are grouped."""
    split: str = ""
    """Split that whoever made the data set put the file in, if any."""
    digest: str = ""
    """xxh3-128 of the file's bytes; empty for generators and remote files."""
    rows: dict[str, int] = Field(default_factory=dict)
    """Split → number of its events in the data set."""

    @property
    def trained(self) -> bool:
        """Whether any of its events is in the training split."""
        return self.rows.get("train", 0) > 0


class SampleRecord(Model):
    """Bookkeeping of one entry of ``read``."""

    label: str
    """Name in tables, cutflows and figures."""
    reader: str
    """Class of the reader."""
    cross_section: float | None = None
    """Cross section, in `unit`."""
    unit: Literal["fb", "pb", "nb"] = "pb"
    """Unit of the cross section."""
    k_factor: float = 1.0
    """Multiplies the cross section."""
    sum_of_weights: float | None = None
    """Sum of weights before any selection: as given, or added up where it was ``auto``."""
    events: int = 0
    """Events read, before any selection."""
    selected: int = 0
    """Events in the data set."""
    provenance: dict[str, Any] = Field(default_factory=dict)
    """What else the reader put on record."""


class CutCount(Model):
    """What is left after one cut."""

    events: int
    """Number of events."""
    sum_of_weights: float
    """Sum of their weights; equal to `events` where they are unweighted."""
    sum_of_squares: float
    """Sum of squared weights: its root is the statistical error."""


class CutflowStep(Model):
    """One line of the cutflow."""

    name: str
    """``all events``, or the name of the cut."""
    expression: str = ""
    """The cut."""
    samples: tuple[CutCount, ...]
    """What is left of each sample, in the order of `Manifest.samples`."""

    @property
    def total(self) -> CutCount:
        """What is left of all samples, without regard to cross sections."""
        return CutCount(
            events=sum(part.events for part in self.samples),
            sum_of_weights=sum(part.sum_of_weights for part in self.samples),
            sum_of_squares=sum(part.sum_of_squares for part in self.samples),
        )


class Truncation(Model):
    """What did not fit the slots of a stream."""

    events: int
    """Events with more objects than slots."""
    objects: int
    """Objects that were cut, the last ones by `order`."""
    longest: int
    """Number of objects of the longest event."""
    targets: int
    """Assignment targets that pointed at a cut object and became missing."""


class SkippedSource(Model):
    """A file that could not be read and was left out (``on_error: skip``)."""

    key: str
    """The file."""
    reason: str
    """What was wrong."""


class SplitRecord(Model):
    """One split: its shards in order."""

    rows: int
    """Number of events."""
    shards: tuple[ShardRecord, ...]
    """The files; by construction their rows in order are a full shuffle."""


class SplitRule(Model):
    """What decided the split of an event, so that the same event is recognised elsewhere."""

    config: SplitConfig
    """Fractions, groups or folds, and the key as configured."""
    seed: int
    """Seed of the hash."""
    hashed: tuple[Literal["event", "entry"], ...]
    """What was hashed: run and event number, source and entry, or both kinds."""


class Manifest(Model):
    """The content of ``dataset.json``."""

    format: Literal["hepset-dataset/1"] = DATASET_FORMAT
    """Format of the directory; a newer one is refused."""
    plan: str
    """Digest of everything the data set depends on; equal digests mean equal bytes."""
    seed: int
    """Seed of splits and shuffle."""
    contract: Contract
    """What every array obeys, all sizes resolved."""
    event: EventInfo
    """What an event is, derived features included."""
    columns: tuple[ColumnLayout, ...]
    """How each tensor is stored, in the order of the files' columns."""
    class_names: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Classification target tensor, and ``process`` → names in the order of the integers."""
    prior: dict[str, tuple[float, ...]] = Field(default_factory=dict)
    """The same tensors → fraction of each class among labelled training events, unweighted."""
    splits: dict[str, SplitRecord]
    """By name: ``train``, ``val``, ``test``, or ``fold0``, …"""
    split_rule: SplitRule
    """What decided the splits."""
    sources: tuple[SourceRecord, ...]
    """What ``id.source`` counts through."""
    samples: tuple[SampleRecord, ...]
    """The entries of ``read``."""
    cutflow: tuple[CutflowStep, ...] = ()
    """Events before any cut, and after each cut, per sample."""
    truncated: dict[str, Truncation] = Field(default_factory=dict)
    """Stream → what was cut to fit its slots."""
    skipped: tuple[SkippedSource, ...] = ()
    """Files that could not be read."""
    report: Report = Report()
    """What the check of the contract found."""
    statistics: Statistics = Statistics()
    """Of the training split as written."""
    prepare: dict[str, Any] = Field(default_factory=dict)
    """The configuration of the conversion."""
    provenance: dict[str, Any] = Field(default_factory=dict)
    """Versions, run configuration, whatever else the caller put on record."""

    @property
    def layouts(self) -> dict[str, ColumnLayout]:
        """Tensor → how it is stored."""
        return {layout.name: layout for layout in self.columns}

    def write(self, directory: Path) -> None:
        """Write ``dataset.json`` in one step."""
        text = json.dumps(
            self.model_dump(mode="json"), indent=1, ensure_ascii=False, allow_nan=False
        )
        with atomic_file(directory / MANIFEST) as file:
            file.write(text.encode() + b"\n")

    @classmethod
    def read(cls, directory: Path) -> Manifest:
        """Read the ``dataset.json`` of a directory.

        Raises:
            DatasetError: If there is none, the conversion did not finish, the format is newer than
                this hepset reads, or the file does not say what it should.
        """
        path = directory / MANIFEST
        try:
            text = path.read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            raise DatasetError(_why_no_manifest(directory)) from None
        except (OSError, UnicodeDecodeError) as problem:
            raise DatasetError(f"{path}: cannot be read: {problem}") from None
        try:
            document = json.loads(text)
        except ValueError as problem:
            raise DatasetError(f"{path}: not JSON: {problem}; convert again") from None
        found = document.get("format") if isinstance(document, Mapping) else None
        if found != DATASET_FORMAT:
            if isinstance(found, str) and _number(found) > _number(DATASET_FORMAT):
                raise DatasetError(
                    f"{path}: format {found!r} is newer than this hepset reads "
                    f"({DATASET_FORMAT}); update hepset"
                )
            raise DatasetError(
                f"{path}: format {found!r}, expected {DATASET_FORMAT!r}; this is not the "
                "description of a hepset data set"
            )
        try:
            return cls.parse(document, str(path))
        except ValueError as problem:
            raise DatasetError(str(problem)) from None


def _number(text: str) -> int:
    name, _, number = text.rpartition("/")
    return int(number) if name == DATASET_FORMAT.rpartition("/")[0] and number.isdigit() else -1


def _why_no_manifest(directory: Path) -> str:
    if not directory.exists():
        return f"{directory}: no such directory; expected a data set made by `hepset convert`"
    if not directory.is_dir():
        return f"{directory}: a file; expected the directory of a data set"
    if (directory / WORK).is_dir():
        return (
            f"{directory}: the conversion has not finished; run `hepset convert` again, it "
            "continues where it stopped"
        )
    nested = sorted(path.parent.name for path in directory.glob(f"*/{MANIFEST}"))
    if nested:
        return f"{directory}: no {MANIFEST}; did you mean {directory / nested[0]}?"
    return f"{directory}: no {MANIFEST}; this is not a data set made by `hepset convert`"
