"""`Assembly`: the columns of one chunk become streams and arrays.

A column is a number per event, a fixed-size array per event, or a list per event. Lists become a
flat stream, fixed-size arrays a padded one; nothing is padded or cut here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hepset.arrays import Array, Ragged, join
from hepset.batch import PaddedStream
from hepset.errors import ConfigurationError, ReadError, did_you_mean
from hepset.readers.column_map import FILE, ColumnMap, Entry
from hepset.schema.event import EventInfo

Data = Array | Ragged
"""Values of one column: per event, ``(event, k)``, or a list per event."""


def part(data: Data, start: int, stop: int) -> Data:
    """Return a range of events, without copying the values."""
    return data.part(start, stop) if isinstance(data, Ragged) else data[start:stop]


def joined(parts: Sequence[Data]) -> Data:
    """Return the events of several parts of one column."""
    lists = [values for values in parts if isinstance(values, Ragged)]
    if lists:
        return join(lists)
    return np.concatenate([values for values in parts if not isinstance(values, Ragged)])


@dataclass(frozen=True)
class Where:
    """The place of some rows, for messages.

    Attributes:
        path: Path of the file.
        entries: Entry of every row.
    """

    path: str
    entries: Array

    def error(self, key: str, message: str, row: int | None = None) -> ReadError:
        """Build an error that names the file, the key of the column map and the first entry."""
        place = "" if row is None else f" (first: entry {self.entries[row]})"
        return ReadError(f"{self.path}: {key}: {message}{place}")


class Assembly:
    """Turns the columns of one chunk into streams and arrays.

    Every method raises `ReadError` where a column does not have the form that its place needs.
    """

    def __init__(
        self,
        event: EventInfo,
        columns: ColumnMap,
        data: Mapping[str, Data],
        group: str,
        events: int,
        where: Where,
    ) -> None:
        self.event = event
        self.columns = columns
        self.data = data
        self.group = group
        self.events = events
        self.where = where

    def streams(self) -> dict[str, Ragged]:
        """Build every stream: flat from lists, padded from fixed-size arrays."""
        found: dict[str, Ragged] = {}
        for name in self.event.streams:
            values = {e.feature: (e, self._values(e)) for e in self.columns.of("stream", name)}
            attached = {
                f"target/{e.owner}": (e, self._target(e))
                for e in self.columns.of("target")
                if self.event.targets[e.owner].stream == name
            }
            attached |= {
                f"extra/{e.owner}": (e, self._values(e))
                for e in self.columns.of("extra")
                if e.column.stream == name
            }
            attached |= {
                f"columns/{e.owner}": (e, data)
                for e in self.columns.of("column")
                if self.event.columns[e.owner] == name
                and (isinstance(data := self._values(e), Ragged) or data.ndim > 1)
            }
            everything = [*values.values(), *attached.values()]
            if any(isinstance(data, Ragged) for _, data in everything):
                found[name] = self._flat(name, values, attached)
            else:
                found[name] = self._padded(name, values, attached)
        return self._with_loose_lists(found)

    def _with_loose_lists(self, streams: dict[str, Ragged]) -> dict[str, Ragged]:
        """Give lists that were asked for without a stream to the stream that is as long."""
        for entry in self.columns.of("column"):
            if self.event.columns[entry.owner] is not None or entry.owner == FILE:
                continue
            data = self._values(entry)
            if not isinstance(data, Ragged):
                continue
            for name, stream in streams.items():
                if stream.slots is None and np.array_equal(stream.offsets, data.offsets):
                    streams[name] = stream.with_attached({f"columns/{entry.owner}": data.values})
                    break
            else:
                raise self.where.error(
                    f"columns.{entry.owner}",
                    "holds lists that are as long as no stream; say which stream they belong to",
                )
        return streams

    def arrays(self, streams: Mapping[str, Ragged]) -> dict[str, Array]:
        """Build everything that an event has once."""
        found: dict[str, Array] = {}
        for name in self.event.globals:
            parts = [self._number(e, self._values(e)) for e in self.columns.of("global", name)]
            if parts:
                found[name] = np.stack(parts, axis=1)
            for entry in self.columns.of("mask", name):
                found[f"{name}.mask"] = self._number(entry, self._values(entry)).astype(bool)
        for entry in self.columns.of("target"):
            if self.event.targets[entry.owner].stream is None:
                found[f"target/{entry.owner}"] = self._number(entry, self._target(entry))
        for entry in self.columns.of("assignment"):
            found[f"target/{entry.owner}"] = self._assignment(entry)
        for entry in self.columns.of("process"):
            names = self.event.process_names
            found["process"] = _labels(self._number(entry, self._values(entry, names)))
        for entry in self.columns.of("weight"):
            found[entry.owner] = self._number(entry, self._values(entry))
        for entry in self.columns.of("extra"):
            if entry.column.stream is None:
                found[f"extra/{entry.owner}"] = self._plain(entry, self._values(entry))
        for entry in self.columns.of("column"):
            if entry.owner == FILE and entry.column.value is not None:
                found[f"columns/{FILE}"] = np.full(self.events, str(entry.column.value))
                continue
            values = self._values(entry)
            if not isinstance(values, Ragged) and values.ndim == 1:
                found[f"columns/{entry.owner}"] = values
        for name, data in streams.items():
            # A stream of lists knows its lengths; a counter beside it is checked against them.
            for entry in self.columns.of("count", name):
                if data.slots is None:
                    found[f"{name}.counts"] = self._number(entry, self._values(entry))
        return found

    def _flat(
        self,
        name: str,
        values: Mapping[str, tuple[Entry, Data]],
        attached: Mapping[str, tuple[Entry, Data]],
    ) -> Ragged:
        first: tuple[Entry, Ragged] | None = None
        for entry, data in [*values.values(), *attached.values()]:
            if not isinstance(data, Ragged):
                continue
            if first is None:
                first = entry, data
            elif not np.array_equal(first[1].offsets, data.offsets):
                mine, theirs = np.diff(first[1].offsets), np.diff(data.offsets)
                row = int(np.argmax(mine != theirs))
                raise self.where.error(
                    f"streams.{name}",
                    f"{first[0].names[0]!r} has {mine[row]} objects where {entry.names[0]!r} has "
                    f"{theirs[row]}: columns of one stream have the same lengths",
                    row,
                )
        assert first is not None
        offsets = first[1].offsets

        def per_object(entry: Entry, data: Data) -> Array:
            if isinstance(data, Ragged):
                return data.values
            if data.ndim == 1 and not entry.names:
                return np.repeat(data, np.diff(offsets))
            raise self.where.error(
                entry.key, f"{entry.names[0]!r} holds {_form(data)}, the other columns lists"
            )

        return Ragged(
            offsets,
            {feature: per_object(*found) for feature, found in values.items()},
            {tensor: per_object(*found) for tensor, found in attached.items()},
        )

    def _padded(
        self,
        name: str,
        values: Mapping[str, tuple[Entry, Data]],
        attached: Mapping[str, tuple[Entry, Data]],
    ) -> Ragged:
        shapes: dict[tuple[int, ...], str] = {}
        for entry, data in [*values.values(), *attached.values()]:
            if not entry.names:
                continue
            if isinstance(data, Ragged) or data.ndim != 2:
                raise self.where.error(
                    entry.key,
                    f"{entry.names[0]!r} holds {_form(data)}, a stream needs a list or an array "
                    "per event",
                )
            shapes.setdefault(data.shape, entry.names[0])
        if len(shapes) > 1:
            listed = ", ".join(f"{column!r} {shape}" for shape, column in shapes.items())
            raise self.where.error(f"streams.{name}", f"arrays of several sizes: {listed}")
        if not shapes:
            raise self.where.error(f"streams.{name}", "no column says how many objects there are")
        shape = next(iter(shapes))
        mask = self._mask(name, shape)

        def per_slot(entry: Entry, data: Data) -> Array:
            assert not isinstance(data, Ragged)
            return data if entry.names else np.repeat(data[:, None], shape[1], axis=1)

        return PaddedStream(
            {feature: per_slot(*found) for feature, found in values.items()},
            mask,
            {tensor: per_slot(*found) for tensor, found in attached.items()},
        ).flat()

    def _mask(self, name: str, shape: tuple[int, ...]) -> Array:
        for entry in self.columns.of("mask", name):
            data = self._values(entry)
            if isinstance(data, Ragged) or data.shape != shape:
                raise self.where.error(
                    entry.key, f"a mask of shape {shape} is needed, found {_form(data)}"
                )
            return data if data.dtype == bool else data != 0
        for entry in self.columns.of("count", name):
            counts = self._number(entry, self._values(entry))
            wrong = (counts < 0) | (counts > shape[1])
            if wrong.any():
                row = int(np.argmax(wrong))
                raise self.where.error(
                    entry.key, f"a count of {counts[row]} for {shape[1]} slots", row
                )
            mask: Array = np.arange(shape[1]) < counts[:, None]
            return mask
        return np.ones(shape, bool)

    def _target(self, entry: Entry) -> Data:
        target = self.event.targets[entry.owner]
        data = self._values(entry, list(target.classes or ()))
        if target.kind in {"regression", "mask"}:
            return data
        if isinstance(data, Ragged):
            return data.map(_labels)
        return _labels(data)

    def _assignment(self, entry: Entry) -> Array:
        products = next(
            a.products for a in self.event.assignments() if a.tensor == f"target/{entry.owner}"
        )
        names = entry.names
        if len(names) == 1 and len(products) > 1:
            data = self.data[names[0]]
            if isinstance(data, Ragged):
                data = self._regular(entry, data, len(products))
            if data.ndim == 1 or data.shape[1] != len(products):
                raise self.where.error(
                    entry.key,
                    f"{len(products)} products ({', '.join(products)}) need as many columns or "
                    f"one array of that size, found {_form(data)} in {names[0]!r}",
                )
            return _labels(data)
        if len(names) != len(products):
            raise self.where.error(
                entry.key,
                f"{len(products)} products ({', '.join(products)}) need as many columns, found "
                f"{len(names)}: {', '.join(names)}",
            )
        return np.stack([_labels(self._plain(entry, self.data[name])) for name in names], axis=1)

    def _regular(self, entry: Entry, data: Ragged, size: int) -> Array:
        wrong = np.diff(data.offsets) != size
        if wrong.any():
            row = int(np.argmax(wrong))
            found = int(np.diff(data.offsets)[row])
            raise self.where.error(entry.key, f"expected {size} values, found {found}", row)
        return data.values.reshape(self.events, size)

    def _plain(self, entry: Entry, data: Data) -> Array:
        if isinstance(data, Ragged):
            way_out = "say which stream they belong to (stream: jets) or take one (index: 0)"
            raise self.where.error(
                entry.key,
                f"{', '.join(map(repr, entry.names))} holds lists, expected one value per event; "
                + (way_out if entry.kind == "extra" else "take one of them with index: 0"),
            )
        return data

    def _number(self, entry: Entry, data: Data) -> Array:
        plain = self._plain(entry, data)
        if plain.ndim == 2 and plain.shape[1] == 1:
            return plain[:, 0]
        if plain.ndim != 1:
            raise self.where.error(
                entry.key, f"found {_form(plain)}, expected a number; take one with index: 0"
            )
        return plain

    def _values(self, entry: Entry, classes: Sequence[str] = ()) -> Data:
        """Values of one entry, after index, map and scale."""
        column = entry.column
        if column.from_ is None:
            stated = column.value if column.group is None else column.group[self.group]
            assert stated is not None
            number = _code(stated, classes, entry.key)
            return np.full(self.events, int(number) if number == int(number) else number)
        data = self.data[entry.names[0]]
        if column.index is not None:
            data = self._element(entry, data, column.index)
        if column.map is not None:
            data = self._mapped(entry, data, classes)
        if column.scale != 1.0:
            data = _each(data, lambda values: _scaled(values, column.scale))
        if entry.kind not in {"extra", "column"}:
            values = data.values if isinstance(data, Ragged) else data
            if values.dtype.kind not in "biuf":
                raise self.where.error(
                    entry.key,
                    f"{entry.names[0]!r} holds {values.dtype.name}, not numbers; give `map` for "
                    "text",
                )
        return data

    def _element(self, entry: Entry, data: Data, index: int) -> Array:
        if isinstance(data, Ragged):
            short = np.diff(data.offsets) <= index
            if short.any():
                raise self.where.error(
                    entry.key,
                    f"no element {index} of {entry.names[0]!r} in {int(short.sum())} of "
                    f"{self.events} events; select in prepare from a stream instead",
                    int(np.argmax(short)),
                )
            element: Array = data.values[data.offsets[:-1] + index]
            return element
        if data.ndim < 2 or data.shape[1] <= index:
            raise self.where.error(
                entry.key, f"no element {index} of {entry.names[0]!r}, which holds {_form(data)}"
            )
        return data[:, index]

    def _mapped(self, entry: Entry, data: Data, classes: Sequence[str]) -> Data:
        column = entry.column
        assert column.map is not None
        values = data.values if isinstance(data, Ragged) else data
        text = values.dtype.kind in "US"
        mapped = np.zeros(values.shape)
        known = np.zeros(values.shape, bool)
        for key, stated in column.map.items():
            hits = values == (str(key) if text else _numeric(key, entry.key))
            mapped[hits] = _code(stated, classes, entry.key)
            known |= hits
        if not known.all():
            if column.otherwise is None:
                index = int(np.argmax(~known.reshape(len(known), -1).all(axis=1)))
                if isinstance(data, Ragged):
                    index = int(np.searchsorted(data.offsets, index, side="right")) - 1
                raise self.where.error(
                    entry.key,
                    f"map does not list the value {values[~known][0]} of {entry.names[0]!r}; add "
                    "it, or say what it becomes with otherwise: … (−1 = no label)",
                    index,
                )
            mapped[~known] = _code(column.otherwise, classes, entry.key)
        whole = mapped.astype(np.int64)
        result = whole if np.array_equal(whole, mapped) else mapped
        return Ragged.of(data.offsets, result) if isinstance(data, Ragged) else result


def _each(data: Data, change: Callable[[Array], Array]) -> Data:
    if isinstance(data, Ragged):
        return data.map(change)
    return change(data)


def _scaled(values: Array, scale: float) -> Array:
    """Multiply in float32 where that holds the values, else in float64."""
    narrow = values.dtype.itemsize <= (4 if values.dtype.kind == "f" else 2)
    scaled: Array = values * (np.float32(scale) if narrow else np.float64(scale))
    return scaled


def _labels(values: Array) -> Array:
    """Integers as int64, NaN as −1; fractional values stay for the check to refuse."""
    if values.dtype.kind in "bi":
        return values.astype(np.int64)
    if values.dtype.kind != "f":
        return values
    present = ~np.isnan(values)
    filled = np.where(present, values, -1.0)
    if np.isfinite(filled).all() and (filled == np.floor(filled)).all():
        return filled.astype(np.int64)
    return values


def _numeric(value: int | str, key: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ConfigurationError(f"columns: {key}: map lists {value!r} for numbers") from None


def _code(value: float | str, classes: Sequence[str], key: str) -> float:
    """Number of a class or process that is given by name."""
    if not isinstance(value, str):
        return float(value)
    if value in classes:
        return float(classes.index(value))
    known = f"; known: {', '.join(classes)}" if classes else "; no classes are declared"
    raise ConfigurationError(
        f"columns: {key}: no class {value!r}{did_you_mean(value, classes) or known}"
    )


def _form(data: Data) -> str:
    if isinstance(data, Ragged):
        return "lists"
    if data.ndim == 1:
        return "one value per event"
    return f"arrays of shape {data.shape[1:]} per event"
