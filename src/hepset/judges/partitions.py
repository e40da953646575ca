"""`PartitionsJudge`: objects that are put into groups, such as tracks into vertices."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hepset.interfaces.judge import Judge, Metric
from hepset.judges.labelled import no_mean
from hepset.uncertainty import efficiency, weighted_mean

__all__ = ["PartitionsJudge"]

Array = NDArray[Any]


_NAMES: Final = (
    "adjusted Rand index",
    "pair efficiency",
    "pair purity",
    "events without a mistake",
)


class _Pairs(NamedTuple):
    """Pairs of objects of each event, shape ``(event,)`` each.

    Attributes:
        together: In one group in truth and in the prediction.
        parted: In one group in truth only.
        joined: In one group in the prediction only.
        apart: In one group in neither.
    """

    together: Array
    parted: Array
    joined: Array
    apart: Array


class PartitionsJudge(Judge):
    """Pair efficiency and purity, adjusted Rand index, share of events without a mistake.

    Two partitions are equal if they group alike, whatever the groups are called. A negative label
    stands for no group: such an object is alone. Objects whose true label is negative are left out,
    and so are events with fewer than two others.

    Fields: ``label`` (event, object), an integer per object.
    """

    fields: ClassVar[tuple[str, ...]] = ("label",)

    def metrics(self) -> list[Metric]:
        """Compare the predicted groups with the true ones."""
        return self._judge(self._pairs(lambda label: label), "")

    def baselines(self) -> list[Metric]:
        """Give what all objects in one group reach, and every object alone."""
        trivial: dict[str, Callable[[Array], Array]] = {
            "all in one group (trivial)": np.zeros_like,
            "each alone (trivial)": lambda label: np.full_like(label, -1),
        }
        return [m for of, made in trivial.items() for m in self._judge(self._pairs(made), of)]

    @cached_property
    def _truth(self) -> Array:
        missing = np.full(self.field("label").shape, -1)
        return np.asarray(self.evaluation.targets.get(self.prediction.tensor, missing))

    def _pairs(self, made: Callable[[Array], Array]) -> _Pairs:
        size, found = 2000, []
        # Once also where there is no event, for empty counts.
        for start in range(0, max(len(self._truth), 1), size):
            truth = self._truth[start : start + size]
            label = made(np.asarray(self.field("label")[start : start + size]))
            known = (truth[:, :, None] >= 0) & (truth[:, None, :] >= 0)
            known &= np.tri(truth.shape[1], k=-1, dtype=bool)
            same = truth[:, :, None] == truth[:, None, :]
            grouped = (label[:, :, None] == label[:, None, :]) & (label[:, :, None] >= 0)
            parts = (same & grouped, same & ~grouped, ~same & grouped, ~same & ~grouped)
            found.append([(known & part).sum((1, 2)) for part in parts])
        return _Pairs(*(np.concatenate(part).astype(float) for part in zip(*found, strict=True)))

    def _judge(self, pairs: _Pairs, of: str) -> list[Metric]:
        total = sum(pairs)
        there = np.asarray(total) > 0
        if not there.any():
            return []
        together, parted, joined, apart = (part[there] for part in pairs)
        weight = self.evaluation.weight[there] if self.evaluation.weighted else None
        if note := no_mean(weight):
            return [Metric(name, math.nan, math.nan, of=of, note=note) for name in _NAMES]
        groups = self.evaluation.groups
        groups = None if groups is None else groups[there]
        # Hubert and Arabie, J. Classification 2 (1985) 193, written by pairs; two partitions of the
        # same trivial kind agree.
        above = 2 * (together * apart - parted * joined)
        below = (together + parted) * (parted + apart) + (together + joined) * (joined + apart)
        rand = np.divide(above, below, out=np.ones_like(above), where=below > 0)
        right = (parted == 0) & (joined == 0)
        return [
            Metric(name, *found, of=of)
            for name, found in zip(
                _NAMES,
                (
                    weighted_mean(rand, weight, groups),
                    _ratio(together, together + parted, weight, groups),
                    _ratio(together, together + joined, weight, groups),
                    efficiency(right, weight, groups),
                ),
                strict=True,
            )
        ]


def _ratio(
    passed: Array, total: Array, weight: Array | None, groups: Array | None
) -> tuple[float, float]:
    """Ratio of sums over events, with the error of independent events."""
    some = total > 0
    weights = total[some] if weight is None else total[some] * weight[some]
    each = None if groups is None else groups[some]
    value, error = weighted_mean(passed[some] / total[some], weights, each)
    return value, error
