"""`RegressionHead`: numbers of an event, or of its objects, in physical units."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from hepset.arrays import offsets_of
from hepset.errors import ConfigurationError, did_you_mean
from hepset.events.select import plugin_functions
from hepset.expressions.language import EVENT, Expression, Scope, compile_expression
from hepset.heads.calibration import FEWEST, calibrate
from hepset.heads.entries import Entries, entries_with_number, first_events
from hepset.heads.variables import Variable, event_variables, object_variables
from hepset.interfaces.backbone import Encoded
from hepset.interfaces.head import (
    Drawing,
    EncoderHandle,
    Evaluation,
    Head,
    HeadConfig,
    LossTerm,
    Metric,
)
from hepset.kinematics import wrap_phi
from hepset.nn.losses import (
    EventLoss,
    bounded_log_scale,
    gaussian_nll,
    huber,
    laplace_nll,
    mean_over_objects,
    mse,
    ordered_quantiles,
    quantile_loss,
)
from hepset.nn.mlp import MLP
from hepset.nn.transforms import TargetTransform
from hepset.schema.contract import Contract, target_spec
from hepset.schema.event import EventInfo
from hepset.schema.statistics import Statistics
from hepset.schema.units import unit_of
from hepset.uncertainty import half_width, median, weighted_mean

__all__ = ["Prediction", "RegressionConfig", "RegressionHead", "quantile_field"]

Array = NDArray[Any]

_LAPLACE_HALF_WIDTH = math.log(1 / (1 - 0.682689))
"""Half width of the central 68.3 % of a Laplace distribution with scale 1."""
_FIT_EVENTS = 20_000
"""Training events that baselines are fitted to."""


class RegressionConfig(HeadConfig):
    """Options of a regression."""

    target: str | None = None
    """The one target of kind regression."""
    targets: tuple[str, ...] = ()
    """Several targets, instead of `target`; per event or per object, as each declares."""
    loss: Literal["huber", "gaussian", "laplace", "mse", "quantile"] = "huber"
    """In model space, where every target has width one: ``huber`` is robust against tails,
    ``mse`` learns the mean; ``gaussian`` and ``laplace`` also predict the width of every event
    (``<target>.sigma``); ``quantile`` predicts `quantiles` (``<target>.q16``, …)."""
    huber_beta: float = Field(default=1.0, gt=0)
    """Where the square of the Huber loss becomes a line, in widths of the target."""
    quantiles: tuple[float, ...] = (0.16, 0.5, 0.84)
    """Increasing probabilities for the loss ``quantile``; with 0.5, the median, which is the
    value."""
    hidden: tuple[PositiveInt, ...] = (64,)
    """Widths of the hidden layers between embedding and targets."""
    activation: str = "gelu"
    """Activation of the hidden layers."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability of dropout in the hidden layers, in training."""
    baselines: dict[str, str | dict[str, str]] = Field(default_factory=dict)
    """Target → expression of inputs (``sum(jets.pt) + met.pt``) that the model has to beat, or
    ``{name: expression}``; it is calibrated on training events."""

    @model_validator(mode="after")
    def _consistent(self) -> RegressionConfig:
        if (self.target is None) == (not self.targets):
            raise ValueError("give either 'target' or 'targets'")
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"targets {list(self.names)!r}: a name is given twice")
        levels = self.quantiles
        if not all(0 < q < 1 for q in levels) or list(levels) != sorted(set(levels)):
            raise ValueError(f"quantiles {list(levels)!r} must increase within (0, 1)")
        if 0.5 not in levels:
            raise ValueError(f"quantiles {list(levels)!r} need 0.5: the median is the value")
        for name in self.baselines:
            if name not in self.names:
                hint = did_you_mean(name, self.names)
                raise ValueError(f"baselines: {name!r} is not a target of this head{hint}")
        for name, stated in self.baselines.items():
            if not isinstance(stated, str) and len(stated) != 1:
                raise ValueError(f"baselines.{name}: give one name with its expression")
        return self

    def baseline(self, target: str) -> tuple[str, str]:
        """Name and expression of a target's baseline; an unnamed one is called as it reads."""
        stated = self.baselines[target]
        return (stated, stated) if isinstance(stated, str) else next(iter(stated.items()))

    @property
    def names(self) -> tuple[str, ...]:
        """The targets."""
        return self.targets if self.target is None else (self.target,)


class Prediction(NamedTuple):
    """Predictions of one target at the entries that have one.

    Attributes:
        of: Who made it: empty for the model.
        values: Shape ``(entry,)``, in the target's unit.
    """

    of: str
    values: Array


class RegressionHead(Head):
    """One small network for the event's targets, and one per stream for its objects' targets.

    Args:
        name: Name of the head.
        config: Options.
    """

    Config: ClassVar[type[HeadConfig]] = RegressionConfig
    knows_event_width: ClassVar[bool] = True
    config: RegressionConfig

    def contract(self, event: EventInfo) -> Contract:
        """Require the targets.

        Raises:
            ConfigurationError: If the event does not declare one, or not as a regression.
            ExpressionError: If a baseline is no expression of the event's inputs.
        """
        known = [n for n, t in event.targets.items() if t.kind == "regression"]
        tensors = {}
        for name in self.config.names:
            target = event.targets.get(name)
            if target is None or target.kind != "regression":
                problem = (
                    f"the target {name!r} is a {target.kind}"
                    if target
                    else f"the event declares no target {name!r}{did_you_mean(name, known)}"
                )
                raise ConfigurationError(
                    f"model.heads.{self.name}.targets: {problem}; targets of kind regression: "
                    f"{', '.join(known) or 'none'}"
                )
            if self.config.loss == "quantile" and "circular" in target.transform:
                raise ConfigurationError(
                    f"model.heads.{self.name}.loss: the angle {name!r} has no quantiles; give it "
                    "a head of its own with another loss"
                )
            if name in self.config.baselines:
                self._baseline(event, name)
            spec = target_spec(event, name, wanted_by=self.name)
            tensors[spec.name] = spec.model_copy(update={"required": True})
        return Contract(tensors=tensors)

    def build(self, contract: Contract, statistics: Statistics, width: int) -> None:
        """Make the layers."""
        groups: dict[str | None, list[str]] = {}
        for name in self.config.names:
            dims = contract[f"target/{name}"].dims
            groups.setdefault(dims[1] if len(dims) > 1 else None, []).append(name)
        self.groups = {stream: tuple(names) for stream, names in groups.items()}
        self.transforms = nn.ModuleDict()
        self.networks = nn.ModuleDict()
        for stream, names in self.groups.items():
            transform = TargetTransform(contract, names, statistics)
            self.transforms[_key(stream)] = transform
            self.networks[_key(stream)] = MLP(
                width if stream is not None else self.event_width or width,
                self.config.hidden,
                transform.width_out * self.parameters_per_column,
                activation=self.config.activation,
                dropout=self.config.dropout,
            )

    @property
    def parameters_per_column(self) -> int:
        """How many numbers describe one model-space column."""
        counts = {"gaussian": 2, "laplace": 2, "quantile": len(self.config.quantiles)}
        return counts.get(self.config.loss, 1)

    def forward(self, encoded: Encoded, encoder: EncoderHandle) -> dict[str, Tensor]:
        """Compute raw outputs in model space.

        Returns:
            ``event`` (B, M, P) with P parameters of M columns; per stream ``<stream>_objects``
            (B, N, M, P) and ``<stream>_objects.mask`` (B, N).
        """
        del encoder
        outputs = {}
        for stream in self.groups:
            key = _key(stream)
            x = encoded.event if stream is None else encoded.objects[stream]
            outputs[key] = torch.unflatten(
                self.networks[key](x), -1, (-1, self.parameters_per_column)
            )
            if stream is not None:
                outputs[f"{key}.mask"] = encoded.masks[stream]
        return outputs

    def loss(
        self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> dict[str, LossTerm]:
        """Compute one loss per target; NaN and absent targets leave it."""
        found = {}
        for stream, names in self.groups.items():
            raw, transform = outputs[_key(stream)], self._transform(stream)
            missing = torch.full_like(raw[..., 0, 0], math.nan, dtype=torch.float32)
            truth = torch.stack([targets.get(f"target/{n}", missing).float() for n in names], -1)
            columns = self._column_loss(raw, transform(truth))
            for index, name in enumerate(names):
                own = list(transform.columns[index])
                one = EventLoss(columns.value[..., own].mean(-1), columns.valid[..., own].all(-1))
                one = one if stream is None else mean_over_objects(one)
                found[name] = LossTerm(one.value, one.valid)
        return {name: found[name] for name in self.config.names}

    def decode(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give ``<target>`` in physical units, (B,) or (B, N) with 0 in padded slots.

        Beside it ``<target>.sigma``, half the width of the predicted central 68.3 %, to first
        order; or ``<target>.q16``, … with the median as the value.
        """
        fields: dict[str, dict[str, Tensor]] = {name: {} for name in self.config.names}
        for stream, names in self.groups.items():
            raw, transform = outputs[_key(stream)].float(), self._transform(stream)
            mask = outputs.get(f"{_key(stream)}.mask")
            for suffix, values in self._decoded(raw, transform):
                shown = values if mask is None else torch.where(mask[..., None], values, 0.0)
                for index, name in enumerate(names):
                    fields[name][f"{name}{suffix}"] = shown[..., index]
        return {field: value for own in fields.values() for field, value in own.items()}

    def metrics(self, evaluation: Evaluation) -> list[Metric]:
        """Give bias, half 68 % width, mean absolute error and RMS of every target.

        Errors are bootstrapped over events, or follow from Σw² for the means. Targets that are
        positive everywhere also have the half 68 % width of the relative residual.
        """
        return [
            metric
            for name in self.config.names
            for metric in self._judge(evaluation, name, Prediction("", self._at(evaluation, name)))
        ]

    def baselines(self, evaluation: Evaluation) -> list[Metric]:
        """Judge the configured expression, the best single variable, and a constant."""
        return [
            metric
            for name in self.config.names
            for prediction in self.simple_predictions(evaluation, name)
            for metric in self._judge(evaluation, name, prediction)
        ]

    def figures(self, evaluation: Evaluation) -> list[Drawing]:
        """Draw prediction against truth, residuals with a baseline, bias and resolution."""
        from hepset.heads import regression_figures as draw  # noqa: PLC0415  matplotlib

        drawings: list[Drawing] = []
        for name in self.config.names:
            entries = entries_with_number(evaluation, name)
            if len(entries) < 2:
                continue
            fields = {
                field.removeprefix(name): entries.of(np.asarray(values, np.float64))
                for field, values in evaluation.predictions.items()
                if field == name or field.startswith(f"{name}.")
            }
            simple = self.simple_predictions(evaluation, name)
            shown = draw.Shown(
                name=name,
                unit=_unit(evaluation, name),
                angle=self._is_angle(evaluation, name),
                entries=entries,
                fields=fields,
                baseline=simple[0] if simple else None,
                about=f"{len(entries)} {'objects' if entries.groups is not None else 'events'}"
                + (", weighted" if evaluation.weighted else ""),
            )
            drawings += [draw.truth(shown), draw.residuals(shown), draw.profile(shown)]
            if ".sigma" in fields:
                drawings.append(draw.pulls(shown))
            if self.config.loss == "quantile":
                levels = {quantile_field(q): q for q in self.config.quantiles}
                drawings.append(draw.coverage(shown, levels))
        return drawings

    def simple_predictions(self, evaluation: Evaluation, name: str) -> list[Prediction]:
        """Predict a target by simple means, the most serious one first.

        The expression of the configuration, the best single variable, both calibrated on the
        training events of the evaluation (or on the evaluated ones, which is then said), and the
        median of the training events, which is marked as trivial.
        """
        entries = entries_with_number(evaluation, name)
        fitted_on = evaluation if evaluation.train is None else evaluation.train
        source = first_events(fitted_on, _FIT_EVENTS)
        known = entries_with_number(source, name)
        if len(known) < FEWEST or not len(entries):
            return []
        note = "" if evaluation.train is not None else ", fitted to these events"
        angle = self._is_angle(evaluation, name)
        found = []
        if name in self.config.baselines:
            expression = self._baseline(evaluation.event, name)
            values = [_evaluated(expression, part) for part in (source, evaluation)]
            pair = [Variable(self.config.baseline(name)[0], value) for value in values]
            best = _best([pair[0]], [pair[1]], known, entries, angle=angle)
            if best is not None:
                found.append(Prediction(f"{best.of}{note}", best.values))
        options = [self._variables(part, name, angle=angle) for part in (source, evaluation)]
        best = _best(options[0], options[1], known, entries, angle=angle)
        # The expression may be that very variable.
        if best is not None and not any(np.allclose(best.values, p.values) for p in found):
            found.append(Prediction(f"{best.of}{note}", best.values))
        if not angle:
            middle = float(np.median(known.truth))
            found.append(Prediction("constant (trivial)", np.full(len(entries), middle)))
        return found

    def _column_loss(self, raw: Tensor, y: Tensor) -> EventLoss:
        """Loss of every model-space column: raw (..., M, P), y (..., M)."""
        config = self.config
        if config.loss == "quantile":
            return quantile_loss(raw, y, config.quantiles)
        if config.loss == "gaussian":
            return gaussian_nll(raw[..., 0], raw[..., 1], y)
        if config.loss == "laplace":
            return laplace_nll(raw[..., 0], raw[..., 1], y)
        if config.loss == "mse":
            return mse(raw[..., 0], y)
        return huber(raw[..., 0], y, beta=config.huber_beta)

    def _decoded(self, raw: Tensor, transform: TargetTransform) -> list[tuple[str, Tensor]]:
        """Suffix of the field → values (..., target)."""
        if self.config.loss == "quantile":
            ordered = ordered_quantiles(raw)
            levels = self.config.quantiles
            found = [("", transform.inverse(ordered[..., levels.index(0.5)]))]
            return found + [
                (quantile_field(q), transform.inverse(ordered[..., i]))
                for i, q in enumerate(levels)
            ]
        found = [("", transform.inverse(raw[..., 0]))]
        if self.config.loss in {"gaussian", "laplace"}:
            log_scale = bounded_log_scale(raw[..., 1])
            if self.config.loss == "gaussian":
                spread = torch.exp(0.5 * log_scale)
            else:
                spread = _LAPLACE_HALF_WIDTH * torch.exp(log_scale)
            found.append((".sigma", transform.spread(raw[..., 0], spread)))
        return found

    def _transform(self, stream: str | None) -> TargetTransform:
        transform = self.transforms[_key(stream)]
        assert isinstance(transform, TargetTransform)
        return transform

    def _at(self, evaluation: Evaluation, name: str) -> Array:
        entries = entries_with_number(evaluation, name)
        return entries.of(np.asarray(evaluation.predictions[name], dtype=np.float64))

    def _judge(self, evaluation: Evaluation, name: str, prediction: Prediction) -> list[Metric]:
        entries = entries_with_number(evaluation, name)
        if len(entries) < 2:
            return []
        unit = _unit(evaluation, name)
        residual = prediction.values - entries.truth
        if self._is_angle(evaluation, name):
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
            Metric(f"{name}: {what}", float(value), float(error), unit, "lower", prediction.of)
            for what, (value, error) in numbers.items()
        ]
        if (entries.truth > 0).all():
            value, error = half_width(residual / entries.truth, *with_what)
            what = f"{name}: relative half 68 % width"
            found.append(Metric(what, value, error, "", "lower", prediction.of))
        return found

    def _variables(self, evaluation: Evaluation, name: str, *, angle: bool) -> list[Variable]:
        dims = evaluation.contract[f"target/{name}"].dims
        if len(dims) > 1:
            found = object_variables(evaluation, dims[1])
        else:
            found = event_variables(evaluation)
        return [variable for variable in found if variable.angle == angle]

    def _is_angle(self, evaluation: Evaluation, name: str) -> bool:
        return "circular" in evaluation.contract[f"target/{name}"].features[""].transform

    def _baseline(self, event: EventInfo, name: str) -> Expression:
        where = f"model.heads.{self.name}.baselines.{name}"
        scope = Scope(
            streams={stream: list(block.features) for stream, block in event.streams.items()},
            events=[f"{g}.{f}" for g, block in event.globals.items() for f in block.features],
        )
        expression = compile_expression(
            self.config.baseline(name)[1], scope, plugin_functions(), where=where
        )
        stream = event.targets[name].stream
        if expression.kind not in {EVENT, stream}:
            raise ConfigurationError(
                f"{where}: {expression.text!r} has one value per object of {expression.kind!r}, "
                f"but the target has one per {'event' if stream is None else stream}; reduce it, "
                "for example with sum(...)"
            )
        return expression


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
        return offsets_of(counts)

    def _mask(self, stream: str) -> Array:
        return np.asarray(self.evaluation.inputs[f"{stream}.mask"], dtype=bool)


def quantile_field(level: float) -> str:
    """Return what the field of a quantile ends with: ``.q05`` for 0.05, ``.q025`` for 0.025."""
    return f".q{f'{level:.10f}'.rstrip('0').removeprefix('0.').ljust(2, '0')}"


def _unit(evaluation: Evaluation, name: str) -> str:
    return unit_of(name, evaluation.contract[f"target/{name}"].features[""])


def _key(stream: str | None) -> str:
    return "event" if stream is None else f"{stream}_objects"


def _or_zero(values: Array) -> Array:
    filled: Array = np.where(np.isfinite(values), values, 0.0)
    return filled


def _evaluated(expression: Expression, evaluation: Evaluation) -> Array:
    """Values of an expression, shape ``(event,)`` or ``(event, slot)``, NaN in padded slots."""
    values = np.asarray(expression.evaluate(_Columns(evaluation)), dtype=np.float64)
    if expression.kind == EVENT:
        return values
    mask = np.asarray(evaluation.inputs[f"{expression.kind}.mask"], dtype=bool)
    padded = np.full(mask.shape, np.nan)
    padded[mask] = values
    return padded


def _best(
    training: Sequence[Variable],
    evaluated: Sequence[Variable],
    known: Entries,
    entries: Entries,
    *,
    angle: bool,
) -> Prediction | None:
    """Calibrate every variable on training entries, and apply the best one.

    An angle is taken as it is, whichever lies nearest on average.
    """
    least = math.inf
    chosen: tuple[int, Callable[[Array], Array], str] | None = None
    for position, variable in enumerate(training):
        x = known.of(variable.values)
        if angle:
            there = np.isfinite(x)
            if np.count_nonzero(there) < FEWEST:
                continue
            error = float(np.abs(wrap_phi(_or_zero(x) - known.truth)).mean())
            if error < least:
                least, chosen = error, (position, _or_zero, "as it is")
            continue
        fitted = calibrate(x, known.truth)
        if fitted is not None and fitted.error < least:
            least, chosen = fitted.error, (position, fitted.apply, fitted.kind)
    if chosen is None:
        return None
    position, apply, kind = chosen
    variable = evaluated[position]
    label = variable.name if angle else f"calibrated {variable.name} ({kind})"
    return Prediction(label, np.asarray(apply(entries.of(variable.values)), np.float64))
