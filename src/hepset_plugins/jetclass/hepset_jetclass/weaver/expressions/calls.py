"""Calls of functions: element by element, with the options that have a meaning here."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence

from hepset.errors import did_you_mean
from hepset_jetclass.weaver.expressions.momenta import Momenta
from hepset_jetclass.weaver.expressions.reductions import Reductions
from hepset_jetclass.weaver.expressions.trees import applied, constant_of, differs, written
from hepset_jetclass.weaver.expressions.words import (
    AS_THEY_ARE,
    COMPARISONS,
    DISTANCES,
    HALF,
    JUDGED,
    KNOWN,
    LOGICAL,
    MODULES,
    NARROW,
    OPERATORS,
    PLAIN,
    REASONS,
    REDUCTIONS,
    SINGLE,
    SPREADS,
    TRUTH,
    VECTORS,
    WHOLE,
    WRITTEN_OUT,
)


class Calls(Reductions, Momenta):
    """Translates calls."""

    def call(self, node: ast.Call) -> ast.expr:
        """Translate a call of a function, or of a method of a four-momentum."""
        match node.func:
            case ast.Attribute(value=ast.Name(id=module), attr=name) if module in MODULES:
                return self.function(node, name)
            case ast.Name(id=name):
                return self.function(node, name)
            case ast.Attribute(value=value, attr=name):
                vector = self.vector(value)
                if vector is not None and name in DISTANCES:
                    return self.distance(node, name, vector)
        raise self.error(node, "only functions of np, ak, math and weaver's own are known")

    def function(self, node: ast.Call, name: str) -> ast.expr:
        """Translate a call of a function by name, whatever module it is said to be of."""
        options = self.options(node)
        if name == "argmax":
            stacked = self.stacked(node)
            if stacked is not None:
                return applied("argmax_of", [self.visit(value) for value in stacked])
        if name in REASONS:
            raise self.error(node, f"{name}() has no translation: {REASONS[name]}")
        if name in VECTORS:
            raise self.error(node, "take a number of this four-momentum: .pt, .eta, .phi, .mass, …")
        if name in REDUCTIONS or name in SPREADS:
            return self.reduction(node, name, options)
        if name == "isin":
            return self.membership(node)
        if name == "nan_to_num":
            return self.finite(node, options)
        if name == "fill_none":
            return self.filled(node)
        if name in HALF and node.args and all(map(self.is_condition, node.args)):
            raise self.error(
                node,
                "numpy computes this in half precision of what is true or false; write "
                "np.float32(condition)",
            )
        if name not in KNOWN:
            raise self.error(
                node, f"the function {name}() has no translation{did_you_mean(name, KNOWN)}"
            )
        positional = self.positional(node, name, options)
        if name in OPERATORS and len(positional) == 2:
            return self.operation(node, positional[0], OPERATORS[name], positional[1])
        if name in {"invert", "bitwise_not"} and len(positional) == 1:
            return self.inverted(node, positional[0])
        if name in LOGICAL or name in {"logical_not", "logical_xor"}:
            arguments = [self.condition(argument) for argument in positional]
        elif name == "where" and positional:
            arguments = [self.condition(positional[0]), *map(self.visit, positional[1:])]
        else:
            arguments = [self.visit(argument) for argument in positional]
        if name in PLAIN or name == "_clip":
            return applied(PLAIN.get(name, "clip"), arguments)
        if name in {"round", "around"} and len(arguments) == 1:
            return applied("round", arguments)
        if name in LOGICAL and len(arguments) == 2:
            return ast.BinOp(arguments[0], LOGICAL[name], arguments[1])
        if name in COMPARISONS and len(arguments) == 2:
            if name == "not_equal":
                return differs(*arguments)
            return ast.Compare(arguments[0], [COMPARISONS[name]], [arguments[1]])
        if name == "logical_not" and len(arguments) == 1:
            return ast.UnaryOp(ast.Invert(), arguments[0])
        if name in WRITTEN_OUT and len(arguments) == len(WRITTEN_OUT[name]) - 1:
            text, *names = WRITTEN_OUT[name]
            return written(text, dict(zip(names, arguments, strict=True)))
        if name in SINGLE and len(arguments) == 1:
            return applied("float32", arguments)
        if name in WHOLE and len(arguments) == 1:
            return applied("int64", arguments)
        if name in TRUTH and len(arguments) == 1:
            if self.is_condition(positional[0]):
                return arguments[0]
            return differs(arguments[0], ast.Constant(0))
        if name in JUDGED or (name in AS_THEY_ARE and len(arguments) == 1):
            return arguments[0]
        raise self.error(node, f"{name}() does not take {len(arguments)} arguments here")

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
        return applied("nan_to_num", [self.visit(argument) for argument in arguments])

    def positional(
        self, node: ast.Call, name: str, options: Mapping[str, ast.expr]
    ) -> Sequence[ast.expr]:
        """Return the arguments; types and lengths of padding are checked and left out."""
        arguments = list(node.args)
        left = dict(options)
        if name in {"clip", "_clip"}:
            arguments += [left.pop(key) for key in ("a_min", "a_max") if key in left]
        if name in {"values_astype", "enforce_type"}:
            kind = constant_of(arguments[1] if len(arguments) > 1 else left.pop("to", None))
            return [self.typed(node, arguments[0], str(kind))]
        if name in {"_pad", "_repeat_pad"}:
            length = constant_of(arguments[1] if len(arguments) > 1 else left.pop("maxlen", None))
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
        if kind not in SINGLE | WHOLE | TRUTH:
            reason = "; beyond its range numbers wrap around: write int64" if kind in NARROW else ""
            raise self.error(node, f"the type {kind!r} has no translation{reason}")
        return ast.Call(ast.Name(kind), [value], [])
