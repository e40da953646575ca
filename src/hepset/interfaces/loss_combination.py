"""`LossCombination`: how the losses of several heads become the one that is differentiated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from hepset.interfaces.component import ComponentConfig

__all__ = ["LossCombination", "LossCombinationConfig"]


class LossCombinationConfig(ComponentConfig):
    """Options of a loss combination."""


class LossCombination(nn.Module, ABC):
    """Combines the losses of the heads, which it calls tasks.

    Its parameters are trained with the model's, without weight decay; they and its buffers are
    stored in checkpoints. What decides which checkpoint is the best is the sum of the losses times
    their factors, whatever the combination.

    Args:
        tasks: Names of the heads, and ``backbone`` where the backbone gives losses.
        config: Options.
    """

    Config: ClassVar[type[LossCombinationConfig]] = LossCombinationConfig
    """Model of the options."""
    looks_again: ClassVar[bool] = False
    """Whether `after_step` wants the losses of the same batch after the step: a second pass
    through the model, without gradients."""
    advice: ClassVar[str] = ""
    """What a message says about a loss that is not finite, such as which losses do not fit."""

    def __init__(self, tasks: tuple[str, ...], config: LossCombinationConfig) -> None:
        super().__init__()
        self.config = config
        self.tasks = tasks
        self.seen: set[str] = set()

    @abstractmethod
    def forward(self, terms: Mapping[str, Tensor], factors: Mapping[str, float]) -> Tensor:
        """Combine the losses of a batch.

        Args:
            terms: ``<task>/<term>`` → mean over the events, a scalar; of several processes the
                value is that of all, the gradient that of one.
            factors: Factor of every task, of `train.stages` and of the head; 0 counts nothing.

        Returns:
            A scalar.
        """

    def after_step(self, terms: Mapping[str, Tensor], factors: Mapping[str, float]) -> None:
        """Learn from what a step did to the losses of its batch, where `looks_again`."""

    def shares(self) -> dict[str, float]:
        """Return what the history shows of every task, such as its weight."""
        return {}

    def by_task(
        self, terms: Mapping[str, Tensor], factors: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Add up the terms of every task that counts."""
        found: dict[str, list[Tensor]] = {}
        for name, value in terms.items():
            task = name.partition("/")[0]
            if factors.get(task, 1.0):
                found.setdefault(task, []).append(value)
        self.seen.update(found)
        return {task: torch.stack(values).sum() for task, values in found.items()}
