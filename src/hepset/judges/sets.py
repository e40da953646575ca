"""`SetsJudge`: several sets of objects per event, such as the products of one decay each."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Any, ClassVar, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hepset.interfaces.judge import Judge, Metric
from hepset.judges.labelled import no_mean
from hepset.uncertainty import weighted_mean

__all__ = ["SetsJudge"]

Array = NDArray[Any]

_NAMES: Final = ("set efficiency", "set purity", "mean overlap of the true sets")
_INSIDE = 0.5
"""Probability from which on an object belongs to a set."""
_MATCHED = 0.5
"""Overlap above which a predicted and a true set are the same."""


class _Matched(NamedTuple):
    """What was found of each event's sets, shape ``(event,)`` each."""

    true: Array
    predicted: Array
    found: Array
    overlap: Array


class SetsJudge(Judge):
    """Efficiency and purity of matched sets, and their mean overlap.

    A predicted and a true set match if each is the other's best and their overlap, objects in both
    over objects in either, is above one half; between disjoint sets there is one such pair at most
    (Kirillov et al., arXiv:1801.00868). Sets without an object do not exist.

    Fields: ``members`` (event, set, object), probability or bool; padded objects are in no set if
    one of the prediction's axes is their stream. The target has the same axes, with any number of
    sets.
    """

    fields: ClassVar[tuple[str, ...]] = ("members",)

    def metrics(self) -> list[Metric]:
        """Compare the predicted sets with the true ones."""
        return self._judge(self._matched, "")

    def baselines(self) -> list[Metric]:
        """Give what one set of all objects that are in any true set or real reaches."""
        return self._judge(self._whole, "all objects in one set (trivial)")

    @property
    def _truth(self) -> Array | None:
        found = self.evaluation.targets.get(self.prediction.tensor)
        return None if found is None else np.asarray(found)

    @cached_property
    def _matched(self) -> _Matched:
        return self._compare(whole=False)

    @cached_property
    def _whole(self) -> _Matched:
        return self._compare(whole=True)

    def _compare(self, *, whole: bool) -> _Matched:
        truth = self._truth
        if truth is None:
            return _Matched(*np.zeros((4, 0)))
        inputs = self.evaluation.inputs
        masks = [inputs[m] for axis in self.prediction.axes if (m := f"{axis}.mask") in inputs]
        mask = masks[0] if masks else None
        size, found = 5000, []
        for start in range(0, len(truth), size):
            rows = slice(start, start + size)
            true = np.nan_to_num(truth[rows]) > _INSIDE
            if not whole:
                members = np.asarray(self.field("members")[rows]) > _INSIDE
                if mask is not None:
                    members &= np.asarray(mask[rows])[:, None, :]
            elif mask is not None:
                members = np.asarray(mask[rows])[:, None, :]
            else:
                members = np.ones((len(true), 1, true.shape[2]), bool)
            found.append(_match(members, true))
        return _Matched(*(np.concatenate(part) for part in zip(*found, strict=True)))

    def _judge(self, matched: _Matched, of: str) -> list[Metric]:
        if not matched.true.sum():
            return []
        if note := no_mean(self.evaluation.weight if self.evaluation.weighted else None):
            return [Metric(name, math.nan, math.nan, of=of, note=note) for name in _NAMES]

        def ratio(above: Array, below: Array) -> tuple[float, float]:
            some = below > 0
            weights = below[some] * self.evaluation.weight[some]
            groups = self.evaluation.groups
            each = None if groups is None else groups[some]
            return weighted_mean(above[some] / below[some], weights, each)

        return [
            Metric(name, *ratio(above, below), of=of)
            for name, above, below in zip(
                _NAMES,
                (matched.found, matched.found, matched.overlap),
                (matched.true, matched.predicted, matched.true),
                strict=True,
            )
        ]


def _match(predicted: Array, true: Array) -> tuple[Array, Array, Array, Array]:
    """Numbers of true, predicted and matched sets, and the sum of the true sets' best overlaps."""
    both = np.einsum("eqo,eso->eqs", predicted.astype(np.float32), true.astype(np.float32))
    one, other = predicted.sum(2), true.sum(2)
    either = one[:, :, None] + other[:, None, :] - both
    overlap = np.divide(both, either, out=np.zeros_like(both), where=either > 0)
    best = overlap.max(axis=1)
    mutual = (overlap == best[:, None, :]) & (overlap == overlap.max(axis=2)[:, :, None])
    found = (mutual & (overlap > _MATCHED)).any(axis=1).sum(1)
    return (
        (other > 0).sum(1).astype(float),
        (one > 0).sum(1).astype(float),
        found.astype(float),
        best.sum(1).astype(float),
    )
