"""`RegressionHead`: numbers of an event, or of its objects, in physical units."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from hepset.errors import ConfigurationError, did_you_mean
from hepset.events.select import plugin_functions
from hepset.expressions.language import EVENT, Expression, Scope, compile_expression
from hepset.interfaces.backbone import Encoded
from hepset.interfaces.head import (
    EncoderHandle,
    Head,
    HeadConfig,
    LossTerm,
    Prediction,
    refuse_own_axes,
)
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

__all__ = ["RegressionConfig", "RegressionHead", "quantile_field"]

_LAPLACE_HALF_WIDTH = math.log(1 / (1 - 0.682689))
"""Half width of the central 68.3 % of a Laplace distribution with scale 1."""


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
            refuse_own_axes(target, f"model.heads.{self.name}.targets: {name!r}")
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

    def predictions(self, event: EventInfo) -> list[Prediction]:
        """Say that every target is a number, with its width or quantiles where they are given."""
        found = []
        for name in self.config.names:
            fields = {"value": name}
            options: dict[str, Any] = {}
            if self.config.loss in {"gaussian", "laplace"}:
                fields["sigma"] = f"{name}.sigma"
            if self.config.loss == "quantile":
                levels = {quantile_field(q): q for q in self.config.quantiles}
                fields |= {suffix: f"{name}{suffix}" for suffix in levels}
                options["levels"] = levels
            if name in self.config.baselines:
                options["baseline"] = (
                    self.config.baseline(name)[0],
                    self._baseline(event, name),
                )
            stream = event.targets[name].stream
            axes = ("event",) if stream is None else ("event", stream)
            found.append(Prediction("numbers", name, fields, axes, options=options))
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


def quantile_field(level: float) -> str:
    """Return what the field of a quantile ends with: ``.q05`` for 0.05, ``.q025`` for 0.025."""
    return f".q{f'{level:.10f}'.rstrip('0').removeprefix('0.').ljust(2, '0')}"


def _key(stream: str | None) -> str:
    return "event" if stream is None else f"{stream}_objects"
