"""How checks fail, and what holds for the options of every component."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepset.batch import EventBatch
from hepset.errors import ConfigurationError, HepsetError
from hepset.interfaces.component import ComponentConfig

__all__ = [
    "check_options",
    "require",
    "require_same",
    "require_same_batch",
    "require_subclass",
]

Array = NDArray[Any]


def require(condition: object, message: str) -> None:
    """Fail with a message; unlike ``assert`` also where Python runs with ``-O``.

    Raises:
        AssertionError: If the condition does not hold.
    """
    if not condition:
        raise AssertionError(message)


def require_subclass(found: object, base: type, message: str = "") -> None:
    """Fail where something is no class derived from another.

    Raises:
        AssertionError: Naming both.
    """
    if not (isinstance(found, type) and issubclass(found, base)):
        text = message or f"{found!r} is not derived from hepset's {base.__name__}"
        raise AssertionError(text)  # noqa: TRY004  it is what checks raise


def require_same(
    found: Array, expected: Array, message: str, *, rtol: float = 0.0, atol: float = 0.0
) -> None:
    """Fail where two arrays differ in shape or in a value; NaN equals NaN.

    Raises:
        AssertionError: Saying how many values differ, and the first of them.
    """
    found, expected = np.asarray(found), np.asarray(expected)
    if found.shape != expected.shape:
        raise AssertionError(f"{message}: shape {found.shape} instead of {expected.shape}")
    if found.dtype.kind in "fc" or expected.dtype.kind in "fc":
        good = np.isclose(found, expected, rtol=rtol, atol=atol, equal_nan=True)
    else:
        good = found == expected
    if not np.all(good):
        first = tuple(int(i) for i in np.argwhere(~np.atleast_1d(good))[0])
        pair = np.atleast_1d(found)[first], np.atleast_1d(expected)[first]
        raise AssertionError(
            f"{message}: {int(np.sum(~good))} of {found.size} values differ, the first at "
            f"{list(first)}: {pair[0]} instead of {pair[1]}"
        )


def require_same_batch(
    found: EventBatch, expected: EventBatch, message: str, *, ids: bool = True
) -> None:
    """Fail where two batches differ in a tensor, a dtype or a value; padding is not looked at.

    Raises:
        AssertionError: Naming the tensor.
    """
    if ids:
        require_same(found.ids, expected.ids, f"{message}: ids")
    require(
        len(found) == len(expected), f"{message}: {len(found)} events instead of {len(expected)}"
    )
    have, want = set(found.names()), set(expected.names())
    require(
        have == want,
        f"{message}: tensors differ: lacking {sorted(want - have)}, also has {sorted(have - want)}",
    )
    for name in expected.streams:
        one, other = found.flat(name), expected.flat(name)
        require_same(one.counts, other.counts, f"{message}: {name}: number of objects")
        for kind, mine, theirs in (
            ("feature", one.columns, other.columns),
            ("attached", one.attached, other.attached),
        ):
            require(
                list(mine) == list(theirs),
                f"{message}: {name}: {kind} columns {list(mine)} instead of {list(theirs)}",
            )
            for column, values in theirs.items():
                label = f"{name}.{column}" if kind == "feature" else column
                _same_dtype(mine[column], values, f"{message}: {label}")
                require_same(mine[column], values, f"{message}: {label}")
    for name, array in expected.arrays.items():
        _same_dtype(found.arrays[name], array, f"{message}: {name}")
        require_same(found.arrays[name], array, f"{message}: {name}")


def check_options(
    component: type, options: type[ComponentConfig], base: type[ComponentConfig]
) -> None:
    """Check the model of a component's options.

    Raises:
        AssertionError: If it is not derived from `base`, is not frozen, takes unknown options in
            silence, or has a field that is not described.
    """
    label = f"{component.__name__}.Config"
    require_subclass(
        options,
        base,
        f"{label} is no subclass of {base.__name__}, whose options every such component has",
    )
    require(options.model_config.get("frozen"), f"{label} is not frozen: options would change")
    require(
        options.model_config.get("extra") == "forbid",
        f"{label} takes unknown options in silence: a misspelt option would be ignored",
    )
    described = options.descriptions()
    bare = [name for name in options.model_fields if not described.get(name)]
    require(not bare, f"{label}: not described: {', '.join(bare)}; add a docstring with the unit")
    try:
        options.parse({"no_such_option": 1}, "options")
    except ConfigurationError as problem:
        require("no_such_option" in str(problem), f"{label}: the message does not name the option")
    except HepsetError as problem:
        raise AssertionError(
            f"{label}: an unknown option raises {type(problem).__name__}, not ConfigurationError"
        ) from problem
    else:
        raise AssertionError(f"{label} takes unknown options in silence")


def _same_dtype(found: Array, expected: Array, message: str) -> None:
    # The length of text may differ: it is that of the longest text of the rows that were read.
    same = found.dtype == expected.dtype or (
        found.dtype.kind == expected.dtype.kind and found.dtype.kind in "US"
    )
    require(same, f"{message}: dtype {found.dtype} instead of {expected.dtype}")
