"""The functions that expressions may call.

An expression knows nothing but columns, operators and these functions. A plugin adds its own
through the component kind ``functions``: a name and a `Function`. Arguments may also be strings,
and files: ``acceptance(jets.pt, 'spectrum.json')``, declared as
``Function(call, "elementwise", ("pt", "file"), files=frozenset({1}))``.

An *elementwise* function receives arrays of one length and returns one of that length. A
*reduction* receives the values of a stream, event after event, and the offsets of the events in
them, and returns one value per event. No function loops over events in Python.

What a reduction gives for an event without objects, and for values that are NaN:

============================  ==================  =============================================
reduction                     no objects          NaN among the values
============================  ==================  =============================================
``count(condition)``          0                   a comparison with NaN is False: not counted
``sum(x)``                    0                   NaN
``mean(x)``                   NaN                 NaN
``min(x)``, ``max(x)``        NaN                 NaN
``any(condition)``            False               comparison False
``all(condition)``            True                comparison False
``first(x)``, ``nth(x, k)``   NaN                 the value as it is
``leading(x, n)``             NaN                 sorted behind all others
============================  ==================  =============================================
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hepset.hashes import INCREMENT, splitmix64
from hepset.kinematics import wrap_phi

__all__ = ["FUNCTIONS", "Function"]

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Function:
    """A function that expressions may call by its name.

    Attributes:
        call: ``call(*arrays) -> array`` for an elementwise function, ``call(offsets, *arrays) ->
            (event,) array`` for a reduction. Constants arrive as Python numbers. Must be a
            module-level function or ufunc where expressions travel to worker processes.
        kind: ``"elementwise"`` or ``"reduction"``.
        arguments: What the arguments are called in error messages, in order.
        optional: How many of the last arguments may be left out.
        conditions: Positions of arguments that must be boolean.
        ordinals: Positions of arguments that must be whole constants of at least 1.
        strings: Positions of arguments that must be string constants; `call` gets a ``str``.
        files: Positions of string arguments that name a file. It has to exist, and its content is
            part of what decides whether a dataset is up to date. A relative path in a run file
            begins at the run file.
        result: ``"number"``, ``"boolean"``, or ``"any"`` where it depends on the arguments.
    """

    call: Callable[..., Any]
    kind: Literal["elementwise", "reduction"]
    arguments: tuple[str, ...]
    optional: int = 0
    conditions: frozenset[int] = field(default_factory=frozenset)
    ordinals: frozenset[int] = field(default_factory=frozenset)
    strings: frozenset[int] = field(default_factory=frozenset)
    files: frozenset[int] = field(default_factory=frozenset)
    result: Literal["number", "boolean", "any"] = "number"

    def signature(self, name: str) -> str:
        """Write the call, optional arguments in brackets: ``leading(x, n[, by])``."""
        needed = len(self.arguments) - self.optional
        text = ", ".join(self.arguments[:needed])
        for argument in self.arguments[needed:]:
            text += f"[, {argument}]"
        return f"{name}({text})"


def _delta_phi(phi1: Array, phi2: Array) -> Array:
    difference: Array = wrap_phi(np.subtract(phi1, phi2))
    return difference


def _delta_r(eta1: Array, phi1: Array, eta2: Array, phi2: Array) -> Array:
    distance: Array = np.hypot(np.subtract(eta1, eta2), _delta_phi(phi1, phi2))
    return distance


def _uniform(x: Array, seed: int) -> Array:
    """Hash values to [0, 1), as splitmix64 does (Steele, Lea and Flood, OOPSLA 2014)."""
    # Adding 0 makes one zero of both.
    state = (np.asarray(x, np.float64) + 0.0).view(np.uint64)
    # splitmix64 itself adds the increment once.
    state = state + np.uint64((seed - 1) * INCREMENT % 2**64)
    number: Array = (splitmix64(state) >> np.uint64(11)) * 2.0**-53
    return number


def _reduce(ufunc: np.ufunc, offsets: Array, values: Array, empty: Any) -> Array:  # noqa: ANN401
    """Reduce the values of every event; `empty` stands where there are none.

    Each event is reduced on its own, so its result does not depend on its neighbours.
    """
    result = np.empty(len(offsets) - 1, values.dtype)
    # ``reduceat`` gives a wrong value, but no error, for an event without objects that others with
    # objects follow; it refuses one at the very end.
    last = int(np.searchsorted(offsets, len(values))) if len(values) else 0
    if last:
        ufunc.reduceat(values, offsets[:last], out=result[:last])
    result[offsets[1:] == offsets[:-1]] = empty
    return result


def _sum(offsets: Array, values: Array) -> Array:
    wide = values.astype(np.float64 if values.dtype.kind == "f" else np.int64)
    return _reduce(np.add, offsets, wide, 0)


def _mean(offsets: Array, values: Array) -> Array:
    total = _reduce(np.add, offsets, values.astype(np.float64), np.nan)
    result: Array = total / np.diff(offsets)
    return result


def _with_nan(values: Array) -> Array:
    """The values in a dtype that can say "none": floats as they are, the rest float64."""
    return values if values.dtype.kind == "f" else values.astype(np.float64)


def _min(offsets: Array, values: Array) -> Array:
    return _reduce(np.minimum, offsets, _with_nan(values), np.nan)


def _max(offsets: Array, values: Array) -> Array:
    return _reduce(np.maximum, offsets, _with_nan(values), np.nan)


def _any(offsets: Array, condition: Array) -> Array:
    return _reduce(np.logical_or, offsets, condition, empty=False)


def _all(offsets: Array, condition: Array) -> Array:
    return _reduce(np.logical_and, offsets, condition, empty=True)


def _take(offsets: Array, values: Array, number: int) -> Array:
    """The number-th (from 1) value of every event, NaN where there are fewer."""
    present = np.diff(offsets) >= number
    source = _with_nan(values)
    result = np.full(len(present), np.nan, dtype=source.dtype)
    result[present] = source[offsets[:-1][present] + (number - 1)]
    return result


def _first(offsets: Array, values: Array) -> Array:
    return _take(offsets, values, 1)


def _nth(offsets: Array, values: Array, number: int) -> Array:
    return _take(offsets, values, number)


def _leading(offsets: Array, values: Array, number: int, by: Array | None = None) -> Array:
    """The largest value is found and taken out, `number` - 1 times; equal ones in their order."""
    source = _with_nan(values)
    key = source if by is None else _distinguishable(by)
    counts = np.diff(offsets)
    if number > counts.max(initial=0):
        return np.full(len(counts), np.nan, source.dtype)
    left = key.copy()
    largest = _reduce(np.fmax, offsets, left, np.nan)
    for _ in range(number - 1):
        left[_first_equal(left, largest, counts)] = np.nan
        largest = _reduce(np.fmax, offsets, left, np.nan)
    if by is None:
        return largest
    result = np.full(len(counts), np.nan, source.dtype)
    result[~np.isnan(largest)] = source[_first_equal(left, largest, counts)]
    return result


def _distinguishable(key: Array) -> Array:
    """The key as floats in the same order; integers that float64 would merge as ranks."""
    if key.dtype.kind == "f" or not key.size:
        return _with_nan(key)
    if max(abs(int(key.min())), abs(int(key.max()))) > 2**53:
        key = np.unique(key, return_inverse=True)[1]
    return key.astype(np.float64)


def _first_equal(values: Array, wanted: Array, counts: Array) -> Array:
    """Place of the first value of each event that equals the wanted one, which is not NaN."""
    places = np.flatnonzero(values == np.repeat(wanted, counts))
    if len(places) == len(wanted) - np.count_nonzero(np.isnan(wanted)):
        return places
    events = np.repeat(np.arange(len(counts)), counts)[places]
    return places[np.flatnonzero(np.diff(events, prepend=-1))]


def _elementwise(call: Callable[..., Any], *arguments: str, **options: Any) -> Function:  # noqa: ANN401
    return Function(call, "elementwise", arguments, **options)


def _reduction(call: Callable[..., Any], *arguments: str, **options: Any) -> Function:  # noqa: ANN401
    return Function(call, "reduction", arguments, **options)


_FIRST: Final = frozenset({0})

FUNCTIONS: Final[Mapping[str, Function]] = MappingProxyType(
    {
        "count": _reduction(_sum, "condition", conditions=_FIRST),
        "sum": _reduction(_sum, "x"),
        "mean": _reduction(_mean, "x"),
        "min": _reduction(_min, "x"),
        "max": _reduction(_max, "x"),
        "any": _reduction(_any, "condition", conditions=_FIRST, result="boolean"),
        "all": _reduction(_all, "condition", conditions=_FIRST, result="boolean"),
        "first": _reduction(_first, "x"),
        "nth": _reduction(_nth, "x", "k", ordinals=frozenset({1})),
        "leading": _reduction(_leading, "x", "n", "by", optional=1, ordinals=frozenset({1})),
        "where": _elementwise(np.where, "condition", "yes", "no", conditions=_FIRST, result="any"),
        "isfinite": _elementwise(np.isfinite, "x", result="boolean"),
        "isnan": _elementwise(np.isnan, "x", result="boolean"),
        "minimum": _elementwise(np.minimum, "x", "y"),
        "maximum": _elementwise(np.maximum, "x", "y"),
        "clip": _elementwise(np.clip, "x", "low", "high"),
        "hypot": _elementwise(np.hypot, "x", "y"),
        "atan2": _elementwise(np.arctan2, "y", "x"),
        "arctan2": _elementwise(np.arctan2, "y", "x"),
        "wrap_phi": _elementwise(wrap_phi, "phi"),
        "delta_phi": _elementwise(_delta_phi, "phi1", "phi2"),
        "delta_r": _elementwise(_delta_r, "eta1", "phi1", "eta2", "phi2"),
        "uniform": _elementwise(_uniform, "x", "seed", ordinals=frozenset({1})),
        **{
            name: _elementwise(ufunc, "x")
            for name, ufunc in {
                "abs": np.abs,
                "sqrt": np.sqrt,
                "exp": np.exp,
                "expm1": np.expm1,
                "log": np.log,
                "log1p": np.log1p,
                "log10": np.log10,
                "sin": np.sin,
                "cos": np.cos,
                "tan": np.tan,
                "asin": np.arcsin,
                "arcsin": np.arcsin,
                "acos": np.arccos,
                "arccos": np.arccos,
                "atan": np.arctan,
                "arctan": np.arctan,
                "sinh": np.sinh,
                "cosh": np.cosh,
                "tanh": np.tanh,
                "asinh": np.arcsinh,
                "arcsinh": np.arcsinh,
                "acosh": np.arccosh,
                "arccosh": np.arccosh,
                "atanh": np.arctanh,
                "arctanh": np.arctanh,
                "floor": np.floor,
                "ceil": np.ceil,
                "round": np.rint,
            }.items()
        },
    }
)
"""The functions of every expression, by name."""
