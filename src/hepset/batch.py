"""`EventBatch`: some events as named arrays, the only thing that parts hand to each other.

A stream is held as `hepset.arrays.Ragged`: all objects of all events one after the other, with
offsets. It is padded on access. Everything else is an array whose first axis is the event. Names
are those of the contract: ``jets``, ``jets.mask``, ``met``, ``target/signal``, ``weight``,
``process``, ``extra/<name>``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hepset.arrays import Array, Ragged, join, padding_value
from hepset.errors import ContractError, did_you_mean
from hepset.tables import Table

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


FlatStream = Ragged
"""Objects of a stream one after the other: ``FlatStream(offsets, columns, attached)``."""


@dataclass(frozen=True)
class PaddedStream:
    """Slots of a stream, real where the mask is True.

    A reader may give a stream in this form; the batch compresses it once. It is also what
    `EventBatch.padded` returns.

    Attributes:
        columns: Feature → values, shape ``(event, slot)``.
        mask: True = real, shape ``(event, slot)``; zeros and ones of another type are fine.
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

    def flat(self) -> Ragged:
        """Return the real slots one after the other; gaps between them are kept.

        Raises:
            ContractError: If the mask is none, or an array has other events and slots than it.
        """
        mask = real_slots(self.mask)
        for name, values in {**self.columns, **self.attached}.items():
            if values.shape[:2] != mask.shape:
                raise ContractError(
                    f"{name}: shape {values.shape} beside a mask of shape {mask.shape}; give one "
                    "entry per event and slot"
                )
        return Ragged.from_slots(self.columns, mask, self.attached, inspect_padding=True)


StreamData = Ragged | PaddedStream
"""What a reader may give a stream as."""


def real_slots(mask: Array) -> Array:
    """Return the mask of a stream as booleans.

    Raises:
        ContractError: If it has not the axes (event, slot), or holds other values than 0 and 1.
    """
    if mask.ndim != 2:
        raise ContractError(f"mask: shape {mask.shape}, expected the axes (event, slot)")
    if mask.dtype == bool:
        return mask
    if mask.dtype.kind not in "iuf":
        raise ContractError(f"mask: dtype {mask.dtype}, expected booleans, or 0 and 1")
    wrong = np.argwhere((mask != 0) & (mask != 1))
    if len(wrong):
        event, slot = wrong[0].tolist()
        raise ContractError(
            f"mask: found {mask[event, slot]:g} (row {event}, slot {slot}), expected booleans, or "
            "0 and 1; give True = real (a count or a weight is no mask)"
        )
    return mask.astype(bool)


@dataclass(frozen=True, init=False)
class EventBatch:
    """Some events as named arrays.

    A stream may be given as `PaddedStream`; it is compressed at once.

    Attributes:
        ids: Identity of every row, dtype `ID_DTYPE`, shape ``(event,)``.
        streams: Stream → its objects.
        arrays: Tensor name → array with first axis event, for everything that is not a stream.
        slots: Stream → number of slots to pad to; the longest event where absent.
        sources: Keys of the sources that ``ids["source"]`` counts through, for messages.
        predictions: ``<head>/<field>`` → array, where a model has added them.
    """

    ids: Array
    streams: dict[str, Ragged]
    arrays: dict[str, Array] = field(default_factory=dict)
    slots: dict[str, int] = field(default_factory=dict)
    sources: Sequence[str] = ()
    predictions: dict[str, Array] = field(default_factory=dict)

    def __init__(
        self,
        ids: Array,
        streams: Mapping[str, StreamData],
        arrays: dict[str, Array] | None = None,
        slots: dict[str, int] | None = None,
        sources: Sequence[str] = (),
        predictions: dict[str, Array] | None = None,
    ) -> None:
        """Compress padded streams; refuse rows that disagree in length."""
        fields = {
            "ids": ids,
            "arrays": {} if arrays is None else arrays,
            "slots": {} if slots is None else slots,
            "sources": sources,
            "predictions": {} if predictions is None else predictions,
        }
        for name, value in fields.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "streams", {n: self._flat(n, d) for n, d in streams.items()})
        lengths = {name: len(stream) for name, stream in self.streams.items()}
        lengths |= {name: len(array) for name, array in self.arrays.items()}
        wrong = {name: n for name, n in lengths.items() if n != len(self.ids)}
        if wrong:
            name, found = next(iter(wrong.items()))
            raise ContractError(
                f"{self._source()}{name}: rows disagree in length: expected {len(self.ids)} events "
                f"as in the ids, found {found}; every tensor needs one row per event"
            )

    def _flat(self, name: str, data: StreamData) -> Ragged:
        if isinstance(data, Ragged):
            return data
        try:
            return data.flat()
        except ContractError as problem:
            raise ContractError(f"{self._source()}{name}.{problem}") from None

    def _source(self) -> str:
        """The source of the first row, as the beginning of a message."""
        return f"{self.where(0)[0]}: " if len(self.ids) else ""

    def __iter__(self) -> Iterator[str]:
        """Go through the names of all tensors, as `names` gives them."""
        return iter(self.names())

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
            data, slots = self.streams[name], self._slots(name)
            objects = np.empty((data.objects, len(data.columns)), np.float32)
            for index, column in enumerate(data.columns.values()):
                # float16/64 and integers become float32 here; check reports what is lossy.
                with np.errstate(over="ignore"):
                    objects[:, index] = column
            return data.pad(objects, slots)
        for stream, data in self.streams.items():
            if name == f"{stream}.mask":
                return data.mask(self._slots(stream))
            if name in data.attached:
                return self._padded(stream, name)
        raise KeyError(f"no tensor {name!r} in the batch{did_you_mean(name, self.names())}")

    def get(self, name: str) -> Array | None:
        """Return one tensor, or None where it is absent."""
        return self[name] if name in self else None  # noqa: SIM401  has no default

    def flat(self, stream: str) -> Ragged:
        """Return a stream's real objects as flat columns with offsets."""
        return self.streams[stream]

    def padded(self, stream: str) -> PaddedStream:
        """Return a stream in slots with its mask; columns keep their dtype.

        Raises:
            ContractError: If an event has more objects than slots.
        """
        data, slots = self.streams[stream], self._slots(stream)
        return PaddedStream(
            {name: data.pad(values, slots) for name, values in data.columns.items()},
            data.mask(slots),
            {name: self._padded(stream, name) for name in data.attached},
        )

    def _padded(self, stream: str, name: str) -> Array:
        values = self.streams[stream].attached[name]
        fill = padding_value(name, values.dtype)
        return self.streams[stream].pad(values, self._slots(stream), fill)

    def _slots(self, stream: str) -> int:
        """Slots that a stream is padded to; refuse objects that stand beyond."""
        data = self.streams[stream]
        slots = self.slots.get(stream)
        if slots is None:
            return data.width
        if data.width <= slots:
            return slots
        last = data.counts
        if data.origin_slot is not None:
            last = np.zeros(len(data), np.int64)
            last[data.counts > 0] = data.origin_slot[data.offsets[1:][data.counts > 0] - 1] + 1
        beyond, most = last > slots, int(last.max(initial=0))
        if not beyond.any():
            return slots
        what = (
            f"more than {slots} objects, the longest {most}"
            if data.slots is None
            else f"real objects beyond slot {slots}"
        )
        raise ContractError(
            f"{stream}: {int(beyond.sum())} of {len(self)} events have {what}; set "
            f"streams.{stream}.slots: {most}, or let prepare cut them by `order`"
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
        changed = self.streams[stream].with_columns(columns)
        return replace(self, streams={**self.streams, stream: changed})

    def where(self, row: int) -> tuple[str, int]:
        """Return the source key and the entry of one row, for messages."""
        source = int(self.ids["source"][row])
        key = self.sources[source] if source < len(self.sources) else f"source {source}"
        return key, int(self.ids["entry"][row])

    def _repr_html_(self) -> str:
        """Return a table of the tensors for a notebook."""
        rows = tuple((name, self[name].shape, self[name].dtype) for name in self.names())
        table = Table(f"{len(self)} events", ("tensor", "shape", "dtype"), rows)
        return table.to_html()


def concatenate(batches: Iterable[EventBatch]) -> EventBatch:
    """Return several batches of the same tensors and sources as one.

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
        streams={name: join([p.streams[name] for p in parts]) for name in first.streams},
        arrays={name: np.concatenate([p.arrays[name] for p in parts]) for name in first.arrays},
        predictions={
            name: np.concatenate([p.predictions[name] for p in parts]) for name in first.predictions
        },
    )


def iterate_rows(batch: EventBatch, size: int) -> Iterator[EventBatch]:
    """Cut a batch into consecutive batches of at most `size` events."""
    for start in range(0, len(batch), size):
        yield batch.take(np.arange(start, min(start + size, len(batch))))
