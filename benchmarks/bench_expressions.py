"""Benchmark 18: reductions of expressions against awkward, which gives the same numbers.

Awkward is asked for what the expression promises: sums in float64, NaN where an event has no
object, a plain array at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import awkward as ak
import numpy as np

from benchmarks.harness import Floor, Options, Report, cost_table, interleave
from hepset.expressions.language import Scope, compile_expression

OBJECTS = 8
Array = np.ndarray[Any, Any]


class Columns:
    """One column of jets, as expressions see it."""

    def __init__(self, counts: Array, values: Array) -> None:
        self.values = values
        self._offsets = np.concatenate([[0], np.cumsum(counts)])

    def event(self, name: str) -> Array:
        raise KeyError(name)

    def stream(self, stream: str, feature: str) -> Array:  # noqa: ARG002
        return self.values

    def offsets(self, stream: str) -> Array:  # noqa: ARG002
        return self._offsets

    def awkward(self) -> ak.Array:
        index = ak.index.Index64(self._offsets)
        content = ak.contents.NumpyArray(self.values)
        return ak.Array(ak.contents.ListOffsetArray(index, content))


def filled(values: ak.Array) -> Array:
    return np.asarray(ak.to_numpy(ak.fill_none(values, np.nan)))


def leading(jets: ak.Array, number: int) -> Array:
    ordered = ak.sort(jets, axis=1, ascending=False)
    return filled(ak.pad_none(ordered, number, axis=1)[:, number - 1])


AWKWARD: dict[str, Callable[[ak.Array], Array]] = {
    "sum(jets.pt)": lambda jets: np.asarray(ak.sum(ak.values_astype(jets, np.float64), axis=1)),
    "mean(jets.pt)": lambda jets: np.asarray(ak.mean(ak.values_astype(jets, np.float64), axis=1)),
    "max(jets.pt)": lambda jets: filled(ak.max(jets, axis=1)),
    "min(jets.pt)": lambda jets: filled(ak.min(jets, axis=1)),
    "count(jets.pt > 30)": lambda jets: np.asarray(ak.sum(jets > 30, axis=1)),
    "any(jets.pt > 30)": lambda jets: np.asarray(ak.any(jets > 30, axis=1)),
    "leading(jets.pt, 1)": lambda jets: leading(jets, 1),
    "leading(jets.pt, 2)": lambda jets: leading(jets, 2),
    "leading(jets.pt, 4)": lambda jets: leading(jets, 4),
}


def run(options: Options) -> Iterator[Report]:
    rng = np.random.default_rng(1)
    events = options.events(200_000)
    counts = rng.poisson(OBJECTS, events)
    columns = Columns(counts, rng.exponential(50, counts.sum()).astype(np.float32))
    jets = columns.awkward()
    report = Report(18, "reductions of expressions against awkward")
    for text, with_awkward in AWKWARD.items():
        expression = compile_expression(text, Scope(streams={"jets": ["pt"]}))
        np.testing.assert_allclose(expression.evaluate(columns), with_awkward(jets), rtol=1e-12)
        costs = interleave(
            {
                "hepset": lambda e=expression: e.evaluate(columns),  # type: ignore[misc]
                "awkward": lambda f=with_awkward: f(jets),  # type: ignore[misc]
            },
            3 * options.repeats,
            warm_up=True,
        )
        each = {name: cost.per(events) for name, cost in costs.items()}
        report.tables.append(cost_table(f"{text}, {events} events", each, "awkward"))
        ratio = costs["hepset"].over(costs["awkward"]).cpu
        report.floors.append(Floor(f"{text}: hepset / awkward, CPU", ratio, 1.0, at_least=False))
    yield report
