"""`SpanetWriter`: events or predictions in SPANet's HDF5 layout."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Unpack

import h5py
import numpy as np
from numpy.typing import NDArray

from hepset.batch import EventBatch, FlatStream, make_ids
from hepset.errors import ContractError
from hepset.files import temporary_path
from hepset.interfaces.writer import Known, Writer, WriterConfig
from hepset.schema.contract import Contract
from hepset.schema.tensors import Index, TensorSpec
from hepset_spanet.layout import CONTENT_ATTRIBUTE
from hepset_spanet.names import spanet_key

_LOG = logging.getLogger(__name__)

Array = NDArray[Any]

_CHUNK_BYTES = 1 << 20


class SpanetWriterConfig(WriterConfig):
    """Options of the writer ``spanet-hdf5``."""

    compression: Literal["none", "gzip", "lzf"] = "none"
    """Compression of the datasets; SPANet's own files have none."""


@dataclass(frozen=True)
class _Particle:
    """One particle's place in the batch and in the file."""

    tensor: str
    path: str
    products: tuple[str, ...]
    streams: tuple[str | None, ...]

    @property
    def prediction(self) -> str:
        """What follows the head in the names of its predictions."""
        return self.tensor.removeprefix("target/assignment/")


class SpanetWriter(Writer):
    """Writes SPANet's layout, batch by batch.

    Without predictions the file holds inputs and true targets, and SPANet (or `SpanetReader`) can
    train on it. With predictions it holds what SPANet's own prediction file holds, under plain
    group names: the inputs, predicted indices (counted through all inputs), assignment, detection
    and marginal probabilities, regressions and class probabilities; no truth.

    Beside SPANet's own datasets, and ignored by it: ``IDS`` (identity of every event), ``WEIGHT``
    (event weights, where there are some) and ``EXTRA``. Padded slots are zero.
    """

    Config: ClassVar[type[SpanetWriterConfig]] = SpanetWriterConfig
    config: SpanetWriterConfig

    def __init__(self, config: WriterConfig | None = None) -> None:
        """Keep the options."""
        super().__init__(config)
        self._file: h5py.File | None = None

    def open(self, target: Path, contract: Contract, **known: Unpack[Known]) -> None:
        """Start a hidden file beside `target`.

        Raises:
            ContractError: If the contract has several processes: SPANet's files hold one.
        """
        del known
        self.abort()
        self._particles = _particles(contract)
        self._targets = _target_paths(contract, [p.path for p in self._particles])
        self._contract, self._target = contract, Path(target)
        self._order = [spec.name for spec in contract.of_kind("stream")]
        self._slots: dict[str, int] = {}
        self._rows = 0
        self._content = ""
        self._known: frozenset[str] | None = None
        self._sources: tuple[str, ...] = ()
        self._target.parent.mkdir(parents=True, exist_ok=True)
        self._hidden = temporary_path(self._target)
        self._file = h5py.File(self._hidden, "w", locking=False)

    def write(self, batch: EventBatch) -> None:
        """Add events.

        Raises:
            ContractError: If the batch lacks an input, does not have the tensors of the earlier
                batches, or needs more slots where indices count through them.
        """
        file = self._opened()
        content = "predictions" if batch.predictions else "events"
        if self._content and content != self._content:
            raise ContractError(
                f"{self._target}: the batches so far held {self._content}, this one {content}; "
                "write them to two files"
            )
        if not self._content:
            self._content = content
            file.attrs[CONTENT_ATTRIBUTE] = content
        batch = self._padded(batch)
        values = dict(self._inputs(batch))
        values |= self._predicted(batch) if batch.predictions else self._truth(batch)
        values |= self._others(batch)
        self._append(values, len(batch))
        if len(batch.sources) > len(self._sources):
            self._sources = tuple(batch.sources)

    def close(self) -> None:
        """Finish the file and make it visible under its name."""
        file = self._opened()
        if not self._content:
            self.write(_nothing(self._contract))
        file.create_dataset("IDS/sources", data=list(self._sources), dtype=h5py.string_dtype())
        file.close()
        self._file = None
        with self._hidden.open("rb") as written:
            os.fsync(written.fileno())
        self._hidden.replace(self._target)

    def abort(self) -> None:
        """Remove the hidden file; no-op when the writer is closed."""
        if self._file is not None:
            self._file.close()
            self._file = None
            self._hidden.unlink(missing_ok=True)

    def _opened(self) -> h5py.File:
        if self._file is None:
            raise ContractError("the writer is not open; call open(target, contract) first")
        return self._file

    # ---------------------------------------------------------------- tensors

    def _padded(self, batch: EventBatch) -> EventBatch:
        """Bring the streams to the file's slots, which grow where a batch needs more."""
        first = not self._slots
        for index, name in enumerate(self._order):
            if name not in batch.streams:
                raise ContractError(
                    f"{self._target}: the batch lacks the stream {name!r} of the contract"
                )
            needed = _needed_slots(batch, name, self._contract.slots[name])
            known = self._slots.get(name, 0)
            if needed > known:
                last = index == len(self._order) - 1
                if not first and not last and self._counts_through(batch):
                    raise ContractError(
                        f"{self._target}: {name!r} needs {needed} slots, the batches so far had "
                        f"{known}, and indices count through them; resolve the contract's slots "
                        "first"
                    )
                self._slots[name] = needed
        return replace(batch, slots={**batch.slots, **self._slots})

    def _counts_through(self, batch: EventBatch) -> bool:
        """Whether the batch has indices that the file counts through several streams' slots."""
        if batch.predictions:
            fields = {name.partition("/")[2] for name in batch.predictions}
            return any(particle.prediction in fields for particle in self._particles)
        return any(None in p.streams and p.tensor in batch for p in self._particles)

    def _inputs(self, batch: EventBatch) -> Iterator[tuple[str, Array]]:
        for spec in self._contract.of_kind("stream"):
            padded = batch.padded(spec.name)
            yield f"INPUTS/{spec.name}/MASK", padded.mask
            for feature in spec.columns:
                if feature not in padded.columns:
                    raise ContractError(f"{self._target}: {spec.name}: no feature {feature!r}")
                values = padded.columns[feature]
                zero = np.zeros((), values.dtype)
                yield f"INPUTS/{spec.name}/{feature}", np.where(padded.mask, values, zero)
        for spec in self._contract.of_kind("pairs"):
            stream = spec.dims[1]
            pairs = _to_slots(_required(batch, spec, self._target), self._slots[stream])
            for index, feature in enumerate(spec.columns):
                yield f"INPUTS/{stream}/{feature}", pairs[..., index]
        for spec in self._contract.of_kind("global"):
            block = _required(batch, spec, self._target)
            for index, feature in enumerate(spec.columns):
                yield f"INPUTS/{spec.name}/{feature}", block[:, index]
            present = batch.get(f"{spec.name}.mask")
            if present is not None:
                yield f"INPUTS/{spec.name}/MASK", present

    def _truth(self, batch: EventBatch) -> dict[str, Array]:
        values: dict[str, Array] = {}
        for particle in self._particles:
            indices = batch.get(particle.tensor)
            if indices is None:
                continue
            group = f"TARGETS/{particle.path}"
            for column, product in enumerate(particle.products):
                values[f"{group}/{product}"] = indices[:, column].astype(np.int64, copy=False)
            values[f"{group}/MASK"] = np.asarray((indices >= 0).all(axis=1))
            weight = batch.get(particle.tensor.replace("target/", "weight/", 1))
            if weight is not None:
                values[f"{group}/WEIGHT"] = weight
        for name, path in self._targets.items():
            target = batch.get(f"target/{name}")
            if target is not None:
                values[path] = target
        return values

    def _predicted(self, batch: EventBatch) -> dict[str, Array]:
        values: dict[str, Array] = {}
        unknown = []
        for name, predicted in batch.predictions.items():
            head, _, rest = name.partition("/")
            particle = next(
                (p for p in self._particles if rest == p.prediction and predicted.ndim == 2), None
            )
            if particle is not None:
                values |= self._assignment(batch, particle, head)
            elif (
                predicted.ndim == 1 and (path := self._regression_path(head, rest)) is not None
            ) or (path := self._classification_path(head, rest)) is not None:
                values[path] = predicted
            elif not any(rest.startswith(f"{p.prediction}/") for p in self._particles):
                unknown.append(name)
        if unknown and not self._rows:
            _LOG.info("SPANet's layout has no place for the predictions %s", ", ".join(unknown))
        return values

    def _assignment(self, batch: EventBatch, particle: _Particle, head: str) -> dict[str, Array]:
        """Return predicted indices, counted through all inputs, with their probabilities."""
        group, prefix = f"TARGETS/{particle.path}", f"{head}/{particle.prediction}"
        indices = batch.predictions[prefix]
        starts = dict(
            zip(self._order, np.cumsum([0, *(self._slots[s] for s in self._order)]), strict=False)
        )
        values: dict[str, Array] = {}
        for column, (product, stream) in enumerate(
            zip(particle.products, particle.streams, strict=True)
        ):
            local = indices[:, column].astype(np.int64)
            start = 0 if stream is None else starts[stream]
            values[f"{group}/{product}"] = np.where(local >= 0, local + start, -1)
        assigned = batch.predictions.get(f"{prefix}/probability")
        detected = batch.predictions.get(f"{prefix}/detection")
        if assigned is not None:
            values[f"{group}/assignment_probability"] = assigned
        if detected is not None:
            values[f"{group}/detection_probability"] = detected
        if assigned is not None and detected is not None:
            values[f"{group}/marginal_probability"] = assigned * detected
        return values

    def _regression_path(self, head: str, field: str) -> str | None:
        candidates = [
            name
            for name, path in self._targets.items()
            if path.startswith("REGRESSIONS/") and field in {name, _plain(name)}
        ]
        return self._of_head(head, candidates)

    def _classification_path(self, head: str, field: str) -> str | None:
        if field != "probabilities":
            return None
        classes = [
            name for name, path in self._targets.items() if path.startswith("CLASSIFICATIONS/")
        ]
        named = [name for name in classes if head in {name, _plain(name)}]
        return self._of_head(head, named or classes)

    def _of_head(self, head: str, candidates: list[str]) -> str | None:
        """Return the path of the one target that a prediction is about."""
        wanted = [n for n in candidates if head in self._contract[f"target/{n}"].wanted_by]
        chosen = wanted or candidates
        return self._targets[chosen[0]] if len(chosen) == 1 else None

    def _others(self, batch: EventBatch) -> dict[str, Array]:
        values = {f"IDS/{name}": batch.ids[name] for name in ("source", "entry", "sample")}
        weight = batch.get("weight")
        if weight is not None:
            values["WEIGHT"] = weight
        for name in batch.names():
            if name.startswith("extra/"):
                values[f"EXTRA/{name.removeprefix('extra/')}"] = batch[name]
        return values

    # ----------------------------------------------------------------- the file

    def _append(self, values: Mapping[str, Array], count: int) -> None:
        file = self._opened()
        if self._known is None:
            self._known = frozenset(values)
        if self._known != values.keys():
            odd = min(self._known ^ values.keys())
            state = "lacks" if odd in self._known else "also has"
            raise ContractError(
                f"{self._target}: this batch {state} {odd}, unlike the batches before; every batch "
                "of one file needs the same tensors"
            )
        rows = self._rows + count
        for path, array in values.items():
            dataset = file[path] if path in file else self._create(file, path, array)
            tail = tuple(map(max, dataset.shape[1:], array.shape[1:]))
            if dataset.shape != (rows, *tail):
                dataset.resize((rows, *tail))
            here = (slice(self._rows, rows), *(slice(0, size) for size in array.shape[1:]))
            dataset[here] = array.astype(object) if array.dtype.kind == "U" else array
        self._rows = rows

    def _create(self, file: h5py.File, path: str, array: Array) -> h5py.Dataset:
        text = array.dtype.kind in "UO"
        tail = tuple(max(size, 1) for size in array.shape[1:])
        per_row = max(int(np.prod(tail)) * array.dtype.itemsize, 1)
        return file.create_dataset(
            path,
            shape=(0, *array.shape[1:]),
            maxshape=(None,) * array.ndim,
            chunks=(max(1, min(_CHUNK_BYTES // per_row, 65_536)), *tail),
            dtype=h5py.string_dtype() if text else array.dtype,
            compression=None if self.config.compression == "none" else self.config.compression,
        )


def _particles(contract: Contract) -> list[_Particle]:
    found = []
    processes = set()
    for spec in contract.of_kind("index"):
        process, _, particle = spec.name.removeprefix("target/assignment/").rpartition("/")
        processes.add(process)
        rule = next(rule for rule in spec.rules if isinstance(rule, Index))
        found.append(_Particle(spec.name, particle, rule.products, rule.streams))
    if len(processes) > 1:
        raise ContractError(
            f"SPANet's files hold one topology, the contract has {len(processes)} processes: "
            f"{', '.join(sorted(processes))}; write one file per process"
        )
    return found


def _target_paths(contract: Contract, particles: list[str]) -> dict[str, str]:
    """Return target → path of its dataset; targets that SPANet has no place for are logged."""
    paths, without = {}, []
    for spec in contract.of_kind("target"):
        name = spec.name.removeprefix("target/")
        key = spanet_key(name, particles) if spec.dims == ("event",) else None
        if key is None:
            without.append(name)
            continue
        section = "REGRESSIONS" if spec.dtype.startswith("float") else "CLASSIFICATIONS"
        paths[name] = f"{section}/{key}"
    if without:
        _LOG.warning("SPANet's layout has no place for the targets %s", ", ".join(without))
    return paths


def _required(batch: EventBatch, spec: TensorSpec, target: Path) -> Array:
    values = batch.get(spec.name)
    if values is None:
        raise ContractError(f"{target}: the batch lacks {spec.describe()}")
    return values


def _needed_slots(batch: EventBatch, name: str, stated: int | None) -> int:
    if stated is not None:
        return stated
    if name in batch.slots:
        return batch.slots[name]
    data = batch.streams[name]
    return data.width


def _to_slots(pairs: Array, slots: int) -> Array:
    """Give pair features (event, slot, slot, feature) more slots."""
    more = slots - pairs.shape[1]
    return np.pad(pairs, [(0, 0), (0, more), (0, more), (0, 0)]) if more > 0 else pairs


def _nothing(contract: Contract) -> EventBatch:
    """Return a batch without events that has all inputs of the contract."""
    no_offsets = np.zeros(1, np.int64)
    streams = {
        spec.name: FlatStream(no_offsets, {c: np.zeros(0, np.float32) for c in spec.columns})
        for spec in contract.of_kind("stream")
    }
    arrays = {
        spec.name: np.zeros((0, *(size or 0 for size in spec.event_shape)), spec.dtype)
        for spec in contract.of_kind("global", "pairs")
    }
    return EventBatch(ids=make_ids(0, range(0)), streams=dict(streams), arrays=arrays)


def _plain(name: str) -> str:
    return re.sub(r"\W", "_", name, flags=re.ASCII)
