"""The same events with changed inputs: how much a result depends on a scale or an efficiency.

A variation replaces features of the judged events, ``{jets.pt: "1.02 * jets.pt"}``, by expressions
of the unchanged ones. Features that prepare derived of a changed one are derived again. Objects
neither enter nor leave, targets and selection stay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from hepset.arrays import Array
from hepset.batch import EventBatch
from hepset.errors import ExpressionError, did_you_mean
from hepset.events.derivations import order_derivations
from hepset.events.select import BatchColumns, plugin_functions
from hepset.expressions.language import EVENT, compile_expression
from hepset.expressions.scope import Scope
from hepset.interfaces.head import Head
from hepset.interfaces.judge import Evaluation, Metric
from hepset.judges import judge_head
from hepset.schema.event import EventInfo, GlobalInput, Stream
from hepset.uncertainty import Estimate

__all__ = ["PARTS", "Shift", "metrics_in_parts", "shifts", "vary"]

PARTS: Final = 10
"""Parts of the events whose spread gives the error of a shift."""
_FEWEST_PARTS: Final = 5
"""Parts in which a number has to be defined, for its shift to have an error."""
_WEIGHT: Final = "weight"

Parts = list[dict[str, float]]


@dataclass(frozen=True)
class Shift:
    """What a variation does to one number.

    Attributes:
        nominal: The number without it.
        varied: The number with it; its error is that of the number, not of the shift.
        shift: The difference. Both come from the same events, so that its error, found from the
            spread over `PARTS` parts of them, is usually far below those of the two numbers.
    """

    nominal: Metric
    varied: Metric
    shift: Estimate


def vary(
    batch: EventBatch,
    event: EventInfo,
    expressions: Mapping[str, str],
    *,
    derive: Mapping[str, str] | None = None,
    where: str = "evaluate.variations",
) -> EventBatch:
    """Return events with some features replaced.

    Args:
        batch: The events.
        event: What an event of the data set is, derived features included.
        expressions: ``<stream or global>.<feature>``, or ``weight`` → expression; all see the
            unchanged events.
        derive: ``prepare.derive`` of the data set: what has to follow.
        where: Place in the configuration, for messages.

    Raises:
        ExpressionError: If a name is no input of the event, or an expression cannot be compiled or
            evaluated.
    """
    if not expressions:
        return batch
    if _WEIGHT in expressions and _WEIGHT not in batch.arrays:
        batch = batch.with_arrays({_WEIGHT: np.ones(len(batch))})
    columns = BatchColumns(batch, event)
    functions = plugin_functions()
    found: dict[str, Array] = {}
    for written, text in expressions.items():
        place = f"{where}.{written}"
        kind = _kind(written, columns.scope, event, place)
        expression = compile_expression(text, columns.scope, functions, where=place)
        found[written] = _spread(
            expression.evaluate(columns), expression.kind, kind, columns, place
        )
    for written, values in found.items():
        batch = _replaced(batch, event, written, values)
    return _derived_again(batch, event, set(found), derive or {})


def metrics_in_parts(head: Head, evaluation: Evaluation) -> Parts:
    """Return a head's metrics in every tenth of the events, name → value; bounds are left out."""
    rows = np.arange(len(evaluation)) if evaluation.groups is None else evaluation.groups
    return [
        {
            metric.name: metric.value
            for metric in judge_head(head, evaluation.take(rows % PARTS == part)).metrics()
            if not metric.bound
        }
        for part in range(min(PARTS, len(rows)))
    ]


def shifts(nominal: list[Metric], varied: list[Metric], before: Parts, after: Parts) -> list[Shift]:
    """Compare metrics with and without a variation.

    Args:
        nominal: Without.
        varied: With; those of names that `nominal` lacks are left out.
        before: As `metrics_in_parts` gives them, without.
        after: The same with the variation.
    """
    known = {metric.name: metric for metric in nominal}
    found = []
    for metric in varied:
        if metric.name not in known:
            continue
        base = known[metric.name]
        bounded = metric.bound or base.bound
        differences = np.array(
            [
                b.get(metric.name, math.nan) - a.get(metric.name, math.nan)
                for a, b in zip(before, after, strict=True)
            ]
        )
        differences = differences[np.isfinite(differences)]
        error = math.nan
        if len(differences) >= _FEWEST_PARTS:
            error = float(differences.std(ddof=1) / math.sqrt(len(differences)))
        shift = math.nan if bounded else metric.value - base.value
        found.append(Shift(base, metric, Estimate(shift, math.nan if bounded else error)))
    return found


def _kind(written: str, scope: Scope, event: EventInfo, where: str) -> str:
    """Return the stream that a name belongs to, or `EVENT`."""
    block = written.partition(".")[0]
    kind = scope.kind(written)
    if kind is not None and (
        written == _WEIGHT or block in event.streams or block in event.globals
    ):
        return kind
    blocks: dict[str, Stream | GlobalInput] = {**event.streams, **event.globals}
    inputs = [f"{name}.{feature}" for name, part in blocks.items() for feature in part.features]
    raise ExpressionError(
        f"{where}: {written!r} is no input that can be varied{did_you_mean(written, inputs)}; "
        f"there are {', '.join(inputs)}, and weight"
    )


def _spread(values: Array, own: str, wanted: str, columns: BatchColumns, where: str) -> Array:
    """Repeat values of the event for the objects of a stream."""
    if own == wanted:
        return values
    if wanted == EVENT:
        raise ExpressionError(
            f"{where}: this has one value per event, its expression one per object of {own!r}"
        )
    return np.repeat(values, np.diff(columns.offsets(wanted)))


def _replaced(batch: EventBatch, event: EventInfo, name: str, values: Array) -> EventBatch:
    """Put values in the place of a column, with its dtype."""
    block, _, feature = name.partition(".")
    if block in batch.streams and feature:
        old = batch.flat(block).columns[feature]
        return batch.with_columns(block, {feature: values.astype(old.dtype)})
    if block in event.globals and feature:
        matrix = np.array(batch.arrays[block])
        matrix[:, list(event.globals[block].features).index(feature)] = values
        return batch.with_arrays({block: matrix})
    stored = batch.arrays[name]
    return batch.with_arrays({name: np.broadcast_to(values, stored.shape).astype(stored.dtype)})


def _derived_again(
    batch: EventBatch, event: EventInfo, changed: set[str], derive: Mapping[str, str]
) -> EventBatch:
    """Derive what depends on changed columns, unless it was changed itself."""
    if not derive:
        return batch
    scope = BatchColumns(batch, event).scope
    compiled = {}
    for written, text in derive.items():
        name = _stored_name(written, scope)
        if name is not None:
            place = f"prepare.derive.{written}"
            expression = compile_expression(text, scope, plugin_functions(), where=place)
            compiled[name] = expression
    for name in order_derivations({name: e.names for name, e in compiled.items()}):
        expression = compiled[name]
        touched = any(needed in changed for needed in expression.names)
        if name in changed or not touched:
            continue
        columns = BatchColumns(batch, event)
        kind = scope.kind(name)
        assert kind is not None
        values = _spread(expression.evaluate(columns), expression.kind, kind, columns, name)
        batch = _replaced(batch, event, name, values)
        changed = changed | {name}
    return batch


def _stored_name(written: str, scope: Scope) -> str | None:
    """Return how a derived column is called in a data set; None where it is not kept."""
    names = (written, written.replace(".", "/", 1), written.replace("/", ".", 1))
    return next((name for name in names if scope.kind(name) is not None), None)
