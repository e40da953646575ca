"""The column map: which column of a file becomes which tensor, stated or found by its name.

Keys are places in the event: ``streams.jets.pt``, ``globals.met.pt``, ``targets.signal``,
``targets.assignment/t1``, ``counts.jets``, ``masks.jets``, ``weight``, ``process``, ``extra.run``.
What is not mapped is looked up by name: ``jets.pt`` (a list of structs), ``jets_pt``, ``Jet_pt``,
``jet_pt``, or plain ``pt`` where only one input has it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from hepset.errors import ConfigurationError, ReadError, closest, did_you_mean
from hepset.interfaces.reader import Purpose
from hepset.schema.base import Model
from hepset.schema.event import EventInfo

Kind = Literal[
    "stream",
    "global",
    "target",
    "assignment",
    "mask",
    "count",
    "weight",
    "process",
    "extra",
    "column",
]

_NOT_INPUTS = frozenset({"target", "assignment", "weight", "process", "extra"})
"""Kinds that a prediction does without."""

FILE = "file"
"""Column that every file has: its own path, unless it holds another one of that name."""

_MISSPELT = 0.82
"""Names at least this near are taken for one name and its misspelling."""


class Column(Model):
    """Where the values of a feature, target or weight come from: one of the first three."""

    from_: str | list[str] | None = Field(default=None, alias="from")
    """Column (branch, field) of the file; for an assignment one per product, or one array."""
    value: float | str | None = None
    """The same for every event; a class or process may be given by name."""
    group: dict[str, float | str] | None = None
    """Group of the file → value, where `files` is grouped; classes may be given by name."""
    index: int | None = Field(default=None, ge=0)
    """Take this element of an array or list per event."""
    scale: float = 1.0
    """Multiplies the values: 0.001 for a file in MeV and an event in GeV."""
    map: dict[int | str, float | str] | None = None
    """Value in the file → value in the event (a PDG number → a class, by name or number)."""
    otherwise: float | str | None = None
    """What a value becomes that `map` does not list; refused where null."""
    stream: str | None = None
    """For ``extra``: the stream whose objects the values belong to."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe the short forms too: a column, a column per product, a constant."""
        full = super().__get_pydantic_json_schema__(core_schema, handler)
        short = ({"type": "string"}, {"type": "array", "items": {"type": "string"}})
        return {"anyOf": [*short, {"type": "number"}, full]}

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: object) -> object:
        if isinstance(value, str | list):
            return {"from": value}
        if isinstance(value, int | float) and not isinstance(value, bool):
            return {"value": value}
        return value

    @model_validator(mode="after")
    def _one_origin(self) -> Column:
        stated = [self.from_ is not None, self.value is not None, self.group is not None]
        if sum(stated) != 1:
            raise ValueError("give exactly one of 'from', 'value' and 'group'")
        if self.from_ is None and (self.index is not None or self.map or self.scale != 1.0):
            raise ValueError("'index', 'map' and 'scale' change what is read: they need 'from'")
        if self.map is not None and self.scale != 1.0:
            raise ValueError("give either 'map' or 'scale'")
        if self.otherwise is not None and self.map is None:
            raise ValueError("'otherwise' belongs to 'map'")
        return self


@dataclass(frozen=True)
class Entry:
    """One line of the resolved map.

    Attributes:
        kind: What it fills.
        owner: Stream, global or name of the target, extra or weight; empty for ``process``.
        feature: Feature of a stream or global, otherwise empty.
        column: Where the values come from; `from_` names columns that the file has.
    """

    kind: Kind
    owner: str
    feature: str
    column: Column

    @property
    def names(self) -> list[str]:
        """Columns of the file that are read."""
        if self.column.from_ is None:
            return []
        return [self.column.from_] if isinstance(self.column.from_, str) else self.column.from_

    @property
    def key(self) -> str:
        """Key in the column map."""
        return _key(self.kind, self.owner, self.feature)


@dataclass(frozen=True)
class ColumnMap:
    """What is read from one file.

    Attributes:
        entries: Line by line, in the order of the event.
    """

    entries: list[Entry] = field(default_factory=list)

    def of(self, kind: Kind, owner: str | None = None) -> Iterator[Entry]:
        """The lines of one kind, of one owner if given."""
        for entry in self.entries:
            if entry.kind == kind and owner in {None, entry.owner}:
                yield entry

    def names(self) -> list[str]:
        """All columns to be read, each once."""
        return list(dict.fromkeys(name for entry in self.entries for name in entry.names))

    def summary(self) -> dict[str, str]:
        """Key → columns or constants, for the record."""
        found = {}
        for entry in self.entries:
            column = entry.column
            origin = ", ".join(entry.names) or (
                f"by group {column.group}" if column.group else f"value {column.value}"
            )
            found[entry.key] = origin + (f" × {column.scale:g}" if column.scale != 1.0 else "")
        return found


def check_keys(
    columns: dict[str, Column | None], event: EventInfo, groups: Iterable[str]
) -> dict[tuple[Kind, str, str], Column | None]:
    """Parse the keys of a column map and hold them against the event.

    Raises:
        ConfigurationError: Naming the key that fits nothing, or a group without a value.
    """
    parsed: dict[tuple[Kind, str, str], Column | None] = {}
    known_groups = [group for group in groups if group]
    for key, column in columns.items():
        place = _parse(key, event)
        kind = place[0]
        if column is not None and isinstance(column.from_, list) and kind != "assignment":
            raise ConfigurationError(
                f"columns: {key}: one column is enough here, found {column.from_}"
            )
        if column is not None and column.group is not None:
            if not known_groups:
                raise ConfigurationError(
                    f"columns: {key}: 'group' needs grouped files; write files: "
                    "{<group>: [<pattern>], …}"
                )
            lacking = [group for group in known_groups if group not in column.group]
            if lacking:
                raise ConfigurationError(
                    f"columns: {key}: no value for the group{'s' if lacking[1:] else ''} "
                    f"{', '.join(map(repr, lacking))} of files"
                    + did_you_mean(lacking[0], column.group)
                )
        if column is not None and column.stream is not None:
            if kind != "extra":
                raise ConfigurationError(f"columns: {key}: 'stream' belongs to 'extra.…' only")
            _known(key, "stream", column.stream, event.streams)
        parsed[place] = column
    return parsed


def resolve(
    stated: dict[tuple[Kind, str, str], Column | None],
    event: EventInfo,
    names: list[str],
    where: str,
    purpose: Purpose = "train",
) -> ColumnMap:
    """Complete a column map with what a file's own names tell.

    Args:
        stated: What the user has mapped, see `check_keys`; None = not in the files.
        event: What an event is.
        names: Columns of the file.
        where: The file in messages.
        purpose: For a prediction, targets, weights, the process and extras are read where the file
            has them, and nothing is said where it has not.

    Raises:
        ReadError: Naming an input that has no column or several, with the nearest names; or a
            target that has none while an unused column is called nearly the same.
    """
    finder = _Finder(names, event, where)
    entries: list[Entry] = []
    absent: list[tuple[Kind, str]] = []
    left = dict(stated)

    def add(kind: Kind, owner: str, feature: str, found: Column | None) -> None:
        place = (kind, owner, feature)
        if place not in left and found is None:
            absent.append((kind, owner))
        column = left.pop(place) if place in left else found
        if column is not None:
            entry = Entry(kind, owner, feature, column)
            if purpose == "predict" and kind in _NOT_INPUTS and finder.lacks(entry):
                return
            finder.require(entry)
            entries.append(entry)

    def guess(kind: Literal["stream", "global"], owner: str, feature: str) -> Column | None:
        return None if (kind, owner, feature) in left else finder.input(kind, owner, feature)

    for stream, block in event.streams.items():
        for feature in block.features:
            add("stream", stream, feature, guess("stream", stream, feature))
    for name, once in event.globals.items():
        for feature in once.features:
            add("global", name, feature, guess("global", name, feature))
    for name in event.targets:
        add("target", name, "", finder.optional(*_target_names(name)))
    for assignment in event.assignments():
        name = assignment.tensor.removeprefix("target/")
        found = None
        if ("assignment", name, "") not in left:
            found = finder.assignment(name, list(assignment.products))
        add("assignment", name, "", found)
    if len(event.processes) > 1:
        add("process", "", "", finder.optional("process"))
    add("weight", "weight", "", finder.optional("weight", "genWeight"))
    for kind_, owner, feature in list(left):
        add(kind_, owner, feature, None)
    used = {name for entry in entries for name in entry.names}
    for name in event.columns:
        # What is not there is missed where an expression names it, as targets may not need it.
        if name in names:
            entries.append(Entry("column", name, "", Column.model_validate(name)))
        elif name == FILE and event.columns[name] is None:
            entries.append(Entry("column", name, "", Column(value=where)))
    for kind_, owner in absent if purpose == "train" else ():
        finder.refuse_misspelt(kind_, owner, used)
    return ColumnMap(entries)


def _parse(key: str, event: EventInfo) -> tuple[Kind, str, str]:
    head, _, rest = key.partition(".")
    if key == "process":
        return "process", "", ""
    if key == "weight" or key.startswith("weight/"):
        return "weight", key, ""
    if head in {"streams", "globals"}:
        owner, _, feature = rest.partition(".")
        _known(key, head.removesuffix("s"), owner, getattr(event, head))
        if not feature:
            raise ConfigurationError(f"columns: {key}: which feature? write {key}.<feature>")
        return ("stream" if head == "streams" else "global"), owner, feature
    if head in {"masks", "counts"}:
        inputs = {**event.streams, **event.globals} if head == "masks" else event.streams
        _known(key, "stream", rest, inputs)
        return ("mask" if head == "masks" else "count"), rest, ""
    if head == "targets":
        assignments = {a.tensor.removeprefix("target/") for a in event.assignments()}
        _known(key, "target", rest, {*event.targets, *assignments})
        return ("assignment" if rest in assignments else "target"), rest, ""
    if head == "extra" and rest:
        return "extra", rest, ""
    known = ("streams", "globals", "targets", "masks", "counts", "extra", "weight", "process")
    raise ConfigurationError(
        f"columns: {key!r} is no place in an event{did_you_mean(head, known)}; "
        f"keys begin with {', '.join(known)}"
    )


def _known(key: str, what: str, name: str, names: Iterable[str]) -> None:
    known = list(names)
    if name not in known:
        raise ConfigurationError(
            f"columns: {key}: the event has no {what} {name!r}{did_you_mean(name, known)}"
        )


def _key(kind: Kind, owner: str, feature: str) -> str:
    if kind in {"process", "weight"}:
        return owner or kind
    if kind == "extra":
        return f"extra.{owner}"
    section = "targets" if kind == "assignment" else f"{kind}s"
    return f"{section}.{owner}" + (f".{feature}" if feature else "")


def _target_names(name: str) -> list[str]:
    return [f"target/{name}", f"targets.{name}", f"target_{name}", name]


def _fold(name: str) -> str:
    return re.sub(r"[./]+", "_", name).casefold()


def _likeness(name: str, other: str) -> float:
    """How near two names are, from 0 to 1; names with other numbers are other things."""
    first, second = _fold(name), _fold(other)
    if re.findall(r"\d+", first) != re.findall(r"\d+", second):
        return 0.0
    return difflib.SequenceMatcher(None, first, second).ratio()


def _singular(name: str) -> str:
    return name[:-1] if name.endswith("s") and not name.endswith("ss") else name


class _Finder:
    """Looks names up among the columns of one file."""

    def __init__(self, names: list[str], event: EventInfo, where: str) -> None:
        self.names = names
        self.where = where
        self.present = set(names)
        self.folded: dict[str, list[str]] = {}
        for name in names:
            self.folded.setdefault(_fold(name), []).append(name)
        features = [feature for stream in event.streams.values() for feature in stream.features]
        features += [feature for once in event.globals.values() for feature in once.features]
        self.unique = {feature for feature in features if features.count(feature) == 1}

    def lacks(self, entry: Entry) -> bool:
        """Whether an entry is read from columns none of which is there."""
        return bool(entry.names) and self.present.isdisjoint(entry.names)

    def require(self, entry: Entry) -> None:
        for name in entry.names:
            if name not in self.present:
                raise self._missing(entry.key, name)

    def input(self, kind: Literal["stream", "global"], owner: str, feature: str) -> Column:
        candidates = [f"{owner}.{feature}", f"{owner}/{feature}", f"{owner}_{feature}"]
        candidates.append(f"{_singular(owner)}_{feature}")
        if feature in self.unique:
            candidates.append(feature)
        found = self._first(candidates, _key(kind, owner, feature))
        if found is None:
            raise self._missing(_key(kind, owner, feature), f"{owner}_{feature}", guessed=True)
        return Column.model_validate({"from": found})

    def optional(self, *candidates: str) -> Column | None:
        found = self._first(candidates, candidates[0])
        return None if found is None else Column.model_validate({"from": found})

    def assignment(self, name: str, products: list[str]) -> Column | None:
        path = name.removeprefix("assignment/")
        whole = self._first([f"target/{name}", name], f"targets.{name}")
        if whole is not None:
            return Column.model_validate({"from": whole})
        each = [
            self._first([f"target/{name}/{p}", f"{name}/{p}", f"{path}/{p}"], f"targets.{name}")
            for p in products
        ]
        if not any(each):
            return None
        for product, found in zip(products, each, strict=True):
            if found is None:
                raise self._missing(f"targets.{name}", f"{path}_{product}", guessed=True)
        return Column.model_validate({"from": each})

    def refuse_misspelt(self, kind: Kind, owner: str, used: set[str]) -> None:
        """Refuse a file that lacks something optional, but has a column of nearly that name."""
        name = owner or kind
        near = max(
            ((_likeness(name, other), other) for other in self.names if other not in used),
            default=(0.0, ""),
        )
        if near[0] >= _MISSPELT:
            key = _key(kind, owner, "")
            raise ReadError(
                f"{self.where}: {key}: no column {name!r}, but {near[1]!r}, which nothing else "
                f"reads; map it with columns: {{{key}: {near[1]}}}, or {{{key}: null}} if it is "
                "something else"
            )

    def _first(self, candidates: Iterable[str], key: str) -> str | None:
        """The first candidate that the file has, literally and then without regard to case."""
        candidates = list(candidates)
        for candidate in candidates:
            if candidate in self.present:
                return candidate
        for candidate in candidates:
            matches = self.folded.get(_fold(candidate), [])
            if len(matches) > 1:
                raise ReadError(
                    f"{self.where}: {key} could be {' or '.join(map(repr, matches))}; "
                    f"say which: columns: {{{key}: {matches[0]}}}"
                )
            if matches:
                return matches[0]
        return None

    def _missing(self, key: str, name: str, *, guessed: bool = False) -> ReadError:
        near = closest(name, self.names) or self.names[:5]
        nearest = ", ".join(map(repr, near)) or "it has none"
        way_out = (
            f"; map it with columns: {{{key}: <name>}}, or {{{key}: null}} if the files do not "
            "hold it and prepare.derive makes it"
            if guessed
            else ""
        )
        return ReadError(f"{self.where}: {key}: no column {name!r}; closest: {nearest}{way_out}")
