"""`SamplesJudge`: K samples of a number per event, drawn from what a head has learnt of it."""

from __future__ import annotations

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hepset.interfaces.judge import Drawing, Judge, Metric
from hepset.judges.labelled import Labelled, with_number
from hepset.schema.units import unit_of
from hepset.uncertainty import ONE_SIGMA, efficiency, half_width, median, weighted_mean

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["SamplesJudge", "crps"]

Array = NDArray[Any]

_FEWEST = 3
_TRAINING = 200
"""Quantiles of the training split that stand for its distribution."""


class SamplesJudge(Judge):
    """Bias and half 68 % width of the samples' median, coverage, and the CRPS; a rank histogram.

    The continuous ranked probability score E|X − y| − ½ E|X − X'| is the mean absolute error of a
    distribution, in the unit of the target; it is estimated without the bias of few samples
    (Gneiting and Raftery, JASA 102 (2007) 359). The coverage is that of the interval between two
    ordered samples, whose expectation is exact for any number of them.

    Fields: ``samples`` (event, sample) or (event, object, sample).
    """

    fields: ClassVar[tuple[str, ...]] = ("samples",)

    def metrics(self) -> list[Metric]:
        """Judge the samples."""
        if len(self.entries) < 2 or self._samples.shape[1] < _FEWEST:
            return []
        return self._judge(self._samples, "")

    def baselines(self) -> list[Metric]:
        """Give what the distribution of the training events reaches, the same for every event."""
        train = self.evaluation.train
        if not self.metrics() or train is None:
            return []
        known = with_number(train, self.prediction.target).truth
        if len(known) < _TRAINING:
            return []
        levels = (np.arange(_TRAINING) + 0.5) / _TRAINING
        same = np.broadcast_to(np.quantile(known, levels), (len(self.entries), _TRAINING))
        return self._judge(same, "distribution of the training split (trivial)")

    def figures(self) -> list[Drawing]:
        """Draw how often the truth has each rank among the samples."""
        if not self.metrics():
            return []
        name = self.prediction.target
        return [
            Drawing(
                f"ranks-{name}".replace("/", "-"),
                f"{name}: rank of the truth among the samples",
                f"Share of {len(self.entries)} entries by the rank of the truth among "
                f"{self._samples.shape[1]} samples. Flat where the samples have the right "
                "distribution, a bowl where they are too narrow, a hill where they are too wide.",
                self._draw,
            )
        ]

    @cached_property
    def entries(self) -> Labelled:
        """The events, or objects, with a true number."""
        return with_number(self.evaluation, self.prediction.target)

    @cached_property
    def _samples(self) -> Array:
        return np.sort(self.entries.of(self.field("samples")), axis=1)

    @property
    def _unit(self) -> str:
        spec = self.evaluation.contract.tensors.get(self.prediction.tensor)
        feature = None if spec is None else spec.features.get("")
        known = "" if feature is None else unit_of(self.prediction.target, feature)
        return self.prediction.unit or known

    def _judge(self, ordered: Array, of: str) -> list[Metric]:
        entries, name, unit = self.entries, self.prediction.target, self._unit
        if note := entries.meaningless:
            return [
                Metric(f"{name}: CRPS", math.nan, math.nan, unit, "lower", of, note=note),
            ]
        with_what = (entries.weight, entries.groups)
        residual = np.median(ordered, axis=1) - entries.truth
        count = ordered.shape[1]
        low, high = (round(level * (count + 1)) for level in ONE_SIGMA)
        low, high = max(low, 1), min(max(high, low + 1), count)
        inside = (entries.truth > ordered[:, low - 1]) & (entries.truth <= ordered[:, high - 1])
        covered, error = efficiency(inside, *with_what)
        expected = (high - low) / (count + 1)
        found = {
            "bias (median residual)": median(residual, *with_what),
            "half 68 % width": half_width(residual, *with_what),
            "CRPS": weighted_mean(crps(ordered, entries.truth), *with_what),
        }
        return [
            *(Metric(f"{name}: {w}", *e, unit, "lower", of) for w, e in found.items()),
            Metric(
                f"{name}: coverage bias (share inside minus {expected:.3f})",
                covered - expected,
                error,
                "",
                "lower",
                of,
            ),
        ]

    def _draw(self) -> Figure:
        from hepset.figures import draw_points, new_figure, start_at_zero, styled  # noqa: PLC0415

        @styled
        def draw() -> Figure:
            figure, axes = new_figure("Rank of the truth / (samples + 1)", "Share of entries")
            entries, count = self.entries, self._samples.shape[1]
            rank = (self._samples < entries.truth[:, None]).sum(axis=1)
            bins = min(20, count + 1)
            place = rank * bins // (count + 1)
            shares = [efficiency(place == b, entries.weight, entries.groups) for b in range(bins)]
            values, errors = np.asarray(shares).T
            held = np.bincount(np.arange(count + 1) * bins // (count + 1), minlength=bins)
            axes.stairs(held / (count + 1), np.linspace(0, 1, bins + 1), color="0.6")
            draw_points(axes, (np.arange(bins) + 0.5) / bins, values, errors, label="model")
            start_at_zero(axes, entries.weight)
            axes.legend()
            return figure

        return draw()


def crps(ordered: Array, truth: Array) -> Array:
    """Return the continuous ranked probability score of each entry.

    Args:
        ordered: Samples in rising order, shape ``(entry, K)``, K ≥ 2.
        truth: Shape ``(entry,)``.
    """
    count = ordered.shape[1]
    # Sum of |x_i − x_j| over pairs i < j of ordered samples.
    pairs = ordered @ (2 * np.arange(1, count + 1) - count - 1)
    found: Array = np.abs(ordered - truth[:, None]).mean(axis=1) - pairs / (count * (count - 1))
    return found
