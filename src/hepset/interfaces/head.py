"""`Head`: one thing a model learns, how it is decided, judged and drawn."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from hepset.errors import ConfigurationError
from hepset.interfaces.backbone import Encoded, Inputs
from hepset.interfaces.backbone import LossTerm as LossTerm  # noqa: PLC0414  said to be public
from hepset.interfaces.component import ComponentConfig
from hepset.plugins import registry
from hepset.schema.contract import Contract
from hepset.schema.event import EventInfo
from hepset.schema.statistics import Statistics

if TYPE_CHECKING:
    from matplotlib.figure import Figure as MatplotlibFigure

Array = NDArray[Any]


class Metric(NamedTuple):
    """One number that judges a head, with its statistical error.

    Attributes:
        name: Such as ``AUC`` or ``m_ttbar: half 68 % width``.
        value: The number.
        error: Its statistical error (one standard deviation); NaN where unknown.
        unit: Unit, empty for pure numbers.
        better: Which way is better.
        of: Who reached it: empty for the model, otherwise the baseline's description.
        limit: Whether it is what no model can beat, such as the truth itself: it stands beside
            the baselines, but nothing is compared with it.
        bound: Whether the value is only a lower bound, at 95 % confidence: what was counted is
            zero.
    """

    name: str
    value: float
    error: float
    unit: str = ""
    better: Literal["higher", "lower"] = "higher"
    of: str = ""
    limit: bool = False
    bound: bool = False


class Separation(NamedTuple):
    """A number that tells signal from background, at the entries that are of either.

    Attributes:
        values: Shape ``(entry,)``; larger is more like signal.
        signal: True for signal, shape ``(entry,)``.
        keep: Which events, or objects, the entries are: bool, shape ``(event,)`` or
            ``(event, slot)``.
        baseline: What a simple method is called, and its values ``(entry,)``; None without one.
    """

    values: Array
    signal: Array
    keep: Array
    baseline: tuple[str, Array] | None = None


class Drawing(NamedTuple):
    """A figure of the report.

    Attributes:
        name: Short file-like name, unique within the head.
        title: Heading.
        caption: What is seen, in a sentence; says what data and how many events.
        figure: A matplotlib figure.
    """

    name: str
    title: str
    caption: str
    figure: MatplotlibFigure

    def _repr_png_(self) -> bytes:
        """Return the figure for a notebook."""
        import io  # noqa: PLC0415  only where a figure is looked at

        from hepset.figures import save  # noqa: PLC0415  imports matplotlib

        target = io.BytesIO()
        save(self.figure, target, format="png", dpi=72)
        return target.getvalue()


@dataclass(frozen=True)
class Evaluation:
    """A split with its predictions, as a head judges it.

    Attributes:
        event: What an event is.
        contract: The resolved contract of the data.
        predictions: ``<field>`` → array, this head's decoded outputs.
        targets: Target tensor → array (``target/signal``).
        inputs: Input tensor → array in physical values (``jets``, ``jets.mask``, ``met``).
        weight: Physical event weights, signed, shape ``(event,)``.
        weighted: Whether any weight differs from one.
        train: The same of a part of the training split, for overlays; None where absent.
        statistics: Statistics of the training split.
        extra: Extra tensors (``extra/…``) by name.
        diagnoses: ``<field>`` → array, what this head computes for judging only (`Head.diagnose`).
        sample: Index of each event's sample into `sample_names`; None where that is not known.
        sample_names: Labels of the samples.
        drawn: Target tensor → share of every class among the events that `train.sampling` drew, in
            the order of the classes, NaN where it is not known; empty where nothing was sampled.
    """

    event: EventInfo
    contract: Contract
    predictions: Mapping[str, Array]
    targets: Mapping[str, Array]
    inputs: Mapping[str, Array]
    weight: Array
    weighted: bool = False
    train: Evaluation | None = None
    statistics: Statistics = field(default_factory=Statistics)
    extra: Mapping[str, Array] = field(default_factory=dict)
    diagnoses: Mapping[str, Array] = field(default_factory=dict)
    sample: Array | None = None
    sample_names: tuple[str, ...] = ()
    drawn: Mapping[str, Sequence[float]] = field(default_factory=dict)
    _found: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, name: str, compute: Callable[[], Any]) -> Any:  # noqa: ANN401  what it returns
        """Return what `compute` gives for these events; it is asked the first time only."""
        if name not in self._found:
            self._found[name] = compute()
        return self._found[name]

    def __len__(self) -> int:
        """Number of events."""
        return int(np.shape(self.weight)[0])

    def take(self, rows: Array) -> Evaluation:
        """Return some events, given by a mask or by indices; `train` stays as it is."""

        def chosen(arrays: Mapping[str, Array]) -> dict[str, Array]:
            return {name: np.asarray(array)[rows] for name, array in arrays.items()}

        return replace(
            self,
            predictions=chosen(self.predictions),
            targets=chosen(self.targets),
            inputs=chosen(self.inputs),
            weight=self.weight[rows],
            extra=chosen(self.extra),
            diagnoses=chosen(self.diagnoses),
            sample=None if self.sample is None else self.sample[rows],
        )


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
        backbone: nn.Module,
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
        """Encode the batch's inputs, or others, under a condition or with further tokens."""
        x = self.inputs if inputs is None else inputs
        encoded: Encoded = self.backbone(x, condition=condition, extra_tokens=extra_tokens)
        return encoded


class Head(nn.Module, ABC):
    """Learns one thing from the shared embeddings."""

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

    def metrics(self, evaluation: Evaluation) -> list[Metric]:
        """Judge the predictions, each number with its statistical error."""
        del evaluation
        return []

    def baselines(self, evaluation: Evaluation) -> list[Metric]:
        """Say what simple methods give on the same events, under the same metric names."""
        del evaluation
        return []

    def separations(self, event: EventInfo) -> dict[str, str | None]:
        """Name what `separation` can be asked for: scores that a cut may be set on.

        Returns:
            Score → stream whose objects have one; None where events have.
        """
        del event
        return {}

    def separation(self, evaluation: Evaluation, name: str) -> Separation:
        """Return one of the numbers that tell signal from background.

        Raises:
            KeyError: If it is none of `separations`.
        """
        del evaluation
        raise KeyError(name)

    def figures(self, evaluation: Evaluation) -> list[Drawing]:
        """Draw what a physicist wants to see of the predictions."""
        del evaluation
        return []


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
