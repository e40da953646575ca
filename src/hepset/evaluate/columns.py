"""Columns of evaluated events by configuration names, ``jet.mass`` or ``extra.mass``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from hepset.arrays import Array
from hepset.batch import EventBatch
from hepset.dataset.columns import ColumnLayout
from hepset.errors import ConfigurationError, did_you_mean
from hepset.interfaces.judge import Evaluation
from hepset.schema.event import EventInfo
from hepset.schema.units import unit_of

__all__ = [
    "KeptColumn",
    "Quantity",
    "kept_columns",
    "kept_in_dataset",
    "quantity",
    "require_quantity",
]

_TEXT = "OSTU"
"""Kinds of numpy's element types that are no numbers."""


class KeptColumn(NamedTuple):
    """What an ``extra/…`` tensor holds.

    Attributes:
        stream: Stream with a value per object; None with a value per event.
        is_number: Whether that value is one number.
        dtype: Its element type.
    """

    stream: str | None
    is_number: bool
    dtype: str


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


def kept_columns(batch: EventBatch) -> dict[str, KeptColumn]:
    """Return what the ``extra/…`` tensors of events hold."""
    found = {name: _kept(None, values) for name, values in batch.arrays.items()}
    for stream, data in batch.streams.items():
        found |= {name: _kept(stream, values) for name, values in data.attached.items()}
    return {name: kept for name, kept in found.items() if name.startswith("extra/")}


def _kept(stream: str | None, values: Array) -> KeptColumn:
    is_number = values.ndim == 1 and values.dtype.kind not in _TEXT
    return KeptColumn(stream, is_number, str(values.dtype))


def kept_in_dataset(layouts: Mapping[str, ColumnLayout]) -> dict[str, KeptColumn]:
    """Return what the ``extra/…`` tensors of a dataset hold."""
    found: dict[str, KeptColumn] = {}
    for name, layout in layouts.items():
        if name.startswith("extra/"):
            stream = None if layout.mask is None else layout.mask.removesuffix(".mask")
            kind = np.dtype(layout.dtype)
            is_number = len(layout.dims) == 1 + (stream is not None) and kind.kind not in _TEXT
            found[name] = KeptColumn(stream, is_number, str(kind))
    return found


def require_quantity(
    name: str, event: EventInfo, extras: Mapping[str, KeptColumn], where: str
) -> str | None:
    """Refuse a name that is no column of numbers: a feature or an extra column.

    Args:
        name: ``<stream or global>.<feature>``, or ``extra.<name>``.
        event: What an event is.
        extras: What the extra tensors, ``extra/…``, hold.
        where: Place in the configuration, for the message.

    Returns:
        The stream that it has a value per object of; None for a value per event.

    Raises:
        ConfigurationError: If there is no such column, or it holds no single numbers.
    """
    known = [
        f"{block}.{feature}"
        for blocks in (event.streams, event.globals)
        for block, described in blocks.items()
        for feature in described.features
    ]
    known += [extra.replace("/", ".", 1) for extra in extras]
    if name not in known:
        raise ConfigurationError(
            f"{where}: there is no column {name!r}{did_you_mean(name, known)}; there are "
            f"{', '.join(known[:40])}{', …' if len(known) > 40 else ''}. An observable that is no "
            "input is kept with prepare.derive, as extra.<name>"
        )
    kept = extras.get(name.replace(".", "/", 1))
    if kept is None:
        block = name.partition(".")[0]
        return block if block in event.streams else None
    if not kept.is_number:
        raise ConfigurationError(
            f"{where}: {name!r} has dtype {kept.dtype} and is no column of single numbers; keep a "
            "number with prepare.derive, as extra.<name>"
        )
    return kept.stream


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
