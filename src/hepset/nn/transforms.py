"""From physical values to model space and back: logarithms, angles, standardisation.

Datasets and graph inputs hold physical values; the logarithms and the scaling are layers of the
model, so that they travel with its weights. Every transform is invertible, works on all columns of
a tensor at once, and exports to ONNX.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final, TypeAlias

import torch
from torch import Tensor, nn

from hepset.errors import ConfigurationError
from hepset.schema.contract import Contract
from hepset.schema.feature import Affine, AffineStep, ClipStep, Feature, transform_parts
from hepset.schema.statistics import Statistics, TensorStatistics

__all__ = ["FeatureTransform", "TargetTransform"]

FixedSteps: TypeAlias = tuple[AffineStep | ClipStep, ...]

_LOG1P_FLOOR: Final = -1 + 2.0**-23
"""The smallest x above −1 that float32 distinguishes: log1p is −15.9 there."""
_LOG_FLOOR: Final = 1e-30
"""What ``log`` takes instead of anything smaller: ln is −69.1 there."""
_EXPONENT_LIMIT: Final = 80.0
"""Largest exponent of an inverse logarithm: exp(80) = 5.5e34 is still finite in float32."""
_RADIUS_FLOOR: Final = 1e-6
"""Smallest length of a predicted (cos, sin) that its spread is divided by."""


def _bounded_exp(y: Tensor) -> Tensor:
    return torch.exp(y.clamp(-_EXPONENT_LIMIT, _EXPONENT_LIMIT))


def _log1p_back(y: Tensor) -> Tensor:
    return torch.expm1(y.clamp(-_EXPONENT_LIMIT, _EXPONENT_LIMIT))


def _asinh_back(y: Tensor) -> Tensor:
    return 2 * torch.sinh(y.clamp(-_EXPONENT_LIMIT, _EXPONENT_LIMIT))


_FORWARD: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "plain": lambda x: x,
    "log1p": lambda x: torch.log1p(x.clamp(min=_LOG1P_FLOOR)),
    "log": lambda x: torch.log(x.clamp(min=_LOG_FLOOR)),
    "asinh": lambda x: torch.asinh(x / 2),
}
_INVERSE: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "plain": lambda y: y,
    "log1p": _log1p_back,
    "log": _bounded_exp,
    "asinh": _asinh_back,
}
_SLOPE: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "plain": torch.ones_like,
    "log1p": _bounded_exp,
    "log": _bounded_exp,
    "asinh": lambda y: 2 * torch.cosh(y.clamp(-_EXPONENT_LIMIT, _EXPONENT_LIMIT)),
}
"""Derivative of the inverse, by the value in model space."""


class FeatureTransform(nn.Module):
    """Transform the columns of one tensor, all at once.

    A circular column becomes the two columns (cos, sin), every other one stays one column, and one
    that is no input (``input: false``) none; their order is that of the features. Values at or
    below the bound of a logarithm, which the contract refuses, are taken as the smallest value
    above it, so that the graph stays finite. Fixed steps act in float32, in the order written: an
    affine one as ``(x - subtract) * multiply``.

    Args:
        features: Column → unit and transform, in the order of the last axis.
        statistics: Statistics of the training split, for ``standardise``.
        where: Name of the tensor, for messages.
        standardise: Whether columns that do not ask for ``standardise`` are standardised too, as
            far as there are statistics; never circular ones.

    Attributes:
        width_in: Number of physical columns.
        width_out: Number of model-space columns.

    Raises:
        ConfigurationError: If a column asks for ``standardise`` and has no statistics.
    """

    mean: Tensor
    width: Tensor

    def __init__(
        self,
        features: Mapping[str, Feature],
        statistics: TensorStatistics | None,
        where: str,
        *,
        standardise: bool = False,
    ) -> None:
        super().__init__()
        self.where = where
        self.names = tuple(features)
        groups: dict[str, list[int]] = {}
        columns: list[list[int]] = []
        scales: list[tuple[float, float]] = []
        before: list[FixedSteps] = []
        between: list[FixedSteps] = []
        after: list[FixedSteps] = []
        for index, (name, feature) in enumerate(features.items()):
            parts = transform_parts(feature.transform)
            before.append(parts.before if feature.input else ())
            if not feature.input:
                columns.append([])
                continue
            groups.setdefault(parts.shape, []).append(index)
            if parts.shape == "circular":
                columns.append([len(scales), len(scales) + 1])
                scales += [(0.0, 1.0)] * 2
            else:
                columns.append([len(scales)])
                scales.append(_scale(name, feature, statistics, where, always=standardise))
            between += [parts.between] * len(columns[-1])
            after += [parts.after] * len(columns[-1])
        self.steps = tuple(groups)
        self.width_in = len(columns)
        self.width_out = len(scales)
        self.columns = tuple(tuple(part) for part in columns)
        self.before, self.between, self.after = _Fixed(before), _Fixed(between), _Fixed(after)
        self.register_buffer("mean", torch.tensor([mean for mean, _ in scales]))
        self.register_buffer("width", torch.tensor([width for _, width in scales]))
        # Where each group's columns are, and where they go after the groups stand side by side.
        grouped_in: list[int] = []
        grouped_out: list[int] = []
        for step, indices in groups.items():
            self._keep(f"physical_{step}", indices)
            if step == "circular":
                self._keep("cosine", [columns[i][0] for i in indices])
                self._keep("sine", [columns[i][1] for i in indices])
                grouped_out += [columns[i][0] for i in indices] + [columns[i][1] for i in indices]
            else:
                self._keep(f"model_{step}", [columns[i][0] for i in indices])
                grouped_out += [columns[i][0] for i in indices]
            grouped_in += indices
        # Columns that are no inputs come back from the place behind all others, which holds NaN.
        places = {column: place for place, column in enumerate(grouped_in)}
        self._keep("order_in", [places.get(i, len(places)) for i in range(self.width_in)])
        self._keep("order_out", _inverted(grouped_out))
        self.complete = len(places) == self.width_in

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Bring physical values ``(..., width_in)`` to model space, ``(..., width_out)``.

        Args:
            x: Physical values; NaN stays NaN.
            mask: True where the entry is real, shape ``(...)``; elsewhere the result is exactly
                0 whatever `x` holds, and no gradient flows.
        """
        if mask is not None:
            x = torch.where(mask[..., None], x, 0.0)
        x = self.before(x)
        parts = []
        for step in self.steps:
            part = self._take(x, f"physical_{step}")
            if step == "circular":
                parts += [torch.cos(part), torch.sin(part)]
            else:
                parts.append(_FORWARD[step](part))
        if not parts:
            return x[..., :0]
        y = self.between(_side_by_side(parts, self.get_buffer("order_out")))
        y = self.after((y - self.mean) / self.width)
        return y if mask is None else torch.where(mask[..., None], y, 0.0)

    def inverse(self, y: Tensor, mask: Tensor | None = None) -> Tensor:
        """Bring model-space values ``(..., width_out)`` back, ``(..., width_in)``.

        Angles come back in [−π, π]. Exponents are limited to ±80, which float32 can hold. What a
        clip cut off does not come back. Columns that are no inputs are NaN.
        """
        y = self.between.inverse(self.after.inverse(y) * self.width + self.mean)
        parts = []
        for step in self.steps:
            if step == "circular":
                parts.append(torch.atan2(self._take(y, "sine"), self._take(y, "cosine")))
            else:
                parts.append(_INVERSE[step](self._take(y, f"model_{step}")))
        x = self.before.inverse(self._physical(parts, y))
        return x if mask is None else torch.where(mask[..., None], x, 0.0)

    def spread(self, y: Tensor, spread: Tensor) -> Tensor:
        """Propagate widths in model space to physical widths, to first order.

        Args:
            y: Values in model space, shape ``(..., width_out)``.
            spread: Their widths, same shape, not negative.

        Returns:
            Widths in physical units, shape ``(..., width_in)``; at most π for an angle.
        """
        y = self.between.inverse(self.after.inverse(y) * self.width + self.mean)
        spread = self.between.inverse_spread(self.after.inverse_spread(spread) * self.width)
        parts = []
        for step in self.steps:
            if step == "circular":
                cosine, sine = self._take(y, "cosine"), self._take(y, "sine")
                angle = torch.atan2(sine, cosine)
                across2 = (torch.cos(angle) * self._take(spread, "sine")) ** 2
                across2 = across2 + (torch.sin(angle) * self._take(spread, "cosine")) ** 2
                radius = torch.sqrt(cosine**2 + sine**2).clamp(min=_RADIUS_FLOOR)
                parts.append((torch.sqrt(across2) / radius).clamp(max=math.pi))
            else:
                name = f"model_{step}"
                parts.append(_SLOPE[step](self._take(y, name)) * self._take(spread, name))
        return self.before.inverse_spread(self._physical(parts, y))

    def _keep(self, name: str, indices: Sequence[int]) -> None:
        self.register_buffer(name, torch.tensor(indices, dtype=torch.int64), persistent=False)

    def _take(self, x: Tensor, name: str) -> Tensor:
        if self.complete and len(self.steps) == 1 and self.steps[0] != "circular":
            return x
        return x.index_select(-1, self.get_buffer(name))

    def _physical(self, parts: list[Tensor], like: Tensor) -> Tensor:
        """Bring the groups' columns back into the order of the features."""
        if not self.complete:
            parts = [*parts, like.new_full((*like.shape[:-1], 1), math.nan)]
        return _side_by_side(parts, self.get_buffer("order_in")) if parts else like


class _Fixed(nn.Module):
    """Affine and clip steps with constants, of all columns at once, round by round.

    Args:
        columns: The steps of each column. A column without a step in some round keeps its value
            exactly.
    """

    def __init__(self, columns: Sequence[FixedSteps]) -> None:
        super().__init__()
        self.rounds: list[str] = []
        for number in range(max((len(steps) for steps in columns), default=0)):
            steps = [part[number] if number < len(part) else None for part in columns]
            affine = [_constants(step) for step in steps]
            bounds = [s.clip if isinstance(s, ClipStep) else (None, None) for s in steps]
            # A column has one of the two in a round, so their order does not matter.
            if any(isinstance(step, AffineStep) for step in steps):
                self.rounds.append("affine")
                self._keep([part.subtract for part in affine], [part.multiply for part in affine])
            if any(isinstance(step, ClipStep) for step in steps):
                self.rounds.append("clip")
                self._keep(
                    [-math.inf if low is None else low for low, _ in bounds],
                    [math.inf if high is None else high for _, high in bounds],
                )

    def forward(self, x: Tensor) -> Tensor:
        """Apply the steps; NaN stays NaN."""
        for number, kind in enumerate(self.rounds):
            one, two = self._constants(number)
            x = (x - one) * two if kind == "affine" else torch.minimum(torch.maximum(x, one), two)
        return x

    def inverse(self, x: Tensor) -> Tensor:
        """Undo the affine steps."""
        for number, kind in reversed(list(enumerate(self.rounds))):
            if kind == "affine":
                subtract, multiply = self._constants(number)
                x = x / multiply + subtract
        return x

    def inverse_spread(self, spread: Tensor) -> Tensor:
        """Bring widths back through the affine steps."""
        for number, kind in enumerate(self.rounds):
            if kind == "affine":
                spread = spread / self._constants(number)[1].abs()
        return spread

    def _keep(self, one: Sequence[float], two: Sequence[float]) -> None:
        number = len(self.rounds) - 1
        self.register_buffer(f"one_{number}", torch.tensor(one), persistent=False)
        self.register_buffer(f"two_{number}", torch.tensor(two), persistent=False)

    def _constants(self, number: int) -> tuple[Tensor, Tensor]:
        return self.get_buffer(f"one_{number}"), self.get_buffer(f"two_{number}")


class TargetTransform(FeatureTransform):
    """Transform several regression targets of one kind of thing (the event, or a stream).

    Targets are always brought to order one, whether their declaration says ``standardise`` or not:
    a loss cannot know the unit. An angle is learnt as (cos, sin). Missing targets (NaN) stay NaN.

    Args:
        contract: Holds the targets' tensors, with their transforms.
        names: Which targets, ``m_ttbar`` for ``target/m_ttbar``, in the order of the last axis.
        statistics: Statistics of the training split.
    """

    def __init__(self, contract: Contract, names: Sequence[str], statistics: Statistics) -> None:
        features = {name: contract[f"target/{name}"].features[""] for name in names}
        columns, transformed = {}, {}
        for name in names:
            found = statistics.tensors.get(f"target/{name}")
            if found is not None:
                # The statistics of a target have one column, "".
                columns[name] = found.columns[""]
                if "" in found.transformed:
                    transformed[name] = found.transformed[""]
        joint = TensorStatistics(columns=columns, transformed=transformed)
        super().__init__(features, joint, "target", standardise=True)


def _scale(
    name: str,
    feature: Feature,
    statistics: TensorStatistics | None,
    where: str,
    *,
    always: bool,
) -> tuple[float, float]:
    """Mean and width that a column is standardised with."""
    declared = "standardise" in feature.transform
    if not declared and not always:
        return 0.0, 1.0
    found = None
    if statistics is not None:
        found = statistics.transformed.get(name)
        parts = transform_parts(feature.transform)
        if found is None and parts.shape == "plain" and not parts.between:
            found = statistics.columns.get(name)
    if found is None:
        if not declared:
            return 0.0, 1.0
        raise ConfigurationError(
            f"{where}.{name}: standardise needs the mean and width of the training split, but "
            "the statistics do not hold this column; prepare the dataset again"
        )
    return found.mean, found.width


def _constants(step: AffineStep | ClipStep | None) -> Affine:
    if not isinstance(step, AffineStep):
        return Affine()
    if step.affine == "auto":
        raise ConfigurationError(
            "affine: auto takes its constants from the training events: a model is built with the "
            "event and the contract of a dataset"
        )
    return step.affine


def _side_by_side(parts: list[Tensor], order: Tensor) -> Tensor:
    """Join the groups' columns and bring them into an order."""
    if len(parts) == 1 and parts[0].shape[-1] == len(order):
        return parts[0]
    return torch.cat(parts, -1).index_select(-1, order)


def _inverted(order: Sequence[int]) -> list[int]:
    """The permutation that undoes another one."""
    inverse = [0] * len(order)
    for position, index in enumerate(order):
        inverse[index] = position
    return inverse
