"""`Head`: one thing a model learns and decides; a judge says how well (`interfaces.judge`)."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, ClassVar, cast

from pydantic import Field
from torch import Generator, Tensor, nn

from hepset.errors import ConfigurationError
from hepset.interfaces.backbone import Backbone, Encoded, Inputs, LossTerm
from hepset.interfaces.component import ComponentConfig
from hepset.interfaces.judge import Drawing, Evaluation, Metric, Prediction, Separation
from hepset.plugins import registry
from hepset.schema.contract import Contract
from hepset.schema.event import EventInfo, Target
from hepset.schema.statistics import Statistics

__all__ = [
    "Drawing",
    "EncoderHandle",
    "Evaluation",
    "Head",
    "HeadConfig",
    "LossTerm",
    "Metric",
    "Prediction",
    "Separation",
    "create_head",
    "head_losses",
]


class HeadConfig(ComponentConfig):
    """Options that every head has."""

    loss_weight: float = Field(default=1.0, ge=0)
    """Factor of the head's losses in the sum."""
    stages: tuple[str, ...] = ()
    """Names of ``train.stages`` in which the head learns; empty = all."""
    freeze: bool = False
    """Keep the head's parameters as they are."""


class EncoderHandle:
    """Lets a head encode again: the transform, the backbone, and the batch's inputs.

    Attributes:
        transform: The input transform (physical ↔ model space).
        backbone: The backbone.
        inputs: Model-space inputs of this batch.
        physical: The batch's tensors in physical values, by contract name: ``jets`` (B, N, F),
            ``jets.mask``, ``met``; empty where a handle is made without.
    """

    def __init__(
        self,
        transform: nn.Module,
        backbone: Backbone,
        inputs: Inputs,
        physical: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Keep them."""
        self.physical: Mapping[str, Tensor] = {} if physical is None else physical
        self.transform = transform
        self.backbone = backbone
        self.inputs = inputs

    def __call__(
        self,
        inputs: Inputs | None = None,
        *,
        condition: Tensor | None = None,
        extra_tokens: Tensor | None = None,
    ) -> Encoded:
        """Encode the batch's inputs, or others, under a condition or with further tokens.

        Raises:
            ConfigurationError: If the backbone has no such capability.
        """
        for name, given in (("condition", condition), ("extra_tokens", extra_tokens)):
            if given is not None and name not in self.backbone.capabilities:
                raise ConfigurationError(
                    f"model.backbone: {type(self.backbone).__name__} takes no {name}, which a head "
                    "asks for; the transformer does"
                )
        x = self.inputs if inputs is None else inputs
        encoded: Encoded = self.backbone(x, condition=condition, extra_tokens=extra_tokens)
        return encoded


class Head(nn.Module, ABC):
    """Learns one thing from the shared embeddings.

    What it predicts is judged and drawn by the judges of its `predictions`.
    """

    Config: ClassVar[type[HeadConfig]] = HeadConfig
    """Model of the options."""
    weighs_targets: ClassVar[bool] = False
    """Whether `loss` itself applies the weights of the targets, ``weight/<target>`` beside them,
    because its terms mix several targets. Else every term is multiplied by them. The event's own
    ``weight`` is always applied outside."""
    knows_event_width: ClassVar[bool] = False
    """Whether the head builds for an event of another width than objects, `event_width`."""
    event_width: int | None = None
    """Width E of `Encoded.event`, known before `build`; None = that of the embeddings."""

    proofs: ClassVar[frozenset[str]] = frozenset()
    """Fields of `decode`, by the last part of their names, that say of each event whether its
    decisions are proved to be the best ones. Where an exported graph says no, its decisions may
    differ from those of torch, which can search further."""

    samples: int = 0
    """How many samples `sample` is asked for per event; 0 for a head that draws none."""

    def __init__(self, name: str, config: HeadConfig) -> None:
        """Keep the name the user gave and the options; `build` makes the layers."""
        super().__init__()
        self.name = name
        self.config = config

    @abstractmethod
    def contract(self, event: EventInfo) -> Contract:
        """State the targets that the head needs, before any data is read.

        Raises:
            ConfigurationError: If the event does not declare them.
        """

    @abstractmethod
    def build(self, contract: Contract, statistics: Statistics, width: int) -> None:
        """Make the layers; `contract` has been asked with the event before.

        Args:
            contract: Resolved contract of the data.
            statistics: Statistics of the training split.
            width: Width D of the embeddings.
        """

    @abstractmethod
    def forward(self, encoded: Encoded, encoder: EncoderHandle) -> dict[str, Tensor]:
        """Compute the raw outputs, batch first."""

    @abstractmethod
    def loss(
        self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> dict[str, LossTerm]:
        """Compute named losses per event, unweighted; `targets` are tensors by contract name.

        A head whose loss encodes again, as one that learns to remove noise from its target, takes
        the handle as a third parameter ``encoder``; it is given where the signature names it.
        """

    @abstractmethod
    def decode(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn raw outputs into physics decisions: torch only, exportable, physical units."""

    def predictions(self, event: EventInfo) -> Sequence[Prediction]:
        """Say what the fields of `decode` are, so that they can be judged, drawn and written.

        It is also asked before `build`, and gives the same records then but for their options.
        """
        del event
        return ()

    def sample(
        self, encoder: EncoderHandle, n: int, generator: Generator | None = None
    ) -> dict[str, Tensor]:
        """Draw n samples of what the head generates, axes (B, n, …); empty where it draws none.

        Asked when predicting and evaluating only, where `samples` is not 0; it is no part of an
        exported graph. Its fields stand beside those of `decode`.

        Args:
            encoder: Encodes the batch, again or under a condition.
            n: Samples per event.
            generator: Where randomness comes from, so that the samples can be drawn again.
        """
        del encoder, n, generator
        return {}

    def diagnose(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute what only judging needs, such as what another way of deciding would give.

        It is neither exported nor written to files; `Evaluation.diagnoses` holds it.
        """
        del outputs
        return {}

    def calibrate(
        self, held_out: Iterable[tuple[Mapping[str, Tensor], Mapping[str, Tensor]]]
    ) -> None:
        """Adjust buffers to events that were not trained on; called once, after the training.

        Args:
            held_out: Raw outputs and targets of the validation split, batch by batch.
        """
        del held_out


def refuse_own_axes(target: Target, where: str) -> None:
    """Refuse a target that is neither one per event nor one per object.

    Raises:
        ConfigurationError: Naming its axes.
    """
    if target.own_axes:
        raise ConfigurationError(
            f"{where} has the axes {', '.join(target.own_axes)}; this head learns one value per "
            "event, or per object of a stream"
        )


def head_losses(
    head: Head,
    outputs: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    encoder: EncoderHandle | None,
) -> dict[str, LossTerm]:
    """Ask a head for its losses, with the encoder where it takes it.

    Raises:
        ConfigurationError: If it takes the encoder and none is given.
    """
    if not _takes_encoder(type(head)):
        return head.loss(outputs, targets)
    if encoder is None:
        raise ConfigurationError(
            f"the loss of head {head.name!r} encodes again: ask Model.losses_of for it"
        )
    found: dict[str, LossTerm] = cast(Any, head).loss(outputs, targets, encoder=encoder)
    return found


@lru_cache(maxsize=256)
def _takes_encoder(cls: type[Head]) -> bool:
    return "encoder" in inspect.signature(cls.loss).parameters


def create_head(name: str, options: Mapping[str, Any]) -> Head:
    """Build the head that a run configuration describes, ``{"name": "classification", …}``.

    Raises:
        ConfigurationError: If no component is named or the options do not fit.
        UnknownComponentError: If no installed plugin provides it.
    """
    head: Head = registry().create("heads", options, f"model.heads.{name}", name)
    return head
