"""Arrays of variable length: the objects of some events one after the other, with offsets.

`Ragged` is the one form that objects have from a reader to a shard and from a prediction to a file.
Slots with a mask are compressed into it once (`Ragged.from_slots`) and made from it where a network
or a user wants them (`Ragged.pad`). What fills empty slots, and what marks a value that is not
there, is decided here alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = [
    "Array",
    "Ragged",
    "join",
    "missing_value",
    "offsets_of",
    "padding_value",
]

Array = NDArray[Any]

_MISSING: Final[dict[str, Any]] = {
    "f": float("nan"),
    "c": float("nan"),
    "i": -1,
    "u": 0,
    "b": False,
    "U": "",
    "S": b"",
}


def offsets_of(counts: Array | Sequence[int]) -> Array:
    """Return where the objects of each event begin, and where the last ones end.

    Args:
        counts: Number of objects of each event, shape ``(event,)``.

    Returns:
        int64, shape ``(event + 1,)``, beginning with 0.

    Example:
        >>> offsets_of([2, 0, 1]).tolist()
        [0, 2, 2, 3]
    """
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def missing_value(dtype: DTypeLike) -> Any:  # noqa: ANN401  of the element type's own kind
    """Return the value that marks a missing one: NaN, −1, False or an empty string."""
    return _MISSING[np.dtype(dtype).kind]


def padding_value(name: str, dtype: DTypeLike) -> Any:  # noqa: ANN401  of the type's own kind
    """Return what fills empty slots of a tensor: a missing target, else zero or nothing."""
    if name.startswith("target/"):
        return missing_value(dtype)
    return np.zeros((), dtype)[()]


@dataclass(frozen=True)
class Ragged:
    """Objects of some events one after the other.

    Attributes:
        offsets: Event i has the objects ``offsets[i]:offsets[i + 1]``; int64, ``(event + 1,)``.
        columns: Feature → values of all objects, first axis object; the one key ``""`` where it is
            a single array (`of`).
        attached: Other per-object arrays by tensor name (``target/…``, ``extra/…``), first axis
            object.
        origin_slot: Slot of its event that each object is in, ``(object,)``, where objects
            came in slots with gaps between them; None where they stand without gaps. Indices count
            through these slots.
        slots: Slots of each event, where the objects came in slots; None for lists.
        in_padding: Feature → number of padded slots of each event that hold anything but 0, which
            tells an inverted mask; empty for lists.
    """

    offsets: Array
    columns: dict[str, Array]
    attached: dict[str, Array] = field(default_factory=dict)
    origin_slot: Array | None = None
    slots: int | None = None
    in_padding: dict[str, Array] = field(default_factory=dict)

    @classmethod
    def of(cls, offsets: Array, values: Array) -> Ragged:
        """Return a single array with a list per event.

        Args:
            offsets: Event i has the rows ``offsets[i]:offsets[i + 1]``.
            values: One row per object, first axis object.
        """
        return cls(offsets, {"": values})

    @classmethod
    def from_slots(
        cls,
        columns: Mapping[str, Array],
        mask: Array,
        attached: Mapping[str, Array] | None = None,
        *,
        inspect_padding: bool = False,
    ) -> Ragged:
        """Compress slots to the objects in them; gaps are kept as `origin_slot`.

        Args:
            columns: Feature → values, first axes ``(event, slot)``.
            mask: True = real, shape ``(event, slot)``, bool.
            attached: Other arrays with the same first axes, by tensor name.
            inspect_padding: Note what the padding of the columns holds (`in_padding`).
        """
        counts = mask.sum(axis=1, dtype=np.int64)
        offsets, slots = offsets_of(counts), mask.shape[1]
        real = np.flatnonzero(mask)
        full = len(real) == mask.size
        has_gaps = not full and bool((mask != (np.arange(slots) < counts[:, None])).any())

        def objects(values: Array) -> Array:
            if not full and not values.flags.c_contiguous:
                return values[mask]
            rows = values.reshape(mask.size, *values.shape[2:])
            return rows if full else rows.take(real, axis=0)

        in_padding: dict[str, Array] = {}
        if inspect_padding:
            padding = ~mask
            for name, values in columns.items():
                held = padding if full else (values != 0) & padding
                in_padding[name] = held.sum(axis=1, dtype=np.int64)
        return cls(
            offsets,
            {name: objects(values) for name, values in columns.items()},
            {name: objects(values) for name, values in (attached or {}).items()},
            real % slots if has_gaps else None,
            slots,
            in_padding,
        )

    @property
    def values(self) -> Array:
        """The array itself, where there is a single one (`of`)."""
        return self.columns[""]

    @property
    def counts(self) -> Array:
        """Number of objects of each event, shape ``(event,)``."""
        counts: Array = np.diff(self.offsets)
        return counts

    @property
    def objects(self) -> int:
        """Number of objects of all events."""
        return int(self.offsets[-1] - self.offsets[0])

    @property
    def longest(self) -> int:
        """Number of objects of the longest event."""
        return int(self.counts.max(initial=0))

    @property
    def width(self) -> int:
        """Slots that hold the objects of every event: its own number, or the longest list."""
        if self.slots is not None:
            return self.slots
        if self.origin_slot is not None:
            return int(self.origin_slot.max(initial=-1)) + 1
        return self.longest

    @property
    def event_of(self) -> Array:
        """Event of each object, shape ``(object,)``."""
        found: Array = np.repeat(np.arange(len(self)), self.counts)
        return found

    @property
    def rank(self) -> Array:
        """Position of each object among those of its event, shape ``(object,)``."""
        first = self.offsets[:-1] - self.offsets[0]
        rank: Array = np.arange(self.objects) - np.repeat(first, self.counts)
        return rank

    @property
    def place(self) -> Array:
        """Slot of each object, shape ``(object,)``."""
        return self.rank if self.origin_slot is None else self.origin_slot

    def __len__(self) -> int:
        """Number of events."""
        return len(self.offsets) - 1

    def mask(self, slots: int) -> Array:
        """Return which slots are real, shape ``(event, slots)``."""
        if self.origin_slot is None:
            mask: Array = np.arange(slots) < self.counts[:, None]
            return mask
        mask = np.zeros((len(self), slots), bool)
        mask[self.event_of, self.origin_slot] = True
        return mask

    def object_at(self, events: Array, slots: Array) -> Array:
        """Return the object in a slot of an event, −1 where the slot is empty; any shape."""
        if self.origin_slot is None:
            inside = slots < self.counts[events]
            found: Array = np.where(inside, self.offsets[:-1][events] + slots, -1)
            return found
        held = self.event_of * self.width + self.origin_slot
        wanted = events * self.width + slots
        found = np.searchsorted(held, wanted)
        inside = (np.append(held, -1)[found] == wanted) & (slots < self.width)
        found[~inside] = -1
        return found

    def pad(
        self,
        values: Array,
        slots: int,
        fill: Any = 0,  # noqa: ANN401  of the values' own type
        out: Array | None = None,
    ) -> Array:
        """Put one value per object into slots.

        Args:
            values: First axis object.
            slots: Slots of each event; no object may stand beyond.
            fill: What empty slots hold.
            out: Where to write, shape ``(event, slots, …)`` in C order; a new array of the type of
                `values` without it.

        Returns:
            Shape ``(event, slots, …)``.
        """
        shape = (len(self), slots, *values.shape[1:])
        if out is None:
            out = np.empty(shape, values.dtype)
        rows = out.reshape(len(self) * slots, *values.shape[1:])
        with np.errstate(over="ignore"):
            if len(rows) == len(values):
                np.copyto(rows, values, casting="unsafe")
            else:
                rows[...] = fill
                rows[self._rows(slots)] = values
        return out

    def _rows(self, slots: int) -> Array:
        """Place of each object in all slots of all events one after the other."""
        if self.origin_slot is None:
            return np.flatnonzero(self.mask(slots))
        rows: Array = np.repeat(np.arange(len(self)) * slots, self.counts) + self.origin_slot
        return rows

    def take(self, events: Array) -> Ragged:
        """Return the objects of some events, given by index, in that order."""
        counts = self.counts[events]
        offsets = offsets_of(counts)
        in_padding = {name: held[events] for name, held in self.in_padding.items()}
        most = len(events) > 1 and 2 * len(events) > len(self) and events[0] >= 0
        if most and (np.diff(events) > 0).all():
            # Most events in their order: leaving out the others is faster than picking these.
            chosen = np.zeros(len(self), bool)
            chosen[events] = True
            objects = np.repeat(chosen, self.counts)
        else:
            objects = np.repeat(self.offsets[:-1][events] - offsets[:-1], counts)
            objects += np.arange(offsets[-1])
        return replace(self._picked(objects), offsets=offsets, in_padding=in_padding)

    def part(self, start: int, stop: int) -> Ragged:
        """Return the events ``start:stop``, without copying the values."""
        ends = self.offsets[start : stop + 1]
        found = self._picked(slice(int(ends[0]), int(ends[-1])))
        in_padding = {name: held[start:stop] for name, held in self.in_padding.items()}
        return replace(found, offsets=ends - ends[0], in_padding=in_padding)

    def reorder(self, objects: Array) -> Ragged:
        """Return the events with their objects permuted, inside events, and without gaps."""
        return replace(self._picked(objects), origin_slot=None, in_padding={})

    def select(self, objects: Array) -> Ragged:
        """Return the events with some objects only, given by a boolean mask ``(object,)``.

        Where there were no gaps, there are none afterwards: the objects that are left move up.
        """
        kept = offsets_of(objects)[self.offsets]
        return replace(self._picked(objects), offsets=kept, in_padding={})

    def map(self, change: Callable[[Array], Array]) -> Ragged:
        """Return it with every column changed, row by row."""
        return replace(self, columns={name: change(v) for name, v in self.columns.items()})

    def with_columns(self, columns: Mapping[str, Array]) -> Ragged:
        """Return it with columns added or replaced, first axis object."""
        return replace(self, columns={**self.columns, **columns})

    def with_attached(self, attached: Mapping[str, Array]) -> Ragged:
        """Return it with other per-object arrays added or replaced, first axis object."""
        return replace(self, attached={**self.attached, **attached})

    def _picked(self, objects: Array | slice) -> Ragged:
        return replace(
            self,
            columns={name: values[objects] for name, values in self.columns.items()},
            attached={name: values[objects] for name, values in self.attached.items()},
            origin_slot=None if self.origin_slot is None else self.origin_slot[objects],
        )


def join(parts: Sequence[Ragged]) -> Ragged:
    """Return the events of several parts, in order; they have the columns of the first.

    Raises:
        KeyError: If a later part lacks a column of the first.
        ValueError: If there is no part.
    """
    if not parts:
        raise ValueError("no part to join")
    if len(parts) == 1:
        return parts[0]
    parts = [part.part(0, len(part)) for part in parts]
    first = parts[0]
    has_gaps = any(part.origin_slot is not None for part in parts)
    slots = [part.slots for part in parts if part.slots is not None]
    return Ragged(
        offsets_of(np.concatenate([part.counts for part in parts])),
        {name: np.concatenate([p.columns[name] for p in parts]) for name in first.columns},
        {name: np.concatenate([p.attached[name] for p in parts]) for name in first.attached},
        np.concatenate([part.place for part in parts]) if has_gaps else None,
        max(slots) if len(slots) == len(parts) else None,
        {
            name: np.concatenate([part.in_padding[name] for part in parts])
            for name in first.in_padding
            if all(name in part.in_padding for part in parts)
        },
    )
