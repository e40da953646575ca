"""`EventPool`: events of several batches in one block of memory, given out as tensors in any order.

The features of an object stand side by side, so that a batch of any events is one gather per
stream, straight into its slots. The memory is used again for the next events.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hepset.batch import ID_DTYPE, EventBatch, FlatStream, PaddedStream, StreamData
from hepset.errors import ContractError, DatasetError
from hepset.schema.contract import Contract
from hepset.schema.tensors import TensorSpec

__all__ = ["EventPool"]

Array = NDArray[Any]

_RESERVE: Final = 1.1
"""Room that is taken at once, relative to what is expected to come."""
_BLOCK: Final = 4096
"""Objects whose features are put side by side at a time, in the cache of a core."""
_INPUTS: Final = frozenset({"stream", "mask", "global", "pairs"})
_ID_FIELDS: Final = ("source", "entry", "sample")


class EventPool:
    """Events as `append` brings them, of which `tensors` makes batches.

    Args:
        contract: The tensors that are wanted, with all slots resolved.
    """

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        self._arrays: dict[str, _Rows] = {}
        self._streams: dict[str, _Objects] = {}
        self._present: tuple[str, ...] = ()
        self._ids = np.zeros(0, ID_DTYPE)
        self._sources: Sequence[str] = ()

    def __len__(self) -> int:
        """Number of events."""
        return len(self._ids)

    def clear(self) -> None:
        """Forget the events, and keep the memory."""
        self._ids = self._ids[:0]
        self._present = ()
        for rows in self._arrays.values():
            rows.count = 0
        for objects in self._streams.values():
            objects.clear()

    def append(self, batch: EventBatch, *, portions: int = 1) -> None:
        """Copy events into the pool; tensors that the contract does not know are left out.

        Args:
            batch: Events in the contract's slots.
            portions: How many batches of this size are expected, this one included; a hint.

        Raises:
            ContractError: If an event has more objects than slots.
            DatasetError: If a required input is missing, or a tensor that the others have.
        """
        streams = {
            spec.name: spec
            for spec in self.contract.of_kind("stream")
            if spec.name in batch.streams and spec.name not in batch.arrays
        }
        present = [name for name in self.contract.tensors if name in set(batch.names())]
        if not len(self):
            self._present = tuple(present)
        for name, spec in self.contract.tensors.items():
            lacks = name not in present
            if lacks and spec.required and spec.kind in _INPUTS:
                raise DatasetError(f"the events lack the input {spec.describe()}")
            if lacks is (name in self._present):
                raise DatasetError(f"some events have {spec.describe()} and others lack it")
        for name, spec in streams.items():
            owned = [
                self.contract[other]
                for other in batch.streams[name].attached
                if other in self._present and other not in batch.arrays
            ]
            if name not in self._streams:
                self._streams[name] = _Objects(spec)
            self._streams[name].append(batch.streams[name], owned, portions)
        for name in self._present:
            if name in batch.arrays:
                self._extend(self.contract[name], batch.arrays[name], portions)
        self._ids = np.concatenate([self._ids, batch.ids])
        self._sources = batch.sources

    def _extend(self, spec: TensorSpec, values: Array, portions: int) -> None:
        rows = self._arrays.get(spec.name)
        if rows is None or rows.shape != values.shape[1:]:
            rows = self._arrays[spec.name] = _Rows(values.shape[1:], spec.dtype)
        rows.append(values, portions)

    def tensors(self, events: Array) -> dict[str, Tensor]:
        """Return the tensors of some events, and ``ids`` (event, 3), in memory of their own.

        Args:
            events: Their numbers, in the order in which they were appended.
        """
        chosen = torch.from_numpy(events)
        found: dict[str, Tensor] = {}
        for name in self._present:
            if name in self._arrays and self._arrays[name].count:
                found[name] = self._arrays[name].gathered(chosen)
        for name, objects in self._streams.items():
            if name in self._present and name not in found:
                found |= objects.tensors(name, events, self._present)
        ids = self._ids[events]
        numbers = np.stack([ids[name].astype(np.int64) for name in _ID_FIELDS], -1)
        ordered = {name: found[name] for name in self._present if name in found}
        return {**ordered, "ids": torch.from_numpy(numbers)}

    def take(self, events: Array) -> EventBatch:
        """Return some events as a batch with the tensors of the contract."""
        streams = {
            name: objects.take(events, self._present)
            for name, objects in self._streams.items()
            if name in self._present
        }
        arrays = {
            name: rows.used.numpy()[events] for name, rows in self._arrays.items() if rows.count
        }
        slots = {name: size for name, size in self.contract.slots.items() if size is not None}
        return EventBatch(self._ids[events], streams, arrays, slots, self._sources)


class _Rows:
    """Rows of one shape behind each other, in memory that grows and is used again."""

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        self.shape = shape
        self.count = 0
        self._dtype = np.dtype(dtype)
        self._block = self._room(0)

    @property
    def used(self) -> Tensor:
        return self._block[: self.count]

    def extend(self, count: int, portions: int = 1) -> Tensor:
        """Return room for rows at the end; as many are expected `portions` times in all."""
        needed = self.count + count
        if needed > len(self._block):
            room = self.count + int(count * (1 + (portions - 1) * _RESERVE)) + 1
            grown = self._room(room)
            grown[: self.count] = self.used
            self._block = grown
        end = self._block[self.count : needed]
        self.count = needed
        return end

    def gathered(self, index: Tensor) -> Tensor:
        """Return some rows in memory of their own."""
        return torch.index_select(self.used, 0, index, out=self._room(len(index)))

    def _room(self, count: int) -> Tensor:
        # numpy asks for large pages where there are any, torch does not: first use costs half.
        return torch.from_numpy(np.empty((count, *self.shape), self._dtype))

    def append(self, values: Array, portions: int) -> None:
        with np.errstate(over="ignore"):
            np.copyto(self.extend(len(values), portions).numpy(), values, casting="unsafe")


class _Objects:
    """The objects of a stream: a row of features each, and what else is known of each.

    Attributes:
        stored: Number of objects of each event; all slots where the stream came in slots.
    """

    def __init__(self, spec: TensorSpec) -> None:
        self._spec = spec
        self._slots = spec.event_shape[0] or 0
        self._features = _Rows((len(spec.columns),), "float32")
        self._attached: dict[str, _Rows] = {}
        self._fills: dict[str, float] = {}
        self._real: _Rows | None = None
        self.clear()

    def clear(self) -> None:
        self.stored = np.zeros(0, np.int64)
        self._starts = np.zeros(1, np.int64)
        self._features.count = 0
        for rows in self._attached.values():
            rows.count = 0
        self._real = None

    def append(self, data: StreamData, owned: Sequence[TensorSpec], portions: int) -> None:
        spec = self._spec
        lacking = [name for name in spec.columns if name not in data.columns]
        if lacking:
            raise DatasetError(
                f"{spec.name}: the events lack the features {', '.join(lacking)}; they have "
                f"{', '.join(data.columns)}"
            )
        most = data.slots if isinstance(data, PaddedStream) else int(data.counts.max(initial=0))
        if most > self._slots:
            raise ContractError(
                f"{spec.name}: the longest event has {most} objects, more than {self._slots} "
                "slots; cut them before (hepset.events.slots.conform)"
            )
        if isinstance(data, PaddedStream):
            self._append_slots(data, owned, portions)
            return
        objects = int(data.offsets[-1])
        if objects:
            self._fill([data.columns[name] for name in spec.columns], objects, portions)
        for other in owned:
            self._attach(other, data.attached[other.name], portions)
        if self._real is not None:
            self._real.extend(objects, portions).fill_(1)
        self._count(data.counts)

    def _append_slots(self, data: PaddedStream, owned: Sequence[TensorSpec], portions: int) -> None:
        """Keep empty slots as objects that are not real, so that gaps stay where they are."""
        if self._real is None:
            self._real = _Rows((), "bool")
            self._real.extend(int(self._starts[-1]), portions).fill_(1)
        mask = data.mask.reshape(-1)
        columns = [data.columns[name].reshape(-1) for name in self._spec.columns]
        self._fill([np.where(mask, column, 0) for column in columns], len(mask), portions)
        for other in owned:
            values = data.attached[other.name]
            self._attach(other, values.reshape(-1, *values.shape[2:]), portions)
        self._real.append(mask, portions)
        self._count(np.full(len(data), data.slots, np.int64))

    def _count(self, stored: Array) -> None:
        self.stored = np.concatenate([self.stored, stored])
        self._starts = np.concatenate([[0], np.cumsum(self.stored)]).astype(np.int64)

    def _fill(self, columns: Sequence[Array], objects: int, portions: int) -> None:
        room = self._features.extend(objects, portions).numpy()
        block = np.empty((len(columns), min(_BLOCK, objects)), np.float32)
        with np.errstate(over="ignore"):
            for start in range(0, objects, _BLOCK):
                stop = min(start + _BLOCK, objects)
                part = block[:, : stop - start]
                for row, column in zip(part, columns, strict=True):
                    row[:] = column[start:stop]
                room[start:stop] = part.T

    def _attach(self, spec: TensorSpec, values: Array, portions: int) -> None:
        rows = self._attached.get(spec.name)
        if rows is None or rows.shape != values.shape[1:]:
            rows = self._attached[spec.name] = _Rows(values.shape[1:], spec.dtype)
            self._fills[spec.name] = spec.fill
        rows.append(values, portions)

    def tensors(self, name: str, events: Array, present: Sequence[str]) -> dict[str, Tensor]:
        """Gather the objects of events into slots."""
        places, mask = self._places(events)
        index = torch.from_numpy(places.reshape(-1))
        found = {name: self._gathered(self._features, index, mask, 0.0)}
        real = mask
        if self._real is not None:
            real = self._gathered(self._real, index, mask, 0.0).numpy()
        if f"{name}.mask" in present:
            found[f"{name}.mask"] = torch.from_numpy(real)
        for other, rows in self._attached.items():
            if other not in present:
                continue
            found[other] = self._gathered(rows, index, mask, self._fills[other])
        return found

    def _places(self, events: Array) -> tuple[Array, Array]:
        """Return the object in every slot, and where there is one, ``(event, slot)``."""
        small = self._starts[-1] < np.iinfo(np.int32).max
        kind = np.dtype(np.int32 if small else np.int64)
        slots = np.arange(self._slots, dtype=kind)
        mask = slots < self.stored[events, None].astype(kind)
        starts = self._starts[:-1][events, None].astype(kind)
        # Behind the last object stands what fills empty slots.
        places = np.where(mask, starts + slots, self._starts[-1].astype(kind))
        return places, mask

    def _gathered(self, rows: _Rows, index: Tensor, mask: Array, fill: float) -> Tensor:
        count = rows.count
        rows.extend(1).fill_(fill)
        try:
            found = rows.gathered(index)
        finally:
            rows.count = count
        return found.reshape(*mask.shape, *rows.shape)

    def take(self, events: Array, present: Sequence[str]) -> StreamData:
        """Return the objects of some events."""
        columns = self._features.used.numpy()
        named = {name: columns[:, index] for index, name in enumerate(self._spec.columns)}
        attached = {
            name: rows.used.numpy() for name, rows in self._attached.items() if name in present
        }
        flat = FlatStream(self._starts, named, attached)
        if self._real is None:
            return flat.take(events)
        tensors = self.tensors("", events, (".mask", *attached))
        values = tensors.pop("").numpy()
        mask = tensors.pop(".mask").numpy()
        return PaddedStream(
            {name: values[:, :, index] for index, name in enumerate(self._spec.columns)},
            mask,
            {name: tensor.numpy() for name, tensor in tensors.items()},
        )
