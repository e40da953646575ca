"""`ClassificationHead`: which class an event, or an object, belongs to."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Tensor

from hepset.errors import ConfigurationError, did_you_mean
from hepset.heads.discriminants import Discriminant, Score, resolve_scores, score_of
from hepset.heads.entries import Entries, entries_with_label, first_events
from hepset.heads.rejection import rejection
from hepset.heads.variables import Variable, event_variables, object_variables
from hepset.interfaces.backbone import Encoded
from hepset.interfaces.head import (
    Drawing,
    EncoderHandle,
    Evaluation,
    Head,
    HeadConfig,
    LossTerm,
    Metric,
    Separation,
)
from hepset.nn.losses import cross_entropy, mean_over_objects
from hepset.nn.mlp import MLP
from hepset.schema.contract import Contract, target_spec
from hepset.schema.event import EventInfo
from hepset.schema.statistics import LabelCounts, Statistics
from hepset.schema.tensors import Labels, TensorSpec
from hepset.uncertainty import Estimate, auc, auc_value, efficiency, weighted_mean

__all__ = ["ClassificationConfig", "ClassificationHead"]

logger = logging.getLogger(__name__)

Array = NDArray[Any]

_FLOOR = 1e-12
"""Smallest probability under the logarithm of the log-loss."""
_SCORE_SHARES = (0.3, 0.5)
"""Signal efficiencies at which a score is judged."""
_PAIR_SHARES = (0.5, 0.8)
"""Signal efficiencies at which two classes are judged."""
_SINGLY_JUDGED = 20
"""Classes that have an AUC of their own in the report."""
_FIT_EVENTS = 20_000
"""Events on which the best single variable is chosen."""


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
        self.scores = resolve_scores(self.config.scores, target.classes, place)
        spec = target_spec(event, name, wanted_by=self.name)
        return Contract(tensors={spec.name: spec.model_copy(update={"required": True})})

    def build(self, contract: Contract, statistics: Statistics, width: int) -> None:
        """Make the layers.

        Raises:
            ConfigurationError: If the number of classes is unknown.
        """
        spec = contract[self.tensor]
        classes = _classes(spec)
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

    def metrics(self, evaluation: Evaluation) -> list[Metric]:
        """Give AUC, accuracy and log-loss; for two classes also the background rejection.

        With two classes the second is the signal. AUC errors are DeLong's, or bootstrapped where
        there are weights or objects.
        """
        entries = entries_with_label(evaluation, self.config.target)
        if not len(entries):
            return []
        probabilities = entries.of(evaluation.predictions["probabilities"])
        truth = entries.truth
        found = [
            _metric(name, auc(probabilities[:, c], truth == c, entries.weight, entries.groups))
            for name, c in self._one_against_rest(evaluation)
        ]
        correct = probabilities.argmax(axis=1) == truth
        found.append(_metric("accuracy", efficiency(correct, entries.weight, entries.groups)))
        surprise = -np.log(np.maximum(probabilities[np.arange(len(truth)), truth], _FLOOR))
        value, error = weighted_mean(surprise, entries.weight, entries.groups)
        found.append(Metric("log-loss", value, error, better="lower"))
        if probabilities.shape[1] == 2:
            found += [rejection(probabilities[:, 1], entries, share) for share in _PAIR_SHARES]
        if self.config.top:
            top = entries.of(evaluation.predictions["top"])
            within = (top == truth[:, None]).any(1)
            name = f"top-{self.config.top} accuracy"
            found.append(_metric(name, efficiency(within, entries.weight, entries.groups)))
        for score, values, judged in self._judged(evaluation, entries):
            found += _score_metrics(score.name, values, judged)
        return found

    def _judged(
        self, evaluation: Evaluation, entries: Entries
    ) -> Iterator[tuple[Score, Array, Entries]]:
        """Scores with their values at the entries of signal and background, truth 1 and 0."""
        for score in self.scores:
            chosen, judged = score.judged(entries)
            if len(judged):
                yield score, entries.of(evaluation.predictions[score.name])[chosen], judged

    def baselines(self, evaluation: Evaluation) -> list[Metric]:
        """Give what the best single variable reaches, and what knowing only the classes gives.

        The variable and its direction are chosen on the training events, where there are any.
        """
        entries = entries_with_label(evaluation, self.config.target)
        if not len(entries):
            return []
        found = []
        for name, c in self._one_against_rest(evaluation):
            best = self.best_variable(evaluation, c)
            if best is None:
                continue
            label, score = best
            positive = entries.truth == c
            area = auc(score, positive, entries.weight, entries.groups)
            found.append(_metric(name, area, of=label))
            if c == 1 and name == "AUC":
                found += [rejection(score, entries, share, of=label) for share in _PAIR_SHARES]
        for judged in self.scores:
            chosen, kept = judged.judged(entries)
            best = self.best_variable(evaluation, judged) if len(kept) else None
            if best is not None:
                found += _score_metrics(judged.name, best[1][chosen], kept, of=best[0])
        shares = self.prior.double().cpu().numpy()
        if shares.sum() > 0:
            always = efficiency(
                entries.truth == int(shares.argmax()), entries.weight, entries.groups
            )
            largest = _class_names(evaluation, self.config.target, len(shares))[shares.argmax()]
            found.append(_metric("accuracy", always, of=f"always {largest} (trivial)"))
            surprise = -np.log(np.maximum(shares[entries.truth], _FLOOR))
            value, error = weighted_mean(surprise, entries.weight, entries.groups)
            label = "shares of the training split (trivial)"
            found.append(Metric("log-loss", value, error, better="lower", of=label))
        return found

    def figures(self, evaluation: Evaluation) -> list[Drawing]:
        """Draw ROC curves, score distributions, the confusion matrix and the calibration."""
        from hepset.heads import classification_figures as draw  # noqa: PLC0415  matplotlib

        entries = entries_with_label(evaluation, self.config.target)
        if not len(entries):
            return []
        probabilities = entries.of(evaluation.predictions["probabilities"])
        names = _class_names(evaluation, self.config.target, probabilities.shape[1])
        curves, scores = [], []
        for _, c in self._one_against_rest(evaluation):
            best = self.best_variable(evaluation, c)
            curves.append(draw.Curve(names[c], c, probabilities[:, c], best))
            scores.append(c)
        train: tuple[Entries, Array] | None = None
        if evaluation.train is not None:
            seen = entries_with_label(evaluation.train, self.config.target)
            if len(seen):
                train = seen, seen.of(evaluation.train.predictions["probabilities"])
        kind = "objects" if self.stream else "events"
        about = f"{len(entries)} {kind}" + (", weighted" if evaluation.weighted else "")
        balanced = self.config.class_balance != "none"
        judged = {}
        for score, values, kept in self._judged(evaluation, entries):
            best = self.best_variable(evaluation, score)
            chosen = score.judged(entries)[0]
            simple = None if best is None else (best[0], best[1][chosen])
            judged[score.name] = draw.Judged(values, kept, simple)
        return [
            *([draw.score_roc(judged, about)] if judged else []),
            draw.roc(curves, entries, about),
            *draw.scores(scores, names, entries, probabilities, train, about),
            draw.confusion(names, entries, probabilities, about),
            draw.calibration(
                scores,
                names,
                entries,
                probabilities,
                about,
                balanced=balanced,
                drawn=evaluation.drawn.get(f"target/{self.config.target}"),
            ),
        ]

    def separations(self, event: EventInfo) -> dict[str, str | None]:
        """Name the scores, then the classes: the probability of one is a score against the rest."""
        target = event.targets[self.config.target]
        return dict.fromkeys([*self.config.scores, *(target.classes or ())], target.stream)

    def separation(self, evaluation: Evaluation, name: str) -> Separation:
        """Return a score, or the probability of a class, with the best single variable beside it.

        Raises:
            KeyError: If there is neither.
        """
        entries = entries_with_label(evaluation, self.config.target)
        for score in self.scores:
            if score.name == name:
                chosen, judged = score.judged(entries)
                values = entries.of(evaluation.predictions[name])[chosen]
                best = self.best_variable(evaluation, score)
                simple = None if best is None else (best[0], best[1][chosen])
                return Separation(values, judged.truth == 1, judged.keep, simple)
        classes = evaluation.event.targets[self.config.target].classes or ()
        if name not in classes:
            raise KeyError(name)
        c = list(classes).index(name)
        values = entries.of(evaluation.predictions["probabilities"])[:, c]
        simple = self.best_variable(evaluation, c)
        return Separation(values, entries.truth == c, entries.keep, simple)

    def best_variable(
        self, evaluation: Evaluation, against: int | Score
    ) -> tuple[str, Array] | None:
        """Find the single variable that separates best.

        Args:
            evaluation: The events; it is chosen on those of the training, where there are any.
            against: A class, which is separated from the rest, or a score with its two sides.

        Returns:
            What it is, and its values at the evaluation's entries with the sign that makes them a
            score of the signal; None where there is nothing to choose from.
        """
        side = f"score {against.name}" if isinstance(against, Score) else f"class {against}"
        choice = evaluation.once(
            f"best variable of {self.name} for {side}",
            lambda: self._choose_variable(evaluation, against),
        )
        if choice is None:
            return None
        best, sign = choice
        variable = self._variables(evaluation)[best]
        entries = entries_with_label(evaluation, self.config.target)
        label = variable.name if sign > 0 else f"minus {variable.name}"
        if evaluation.train is None:
            label += " (chosen on these events)"
        return label, sign * _with_lowest(entries.of(variable.values))

    def _choose_variable(
        self, evaluation: Evaluation, against: int | Score
    ) -> tuple[int, float] | None:
        """Return the number of the best variable, and the sign that makes it a score."""
        chosen_on = evaluation.train if evaluation.train is not None else evaluation
        chosen_on = first_events(chosen_on, _FIT_EVENTS)
        known = entries_with_label(chosen_on, self.config.target)
        if isinstance(against, Score):
            known = against.judged(known)[1]
            against = 1
        positive = known.truth == against
        if positive.all() or not positive.any():
            return None
        best, sign, distance = None, 1.0, -1.0
        for position, variable in enumerate(self._variables(chosen_on)):
            values = _with_lowest(known.of(variable.values))
            area = auc_value(values, positive, known.weight)
            if not math.isnan(area) and abs(area - 0.5) > distance:
                best, sign, distance = position, (1.0 if area >= 0.5 else -1.0), abs(area - 0.5)
        return None if best is None else (best, sign)

    def _variables(self, evaluation: Evaluation) -> list[Variable]:
        stream = self.stream

        def compute() -> list[Variable]:
            if stream is None:
                found = event_variables(evaluation)
            else:
                found = object_variables(evaluation, stream)
            return [variable for variable in found if not variable.oriented]

        variables: list[Variable] = evaluation.once(f"variables of {stream}", compute)
        return variables

    def _one_against_rest(self, evaluation: Evaluation) -> list[tuple[str, int]]:
        """Name of the AUC and class index; two classes have one AUC.

        Of many classes those are judged singly that a score calls signal, then the most frequent
        in training.
        """
        count = len(self.prior)
        if count == 2:
            return [("AUC", 1)]
        names = _class_names(evaluation, self.config.target, count)
        chosen = list(range(count))
        if count > _SINGLY_JUDGED:
            called_signal = {c for score in self.scores for c in score.signal}
            frequent = np.argsort(-self.prior.cpu().numpy(), kind="stable")
            first = [*sorted(called_signal), *(c for c in frequent if c not in called_signal)]
            chosen = sorted(int(c) for c in first[:_SINGLY_JUDGED])
        return [(f"AUC {names[c]} against the rest", c) for c in chosen]


def _score_metrics(name: str, values: Array, judged: Entries, of: str = "") -> list[Metric]:
    """AUC and rejections of a score, given at the entries of its two sides."""
    area = auc(values, judged.truth == 1, judged.weight, judged.groups)
    return [
        _metric(f"{name}: AUC", area, of=of),
        *(rejection(values, judged, share, prefix=f"{name}: ", of=of) for share in _SCORE_SHARES),
    ]


def _metric(name: str, estimate: Estimate, of: str = "") -> Metric:
    return Metric(name, estimate.value, estimate.error, of=of)


def _classes(spec: TensorSpec) -> int | None:
    known = [r.classes for r in spec.rules if isinstance(r, Labels) and r.classes is not None]
    return known[0] if known else None


def _class_names(evaluation: Evaluation, target: str, count: int) -> list[str]:
    declared = evaluation.event.targets[target].classes
    return list(declared) if declared else [f"class {c}" for c in range(count)]


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


def _with_lowest(values: Array) -> Array:
    """Put a value that does not exist below all others."""
    known = values[np.isfinite(values)]
    lowest = known.min() - 1 if len(known) else 0.0
    filled: Array = np.where(np.isfinite(values), values, lowest)
    return filled
