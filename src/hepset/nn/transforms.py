"""From physical values to model space and back: logarithms, angles, standardisation.

Datasets and graph inputs hold physical values; the logarithms and the scaling are layers of the
model, so that they travel with its weights. Every transform is invertible, works on all columns of
a tensor at once, and exports to ONNX.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from hepset.errors import ConfigurationError
from hepset.schema.contract import Contract
from hepset.schema.event import Feature
from hepset.schema.statistics import Statistics, TensorStatistics

__all__ = ["FeatureTransform", "TargetTransform"]

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

    A circular column becomes the two columns (cos, sin), every other one stays one column; their
    order is that of the features. Values at or below the bound of a logarithm, which the contract
    refuses, are taken as the smallest value above it, so that the graph stays finite.

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
        for index, (name, feature) in enumerate(features.items()):
            step = _step(feature)
            groups.setdefault(step, []).append(index)
            if step == "circular":
                columns.append([len(scales), len(scales) + 1])
                scales += [(0.0, 1.0)] * 2
            else:
                columns.append([len(scales)])
                scales.append(_scale(name, feature, statistics, where, always=standardise))
        self.steps = tuple(groups)
        self.width_in = len(columns)
        self.width_out = len(scales)
        self.columns = tuple(tuple(part) for part in columns)
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
        self._keep("order_in", _inverted(grouped_in))
        self._keep("order_out", _inverted(grouped_out))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Bring physical values ``(..., width_in)`` to model space, ``(..., width_out)``.

        Args:
            x: Physical values; NaN stays NaN.
            mask: True where the entry is real, shape ``(...)``; elsewhere the result is exactly
                0 whatever `x` holds, and no gradient flows.
        """
        if mask is not None:
            x = torch.where(mask[..., None], x, 0.0)
        parts = []
        for step in self.steps:
            part = self._take(x, f"physical_{step}")
            if step == "circular":
                parts += [torch.cos(part), torch.sin(part)]
            else:
                parts.append(_FORWARD[step](part))
        y = (self._joined(parts, "order_out", x) - self.mean) / self.width
        return y if mask is None else torch.where(mask[..., None], y, 0.0)

    def inverse(self, y: Tensor, mask: Tensor | None = None) -> Tensor:
        """Bring model-space values ``(..., width_out)`` back, ``(..., width_in)``.

        Angles come back in [−π, π]. Exponents are limited to ±80, which float32 can hold.
        """
        y = y * self.width + self.mean
        parts = []
        for step in self.steps:
            if step == "circular":
                parts.append(torch.atan2(self._take(y, "sine"), self._take(y, "cosine")))
            else:
                parts.append(_INVERSE[step](self._take(y, f"model_{step}")))
        x = self._joined(parts, "order_in", y)
        return x if mask is None else torch.where(mask[..., None], x, 0.0)

    def spread(self, y: Tensor, spread: Tensor) -> Tensor:
        """Propagate widths in model space to physical widths, to first order.

        Args:
            y: Values in model space, shape ``(..., width_out)``.
            spread: Their widths, same shape, not negative.

        Returns:
            Widths in physical units, shape ``(..., width_in)``; at most π for an angle.
        """
        y, spread = y * self.width + self.mean, spread * self.width
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
        return self._joined(parts, "order_in", y)

    def _keep(self, name: str, indices: Sequence[int]) -> None:
        self.register_buffer(name, torch.tensor(indices, dtype=torch.int64), persistent=False)

    def _take(self, x: Tensor, name: str) -> Tensor:
        if len(self.steps) == 1 and self.steps[0] != "circular":
            return x
        return x.index_select(-1, self.get_buffer(name))

    def _joined(self, parts: list[Tensor], order: str, like: Tensor) -> Tensor:
        if not parts:
            return like
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts, -1).index_select(-1, self.get_buffer(order))


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


def _step(feature: Feature) -> str:
    """The one step that is not a standardisation."""
    steps = [step for step in feature.transform if step != "standardise"]
    return steps[0] if steps else "plain"


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
        if found is None and _step(feature) == "plain":
            found = statistics.columns.get(name)
    if found is None:
        if not declared:
            return 0.0, 1.0
        raise ConfigurationError(
            f"{where}.{name}: standardise needs the mean and width of the training split, but "
            "the statistics do not hold this column; prepare the dataset again"
        )
    return found.mean, found.width


def _inverted(order: Sequence[int]) -> list[int]:
    """The permutation that undoes another one."""
    inverse = [0] * len(order)
    for position, index in enumerate(order):
        inverse[index] = position
    return inverse
