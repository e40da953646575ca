"""`Backbone`: from model-space inputs to embeddings of objects and of the event."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import ClassVar, NamedTuple

from torch import Tensor, nn

from hepset.interfaces.component import ComponentConfig
from hepset.schema.contract import Contract
from hepset.schema.event import EventInfo
from hepset.schema.statistics import Statistics


class LossTerm(NamedTuple):
    """One named loss per event.

    Attributes:
        value: (B,), finite everywhere; ignored where not valid.
        valid: (B,) bool, False where the event has no target: it leaves the denominator.
    """

    value: Tensor
    valid: Tensor


@dataclass
class Inputs:
    """What a backbone sees: inputs in model space, and physical four-momenta beside them.

    Attributes:
        streams: Stream → (B, N, F) in model space, 0 in padded slots.
        masks: Stream → (B, N), True = real.
        globals: Global → (B, F) in model space, 0 where absent.
        global_masks: Global → (B,), True = present.
        p4: Stream → (B, N, 4) as (px, py, pz, E) in the file's unit, 0 in padded slots; only
            streams that declare a four-momentum.
        pairs: Stream → (B, N, N, P) pair features in model space.
    """

    streams: dict[str, Tensor]
    masks: dict[str, Tensor]
    globals: dict[str, Tensor] = field(default_factory=dict)
    global_masks: dict[str, Tensor] = field(default_factory=dict)
    p4: dict[str, Tensor] = field(default_factory=dict)
    pairs: dict[str, Tensor] = field(default_factory=dict)

    def take(self, events: Tensor) -> Inputs:
        """Return some events, in any order and any number of times.

        Args:
            events: Their numbers in the batch, int64 (E,), or a mask, bool (B,).
        """
        return self._each(lambda tensor: tensor[events])

    def repeat(self, times: int) -> Inputs:
        """Return every event several times, copies beside each other: event b is at b · times."""
        return self._each(lambda tensor: tensor.repeat_interleave(times, 0))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Inputs:
        return Inputs(
            **{
                part.name: {k: change(v) for k, v in getattr(self, part.name).items()}
                for part in fields(self)
            }
        )


@dataclass
class Encoded:
    """What a backbone gives.

    Attributes:
        objects: Stream → (B, N, D), 0 in padded slots.
        masks: Stream → (B, N), True = real.
        event: (B, E), finite also for an event without any object; E is `Backbone.event_width`.
        p4: As in `Inputs`.
        extra: (B, K, D) embeddings of `extra_tokens`, where they were given.
        losses: Losses of the backbone's own, such as a regulariser; shown as
            ``backbone/<name>``, and weighted by `loss_weights` of `train.stages`.
    """

    objects: dict[str, Tensor]
    masks: dict[str, Tensor]
    event: Tensor
    p4: dict[str, Tensor] = field(default_factory=dict)
    extra: Tensor | None = None
    losses: dict[str, LossTerm] = field(default_factory=dict)


@dataclass(frozen=True)
class InputLayout:
    """Widths of the model-space inputs that a backbone is built for.

    Attributes:
        streams: Stream → number of model-space features.
        globals: Global → number of model-space features.
        p4: Streams that carry a four-momentum.
        pairs: Stream → number of model-space pair features.
        event: What an event is, for a backbone that holds more than an encoder; None where only
            widths are known.
        contract: The tensors, with those that the heads require; None like `event`.
        statistics: Statistics of the training split; None like `event`.
    """

    streams: Mapping[str, int]
    globals: Mapping[str, int] = field(default_factory=dict)
    p4: tuple[str, ...] = ()
    pairs: Mapping[str, int] = field(default_factory=dict)
    event: EventInfo | None = field(default=None, repr=False, compare=False)
    contract: Contract | None = field(default=None, repr=False, compare=False)
    statistics: Statistics | None = field(default=None, repr=False, compare=False)


class BackboneConfig(ComponentConfig):
    """Options of a backbone."""


class Backbone(nn.Module, ABC):
    """Encodes events. Built in two steps: options first, layers when the layout is known."""

    Config: ClassVar[type[BackboneConfig]] = BackboneConfig
    """Model of the options."""
    capabilities: ClassVar[frozenset[str]] = frozenset()
    """What `encode` takes beside the inputs: ``condition``, ``extra_tokens``, both or neither."""

    def __init__(self, config: BackboneConfig) -> None:
        """Keep the options; `build` makes the layers."""
        super().__init__()
        self.config = config

    @property
    @abstractmethod
    def width(self) -> int:
        """Width D of the embeddings."""

    @property
    def event_width(self) -> int:
        """Width E of `Encoded.event`; that of the embeddings, unless a backbone says otherwise."""
        return self.width

    @abstractmethod
    def build(self, layout: InputLayout) -> None:
        """Make the layers for these inputs.

        Raises:
            ConfigurationError: If the backbone cannot consume them.
        """

    @abstractmethod
    def encode(
        self,
        x: Inputs,
        *,
        condition: Tensor | None = None,
        extra_tokens: Tensor | None = None,
    ) -> Encoded:
        """Encode events; permuting objects permutes `objects`, padding changes nothing.

        A condition or tokens are given only to a backbone with that capability.

        Args:
            x: Inputs in model space.
            condition: (B, D) added to every token: a time or a class embedding.
            extra_tokens: (B, K, D) further tokens that attend to the objects and come back in
                `Encoded.extra`. Whether objects attend to them too is up to the backbone, and
                stated by it: in the transformer they do, so that embeddings of objects change.
        """

    def forward(
        self,
        x: Inputs,
        condition: Tensor | None = None,
        extra_tokens: Tensor | None = None,
    ) -> Encoded:
        """Encode events, see `encode`."""
        return self.encode(x, condition=condition, extra_tokens=extra_tokens)
