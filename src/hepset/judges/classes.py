"""`ClassesJudge`: predicted probabilities of classes, of events or of objects."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hepset.interfaces.judge import Drawing, Evaluation, Judge, Metric, Prediction, Separation
from hepset.judges.labelled import Labelled, first_events, with_label
from hepset.judges.rejection import rejection
from hepset.judges.variables import Variable, event_variables, object_variables, over_events
from hepset.schema.event import EventInfo
from hepset.uncertainty import Estimate, auc, auc_value, efficiency, weighted_mean

__all__ = ["ClassesJudge", "Score"]

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


class Score(NamedTuple):
    """A number that tells some classes from others, with the indices of both.

    Attributes:
        name: Its name, also that of its field.
        signal: Classes that it calls signal.
        background: Classes that it calls background; others are left out.
    """

    name: str
    signal: list[int]
    background: list[int]

    def judged(self, entries: Labelled) -> tuple[Array, Labelled]:
        """Return which entries are of either kind, and these with truth 1 for signal, 0 else."""
        signal = np.isin(entries.truth, self.signal)
        chosen = signal | np.isin(entries.truth, self.background)
        kept = entries.only(chosen)
        return chosen, replace(kept, truth=signal[chosen].astype(np.int64))


class ClassesJudge(Judge):
    """AUC, accuracy, log-loss, background rejection; ROC curves, scores, confusion, calibration.

    With two classes the second is the signal. AUC errors are DeLong's, or bootstrapped where there
    are weights, objects, or several samples of one event.

    Fields: ``probabilities`` (event, class) or (event, object, class); ``top`` with the most
    probable classes; and one field for every score. Options: ``scores``, a list of `Score`;
    ``prior``, the share of every class in the training, (class,); ``balanced``, whether the classes
    were balanced in the loss.
    """

    fields: ClassVar[tuple[str, ...]] = ("probabilities",)

    def metrics(self) -> list[Metric]:
        """Give AUC, accuracy and log-loss; for two classes also the background rejection."""
        entries = self.entries
        if not len(entries):
            return []
        if self._meaningless:
            names = [name for name, _ in self._one_against_rest()] + ["accuracy", "log-loss"]
            return [Metric(name, math.nan, math.nan, note=self._meaningless) for name in names]
        truth, shares = entries.truth, (entries.weight, entries.groups)
        found = [
            _metric(name, auc(self._probability(c), truth == c, *shares))
            for name, c in self._one_against_rest()
        ]
        correct = entries.at(self.field("probabilities"), lambda p: p.argmax(axis=-1)) == truth
        found.append(_metric("accuracy", efficiency(correct, *shares)))
        surprise = -np.log(np.maximum(self._of_truth(), _FLOOR))
        value, error = weighted_mean(surprise, *shares)
        found.append(Metric("log-loss", value, error, better="lower"))
        if self.count == 2:
            found += [rejection(self._probability(1), entries, share) for share in _PAIR_SHARES]
        if "top" in self.prediction.fields:
            top = entries.of(self.field("top"))
            within = (top == truth[:, None]).any(1)
            found.append(_metric(f"top-{top.shape[1]} accuracy", efficiency(within, *shares)))
        for score, values, judged in self._judged():
            found += _score_metrics(score.name, values, judged)
        return found

    def baselines(self) -> list[Metric]:
        """Give what the best single variable reaches, and what knowing only the classes gives.

        The variable and its direction are chosen on the training events, where there are any.
        """
        entries = self.entries
        if not len(entries) or self._meaningless:
            return []
        found = []
        for name, c in self._one_against_rest():
            best = self.best_variable(c)
            if best is None:
                continue
            label, score = best
            area = auc(score, entries.truth == c, entries.weight, entries.groups)
            found.append(_metric(name, area, of=label))
            if c == 1 and name == "AUC":
                found += [rejection(score, entries, share, of=label) for share in _PAIR_SHARES]
        for judged in self.scores:
            chosen, kept = judged.judged(entries)
            best = self.best_variable(judged) if len(kept) else None
            if best is not None:
                found += _score_metrics(judged.name, best[1][chosen], kept, of=best[0])
        shares = self.prior
        if shares.sum() > 0:
            always = efficiency(
                entries.truth == int(shares.argmax()), entries.weight, entries.groups
            )
            largest = self.names[int(shares.argmax())]
            found.append(_metric("accuracy", always, of=f"always {largest} (trivial)"))
            surprise = -np.log(np.maximum(shares[entries.truth], _FLOOR))
            value, error = weighted_mean(surprise, entries.weight, entries.groups)
            label = "shares of the training split (trivial)"
            found.append(Metric("log-loss", value, error, better="lower", of=label))
        return found

    def figures(self) -> list[Drawing]:
        """Draw ROC curves, score distributions, the confusion matrix and the calibration."""
        from hepset.judges import classes_figures as draw  # noqa: PLC0415  matplotlib

        entries, evaluation = self.entries, self.evaluation
        if not len(entries) or self._meaningless:
            return []
        singly = [c for _, c in self._one_against_rest()]
        kind = "objects" if self.prediction.stream else "events"
        about = f"{len(entries)} {kind}" + (", weighted" if evaluation.weighted else "")

        def curves() -> list[draw.Curve]:
            return [
                draw.Curve(self.names[c], c, self._probability(c), self.best_variable(c))
                for c in singly[: draw.CLASSES]
            ]

        def scores() -> Mapping[str, draw.Judged]:
            found = {}
            for score, values, kept in self._judged():
                best = self.best_variable(score)
                chosen = score.judged(entries)[0]
                simple = None if best is None else (best[0], best[1][chosen])
                found[score.name] = draw.Judged(values, kept, simple)
            return found

        def confusion() -> draw.Figure:
            decided = entries.at(self.field("probabilities"), lambda p: p.argmax(axis=-1))
            return draw.confusion_figure(self.names, entries, decided)

        found = []
        if any(len(score.judged(entries)[1]) for score in self.scores):
            found.append(draw.score_roc(scores, about))
        return [
            *found,
            draw.roc(curves, entries, about),
            *draw.scores(singly, self.names, entries, self._probability, self._train, about),
            draw.confusion(confusion, about),
            draw.calibration(
                singly,
                self.names,
                entries,
                self._probability,
                about,
                balanced=bool(self.prediction.options.get("balanced")),
                drawn=evaluation.drawn.get(self.prediction.tensor),
            ),
        ]

    @classmethod
    def separations(cls, prediction: Prediction, event: EventInfo) -> dict[str, str | None]:
        """Name the scores, then the classes: the probability of one is a score against the rest."""
        scores = [score.name for score in prediction.options.get("scores", ())]
        target = event.targets.get(prediction.target)
        classes = prediction.labels or (target.classes if target is not None else None) or ()
        return dict.fromkeys([*scores, *classes], prediction.stream)

    def separation(self, name: str) -> Separation:
        """Return a score, or the probability of a class, with the best single variable beside it.

        Raises:
            KeyError: If there is neither.
        """
        entries = self.entries
        for score in self.scores:
            if score.name == name:
                chosen, judged = score.judged(entries)
                values = entries.of(self.field(name))[chosen]
                best = self.best_variable(score)
                simple = None if best is None else (best[0], best[1][chosen])
                return Separation(values, judged.truth == 1, judged.keep, simple)
        if name not in self.names:
            raise KeyError(name)
        c = self.names.index(name)
        return Separation(
            self._probability(c), entries.truth == c, entries.keep, self.best_variable(c)
        )

    def best_variable(self, against: int | Score) -> tuple[str, Array] | None:
        """Find the single variable that separates best.

        Args:
            against: A class, which is separated from the rest, or a score with its two sides.

        Returns:
            What it is, and its values at the entries with the sign that makes them a score of the
            signal; None where there is nothing to choose from. The variable is chosen on the
            training events, where there are any.
        """
        key = against.name if isinstance(against, Score) else against
        if key not in self._choices:
            self._choices[key] = self._choose_variable(against)
        choice = self._choices[key]
        if choice is None:
            return None
        position, label, sign = choice
        if position not in self._simple:
            values = over_events(self.evaluation, position, self._variables)
            self._simple[position] = _with_lowest(self.entries.of(values))
        return label, sign * self._simple[position]

    @cached_property
    def entries(self) -> Labelled:
        """The events, or objects, with a true class."""
        return with_label(self.evaluation, self.prediction.target)

    @cached_property
    def _meaningless(self) -> str:
        """Why nothing can be said: weights of a class, or of all, that do not sum to anything."""
        entries = self.entries
        if entries.weight is None or entries.meaningless:
            return entries.meaningless
        for c, name in enumerate(self.names):
            here = entries.truth == c
            reason = entries.only(here).meaningless if here.any() else ""
            if reason:
                return f"{name}: {reason}"
        return ""

    @cached_property
    def scores(self) -> list[Score]:
        """The named scores."""
        return list(self.prediction.options.get("scores", ()))

    @property
    def count(self) -> int:
        """Number of classes."""
        return int(self.field("probabilities").shape[-1])

    @cached_property
    def names(self) -> list[str]:
        """Names of the classes."""
        target = self.evaluation.event.targets.get(self.prediction.target)
        declared = self.prediction.labels or (target.classes if target is not None else None)
        return list(declared) if declared else [f"class {c}" for c in range(self.count)]

    @cached_property
    def prior(self) -> Array:
        """Share of every class in the training split, by sum of weights; zeros where unknown."""
        given = self.prediction.options.get("prior")
        if given is not None:
            return np.asarray(given, np.float64)
        shares = np.zeros(self.count)
        counts = self.evaluation.statistics.labels.get(self.prediction.tensor)
        if counts is not None:
            shares[: len(counts.weights)] = np.maximum(counts.weights[: self.count], 0.0)
        return shares / shares.sum() if shares.sum() > 0 else shares

    @cached_property
    def _choices(self) -> dict[int | str, tuple[int, str, float] | None]:
        return {}

    @cached_property
    def _simple(self) -> dict[int, Array]:
        return {}

    @cached_property
    def _train(self) -> tuple[Labelled, Array] | None:
        """The labelled training events with their probabilities."""
        if self.evaluation.train is None:
            return None
        seen = with_label(self.evaluation.train, self.prediction.target)
        if not len(seen):
            return None
        return seen, seen.of(self.field("probabilities", self.evaluation.train))

    def _probability(self, c: int) -> Array:
        return self.entries.of(self.field("probabilities")[..., c])

    def _of_truth(self) -> Array:
        """Probability of the true class at every entry."""
        found = np.zeros(len(self.entries))
        for c in range(self.count):
            here = self.entries.truth == c
            if here.any():
                found[here] = self._probability(c)[here]
        return found

    def _judged(self) -> Iterator[tuple[Score, Array, Labelled]]:
        """Scores with their values at the entries of signal and background, truth 1 and 0."""
        for score in self.scores:
            chosen, judged = score.judged(self.entries)
            if len(judged):
                yield score, self.entries.of(self.field(score.name))[chosen], judged

    def _choose_variable(self, against: int | Score) -> tuple[int, str, float] | None:
        """Return the number of the best variable, its label, and the sign that makes it a score."""
        train = self.evaluation.train
        chosen_on = first_events(self.evaluation if train is None else train, _FIT_EVENTS)
        known = with_label(chosen_on, self.prediction.target)
        if isinstance(against, Score):
            known = against.judged(known)[1]
            against = 1
        positive = known.truth == against
        if positive.all() or not positive.any():
            return None
        best, sign, distance, name = None, 1.0, -1.0, ""
        for position, (label, values) in enumerate(self._fitted):
            area = auc_value(_with_lowest(known.of(values)), positive, known.weight)
            if not math.isnan(area) and abs(area - 0.5) > distance:
                best, sign, distance = position, (1.0 if area >= 0.5 else -1.0), abs(area - 0.5)
                name = label
        if best is None:
            return None
        label = name if sign > 0 else f"minus {name}"
        return best, label if train is not None else f"{label} (chosen on these events)", sign

    @cached_property
    def _fitted(self) -> list[tuple[str, Array]]:
        """Simple variables of the events on which the best is chosen."""
        train = self.evaluation.train
        chosen_on = first_events(self.evaluation if train is None else train, _FIT_EVENTS)
        return [(variable.name, variable.values) for variable in self._variables(chosen_on)]

    def _variables(self, evaluation: Evaluation) -> list[Variable]:
        stream = self.prediction.stream
        if stream is None:
            found = event_variables(evaluation)
        else:
            found = object_variables(evaluation, stream)
        return [variable for variable in found if not variable.oriented]

    def _one_against_rest(self) -> list[tuple[str, int]]:
        """Name of the AUC and class index; two classes have one AUC.

        Of many classes those are judged singly that a score calls signal, then the most frequent
        in training.
        """
        if self.count == 2:
            return [("AUC", 1)]
        chosen = list(range(self.count))
        if self.count > _SINGLY_JUDGED:
            called_signal = {c for score in self.scores for c in score.signal}
            frequent = np.argsort(-self.prior, kind="stable")
            first = [*sorted(called_signal), *(c for c in frequent if c not in called_signal)]
            chosen = sorted(int(c) for c in first[:_SINGLY_JUDGED])
        return [(f"AUC {self.names[c]} against the rest", c) for c in chosen]


def _score_metrics(name: str, values: Array, judged: Labelled, of: str = "") -> list[Metric]:
    """AUC and rejections of a score, given at the entries of its two sides."""
    area = auc(values, judged.truth == 1, judged.weight, judged.groups)
    return [
        _metric(f"{name}: AUC", area, of=of),
        *(rejection(values, judged, share, prefix=f"{name}: ", of=of) for share in _SCORE_SHARES),
    ]


def _metric(name: str, estimate: Estimate, of: str = "") -> Metric:
    return Metric(name, estimate.value, estimate.error, of=of)


def _with_lowest(values: Array) -> Array:
    """Put a value that does not exist below all others."""
    known = values[np.isfinite(values)]
    lowest = known.min() - 1 if len(known) else 0.0
    filled: Array = np.where(np.isfinite(values), values, lowest)
    return filled
