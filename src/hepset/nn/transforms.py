"""From physical values to model space and back: logarithms, angles, standardisation.

Datasets and graph inputs hold physical values; the logarithms and the scaling are layers of the
model, so that they travel with its weights. Every transform is invertible, works on all columns of
a tensor at once, and exports to ONNX.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from hepset.errors import ConfigurationError
from hepset.schema.contract import Contract
from hepset.schema.feature import Feature
from hepset.schema.statistics import Statistics, TensorStatistics
from hepset.schema.steps import Affine, AffineStep, ClipStep, Curve, FixedStep, transform_parts

__all__ = ["FeatureTransform", "TargetTransform"]

_RADIUS_FLOOR: Final = 1e-6
"""Smallest length of a predicted (cos, sin) that its spread is divided by."""


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
        self.curves: dict[str, Curve | None] = {}
        columns: list[list[int]] = []
        scales: list[tuple[float, float]] = []
        before: list[tuple[FixedStep, ...]] = []
        between: list[tuple[FixedStep, ...]] = []
        after: list[tuple[FixedStep, ...]] = []
        for index, (name, feature) in enumerate(features.items()):
            parts = transform_parts(feature.transform)
            before.append(parts.before if feature.input else ())
            if not feature.input:
                columns.append([])
                continue
            groups.setdefault(parts.shape, []).append(index)
            self.curves[parts.shape] = parts.curve
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
            curve = self.curves[step]
            if step == "circular":
                parts += [torch.cos(part), torch.sin(part)]
            elif curve is None:
                parts.append(part)
            else:
                inside = part if curve.floor == -math.inf else part.clamp(min=curve.floor)
                parts.append(curve.forward(inside, torch))
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
            curve = self.curves[step]
            if step == "circular":
                parts.append(torch.atan2(self._take(y, "sine"), self._take(y, "cosine")))
            else:
                part = self._take(y, f"model_{step}")
                parts.append(part if curve is None else curve.inverse(part, torch))
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
                name, curve = f"model_{step}", self.curves[step]
                part = self._take(spread, name)
                parts.append(
                    part if curve is None else curve.slope(self._take(y, name), torch) * part
                )
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

    def __init__(self, columns: Sequence[tuple[FixedStep, ...]]) -> None:
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


def _constants(step: FixedStep | None) -> Affine:
    if not isinstance(step, AffineStep):
        return Affine()
    try:
        return step.constants
    except ValueError as problem:
        raise ConfigurationError(str(problem)) from problem


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
