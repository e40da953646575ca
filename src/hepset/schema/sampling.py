"""`SamplingConfig`: how often each training event is shown, without touching its weight."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from hepset.errors import did_you_mean
from hepset.schema.base import Model

__all__ = ["SamplingConfig"]


class SamplingConfig(Model):
    """Draw training events with a probability of their own, again in every epoch.

    Validation and test events are never drawn: they are judged as they are. The events' physical
    weights stay as they are and multiply the loss as always.
    """

    method: Literal["flat", "reference", "weights"] = "flat"
    """``flat``: every class is spread evenly over the bins of `variables`. ``reference``: every
    class gets the spectrum of one of them. ``weights``: in proportion to `base_weight`."""
    variables: dict[str, list[float]] = Field(default_factory=dict)
    """Expression → edges of its bins, such as ``extra.jet_pt: [200, 300, 500]``; none = only the
    classes are balanced. The last edge belongs to the last bin."""
    classes: dict[str, str] | str = Field(default_factory=dict)
    """Class → expression that is true, or 1, for its events; of several the last counts. A text
    instead names a classification target, whose classes are taken. Events of no class are not
    drawn. None = one class of all events."""
    class_weights: dict[str, PositiveFloat] = Field(default_factory=dict)
    """Class → its share of the drawn events, relative to the others'; 1 where not given."""
    reference: str | None = None
    """The class whose spectrum ``method: reference`` takes; null = the first."""
    threshold: float = Field(default=10.0, ge=0, le=100)
    """Percentage of the bins in which events may be too rare to follow: their events are all as
    probable as those of the bin at this percentile."""
    out_of_range: Literal["drop", "clip"] = "drop"
    """Events outside all bins: never drawn, or counted in the nearest bin."""
    base_weight: str | None = None
    """Expression of a further factor of every event's probability."""
    sampler: Literal["exact", "accept_reject"] = "exact"
    """``exact``: each event is drawn as often as expected, up or down to an integer, so that
    the class fractions hold exactly. ``accept_reject``: each event is accepted or not by a throw
    of its own, as weaver does."""
    max_repeats: PositiveInt = 10
    """How many times an event may be tried in one pass, where few are accepted."""
    events: PositiveInt | None = None
    """Events that are drawn in an epoch; null = as many as one pass is expected to give."""
    scale: PositiveFloat = 1.0
    """Upper end of the throws of ``accept_reject``: above 1 accepts fewer events."""

    @property
    def target(self) -> str | None:
        """The classification target whose classes are taken; None where they are expressions."""
        return self.classes if isinstance(self.classes, str) else None

    @property
    def expressions(self) -> dict[str, str]:
        """Class → expression; empty where a target gives the classes."""
        return {} if isinstance(self.classes, str) else self.classes

    @model_validator(mode="after")
    def _consistent(self) -> SamplingConfig:
        if self.method == "weights":
            if self.base_weight is None:
                raise ValueError("method 'weights' needs base_weight: what is the probability?")
            if self.variables or self.classes or self.class_weights:
                raise ValueError(
                    "method 'weights' takes the probability from base_weight alone; variables "
                    "and classes belong to 'flat' and 'reference'"
                )
        for name, edges in self.variables.items():
            if len(edges) < 2 or any(not a < b for a, b in itertools.pairwise(edges)):
                raise ValueError(f"variables: {name}: at least two edges, in rising order")
            if not all(math.isfinite(edge) for edge in edges):
                raise ValueError(f"variables: {name}: the edges are finite numbers")
        if self.target is None and self.method != "weights":
            known: Mapping[str, Any] = self.expressions or {"all": None}
            for name in [*self.class_weights, *filter(None, [self.reference])]:
                if name not in known:
                    raise ValueError(f"no class {name!r}{did_you_mean(name, known)}")
        if self.reference is not None and self.method != "reference":
            raise ValueError(f"reference: {self.reference!r} needs method: reference")
        if self.scale != 1 and self.sampler == "exact":
            raise ValueError(
                f"scale: {self.scale:g} is the upper end of throws, which need sampler: "
                "accept_reject; of sampler: exact, events says how many are drawn"
            )
        if self.method == "reference" and not self.variables:
            raise ValueError("method 'reference' needs variables: the spectrum of what?")
        return self
