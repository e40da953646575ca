"""`SpanetReader`: SPANet's HDF5 files."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from hepset.batch import EventBatch, PaddedStream, make_ids
from hepset.errors import ConfigurationError, ReadError
from hepset.interfaces.reader import Chunk, FileReaderConfig, Reader, Source, expand_files
from hepset.schema.event import EventInfo
from hepset_spanet.layout import Layout, is_spanet_file, open_file, read_layout, refined
from hepset_spanet.names import weight_tensor

_LOG = logging.getLogger(__name__)

Array = NDArray[Any]
_Kinds = Mapping[str, np.dtype[Any]]


class SpanetReaderConfig(FileReaderConfig):
    """Options of the reader ``spanet-hdf5``."""

    weight: str | None = None
    """Path of a dataset with the event weights, shape (event,); null = every event counts 1.
    hepset's own writer keeps them in ``WEIGHT``."""
    extra: dict[str, str] = Field(default_factory=dict)
    """Name → path of a dataset to be carried along as ``extra/<name>``; a list of paths takes the
    last part of each as its name."""

    @field_validator(
        "extra", mode="before", json_schema_input_type=str | list[str] | dict[str, str]
    )
    @classmethod
    def _names(cls, value: object) -> object:
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list | tuple):
            return value
        names = Counter(str(path).rpartition("/")[2] for path in value)
        repeated = [name for name, count in names.items() if count > 1]
        if repeated:
            raise ValueError(
                f"several datasets would be called {repeated[0]!r}; name them: "
                f"{{{repeated[0]}: path, other: path}}"
            )
        return {str(path).rpartition("/")[2]: path for path in value}


@dataclass(frozen=True)
class _Files:
    """What the headers of all files say: plain data, which travels to worker processes."""

    sources: list[Source]
    layouts: list[Layout]
    event: EventInfo
    optional: frozenset[str]
    kinds: dict[str, np.dtype[Any]]
    """Dtype of every feature and target, wide enough for all files."""


class SpanetReader(Reader):
    """Reads SPANet's HDF5 files, of version 2 and 1, with or without targets.

    Only the datasets that the event names are read, and of those only the rows of one chunk. Values
    are handed on in the files' dtype, physical and unscaled. Per event and particle the target
    ``target/assignment/<particle>`` holds the indices as the file has them (local to the product's
    declared stream, otherwise counted through all streams' slots); every negative index becomes −1.

    ``TARGETS/<particle>/MASK`` says which particles SPANet trains on. A mask that only repeats
    "all products are there" adds nothing, and the products of an incomplete particle are kept. A
    particle that is complete but masked out becomes missing altogether (−1), with a count in the
    log. ``TARGETS/<particle>/WEIGHT`` is ``weight/assignment/<particle>``.

    What SPANet's own predictions state under ``TARGETS``, ``REGRESSIONS`` and ``CLASSIFICATIONS``
    is not truth: of such files only the inputs are read.
    """

    Config: ClassVar[type[SpanetReaderConfig]] = SpanetReaderConfig
    config: SpanetReaderConfig

    @classmethod
    def guess(cls, path: str) -> float:
        """Recognise the groups of SPANet's files, of version 2 and 1."""
        return 1.0 if is_spanet_file(path) else 0.0

    def __init__(self, config: SpanetReaderConfig, event: EventInfo | None = None) -> None:
        """Keep the options; files are opened by the methods."""
        super().__init__(config, event)
        self._scanned: _Files | None = None
        self._open: tuple[int, str, h5py.File] | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open file and the lock behind; what the headers said travels."""
        return {k: v for k, v in self.__dict__.items() if k not in {"_open", "_lock"}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start without an open file."""
        self.__dict__.update(state)
        self._open, self._lock = None, threading.Lock()

    def event_info(self) -> EventInfo:
        """Return the given event, completed by what the files tell.

        A SPANet event file does not say which features of a relative input belong to pairs of
        objects. They are the datasets with axes (event, slot, slot), and stand under ``pairs`` in
        what this returns.

        Raises:
            ConfigurationError: If no event description was given, or it has several processes.
            ReadError: If a file cannot be opened or does not hold what the event names.
        """
        return self._files().event

    def sources(self) -> list[Source]:
        """The files with their number of events.

        Raises:
            ConfigurationError: If no event description was given, or it has several processes.
            ReadError: If a file cannot be opened or does not hold what the event names.
        """
        return self._files().sources

    def input_slots(self) -> dict[str, int]:
        """Slots of every stream, the same in all files."""
        return dict(self._files().layouts[0].slots)

    def read(self, chunk: Chunk) -> EventBatch:
        """Read some consecutive events of one file.

        Raises:
            ReadError: If the file is corrupt or holds values of the wrong type.
        """
        files = self._files()
        layout, source = files.layouts[chunk.source], files.sources[chunk.source]
        with self._lock:
            read = _Rows(self._handle(layout.path), layout.path, chunk.start, chunk.stop)
            kinds = files.kinds
            streams = {name: _stream(read, layout, kinds, name) for name in layout.slots}
            arrays = _globals(read, layout, kinds)
            arrays |= _pairs(read, layout, kinds)
            arrays |= _targets(read, layout, files)
            if layout.weight is not None:
                arrays["weight"] = read(layout.weight).astype(np.float64)
            for name, path in layout.extra.items():
                values = read.anything(path)
                stream = _stream_of(path, layout, values)
                if stream is not None:
                    streams[stream].attached[f"extra/{name}"] = values
                else:
                    arrays[f"extra/{name}"] = values
            if chunk.stop >= layout.entries:
                self._release()
        arrays |= _missing(files, arrays, len(chunk))
        if source.group:
            arrays["extra/group"] = np.full(len(chunk), source.group)
        return EventBatch(
            ids=make_ids(chunk.source, np.arange(chunk.start, chunk.stop)),
            streams=dict(streams),
            arrays=arrays,
            sources=[each.key for each in files.sources],
        )

    def _handle(self, path: str) -> h5py.File:
        """Return the open file; one is kept per process, and none is taken from a parent."""
        process = os.getpid()
        if self._open is not None and self._open[:2] == (process, path):
            return self._open[2]
        self._release()
        self._open = (process, path, open_file(path))
        return self._open[2]

    def _release(self) -> None:
        """Close the open file, unless it belongs to a parent process."""
        if self._open is not None and self._open[0] == os.getpid():
            self._open[2].close()
        self._open = None

    def _files(self) -> _Files:
        if self._scanned is None:
            self._scanned = self._scan()
        return self._scanned

    def _scan(self) -> _Files:
        event = self.event
        if event is None:
            raise ConfigurationError(
                "spanet-hdf5: a SPANet file does not say which datasets are inputs; give the "
                "event description (event: event.yaml)"
            )
        if len(event.processes) > 1:
            raise ConfigurationError(
                f"spanet-hdf5: SPANet's files hold one topology, the event has "
                f"{len(event.processes)}: {', '.join(event.processes)}"
            )
        sources: list[Source] = []
        layouts: list[Layout] = []
        for path, group in expand_files(self.config.files):
            with open_file(path) as file:
                layout = read_layout(
                    file, path, event, weight=self.config.weight, extra=self.config.extra
                )
            if layouts:
                _check_same(layouts[0], layout)
            if layout.predictions:
                _LOG.warning("%s: holds predictions; its targets are not read as truth", path)
            sources.append(Source(path, layout.entries, group))
            layouts.append(layout)
        optional = frozenset().union(*(layout.optional for layout in layouts))
        _log_absent(event, optional)
        return _Files(sources, layouts, refined(event, layouts[0]), optional, _widest(layouts))


class _Rows:
    """Reads the same rows of any dataset of a file."""

    def __init__(self, file: h5py.File, path: str, start: int, stop: int) -> None:
        self.file, self.path, self.start, self.stop = file, path, start, stop

    def __call__(self, name: str) -> Array:
        try:
            values: Array = self.file[name][self.start : self.stop]
        except (OSError, KeyError) as problem:
            raise ReadError(
                f"{self.path}: {name}: entries {self.start} to {self.stop - 1} cannot be read, the "
                f"file is damaged or uses an unknown compression: {problem}"
            ) from None
        return values

    def numbers(self, name: str, kind: np.dtype[Any] | None = None) -> Array:
        values = self(name)
        if values.dtype.kind not in "fiub":
            raise ReadError(f"{self.path}: {name}: expected numbers, found {values.dtype}")
        return values if kind is None else values.astype(kind, copy=False)

    def anything(self, name: str) -> Array:
        values = self(name)
        if values.dtype.kind == "O":
            return np.array([v.decode() if isinstance(v, bytes) else str(v) for v in values], str)
        return values

    def mask(self, name: str) -> Array:
        values = self.numbers(name)
        if values.dtype == bool:
            return values
        if not np.isin(values, (0, 1)).all():
            raise ReadError(
                f"{self.path}: {name}: a mask holds true or false, found {values.dtype} values "
                f"between {values.min()} and {values.max()}"
            )
        return values.astype(bool)

    def integers(self, name: str) -> Array:
        values = self.numbers(name)
        if values.dtype.kind != "f":
            return values.astype(np.int64, copy=False)
        with np.errstate(invalid="ignore"):
            whole = values.astype(np.int64)
        wrong = np.flatnonzero(whole != values)
        if len(wrong):
            raise ReadError(
                f"{self.path}: {name}: expected integers, found {values[wrong[0]]} "
                f"({values.dtype}) in {len(wrong)} events (first: entry "
                f"{self.start + int(wrong[0])}); missing is −1"
            )
        return whole


def _stream(read: _Rows, layout: Layout, kinds: _Kinds, name: str) -> PaddedStream:
    columns = {
        feature: read.numbers(path, kinds[f"{name}.{feature}"])
        for feature, path in layout.columns[name].items()
    }
    return PaddedStream(columns, read.mask(layout.masks[name]))


def _stacked(read: _Rows, kinds: _Kinds, name: str, features: Mapping[str, str]) -> Array:
    """Stack features along a new last axis, in float32 unless one of them is wider."""
    wanted = [kinds[f"{name}.{feature}"] for feature in features]
    kind = np.result_type(np.float32, *(each for each in wanted if each.kind == "f"))
    columns = [read.numbers(path) for path in features.values()]
    return np.stack(columns, axis=-1, dtype=kind, casting="unsafe")


def _globals(read: _Rows, layout: Layout, kinds: _Kinds) -> dict[str, Array]:
    arrays = {}
    for name, features in layout.globals.items():
        arrays[name] = _stacked(read, kinds, name, features)
        present = layout.masks.get(name)
        arrays[f"{name}.mask"] = (
            np.ones(len(arrays[name]), bool) if present is None else read.mask(present)
        )
    return arrays


def _pairs(read: _Rows, layout: Layout, kinds: _Kinds) -> dict[str, Array]:
    return {
        f"{name}.pairs": _stacked(read, kinds, name, features)
        for name, features in layout.pairs.items()
        if features
    }


def _targets(read: _Rows, layout: Layout, files: _Files) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for tensor, products in layout.products.items():
        columns = [read.integers(path) for path in products.values()]
        indices = np.maximum(np.stack(columns, axis=1), -1)
        if tensor in layout.particle_masks:
            _apply_mask(indices, read, layout.particle_masks[tensor])
        arrays[tensor] = indices
    for tensor, path in layout.particle_weights.items():
        arrays[weight_tensor(tensor)] = read.numbers(path).astype(np.float64)
    for name, path in layout.targets.items():
        tensor = f"target/{name}"
        if files.event.targets[name].kind == "classification":
            arrays[tensor] = read.integers(path)
        else:
            arrays[tensor] = read.numbers(path, _regression_kind(files.kinds[tensor]))
    return arrays


def _regression_kind(kind: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of a regression target: NaN has to fit in."""
    return kind if kind.kind == "f" else np.dtype(np.float32)


def _widest(layouts: list[Layout]) -> dict[str, np.dtype[Any]]:
    """Return dtypes that hold what any of the files has, so that all chunks agree."""
    found: dict[str, np.dtype[Any]] = {}
    for layout in layouts:
        for name, kind in layout.kinds.items():
            found[name] = np.result_type(found.get(name, kind), kind)
    return found


def _apply_mask(indices: Array, read: _Rows, name: str) -> None:
    """Make particles missing that are masked out although all their products are there."""
    mask = read.mask(name)
    complete = (indices >= 0).all(axis=1)
    hidden = complete & ~mask
    if hidden.any():
        indices[hidden] = -1
        _LOG.info(
            "%s: %s: %d complete particles of %d events are masked out and become missing",
            read.path,
            name,
            int(hidden.sum()),
            len(mask),
        )
    broken = np.flatnonzero(mask & ~complete)
    if len(broken):
        _LOG.warning(
            "%s: %s: %d particles are marked as present but lack a product (first: entry %d); "
            "they count as incomplete",
            read.path,
            name,
            len(broken),
            read.start + int(broken[0]),
        )


def _stream_of(path: str, layout: Layout, values: Array) -> str | None:
    """Return the stream whose slots an extra dataset follows."""
    group = path.strip("/").rpartition("/")[0]
    for name, mask in layout.masks.items():
        if name in layout.slots and mask.rpartition("/")[0] == group and values.ndim > 1:
            return name if values.shape[1] == layout.slots[name] else None
    return None


def _missing(files: _Files, arrays: Mapping[str, Array], count: int) -> dict[str, Array]:
    """Fill in, as missing, the targets that other files of the reader have and this one has not."""
    added: dict[str, Array] = {}
    products = {each.tensor: len(each.products) for each in files.event.assignments()}
    for name in sorted(files.optional - arrays.keys()):
        if name.startswith("weight/"):
            added[name] = np.ones(count)
        elif name in products:
            added[name] = np.full((count, products[name]), -1, np.int64)
        elif files.event.targets[name.removeprefix("target/")].kind == "classification":
            added[name] = np.full(count, -1, np.int64)
        else:
            added[name] = np.full(count, np.nan, _regression_kind(files.kinds[name]))
    return added


def _check_same(first: Layout, other: Layout) -> None:
    """Refuse files whose inputs have different shapes."""
    for name, slots in first.slots.items():
        if other.slots[name] != slots:
            raise ReadError(
                f"{other.path}: input {name!r} has {other.slots[name]} slots, but {slots} in "
                f"{first.path}; pad the files to one length, or read them as two samples"
            )
        if list(other.pairs[name]) != list(first.pairs[name]):
            raise ReadError(
                f"{other.path}: input {name!r} has the pair features {list(other.pairs[name])}, "
                f"but {list(first.pairs[name])} in {first.path}"
            )


def _log_absent(event: EventInfo, optional: frozenset[str]) -> None:
    declared = {f"target/{name}" for name in event.targets}
    declared |= {assignment.tensor for assignment in event.assignments()}
    absent = sorted(declared - optional)
    if absent:
        _LOG.info("no file holds %s", ", ".join(absent))
