"""From losses per event to one number: event weights, missing targets, weights of heads.

The loss of a term is Σ w·value / n over the n valid events of a batch, linear in the weights. The
weights are divided by their mean magnitude over the training split, a constant, so that the size
of the loss and the best learning rate do not depend on their normalisation.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hepset.dataset import Split
from hepset.errors import TrainingError
from hepset.interfaces.head import LossTerm
from hepset.interfaces.loss_combination import LossCombination, LossCombinationConfig
from hepset.model import Model
from hepset.training.combinations import Fixed

__all__ = ["LossSums", "WeightSummary", "WeightedLoss", "summarise_weights"]

_LOG = logging.getLogger(__name__)

NegativeWeights = Literal["keep", "abs", "drop", "error"]
MANY_NEGATIVE = 0.05


@dataclass(frozen=True)
class WeightSummary:
    """Weights of a training split.

    Attributes:
        mean: Mean magnitude.
        negative: Fraction of negative weights.
        effective: Effective sample size, (Σw)² / Σw².
        events: Number of events.
    """

    mean: float
    negative: float
    effective: float
    events: int


def summarise_weights(
    split: Split, names: Sequence[str], policy: NegativeWeights
) -> dict[str, WeightSummary]:
    """Add up the weight tensors of a split that it has.

    Args:
        split: The training split.
        names: Names of weight tensors.
        policy: What negative weights do.

    Raises:
        TrainingError: If there are negative weights and the policy is ``error``, or a weight
            vanishes for all events.
    """
    stored = [name for name in names if name in split.layouts]
    if not stored or not len(split):
        return {}
    sums = {name: np.zeros(4) for name in stored}
    for _, columns in split.groups(stored):
        for name in stored:
            w: NDArray[Any] = np.asarray(columns[name], np.float64)
            sums[name] += (np.abs(w).sum(), (w < 0).sum(), w.sum(), (w * w).sum())
    found = {}
    for name, (magnitude, negative, total, squares) in sums.items():
        if squares == 0:
            raise TrainingError(f"{name}: the weights of all {len(split)} training events are 0")
        summary = WeightSummary(
            mean=float(magnitude / len(split)),
            negative=float(negative / len(split)),
            effective=float(total * total / squares),
            events=len(split),
        )
        found[name] = summary
        if not negative:
            continue
        said = (
            f"{name}: {summary.negative:.1%} of {len(split)} training events have negative "
            f"weights, effective sample size {summary.effective:.0f}"
        )
        if policy == "error":
            raise TrainingError(
                f"{said}; train.negative_weights: keep, abs or drop says what they do to the loss"
            )
        level = logging.WARNING if summary.negative > MANY_NEGATIVE else logging.INFO
        _LOG.log(level, "%s; train.negative_weights: %s", said, policy)
    return found


class LossSums:
    """Sums over the batches of an epoch: Σ w·value and the number of valid events per term."""

    def __init__(self, terms: Mapping[str, Sequence[float]] | None = None) -> None:
        self._sums: dict[str, Tensor] = {
            name: torch.tensor(list(values), dtype=torch.float64)
            for name, values in (terms or {}).items()
        }

    def add(self, name: str, total: Tensor, count: Tensor) -> None:
        """Add what one batch gave for a term; nothing is copied off the device."""
        wide = torch.float32 if total.device.type == "mps" else torch.float64
        pair = torch.stack([total.detach().to(wide), count.to(wide)])
        known = self._sums.get(name)
        self._sums[name] = pair if known is None else known.to(pair.device) + pair

    def stacked(self, names: Sequence[str], device: torch.device) -> Tensor:
        """Return the sums of some terms, shape ``(term, 2)``; 0 where nothing was added."""
        if not names:
            return torch.zeros(0, 2, device=device)
        zero = torch.zeros(2, dtype=torch.float64)
        rows = [self._sums.get(name, zero) for name in names]
        kind = torch.float32 if device.type == "mps" else torch.float64
        return torch.stack([row.to(device=device, dtype=kind) for row in rows])

    @property
    def names(self) -> list[str]:
        """Terms that something was added for."""
        return list(self._sums)


class WeightedLoss:
    """Combines the losses of all heads.

    Args:
        model: Its heads say their factors and their targets.
        summaries: Weight tensors that batches may hold, with their mean magnitudes.
        policy: What negative weights do: ``keep`` counts them as they are, ``abs`` as positive,
            ``drop`` leaves the events out (also of the number n).
        combination: How the losses become one; null = their sum.
    """

    def __init__(
        self,
        model: Model,
        summaries: Mapping[str, WeightSummary],
        policy: NegativeWeights,
        combination: LossCombination | None = None,
    ) -> None:
        self.policy = policy
        self.combination = combination or Fixed(tuple(model.config.heads), LossCombinationConfig())
        self.scales = {name: 1 / summary.mean for name, summary in summaries.items()}
        self.factors: dict[str, float] = {}
        self.stage_factors: dict[str, float] = {}
        """Factors of the stage beside the heads' own, now."""
        self.final_factors: dict[str, float] = {}
        """The same at the end of the stage, by which its epochs are compared."""
        self.targets: dict[str, list[str]] = {}
        """Targets whose weights multiply the terms of a head, by head."""
        for name in model.config.heads:
            head = model.head(name)
            self.factors[name] = head.config.loss_weight
            if head.weighs_targets:
                self.targets[name] = []
                continue
            wanted = head.contract(model.event).of_kind("target", "index")
            self.targets[name] = [spec.name.removeprefix("target/") for spec in wanted]

    def prepared(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the batch as heads see it that weigh their targets themselves.

        The weights of targets have mean magnitude one over the training split; negative ones are
        positive by the policy ``abs``, 0 by ``drop``.
        """
        found = dict(batch)
        for name, scale in self.scales.items():
            if name == "weight" or name not in batch:
                continue
            weight = batch[name].float() * scale
            if self.policy == "abs":
                weight = weight.abs()
            elif self.policy == "drop":
                weight = weight.clamp(min=0)
            found[name] = weight
        return found

    def __call__(
        self,
        terms: Mapping[str, LossTerm],
        batch: Mapping[str, Tensor],
        mean_over_processes: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        """Combine the terms of a batch.

        Args:
            terms: ``<head>/<term>`` → value and valid per event.
            batch: Holds the weights.
            mean_over_processes: Averages a tensor over processes whose gradients will be averaged
                too. The loss is then divided by their mean number of valid events, so that the
                gradient is that of all their batches taken as one.

        Returns:
            The loss, and of every term Σ w·value and the number of valid events. A term without
            any valid event contributes 0.
        """
        means, sums = self.means(terms, batch, mean_over_processes)
        if mean_over_processes is not None and not isinstance(self.combination, Fixed):
            # Combinations that are no sums see the losses of all processes.
            here = torch.stack(list(means.values())).detach()
            rest = mean_over_processes(here) - here
            means = {name: means[name] + rest[i] for i, name in enumerate(means)}
        factors = {name: self._factor(name, self.stage_factors) for name in self._tasks(terms)}
        return self.combination(means, factors), sums

    def after_step(
        self,
        terms: Mapping[str, LossTerm],
        batch: Mapping[str, Tensor],
        mean_over_processes: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        """Show the combination what the step did to the losses of its batch; see `__call__`."""
        means, _ = self.means(terms, batch, mean_over_processes)
        if mean_over_processes is not None:
            everyone = mean_over_processes(torch.stack(list(means.values())))
            means = dict(zip(means, everyone, strict=True))
        factors = {name: self._factor(name, self.stage_factors) for name in self._tasks(terms)}
        self.combination.after_step(means, factors)

    def means(
        self,
        terms: Mapping[str, LossTerm],
        batch: Mapping[str, Tensor],
        mean_over_processes: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, Tensor]]]:
        """Return the mean of every term, and Σ w·value and the number of valid events."""
        if not terms:
            raise TrainingError("no head gives a loss; there is nothing to train")
        sums: dict[str, tuple[Tensor, Tensor]] = {}
        for name, term in terms.items():
            head, _, short = name.partition("/")
            weight = self._weight(head, short, batch)
            valid = term.valid
            if weight is not None and self.policy == "drop":
                valid = valid & (weight >= 0)
            value = torch.where(valid, term.value.float(), 0.0)
            if weight is not None:
                weight = weight.abs() if self.policy == "abs" else weight
                value = value * weight.float()
            sums[name] = value.sum(), valid.sum()
        totals = torch.stack([total for total, _ in sums.values()])
        counts = torch.stack([count for _, count in sums.values()]).to(totals.dtype)
        if mean_over_processes is not None:
            counts = mean_over_processes(counts)
        # Where no event is valid the sum is 0, whatever it is divided by.
        means = totals / torch.where(counts > 0, counts, 1.0)
        return dict(zip(sums, means, strict=True)), sums

    def mean(self, sums: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        """Return the mean of every term and their sum ``loss``, from summed batches."""
        means = {name: total / max(count, 1) for name, (total, count) in sums.items()}
        factors = {name: self._factor(name, self.final_factors) for name in self._tasks(sums)}
        loss = sum(factors[name.partition("/")[0]] * value for name, value in means.items())
        return {"loss": loss, **means}

    @staticmethod
    def _tasks(terms: Iterable[str]) -> list[str]:
        return list(dict.fromkeys(name.partition("/")[0] for name in terms))

    def _factor(self, task: str, of_stage: Mapping[str, float]) -> float:
        return self.factors.get(task, 1.0) * of_stage.get(task, 1.0)

    def _weight(self, head: str, term: str, batch: Mapping[str, Tensor]) -> Tensor | None:
        """The event's weight times that of the target, or of all targets of the head."""
        targets = self.targets.get(head, [])
        chosen = [term] if term in targets else targets
        found: Tensor | None = None
        for name in ("weight", *(f"weight/{target}" for target in chosen)):
            if name in self.scales and name in batch:
                part = batch[name] * self.scales[name]
                found = part if found is None else found * part
        return found
