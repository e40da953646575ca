"""Derived features and cuts on a batch as a reader gives it, with the cutflow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepset.batch import EventBatch
from hepset.convert.exact_sums import exact_sum
from hepset.events.derivations import (
    Derivation,
    compile_derivations,
    derived_columns,
    evaluate_derivations,
    names_of,
)
from hepset.events.derive import input_event
from hepset.expressions.functions import Function
from hepset.expressions.language import EVENT, Expression, compile_selection
from hepset.expressions.scope import COLUMNS, ColumnSource, Scope
from hepset.schema.event import EventInfo

Array = NDArray[Any]


@dataclass(frozen=True)
class Tally:
    """Number of events, Σw and Σw², both as exact sums (`hepset.convert.exact_sums`)."""

    events: int = 0
    weights: int = 0
    squares: int = 0

    def __add__(self, other: Tally) -> Tally:
        """Return both parts together."""
        return Tally(
            self.events + other.events, self.weights + other.weights, self.squares + other.squares
        )

    @classmethod
    def of(cls, weights: Array) -> Tally:
        """Count events by their weights, shape ``(event,)``."""
        wide = np.asarray(weights, np.float64)
        return cls(len(wide), exact_sum(wide), exact_sum(wide * wide))


class BatchColumns:
    """A batch as expressions see it (`hepset.expressions.scope.ColumnSource`)."""

    def __init__(self, batch: EventBatch, event: EventInfo) -> None:
        """Index the columns of a batch.

        Args:
            batch: As a reader gives it.
            event: What its files hold; names the columns of globals.
        """
        self._batch = batch
        self._events: dict[str, Array] = {}
        objects: dict[str, str] = {}
        for name, array in batch.arrays.items():
            features = event.globals[name].features if name in event.globals else None
            if features is not None and array.ndim == 2 and array.shape[1] == len(features):
                for index, feature in enumerate(features):
                    self._events[f"{name}.{feature}"] = array[:, index]
            elif array.ndim == 1:
                self._events[name] = array
        for name, stream in batch.streams.items():
            objects |= {key: name for key, array in stream.attached.items() if array.ndim == 1}
        labels = {
            f"target/{name}": target.classes
            for name, target in event.targets.items()
            if target.classes
        }
        if event.processes:
            labels["process"] = tuple(event.process_names)
        known = {*self._events, *objects}
        place = batch.where(0)[0] if len(batch) else ""
        self.scope = Scope(
            streams={name: list(stream.columns) for name, stream in batch.streams.items()},
            events=list(self._events),
            objects=objects,
            labels={name: names for name, names in labels.items() if name in known},
            absent={c: place for c in event.columns if f"{COLUMNS}/{c}" not in known},
        )

    def event(self, name: str) -> Array:
        """Return one value per event."""
        return self._events[name]

    def stream(self, stream: str, feature: str) -> Array:
        """Return one value per object, features and other arrays alike."""
        objects = self._batch.streams[stream]
        found = objects.columns.get(feature)
        return objects.attached[feature] if found is None else found

    def offsets(self, stream: str) -> NDArray[np.int64]:
        """Return where the events of a stream begin and end."""
        return self._batch.streams[stream].offsets


def surviving(
    batch: EventBatch,
    event: EventInfo,
    expressions: Mapping[str, str],
    cuts: Mapping[str, str],
    *,
    tally: bool = True,
) -> tuple[Array, tuple[Tally, ...]]:
    """Return which events pass all cuts.

    Cuts may use derived columns; only what they need of those is computed.

    Args:
        batch: As a reader gives it.
        event: What an event of the data set is, derived features included.
        expressions: New column → expression.
        cuts: Cut → expression; NaN fails a cut.
        tally: Whether to count, which costs a pass per cut.

    Returns:
        A mask, shape ``(event,)``; and what is there before any cut and after each.

    Raises:
        ExpressionError: If an expression cannot be compiled or evaluated.
    """
    alive = np.ones(len(batch), bool)
    weights = batch.arrays.get("weight", np.ones(len(batch)))
    tallies = [Tally.of(weights)] if tally else []
    for row in _passes_before(batch, event, expressions, cuts).values():
        alive &= row
        if tally:
            tallies.append(Tally.of(weights[alive]))
    return alive, tuple(tallies)


def derive(batch: EventBatch, event: EventInfo, expressions: Mapping[str, str]) -> EventBatch:
    """Add derived columns to a batch.

    Args:
        batch: As a reader gives it.
        event: What an event of the data set is, derived features included.
        expressions: New column → expression.

    Returns:
        The batch with new features of streams and globals (in the order that the event declares)
        and new arrays (``extra/…``, plain names).

    Raises:
        ExpressionError: If an expression cannot be compiled or evaluated.
    """
    if not expressions:
        return batch
    files = input_event(event, expressions)
    columns = BatchColumns(batch, files)
    derivations, _ = _compiled_derivations(expressions, columns.scope)
    values = evaluate_derivations(derivations, columns)
    added: dict[str, Array] = {}
    for derivation in derivations:
        found = values[derivation.name]
        if derivation.kind == EVENT:
            added[derivation.name] = np.array(np.broadcast_to(found, (len(batch),)))
        elif derivation.plain:
            batch = _attached(batch, derivation.kind, derivation.name, found)
        else:
            batch = batch.with_columns(derivation.kind, {derivation.feature: found})
    arrays = dict(batch.arrays)
    for name, block in event.globals.items():
        stated = files.globals[name].features if name in files.globals else {}
        matrix = arrays.get(name)
        if list(stated) == list(block.features) or (
            matrix is not None and (matrix.ndim != 2 or matrix.shape[1] != len(stated))
        ):
            continue
        own = {} if matrix is None else {f: matrix[:, i] for i, f in enumerate(stated)}
        own |= {f: added.pop(f"{name}.{f}") for f in block.features if f"{name}.{f}" in added}
        if set(own) == set(block.features):
            arrays[name] = np.stack([own[f] for f in block.features], axis=1).astype(np.float32)
    return replace(batch, arrays={**arrays, **added})


def without_columns(batch: EventBatch, expressions: Mapping[str, str]) -> EventBatch:
    """Leave out what only expressions needed: columns of the files, and plain names.

    Args:
        batch: With derived columns.
        expressions: What was derived.
    """

    def kept(arrays: Mapping[str, Array]) -> dict[str, Array]:
        return {
            name: array
            for name, array in arrays.items()
            if not name.startswith(f"{COLUMNS}/") and ("/" in name or name not in plain)
        }

    plain = {name for name in expressions if "." not in name and "/" not in name}
    streams = {
        name: replace(stream, attached=kept(stream.attached))
        for name, stream in batch.streams.items()
    }
    return replace(batch, streams=streams, arrays=kept(batch.arrays))


def possible(batch: EventBatch, event: EventInfo, expressions: Mapping[str, str]) -> dict[str, str]:
    """Return the derivations without targets, weights and extras that a batch has no columns for.

    Files to predict need not have what only a training needs.
    """
    absent = set(BatchColumns(batch, input_event(event, expressions)).scope.absent)
    left = dict(expressions)
    while True:
        lacking = {
            name for name, text in left.items() if names_of(text) & absent and _is_optional(name)
        }
        if not lacking:
            return left
        absent |= lacking
        left = {name: text for name, text in left.items() if name not in lacking}


def _is_optional(name: str) -> bool:
    group = name.replace("/", ".", 1).partition(".")
    return not group[1] or group[0] in {"extra", "target", "weight"}


def _passes_before(
    batch: EventBatch, event: EventInfo, expressions: Mapping[str, str], cuts: Mapping[str, str]
) -> dict[str, Array]:
    """Return which events pass each cut, computing only the derived columns that cuts need."""
    if not cuts:
        return {}
    columns = BatchColumns(batch, input_event(event, expressions))
    derivations, scope = _compiled_derivations(expressions, columns.scope)
    compiled = _compiled(cuts, scope, "prepare.select")
    needed = {name for expression in compiled.values() for name in expression.names}
    wanted = []
    for derivation in reversed(derivations):
        if derivation.name in needed:
            wanted.append(derivation)
            needed |= set(derivation.expression.names)
    overlay = derived_columns(reversed(wanted), columns)
    return _evaluated(compiled, overlay, len(batch))


def passes(
    batch: EventBatch, event: EventInfo, cuts: Mapping[str, str], where: str = "prepare.select"
) -> dict[str, Array]:
    """Return, cut by cut, which events pass it alone, shape ``(event,)``.

    Args:
        batch: With derived columns.
        event: What an event of the data set is.
        cuts: Name → expression; NaN fails a cut.
        where: Place in the configuration, for error messages.

    Raises:
        ExpressionError: If an expression cannot be compiled or evaluated.
    """
    if not cuts:
        return {}
    columns = BatchColumns(batch, event)
    return _evaluated(_compiled(cuts, columns.scope, where), columns, len(batch))


_Texts = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _FrozenScope:
    """A scope that can be a key, so that what every chunk needs is compiled once."""

    streams: tuple[tuple[str, tuple[str, ...]], ...]
    events: tuple[str, ...]
    objects: _Texts
    labels: tuple[tuple[str, tuple[str, ...]], ...]
    absent: _Texts

    @classmethod
    def of(cls, scope: Scope) -> _FrozenScope:
        return cls(
            tuple((name, tuple(features)) for name, features in scope.streams.items()),
            tuple(scope.events),
            tuple(scope.objects.items()),
            tuple((name, tuple(labels)) for name, labels in scope.labels.items()),
            tuple(scope.absent.items()),
        )

    def scope(self) -> Scope:
        return Scope(
            dict(self.streams),
            self.events,
            dict(self.objects),
            dict(self.labels),
            dict(self.absent),
        )


def _compiled_derivations(
    expressions: Mapping[str, str], scope: Scope
) -> tuple[Sequence[Derivation], Scope]:
    return _derivations_of(tuple(expressions.items()), _FrozenScope.of(scope))


@lru_cache(maxsize=32)
def _derivations_of(expressions: _Texts, scope: _FrozenScope) -> tuple[Sequence[Derivation], Scope]:
    return compile_derivations(dict(expressions), scope.scope(), plugin_functions())


def _compiled(cuts: Mapping[str, str], scope: Scope, where: str) -> Mapping[str, Expression]:
    return _cuts_of(tuple(cuts.items()), _FrozenScope.of(scope), where)


@lru_cache(maxsize=32)
def _cuts_of(cuts: _Texts, scope: _FrozenScope, where: str) -> Mapping[str, Expression]:
    return {
        name: compile_selection(text, scope.scope(), plugin_functions(), where=f"{where}.{name}")
        for name, text in cuts
    }


def _evaluated(
    cuts: Mapping[str, Expression], columns: ColumnSource, events: int
) -> dict[str, Array]:
    return {name: np.broadcast_to(cut.evaluate(columns), (events,)) for name, cut in cuts.items()}


def _attached(batch: EventBatch, stream: str, name: str, values: Array) -> EventBatch:
    """Add values per object that are no feature of their stream."""
    changed = batch.streams[stream].with_attached({name: values})
    return replace(batch, streams={**batch.streams, stream: changed})


@lru_cache(maxsize=1)
def plugin_functions() -> Mapping[str, Function]:
    """Functions for expressions that plugins provide, by name."""
    from hepset.plugins import registry  # noqa: PLC0415  only expressions need the plugins

    plugins = registry()
    return {name: plugins.load("functions", name) for name in plugins.names("functions")}
