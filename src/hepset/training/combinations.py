"""The core's ways to combine the losses of several heads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor, nn

from hepset.errors import ConfigurationError, did_you_mean
from hepset.interfaces.loss_combination import LossCombination, LossCombinationConfig
from hepset.plugins import registry

__all__ = ["Famo", "FamoConfig", "Fixed", "Uncertainty", "UncertaintyConfig", "create_combination"]


class Fixed(LossCombination):
    """The sum of the losses, each times its factor."""

    def __init__(self, tasks: tuple[str, ...], config: LossCombinationConfig) -> None:
        super().__init__(tasks, config)
        self._last: tuple[tuple[object, ...], Tensor] | None = None

    def forward(self, terms: Mapping[str, Tensor], factors: Mapping[str, float]) -> Tensor:
        """Return Σ factor · loss."""
        means = torch.stack(list(terms.values()))
        each = tuple(factors.get(name.partition("/")[0], 1.0) for name in terms)
        return (means * self._vector(each, means)).sum()

    def _vector(self, values: tuple[float, ...], like: Tensor) -> Tensor:
        """Bring numbers to a device once, and from page-locked memory: nothing waits for it."""
        key = (values, like.dtype, like.device)
        if self._last is None or self._last[0] != key:
            here = torch.tensor(values, dtype=like.dtype)
            if like.device.type == "cuda":
                here = here.pin_memory()
            self._last = key, here.to(like.device, non_blocking=True)
        return self._last[1]


class UncertaintyConfig(LossCombinationConfig):
    """Options of `Uncertainty`."""

    start: float = 0.0
    """Start value of every s = ln σ²."""


class Uncertainty(LossCombination):
    """Weights that are learnt with the model, one log-variance s for every task.

    The loss is Σ factor · (exp(−s) ℓ + s / 2) (Kendall, Gal and Cipolla, CVPR 2018, eq. 10, with
    s = ln σ²). At the minimum exp(−s) = 1 / (2 ℓ): tasks of any size count alike, times their
    factors. For losses that are positive.
    """

    Config: ClassVar[type[LossCombinationConfig]] = UncertaintyConfig

    def __init__(self, tasks: tuple[str, ...], config: UncertaintyConfig) -> None:
        super().__init__(tasks, config)
        self.log_variances = nn.ParameterDict(
            {_key(task): nn.Parameter(torch.tensor(config.start)) for task in tasks}
        )

    def forward(self, terms: Mapping[str, Tensor], factors: Mapping[str, float]) -> Tensor:
        """Return Σ factor · (exp(−s) ℓ + s / 2)."""
        parts = []
        for task, loss in self.by_task(terms, factors).items():
            s = self.log_variances[_key(task)]
            # Where no event of the batch has a target, there is nothing to weigh.
            part = torch.where(loss == 0, loss, torch.exp(-s) * loss + s / 2)
            parts.append(factors.get(task, 1.0) * part)
        return torch.stack(parts).sum() if parts else _nothing(terms)

    def shares(self) -> dict[str, float]:
        """Return exp(−s) of every task."""
        return {t: float(torch.exp(-self.log_variances[_key(t)].detach())) for t in self.seen}


class FamoConfig(LossCombinationConfig):
    """Options of `Famo`."""

    learning_rate: PositiveFloat = 0.025
    """Learning rate of the logits, by Adam."""
    weight_decay: float = Field(default=0.01, ge=0)
    """γ of the paper, which pulls the logits to equal weights."""
    lower: dict[str, float] = Field(default_factory=dict)
    """Task → lower bound of its loss, for losses that can be negative; others have 0."""


class Famo(LossCombination):
    """Fast adaptive multitask optimisation: all losses fall at the same relative rate.

    With z = softmax(ξ) and D = ℓ − lower, a step follows the gradient of c Σ z ln D where
    c = 1 / Σ(z / D) is constant. After it the same batch is looked at again, and ξ takes a step of
    Adam along δ = (∂z/∂ξ)ᵀ (ln D − ln D′) + γ ξ (Liu, Feng, Stone and Liu, NeurIPS 2023,
    algorithm 1). Factors multiply z.
    """

    Config: ClassVar[type[LossCombinationConfig]] = FamoConfig
    config: FamoConfig
    looks_again: ClassVar[bool] = True
    advice: ClassVar[str] = (
        "train.loss_combination: famo needs positive losses; give lower bounds of those that are "
        "not as lower: {<head>: …}"
    )

    def __init__(self, tasks: tuple[str, ...], config: FamoConfig) -> None:
        super().__init__(tasks, config)
        for name in config.lower:
            if name not in tasks:
                raise ConfigurationError(
                    f"train.loss_combination.lower: the model has no head {name!r}"
                    f"{did_you_mean(name, tasks)}; it has {', '.join(tasks)}"
                )
        self.register_buffer("logits", torch.zeros(len(tasks)))
        self.logits: Tensor
        self._optimizer: torch.optim.Adam | None = None
        self._stored: dict[str, Any] | None = None
        self._before: dict[str, Tensor] = {}

    def forward(self, terms: Mapping[str, Tensor], factors: Mapping[str, float]) -> Tensor:
        """Return c Σ z ln(ℓ − lower); NaN where a loss is below its bound."""
        distances = self._distances(terms, factors)
        if not distances:
            return _nothing(terms)
        self._before = {task: value.detach() for task, value in distances.items()}
        weights = self._weights(distances)
        scaled = torch.stack([factors.get(task, 1.0) * weights[task] for task in distances])
        values = torch.stack(list(distances.values()))
        is_there = values != 0
        scaled = torch.where(is_there, scaled, 0.0)
        values = torch.where(is_there, values, 1.0)
        total = (scaled / values.detach()).sum()
        return (scaled * torch.log(values)).sum() / torch.where(total == 0, 1.0, total)

    @torch.no_grad()
    def after_step(self, terms: Mapping[str, Tensor], factors: Mapping[str, float]) -> None:
        """Move the logits towards the tasks that fell less."""
        after = self._distances(terms, factors)
        common = [task for task in after if task in self._before]
        if not common:
            return
        before = torch.stack([self._before[task] for task in common])
        now = torch.stack([after[task] for task in common])
        fell = torch.where((before > 0) & (now > 0), torch.log(before) - torch.log(now), 0.0)
        # (∂z/∂ξ)ᵀ v = z (v − Σ z v), the softmax taken over the tasks that are there.
        weights = self._weights(dict.fromkeys(common))
        z = torch.stack([weights[task] for task in common])
        gradient = torch.zeros_like(self.logits)
        where = [self.tasks.index(task) for task in common]
        for place, value in zip(where, z * (fell - (z * fell).sum()), strict=True):
            gradient[place] = value
        optimizer = self._adam()
        self.logits.grad = gradient
        optimizer.step()
        self.logits.grad = None

    def shares(self) -> dict[str, float]:
        """Return z of every task."""
        tasks = [task for task in self.tasks if task in self.seen]
        return {task: float(z) for task, z in self._weights(dict.fromkeys(tasks)).items()}

    def get_extra_state(self) -> dict[str, Any]:
        """Return the state of Adam."""
        return self._adam().state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take up the state of Adam."""
        self._adam().load_state_dict(state)

    def _adam(self) -> torch.optim.Adam:
        if self._optimizer is None or self._optimizer.param_groups[0]["params"][0] is not (
            self.logits
        ):
            before = None if self._optimizer is None else self._optimizer.state_dict()
            self._optimizer = torch.optim.Adam(
                [self.logits],
                lr=self.config.learning_rate,
                weight_decay=self.config.weight_decay,
            )
            if before is not None:  # The logits were moved to another device.
                self._optimizer.load_state_dict(before)
        return self._optimizer

    def _distances(
        self, terms: Mapping[str, Tensor], factors: Mapping[str, float]
    ) -> dict[str, Tensor]:
        found = {}
        for task, loss in self.by_task(terms, factors).items():
            bound = self.config.lower.get(task, 0.0)
            # Where no event of the batch has a target, the loss is exactly 0, and so is this.
            found[task] = torch.where(loss == 0, loss, loss - bound) if bound else loss
        return found

    def _weights(self, tasks: Mapping[str, object]) -> dict[str, Tensor]:
        chosen = [self.logits[self.tasks.index(task)] for task in tasks]
        return dict(zip(tasks, torch.softmax(torch.stack(chosen), 0), strict=True))


def _key(task: str) -> str:
    return f"{task}_s"


def _nothing(terms: Mapping[str, Tensor]) -> Tensor:
    """Return 0 with the gradients of what does not count."""
    return 0.0 * torch.stack(list(terms.values())).sum()


def create_combination(named: str | Mapping[str, Any], tasks: tuple[str, ...]) -> LossCombination:
    """Build the combination that a configuration names.

    Args:
        named: Short name, or ``{name: …, <options>}``.
        tasks: Heads, and ``backbone`` where the backbone gives losses.

    Raises:
        ConfigurationError: If an option does not fit, or names no task.
        UnknownComponentError: If no installed plugin provides it.
    """
    made: LossCombination = registry().create(
        "loss_combinations", named, "train.loss_combination", tasks
    )
    return made
