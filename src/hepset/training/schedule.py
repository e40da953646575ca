"""Optimizer and learning rate."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from hepset.errors import ConfigurationError, did_you_mean
from hepset.plugins import registry
from hepset.schema.config import TrainConfig

__all__ = ["create_optimizer", "learning_rate_factor", "parameter_groups"]

_DECAYING_SHARE = 0.3
"""Share of the epochs in which ``flat_decay`` decays."""
_LAST_FACTOR = 0.01
"""What is left of the learning rate in the last of them."""


def parameter_groups(
    model: nn.Module,
    weight_decay: float,
    *,
    learning_rate: float | None = None,
    factors: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """Divide the trainable parameters by weight decay and learning rate.

    Matrices decay: weights of two or more axes, but not embeddings; biases, norms and learned
    tokens do not.

    Args:
        model: What is trained.
        weight_decay: Of the matrices.
        learning_rate: Of the parameters without a factor; needed with `factors`.
        factors: Start of parameters' names → factor of their learning rate; the longest that fits
            counts.

    Raises:
        ConfigurationError: If no parameter has a name with a given start.
    """
    factors = factors or {}
    found: dict[tuple[float, bool], list[nn.Parameter]] = {}
    seen: set[int] = set()
    used: set[str] = set()
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            full = f"{path}.{name}" if path else name
            fitting = [start for start in factors if f"{full}.".startswith(f"{start}.")]
            used.update(fitting)
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            matrix = name.endswith("weight") and parameter.ndim >= 2
            is_embedding = isinstance(module, nn.Embedding | nn.EmbeddingBag)
            factor = factors[max(fitting, key=len)] if fitting else 1.0
            found.setdefault((factor, matrix and not is_embedding), []).append(parameter)
    for start in factors:
        if start not in used:
            parts = ["backbone", *(f"heads.{name}" for name in getattr(model, "heads", ()))]
            raise ConfigurationError(
                f"train.learning_rate_factors: no parameter's name starts with {start!r}"
                f"{did_you_mean(start, parts)}; such are {', '.join(parts)}"
            )
    return [
        {
            "params": parameters,
            "weight_decay": weight_decay if decays else 0.0,
            **({"lr": factor * learning_rate} if learning_rate is not None else {}),
        }
        for (factor, decays), parameters in sorted(
            found.items(), key=lambda item: (item[0][0] != 1.0, item[0][0], not item[0][1])
        )
    ]


def create_optimizer(
    model: nn.Module, config: TrainConfig, *, fused: bool, devices: int = 1
) -> Optimizer:
    """Build the optimizer that a configuration names.

    Args:
        model: What is trained.
        config: The training options.
        fused: Whether to use torch's fused implementation where there is one.
        devices: Number of devices that share a step, for `train.scale_learning_rate`.

    Raises:
        ConfigurationError: If an option does not fit.
        UnknownComponentError: If no installed plugin provides it.
    """
    cls, options = registry().choose("optimizers", config.optimizer, "train.optimizer")
    for key, place in (("lr", "learning_rate"), ("weight_decay", "weight_decay")):
        if key in options:
            raise ConfigurationError(f"train.optimizer.{key}: set train.{place} instead")
    if fused and "fused" in inspect.signature(cls).parameters:
        options.setdefault("fused", True)
    scale = {"none": 1.0, "linear": float(devices), "sqrt": math.sqrt(devices)}
    rate = config.learning_rate * scale[config.scale_learning_rate]
    groups = parameter_groups(
        model, config.weight_decay, learning_rate=rate, factors=config.learning_rate_factors
    )
    if not groups:
        raise ConfigurationError("model: every parameter is frozen, there is nothing to train")
    try:
        optimizer: Optimizer = cls(groups, lr=rate, **options)
    except (TypeError, ValueError) as problem:
        raise ConfigurationError(f"train.optimizer: {cls.__name__}: {problem}") from None
    return optimizer


def learning_rate_factor(
    step: int, *, warmup: float, total: int, schedule: str, cycles: int = 1, epochs: int = 1
) -> float:
    """Return the learning rate of a step, as a fraction of its peak.

    Args:
        step: Number of steps before this one.
        warmup: Steps of the linear warm-up; the first step already learns.
        total: Steps of the whole training.
        schedule: ``cosine`` and ``linear`` fall to 0 at `total`; ``constant`` stays;
            ``flat_decay`` falls to 0.01 in the last 30 % of the epochs, at the start of each.
        cycles: Number of cosines between warm-up and `total`.
        epochs: Number of epochs of the whole training, for ``flat_decay``.
    """
    if step + 1 < warmup:
        return (step + 1) / warmup
    if schedule == "constant" or total <= warmup:
        return 1.0
    if schedule == "flat_decay":
        decaying = max(1, int(_DECAYING_SHARE * epochs))
        epoch = min(step * epochs // total, epochs - 1)
        return float(_LAST_FACTOR ** (max(0, epoch - (epochs - decaying) + 1) / decaying))
    progress = min(1.0, max(0.0, (step - warmup) / (total - warmup)))
    if schedule == "linear":
        return 1 - progress
    within = math.modf(cycles * progress)[0] if progress < 1 else 1.0
    return 0.5 * (1 + math.cos(math.pi * within))
