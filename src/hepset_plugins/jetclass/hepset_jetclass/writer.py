"""The writer ``jetclass-root``: jets in JetClass-II's own layout, a TTree of vectors."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, ClassVar, Final, Unpack

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, field_validator

from hepset.arrays import Ragged
from hepset.batch import EventBatch
from hepset.errors import ContractError, did_you_mean
from hepset.files import temporary_path
from hepset.interfaces.writer import Known, Writer, WriterConfig
from hepset.predict.predictions import SELECTED, TRAINED_ON
from hepset.readers.assembly import Data, joined, part
from hepset.schema.contract import Contract
from hepset.schema.tensors import Labels
from hepset_jetclass.columns import GEN_JET, JET, LABEL, N_PARTICLES, ONE_HOT, STREAMS, Quantity
from hepset_jetclass.labels import INDEX, JETCLASS, NAMES
from hepset_jetclass.root_tree import VectorTree

Array = NDArray[Any]

_CLUSTER: Final = 10_000
"""Jets per basket, as far as there are so many."""
_OWN: Final = ("part_", "jet_", "genpart_", "genjet_", "aux_genpart_", "label_")
_COUNTERS: Final = {"particles": N_PARTICLES, "gen_particles": "genjet_nparticles"}
_IDS: Final = {"source_index": "source", "entry": "entry", "sample": "sample"}
"""Columns of an event's identity, named as in predictions in Parquet; texts have no branch."""
_CASTS: Final[dict[str, type[np.generic]]] = {"f": np.float32, "i": np.int32, "b": np.bool_}


class JetClassRootConfig(WriterConfig):
    """Options of the writer ``jetclass-root``."""

    tree: str = "tree"
    """Name of the tree."""
    compression: int = Field(default=1, ge=0, le=9)
    """Level of zlib; 0 for none."""
    classes: tuple[str, ...] = ()
    """Names of the classes of the target ``label``: labels of JetClass-II, which become
    ``jet_label``, or of JetClass, which become its columns ``label_*``. Empty = the target's
    numbers are those of ``jet_label``; if it has not 188 classes, they are a column ``label``."""

    @field_validator("classes")
    @classmethod
    def _labels(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        plain = tuple(name.removeprefix("label_") for name in value)
        if not set(plain) <= set(INDEX) and not set(plain) <= set(JETCLASS):
            known = (*INDEX, *JETCLASS)
            wrong = next((name for name in plain if name not in known), plain[0])
            raise ValueError(
                f"{wrong!r} is no label of JetClass-II, or not of the same set as the others"
                f"{did_you_mean(wrong, INDEX)}"
            )
        return plain


class JetClassRootWriter(Writer):
    """Writes jets so that whatever reads JetClass-II's ROOT files reads them.

    Streams and globals with the names that the reader ``jetclass`` gives become the columns of the
    data set; of others ``<stream>_<feature>``. Targets, weights and extras that are numbers become
    columns too (``x/mass`` is ``x_mass``), predictions ``<head>_<field>``, with several numbers per
    jet a vector; with them ``source_index`` (number of the file), ``entry``, ``sample``,
    ``selected`` and, where it is known, ``trained_on``. A missing generator jet is zero, as in the
    published files. Numbers are float32, int32 and bool.
    """

    Config: ClassVar[type[JetClassRootConfig]] = JetClassRootConfig
    config: JetClassRootConfig

    def __init__(self, config: WriterConfig | None = None) -> None:
        """Keep the options."""
        super().__init__(config)
        self._file: IO[bytes] | None = None
        self._tree: VectorTree | None = None

    def open(self, target: Path, contract: Contract, **known: Unpack[Known]) -> None:
        """Start a hidden file beside `target`."""
        del known
        self.abort()
        self._target, self._contract = Path(target), contract
        self._kinds: dict[str, tuple[str, bool]] = {}
        self._waiting: list[dict[str, Data]] = []
        self._tree = None
        self._target.parent.mkdir(parents=True, exist_ok=True)
        self._hidden = temporary_path(self._target)
        self._file = self._hidden.open("wb")

    def write(self, batch: EventBatch) -> None:
        """Add jets.

        Raises:
            ContractError: If the batch lacks an input, a number does not fit into 32 bits, two
                different tensors have one column, or the tensors are not those of the earlier
                batches.
        """
        file = self._opened()
        columns: dict[str, Data] = {}
        for name, data in self._columns(batch):
            if name in columns and not _are_same(columns[name], data):
                raise ContractError(
                    f"{self._target}: two different tensors become the column {name!r}; give "
                    "one of them another name, or leave it out"
                )
            columns[name] = data
        kinds = {name: (_letter(data), isinstance(data, Ragged)) for name, data in columns.items()}
        if self._tree is None:
            self._kinds = kinds
            self._tree = VectorTree(
                file, kinds, name=self.config.tree, compression=self.config.compression
            )
        elif kinds != self._kinds:
            other = sorted({name for name, _ in kinds.items() ^ self._kinds.items()})
            raise ContractError(
                f"{self._target}: this batch gives other columns than those before: "
                f"{', '.join(other)}"
            )
        self._waiting.append(columns)
        self._flush(_CLUSTER)

    def close(self) -> None:
        """Finish the file and make it visible under its name.

        Raises:
            ContractError: If nothing was written: the columns would not be known.
            HepsetError: If the file becomes larger than 2 GB.
        """
        file = self._opened()
        if self._tree is None:
            self.abort()
            raise ContractError(
                f"{self._target}: no batch was written, so that the columns are not known"
            )
        try:
            self._flush(1)
            self._tree.close()
            file.flush()
            os.fsync(file.fileno())
            file.close()
        except BaseException:
            self.abort()
            raise
        self._file = None
        self._hidden.replace(self._target)

    def abort(self) -> None:
        """Remove the hidden file; no-op when the writer is closed."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._hidden.unlink(missing_ok=True)

    def _opened(self) -> IO[bytes]:
        if self._file is None:
            raise ContractError("the writer is not open; call open(target, contract) first")
        return self._file

    def _flush(self, least: int) -> None:
        """Write what is waiting in baskets of at most a cluster, as long as there are so many."""
        assert self._tree is not None
        rows = sum(len(next(iter(columns.values()))) for columns in self._waiting)
        if rows < least:
            return
        names = list(self._kinds)
        waiting = {n: joined([columns[n] for columns in self._waiting]) for n in names}
        start = 0
        while rows - start >= least:
            stop = min(start + _CLUSTER, rows)
            self._tree.extend({name: part(data, start, stop) for name, data in waiting.items()})
            start = stop
        left = {name: part(data, start, rows) for name, data in waiting.items()}
        self._waiting = [left] if start < rows else []

    def _columns(self, batch: EventBatch) -> Iterator[tuple[str, Data]]:
        for spec in self._contract.of_kind("stream"):
            if spec.name not in batch.streams:
                raise ContractError(f"{self._target}: the batch lacks the stream {spec.name!r}")
            flat = batch.flat(spec.name)
            table = STREAMS.get(spec.name, {})
            for feature, values in flat.columns.items():
                name = _name(spec.name, feature, table)
                yield name, Ragged.of(flat.offsets, self._cast(name, values, table.get(feature)))
            if spec.name in _COUNTERS:
                yield _COUNTERS[spec.name], flat.counts.astype(np.int32)
        for spec in self._contract.of_kind("global"):
            block = batch.get(spec.name)
            if block is None:
                raise ContractError(f"{self._target}: the batch lacks the global {spec.name!r}")
            table = JET if spec.name == "jet" else {}
            for index, feature in enumerate(spec.columns):
                yield _name(spec.name, feature, table), self._cast(feature, block[:, index], None)
        for tensor, values in batch.arrays.items():
            kind, _, name = tensor.partition("/")
            if values.dtype.kind not in "biuf" or values.ndim != 1:
                continue
            if tensor == "target/label":
                yield from self._label(values)
            elif kind == "target" and name.startswith("gen_jet/"):
                column = GEN_JET[name.partition("/")[2]].column
                yield column, self._cast(column, np.nan_to_num(values), None)
            elif kind in {"target", "extra", "weight"}:
                column = (name or kind).replace("/", "_")
                yield column, self._cast(column, values, None)
        if batch.predictions:
            yield from self._identity(batch)
        for name, values in batch.predictions.items():
            if values.dtype.kind not in "biuf" or values.ndim > 2:
                continue
            column = name.replace("/", "_")
            cast = self._cast(column, values, None)
            if values.ndim == 2:
                offsets = np.arange(len(values) + 1, dtype=np.int64) * values.shape[1]
                yield column, Ragged.of(offsets, cast.reshape(-1))
            else:
                yield column, cast

    def _identity(self, batch: EventBatch) -> Iterator[tuple[str, Array]]:
        """Say what event a prediction is of, and whether there is one."""
        for column, name in _IDS.items():
            yield column, self._cast(column, batch.ids[name], None)
        for name in (SELECTED, TRAINED_ON):
            if name in batch.arrays:
                yield name, self._cast(name, batch.arrays[name], None)

    def _label(self, values: Array) -> Iterator[tuple[str, Array]]:
        classes = self.config.classes
        if not classes:
            yield self._label_column(), values.astype(np.int32)
            return
        if len(values) and values.min() < -1:
            raise ContractError(
                f"{self._target}: target/label has the class {values.min()}; expected a class, or "
                "−1 for none"
            )
        if len(values) and values.max() >= len(classes):
            raise ContractError(
                f"{self._target}: target/label has the class {values.max()}; the writer's classes "
                f"are {', '.join(classes)}"
            )
        if classes[0] in INDEX:
            numbers = np.array([*(INDEX[name] for name in classes), -1], np.int32)
            yield LABEL, numbers[values]
            return
        for index, column in enumerate(ONE_HOT):
            name = JETCLASS[index]
            chosen = classes.index(name) if name in classes else len(classes)
            yield column, (values == chosen).astype(np.int32)

    def _label_column(self) -> str:
        """Name the column of labels without names: others than the 188 are no ``jet_label``."""
        for spec in self._contract.of_kind("target"):
            for rule in spec.rules:
                if spec.name == "target/label" and isinstance(rule, Labels):
                    return LABEL if rule.classes in {None, len(NAMES)} else "label"
        return LABEL

    def _cast(self, name: str, values: Array, quantity: Quantity | None) -> Array:
        letter = quantity.dtype if quantity is not None else _letter(values)
        if letter == "i" and len(values) and not np.can_cast(values.dtype, np.int32):
            limits = np.iinfo(np.int32)
            low, high = values.min(), values.max()
            if low < limits.min or high > limits.max:
                raise ContractError(
                    f"{self._target}: {name} goes from {low} to {high}, beyond 32 bits"
                )
        return values.astype(_CASTS[letter])


def _letter(data: Data) -> str:
    values = data.values if isinstance(data, Ragged) else data
    return {"b": "b", "i": "i", "u": "i"}.get(values.dtype.kind, "f")


def _are_same(one: Data, other: Data) -> bool:
    """Whether two columns hold the same, such as a number of the jet that was derived again."""
    if isinstance(one, Ragged) or isinstance(other, Ragged):
        return (
            isinstance(one, Ragged)
            and isinstance(other, Ragged)
            and np.array_equal(one.offsets, other.offsets)
            and _are_same(one.values, other.values)
        )
    same = one.dtype == other.dtype
    return same and np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def _name(block: str, feature: str, table: dict[str, Quantity]) -> str:
    if feature in table:
        return table[feature].column
    return feature if feature.startswith(_OWN) else f"{block}_{feature}"
