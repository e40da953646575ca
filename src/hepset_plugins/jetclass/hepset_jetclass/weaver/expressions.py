"""weaver's expressions in the words of hepset's, or a message that says why not.

weaver hands its expressions to Python's ``eval`` with numpy, awkward and its own helpers. Here they
are parsed, and every part that has a meaning per event or per object is written in hepset's
language (`hepset.prepare.expressions`); what mixes events, or orders objects anew, is refused.
"""

from __future__ import annotations

import ast
import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from hepset.errors import EventInfoError, did_you_mean

MODULES: Final = frozenset({"np", "numpy", "ak", "awkward", "math"})
"""Names that weaver's expressions may call functions of."""
RESERVED: Final = frozenset({"weight", "process", "pi", "nan", "inf", "true", "false", "columns"})
"""Names that mean something else in hepset's expressions."""

_CONSTANTS: Final[Mapping[str, str | float]] = {
    "pi": "pi",
    "inf": "inf",
    "nan": "nan",
    "Inf": "inf",
    "NaN": "nan",
    "e": math.e,
}
_PLAIN: Final = {
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
_REDUCTIONS: Final = {
    **{name: name for name in ("sum", "mean", "any", "all")},
    **dict.fromkeys(("min", "amin"), "nanmin"),
    **dict.fromkeys(("max", "amax"), "nanmax"),
    "num": "number",
    "count": "number",
    "firsts": "first",
    "count_nonzero": "count",
}
"""Functions that give one value per event."""
_OF_CONDITIONS: Final = frozenset({"any", "all", "count"})
"""Reductions of what is true or false."""
_WRITTEN_OUT: Final[Mapping[str, tuple[str, ...]]] = {
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
_SPREADS: Final[Mapping[str, str]] = {
    "std": "sqrt(mean((x - mean(x)) ** 2))",
    "var": "mean((x - mean(x)) ** 2)",
    "ptp": "nanmax(x) - nanmin(x)",
}
"""Further functions that give one value per event."""
_CHOSEN: Final[Mapping[str, str]] = {
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
_ACROSS: Final[Mapping[str, str]] = {
    "sum": "x + y",
    "mean": "x + y",
    "any": "x | y",
    "all": "x & y",
}
"""Reductions over a stack of columns, of two of them."""
_COMPARISONS: Final[Mapping[str, ast.cmpop]] = {
    "greater": ast.Gt(),
    "greater_equal": ast.GtE(),
    "less": ast.Lt(),
    "less_equal": ast.LtE(),
    "equal": ast.Eq(),
    "not_equal": ast.NotEq(),
}
_OF_NOTHING: Final = {"nanmax": "-inf", "nanmin": "inf"}
"""What a reduction of no object gives with ``mask_identity=False``."""
_NEGATIONS: Final = frozenset({"logical_not", "invert", "bitwise_not"})
_OPERATORS: Final[Mapping[str, ast.operator]] = {
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
_LOGICAL: Final[Mapping[str, ast.operator]] = {
    "logical_and": ast.BitAnd(),
    "logical_or": ast.BitOr(),
}
_TRUE_OR_FALSE: Final = frozenset(
    {"isnan", "isfinite", "isinf", "isin", "any", "all", "logical_xor"}
    | {"bitwise_and", "bitwise_or", "bitwise_xor"}
    | _COMPARISONS.keys()
    | _LOGICAL.keys()
    | _NEGATIONS
)
"""Functions whose result is true or false."""
_TRUE_OF_TRUE: Final = frozenset(
    {"abs", "absolute", "minimum", "maximum", "square", "nan_to_num", "fill_none", "where"}
    | {"ones_like", "zeros_like", "min", "max", "amin", "amax", "firsts", "multiply", "add"}
    | {"to_numpy", "asarray", "array", "Array", "to_packed", "fmin", "fmax"}
)
"""Functions whose result is true or false where their arguments are."""
_HALF: Final = frozenset(
    {"sqrt", "exp", "expm1", "exp2", "log", "log1p", "log10", "log2", "sin", "cos", "tan", "sinh"}
    | {"cosh", "tanh", "arcsin", "arccos", "arctan", "arcsinh", "arccosh", "arctanh", "cbrt"}
    | {"deg2rad", "radians", "rad2deg", "degrees", "hypot", "arctan2", "floor", "ceil", "trunc"}
    | {"rint", "fabs"}
)
"""Functions that numpy computes in half precision of what is true or false."""
_AS_THEY_ARE: Final = frozenset({"to_numpy", "asarray", "array", "Array", "to_packed"})
_JUDGED: Final = frozenset({"values_astype", "enforce_type", "_pad", "_repeat_pad"})
_SINGLE: Final = frozenset({"float32", "float"})
_WHOLE: Final = frozenset({"int", "int32", "int64"})
_NARROW: Final = frozenset({"int8", "int16", "uint8", "uint16", "uint32", "uint64"})
_TRUTH: Final = frozenset({"bool", "bool_"})
_VECTORS: Final[Mapping[str, tuple[str, ...]]] = {
    "_p4_from_pxpypze": ("px", "py", "pz", "energy"),
    "_p4_from_ptetaphie": ("pt", "eta", "phi", "energy"),
    "_p4_from_ptetaphim": ("pt", "eta", "phi", "mass"),
}
_SHORT: Final = {"x": "px", "y": "py", "z": "pz", "E": "energy", "e": "energy", "t": "energy"} | {
    "m": "mass",
    "M": "mass",
    "tau": "mass",
    "rho": "pt",
}
_PROPERTIES: Final = frozenset(
    {"px", "py", "pz", "energy", "pt", "eta", "phi", "theta", "mass", "mass2", "mt", "et"}
    | {"p", "mag", "rapidity"}
)
_BITS: Final = "the bits of numbers have no translation"
_DISTANCES: Final = {"deltaR": "delta_r", "deltaphi": "delta_phi", "deltaeta": "eta"}
_REASONS: Final[Mapping[str, str]] = {
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
    "reciprocal": "of whole numbers it is 0 almost everywhere; write 1 / x",
    "argmax": "it is known of a stack of columns: np.argmax(np.stack([a, b], axis=1), axis=1)",
}


_ZERO: Final = ast.Constant(0)


@dataclass
class Translator:
    """Writes expressions of one data configuration in hepset's language.

    Attributes:
        where: Name of the configuration in messages.
        new_variables: Name → expression, as written.
        rename: Name in the configuration → name in hepset's expressions, where they differ.
        longest: Largest length of an input group: `_pad` to it is what the slots do.
        columns: Columns of the files that were met, in order.
    """

    where: str
    new_variables: Mapping[str, str]
    rename: Callable[[str], str] = lambda name: name
    longest: int = 0
    columns: dict[str, None] = field(default_factory=dict)

    def translate(self, text: str, key: str, *, inline: Iterable[str] = ()) -> str:
        """Translate one expression.

        Args:
            text: The expression.
            key: Its place in the configuration, for messages.
            inline: New variables that are written out instead of named.

        Raises:
            EventInfoError: If a part of it has no meaning in hepset; the message names it.
        """
        tree = _Expression(self, text, key, frozenset(inline)).tree()
        return ast.unparse(tree)

    def is_condition(self, text: str, key: str) -> bool:
        """Whether the form of an expression says that it is true or false."""
        return _Expression(self, text, key, frozenset()).is_condition(self.parse(text, key))

    def parse(self, text: str, key: str) -> ast.expr:
        """Parse an expression.

        Raises:
            EventInfoError: If it is none.
        """
        try:
            return ast.parse(" ".join(text.split()), mode="eval").body
        except (SyntaxError, ValueError) as problem:
            raise EventInfoError(
                f"{self.where}: {key}: not an expression: {text!r} ({problem})"
            ) from None


class _Expression:
    """Translates one expression, node by node."""

    def __init__(self, owner: Translator, text: str, key: str, inline: frozenset[str]) -> None:
        self.owner = owner
        self.key = key
        self.text = text
        self.inline = inline
        self.open: list[str] = []

    def tree(self) -> ast.expr:
        return self.visit(self.owner.parse(self.text, self.key))

    def error(self, node: ast.AST, reason: str) -> EventInfoError:
        return EventInfoError(
            f"{self.owner.where}: {self.key}: {ast.unparse(node)!r}: {reason}\n  {self.text}"
        )

    def visit(self, node: ast.expr) -> ast.expr:
        match node:
            case ast.Constant(value=bool() | int() | float()):
                return node
            case ast.Constant(value=bytes() | str() | None):
                raise self.error(node, "a text or None has no place in an expression")
            case ast.Name(id=name):
                return self.name(node, name)
            case ast.UnaryOp(op=ast.Invert(), operand=operand):
                return self.inverted(node, operand)
            case ast.UnaryOp(op=op, operand=operand):
                return ast.UnaryOp(op, self.visit(operand))
            case ast.BinOp(left=left, op=op, right=right):
                if isinstance(op, ast.LShift | ast.RShift | ast.MatMult):
                    raise self.error(node, "hepset's expressions do not have this operator")
                return self.operation(node, left, op, right)
            case ast.BoolOp(op=op, values=values):
                return ast.BoolOp(op, [self.visit(value) for value in values])
            case ast.Compare(left=left, ops=ops, comparators=others):
                if any(isinstance(op, ast.Is | ast.IsNot | ast.In | ast.NotIn) for op in ops):
                    raise self.error(node, "compare with == or !=")
                if len(ops) == 1 and isinstance(ops[0], ast.NotEq):
                    return _differs(self.visit(left), self.visit(others[0]))
                return ast.Compare(self.visit(left), ops, [self.visit(other) for other in others])
            case ast.Call():
                return self.call(node)
            case ast.Attribute():
                return self.attribute(node)
            case ast.Subscript():
                return self.element(node)
            case ast.IfExp():
                raise self.error(node, "write np.where(condition, yes, no)")
            case _:
                raise self.error(node, f"{type(node).__name__} is not part of hepset's expressions")

    # -- true or false -------------------------------------------------------------------------

    def operation(
        self, node: ast.expr, left: ast.expr, op: ast.operator, right: ast.expr
    ) -> ast.expr:
        """Write an operator between two values; true + true is true, as numpy has it."""
        if isinstance(op, ast.BitAnd | ast.BitOr | ast.BitXor):
            one, other = self.truth(node, left), self.truth(node, right)
            if isinstance(op, ast.BitXor):
                if not (self.is_condition(left) and self.is_condition(right)):
                    raise self.error(
                        node, f"{_BITS}; of what is true or false, write np.logical_xor(a, b)"
                    )
                return ast.Compare(one, [ast.NotEq()], [other])
            return ast.BinOp(one, op, other)
        if self.is_condition(left) and self.is_condition(right):
            op = {ast.Add: ast.BitOr(), ast.Mult: ast.BitAnd()}.get(type(op), op)
        return ast.BinOp(self.visit(left), op, self.visit(right))

    def truth(self, node: ast.expr, operand: ast.expr) -> ast.expr:
        """Write an operand of ``& | ~``; a column is looked at when there are values."""
        column = operand
        while isinstance(column, ast.Subscript):
            column = column.value
        if not (isinstance(column, ast.Name) or self.is_condition(operand)):
            raise self.error(node, _BITS)
        if self.is_number(operand):
            raise self.error(node, _BITS)
        return self.visit(operand)

    def inverted(self, node: ast.expr, operand: ast.expr) -> ast.expr:
        """Write ``~x`` of what is true or false."""
        return ast.UnaryOp(ast.Invert(), self.truth(node, operand))

    def is_number(self, node: ast.expr, seen: frozenset[str] = frozenset()) -> bool:
        """Whether an expression is made of numbers alone, without a column."""
        match node:
            case ast.Constant(value=value):
                return not isinstance(value, bool)
            case ast.UnaryOp(operand=operand):
                return self.is_number(operand, seen)
            case ast.BinOp(left=left, right=right):
                return self.is_number(left, seen) and self.is_number(right, seen)
            case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name), args=[value]):
                return name not in _TRUTH | _TRUE_OR_FALSE and self.is_number(value, seen)
            case ast.Name(id=name) if name in self.owner.new_variables and name not in seen:
                key, text = f"new_variables.{name}", self.owner.new_variables[name]
                return self.is_number(self.owner.parse(text, key), seen | {name})
        return False

    def condition(self, node: ast.expr) -> ast.expr:
        """Write something that is true or false; of a number, whether it is not 0."""
        written = self.visit(node)
        if self.is_condition(node):
            return written
        return _differs(written, ast.Constant(0))

    def is_condition(self, node: ast.expr, seen: frozenset[str] = frozenset()) -> bool:
        """Whether the form of an expression says that it is true or false."""
        match node:
            case ast.Compare() | ast.BoolOp() | ast.Constant(value=bool()):
                return True
            case ast.UnaryOp(op=op):
                return isinstance(op, ast.Not | ast.Invert)
            case ast.BinOp(left=left, op=op, right=right):
                kept = isinstance(op, ast.BitAnd | ast.BitOr | ast.BitXor)
                both = self.is_condition(left, seen) and self.is_condition(right, seen)
                return kept or (isinstance(op, ast.Add | ast.Mult) and both)
            case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name), args=values):
                if name in {"values_astype", "enforce_type"}:
                    kind = _constant(values[1]) if len(values) > 1 else self.options(node).get("to")
                    return kind in _TRUTH
                if name not in _TRUE_OF_TRUE:
                    return name in _TRUE_OR_FALSE | _TRUTH
                taken = values[name == "where" :]
                return bool(taken) and all(self.is_condition(value, seen) for value in taken)
            case ast.Subscript(value=value):
                return self.is_condition(value, seen)
            case ast.Name(id=name) if name in self.owner.new_variables and name not in seen:
                key, text = f"new_variables.{name}", self.owner.new_variables[name]
                return self.is_condition(self.owner.parse(text, key), seen | {name})
        return False

    # -- names ---------------------------------------------------------------------------------

    def name(self, node: ast.expr, name: str) -> ast.expr:
        if name == "aux_training_":
            raise self.error(
                node,
                "what an event is cannot depend on whether it is trained on; hepset's splits are "
                "disjoint, and test_time_selection says which events are predicted",
            )
        if name in MODULES:
            raise self.error(node, f"{name} is a module; call one of its functions")
        if name in self.owner.new_variables and self.owner.new_variables[name] != name:
            if name in self.inline:
                return self.written_out(node, name)
            return ast.Name(self.owner.rename(name))
        self.owner.columns.setdefault(name)
        renamed = self.owner.rename(name)
        return ast.parse(renamed, mode="eval").body

    def written_out(self, node: ast.expr, name: str) -> ast.expr:
        if name in self.open:
            circle = " -> ".join([*self.open, name])
            raise self.error(node, f"new variables need each other in a circle: {circle}")
        self.open.append(name)
        found = self.visit(
            self.owner.parse(self.owner.new_variables[name], f"new_variables.{name}")
        )
        self.open.pop()
        return found

    def attribute(self, node: ast.Attribute) -> ast.expr:
        if isinstance(node.value, ast.Name) and node.value.id in MODULES:
            constant = _CONSTANTS.get(node.attr)
            if constant is None:
                raise self.error(node, "this is no number")
            return ast.Name(constant) if isinstance(constant, str) else ast.Constant(constant)
        vector = self.vector(node.value)
        if vector is None:
            raise self.error(
                node, "attributes are known of four-momenta only (_p4_from_pxpypze(…).mass)"
            )
        return self.property(node, vector, _SHORT.get(node.attr, node.attr))

    def element(self, node: ast.Subscript) -> ast.expr:
        """``x[:, 0]`` is the first object's value; NaN where there is none, or what is padded."""
        match node.slice:
            case ast.Tuple(
                elts=[ast.Slice(lower=None, upper=None, step=None), ast.Constant(int(k))]
            ) if k >= 0:
                value, fill = node.value, None
                match value:
                    case ast.Call(func=ast.Name(id="_pad"), args=[value, *others], keywords=words):
                        named = {word.arg: word.value for word in words}
                        fill = others[1] if len(others) > 1 else named.get("value", ast.Constant(0))
                    case ast.Call(func=ast.Attribute(attr="pad_none"), args=[value, *_]):
                        pass
                values = self.visit(value)
                found = _call("nth", [values, ast.Constant(k + 1)])
                if fill is None:
                    return found
                there = ast.Compare(_call("number", [values]), [ast.Gt()], [ast.Constant(k)])
                return _call("where", [there, found, self.visit(fill)])
        raise self.error(
            node,
            "of […] only x[:, k], the k-th object's value, and x[condition] inside a sum, max, … "
            "have a translation",
        )

    # -- calls ---------------------------------------------------------------------------------

    def call(self, node: ast.Call) -> ast.expr:
        match node.func:
            case ast.Attribute(value=ast.Name(id=module), attr=name) if module in MODULES:
                return self.function(node, name)
            case ast.Name(id=name):
                return self.function(node, name)
            case ast.Attribute(value=value, attr=name):
                vector = self.vector(value)
                if vector is not None and name in _DISTANCES:
                    return self.distance(node, name, vector)
        raise self.error(node, "only functions of np, ak, math and weaver's own are known")

    def function(self, node: ast.Call, name: str) -> ast.expr:
        options = self.options(node)
        if name == "argmax":
            stacked = self.stacked(node)
            if stacked is not None:
                return _call("argmax_of", [self.visit(value) for value in stacked])
        if name in _REASONS:
            raise self.error(node, f"{name}() has no translation: {_REASONS[name]}")
        if name in _VECTORS:
            raise self.error(node, "take a number of this four-momentum: .pt, .eta, .phi, .mass, …")
        if name in _REDUCTIONS or name in _SPREADS:
            return self.reduction(node, name, options)
        if name == "isin":
            return self.membership(node)
        if name == "nan_to_num":
            return self.finite(node, options)
        if name == "fill_none":
            return self.filled(node)
        if name in _HALF and node.args and all(map(self.is_condition, node.args)):
            raise self.error(
                node,
                "numpy computes this in half precision of what is true or false; write "
                "np.float32(condition)",
            )
        if name not in _KNOWN:
            raise self.error(
                node, f"the function {name}() has no translation{did_you_mean(name, _KNOWN)}"
            )
        positional = self.positional(node, name, options)
        if name in _OPERATORS and len(positional) == 2:
            return self.operation(node, positional[0], _OPERATORS[name], positional[1])
        if name in {"invert", "bitwise_not"} and len(positional) == 1:
            return self.inverted(node, positional[0])
        if name in _LOGICAL or name in {"logical_not", "logical_xor"}:
            arguments = [self.condition(argument) for argument in positional]
        elif name == "where" and positional:
            arguments = [self.condition(positional[0]), *map(self.visit, positional[1:])]
        else:
            arguments = [self.visit(argument) for argument in positional]
        if name in _PLAIN or name == "_clip":
            return _call(_PLAIN.get(name, "clip"), arguments)
        if name in {"round", "around"} and len(arguments) == 1:
            return _call("round", arguments)
        if name in _LOGICAL and len(arguments) == 2:
            return ast.BinOp(arguments[0], _LOGICAL[name], arguments[1])
        if name in _COMPARISONS and len(arguments) == 2:
            if name == "not_equal":
                return _differs(*arguments)
            return ast.Compare(arguments[0], [_COMPARISONS[name]], [arguments[1]])
        if name == "logical_not" and len(arguments) == 1:
            return ast.UnaryOp(ast.Invert(), arguments[0])
        if name in _WRITTEN_OUT and len(arguments) == len(_WRITTEN_OUT[name]) - 1:
            text, *names = _WRITTEN_OUT[name]
            return _written(text, dict(zip(names, arguments, strict=True)))
        if name in _SINGLE and len(arguments) == 1:
            return _call("float32", arguments)
        if name in _WHOLE and len(arguments) == 1:
            return _call("int64", arguments)
        if name in _TRUTH and len(arguments) == 1:
            if self.is_condition(positional[0]):
                return arguments[0]
            return _differs(arguments[0], ast.Constant(0))
        if name in _JUDGED or (name in _AS_THEY_ARE and len(arguments) == 1):
            return arguments[0]
        raise self.error(node, f"{name}() does not take {len(arguments)} arguments here")

    def filled(self, node: ast.Call) -> ast.expr:
        """``ak.fill_none(x, y)``: y where an event has no such value; NaN is a value."""
        if len(node.args) != 2 or node.keywords:
            raise self.error(node, "write ak.fill_none(x, value)")
        found, instead = (self.visit(argument) for argument in node.args)
        needed = {ast.unparse(there): there for there in self.needed(node.args[0])}
        for there in needed.values():
            found = _call("where", [there, found, instead])
        return found

    def needed(self, node: ast.expr, seen: frozenset[str] = frozenset()) -> Iterator[ast.expr]:
        """Give the conditions without which awkward has None in the place of a value."""
        match node:
            case ast.Name(id=name) if name in self.owner.new_variables and name not in seen:
                text = self.owner.new_variables[name]
                inside = self.owner.parse(text, f"new_variables.{name}")
                yield from self.needed(inside, seen | {name})
                return
            case ast.Call(func=ast.Attribute(attr="fill_none")):
                return
            case ast.Call(func=ast.Attribute(attr="firsts"), args=[value, *_]):
                yield ast.Compare(_call("number", [self.visit(value)]), [ast.Gt()], [_ZERO])
                return
            case ast.Call(func=ast.Attribute(attr=name), args=[value, *_]) if (
                _REDUCTIONS.get(name) in _OF_NOTHING and self.stacked(node) is None
            ):
                if _constant(self.options(node).get("mask_identity")) is False:
                    return
                reduced, index = _of_chosen(value)
                if index is not None:
                    yield _call("any", [self.condition(index)])
                else:
                    yield ast.Compare(_call("number", [self.visit(reduced)]), [ast.Gt()], [_ZERO])
                return
            case ast.Subscript(
                value=ast.Call(func=ast.Attribute(attr="pad_none"), args=[value, *_]),
                slice=ast.Tuple(elts=[_, ast.Constant(value=int() as number)]),
            ):
                count = _call("number", [self.visit(value)])
                yield ast.Compare(count, [ast.Gt()], [ast.Constant(number)])
                return
        if not _per_event(node):
            for part in ast.iter_child_nodes(node):
                if isinstance(part, ast.expr):
                    yield from self.needed(part, seen)

    def membership(self, node: ast.Call) -> ast.expr:
        """``np.isin(x, [1, 2])`` is ``x in [1, 2]``."""
        match node:
            case ast.Call(args=[value, ast.List(elts=values) | ast.Tuple(elts=values)]):
                numbers = ast.List([self.visit(number) for number in values])
                return ast.Compare(self.visit(value), [ast.In()], [numbers])
        raise self.error(node, "write isin(x, [1, 2, …])")

    def finite(self, node: ast.Call, options: Mapping[str, ast.expr]) -> ast.expr:
        """``np.nan_to_num(x, nan=…, posinf=…, neginf=…)``."""
        stated = dict(zip(("copy", "nan", "posinf", "neginf"), node.args[1:], strict=False))
        stated |= options
        stated.pop("copy", None)
        names = [name for name in ("nan", "posinf", "neginf") if name in stated]
        if not node.args or set(stated) - {"nan", "posinf", "neginf"}:
            raise self.error(node, "nan_to_num takes x, nan, posinf and neginf")
        if "neginf" in stated and "posinf" not in stated:
            raise self.error(node, "neginf without posinf has no translation")
        if "posinf" in stated and "nan" not in stated:
            names, stated = ["nan", *names], {"nan": ast.Constant(0), **stated}
        arguments = [node.args[0], *(stated[name] for name in names)]
        return _call("nan_to_num", [self.visit(argument) for argument in arguments])

    def positional(
        self, node: ast.Call, name: str, options: Mapping[str, ast.expr]
    ) -> Sequence[ast.expr]:
        """Return the arguments; types and lengths of padding are judged and left out."""
        arguments = list(node.args)
        left = dict(options)
        if name in {"clip", "_clip"}:
            arguments += [left.pop(key) for key in ("a_min", "a_max") if key in left]
        if name in {"values_astype", "enforce_type"}:
            kind = _constant(arguments[1] if len(arguments) > 1 else left.pop("to", None))
            return [self.typed(node, arguments[0], str(kind))]
        if name in {"_pad", "_repeat_pad"}:
            length = _constant(arguments[1] if len(arguments) > 1 else left.pop("maxlen", None))
            if not isinstance(length, int) or length < self.owner.longest:
                raise self.error(
                    node,
                    f"{name}() to {length} cuts objects that inputs need; the length of a group "
                    "says where it is cut and padded",
                )
            return arguments[:1]
        if name in {"ones_like", "zeros_like", "full_like"}:
            left.pop("dtype", None)
        if left:
            raise self.error(node, f"the option {next(iter(left))!r} has no translation")
        return arguments

    def typed(self, node: ast.Call, value: ast.expr, kind: str) -> ast.expr:
        """Write a change of type as a call that `function` knows."""
        if kind.startswith("float"):
            kind = "float32" if kind == "float32" else "float64"
        if kind == "float64":
            return value
        if kind not in _SINGLE | _WHOLE | _TRUTH:
            reason = "; beyond its range numbers begin anew: write int64" if kind in _NARROW else ""
            raise self.error(node, f"the type {kind!r} has no translation{reason}")
        return ast.Call(ast.Name(kind), [value], [])

    def options(self, node: ast.Call) -> dict[str, ast.expr]:
        if any(keyword.arg is None for keyword in node.keywords) or any(
            isinstance(argument, ast.Starred) for argument in node.args
        ):
            raise self.error(node, "'*' cannot unpack here")
        return {str(keyword.arg): keyword.value for keyword in node.keywords}

    def reduction(self, node: ast.Call, name: str, options: dict[str, ast.expr]) -> ast.expr:
        arguments = list(node.args)
        axis = options.pop("axis", arguments.pop(1) if len(arguments) > 1 else None)
        masked = _constant(options.pop("mask_identity", None)) is not False
        if _constant(options.get("keepdims")) is False:
            del options["keepdims"]
        if options:
            raise self.error(node, f"the option {next(iter(options))!r} has no translation")
        if len(arguments) != 1:
            raise self.error(node, "one column is reduced at a time")
        allowed = {1, -1, None} if name in {"num", "firsts"} else {1, -1}
        if _constant(axis) not in allowed:
            raise self.error(
                node, "over all events; with axis=1 it gives one value per event, of its objects"
            )
        if self.pads(arguments[0]):
            raise self.error(
                node,
                "hepset does not reduce padding; reduce the column itself, for example "
                "np.maximum(ak.max(x, axis=1), 9) for a padding of 9",
            )
        word = _REDUCTIONS.get(name, name)
        if word in _OF_NOTHING and (stacked := self.stacked(node)) is not None:
            return _call(f"{word}_of", [self.visit(value) for value in stacked])
        if word in _ACROSS and (stacked := self.stacked(node)) is not None:
            total = self.value_for(word, stacked[0])
            for value in stacked[1:]:
                total = _written(_ACROSS[word], {"x": total, "y": self.value_for(word, value)})
            count = ast.Constant(len(stacked))
            return ast.BinOp(total, ast.Div(), count) if word == "mean" else total
        reduced, index = _of_chosen(arguments[0])
        if index is not None and word in _CHOSEN:
            parts = {"x": self.value_for(word, reduced), "c": self.condition(index)}
            nothing = "nan" if masked else _OF_NOTHING.get(word, "nan")
            parts["none"] = ast.parse(nothing, mode="eval").body
            return _written(_CHOSEN[word], parts)
        value = self.value_for(word, arguments[0])
        if name in _SPREADS:
            if name == "ptp" and not masked:
                raise self.error(node, "the option 'mask_identity' has no translation")
            return _written(_SPREADS[name], {"x": value})
        found = _call(word, [value])
        if word in _OF_NOTHING and not masked:
            if self.is_condition(arguments[0]):
                raise self.error(node, "write ak.any(…) or ak.all(…) of what is true or false")
            text = f"where(number(x) > 0, found, {_OF_NOTHING[word]})"
            return _written(text, {"x": value, "found": found})
        return found

    def pads(self, node: ast.expr, seen: frozenset[str] = frozenset()) -> bool:
        """Whether padding is among the values of an expression."""
        for part in _per_object(node):
            match part:
                case ast.Call(func=ast.Name(id="_pad" | "_repeat_pad")):
                    return True
                case ast.Call(func=ast.Attribute(attr="pad_none")):
                    return True
                case ast.Name(id=name) if name in self.owner.new_variables and name not in seen:
                    text = self.owner.new_variables[name]
                    inside = self.owner.parse(text, f"new_variables.{name}")
                    if self.pads(inside, seen | {name}):
                        return True
        return False

    def value_for(self, reduction: str, node: ast.expr) -> ast.expr:
        """Write what a reduction takes: a number, or something true or false."""
        return self.condition(node) if reduction in _OF_CONDITIONS else self.visit(node)

    def stacked(self, node: ast.Call) -> list[ast.expr] | None:
        """Return the columns of ``f(np.stack([a, b], axis=1), axis=1)``."""
        match node.args[:1]:
            case [
                ast.Call(
                    func=ast.Attribute(attr="stack" | "column_stack" as name)
                    | ast.Name(id="_stack" as name),
                    args=[ast.List(elts=values) | ast.Tuple(elts=values), *others],
                ) as stack
            ]:
                axis = others[0] if others else self.options(stack).get("axis")
                across = 1 if axis is None and name != "stack" else _constant(axis)
                if across not in {1, -1}:
                    raise self.error(stack, "a stack of columns needs axis=1")
                return values
        return None

    # -- four-momenta --------------------------------------------------------------------------

    def vector(self, node: ast.expr) -> dict[str, ast.expr] | None:
        """Return the components that a four-momentum was made of, or None."""
        seen: set[str] = set()
        while isinstance(node, ast.Name) and node.id in self.owner.new_variables:
            if node.id in seen:
                return None
            seen.add(node.id)
            key = f"new_variables.{node.id}"
            node = self.owner.parse(self.owner.new_variables[node.id], key)
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
            return None
        roles = _VECTORS.get(node.func.id)
        if roles is None:
            return None
        if len(node.args) != 4 or node.keywords:
            raise self.error(node, f"the components are {', '.join(roles)}")
        return {role: self.visit(part) for role, part in zip(roles, node.args, strict=True)}

    def property(self, node: ast.expr, parts: Mapping[str, ast.expr], name: str) -> ast.expr:
        if name in parts:
            return parts[name]
        if name not in _PROPERTIES:
            raise self.error(node, f"of a four-momentum there are {', '.join(sorted(_PROPERTIES))}")
        cartesian = "px" in parts
        momentum = "px, py, pz" if cartesian else "pt * cosh(eta), 0, 0"
        text = {
            "pt": "sqrt(px**2 + py**2)",
            "phi": "atan2(py, px)",
            "eta": "asinh(pz / sqrt(px**2 + py**2))",
            "mass": f"p4_mass({momentum}, energy)",
            "p": "sqrt(px**2 + py**2 + pz**2)" if cartesian else "pt * cosh(eta)",
            "mag": "sqrt(px**2 + py**2 + pz**2)" if cartesian else "pt * cosh(eta)",
            "px": "pt * cos(phi)",
            "py": "pt * sin(phi)",
            "pz": "pt * sinh(eta)",
            "energy": "sqrt((pt * cosh(eta))**2 + mass**2)",
            "rapidity": "0.5 * log((energy + pz) / (energy - pz))",
            "theta": "atan2(pt, pz)",
            "mass2": "energy**2 - (px**2 + py**2 + pz**2)" if cartesian else "energy**2 - p**2",
            "mt": "sqrt(energy**2 - pz**2)",
            "et": "energy * pt / p",
        }[name]

        def part(role: str) -> ast.expr:
            return self.property(node, parts, role)

        return _filled(ast.parse(text, mode="eval").body, part)

    def distance(self, node: ast.Call, name: str, one: Mapping[str, ast.expr]) -> ast.expr:
        other = self.vector(node.args[0]) if len(node.args) == 1 else None
        if other is None:
            raise self.error(node, "the distance is to another four-momentum")
        eta = [self.property(node, parts, "eta") for parts in (one, other)]
        phi = [self.property(node, parts, "phi") for parts in (one, other)]
        if name == "deltaeta":
            return ast.BinOp(eta[0], ast.Sub(), eta[1])
        if name == "deltaphi":
            return _call("delta_phi", phi)
        return _call("delta_r", [eta[0], phi[0], eta[1], phi[1]])


def _differs(left: ast.expr, right: ast.expr) -> ast.expr:
    """``left != right`` as numpy has it: NaN differs from everything."""
    return ast.UnaryOp(ast.Invert(), ast.Compare(left, [ast.Eq()], [right]))


def _call(name: str, arguments: Sequence[ast.expr]) -> ast.Call:
    return ast.Call(ast.Name(name), list(arguments), [])


def _constant(node: ast.expr | None) -> object:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
        case _:
            return None


def _of_chosen(node: ast.expr) -> tuple[ast.expr, ast.expr | None]:
    """Take one condition out of an expression: ``x[c] + y[c]`` is that of ``x + y`` where c."""
    indices = [
        part.slice
        for part in _per_object(node)
        if isinstance(part, ast.Subscript) and not isinstance(part.slice, ast.Constant | ast.Slice)
    ]
    if len({ast.unparse(index) for index in indices}) != 1:
        return node, None
    whole: ast.expr = _Whole(ast.unparse(indices[0])).visit(copy.deepcopy(node))
    return whole, indices[0]


def _per_event(node: ast.AST) -> bool:
    """Whether this gives one value per event: conditions inside it are its own."""
    match node:
        case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)):
            return name in _REDUCTIONS or name in _SPREADS or name in _CHOSEN
        case ast.Subscript(slice=ast.Tuple()):
            return True
    return False


def _per_object(node: ast.AST) -> Iterator[ast.AST]:
    """Walk through an expression, but not into what gives one value per event."""
    if not _per_event(node):
        yield node
        for part in ast.iter_child_nodes(node):
            yield from _per_object(part)


class _Whole(ast.NodeTransformer):
    def __init__(self, index: str) -> None:
        self.index = index

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Leave alone what gives one value per event."""
        return node if _per_event(node) else self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        """Leave a condition out."""
        if _per_event(node):
            return node
        return node.value if ast.unparse(node.slice) == self.index else self.generic_visit(node)


class _Filler(ast.NodeTransformer):
    def __init__(self, part: Callable[[str], ast.expr]) -> None:
        self.part = part

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Leave the function's name alone."""
        node.args = [self.visit(argument) for argument in node.args]
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """Put a component in the place of its role."""
        return self.part(node.id)


def _filled(tree: ast.expr, part: Callable[[str], ast.expr]) -> ast.expr:
    filled: ast.expr = _Filler(part).visit(tree)
    return filled


def _written(text: str, parts: Mapping[str, ast.expr]) -> ast.expr:
    """Write a text of hepset's language with expressions in the places of some names."""
    tree = ast.parse(text, mode="eval").body
    return _filled(tree, lambda name: parts.get(name, ast.Name(name)))


_KNOWN: Final = frozenset(
    {*_PLAIN, *_REDUCTIONS, *_SPREADS, *_OPERATORS, *_LOGICAL, *_COMPARISONS, *_NEGATIONS}
    | {*_WRITTEN_OUT}
    | {"_clip", "_pad", "_repeat_pad", "round", "around", "isin", "nan_to_num"}
    | (_SINGLE | _WHOLE | _TRUTH | _JUDGED | _AS_THEY_ARE | _VECTORS.keys())
)
"""Functions with a translation."""
