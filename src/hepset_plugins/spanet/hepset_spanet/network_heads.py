"""Heads that read SPANet's network: regression and classification."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hepset.errors import ConfigurationError, did_you_mean
from hepset.interfaces.backbone import Encoded
from hepset.interfaces.head import (
    EncoderHandle,
    Head,
    HeadConfig,
    LossTerm,
    Prediction,
)
from hepset.schema.contract import Contract, compile_contract, target_spec
from hepset.schema.event import EventInfo
from hepset.schema.statistics import Statistics
from hepset_assignment.balance import effective_weights
from hepset_spanet.backbone import read_network
from hepset_spanet.matching import Matching
from hepset_spanet.names import spanet_key

__all__ = [
    "SpanetClassificationConfig",
    "SpanetClassificationHead",
    "SpanetRegressionConfig",
    "SpanetRegressionHead",
]

_STD = ".std"


class SpanetRegressionConfig(HeadConfig):
    """Options of the regressions of SPANet's network."""

    targets: tuple[str, ...]
    """Names of the targets."""
    parity: Literal["none", "spanet"] = "none"
    """Targets of interchangeable particles follow the permutation that fits the assignment best,
    and errors of a target with the transform ``asinh`` are those after it. ``spanet`` compares in
    the order of the file, and squares such errors in the target's own unit."""


class SpanetRegressionHead(Head):
    """Reads the regressions, in the targets' own units.

    Args:
        name: Name of the head.
        config: Options.
    """

    Config: ClassVar[type[HeadConfig]] = SpanetRegressionConfig
    config: SpanetRegressionConfig

    def contract(self, event: EventInfo) -> Contract:
        """Require the targets, and where it follows a permutation the assignment.

        Raises:
            ConfigurationError: If the event declares no such regression, or SPANet's network has
                no place for it.
        """
        self.keys = {name: _key(self, event, name, "regression") for name in self.config.targets}
        self.matching = Matching(event, self.config.targets, follow=self.config.parity == "none")
        return _required(self, event, [*self.config.targets, *self.matching.siblings])

    def build(self, contract: Contract, statistics: Statistics, width: int) -> None:
        """Nothing is built: the parameters are the network's."""

    def forward(self, encoded: Encoded, encoder: EncoderHandle) -> dict[str, Tensor]:
        """Give SPANet's key → value, and ``<key>.std``, the width of the target, (B,) both.

        Raises:
            ConfigurationError: If the backbone is another one.
        """
        del encoder
        network, outputs = read_network(self.name, encoded)
        found = {}
        for key in self.keys.values():
            value = outputs.regressions[key]
            found[key] = value
            found[f"{key}{_STD}"] = network.regression_decoder.std(key).expand_as(value)
        self.kinds = {key: network.topology.regressions[key] for key in self.keys.values()}
        return found | self.matching.outputs(encoded, outputs)

    def loss(
        self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> dict[str, LossTerm]:
        """Give the error of each target, in units of its width: squared, or absolute."""
        order = self.matching.order(outputs, targets)
        found = {}
        for name, key in self.keys.items():
            truth = self.matching.target(name, targets, order, missing=math.nan)
            predicted, std, kind = outputs[key], outputs[f"{key}{_STD}"], self.kinds[key]
            valid = ~torch.isnan(truth)
            truth = torch.where(valid, truth.to(predicted.dtype), 0.0)
            if kind == "log_gaussian" and self.config.parity == "none":
                difference = (torch.asinh(predicted / 2) - torch.asinh(truth / 2)) / std
            elif kind == "log_gaussian":
                difference = predicted - truth
            else:
                difference = (predicted - truth) / std
            error = difference.abs() if kind == "laplacian" else difference**2
            found[name] = LossTerm(torch.where(valid, error, 0.0), valid)
        return found

    def decode(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give ``<target>``, (B,)."""
        return {name: outputs[key] for name, key in self.keys.items()}

    def predictions(self, event: EventInfo) -> list[Prediction]:
        """Say that the targets are numbers."""
        del event
        return [Prediction("numbers", name, {"value": name}) for name in self.config.targets]


class SpanetClassificationConfig(HeadConfig):
    """Options of one classification of SPANet's network."""

    target: str
    """The target."""
    class_balance: Literal["none", "effective"] = "none"
    """Whether rare classes count more, by the inverse of their effective number of events."""
    parity: Literal["none", "spanet"] = "none"
    """The target of interchangeable particles follows the permutation that fits the assignment
    best, and balanced weights have the mean one over events. ``spanet`` compares in the order of
    the file, the weights' mean over classes is one, and errors are divided by their sum in a
    batch."""


class SpanetClassificationHead(Head):
    """Reads one classification.

    Args:
        name: Name of the head.
        config: Options.
    """

    Config: ClassVar[type[HeadConfig]] = SpanetClassificationConfig
    config: SpanetClassificationConfig
    class_weights: Tensor

    def contract(self, event: EventInfo) -> Contract:
        """Require the target, and where it follows a permutation those of its like.

        Raises:
            ConfigurationError: If the event declares no such classification, or SPANet's network
                has no place for it.
        """
        self.key = _key(self, event, self.config.target, "classification")
        follow = self.config.parity == "none"
        self.matching = Matching(event, [self.config.target], follow=follow)
        return _required(self, event, [self.config.target, *self.matching.siblings])

    def build(self, contract: Contract, statistics: Statistics, width: int) -> None:
        """Keep the weights of the classes; the other parameters are the network's.

        Raises:
            ConfigurationError: If the number of classes is unknown, or the statistics lack counts.
        """
        del width
        classes = contract.classes(f"target/{self.config.target}")
        if classes is None:
            raise ConfigurationError(
                f"model.heads.{self.name}: the number of classes of {self.config.target!r} is "
                f"unknown; name them in the event file (targets.{self.config.target}.classes) or "
                "prepare the dataset, which counts them"
            )
        weights = np.ones(classes)
        if self.config.class_balance == "effective":
            counts = statistics.labels.get(f"target/{self.config.target}")
            if counts is None or not any(counts.events):
                raise ConfigurationError(
                    f"model.heads.{self.name}.class_balance: the statistics of the training split "
                    "do not hold the number of events per class"
                )
            events = np.zeros(classes)
            events[: len(counts.events)] = counts.events[:classes]
            weights = effective_weights([int(n) for n in events], int(statistics.events))
            mean = (
                weights.mean()
                if self.config.parity == "spanet"
                else ((weights * events).sum() / events.sum())
            )
            weights = weights / mean
        self.register_buffer("class_weights", torch.from_numpy(weights).float())

    def forward(self, encoded: Encoded, encoder: EncoderHandle) -> dict[str, Tensor]:
        """Give SPANet's key → logits, (B, C).

        Raises:
            ConfigurationError: If the backbone is another one.
        """
        del encoder
        outputs = read_network(self.name, encoded)[1]
        return {self.key: outputs.classifications[self.key]} | self.matching.outputs(
            encoded, outputs
        )

    def loss(
        self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> dict[str, LossTerm]:
        """Give the cross-entropy."""
        order = self.matching.order(outputs, targets)
        labels = self.matching.target(self.config.target, targets, order, missing=-1).long()
        valid = labels >= 0
        known = labels.clamp(min=0)
        value = functional.cross_entropy(outputs[self.key], known, reduction="none")
        weight = torch.where(valid, self.class_weights[known], 0.0)
        if self.config.parity == "spanet":
            weight = weight * valid.sum() / weight.sum().clamp(min=1e-12)
        return {"cross_entropy": LossTerm(weight * value, valid)}

    def decode(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give ``probabilities``, (B, C)."""
        return {"probabilities": torch.softmax(outputs[self.key], -1)}

    def predictions(self, event: EventInfo) -> list[Prediction]:
        """Say that the probabilities are those of classes."""
        del event
        return [
            Prediction(
                "classes",
                self.config.target,
                {"probabilities": "probabilities"},
                options={"balanced": self.config.class_balance != "none"},
            )
        ]


def _key(head: Head, event: EventInfo, name: str, kind: str) -> str:
    """SPANet's key of a target."""
    target = event.targets.get(name)
    if target is None or target.kind != kind:
        known = [n for n, t in event.targets.items() if t.kind == kind]
        hint = did_you_mean(name, known)
        raise ConfigurationError(
            f"model.heads.{head.name}: the event declares no {kind} target {name!r}{hint}; it has "
            f"{', '.join(known) or 'none'}"
        )
    key = spanet_key(name, [each.particle for each in event.assignments()])
    if key is None or target.stream is not None:
        raise ConfigurationError(
            f"model.heads.{head.name}: SPANet's network learns targets of the event, of particles "
            f"and of products; {name!r} is none of them; use the head {kind!r}"
        )
    return key


def _required(head: Head, event: EventInfo, names: list[str]) -> Contract:
    """Targets and assignments by name."""
    tensors = {}
    compiled = compile_contract(event)
    for name in names:
        if name in event.targets:
            spec = target_spec(event, name, wanted_by=head.name)
        else:
            spec = compiled[f"target/{name}"].model_copy(update={"wanted_by": (head.name,)})
        tensors[spec.name] = spec.model_copy(update={"required": True})
    return Contract(tensors=tensors)
