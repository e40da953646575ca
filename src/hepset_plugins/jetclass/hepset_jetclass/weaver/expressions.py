"""weaver's expressions in the words of hepset's, or a message that says why not.

weaver hands its expressions to Python's ``eval`` with numpy, awkward and its own helpers. Here they
are parsed, and every part that has a meaning per event or per object is written in hepset's
language (`hepset.prepare.expressions`); what mixes events, or orders objects anew, is refused.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
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
        *("nan_to_num", "sign", "log2"),
    )
} | {"absolute": "abs", "fabs": "abs", "rint": "round", "fmin": "minimum", "fmax": "maximum"}
"""Functions that act element by element: numpy's (awkward's, math's) name → hepset's."""
_REDUCTIONS: Final = {
    **{name: name for name in ("sum", "mean", "min", "max", "any", "all")},
    "amin": "min",
    "amax": "max",
    "num": "number",
    "count": "number",
    "firsts": "first",
    "count_nonzero": "count",
}
"""Functions that give one value per event."""
_OPERATORS: Final[Mapping[str, ast.operator]] = {
    "add": ast.Add(),
    "subtract": ast.Sub(),
    "multiply": ast.Mult(),
    "divide": ast.Div(),
    "true_divide": ast.Div(),
    "floor_divide": ast.FloorDiv(),
    "mod": ast.Mod(),
    "power": ast.Pow(),
    "pow": ast.Pow(),
    "logical_and": ast.BitAnd(),
    "logical_or": ast.BitOr(),
}
_AS_THEY_ARE: Final = frozenset({"to_numpy", "asarray", "array", "Array", "to_packed"})
_JUDGED: Final = frozenset({"values_astype", "enforce_type", "_pad", "_repeat_pad"})
_SINGLE: Final = frozenset({"float32", "float"})
_WHOLE: Final = frozenset({"int", "int8", "int16", "int32", "int64", "uint8", "uint32"})
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
    {"px", "py", "pz", "energy", "pt", "eta", "phi", "mass", "p", "mag", "rapidity"}
)
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
    "percentile": "it mixes events",
    "median": "it mixes events",
    "std": "it mixes events",
    "argmax": "it is known of a stack of columns: np.argmax(np.stack([a, b], axis=1), axis=1)",
}


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
            case ast.UnaryOp(op=op, operand=operand):
                return ast.UnaryOp(op, self.visit(operand))
            case ast.BinOp(left=left, op=op, right=right):
                if isinstance(op, ast.BitXor):
                    return ast.Compare(self.visit(left), [ast.NotEq()], [self.visit(right)])
                if isinstance(op, ast.LShift | ast.RShift | ast.MatMult):
                    raise self.error(node, "hepset's expressions do not have this operator")
                return ast.BinOp(self.visit(left), op, self.visit(right))
            case ast.BoolOp(op=op, values=values):
                return ast.BoolOp(op, [self.visit(value) for value in values])
            case ast.Compare(left=left, ops=ops, comparators=others):
                if any(isinstance(op, ast.Is | ast.IsNot | ast.In | ast.NotIn) for op in ops):
                    raise self.error(node, "compare with == or !=")
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
        """``x[:, 0]`` is the first object's value; NaN where there is none."""
        match node.slice:
            case ast.Tuple(
                elts=[ast.Slice(lower=None, upper=None, step=None), ast.Constant(int(k))]
            ):
                if k >= 0:
                    return _call("nth", [self.visit(node.value), ast.Constant(k + 1)])
        raise self.error(node, "of […] only x[:, k], the k-th object's value, has a translation")

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
        if name in _REDUCTIONS:
            return self.reduction(node, name, options)
        arguments = [self.visit(argument) for argument in self.positional(node, name, options)]
        if name in _PLAIN or name == "_clip":
            return _call(_PLAIN.get(name, "clip"), arguments)
        if name in {"round", "around"} and len(arguments) == 1:
            return _call("round", arguments)
        if name in _OPERATORS and len(arguments) == 2:
            return ast.BinOp(arguments[0], _OPERATORS[name], arguments[1])
        if name == "logical_not" and len(arguments) == 1:
            return ast.UnaryOp(ast.Invert(), arguments[0])
        if name == "logical_xor" and len(arguments) == 2:
            return ast.Compare(arguments[0], [ast.NotEq()], [arguments[1]])
        if name == "negative" and len(arguments) == 1:
            return ast.UnaryOp(ast.USub(), arguments[0])
        if name == "square" and len(arguments) == 1:
            return ast.BinOp(arguments[0], ast.Pow(), ast.Constant(2))
        if name in {"full_like", "fill_none"} and len(arguments) == 2:
            if name == "full_like":
                return ast.BinOp(_call("ones_like", arguments[:1]), ast.Mult(), arguments[1])
            return _call("where", [_call("isnan", arguments[:1]), arguments[1], arguments[0]])
        if name in _SINGLE and len(arguments) == 1:
            return _call("float32", arguments)
        if name in _WHOLE and len(arguments) == 1:
            return _call("int64", arguments)
        if name in _TRUTH and len(arguments) == 1:
            return ast.Compare(arguments[0], [ast.NotEq()], [ast.Constant(0)])
        if name in _JUDGED or (name in _AS_THEY_ARE and len(arguments) == 1):
            return arguments[0]
        known = [*_PLAIN, *_REDUCTIONS, *_OPERATORS, *_VECTORS, "_clip", "_pad", "_repeat_pad"]
        raise self.error(
            node, f"the function {name}() has no translation{did_you_mean(name, known)}"
        )

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
            raise self.error(node, f"the type {kind!r} has no translation")
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
        for harmless in ("mask_identity",):
            options.pop(harmless, None)
        if options:
            raise self.error(node, f"the option {next(iter(options))!r} has no translation")
        if len(arguments) != 1:
            raise self.error(node, "one column is reduced at a time")
        allowed = {1, -1, None} if name in {"num", "firsts"} else {1, -1}
        if _constant(axis) not in allowed:
            raise self.error(
                node, "over all events; with axis=1 it gives one value per event, of its objects"
            )
        if name == "sum" and (stacked := self.stacked(node)) is not None:
            total = self.visit(stacked[0])
            for value in stacked[1:]:
                total = ast.BinOp(total, ast.Add(), self.visit(value))
            return total
        return _call(_REDUCTIONS[name], [self.visit(arguments[0])])

    def stacked(self, node: ast.Call) -> list[ast.expr] | None:
        """Return the columns of ``f(np.stack([a, b], axis=1), axis=1)``."""
        match node.args[:1]:
            case [
                ast.Call(
                    func=ast.Attribute(attr="stack" | "column_stack"),
                    args=[ast.List(elts=values) | ast.Tuple(elts=values), *_],
                )
            ]:
                return values
            case [
                ast.Call(
                    func=ast.Name(id="_stack"),
                    args=[ast.List(elts=values) | ast.Tuple(elts=values), *_],
                )
            ]:
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
        text = {
            "pt": "sqrt(px**2 + py**2)",
            "phi": "atan2(py, px)",
            "eta": "asinh(pz / sqrt(px**2 + py**2))",
            "mass": "p4_mass(px, py, pz, energy)",
            "p": "sqrt(px**2 + py**2 + pz**2)" if cartesian else "pt * cosh(eta)",
            "mag": "sqrt(px**2 + py**2 + pz**2)" if cartesian else "pt * cosh(eta)",
            "px": "pt * cos(phi)",
            "py": "pt * sin(phi)",
            "pz": "pt * sinh(eta)",
            "energy": "sqrt((pt * cosh(eta))**2 + mass**2)",
            "rapidity": "atanh(pz / energy)",
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
