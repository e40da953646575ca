"""Losses of single predictions, with the targets that are missing left out.

Every function is elementwise, keeps the shape of the target, and returns an `EventLoss`: the
value, exactly 0 where the target is missing, and where it counts. A missing target is NaN, or -1
for a class. Nothing that stands beside a missing target, NaN included, reaches a gradient. An
infinite target is not missing: it gives an infinite loss.

Losses are computed in at least single precision, also where the predictions are half precision.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from hepset.errors import ConfigurationError, ContractError

__all__ = [
    "LOG_SCALE_LIMIT",
    "MISSING_CLASS",
    "EventLoss",
    "binary_cross_entropy",
    "bounded_log_scale",
    "cross_entropy",
    "gaussian_nll",
    "huber",
    "laplace_nll",
    "mean_over_objects",
    "mse",
    "ordered_quantiles",
    "quantile_loss",
]

MISSING_CLASS = -1
"""The class index that stands for a missing label."""

LOG_SCALE_LIMIT = 10.0
"""Bound of the log-variance and log-scale that the likelihood losses use."""


class EventLoss(NamedTuple):
    """A loss per target, and which of them count."""

    value: Tensor
    """The loss, float, shape of the target; 0 where not valid."""
    valid: Tensor
    """True where the target exists, shape of the target."""


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    class_weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> EventLoss:
    """Cross-entropy of class logits with class indices.

    Args:
        logits: Shape ``(..., class)``.
        target: Class indices, integer, shape ``(...)``; -1 is missing.
        class_weights: Factor per true class, shape ``(class,)``. The values are not divided by
            the sum of weights. With smoothing they weight the smoothed classes too, as in torch.
        label_smoothing: Share of the target spread evenly over all classes, in [0, 1).

    Raises:
        ContractError: If the shapes do not fit or, on a CPU, a class index is outside the classes;
            on a GPU the loss is NaN there.
        ConfigurationError: If `label_smoothing` is outside [0, 1).
    """
    if not 0 <= label_smoothing < 1:
        message = f"label_smoothing must be in [0, 1), got {label_smoothing}"
        raise ConfigurationError(message)
    _check_shapes("cross_entropy", logits.shape[:-1], target.shape)
    classes = logits.shape[-1]
    valid = target != MISSING_CLASS
    index = torch.where(valid, target, 0).long()
    is_class = (index >= 0) & (index < classes)
    if index.device.type == "cuda":
        # A GPU is not waited for: its loss is NaN, which stops the training a little later.
        index = index.clamp(0, classes - 1)
    elif not bool(is_class.all()):
        low, high = int(index.min()), int(index.max())
        message = (
            f"cross_entropy: class indices reach from {low} to {high}, but there are {classes} "
            f"classes, 0 to {classes - 1}; a missing label is {MISSING_CLASS}"
        )
        raise ContractError(message)
    safe = torch.where(valid[..., None], _at_least_single(logits), 0.0)
    value = functional.cross_entropy(
        safe.reshape(-1, classes),
        index.reshape(-1),
        weight=None if class_weights is None else class_weights.to(safe.dtype),
        label_smoothing=label_smoothing,
        reduction="none",
    ).reshape(target.shape)
    if index.device.type == "cuda":
        value = torch.where(is_class, value, float("nan"))
    return EventLoss(torch.where(valid, value, 0.0), valid)


def binary_cross_entropy(logit: Tensor, target: Tensor) -> EventLoss:
    """Cross-entropy of a yes/no logit with a probability in [0, 1]; NaN is missing."""
    valid, target, logit = _prepare("binary_cross_entropy", target, logit)
    value = functional.binary_cross_entropy_with_logits(logit, target, reduction="none")
    return EventLoss(torch.where(valid, value, 0.0), valid)


def mse(prediction: Tensor, target: Tensor) -> EventLoss:
    """Squared error ``d^2``; NaN targets are missing."""
    valid, target, prediction = _prepare("mse", target, prediction)
    return EventLoss(torch.where(valid, (prediction - target) ** 2, 0.0), valid)


def huber(prediction: Tensor, target: Tensor, *, beta: float = 1.0) -> EventLoss:
    """Huber loss: ``d^2 / 2`` up to ``|d| = beta``, then ``beta (|d| - beta / 2)``.

    Args:
        prediction: Any shape.
        target: Same shape; NaN is missing.
        beta: Where the square turns into a line, in the unit of the target; positive.

    Raises:
        ConfigurationError: If `beta` is not positive.
    """
    if not beta > 0:
        message = f"huber: beta must be positive, got {beta}"
        raise ConfigurationError(message)
    valid, target, prediction = _prepare("huber", target, prediction)
    value = functional.huber_loss(prediction, target, delta=beta, reduction="none")
    return EventLoss(torch.where(valid, value, 0.0), valid)


def bounded_log_scale(raw: Tensor, limit: float = LOG_SCALE_LIMIT) -> Tensor:
    """Bring a raw network output smoothly into ``(-limit, limit)``.

    ``limit tanh(raw / limit)`` is the identity near 0 and keeps a gradient where a hard clamp
    has none. The likelihood losses use it; decoding a width has to use it too.
    """
    return limit * torch.tanh(raw / limit)


def gaussian_nll(mean: Tensor, raw_log_variance: Tensor, target: Tensor) -> EventLoss:
    """Negative log-likelihood of a normal distribution whose width is predicted.

    ``((t - mean)^2 / var + ln var + ln 2 pi) / 2`` with ``ln var =
    bounded_log_scale(raw_log_variance)``.

    Args:
        mean: Any shape.
        raw_log_variance: Same shape.
        target: Same shape; NaN is missing.
    """
    valid, target, mean, raw = _prepare("gaussian_nll", target, mean, raw_log_variance)
    log_variance = bounded_log_scale(raw)
    pull2 = (target - mean) ** 2 * torch.exp(-log_variance)
    value = 0.5 * (pull2 + log_variance + math.log(2 * math.pi))
    return EventLoss(torch.where(valid, value, 0.0), valid)


def laplace_nll(median: Tensor, raw_log_scale: Tensor, target: Tensor) -> EventLoss:
    """Negative log-likelihood of a Laplace distribution whose scale is predicted.

    ``|t - median| / b + ln 2b`` with ``ln b = bounded_log_scale(raw_log_scale)``.

    Args:
        median: Any shape.
        raw_log_scale: Same shape.
        target: Same shape; NaN is missing.
    """
    valid, target, median, raw = _prepare("laplace_nll", target, median, raw_log_scale)
    log_scale = bounded_log_scale(raw)
    value = (target - median).abs() * torch.exp(-log_scale) + log_scale + math.log(2)
    return EventLoss(torch.where(valid, value, 0.0), valid)


def ordered_quantiles(raw: Tensor) -> Tensor:
    """Turn raw outputs ``(..., quantile)`` into quantiles that never cross.

    The first is taken as it is; each next one adds a softplus to the one before.
    """
    steps = functional.softplus(raw[..., 1:])
    return torch.cat([raw[..., :1], steps], -1).cumsum(-1)


def quantile_loss(raw: Tensor, target: Tensor, levels: Sequence[float]) -> EventLoss:
    """Pinball loss of several quantiles, averaged over them.

    ``max(q d, (q - 1) d)`` with ``d = t - ordered_quantiles(raw)``; decoding has to use
    `ordered_quantiles` too.

    Args:
        raw: Raw outputs, shape ``(..., quantile)``.
        target: Shape ``(...)``; NaN is missing.
        levels: Probability of each quantile, strictly increasing in (0, 1).

    Raises:
        ConfigurationError: If the levels are not strictly increasing in (0, 1).
        ContractError: If `raw` does not hold one output per level and target.
    """
    if not levels or not all(a < b for a, b in pairwise([0.0, *levels, 1.0])):
        message = f"quantile levels must be strictly increasing within (0, 1), got {list(levels)}"
        raise ConfigurationError(message)
    _check_shapes("quantile_loss", raw.shape, (*target.shape, len(levels)))
    valid = ~torch.isnan(target)
    raw = torch.where(valid[..., None], _at_least_single(raw), 0.0)
    safe = torch.where(valid, target, 0.0).to(raw.dtype)
    level = _levels(tuple(levels), raw.dtype, raw.device)
    distance = safe[..., None] - ordered_quantiles(raw)
    value = torch.maximum(level * distance, (level - 1) * distance).mean(-1)
    return EventLoss(torch.where(valid, value, 0.0), valid)


@lru_cache(maxsize=32)
def _levels(levels: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Bring the levels to a device once: a GPU waits for every copy."""
    return torch.tensor(levels, dtype=dtype, device=device)


def mean_over_objects(loss: EventLoss) -> EventLoss:
    """Average losses ``(batch, ...)`` over the valid targets of each event.

    Returns:
        Value and valid of shape ``(batch,)``; an event without a valid target is not valid.
    """
    value, valid = loss.value.flatten(1), loss.valid.flatten(1)
    count = valid.sum(1)
    return EventLoss(value.sum(1) / count.clamp(min=1), count > 0)


def _prepare(name: str, target: Tensor, *predictions: Tensor) -> tuple[Tensor, ...]:
    """Return valid, target and predictions, with zeros where the target is missing."""
    for prediction in predictions:
        _check_shapes(name, prediction.shape, target.shape)
    valid = ~torch.isnan(target)
    safe = [torch.where(valid, _at_least_single(prediction), 0.0) for prediction in predictions]
    return (valid, torch.where(valid, target, 0.0).to(safe[0].dtype), *safe)


def _at_least_single(x: Tensor) -> Tensor:
    return x.float() if x.dtype in {torch.float16, torch.bfloat16} else x


def _check_shapes(name: str, found: Sequence[int], expected: Sequence[int]) -> None:
    # Broadcasting (batch,) against (batch, 1) would silently compare every event with every other.
    if tuple(found) != tuple(expected):
        message = (
            f"{name}: predictions {tuple(found)} do not fit targets, which ask for "
            f"{tuple(expected)}"
        )
        raise ContractError(message)
