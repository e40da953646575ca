"""What an event of JetClass is, as far as the files and a few options tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final, Literal

from hepset.errors import ConfigurationError, did_you_mean
from hepset.readers.column_map import Column
from hepset.schema.event import EventInfo
from hepset_jetclass.columns import (
    DECAY_PRODUCTS,
    GEN_JET,
    GEN_PARTICLES,
    JET,
    PARTICLES,
    Flavour,
    Quantity,
    flavour,
)
from hepset_jetclass.labels import JETCLASS, LABELS, NAMES, groups

Truth = Literal["resonances", "gen_jet", "decay_products", "gen_particles"]

_MOMENTUM: Final = ("px", "py", "pz", "energy")


def describe(names: Iterable[str], truth: Sequence[Truth]) -> EventInfo:
    """Describe the jets of a file by its columns.

    The constituents are the stream ``particles``; the jet is the global ``jet``, which selection,
    sampling and figures use and which is no input of the network; the class is the target
    ``label``.

    Args:
        names: Columns of the file, computed ones included.
        truth: What else to read: momenta of X, Y1 and Y2 and the generator jet as targets; decay
            products and generator particles as streams that are no inputs.

    Raises:
        ConfigurationError: If the files have no constituents, or lack the truth.
    """
    present = set(names)
    particles = _features(PARTICLES, present)
    if not particles:
        wanted = ", ".join(quantity.column for quantity in PARTICLES.values())
        raise ConfigurationError(
            f"the files have none of the columns of constituents ({wanted}); describe what they "
            "have in an event file (event: event.yaml)"
        )
    streams: dict[str, Any] = {"particles": {"features": particles}}
    if set(_MOMENTUM) <= set(particles):
        streams["particles"]["p4"] = {name: name for name in _MOMENTUM}
    targets: dict[str, Any] = {}
    kind = flavour(present)
    if kind is not None and "label" in present:
        classes = NAMES if kind == "jetclass2" else JETCLASS
        targets["label"] = {"kind": "classification", "classes": classes}
    for what in truth:
        if what == "resonances":
            found = _resonances(present)
        elif what == "gen_jet":
            found = _targets("gen_jet", GEN_JET, present)
        else:
            table = GEN_PARTICLES if what == "gen_particles" else DECAY_PRODUCTS
            found = _features(table, present, is_input=False)
            streams[what] = {"features": found}
        if not found:
            raise ConfigurationError(f"truth: the files do not hold what {what!r} is made of")
        if what in {"resonances", "gen_jet"}:
            targets |= found
    jet = _features(JET, present, is_input=False)
    return EventInfo.model_validate(
        {
            "streams": streams,
            "globals": {"jet": {"features": jet}} if jet else {},
            "targets": targets,
        }
    )


def label_column(event: EventInfo, present: set[str]) -> dict[str, Column]:
    """Say how the classes of the target ``label`` come from the labels of a file.

    Args:
        event: What is to be read.
        present: Columns of the file, computed ones included.

    Returns:
        The place of the target → its column; empty where the classes are the file's own.

    Raises:
        ConfigurationError: If a class is no label, or a label belongs to two.
    """
    label, kind = event.targets.get("label"), flavour(present)
    if label is None or not label.classes or kind is None or "label" not in present:
        return {}
    if label.classes == (NAMES if kind == "jetclass2" else JETCLASS):
        return {}
    column = {"from": "label", "map": class_map(label.classes, kind), "otherwise": -1}
    return {"targets.label": Column.model_validate(column)}


def class_map(classes: Sequence[str], kind: Flavour) -> dict[int, int]:
    """Return label in the files → number of the class that is named after it.

    A class is a label (``X_bb``; ``Hbb`` in JetClass), with or without ``label_``; in JetClass-II
    also a group of Sophon's (``X_YY_QQQQ``), a part (``Res2P``, ``Res34P``, ``QCD``), or all labels
    of a pattern: ``QCD_b*`` are the QCD jets with b quarks.

    Raises:
        ConfigurationError: If a class is not known, or a label belongs to two.
    """
    members: dict[str, tuple[int, ...]]
    if kind == "jetclass":
        members = {name: (index,) for index, name in enumerate(JETCLASS)}
    else:
        members = {label.name: (label.index,) for label in LABELS} | groups()
        for part in ("Res2P", "Res34P"):
            members[part] = tuple(label.index for label in LABELS if label.part == part)
    found: dict[int, int] = {}
    for number, name in enumerate(classes):
        plain = name.removeprefix("label_")
        if "*" in plain:
            names = JETCLASS if kind == "jetclass" else NAMES
            fitting = tuple(i for i, known in enumerate(names) if fnmatchcase(known, plain))
            if fitting:
                members[plain] = fitting
        if plain not in members:
            raise ConfigurationError(
                f"targets.label.classes: {name!r} is no label or group of labels of JetClass"
                f"{'-II' if kind == 'jetclass2' else ''}{did_you_mean(plain, members)}"
            )
        for index in members[plain]:
            if index in found:
                raise ConfigurationError(
                    f"targets.label.classes: {name!r} and {classes[found[index]]!r} share the "
                    f"label {index}"
                )
            found[index] = number
    return found


def _features(
    table: Mapping[str, Quantity], present: set[str], *, is_input: bool = True
) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "unit": quantity.unit,
            "transform": list(quantity.transform),
            **({} if is_input else {"input": False}),
        }
        for name, quantity in table.items()
        if quantity.column in present
    }


def _targets(
    prefix: str, table: Mapping[str, Quantity], present: set[str]
) -> dict[str, dict[str, Any]]:
    return {
        f"{prefix}/{name}": {
            "kind": "regression",
            "unit": quantity.unit,
            "transform": list(quantity.transform),
        }
        for name, quantity in table.items()
        if f"{prefix}_{name}" in present
    }


def _resonances(present: set[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for resonance in ("x", "y1", "y2"):
        found |= _targets(resonance, DECAY_PRODUCTS, present)
    return found
