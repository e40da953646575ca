"""`EventBatch`: some events as named arrays, the only thing that parts hand to each other.

A stream is held flat (all objects of all events one after the other, with offsets) or padded
(slots and a mask); either form gives the other on access. Everything else is an array whose first
axis is the event. Names are those of the contract: ``jets``, ``jets.mask``, ``met``,
``target/signal``, ``weight``, ``process``, ``extra/<name>``.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepset.errors import ContractError, did_you_mean

Array = NDArray[Any]

ID_DTYPE = np.dtype([("source", "<u4"), ("entry", "<i8"), ("sample", "<u4")])
"""Identity of a row: index into the table of sources, entry in the source, and the running number
of the sample within its event (0 unless a reader makes several samples of one event)."""


def make_ids(
    source: int | Array, entry: Array | range | Sequence[int], sample: int | Array = 0
) -> Array:
    """Return the structured ids of some events.

    Args:
        source: Index of the source, one or per event.
        entry: Entry in the source, shape ``(event,)``.
        sample: Number of the sample within its event, one or per event.
    """
    ids = np.zeros(len(entry), ID_DTYPE)
    ids["source"], ids["entry"], ids["sample"] = source, entry, sample
    return ids


@dataclass(frozen=True)
class FlatStream:
    """Objects of a stream one after the other.

    Attributes:
        offsets: Event i has the objects ``offsets[i]:offsets[i + 1]``; int64, ``(event + 1,)``.
        columns: Feature → values of all objects, shape ``(object,)``.
        attached: Other per-object arrays by tensor name (``target/…``, ``extra/…``), first axis
            object.
    """

    offsets: Array
    columns: dict[str, Array]
    attached: dict[str, Array] = field(default_factory=dict)

    @property
    def counts(self) -> Array:
        """Number of objects of each event, shape ``(event,)``."""
        counts: Array = np.diff(self.offsets)
        return counts

    def __len__(self) -> int:
        """Number of events."""
        return len(self.offsets) - 1

    def take(self, events: Array) -> FlatStream:
        """Return the stream of some events, given by index, in that order."""
        counts = self.counts[events]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        most = len(events) > 1 and 2 * len(events) > len(self) and events[0] >= 0
        if most and (np.diff(events) > 0).all():
            # Most events in their order: leaving out the others is faster than picking these.
            chosen = np.zeros(len(self), bool)
            chosen[events] = True
            return self._picked(offsets, np.repeat(chosen, self.counts))
        objects = np.repeat(self.offsets[:-1][events] - offsets[:-1], counts)
        objects += np.arange(offsets[-1])
        return self._picked(offsets, objects)

    def reorder(self, objects: Array) -> FlatStream:
        """Return the stream with its objects permuted; the permutation stays inside events."""
        return self._picked(self.offsets, objects)

    def _picked(self, offsets: Array, objects: Array) -> FlatStream:
        return FlatStream(
            offsets,
            {name: values[objects] for name, values in self.columns.items()},
            {name: values[objects] for name, values in self.attached.items()},
        )


@dataclass(frozen=True)
class PaddedStream:
    """Slots of a stream, real where the mask is True.

    Attributes:
        columns: Feature → values, shape ``(event, slot)``.
        mask: True = real, shape ``(event, slot)``.
        attached: Other per-slot arrays by tensor name, first axes ``(event, slot)``.
    """

    columns: dict[str, Array]
    mask: Array
    attached: dict[str, Array] = field(default_factory=dict)

    @property
    def counts(self) -> Array:
        """Number of real slots of each event, shape ``(event,)``."""
        counts: Array = self.mask.sum(axis=1, dtype=np.int64)
        return counts

    def __len__(self) -> int:
        """Number of events."""
        return len(self.mask)

    @property
    def slots(self) -> int:
        """Number of slots."""
        return int(self.mask.shape[1])

    def take(self, events: Array) -> PaddedStream:
        """Return the stream of some events, given by index, in that order."""
        return PaddedStream(
            {name: values[events] for name, values in self.columns.items()},
            self.mask[events],
            {name: values[events] for name, values in self.attached.items()},
        )

    def flat(self) -> FlatStream:
        """Return the real slots one after the other; positions of gaps are forgotten."""
        offsets = np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64)
        return FlatStream(
            offsets,
            {name: values[self.mask] for name, values in self.columns.items()},
            {name: values[self.mask] for name, values in self.attached.items()},
        )


StreamData = FlatStream | PaddedStream


@dataclass(frozen=True)
class EventBatch:
    """Some events as named arrays.

    Attributes:
        ids: Identity of every row, dtype `ID_DTYPE`, shape ``(event,)``.
        streams: Stream → its objects, flat or padded.
        arrays: Tensor name → array with first axis event, for everything that is not a stream.
        slots: Stream → number of slots to pad to; the longest event where absent.
        sources: Keys of the sources that ``ids["source"]`` counts through, for messages.
        predictions: ``<head>/<field>`` → array, where a model has added them.
    """

    ids: Array
    streams: dict[str, StreamData]
    arrays: dict[str, Array] = field(default_factory=dict)
    slots: dict[str, int] = field(default_factory=dict)
    sources: Sequence[str] = ()
    predictions: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse rows that disagree in length."""
        lengths = {name: len(stream) for name, stream in self.streams.items()}
        lengths |= {name: len(array) for name, array in self.arrays.items()}
        wrong = {name: n for name, n in lengths.items() if n != len(self.ids)}
        if wrong:
            name, found = next(iter(wrong.items()))
            where = f"{self.where(0)[0]}: " if len(self.ids) else ""
            raise ContractError(
                f"{where}{name}: rows disagree in length: expected {len(self.ids)} events as in "
                f"the ids, found {found}; every tensor needs one row per event"
            )

    def __len__(self) -> int:
        """Number of events."""
        return len(self.ids)

    def __contains__(self, name: object) -> bool:
        """Whether a tensor can be had by this name."""
        return name in set(self.names())

    def names(self) -> list[str]:
        """Names of all tensors, streams first."""
        found: list[str] = []
        for name, stream in self.streams.items():
            found += [name, f"{name}.mask", *stream.attached]
        return found + list(self.arrays)

    def __getitem__(self, name: str) -> Array:
        """Return one tensor; a stream is padded to its slots, shape ``(event, slot, feature)``.

        Objects beyond the last slot are an error: cutting is for prepare, which counts.

        Raises:
            KeyError: If there is no such tensor.
            ContractError: If an event has more objects than slots.
        """
        if name in self.arrays:
            return self.arrays[name]
        if name in self.streams:
            padded = self.padded(name)
            if not padded.columns:
                return np.zeros((*padded.mask.shape, 0), np.float32)
            values = np.zeros((*padded.mask.shape, len(padded.columns)), np.float32)
            for index, column in enumerate(padded.columns.values()):
                # float16/64 and integers become float32 here; check reports what is lossy.
                with np.errstate(over="ignore"):
                    np.copyto(values[:, :, index], column, where=padded.mask, casting="unsafe")
            return values
        for stream_name, stream in self.streams.items():
            if name == f"{stream_name}.mask":
                return self.padded(stream_name).mask
            if name in stream.attached:
                return self.padded(stream_name).attached[name]
        raise KeyError(f"no tensor {name!r} in the batch{did_you_mean(name, self.names())}")

    def get(self, name: str) -> Array | None:
        """Return one tensor, or None where it is absent."""
        return self[name] if name in self else None  # noqa: SIM401  has no default

    def flat(self, stream: str) -> FlatStream:
        """Return a stream's real objects as flat columns with offsets."""
        data = self.streams[stream]
        return data if isinstance(data, FlatStream) else data.flat()

    def padded(self, stream: str) -> PaddedStream:
        """Return a stream in slots with its mask; columns keep their dtype.

        Raises:
            ContractError: If an event has more objects than slots.
        """
        data = self.streams[stream]
        slots = self.slots.get(stream)
        if isinstance(data, PaddedStream):
            return data if slots is None or slots == data.slots else _resized(stream, data, slots)
        counts = data.counts
        longest = int(counts.max(initial=0))
        slots = longest if slots is None else slots
        if longest > slots:
            raise ContractError(
                f"{stream}: {int((counts > slots).sum())} of {len(self)} events have more than "
                f"{slots} objects, the longest {longest}; set streams.{stream}.slots: {longest}, "
                "or let prepare cut them by `order`"
            )
        mask = np.arange(slots) < counts[:, None]

        def pad(values: Array, fill: float) -> Array:
            full = np.full((*mask.shape, *values.shape[1:]), fill, values.dtype)
            full[mask] = values
            return full

        return PaddedStream(
            {name: pad(values, 0) for name, values in data.columns.items()},
            mask,
            {name: pad(values, _missing(name, values)) for name, values in data.attached.items()},
        )

    def take(self, events: Array) -> EventBatch:
        """Return some events: a boolean mask or indices, shape ``(event,)`` or ``(n,)``."""
        events = np.asarray(events)
        if not events.size:
            events = events.astype(np.int64)  # an empty list is one of floats
        chosen = np.flatnonzero(events) if events.dtype == bool else events
        return replace(
            self,
            ids=self.ids[chosen],
            streams={name: stream.take(chosen) for name, stream in self.streams.items()},
            arrays={name: array[chosen] for name, array in self.arrays.items()},
            predictions={name: array[chosen] for name, array in self.predictions.items()},
        )

    def with_arrays(self, arrays: Mapping[str, Array]) -> EventBatch:
        """Return the batch with arrays added or replaced."""
        return replace(self, arrays={**self.arrays, **arrays})

    def with_columns(self, stream: str, columns: Mapping[str, Array]) -> EventBatch:
        """Return the batch with flat columns of a stream added or replaced, shape ``(object,)``."""
        data = self.streams[stream]
        if isinstance(data, FlatStream):
            changed: StreamData = replace(data, columns={**data.columns, **columns})
        else:
            added = {}
            for name, values in columns.items():
                added[name] = np.zeros(data.mask.shape, values.dtype)
                added[name][data.mask] = values
            changed = replace(data, columns={**data.columns, **added})
        return replace(self, streams={**self.streams, stream: changed})

    def where(self, row: int) -> tuple[str, int]:
        """Return the source key and the entry of one row, for messages."""
        source = int(self.ids["source"][row])
        key = self.sources[source] if source < len(self.sources) else f"source {source}"
        return key, int(self.ids["entry"][row])

    def _repr_html_(self) -> str:
        """Return a table of the tensors for a notebook."""
        rows = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{self[name].shape}</td>"
            f"<td>{self[name].dtype}</td></tr>"
            for name in self.names()
        )
        return (
            f"<p>{len(self)} events</p><table><tr><th>tensor</th><th>shape</th><th>dtype</th></tr>"
            f"{rows}</table>"
        )


def concatenate(batches: Iterable[EventBatch]) -> EventBatch:
    """Return several batches of the same tensors and sources as one; streams become flat.

    Raises:
        ValueError: If there is no batch.
        KeyError: If a later batch lacks a tensor of the first.
    """
    parts = list(batches)
    if not parts:
        raise ValueError("no batch to concatenate")
    first = parts[0]
    if len(parts) == 1:
        return first
    return replace(
        first,
        ids=np.concatenate([part.ids for part in parts]),
        streams={name: _joined(name, parts) for name in first.streams},
        arrays={name: np.concatenate([p.arrays[name] for p in parts]) for name in first.arrays},
        predictions={
            name: np.concatenate([p.predictions[name] for p in parts]) for name in first.predictions
        },
    )


def _joined(name: str, parts: list[EventBatch]) -> StreamData:
    padded = [part.streams[name] for part in parts]
    if all(isinstance(data, PaddedStream) for data in padded):
        slots = {data.slots for data in padded if isinstance(data, PaddedStream)}
        if len(slots) == 1:
            blocks = [data for data in padded if isinstance(data, PaddedStream)]
            return PaddedStream(
                {c: np.concatenate([b.columns[c] for b in blocks]) for c in blocks[0].columns},
                np.concatenate([b.mask for b in blocks]),
                {c: np.concatenate([b.attached[c] for b in blocks]) for c in blocks[0].attached},
            )
    flats = [part.flat(name) for part in parts]
    counts = np.concatenate([flat.counts for flat in flats])
    return FlatStream(
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        {c: np.concatenate([flat.columns[c] for flat in flats]) for c in flats[0].columns},
        {c: np.concatenate([flat.attached[c] for flat in flats]) for c in flats[0].attached},
    )


def _resized(stream: str, data: PaddedStream, slots: int) -> PaddedStream:
    """Give a padded stream another number of slots; only padding may be dropped."""
    if slots < data.slots:
        lost = data.mask[:, slots:].any(axis=1)
        if lost.any():
            raise ContractError(
                f"{stream}: {int(lost.sum())} of {len(data)} events have real objects beyond slot "
                f"{slots}; set streams.{stream}.slots: {data.slots}, or let prepare cut them by "
                "`order`"
            )

    def fit(values: Array, fill: float) -> Array:
        full = np.full((len(values), slots, *values.shape[2:]), fill, values.dtype)
        kept = min(slots, data.slots)
        full[:, :kept] = values[:, :kept]
        return full

    return PaddedStream(
        {name: fit(values, 0) for name, values in data.columns.items()},
        fit(data.mask, 0),
        {name: fit(values, _missing(name, values)) for name, values in data.attached.items()},
    )


def _missing(name: str, values: Array) -> float:
    """Fill value of a per-object array: NaN or −1 for targets, zero otherwise."""
    if not name.startswith("target/"):
        return 0.0
    return float("nan") if values.dtype.kind == "f" else -1.0


def iterate_rows(batch: EventBatch, size: int) -> Iterator[EventBatch]:
    """Cut a batch into consecutive batches of at most `size` events."""
    for start in range(0, len(batch), size):
        yield batch.take(np.arange(start, min(start + size, len(batch))))
