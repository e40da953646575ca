"""Columns of judged events by the names that configurations use, ``jet.mass`` or ``extra.mass``."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from hepset.batch import Array
from hepset.errors import ConfigurationError, did_you_mean
from hepset.interfaces.head import Evaluation
from hepset.schema.event import EventInfo
from hepset.schema.units import unit_of

__all__ = ["Quantity", "quantity", "require_quantity"]


class Quantity(NamedTuple):
    """A column with what a figure says of it.

    Attributes:
        name: As it was asked for.
        unit: Its unit, empty where it has none or none is known.
        values: Shape ``(event,)`` or ``(event, slot)``, float64; NaN where it does not exist.
    """

    name: str
    unit: str
    values: Array

    @property
    def label(self) -> str:
        """Name with the unit in brackets."""
        return f"{self.name} [{self.unit}]" if self.unit else self.name


def require_quantity(name: str, event: EventInfo, extras: Collection[str], where: str) -> None:
    """Refuse a name that is neither a feature nor an extra column.

    Args:
        name: ``<stream or global>.<feature>``, or ``extra.<name>``.
        event: What an event is.
        extras: Names of the extra tensors, ``extra/…``.
        where: Place in the configuration, for the message.

    Raises:
        ConfigurationError: If there is no such column.
    """
    known = [
        f"{block}.{feature}"
        for blocks in (event.streams, event.globals)
        for block, described in blocks.items()
        for feature in described.features
    ]
    known += [extra.replace("/", ".", 1) for extra in extras if extra.startswith("extra/")]
    if name not in known:
        raise ConfigurationError(
            f"{where}: there is no column {name!r}{did_you_mean(name, known)}; there are "
            f"{', '.join(known[:40])}{', …' if len(known) > 40 else ''}. An observable that is no "
            "input is kept with prepare.derive, as extra.<name>"
        )


def quantity(evaluation: Evaluation, name: str) -> Quantity:
    """Return a column of the judged events; `require_quantity` has been asked before.

    Raises:
        KeyError: If the events lack it.
    """
    block, _, feature = name.partition(".")
    if block == "extra":
        values = np.asarray(evaluation.extra[f"extra/{feature}"], np.float64)
        return Quantity(feature, "", values)
    spec = evaluation.contract[block]
    values = np.asarray(evaluation.inputs[block][..., spec.columns.index(feature)], np.float64)
    mask = evaluation.inputs.get(f"{block}.mask")
    if mask is not None:
        values = np.where(np.asarray(mask, bool), values, np.nan)
    return Quantity(name, unit_of(feature, spec.features[feature]), values)
