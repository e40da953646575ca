"""Simple variables of an event, which a trained model has to beat."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hepset.interfaces.head import Evaluation
from hepset.kinematics import mass_of
from hepset.model.input_transform import four_momentum, momentum_columns
from hepset.schema.event import GlobalInput, Stream
from hepset.schema.feature import Role
from hepset.schema.tensors import TensorSpec

__all__ = ["LEADING", "Variable", "event_variables", "object_variables"]

Array = NDArray[Any]

LEADING = 4
"""How many objects of a stream are looked at one by one."""
_ORIENTED: Final = frozenset({"phi", "sin_phi", "cos_phi", "px", "py"})
"""Roles of numbers that change when the event is rotated around the beam."""


class Variable(NamedTuple):
    """A number that can be computed from the inputs with a pencil.

    Attributes:
        name: As a report says it: ``sum of jets.pt``.
        values: Shape ``(event,)`` or ``(event, slot)``, float64; NaN where it does not exist.
        angle: Whether it is an angle in rad.
        oriented: Whether it changes when the event is rotated around the beam, so that it can
            separate no classes.
    """

    name: str
    values: Array
    angle: bool = False
    oriented: bool = False


def event_variables(evaluation: Evaluation) -> list[Variable]:
    """Return the variables of the events, shape ``(event,)``.

    The features of globals; per stream the number of objects and, of every feature, the sum, the
    largest value and the values of the first `LEADING` objects; the mass of all objects that have
    a four-momentum. Momenta that are given by size and direction also count by their components.
    Angles are neither summed nor maximised.
    """
    found: list[Variable] = []
    contract, inputs, event = evaluation.contract, evaluation.inputs, evaluation.event
    for spec in contract.of_kind("global"):
        if spec.name in inputs:
            present = inputs.get(f"{spec.name}.mask")
            found += _columns(spec, event.globals[spec.name], inputs[spec.name], present)
    for spec in contract.of_kind("stream"):
        if spec.name in inputs:
            mask = np.asarray(inputs[f"{spec.name}.mask"], dtype=bool)
            found += _stream(spec, event.streams[spec.name], inputs[spec.name], mask)
    mass = _total_mass(evaluation)
    return found if mass is None else [*found, mass]


def object_variables(evaluation: Evaluation, stream: str) -> list[Variable]:
    """Return the features of a stream's objects, shape ``(event, slot)``."""
    values, mask = evaluation.inputs[stream], evaluation.inputs[f"{stream}.mask"]
    return _columns(evaluation.contract[stream], evaluation.event.streams[stream], values, mask)


def _columns(
    spec: TensorSpec, block: Stream | GlobalInput, values: Array, mask: Array | None
) -> list[Variable]:
    """The features of a tensor and what follows from them, NaN where the mask is False."""
    found = []
    for index, name in enumerate(spec.columns):
        _, role = block.roles.get(name, ("", None))
        angle = "circular" in spec.features[name].transform
        column = np.asarray(values[..., index], dtype=np.float64)
        found.append(Variable(f"{spec.name}.{name}", column, angle, angle or role in _ORIENTED))
    found += _components(spec, block, values)
    if mask is None:
        return found
    return [part._replace(values=np.where(mask, part.values, np.nan)) for part in found]


def _components(spec: TensorSpec, block: Stream | GlobalInput, values: Array) -> Iterator[Variable]:
    """Angles of sine and cosine, and components of momenta of a size and a direction."""
    by_stem: dict[str, dict[Role, Array]] = {}
    for name, (stem, role) in block.roles.items():
        if name in spec.columns:
            column = np.asarray(values[..., spec.columns.index(name)], dtype=np.float64)
            by_stem.setdefault(stem, {})[role] = column
    for stem, known in by_stem.items():
        prefix = f"{spec.name}.{stem}_" if stem else f"{spec.name}."
        if "phi" in known:
            phi = known["phi"]
        elif "sin_phi" in known and "cos_phi" in known:
            phi = np.arctan2(known["sin_phi"], known["cos_phi"])
            yield Variable(f"{prefix}phi", phi, angle=True, oriented=True)
        else:
            continue
        if "pt" not in known or "px" in known:
            continue
        yield Variable(f"{prefix}px", known["pt"] * np.cos(phi), oriented=True)
        yield Variable(f"{prefix}py", known["pt"] * np.sin(phi), oriented=True)
        if "eta" in known:
            yield Variable(f"{prefix}pz", known["pt"] * np.sinh(known["eta"]))


def _stream(spec: TensorSpec, block: Stream, values: Array, mask: Array) -> Iterator[Variable]:
    yield Variable(f"number of {spec.name}", mask.sum(axis=1).astype(np.float64))
    if not mask.shape[1]:
        return
    some = mask.any(axis=1)
    order = np.argsort(~mask, axis=1, kind="stable")[:, :LEADING]
    for part in _columns(spec, block, values, mask):
        kind = {"angle": part.angle, "oriented": part.oriented}
        if not part.angle:
            total = np.where(mask, part.values, 0.0).sum(axis=1)
            yield Variable(f"sum of {part.name}", total, **kind)
            largest = np.where(mask, part.values, -np.inf).max(axis=1)
            yield Variable(f"largest {part.name}", np.where(some, largest, np.nan), **kind)
        first = np.take_along_axis(part.values, order, axis=1)
        for position in range(first.shape[1]):
            yield Variable(f"{part.name} of object {position + 1}", first[:, position], **kind)


def _total_mass(evaluation: Evaluation) -> Variable | None:
    total: Array | None = None
    momenta = momentum_columns(evaluation.event, evaluation.contract)
    for name, roles in momenta.items():
        if name in evaluation.inputs:
            values = np.asarray(evaluation.inputs[name], dtype=np.float64)
            mask = np.asarray(evaluation.inputs[f"{name}.mask"], dtype=bool)
            p4 = four_momentum(values, roles, mask).sum(axis=1)
            total = p4 if total is None else total + p4
    if total is None:
        return None
    return Variable(f"mass of all {' and '.join(momenta)}", mass_of(total))
