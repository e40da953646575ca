"""Named scores of some classes against others, made of the probabilities of a classification."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

import torch
from pydantic import Field
from torch import Tensor

from hepset.errors import ConfigurationError, did_you_mean
from hepset.judges.classes import Score
from hepset.schema.base import IDENTIFIER, Model

__all__ = ["Discriminant", "Score", "resolve_scores", "score_of"]

FIELDS = ("probabilities", "top", "top_probabilities")
"""Fields of the predictions that a score cannot be named after."""


class Discriminant(Model):
    """s / (s + b), with the summed probabilities of signal and background classes."""

    signal: tuple[str, ...] = Field(min_length=1)
    """Names of classes, or patterns such as ``QCD_*``."""
    background: tuple[str, ...] = Field(min_length=1)
    """The same of the background; classes of neither are left out of the judgement."""


def resolve_scores(
    scores: Mapping[str, Discriminant], classes: Sequence[str] | None, where: str
) -> list[Score]:
    """Find the classes of discriminants.

    Args:
        scores: Name → discriminant.
        classes: Names of the classes; None where the event does not name them.
        where: The head in the configuration, for messages.

    Raises:
        ConfigurationError: If a name fits no class, a class is of both kinds, or a score cannot
            have its name.
    """
    if scores and classes is None:
        raise ConfigurationError(
            f"{where}.scores: the classes have no names; name them in the event file "
            "(targets.<name>.classes)"
        )
    found = []
    for name, score in scores.items():
        place = f"{where}.scores.{name}"
        if not IDENTIFIER.match(name) or name in FIELDS:
            raise ConfigurationError(
                f"{place}: a score is named by letters, digits and '_', and not {', '.join(FIELDS)}"
            )
        assert classes is not None
        signal = list(_indices(score.signal, classes, f"{place}.signal"))
        background = list(_indices(score.background, classes, f"{place}.background"))
        both = sorted(set(signal) & set(background))
        if both:
            raise ConfigurationError(
                f"{place}: {', '.join(classes[c] for c in both[:3])} cannot be signal and "
                "background"
            )
        found.append(Score(name, signal, background))
    return found


def _indices(names: Sequence[str], classes: Sequence[str], where: str) -> Iterator[int]:
    seen: set[int] = set()
    for name in names:
        fitting = [c for c, known in enumerate(classes) if fnmatchcase(known, name)]
        if not fitting:
            raise ConfigurationError(
                f"{where}: no class {name!r}{did_you_mean(name, classes)}; there are "
                f"{', '.join(classes[:8])}{', …' if len(classes) > 8 else ''}"
            )
        yield from (c for c in fitting if c not in seen)
        seen.update(fitting)


def score_of(logits: Tensor, score: Score) -> Tensor:
    """Compute a score from logits ``(..., class)``.

    It is taken from the logits themselves, so that it does not lose its digits near 0 and 1.
    """

    def total(indices: list[int]) -> Tensor:
        chosen = torch.tensor(indices, device=logits.device)
        return torch.logsumexp(logits.float().index_select(-1, chosen), -1)

    return torch.sigmoid(total(score.signal) - total(score.background))
