"""Simple variables of an event, which a trained model has to beat."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hepset.interfaces.judge import Evaluation
from hepset.kinematics import mass_of
from hepset.model.input_transform import four_momentum, momentum_columns
from hepset.schema.event import GlobalInput, Stream
from hepset.schema.feature import Role
from hepset.schema.tensors import TensorSpec

__all__ = ["LEADING", "Variable", "event_variables", "object_variables", "over_events"]

Array = NDArray[Any]

LEADING = 4
"""How many objects of a stream are looked at one by one."""
_ORIENTED: Final = frozenset({"phi", "sin_phi", "cos_phi", "px", "py"})
"""Roles of numbers that change when the event is rotated around the beam."""


class Variable(NamedTuple):
    """A number that can be computed from the inputs with a pencil.

    Attributes:
        name: As a report says it: ``sum of jets.pt``.
        compute: Gives the values, see `values`.
        angle: Whether it is an angle in rad.
        oriented: Whether it changes when the event is rotated around the beam, so that it can
            separate no classes.
    """

    name: str
    compute: Callable[[], Array]
    angle: bool = False
    oriented: bool = False

    @property
    def values(self) -> Array:
        """Shape ``(event,)`` or ``(event, slot)``, float64; NaN where it does not exist."""
        return self.compute()


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


def over_events(
    evaluation: Evaluation, position: int, variables: Callable[[Evaluation], list[Variable]]
) -> Array:
    """Return the values of one variable, computed part by part, so that memory stays bounded.

    Args:
        evaluation: The events.
        position: Which of the variables.
        variables: Lists them for some events.
    """
    parts = [variables(part)[position].values for part in evaluation.parts()]
    return np.concatenate(parts) if parts else np.zeros(0)


def _columns(
    spec: TensorSpec, block: Stream | GlobalInput, values: Array, mask: Array | None
) -> list[Variable]:
    """The features of a tensor and what follows from them, NaN where the mask is False."""

    def column(name: str) -> Array:
        found = np.asarray(values[..., spec.columns.index(name)], dtype=np.float64)
        return found if mask is None else np.where(mask, found, np.nan)

    found = []
    for name in spec.columns:
        _, role = block.roles.get(name, ("", None))
        angle = "circular" in spec.features[name].transform
        variable = Variable(
            f"{spec.name}.{name}", partial(column, name), angle, angle or role in _ORIENTED
        )
        found.append(variable)
    return [*found, *_components(spec, block, column)]


def _components(
    spec: TensorSpec, block: Stream | GlobalInput, column: Callable[[str], Array]
) -> Iterator[Variable]:
    """Angles of sine and cosine, and components of momenta of a size and a direction."""
    by_stem: dict[str, dict[Role, str]] = {}
    for name, (stem, role) in block.roles.items():
        if name in spec.columns:
            by_stem.setdefault(stem, {})[role] = name
    for stem, known in by_stem.items():
        prefix = f"{spec.name}.{stem}_" if stem else f"{spec.name}."
        phi = _angle(known, column)
        if phi is None:
            continue
        if "phi" not in known:
            yield Variable(f"{prefix}phi", phi, angle=True, oriented=True)
        if "pt" not in known or "px" in known:
            continue
        pt = partial(column, known["pt"])
        yield Variable(f"{prefix}px", _product(pt, np.cos, phi), oriented=True)
        yield Variable(f"{prefix}py", _product(pt, np.sin, phi), oriented=True)
        if "eta" in known:
            yield Variable(f"{prefix}pz", _product(pt, np.sinh, partial(column, known["eta"])))


def _angle(known: dict[Role, str], column: Callable[[str], Array]) -> Callable[[], Array] | None:
    if "phi" in known:
        return partial(column, known["phi"])
    if "sin_phi" in known and "cos_phi" in known:
        return lambda: np.arctan2(column(known["sin_phi"]), column(known["cos_phi"]))
    return None


def _product(
    size: Callable[[], Array], function: Callable[[Array], Array], angle: Callable[[], Array]
) -> Callable[[], Array]:
    def product() -> Array:
        found: Array = size() * function(angle())
        return found

    return product


def _stream(spec: TensorSpec, block: Stream, values: Array, mask: Array) -> Iterator[Variable]:
    yield Variable(f"number of {spec.name}", lambda: mask.sum(axis=1).astype(np.float64))
    slots = mask.shape[1]
    if not slots:
        return

    def total(of: Variable) -> Array:
        found: Array = np.where(mask, of.values, 0.0).sum(axis=1)
        return found

    def largest(of: Variable) -> Array:
        found = np.where(mask, of.values, -np.inf).max(axis=1)
        return np.where(mask.any(axis=1), found, np.nan)

    def leading(of: Variable, position: int) -> Array:
        order = np.argsort(~mask, axis=1, kind="stable")[:, position : position + 1]
        found: Array = np.take_along_axis(of.values, order, axis=1)[:, 0]
        return found

    for part in _columns(spec, block, values, mask):
        kind = {"angle": part.angle, "oriented": part.oriented}
        if not part.angle:
            yield Variable(f"sum of {part.name}", partial(total, part), **kind)
            yield Variable(f"largest {part.name}", partial(largest, part), **kind)
        for position in range(min(slots, LEADING)):
            name = f"{part.name} of object {position + 1}"
            yield Variable(name, partial(leading, part, position), **kind)


def _total_mass(evaluation: Evaluation) -> Variable | None:
    momenta = {
        name: roles
        for name, roles in momentum_columns(evaluation.event, evaluation.contract).items()
        if name in evaluation.inputs
    }
    if not momenta:
        return None

    def mass() -> Array:
        total: Any = 0.0
        for name, roles in momenta.items():
            values = np.asarray(evaluation.inputs[name], dtype=np.float64)
            mask = np.asarray(evaluation.inputs[f"{name}.mask"], dtype=bool)
            total = total + four_momentum(values, roles, mask).sum(axis=1)
        return np.asarray(mass_of(total))

    return Variable(f"mass of all {' and '.join(momenta)}", mass)
