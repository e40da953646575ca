"""Whether losses are finite, asked without making a GPU wait.

On a CPU a loss that is not finite stops the training at once. A GPU would have to finish every
step before it could be asked, so that it keeps what it has seen first, and is asked now and then
and at the end of an epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from hepset.errors import TrainingError
from hepset.interfaces.head import LossTerm

__all__ = ["FiniteCheck", "Moment"]

STEPS_BETWEEN_QUESTIONS: Final = 100
"""Steps after which a GPU is asked."""


@dataclass(frozen=True)
class Moment:
    """When a loss was computed.

    Attributes:
        part: ``training`` or ``validation``.
        epoch: From 0.
        batch: Of the epoch, from 0.
        step: Of the optimizer, from 0.
    """

    part: str
    epoch: int
    batch: int
    step: int


class FiniteCheck:
    """Stops a training whose loss is not finite, and says where that began.

    Args:
        sources: Keys of the data set's sources, by the number in the ids.
        advice: Returns what else the message says.
    """

    def __init__(self, sources: Sequence[str], advice: Callable[[], str] = str) -> None:
        self._sources = sources
        self._advice = advice
        self._moments: list[Moment] = []
        self._names: tuple[str, ...] = ()
        self._first: Tensor | None = None
        self._seen: Tensor | None = None

    def __call__(
        self,
        loss: Tensor,
        terms: Mapping[str, LossTerm],
        ids: Tensor,
        moment: Moment,
        *,
        wait: bool | None = None,
    ) -> None:
        """Look at the loss of a batch.

        Args:
            loss: A scalar.
            terms: The terms that it is made of, by ``<head>/<term>``.
            ids: Source, entry and sample of the events, shape ``(event, 3)``.
            moment: When this is.
            wait: Whether to ask at once; null = unless the loss is on a GPU.

        Raises:
            TrainingError: If the loss is not finite, or one was not since the device was asked.
        """
        if loss.device.type != "cuda" if wait is None else wait:
            if not bool(torch.isfinite(loss)):
                here = {n: LossTerm(t.value.cpu(), t.valid.cpu()) for n, t in terms.items()}
                raise TrainingError(self._message(moment, tuple(terms), _summary(here, ids.cpu())))
            return
        if tuple(terms) != self._names:
            self.settle()
            self._names = tuple(terms)
        now = len(self._moments)
        self._moments.append(moment)
        bad = ~torch.isfinite(loss.detach())
        summary = _summary(terms, ids)
        if self._first is None or self._seen is None:
            self._first = torch.where(bad, now, -1)
            self._seen = summary
        else:
            is_first = bad & (self._first < 0)
            self._first = torch.where(is_first, now, self._first)
            self._seen = torch.where(is_first, summary, self._seen)
        if len(self._moments) >= STEPS_BETWEEN_QUESTIONS:
            self.settle()

    def settle(self) -> None:
        """Ask what was not asked yet.

        Raises:
            TrainingError: If a loss was not finite.
        """
        first, seen, moments = self._first, self._seen, self._moments
        self._first, self._seen, self._moments = None, None, []
        if first is None or seen is None:
            return
        number = int(first)
        if number >= 0:
            raise TrainingError(self._message(moments[number], self._names, seen))

    def _message(self, moment: Moment, names: Sequence[str], summary: Tensor) -> str:
        lines = []
        for name, row in zip(names, summary.tolist(), strict=True):
            count, events, source, entry, value = row
            if not count:
                continue
            number = int(source)
            known = number < len(self._sources)
            where = self._sources[number] if known else f"source {number}"
            owner, _, short = name.partition("/")
            who = "the backbone" if owner == "backbone" else f"head {owner!r}"
            lines.append(
                f"  {who}, term {short!r}: {int(count)} of {int(events)} events, "
                f"first {where}, entry {int(entry)}: {value}"
            )
        if not lines:
            lines.append("  every term is finite, but their weighted sum is not")
        return (
            f"the {moment.part} loss is not finite in epoch {moment.epoch + 1}, batch "
            f"{moment.batch + 1} (step {moment.step}):\n" + "\n".join(lines) + "\n"
            "Look at these events with `hepset inspect`; where they are fine, lower "
            "train.learning_rate, lengthen train.warmup_epochs, or set train.precision: 32"
            + self._advice()
        )


def _summary(terms: Mapping[str, LossTerm], ids: Tensor) -> Tensor:
    """Per term: bad events, events, source and entry of the first bad one and its value."""
    values = torch.stack([term.value.detach().double() for term in terms.values()])
    bad = torch.stack([term.valid for term in terms.values()]) & ~torch.isfinite(values)
    first = bad.int().argmax(1)
    events = torch.full_like(first, values.shape[1])
    chosen = ids.index_select(0, first)
    columns = [bad.sum(1), events, chosen[:, 0], chosen[:, 1]]
    value = values.gather(1, first[:, None])[:, 0]
    return torch.stack([*(column.double() for column in columns), value], 1)
