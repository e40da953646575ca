"""What all judges of a head say together: the judges are found by its predictions' kinds."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, TypeVar

from hepset.errors import ConfigurationError, did_you_mean
from hepset.interfaces.head import Head
from hepset.interfaces.judge import Drawing, Evaluation, Judge, Metric, Prediction, Separation
from hepset.plugins import registry
from hepset.schema.event import EventInfo

__all__ = ["HeadJudge", "judge_head", "separations_of"]

T = TypeVar("T")

FORMER: Final = ("metrics", "baselines", "figures", "separations", "separation")
"""Methods of a head that judges itself, as all did before there were judges."""


class HeadJudge:
    """All judges of a head on some events.

    Attributes:
        judges: One per prediction, in the head's order.
    """

    def __init__(self, judges: Iterable[Judge]) -> None:
        """Keep the judges."""
        self.judges = list(judges)

    def metrics(self) -> list[Metric]:
        """Evaluate the predictions, each number with its statistical error."""
        return [metric for judge, metric in self._named(lambda judge: judge.metrics())]

    def baselines(self) -> list[Metric]:
        """Say what simple methods give on the same events, under the same metric names."""
        return [metric for judge, metric in self._named(lambda judge: judge.baselines())]

    def figures(self) -> list[Drawing]:
        """Describe the figures of the report."""
        found: list[Drawing] = []
        for number, judge in enumerate(self.judges):
            taken = {drawing.name for drawing in found}
            for drawing in judge.figures():
                if drawing.name in taken:
                    drawing.name += f"-{number}"
                    drawing.title = f"{judge.prediction.target}: {drawing.title}"
                found.append(drawing)
        return found

    def separation(self, name: str) -> Separation:
        """Return one of the numbers that tell signal from background.

        Raises:
            KeyError: If no judge has it.
        """
        for judge in self.judges:
            if name in judge.separations(judge.prediction, judge.evaluation.event):
                return judge.separation(name)
        raise KeyError(name)

    def _named(self, ask: Callable[[Judge], list[Metric]]) -> Iterator[tuple[Judge, Metric]]:
        """Metrics with the prediction they belong to in their name where a head has several."""
        kinds = [judge.prediction.kind for judge in self.judges]
        for judge in self.judges:
            # A judge of numbers names its target anyway.
            several = kinds.count(judge.prediction.kind) > 1
            prefix = f"{judge.prediction.target}: " if several and judge.prediction.target else ""
            for metric in ask(judge):
                told = metric.name.startswith(prefix)
                yield judge, metric if told else metric._replace(name=f"{prefix}{metric.name}")


def judge_head(head: Head, evaluation: Evaluation) -> HeadJudge:
    """Return the judges of a head's predictions.

    Raises:
        ConfigurationError: If a prediction is of a kind without a judge, or lacks a field that
            its judge needs.
    """
    if _judges_itself(head):
        return HeadJudge([_FormerJudge(head, evaluation)])
    found = []
    for prediction in head.predictions(evaluation.event):
        cls = _judge_of(head, prediction)
        missing = [
            f"{name} ({prediction.fields.get(name, 'not named')})"
            for name in cls.fields
            if prediction.fields.get(name) not in evaluation.predictions
        ]
        if missing:
            raise ConfigurationError(
                f"model.heads.{head.name}: to judge the {prediction.kind} of {prediction.target!r} "
                f"takes the fields {', '.join(missing)}; the head gives "
                f"{', '.join(evaluation.predictions) or 'none'}"
            )
        found.append(cls(prediction, evaluation))
    return HeadJudge(found)


def separations_of(head: Head, event: EventInfo) -> dict[str, str | None]:
    """Name the scores of a head that a cut may be set on; it need not be built.

    Returns:
        Score → stream whose objects have one; None where events have.
    """
    if _judges_itself(head):
        former: Any = head
        return dict(former.separations(event)) if hasattr(head, "separations") else {}
    found: dict[str, str | None] = {}
    for prediction in head.predictions(event):
        found |= _judge_of(head, prediction).separations(prediction, event)
    return found


def _judge_of(head: Head, prediction: Prediction) -> type[Judge]:
    known = registry().names("judges")
    if prediction.kind not in known:
        raise ConfigurationError(
            f"model.heads.{head.name}: no judge of the kind {prediction.kind!r}"
            f"{did_you_mean(prediction.kind, known)}; there are {', '.join(known)}"
        )
    cls: type[Judge] = registry().load("judges", prediction.kind)
    return cls


def _judges_itself(head: Head) -> bool:
    """Whether a head has methods of its own that judge it, instead of `predictions`."""
    own = [name for name in FORMER if hasattr(head, name)]
    if not own or type(head).predictions is not Head.predictions:
        return False
    warnings.warn(
        f"{type(head).__name__}.{own[0]} is deprecated: a head states its `predictions`, and "
        "judges (hepset.interfaces.judge) give metrics, baselines and figures",
        DeprecationWarning,
        stacklevel=3,
    )
    return True


class _FormerJudge(Judge):
    """A head that judges itself."""

    def __init__(self, head: Head, evaluation: Evaluation) -> None:
        super().__init__(Prediction("former"), evaluation)
        self.head = head

    def metrics(self) -> list[Metric]:
        """Ask the head."""
        return list(self._ask("metrics", []))

    def baselines(self) -> list[Metric]:
        """Ask the head."""
        return list(self._ask("baselines", []))

    def figures(self) -> list[Drawing]:
        """Ask the head."""
        return list(self._ask("figures", []))

    def separation(self, name: str) -> Separation:
        """Ask the head."""
        former: Any = self.head
        found: Separation = former.separation(self.evaluation, name)
        return found

    def _ask(self, name: str, default: T) -> T:
        method = getattr(self.head, name, None)
        return default if method is None else method(self.evaluation)
