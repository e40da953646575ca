"""Simple variables of an event, which a trained model has to beat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hepset.interfaces.head import Evaluation
from hepset.kinematics import mass_of
from hepset.schema.event import Feature
from hepset.schema.tensors import TensorSpec
from hepset.transforms import four_momentum, momentum_columns

__all__ = ["LEADING", "Variable", "event_variables", "object_variables"]

Array = NDArray[Any]

LEADING = 4
"""How many objects of a stream are looked at one by one."""


class Variable(NamedTuple):
    """A number that can be computed from the inputs with a pencil.

    Attributes:
        name: As a report says it: ``sum of jets.pt``.
        values: Shape ``(event,)`` or ``(event, slot)``, float64; NaN where it does not exist.
        angle: Whether it is an angle in rad.
    """

    name: str
    values: Array
    angle: bool = False


def event_variables(evaluation: Evaluation) -> list[Variable]:
    """Return the variables of the events, shape ``(event,)``.

    The features of globals; per stream the number of objects and, of every feature, the sum, the
    largest value and the values of the first `LEADING` objects; the mass of all objects that have
    a four-momentum. Angles are neither summed nor maximised.
    """
    found: list[Variable] = []
    contract = evaluation.contract
    for spec in contract.of_kind("global"):
        if spec.name in evaluation.inputs:
            present = evaluation.inputs.get(f"{spec.name}.mask")
            found += _columns(spec, evaluation.inputs[spec.name], present)
    for spec in contract.of_kind("stream"):
        if spec.name in evaluation.inputs:
            mask = np.asarray(evaluation.inputs[f"{spec.name}.mask"], dtype=bool)
            found += _stream(spec, np.asarray(evaluation.inputs[spec.name]), mask)
    mass = _total_mass(evaluation)
    return found if mass is None else [*found, mass]


def object_variables(evaluation: Evaluation, stream: str) -> list[Variable]:
    """Return the features of a stream's objects, shape ``(event, slot)``."""
    spec = evaluation.contract[stream]
    return list(_columns(spec, evaluation.inputs[stream], evaluation.inputs[f"{stream}.mask"]))


def _columns(spec: TensorSpec, values: Array, mask: Array | None) -> Iterator[Variable]:
    for index, (name, feature) in enumerate(_features(spec).items()):
        column = np.asarray(values[..., index], dtype=np.float64)
        if mask is not None:
            column = np.where(mask, column, np.nan)
        yield Variable(f"{spec.name}.{name}", column, _is_angle(feature))


def _stream(spec: TensorSpec, values: Array, mask: Array) -> Iterator[Variable]:
    yield Variable(f"number of {spec.name}", mask.sum(axis=1).astype(np.float64))
    if not mask.shape[1]:
        return
    some = mask.any(axis=1)
    order = np.argsort(~mask, axis=1, kind="stable")[:, :LEADING]
    real = np.take_along_axis(mask, order, axis=1)
    for index, (name, feature) in enumerate(_features(spec).items()):
        column = np.asarray(values[..., index], dtype=np.float64)
        label, angle = f"{spec.name}.{name}", _is_angle(feature)
        if not angle:
            yield Variable(f"sum of {label}", np.where(mask, column, 0.0).sum(axis=1))
            largest = np.where(mask, column, -np.inf).max(axis=1)
            yield Variable(f"largest {label}", np.where(some, largest, np.nan))
        first = np.where(real, np.take_along_axis(column, order, axis=1), np.nan)
        for position in range(first.shape[1]):
            yield Variable(f"{label} of object {position + 1}", first[:, position], angle)


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


def _features(spec: TensorSpec) -> Mapping[str, Feature]:
    return {name: spec.features[name] for name in spec.columns}


def _is_angle(feature: Feature) -> bool:
    return "circular" in feature.transform
