"""The columns that expressions may name, and where their values come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hepset.errors import ExpressionError

__all__ = ["COLUMNS", "EVENT", "ColumnSource", "Scope"]

EVENT: Final = "event"
"""The kind of what has one value per event; other kinds are names of streams."""

COLUMNS: Final = "columns"
"""Group of the columns of the files under their own names, which need no group in expressions."""

Array: TypeAlias = NDArray[Any]


class ColumnSource(Protocol):
    """What an expression reads its columns from."""

    def event(self, name: str) -> Array:
        """Return one value per event, shape ``(event,)``."""
        ...

    def stream(self, stream: str, feature: str) -> Array:
        """Return a feature of all objects, event after event, shape ``(object,)``."""
        ...

    def offsets(self, stream: str) -> NDArray[np.int64]:
        """Return where each event's objects begin and end, from 0, shape ``(event + 1,)``."""
        ...


@dataclass(frozen=True)
class Scope:
    """The columns that an expression may name.

    Attributes:
        streams: Features of every stream, in order.
        events: Values per event, by the names that `ColumnSource.event` takes: ``met.pt``,
            ``weight``, ``target/signal``, ``extra/run``. In an expression ``/`` may be written
            as ``.``.
        objects: Further values per object, name to stream, such as ``{"extra/origin": "jets"}``;
            read with ``ColumnSource.stream("jets", "extra/origin")``.
        labels: What the integers of an event column stand for, so that ``process == 'ttbar'``
            can be written: position in the sequence is the integer.
        absent: Columns of the files that were asked for and are not there, with the file.
    """

    streams: Mapping[str, Sequence[str]] = field(default_factory=dict)
    events: Sequence[str] = ()
    objects: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    absent: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a stream whose name is that of the event axis."""
        if EVENT in self.streams:
            message = f"a stream cannot be called {EVENT!r} in expressions; rename it"
            raise ExpressionError(message)

    def kind(self, name: str) -> str | None:
        """Return `EVENT`, the stream, or None where there is no column of this name."""
        stream, _, feature = name.partition(".")
        if feature in self.streams.get(stream, ()):
            return stream
        if name in self.objects:
            return self.objects[name]
        return EVENT if name in self.events else None

    def available(self) -> list[str]:
        """Return every name, streams first, as an expression would write it."""
        features = [f"{s}.{f}" for s, names in self.streams.items() for f in names]
        return [*features, *self.objects, *self.events]
