"""`NumbersJudge`: predicted numbers of events or of objects, with or without their width."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hepset.expressions.language import EVENT, Expression
from hepset.interfaces.judge import Drawing, Evaluation, Judge, Metric
from hepset.judges.calibration import FEWEST, calibrate
from hepset.judges.labelled import Labelled, first_events, with_number
from hepset.judges.variables import Variable, event_variables, object_variables, over_events
from hepset.kinematics import wrap_phi
from hepset.schema.feature import Feature
from hepset.schema.units import unit_of
from hepset.uncertainty import half_width, median, weighted_mean

__all__ = ["NumbersJudge", "SimplePrediction"]

Array = NDArray[Any]

_WIDTHS = ("half 68 % width", "mean absolute error", "RMS")
_FIT_EVENTS = 20_000
"""Training events that baselines are fitted to."""


class SimplePrediction(NamedTuple):
    """Predictions of one target at the entries that have one.

    Attributes:
        of: Who made it: empty for the model.
        values: Shape ``(entry,)``, in the target's unit.
    """

    of: str
    values: Array


class NumbersJudge(Judge):
    """Bias, half 68 % width, mean absolute error and RMS; truth, residuals, resolution, pulls.

    Errors are bootstrapped over events, or follow from Σw² for the means. Targets that are positive
    everywhere also have the half 68 % width of the relative residual.

    Fields: ``value`` (event,) or (event, object); perhaps ``sigma``, half the width of the central
    68.3 %; and quantiles, named in the option ``levels``. Options: ``levels``, field → probability;
    ``baseline``, a name and an `Expression` of the inputs.
    """

    fields: ClassVar[tuple[str, ...]] = ("value",)

    def metrics(self) -> list[Metric]:
        """Judge the predicted values."""
        if self.entries.meaningless:
            note = self.entries.meaningless
            return [
                Metric(f"{self.name}: {what}", math.nan, math.nan, self.unit, "lower", note=note)
                for what in ("bias (median residual)", *_WIDTHS)
            ]
        return self._judge(SimplePrediction("", self._at("value")))

    def baselines(self) -> list[Metric]:
        """Judge the configured expression, the best single variable, and a constant."""
        if self.entries.meaningless:
            return []
        return [metric for simple in self.simple for metric in self._judge(simple)]

    def figures(self) -> list[Drawing]:
        """Draw prediction against truth, residuals with a baseline, bias and resolution."""
        from hepset.judges import numbers_figures as draw  # noqa: PLC0415  matplotlib

        entries = self.entries
        if len(entries) < 2 or entries.meaningless:
            return []
        simple = self.simple
        kind = "objects" if self.prediction.stream else "events"
        shown = draw.Shown(
            name=self.name,
            unit=self.unit,
            angle=self.is_angle,
            entries=entries,
            field=self._at,
            baseline=simple[0] if simple else None,
            about=f"{len(entries)} {kind}" + (", weighted" if self.evaluation.weighted else ""),
        )
        drawings = [draw.truth(shown), draw.residuals(shown), draw.profile(shown)]
        if "sigma" in self.prediction.fields:
            drawings.append(draw.pulls(shown))
        levels = self.prediction.options.get("levels")
        if levels:
            drawings.append(draw.coverage(shown, levels))
        return drawings

    @property
    def name(self) -> str:
        """What is predicted."""
        return self.prediction.target or self.prediction.fields["value"]

    @cached_property
    def entries(self) -> Labelled:
        """The events, or objects, with a true number."""
        return with_number(self.evaluation, self.prediction.target)

    @cached_property
    def unit(self) -> str:
        """Unit of the target."""
        feature = self._feature
        return self.prediction.unit or ("" if feature is None else unit_of(self.name, feature))

    @cached_property
    def is_angle(self) -> bool:
        """Whether residuals wrap around."""
        return self._feature is not None and "circular" in self._feature.transform

    @property
    def _feature(self) -> Feature | None:
        spec = self.evaluation.contract.tensors.get(self.prediction.tensor)
        return None if spec is None else spec.features.get("")

    @cached_property
    def simple(self) -> list[SimplePrediction]:
        """Predictions by simple means, the most serious one first.

        The expression of the configuration, the best single variable, both calibrated on the
        training events of the evaluation (or on the evaluated ones, which is then said), and the
        median of the training events, which is marked as trivial.
        """
        entries, evaluation = self.entries, self.evaluation
        fitted_on = evaluation if evaluation.train is None else evaluation.train
        source = first_events(fitted_on, _FIT_EVENTS)
        known = with_number(source, self.prediction.target)
        if len(known) < FEWEST or not len(entries):
            return []
        note = "" if evaluation.train is not None else ", fitted to these events"
        found: list[SimplePrediction] = []
        stated = self.prediction.options.get("baseline")
        if stated is not None:
            label, expression = stated
            find = partial(_expressed, label, expression)
            best = self._best(find, source, known)
            if best is not None:
                found.append(SimplePrediction(f"{best.of}{note}", best.values))
        best = self._best(self._variables, source, known)
        # The expression may be that very variable.
        if best is not None and not any(np.allclose(best.values, p.values) for p in found):
            found.append(SimplePrediction(f"{best.of}{note}", best.values))
        if not self.is_angle:
            middle = float(np.median(known.truth))
            found.append(SimplePrediction("constant (trivial)", np.full(len(entries), middle)))
        return found

    def _best(
        self, variables: Callable[[Evaluation], list[Variable]], source: Evaluation, known: Labelled
    ) -> SimplePrediction | None:
        """Calibrate every variable on training entries, and apply the best one.

        An angle is taken as it is, whichever lies nearest on average.
        """
        chosen = _closest(variables(source), known, angle=self.is_angle)
        if chosen is None:
            return None
        position, apply, label = chosen
        values = self.entries.of(over_events(self.evaluation, position, variables))
        return SimplePrediction(label, np.asarray(apply(values), np.float64))

    def _at(self, field: str) -> Array:
        return self.entries.of(self.field(field)).astype(np.float64)

    def _judge(self, prediction: SimplePrediction) -> list[Metric]:
        entries, name = self.entries, self.name
        if len(entries) < 2:
            return []
        residual = prediction.values - entries.truth
        if self.is_angle:
            residual = wrap_phi(residual)
        with_what = (entries.weight, entries.groups)
        square = weighted_mean(residual**2, *with_what)
        rms = math.sqrt(square.value) if square.value >= 0 else math.nan
        numbers = {
            "bias (median residual)": median(residual, *with_what),
            "half 68 % width": half_width(residual, *with_what),
            "mean absolute error": weighted_mean(np.abs(residual), *with_what),
            "RMS": (rms, square.error / (2 * rms) if rms > 0 else math.nan),
        }
        found = [
            Metric(f"{name}: {what}", float(value), float(error), self.unit, "lower", prediction.of)
            for what, (value, error) in numbers.items()
        ]
        if (entries.truth > 0).all():
            value, error = half_width(residual / entries.truth, *with_what)
            what = f"{name}: relative half 68 % width"
            found.append(Metric(what, value, error, "", "lower", prediction.of))
        return found

    def _variables(self, evaluation: Evaluation) -> list[Variable]:
        stream = self.prediction.stream
        if stream is not None:
            found = object_variables(evaluation, stream)
        else:
            found = event_variables(evaluation)
        return [variable for variable in found if variable.angle == self.is_angle]


class _Columns:
    """The inputs of an evaluation as the columns of an expression."""

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation

    def event(self, name: str) -> Array:
        """Return a feature of a global, shape ``(event,)``."""
        block, _, feature = name.partition(".")
        index = self.evaluation.contract[block].columns.index(feature)
        values: Array = np.asarray(self.evaluation.inputs[block])[:, index]
        return values

    def stream(self, stream: str, feature: str) -> Array:
        """Return a feature of all real objects, shape ``(object,)``."""
        index = self.evaluation.contract[stream].columns.index(feature)
        values: Array = np.asarray(self.evaluation.inputs[stream])[..., index][self._mask(stream)]
        return values

    def offsets(self, stream: str) -> NDArray[np.int64]:
        """Return where the events of a stream begin and end, shape ``(event + 1,)``."""
        counts = self._mask(stream).sum(axis=1)
        return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)

    def _mask(self, stream: str) -> Array:
        return np.asarray(self.evaluation.inputs[f"{stream}.mask"], dtype=bool)


def _expressed(label: str, expression: Expression, evaluation: Evaluation) -> list[Variable]:
    """The one variable that an expression is."""
    return [Variable(label, partial(_evaluated, expression, evaluation))]


def _evaluated(expression: Expression, evaluation: Evaluation) -> Array:
    """Values of an expression, shape ``(event,)`` or ``(event, slot)``, NaN in padded slots."""
    values = np.asarray(expression.evaluate(_Columns(evaluation)), dtype=np.float64)
    if expression.kind == EVENT:
        return values
    mask = np.asarray(evaluation.inputs[f"{expression.kind}.mask"], dtype=bool)
    padded = np.full(mask.shape, np.nan)
    padded[mask] = values
    return padded


def _closest(
    variables: Sequence[Variable], known: Labelled, *, angle: bool
) -> tuple[int, Callable[[Array], Array], str] | None:
    """Number of the variable that predicts best, what makes a prediction of it, and its name."""
    least = math.inf
    chosen: tuple[int, Callable[[Array], Array], str] | None = None
    for position, variable in enumerate(variables):
        x = known.of(variable.values)
        if angle:
            there = np.isfinite(x)
            if np.count_nonzero(there) < FEWEST:
                continue
            error = float(np.abs(wrap_phi(_or_zero(x) - known.truth)).mean())
            if error < least:
                least, chosen = error, (position, _or_zero, variable.name)
            continue
        fitted = calibrate(x, known.truth)
        if fitted is not None and fitted.error < least:
            label = f"calibrated {variable.name} ({fitted.kind})"
            least, chosen = fitted.error, (position, fitted.apply, label)
    return chosen


def _or_zero(values: Array) -> Array:
    filled: Array = np.where(np.isfinite(values), values, 0.0)
    return filled
