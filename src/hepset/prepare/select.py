"""Derived features and cuts on a batch as a reader gives it, with the cutflow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepset.batch import EventBatch, FlatStream
from hepset.prepare.derivations import compile_derivations, evaluate_derivations
from hepset.prepare.derive import input_event
from hepset.prepare.exact import exact_sum
from hepset.prepare.expressions import EVENT, compile_selection
from hepset.prepare.functions import Function
from hepset.prepare.scope import Scope
from hepset.schema.event import EventInfo

Array = NDArray[Any]


@dataclass(frozen=True)
class Tally:
    """Number of events, Σw and Σw², both as exact sums (`hepset.prepare.exact`)."""

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
    """A batch as expressions see it (`hepset.prepare.scope.ColumnSource`)."""

    def __init__(self, batch: EventBatch, event: EventInfo) -> None:
        """Index the columns of a batch.

        Args:
            batch: As a reader gives it.
            event: What its files hold; names the columns of globals.
        """
        self._batch = batch
        self._flat: dict[str, FlatStream] = {}
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
            own = 1 if isinstance(stream, FlatStream) else 2
            objects |= {key: name for key, array in stream.attached.items() if array.ndim == own}
        labels = {
            f"target/{name}": target.classes
            for name, target in event.targets.items()
            if target.classes
        }
        if event.processes:
            labels["process"] = tuple(event.process_names)
        known = {*self._events, *objects}
        self.scope = Scope(
            streams={name: list(stream.columns) for name, stream in batch.streams.items()},
            events=list(self._events),
            objects=objects,
            labels={name: names for name, names in labels.items() if name in known},
        )

    def event(self, name: str) -> Array:
        """Return one value per event."""
        return self._events[name]

    def stream(self, stream: str, feature: str) -> Array:
        """Return one value per object, features and other arrays alike."""
        flat = self._of(stream)
        found = flat.columns.get(feature)
        return flat.attached[feature] if found is None else found

    def offsets(self, stream: str) -> NDArray[np.int64]:
        """Return where the events of a stream begin and end."""
        return self._of(stream).offsets

    def _of(self, stream: str) -> FlatStream:
        if stream not in self._flat:
            self._flat[stream] = self._batch.flat(stream)
        return self._flat[stream]


def derive(batch: EventBatch, event: EventInfo, expressions: Mapping[str, str]) -> EventBatch:
    """Add derived columns to a batch.

    Args:
        batch: As a reader gives it.
        event: What an event of the data set is, derived features included.
        expressions: New column → expression.

    Returns:
        The batch with new features of streams and globals (in the order that the event declares)
        and new arrays (``extra/…``).

    Raises:
        ExpressionError: If an expression cannot be compiled or evaluated.
    """
    if not expressions:
        return batch
    files = input_event(event, expressions)
    columns = BatchColumns(batch, files)
    derivations, _ = compile_derivations(expressions, columns.scope, plugin_functions())
    values = evaluate_derivations(derivations, columns)
    added: dict[str, Array] = {}
    for derivation in derivations:
        found = values[derivation.name]
        if derivation.kind != EVENT:
            batch = batch.with_columns(derivation.kind, {derivation.feature: found})
        else:
            added[derivation.name] = np.array(np.broadcast_to(found, (len(batch),)))
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


def select(
    batch: EventBatch, event: EventInfo, cuts: Mapping[str, str]
) -> tuple[EventBatch, list[Tally]]:
    """Apply cuts one after the other.

    Args:
        batch: With derived columns.
        event: What an event of the data set is.
        cuts: Name → expression; NaN fails a cut.

    Returns:
        The events that pass all cuts, and what is there before any cut and after each.

    Raises:
        ExpressionError: If an expression cannot be compiled or evaluated.
    """
    weights = batch.arrays.get("weight", np.ones(len(batch)))
    tallies = [Tally.of(weights)]
    if not cuts:
        return batch, tallies
    passed = passes(batch, event, cuts)
    alive = np.ones(len(batch), bool)
    for row in passed.values():
        alive &= row
        tallies.append(Tally.of(weights[alive]))
    return (batch if alive.all() else batch.take(alive)), tallies


def passes(batch: EventBatch, event: EventInfo, cuts: Mapping[str, str]) -> dict[str, Array]:
    """Return, cut by cut, which events pass it alone, shape ``(event,)``.

    Raises:
        ExpressionError: If an expression cannot be compiled or evaluated.
    """
    columns = BatchColumns(batch, event)
    functions = plugin_functions() if cuts else {}
    found: dict[str, Array] = {}
    for name, text in cuts.items():
        where = f"prepare.select.{name}"
        expression = compile_selection(text, columns.scope, functions, where=where)
        found[name] = np.broadcast_to(expression.evaluate(columns), (len(batch),))
    return found


@lru_cache(maxsize=1)
def plugin_functions() -> Mapping[str, Function]:
    """Functions for expressions that plugins provide, by name."""
    from hepset.plugins import registry  # noqa: PLC0415  only expressions need the plugins

    plugins = registry()
    return {name: plugins.load("functions", name) for name in plugins.names("functions")}
