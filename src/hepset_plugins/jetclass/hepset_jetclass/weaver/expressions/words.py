"""Words of weaver's expressions: what functions are in hepset's, or why they are nothing."""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping
from typing import Final

MODULES: Final = frozenset({"np", "numpy", "ak", "awkward", "math"})
"""Names that weaver's expressions may call functions of."""
RESERVED: Final = frozenset({"weight", "process", "pi", "nan", "inf", "true", "false", "columns"})
"""Names that mean something else in hepset's expressions."""

CONSTANTS: Final[Mapping[str, str | float]] = {
    "pi": "pi",
    "inf": "inf",
    "nan": "nan",
    "Inf": "inf",
    "NaN": "nan",
    "e": math.e,
}
PLAIN: Final = {
    name: name
    for name in (
        *("abs", "sqrt", "exp", "expm1", "log", "log1p", "log10", "sin", "cos", "tan", "sinh"),
        *("cosh", "tanh", "arcsin", "arccos", "arctan", "arcsinh", "arccosh", "arctanh", "asin"),
        *("acos", "atan", "asinh", "acosh", "atanh", "floor", "ceil", "arctan2", "atan2", "hypot"),
        *("minimum", "maximum", "where", "clip", "isnan", "isfinite", "ones_like", "zeros_like"),
        *("sign", "log2"),
    )
} | {"absolute": "abs", "fabs": "abs", "rint": "round"}
"""Functions that act element by element: numpy's (awkward's, math's) name → hepset's."""
REDUCTIONS: Final = {
    **{name: name for name in ("sum", "mean", "any", "all")},
    **dict.fromkeys(("min", "amin"), "nanmin"),
    **dict.fromkeys(("max", "amax"), "nanmax"),
    "num": "number",
    "count": "number",
    "firsts": "first",
    "count_nonzero": "count",
}
"""Functions that give one value per event."""
OF_CONDITIONS: Final = frozenset({"any", "all", "count"})
"""Reductions of what is true or false."""
WRITTEN_OUT: Final[Mapping[str, tuple[str, ...]]] = {
    "isinf": ("abs(x) == inf", "x"),
    "square": ("x ** 2", "x"),
    "cbrt": ("sign(x) * abs(x) ** (1 / 3)", "x"),
    "exp2": ("2 ** x", "x"),
    "negative": ("-x", "x"),
    "trunc": ("sign(x) * floor(abs(x))", "x"),
    "deg2rad": ("x * (pi / 180)", "x"),
    "radians": ("x * (pi / 180)", "x"),
    "rad2deg": ("x * (180 / pi)", "x"),
    "degrees": ("x * (180 / pi)", "x"),
    "logical_xor": ("x != y", "x", "y"),
    "fmin": ("where(isnan(x), y, where(isnan(y), x, minimum(x, y)))", "x", "y"),
    "fmax": ("where(isnan(x), y, where(isnan(y), x, maximum(x, y)))", "x", "y"),
    "full_like": ("ones_like(x) * y", "x", "y"),
}
"""Functions that act element by element: what they compute, and their arguments."""
SPREADS: Final[Mapping[str, str]] = {
    "std": "sqrt(mean((x - mean(x)) ** 2))",
    "var": "mean((x - mean(x)) ** 2)",
    "ptp": "nanmax(x) - nanmin(x)",
}
"""Further functions that give one value per event."""
CHOSEN: Final[Mapping[str, str]] = {
    "sum": "sum(where(c, x, 0))",
    "mean": "sum(where(c, x, 0)) / count(c)",
    "nanmax": "where(any(c), nanmax(where(c, x, -inf)), none)",
    "nanmin": "where(any(c), nanmin(where(c, x, inf)), none)",
    "number": "count(c)",
    "count": "count(c & x)",
    "any": "any(c & x)",
    "all": "all(~c | x)",
}
"""Reductions of the objects x for which c is true, ``f(x[c])``; ``none`` is that of no object."""
ACROSS: Final[Mapping[str, str]] = {
    "sum": "x + y",
    "mean": "x + y",
    "any": "x | y",
    "all": "x & y",
}
"""Reductions over a stack of columns, of two of them."""
COMPARISONS: Final[Mapping[str, ast.cmpop]] = {
    "greater": ast.Gt(),
    "greater_equal": ast.GtE(),
    "less": ast.Lt(),
    "less_equal": ast.LtE(),
    "equal": ast.Eq(),
    "not_equal": ast.NotEq(),
}
OF_NOTHING: Final = {"nanmax": "-inf", "nanmin": "inf"}
"""What a reduction of no object gives with ``mask_identity=False``."""
NEGATIONS: Final = frozenset({"logical_not", "invert", "bitwise_not"})
OPERATORS: Final[Mapping[str, ast.operator]] = {
    "add": ast.Add(),
    "subtract": ast.Sub(),
    "multiply": ast.Mult(),
    "divide": ast.Div(),
    "true_divide": ast.Div(),
    "floor_divide": ast.FloorDiv(),
    "mod": ast.Mod(),
    "remainder": ast.Mod(),
    "power": ast.Pow(),
    "float_power": ast.Pow(),
    "pow": ast.Pow(),
    "bitwise_and": ast.BitAnd(),
    "bitwise_or": ast.BitOr(),
    "bitwise_xor": ast.BitXor(),
}
LOGICAL: Final[Mapping[str, ast.operator]] = {
    "logical_and": ast.BitAnd(),
    "logical_or": ast.BitOr(),
}
TRUE_OR_FALSE: Final = frozenset(
    {"isnan", "isfinite", "isinf", "isin", "any", "all", "logical_xor"}
    | {"bitwise_and", "bitwise_or", "bitwise_xor"}
    | COMPARISONS.keys()
    | LOGICAL.keys()
    | NEGATIONS
)
"""Functions whose result is true or false."""
TRUE_OF_TRUE: Final = frozenset(
    {"abs", "absolute", "minimum", "maximum", "square", "nan_to_num", "fill_none", "where"}
    | {"ones_like", "zeros_like", "min", "max", "amin", "amax", "firsts", "multiply", "add"}
    | {"to_numpy", "asarray", "array", "Array", "to_packed", "fmin", "fmax"}
)
"""Functions whose result is true or false where their arguments are."""
HALF: Final = frozenset(
    {"sqrt", "exp", "expm1", "exp2", "log", "log1p", "log10", "log2", "sin", "cos", "tan", "sinh"}
    | {"cosh", "tanh", "arcsin", "arccos", "arctan", "arcsinh", "arccosh", "arctanh", "cbrt"}
    | {"deg2rad", "radians", "rad2deg", "degrees", "hypot", "arctan2", "floor", "ceil", "trunc"}
    | {"rint", "fabs"}
)
"""Functions that numpy computes in half precision of what is true or false."""
AS_THEY_ARE: Final = frozenset({"to_numpy", "asarray", "array", "Array", "to_packed"})
JUDGED: Final = frozenset({"values_astype", "enforce_type", "_pad", "_repeat_pad"})
SINGLE: Final = frozenset({"float32", "float"})
WHOLE: Final = frozenset({"int", "int32", "int64"})
NARROW: Final = frozenset({"int8", "int16", "uint8", "uint16", "uint32", "uint64"})
TRUTH: Final = frozenset({"bool", "bool_"})
VECTORS: Final[Mapping[str, tuple[str, ...]]] = {
    "_p4_from_pxpypze": ("px", "py", "pz", "energy"),
    "_p4_from_ptetaphie": ("pt", "eta", "phi", "energy"),
    "_p4_from_ptetaphim": ("pt", "eta", "phi", "mass"),
}
SHORT: Final = {"x": "px", "y": "py", "z": "pz", "E": "energy", "e": "energy", "t": "energy"} | {
    "m": "mass",
    "M": "mass",
    "tau": "mass",
    "rho": "pt",
}
PROPERTIES: Final = frozenset(
    {"px", "py", "pz", "energy", "pt", "eta", "phi", "theta", "mass", "mass2", "mt", "et"}
    | {"p", "mag", "rapidity"}
)
BITS: Final = "the bits of numbers have no translation"
DISTANCES: Final = {"deltaR": "delta_r", "deltaphi": "delta_phi", "deltaeta": "eta"}
REASONS: Final[Mapping[str, str]] = {
    "len": "it is the number of events; the number of an event's objects is ak.num(x)",
    "_hash": "hepset identifies events by their source and entry",
    "_concat": "several collections are several groups of inputs (streams)",
    "_stack": "a list of columns is a group of inputs",
    "concatenate": "several collections are several groups of inputs (streams)",
    "stack": "a list of columns is a group of inputs",
    "zip": "a list of columns is a group of inputs",
    "_knn": "neighbours are found by the network",
    "_batch_knn": "neighbours are found by the network",
    "_batch_permute_indices": "inputs are no function of chance",
    "_batch_permute_and_drop_indices": "inputs are no function of chance",
    "_batch_argsort": "objects are ordered by `order` of the stream in a hepset event file",
    "_batch_gather": "objects are ordered by `order` of the stream in a hepset event file",
    "argsort": "objects are ordered by `order` of the stream in a hepset event file",
    "sort": "objects are ordered by `order` of the stream in a hepset event file",
    "flatten": "it forgets to which event a value belongs",
    "ravel": "it forgets to which event a value belongs",
    "percentile": "it mixes events, or orders objects",
    "median": "it mixes events, or orders objects",
    "prod": "hepset has no product over objects",
    "local_index": "objects have no numbers in expressions",
    "mask": "write np.where(condition, x, …), or x[condition] inside a sum, max, …",
    "reciprocal": "of integers it is 0 almost everywhere; write 1 / x",
    "argmax": "it is known of a stack of columns: np.argmax(np.stack([a, b], axis=1), axis=1)",
}
KNOWN: Final = frozenset(
    {*PLAIN, *REDUCTIONS, *SPREADS, *OPERATORS, *LOGICAL, *COMPARISONS, *NEGATIONS}
    | {*WRITTEN_OUT}
    | {"_clip", "_pad", "_repeat_pad", "round", "around", "isin", "nan_to_num"}
    | (SINGLE | WHOLE | TRUTH | JUDGED | AS_THEY_ARE | VECTORS.keys())
)
"""Functions with a translation."""
