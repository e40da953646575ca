"""`ClassificationHead`: which class an event, or an object, belongs to."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from hepset.errors import ConfigurationError, did_you_mean
from hepset.heads.discriminants import Discriminant, resolve_scores, score_of
from hepset.interfaces.backbone import Encoded
from hepset.interfaces.head import (
    EncoderHandle,
    Head,
    HeadConfig,
    LossTerm,
    Prediction,
    refuse_own_axes,
)
from hepset.judges.classes import Score
from hepset.nn.losses import cross_entropy, mean_over_objects
from hepset.nn.mlp import MLP
from hepset.schema.contract import Contract, target_spec
from hepset.schema.event import EventInfo
from hepset.schema.statistics import LabelCounts, Statistics

__all__ = ["ClassificationConfig", "ClassificationHead"]

logger = logging.getLogger(__name__)

Array = NDArray[Any]


class ClassificationConfig(HeadConfig):
    """Options of a classification."""

    target: str
    """Target of kind classification; per object where it declares a stream."""
    hidden: tuple[PositiveInt, ...] = (64,)
    """Widths of the hidden layers between embedding and classes."""
    activation: str = "gelu"
    """Activation of the hidden layers."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability of dropout in the hidden layers, in training."""
    norm: bool = True
    """Whether a LayerNorm comes before every layer."""
    class_balance: Literal["none", "inverse", "effective"] = "none"
    """Factor of the loss by true class, beside the physical event weight: ``inverse`` gives every
    class the same sum of weights, ``effective`` counts overlapping samples (arXiv:1901.05555).
    With either the output is no posterior of the training sample."""
    effective_beta: float = Field(default=0.999, gt=0, lt=1)
    """β of ``effective``: about 1 / (1 − β) events of a class say something new."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Share of every label that is spread over all classes."""
    scores: dict[str, Discriminant] = Field(default_factory=dict)
    """Further fields of the predictions: name → ``{signal: [X_bb], background: [QCD_*]}``, the
    score s / (s + b) of summed probabilities; judged at 30 % and 50 % signal efficiency."""
    top: NonNegativeInt = 0
    """Give so many most probable classes, fields ``top`` and ``top_probabilities``."""


class ClassificationHead(Head):
    """A small network on the embedding, and a softmax.

    Attributes:
        prior: Share of each class in the training split, by sum of weights, shape ``(class,)``;
            zeros where it is unknown. It is saved with the weights: divide by it (and multiply by
            `class_weights`) to bring the output to another mixture of classes.
        class_weights: Factor of the loss by class, shape ``(class,)``.
    """

    Config: ClassVar[type[HeadConfig]] = ClassificationConfig
    knows_event_width: ClassVar[bool] = True
    config: ClassificationConfig
    prior: Tensor
    class_weights: Tensor
    scores: list[Score]

    def contract(self, event: EventInfo) -> Contract:
        """Require the target.

        Raises:
            ConfigurationError: If the event does not declare it, or not as a classification.
        """
        name = self.config.target
        target = event.targets.get(name)
        known = [n for n, t in event.targets.items() if t.kind == "classification"]
        if target is None or target.kind != "classification":
            problem = (
                f"the target {name!r} is a {target.kind}"
                if target
                else f"the event declares no target {name!r}{did_you_mean(name, known)}"
            )
            raise ConfigurationError(
                f"model.heads.{self.name}.target: {problem}; targets of kind classification: "
                f"{', '.join(known) or 'none'}"
            )
        place = f"model.heads.{self.name}"
        refuse_own_axes(target, f"{place}.target: {name!r}")
        self.scores = resolve_scores(self.config.scores, target.classes, place)
        spec = target_spec(event, name, wanted_by=self.name)
        return Contract(tensors={spec.name: spec.model_copy(update={"required": True})})

    def build(self, contract: Contract, statistics: Statistics, width: int) -> None:
        """Make the layers.

        Raises:
            ConfigurationError: If the number of classes is unknown.
        """
        spec = contract[self.tensor]
        classes = contract.classes(self.tensor)
        if classes is None:
            raise ConfigurationError(
                f"model.heads.{self.name}: the number of classes of {spec.name} is unknown; name "
                f"them in the event file (targets.{self.config.target}.classes) or prepare the "
                "dataset, which counts them"
            )
        if self.config.top > classes:
            raise ConfigurationError(
                f"model.heads.{self.name}.top: {self.config.top} of {classes} classes"
            )
        self.stream = spec.dims[1] if len(spec.dims) > 1 else None
        self.network = MLP(
            width if self.stream is not None else self.event_width or width,
            self.config.hidden,
            classes,
            activation=self.config.activation,
            norm=self.config.norm,
            dropout=self.config.dropout,
        )
        counts = statistics.labels.get(self.tensor)
        events, weights = _per_class(counts, classes)
        total = weights.sum()
        self.register_buffer(
            "prior", torch.tensor(weights / total if total > 0 else weights).float()
        )
        factors = _balance(self.config, events, weights, self.name)
        self.register_buffer("class_weights", torch.tensor(factors).float())

    @property
    def tensor(self) -> str:
        """Name of the target's tensor."""
        return f"target/{self.config.target}"

    def forward(self, encoded: Encoded, encoder: EncoderHandle) -> dict[str, Tensor]:
        """Compute ``logits`` (B, C), or (B, N, C) and the ``mask`` (B, N) for objects."""
        del encoder
        if self.stream is None:
            return {"logits": self.network(encoded.event)}
        logits = self.network(encoded.objects[self.stream])
        return {"logits": logits, "mask": encoded.masks[self.stream]}

    def loss(
        self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> dict[str, LossTerm]:
        """Compute ``cross_entropy`` with the class balance; objects are averaged per event."""
        logits = outputs["logits"]
        labels = targets.get(self.tensor)
        if labels is None:
            labels = torch.full(logits.shape[:-1], -1, device=logits.device)
        found = cross_entropy(
            logits,
            labels,
            class_weights=None if self.config.class_balance == "none" else self.class_weights,
            label_smoothing=self.config.label_smoothing,
        )
        if self.stream is not None:
            found = mean_over_objects(found)
        return {"cross_entropy": LossTerm(found.value, found.valid)}

    def decode(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give ``probabilities`` (B, C), or (B, N, C) with 0 in padded slots.

        Beside them every score (B,), and the classes ``top`` (B, k), the most probable first, with
        their ``top_probabilities``; for objects likewise, −1 and 0 in padded slots.
        """
        logits = outputs["logits"].float()
        found = {"probabilities": torch.softmax(logits, -1)}
        found |= {score.name: score_of(logits, score) for score in self.scores}
        if self.config.top:
            likely = torch.topk(found["probabilities"], self.config.top, -1)
            found |= {"top": likely.indices, "top_probabilities": likely.values}
        if "mask" not in outputs:
            return found
        mask = outputs["mask"]
        return {
            name: torch.where(
                mask if value.dim() == mask.dim() else mask[..., None],
                value,
                -1 if name == "top" else 0.0,
            )
            for name, value in found.items()
        }

    def predictions(self, event: EventInfo) -> list[Prediction]:
        """Say that the fields are classes, with the scores and the shares that were learnt."""
        target = event.targets[self.config.target]
        scores = resolve_scores(self.config.scores, target.classes, f"model.heads.{self.name}")
        fields = {"probabilities": "probabilities"} | {name: name for name in self.config.scores}
        if self.config.top:
            fields |= {"top": "top", "top_probabilities": "top_probabilities"}
        prior = getattr(self, "prior", None)
        return [
            Prediction(
                "classes",
                self.config.target,
                fields,
                axes=("event",) if target.stream is None else ("event", target.stream),
                options={
                    "scores": scores,
                    "balanced": self.config.class_balance != "none",
                    "prior": None if prior is None else prior.double().cpu().numpy(),
                },
            )
        ]


def _per_class(counts: LabelCounts | None, classes: int) -> tuple[Array, Array]:
    """Events and sums of weights by class, zeros where unknown."""
    events, weights = np.zeros(classes), np.zeros(classes)
    if counts is not None:
        events[: len(counts.events)] = counts.events[:classes]
        weights[: len(counts.weights)] = counts.weights[:classes]
    return events, np.maximum(weights, 0.0)


def _balance(config: ClassificationConfig, events: Array, weights: Array, name: str) -> Array:
    """Factor by class; classes without events, and all without a balance, have 1.

    Scaled so that the weighted mean over the training split is 1.
    """
    factors = np.ones(len(events))
    if config.class_balance == "none":
        return factors
    known = (events > 0) & (weights > 0)
    if not known.any():
        raise ConfigurationError(
            f"model.heads.{name}.class_balance: {config.class_balance} needs the number of events "
            "per class, but the statistics of the training split do not hold them"
        )
    if not known.all():
        logger.warning("head %s: classes without training events are not balanced", name)
    if config.class_balance == "inverse":
        raw = 1 / weights[known]
    else:
        beta = config.effective_beta
        # expm1 and log keep what 1 - beta^n would round to 1.
        raw = (1 - beta) / -np.expm1(events[known] * math.log(beta))
    factors[known] = raw * weights[known].sum() / (raw * weights[known]).sum()
    return factors
