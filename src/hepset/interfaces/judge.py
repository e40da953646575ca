"""`Judge`: what a kind of prediction is worth, in numbers with errors, beside simple methods.

A head states what it predicts as `Prediction` records; the judge of that kind gives the metrics,
baselines and figures. So a new head of a known kind draws everything without a line of its own.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

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
        note: Why the number has no meaning, where it has none; the value is NaN then.
    """

    name: str
    value: float
    error: float
    unit: str = ""
    better: Literal["higher", "lower"] = "higher"
    of: str = ""
    limit: bool = False
    bound: bool = False
    note: str = ""


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


class Drawing:
    """A figure of the report, which is drawn when it is looked at.

    Attributes:
        name: Short file-like name, unique within the head.
        title: Heading.
        caption: What is seen, in a sentence; says what data and how many events.
    """

    def __init__(
        self,
        name: str,
        title: str,
        caption: str,
        figure: MatplotlibFigure | Callable[[], MatplotlibFigure],
    ) -> None:
        """Keep what is to be drawn.

        Args:
            name: Short file-like name, unique within the head.
            title: Heading.
            caption: What is seen.
            figure: A matplotlib figure, or a function without arguments that draws one: a figure
                that the report has no room for then costs nothing.
        """
        self.name = name
        self.title = title
        self.caption = caption
        self._figure = figure

    @property
    def figure(self) -> MatplotlibFigure:
        """The matplotlib figure; one that is drawn by a function is not kept."""
        return self._figure() if callable(self._figure) else self._figure

    @property
    def is_drawn(self) -> bool:
        """Whether the figure is there already, and stays."""
        return not callable(self._figure)

    def _repr_png_(self) -> bytes:
        """Return the figure for a notebook."""
        import io  # noqa: PLC0415  only where a figure is looked at

        from hepset.figures import save  # noqa: PLC0415  imports matplotlib

        target = io.BytesIO()
        save(self.figure, target, format="png", dpi=72)
        return target.getvalue()


@dataclass(frozen=True)
class Evaluation:
    """A split with the predictions of a head, as a judge sees it.

    Arrays may be maps of files: take what is needed, and no copy of the whole.

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
        ids: Identity of the events (`hepset.batch.ID_DTYPE`), shape ``(event,)``; None where it is
            not known.
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
    ids: Array | None = None
    sample: Array | None = None
    sample_names: tuple[str, ...] = ()
    drawn: Mapping[str, Sequence[float]] = field(default_factory=dict)

    @cached_property
    def groups(self) -> Array | None:
        """Number of the event that each row comes from; None where every row is its own.

        A reader may make several samples of one event, and resampling repeats events: rows of one
        source and entry are one event, and are drawn together wherever an error is estimated.
        """
        if self.ids is None or not np.any(self.ids["sample"]):
            return None
        keys = np.stack([self.ids["source"].astype(np.int64), self.ids["entry"]])
        found: Array = np.unique(keys, axis=1, return_inverse=True)[1].reshape(-1)
        return found

    def __len__(self) -> int:
        """Number of events."""
        return int(np.shape(self.weight)[0])

    def parts(self, size: int = 50_000) -> Iterator[Evaluation]:
        """Return the events in parts, in order, so that what is computed of them stays small."""
        for start in range(0, len(self), size):
            yield self.take(slice(start, start + size))

    def take(self, rows: Array | slice) -> Evaluation:
        """Return some events, given by a mask, by indices or a slice; `train` stays as it is."""

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
            ids=None if self.ids is None else self.ids[rows],
            sample=None if self.sample is None else self.sample[rows],
        )


@dataclass(frozen=True)
class Prediction:
    """What some fields of a head are: enough to judge them, to draw them and to write them.

    Attributes:
        kind: Name of the judge: ``classes``, ``numbers``, ``assignments``, ``sets``,
            ``partitions``, ``samples``, or one of a plugin.
        target: What is predicted, as the event names it; ``target/<target>`` holds the truth.
        fields: What the judge looks at → field of `Head.decode`: ``{"probabilities": "p"}``.
        axes: What the axes of the fields are: ``("event",)``, ``("event", "jets")`` for a value per
            object, ``("event", "jets", "jets")`` per pair, ``("event", "sample")`` for K samples.
            Further axes, such as classes, follow unnamed.
        labels: Names of the classes, where the event file does not have them.
        unit: Unit, where the event file does not have it.
        options: Whatever else the judge of this kind understands.
    """

    kind: str
    target: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    axes: tuple[str, ...] = ("event",)
    labels: tuple[str, ...] = ()
    unit: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tensor(self) -> str:
        """Name of the target's tensor."""
        return f"target/{self.target}"

    @property
    def stream(self) -> str | None:
        """The stream whose objects have a prediction; None where events have."""
        return self.axes[1] if len(self.axes) > 1 and self.axes[1] != "sample" else None


class Judge(ABC):
    """Evaluates one prediction on some events.

    An instance sees one prediction of one head on one split; what several of its numbers share
    may be kept in cached properties.
    """

    fields: ClassVar[tuple[str, ...]] = ()
    """What `Prediction.fields` has to name."""

    def __init__(self, prediction: Prediction, evaluation: Evaluation) -> None:
        """Keep what is to be evaluated."""
        self.prediction = prediction
        self.evaluation = evaluation

    def field(self, name: str, evaluation: Evaluation | None = None) -> Array:
        """Return a predicted field by what it is to the judge; of these events, or of others."""
        of = self.evaluation if evaluation is None else evaluation
        return of.predictions[self.prediction.fields[name]]

    @abstractmethod
    def metrics(self) -> list[Metric]:
        """Evaluate the predictions, each number with its statistical error."""

    def baselines(self) -> list[Metric]:
        """Say what simple methods give on the same events, under the same metric names."""
        return []

    def figures(self) -> list[Drawing]:
        """Describe what a physicist wants to see of the predictions; drawn when looked at."""
        return []

    @classmethod
    def separations(cls, prediction: Prediction, event: EventInfo) -> dict[str, str | None]:
        """Name what `separation` can be asked for: scores that a cut may be set on.

        Returns:
            Score → stream whose objects have one; None where events have.
        """
        del prediction, event
        return {}

    def separation(self, name: str) -> Separation:
        """Return one of the numbers that tell signal from background.

        Raises:
            KeyError: If it is none of `separations`.
        """
        raise KeyError(name)
