"""`EventPool`: events of several batches in one block of memory, given out as tensors in any order.

The features of an object stand side by side, so that a batch of any events is one gather per
stream, straight into its slots. The memory is used again for the next events.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor

from hepset.arrays import Array, Ragged, offsets_of, padding_value
from hepset.batch import ID_DTYPE, EventBatch
from hepset.dataset.tensors import ids_tensor
from hepset.errors import ContractError, DatasetError
from hepset.schema.contract import Contract
from hepset.schema.tensors import TensorSpec

__all__ = ["EventPool"]

_RESERVE: Final = 1.1
"""Room that is taken at once, relative to what is expected to come."""
_BLOCK: Final = 4096
"""Objects whose features are put side by side at a time, in the cache of a core."""
_INPUTS: Final = frozenset({"stream", "mask", "global", "pairs"})


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
        ordered = {name: found[name] for name in self._present if name in found}
        return {**ordered, "ids": ids_tensor(self._ids[events])}

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
        self.dtype = np.dtype(dtype)
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
        return torch.from_numpy(np.empty((count, *self.shape), self.dtype))

    def append(self, values: Array, portions: int) -> None:
        with np.errstate(over="ignore"):
            np.copyto(self.extend(len(values), portions).numpy(), values, casting="unsafe")


class _Objects:
    """The objects of a stream: a row of features each, and what else is known of each.

    Attributes:
        offsets: Where the objects of each event begin and end.
    """

    def __init__(self, spec: TensorSpec) -> None:
        self._spec = spec
        self._slots = spec.event_shape[0] or 0
        self._features = _Rows((len(spec.columns),), "float32")
        self._attached: dict[str, _Rows] = {}
        self._origin: _Rows | None = None
        self.clear()

    def clear(self) -> None:
        self.offsets = np.zeros(1, np.int64)
        self._features.count = 0
        for rows in self._attached.values():
            rows.count = 0
        self._origin = None

    def append(self, data: Ragged, owned: Sequence[TensorSpec], portions: int) -> None:
        spec = self._spec
        lacking = [name for name in spec.columns if name not in data.columns]
        if lacking:
            raise DatasetError(
                f"{spec.name}: the events lack the features {', '.join(lacking)}; they have "
                f"{', '.join(data.columns)}"
            )
        most = int(data.place.max(initial=-1)) + 1 if data.width > self._slots else 0
        if most > self._slots:
            raise ContractError(
                f"{spec.name}: the longest event has {most} objects, more than {self._slots} "
                "slots; cut them before (hepset.events.slots.conform)"
            )
        if data.objects:
            columns = [data.columns[name] for name in spec.columns]
            self._fill(columns, data.objects, portions)
        for other in owned:
            self._attach(other, data.attached[other.name], portions)
        if data.origin_slot is not None and self._origin is None:
            self._origin = _Rows((), "int64")
            self._origin.append(self._objects([]).rank, portions)
        if self._origin is not None:
            self._origin.append(data.place, portions)
        self.offsets = np.concatenate([self.offsets, data.offsets[1:] + self.offsets[-1]])

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
        rows.append(values, portions)

    def tensors(self, name: str, events: Array, present: Sequence[str]) -> dict[str, Tensor]:
        """Gather the objects of events into slots."""
        places = self._places(events)
        mask = places < self.offsets[-1]
        index = torch.from_numpy(places.reshape(-1))
        found = {name: self._gathered(self._features, index, mask, 0.0)}
        if f"{name}.mask" in present:
            found[f"{name}.mask"] = torch.from_numpy(mask)
        for other, rows in self._attached.items():
            if other not in present:
                continue
            found[other] = self._gathered(rows, index, mask, padding_value(other, rows.dtype))
        return found

    def _places(self, events: Array) -> Array:
        """Return the object in every slot, ``(event, slot)``; behind the last one where empty."""
        objects = int(self.offsets[-1])
        kind = np.dtype(np.int32 if objects < np.iinfo(np.int32).max else np.int64)
        counts = np.diff(self.offsets)[events]
        starts = self.offsets[:-1][events]
        if self._origin is None:
            slots = np.arange(self._slots, dtype=kind)
            mask = slots < counts[:, None].astype(kind)
            return np.where(mask, starts[:, None].astype(kind) + slots, kind.type(objects))
        places = np.full((len(events), self._slots), objects, kind)
        chosen = Ragged.of(offsets_of(counts), counts)
        numbers = chosen.rank + np.repeat(starts, counts)
        places[chosen.event_of, self._origin.used.numpy()[numbers]] = numbers
        return places

    def _gathered(self, rows: _Rows, index: Tensor, mask: Array, fill: float) -> Tensor:
        count = rows.count
        rows.extend(1).fill_(fill)
        try:
            found = rows.gathered(index)
        finally:
            rows.count = count
        return found.reshape(*mask.shape, *rows.shape)

    def take(self, events: Array, present: Sequence[str]) -> Ragged:
        """Return the objects of some events."""
        return self._objects(present).take(events)

    def _objects(self, present: Sequence[str]) -> Ragged:
        columns = self._features.used.numpy()
        return Ragged(
            self.offsets,
            {name: columns[:, index] for index, name in enumerate(self._spec.columns)},
            {n: rows.used.numpy() for n, rows in self._attached.items() if n in present},
            None if self._origin is None else self._origin.used.numpy(),
        )
