"""Optimizer and learning rate."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer

from hepset.errors import ConfigurationError, did_you_mean
from hepset.plugins import registry
from hepset.schema.config import TrainConfig

__all__ = [
    "create_optimizer",
    "learning_rate_factor",
    "learning_rate_factors",
    "parameter_groups",
]

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
    of_stages: Sequence[Mapping[str, float]] = (),
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
        of_stages: The same for each stage, instead of `factors` that name the same; groups then
            have ``stages``, the factors of their learning rate in the stages.

    Raises:
        ConfigurationError: If no parameter has a name with a given start.
    """
    factors = factors or {}
    of_stages = [{**factors, **own} for own in of_stages]
    starts = list(dict.fromkeys([*factors, *(start for own in of_stages for start in own)]))
    found: dict[tuple[float, bool, tuple[float, ...]], list[nn.Parameter]] = {}
    seen: set[int] = set()
    used: set[str] = set()
    for path, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            full = f"{path}.{name}" if path else name
            fitting = [start for start in starts if f"{full}.".startswith(f"{start}.")]
            used.update(fitting)
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            matrix = name.endswith("weight") and parameter.ndim >= 2
            is_embedding = isinstance(module, nn.Embedding | nn.EmbeddingBag)
            factor = _longest(factors, fitting)
            stages = tuple(_longest(own, fitting) / factor for own in of_stages)
            found.setdefault((factor, matrix and not is_embedding, stages), []).append(parameter)
    for start in starts:
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
            **({"stages": stages} if any(stage != 1.0 for stage in stages) else {}),
        }
        for (factor, decays, stages), parameters in sorted(
            found.items(),
            key=lambda item: (item[0][0] != 1.0, item[0][0], not item[0][1], item[0][2]),
        )
    ]


def _longest(factors: Mapping[str, float], starts: Sequence[str]) -> float:
    """Return the factor of the longest of some starts that has one, else 1."""
    known = [start for start in starts if start in factors]
    return factors[max(known, key=len)] if known else 1.0


def create_optimizer(
    model: nn.Module,
    config: TrainConfig,
    *,
    fused: bool,
    devices: int = 1,
    others: Sequence[nn.Parameter] = (),
) -> Optimizer:
    """Build the optimizer that a configuration names.

    Args:
        model: What is trained.
        config: The training options.
        fused: Whether to use torch's fused implementation where there is one.
        devices: Number of devices that share a step, for `train.scale_learning_rate`.
        others: What else is trained, without weight decay.

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
        model,
        config.weight_decay,
        learning_rate=rate,
        factors=config.learning_rate_factors,
        of_stages=[stage.learning_rate_factors for stage in config.stages],
    )
    if not groups:
        raise ConfigurationError("model: every parameter is frozen, there is nothing to train")
    if others:
        groups.append({"params": list(others), "weight_decay": 0.0, "lr": rate})
    try:
        optimizer: Optimizer = cls(groups, lr=rate, **options)
    except (TypeError, ValueError) as problem:
        raise ConfigurationError(f"train.optimizer: {cls.__name__}: {problem}") from None
    return optimizer


def learning_rate_factors(
    config: TrainConfig, groups: Sequence[Mapping[str, Any]], steps: int
) -> list[Callable[[int], float]]:
    """Return the learning rate of every group of parameters as a function of the step.

    Args:
        config: The training options.
        groups: What `parameter_groups` gave.
        steps: Steps per epoch.

    Returns:
        For each group the fraction of its peak.
    """
    peaks = [(stage.learning_rate or config.learning_rate) for stage in config.stages]

    def factor(step: int, of_stages: Sequence[float]) -> float:
        found = learning_rate_factor(
            step,
            warmup=config.warmup_epochs * steps,
            total=config.total_epochs * steps,
            schedule=config.schedule,
            cycles=config.cycles,
            epochs=config.total_epochs,
            fall=(config.steps.epochs * steps, config.steps.factor),
        )
        if not peaks:
            return found
        stage = config.stage_of(step // steps)
        return found * (peaks[stage] / config.learning_rate) * of_stages[stage]

    plain = (1.0,) * len(peaks)
    return [partial(factor, of_stages=group.get("stages", plain)) for group in groups]


def learning_rate_factor(
    step: int,
    *,
    warmup: float,
    total: int,
    schedule: str,
    cycles: int = 1,
    epochs: int = 1,
    fall: tuple[float, float] = (1.0, 1.0),
) -> float:
    """Return the learning rate of a step, as a fraction of its peak.

    Args:
        step: Number of steps before this one.
        warmup: Steps of the linear warm-up; the first step already learns.
        total: Steps of the whole training.
        schedule: ``cosine`` and ``linear`` fall to 0 at `total`; ``constant`` stays;
            ``flat_decay`` falls to 0.01 in the last 30 % of the epochs, at the start of each;
            ``step`` falls as `fall` says.
        cycles: Number of cosines between warm-up and `total`.
        epochs: Number of epochs of the whole training, for ``flat_decay``.
        fall: Steps, counted from the first, from one fall of ``step`` to the next, and the
            learning rate after one as a fraction of that before.
    """
    if step + 1 < warmup:
        return (step + 1) / warmup
    if schedule == "constant" or (total <= warmup and schedule != "step"):
        return 1.0
    if schedule == "step":
        every, factor = fall
        return float(factor ** math.floor(step / every))
    if schedule == "flat_decay":
        decaying = max(1, int(_DECAYING_SHARE * epochs))
        epoch = min(step * epochs // total, epochs - 1)
        return float(_LAST_FACTOR ** (max(0, epoch - (epochs - decaying) + 1) / decaying))
    progress = min(1.0, max(0.0, (step - warmup) / (total - warmup)))
    if schedule == "linear":
        return 1 - progress
    within = math.modf(cycles * progress)[0] if progress < 1 else 1.0
    return 0.5 * (1 + math.cos(math.pi * within))
