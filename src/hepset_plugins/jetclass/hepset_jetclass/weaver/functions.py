"""Functions of weaver's expressions that hepset's have no word for (hook ``hepset_functions``)."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hepset.expressions.functions import Function

Array = NDArray[Any]

MOST_ALTERNATIVES: Final = 512
"""Most arguments of `argmax_of` and its like."""


def _ones_like(x: Array) -> Array:
    return np.ones_like(x)


def _zeros_like(x: Array) -> Array:
    return np.zeros_like(x)


def _nan_to_num(
    x: Array, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Array:
    found: Array = np.nan_to_num(x, nan=nan, posinf=posinf, neginf=neginf)
    return found


def _finite(x: Array, instead: float) -> Array:
    """NaN becomes a number, an infinity the largest one of float32."""
    largest = float(np.finfo(np.float32).max)
    single = np.asarray(x, np.float32)
    found: Array = np.nan_to_num(single, nan=instead, posinf=largest, neginf=-largest)
    return found


def _float32(x: Array) -> Array:
    return np.asarray(x, np.float32)


def _int64(x: Array) -> Array:
    return np.asarray(x).astype(np.int64)


def _number(offsets: Array, x: Array) -> Array:
    del x
    return np.diff(offsets)


def _nanmax(offsets: Array, x: Array) -> Array:
    return _extreme(np.maximum, offsets, x, -np.inf)


def _nanmin(offsets: Array, x: Array) -> Array:
    return _extreme(np.minimum, offsets, x, np.inf)


def _extreme(ufunc: np.ufunc, offsets: Array, x: Array, least: float) -> Array:
    values = x if x.dtype.kind == "f" else x.astype(np.float64)
    values = np.where(np.isnan(values), values.dtype.type(least), values)
    filled = offsets[1:] > offsets[:-1]
    found = np.full(len(filled), np.nan, values.dtype)
    if filled.any():
        found[filled] = ufunc.reduceat(values, offsets[:-1][filled])
    return found


def _argmax_of(*values: Array) -> Array:
    """Which argument is largest, from 0; the first of equal ones."""
    stacked = np.stack(np.broadcast_arrays(*values), axis=-1)
    which: Array = np.argmax(stacked, axis=-1)
    return which


def _nanmax_of(*values: Array) -> Array:
    found: Array = np.fmax.reduce(np.broadcast_arrays(*values), axis=0)
    return found


def _nanmin_of(*values: Array) -> Array:
    found: Array = np.fmin.reduce(np.broadcast_arrays(*values), axis=0)
    return found


def _mass(px: Array, py: Array, pz: Array, energy: Array) -> Array:
    """√(E² − p²), in GeV as the components are; minus the root of what is negative."""
    square = energy**2 - (px**2 + py**2 + pz**2)
    mass: Array = np.copysign(np.sqrt(np.abs(square)), square)
    return mass


def _each(call: Any, *arguments: str, **options: Any) -> Function:  # noqa: ANN401
    return Function(call, "elementwise", arguments, **options)


ONES_LIKE: Final = _each(_ones_like, "x")
"""``ones_like(x)``: 1 for every value."""
ZEROS_LIKE: Final = _each(_zeros_like, "x")
"""``zeros_like(x)``: 0 for every value."""
NAN_TO_NUM: Final = _each(_nan_to_num, "x", "nan", "posinf", "neginf", optional=3)
"""``nan_to_num(x, nan, posinf, neginf)``: NaN is 0, an infinity the largest number of its sign,
where nothing else is given."""
FINITE: Final = _each(_finite, "x", "instead")
"""``finite(x, instead)``: float32, NaN replaced, infinities as the largest number."""
FLOAT32: Final = _each(_float32, "x")
"""``float32(x)``: in single precision."""
INT64: Final = _each(_int64, "x")
"""``int64(x)``: integers, rounded towards 0."""
SIGN: Final = _each(np.sign, "x")
"""``sign(x)``: −1, 0 or 1."""
LOG2: Final = _each(np.log2, "x")
"""``log2(x)``: logarithm to base 2."""
NUMBER: Final = Function(_number, "reduction", ("x",))
"""``number(x)``: how many values an event has."""
NAN_MAX: Final = Function(_nanmax, "reduction", ("x",))
"""``nanmax(x)``: the largest value that is no NaN, −∞ if all are; NaN without objects."""
NAN_MIN: Final = Function(_nanmin, "reduction", ("x",))
"""``nanmin(x)``: the smallest value that is no NaN, ∞ if all are; NaN without objects."""
MASS: Final = _each(_mass, "px", "py", "pz", "energy")
"""``p4_mass(px, py, pz, energy)``: invariant mass."""


def _of_many(call: Any) -> Function:  # noqa: ANN401
    names = (f"x{number}" for number in range(MOST_ALTERNATIVES))
    return _each(call, *names, optional=MOST_ALTERNATIVES - 1)


ARGMAX_OF: Final = _of_many(_argmax_of)
"""``argmax_of(a, b, …)``: which argument is largest, from 0."""
NAN_MAX_OF: Final = _of_many(_nanmax_of)
"""``nanmax_of(a, b, …)``: the largest argument that is no NaN."""
NAN_MIN_OF: Final = _of_many(_nanmin_of)
"""``nanmin_of(a, b, …)``: the smallest argument that is no NaN."""
