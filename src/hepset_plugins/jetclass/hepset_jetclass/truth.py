"""What is made of the columns while they are read: labels, resonances, the generator jet.

Each is a column of its own beside those of the file, computed only where it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hepset.arrays import Ragged
from hepset.errors import ReadError
from hepset.readers.assembly import Data
from hepset_jetclass.columns import DECAY_PRODUCTS, GEN_JET, LABEL, ONE_HOT
from hepset_jetclass.labels import NAMES, flavour_content

Array = NDArray[Any]
Columns = Mapping[str, Data]

_RESONANCES: Final = {"x": ("is_x", 0), "y1": ("is_y", 0), "y2": ("is_y", 1)}
_FOUR_MOMENTUM: Final = ("pt", "eta", "phi", "mass")


@dataclass(frozen=True)
class Computed:
    """A column that is computed.

    Attributes:
        needs: Columns of the file.
        compute: Makes it of them.
    """

    needs: tuple[str, ...]
    compute: Callable[[Columns], Data]


def computed_columns(names: Iterable[str]) -> dict[str, Computed]:
    """Return the columns that can be computed of those of a file, by name.

    ``label``: the class, of ``jet_label`` or of the one-hot columns of JetClass.
    ``n_b``, ``n_c``, …: what the jet was made of (JetClass-II, `flavour_content`).
    ``gen_jet_pt``, …: the generator jet, NaN where there is none; ``gen_jet_matched``.
    ``x_mass``, ``y1_pt``, …: momenta of the resonances, NaN where there is none.
    """
    present = set(names)
    found: dict[str, Computed] = {}
    one_hot = tuple(name for name in ONE_HOT if name in present)
    if LABEL in present:
        found["label"] = Computed((LABEL,), _known_label)
        for name in flavour_content(np.zeros(0, np.int64)):
            found[f"n_{name}"] = Computed((LABEL,), partial(_content, name))
    elif len(one_hot) > 1:
        found["label"] = Computed(one_hot, partial(_class_of, one_hot))
    pt = GEN_JET["pt"].column
    for name, quantity in GEN_JET.items():
        found[f"gen_jet_{name}"] = Computed(
            (pt, quantity.column), partial(_matched, quantity.column)
        )
    found["gen_jet_matched"] = Computed((pt,), lambda data: _array(data, pt) > 0)
    for resonance, (flag, number) in _RESONANCES.items():
        for name in _FOUR_MOMENTUM:
            needs = (DECAY_PRODUCTS[flag].column, DECAY_PRODUCTS[name].column)
            found[f"{resonance}_{name}"] = Computed(needs, partial(_nth, *needs, number))
    return {
        name: column
        for name, column in found.items()
        if name not in present and present.issuperset(column.needs)
    }


def _array(data: Columns, name: str) -> Array:
    values = data[name]
    if isinstance(values, Ragged):
        raise ReadError(f"{name!r} holds lists, expected a number per jet")
    return values


def _lists(data: Columns, name: str) -> Ragged:
    values = data[name]
    if not isinstance(values, Ragged):
        raise ReadError(f"{name!r} holds a number per jet, expected lists")
    return values


def _known_label(data: Columns) -> Array:
    """Return the labels, all of which are labels of JetClass-II or −1 = none."""
    labels = _array(data, LABEL)
    if labels.dtype.kind not in "iuf":
        return labels
    wrong = ~((labels >= -1) & (labels < len(NAMES)) & (labels % 1 == 0))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise ReadError(
            f"{LABEL}: {int(wrong.sum())} of {len(wrong)} jets have no label from 0 to "
            f"{len(NAMES) - 1}, or −1 for none; the first is row {row} of these, with "
            f"{labels[row]:g}; numbers of your own are a target of another name: "
            f"columns: {{targets.<name>: {LABEL}}}"
        )
    return labels


def _class_of(one_hot: tuple[str, ...], data: Columns) -> Array:
    """Return the number of the one column that is 1 (in the order of JetClass)."""
    table = np.stack([_array(data, name) != 0 for name in one_hot], axis=1)
    wrong = table.sum(axis=1) != 1
    if wrong.any():
        row = int(np.argmax(wrong))
        ones = [name for name, one in zip(one_hot, table[row], strict=True) if one]
        raise ReadError(
            f"label: {int(wrong.sum())} of {len(wrong)} jets have not exactly one label; the first "
            f"is row {row} of these, with {', '.join(ones) or 'none'} of {', '.join(one_hot)}"
        )
    numbers = np.array([ONE_HOT.index(name) for name in one_hot], np.int64)
    found: Array = numbers[np.argmax(table, axis=1)]
    return found


def _content(name: str, data: Columns) -> Array:
    try:
        return flavour_content(_array(data, LABEL))[name]
    except ValueError as problem:
        raise ReadError(f"{LABEL}: {problem}") from problem


def _matched(column: str, data: Columns) -> Array:
    there = _array(data, GEN_JET["pt"].column) > 0
    return np.where(there, _array(data, column), np.float32(np.nan))


def _nth(flag: str, column: str, number: int, data: Columns) -> Array:
    """Return the value of the n-th particle with a flag, NaN where there are fewer."""
    flags, values = _lists(data, flag), _lists(data, column)
    if not np.array_equal(flags.offsets, values.offsets):
        raise ReadError(f"{flag!r} and {column!r} have lists of different lengths")
    found = np.full(len(flags), np.nan, np.float32)
    chosen = np.flatnonzero(flags.values)
    jets = np.searchsorted(flags.offsets, chosen, side="right") - 1
    nth = np.arange(len(jets)) - np.searchsorted(jets, jets) == number
    found[jets[nth]] = values.values[chosen[nth]]
    return found
