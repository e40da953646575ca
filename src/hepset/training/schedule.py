"""Optimizer and learning rate."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from hepset.errors import ConfigurationError
from hepset.plugins import registry
from hepset.schema.config import TrainConfig

__all__ = ["create_optimizer", "learning_rate_factor", "parameter_groups"]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Divide the trainable parameters into those that decay and those that do not.

    Matrices decay: weights of two or more axes, but not embeddings; biases, norms and learned
    tokens do not.
    """
    decaying: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            matrix = name.endswith("weight") and parameter.ndim >= 2
            is_embedding = isinstance(module, nn.Embedding | nn.EmbeddingBag)
            (decaying if matrix and not is_embedding else others).append(parameter)
    groups = [
        {"params": decaying, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def create_optimizer(model: nn.Module, config: TrainConfig, *, fused: bool) -> Optimizer:
    """Build the optimizer that a configuration names.

    Args:
        model: What is trained.
        config: The training options.
        fused: Whether to use torch's fused implementation where there is one.

    Raises:
        ConfigurationError: If an option does not fit.
        UnknownComponentError: If no installed plugin provides it.
    """
    given: Mapping[str, Any] = (
        {"name": config.optimizer} if isinstance(config.optimizer, str) else config.optimizer
    )
    name = given.get("name")
    if not isinstance(name, str):
        raise ConfigurationError(
            "train.optimizer: 'name' says which optimizer this is; available: "
            f"{', '.join(registry().names('optimizers'))}"
        )
    options = {key: value for key, value in given.items() if key != "name"}
    for key, place in (("lr", "learning_rate"), ("weight_decay", "weight_decay")):
        if key in options:
            raise ConfigurationError(f"train.optimizer.{key}: set train.{place} instead")
    cls = registry().load("optimizers", name)
    if fused and "fused" in inspect.signature(cls).parameters:
        options.setdefault("fused", True)
    groups = parameter_groups(model, config.weight_decay)
    if not groups:
        raise ConfigurationError("model: every parameter is frozen, there is nothing to train")
    try:
        optimizer: Optimizer = cls(groups, lr=config.learning_rate, **options)
    except (TypeError, ValueError) as problem:
        raise ConfigurationError(f"train.optimizer: {name}: {problem}") from None
    return optimizer


def learning_rate_factor(
    step: int, *, warmup: float, total: int, schedule: str, cycles: int = 1
) -> float:
    """Return the learning rate of a step, as a fraction of its peak.

    Args:
        step: Number of steps before this one.
        warmup: Steps of the linear warm-up; the first step already learns.
        total: Steps of the whole training.
        schedule: ``cosine`` and ``linear`` fall to 0 at `total`; ``constant`` stays.
        cycles: Number of cosines between warm-up and `total`.
    """
    if step + 1 < warmup:
        return (step + 1) / warmup
    if schedule == "constant" or total <= warmup:
        return 1.0
    progress = min(1.0, max(0.0, (step - warmup) / (total - warmup)))
    if schedule == "linear":
        return 1 - progress
    within = math.modf(cycles * progress)[0] if progress < 1 else 1.0
    return 0.5 * (1 + math.cos(math.pi * within))
