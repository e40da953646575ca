"""From the text of an expression to numpy calls; `hepset.expressions.language` is its face.

Python's parser gives the syntax; every node of it that is not handled here by name is refused.
"""

from __future__ import annotations

import ast
import math
import operator
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hepset.errors import ExpressionError, MissingColumnError, did_you_mean
from hepset.expressions.functions import FUNCTIONS, Function
from hepset.expressions.scope import COLUMNS, EVENT, ColumnSource, Scope

__all__ = ["Compiler", "Functions", "Node"]

_MATCHES: Final = "matches"

MAX_LENGTH: Final = 10_000
"""Most characters of an expression."""

Array: TypeAlias = NDArray[Any]
Functions: TypeAlias = Mapping[str, Function]

_CONSTANTS: Final[Mapping[str, bool | float]] = {
    "pi": math.pi,
    "nan": math.nan,
    "inf": math.inf,
    "true": True,
    "false": False,
}


@dataclass(frozen=True)
class Node:
    """A compiled part of an expression."""

    kind: str | None  # None: a constant
    run: Callable[[ColumnSource], Any]
    tree: ast.expr
    boolean: bool | None  # None: known when evaluated
    text: bool = False  # a text constant
    labels: Sequence[str] = ()


_ARITHMETIC: Final[Mapping[type[ast.operator], tuple[str, Callable[[Any, Any], Any]]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.truediv),
    ast.FloorDiv: ("//", operator.floordiv),
    ast.Mod: ("%", operator.mod),
    ast.Pow: ("**", operator.pow),
}
_LOGIC: Final[Mapping[type[ast.AST], tuple[str, Callable[[Any, Any], Any]]]] = {
    ast.And: ("and", np.logical_and),
    ast.Or: ("or", np.logical_or),
    ast.BitAnd: ("&", np.logical_and),
    ast.BitOr: ("|", np.logical_or),
}
_COMPARISONS: Final[Mapping[type[ast.cmpop], tuple[str, Callable[[Any, Any], Any]]]] = {
    ast.Eq: ("==", operator.eq),
    ast.NotEq: ("!=", operator.ne),
    ast.Lt: ("<", operator.lt),
    ast.LtE: ("<=", operator.le),
    ast.Gt: (">", operator.gt),
    ast.GtE: (">=", operator.ge),
}
_REFUSED: Final[Mapping[type[ast.AST], str]] = {
    ast.IfExp: "write where(condition, yes, no) instead of 'yes if condition else no'",
    ast.Lambda: "functions cannot be defined here",
    ast.ListComp: "comprehensions are not part of expressions; operators act on all values at once",
    ast.SetComp: "comprehensions are not part of expressions; operators act on all values at once",
    ast.DictComp: "comprehensions are not part of expressions; operators act on all values at once",
    ast.GeneratorExp: (
        "comprehensions are not part of expressions; operators act on all values at once"
    ),
    ast.JoinedStr: "formatted text is not part of expressions",
    ast.NamedExpr: "nothing can be assigned inside an expression; use prepare.derive",
    ast.List: "a list may only follow 'in'",
    ast.Tuple: "several values may only follow 'in'; write a list there, and no commas elsewhere",
    ast.Starred: "'*' cannot unpack here",
}


class Compiler:
    """Compiles one expression."""

    def __init__(
        self, text: str, scope: Scope, functions: Functions, where: str, selection: bool
    ) -> None:
        self.text = text
        self.scope = scope
        self.functions = functions
        self.where = where
        self.selection = selection
        self.line = re.sub(r"\s*\n\s*", " ", text.strip())
        self.names: set[str] = set()
        self.streams: set[str] = set()
        self.known = {**functions, **FUNCTIONS}

    # -- errors ------------------------------------------------------------------------------

    def error(self, tree: ast.expr | int, reason: str) -> ExpressionError:
        """Make an error that shows the expression and points at a part of it."""
        if isinstance(tree, int):
            column = tree
        else:
            column = len(self.line.encode()[: tree.col_offset].decode(errors="ignore"))
        return ExpressionError(f"{self.where}: {reason}\n  {self.line}\n  {' ' * column}^")

    def source(self, tree: ast.expr) -> str:
        """Return the part of the expression that a node was written as."""
        return ast.get_source_segment(self.line, tree) or self.line

    @contextmanager
    def guard(self, tree: ast.expr) -> Iterator[None]:
        """Turn what numpy objects to into an error that points at the place."""
        try:
            yield
        except (TypeError, ValueError, ArithmeticError, IndexError) as error:
            if isinstance(error, ExpressionError):
                raise
            raise self.error(tree, f"cannot compute this: {error}") from error

    # -- entry -------------------------------------------------------------------------------

    def compile(self) -> Node:
        """Parse and compile the whole expression."""
        tree = self.parse()
        try:
            node = self.visit(tree)
        except RecursionError as error:
            raise self.error(0, "this is nested too deeply") from error
        if self.selection:
            if node.kind not in (EVENT, None):
                raise self.error(
                    tree,
                    f"a selection is one decision per event, but this has one value per object of "
                    f"{node.kind!r}; use any(), all() or count()",
                )
            self.condition(node, "a selection")
        return node

    def parse(self) -> ast.expr:
        """Parse the text to one expression of Python's syntax."""
        clash = sorted(set(self.functions) & set(FUNCTIONS))
        if clash:
            message = (
                f"{self.where}: the function {clash[0]!r} is built in; give yours another name"
            )
            raise ExpressionError(message)
        if not self.line:
            message = f"{self.where}: the expression is empty"
            raise ExpressionError(message)
        if len(self.line) > MAX_LENGTH:
            message = (
                f"{self.where}: the expression has {len(self.line):,} characters, more than "
                f"{MAX_LENGTH:,}; split it with prepare.derive"
            )
            raise ExpressionError(message)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", SyntaxWarning)
                warnings.simplefilter("error", DeprecationWarning)
                return ast.parse(self.line, mode="eval").body
        except SyntaxError as error:
            column = error.offset - 1 if error.offset else len(self.line)
            raise self.error(column, f"not an expression: {error.msg}") from error
        except (ValueError, MemoryError, RecursionError) as error:
            raise self.error(
                0, f"not an expression: {str(error) or 'nested too deeply'}"
            ) from error

    # -- nodes -------------------------------------------------------------------------------

    def visit(self, tree: ast.expr) -> Node:
        """Compile one node of the syntax tree."""
        match tree:
            case ast.Constant():
                return self.constant(tree)
            case ast.Name() | ast.Attribute() | ast.Subscript():
                return self.column(tree)
            case ast.UnaryOp():
                return self.unary(tree)
            case ast.BinOp(op=ast.BitAnd() | ast.BitOr()):
                return self.logic(tree, type(tree.op), [tree.left, tree.right])
            case ast.BinOp():
                return self.arithmetic(tree)
            case ast.BoolOp():
                return self.logic(tree, type(tree.op), tree.values)
            case ast.Compare():
                return self.comparison(tree)
            case ast.Call():
                return self.call(tree)
            case _:
                reason = _REFUSED.get(type(tree), f"{type(tree).__name__} is not supported here")
                raise self.error(tree, reason)

    def constant(self, tree: ast.Constant) -> Node:
        """Compile a literal."""
        value = tree.value
        if isinstance(value, str):
            return Node(None, lambda _: value, tree, boolean=False, text=True)
        if not isinstance(value, (bool, int, float)):
            raise self.error(tree, f"{value!r} is not a number, a string, true or false")
        return self.folded(tree, value)

    def folded(self, tree: ast.expr, value: Any) -> Node:  # noqa: ANN401
        """Make a node of a constant, as a Python number so that it does not widen float32."""
        if isinstance(value, (np.generic, np.ndarray)):
            value = value.item()
        if isinstance(value, int) and abs(value) >= 2**63:
            raise self.error(tree, "this integer does not fit into 64 bits")
        return Node(None, lambda _: value, tree, boolean=isinstance(value, bool))

    def combine(
        self,
        tree: ast.expr,
        nodes: Sequence[Node],
        function: Callable[..., Any],
        *,
        boolean: bool | None,
    ) -> Node:
        """Apply a function element by element, after bringing all arguments to one length."""
        streams = list(dict.fromkeys(n.kind for n in nodes if n.kind and n.kind != EVENT))
        if len(streams) > 1:
            first, second = (next(n for n in nodes if n.kind == s) for s in streams[:2])
            raise self.error(
                second.tree,
                f"{self.source(first.tree)!r} has one value per object of {first.kind!r}, "
                f"{self.source(second.tree)!r} one per object of {second.kind!r}; different "
                "streams have no common objects. Reduce one to a value per event, for example "
                "with max()",
            )
        kind = streams[0] if streams else next((n.kind for n in nodes if n.kind), None)
        runs = [self.broadcast(node, streams[0]) if streams else node.run for node in nodes]

        def run(columns: ColumnSource) -> Any:  # noqa: ANN401
            values = [argument(columns) for argument in runs]
            with self.guard(tree):
                return function(*values)

        if kind is None:
            with np.errstate(all="ignore"):
                return self.folded(tree, run(_NO_COLUMNS))
        return Node(kind, run, tree, boolean)

    def broadcast(self, node: Node, stream: str) -> Callable[[ColumnSource], Any]:
        """Repeat a value per event for every object of its event."""
        if node.kind != EVENT:
            return node.run
        self.streams.add(stream)

        def run(columns: ColumnSource) -> Any:  # noqa: ANN401
            counts = np.diff(self.read_offsets(node.tree, columns, stream))
            values = node.run(columns)
            if len(values) != len(counts):
                raise self.error(
                    node.tree,
                    f"this has {len(values)} events, the stream {stream!r} has {len(counts)}",
                )
            return np.repeat(values, counts)

        return run

    def condition(self, node: Node, user: str) -> Node:
        """Return the node as something true or false, or say that it is not."""
        if node.boolean is False or node.text:
            hint = "compare it with something"
            if any(isinstance(part, (ast.BitAnd, ast.BitOr)) for part in ast.walk(node.tree)) or (
                user in {"'&'", "'|'"}
            ):
                hint += "; '&' and '|' bind tighter than comparisons: write (a > 1) & (b > 2)"
            raise self.error(
                node.tree,
                f"{user} needs true or false, but {self.source(node.tree)!r} is a "
                f"{'text' if node.text else 'number'}; {hint}",
            )
        if node.boolean:
            return node

        def run(columns: ColumnSource) -> Any:  # noqa: ANN401
            values = node.run(columns)
            if values.dtype != np.bool_:
                raise self.error(
                    node.tree,
                    f"{user} needs true or false, but {self.source(node.tree)!r} has dtype "
                    f"{values.dtype}; compare it with something",
                )
            return values

        return replace(node, run=run, boolean=True)

    def number(self, node: Node, user: str) -> Node:
        """Refuse text constants where numbers are meant."""
        if node.text:
            raise self.error(
                node.tree, f"{user} needs a number, but {self.source(node.tree)} is a string"
            )
        return node

    # -- operators ---------------------------------------------------------------------------

    def unary(self, tree: ast.UnaryOp) -> Node:
        """Compile ``-x``, ``+x``, ``not x`` and ``~x``."""
        node = self.visit(tree.operand)
        if isinstance(tree.op, (ast.Not, ast.Invert)):
            symbol = "'not'" if isinstance(tree.op, ast.Not) else "'~'"
            node = self.condition(node, symbol)
            return self.combine(tree, [node], np.logical_not, boolean=True)
        self.number(node, "a sign")
        sign = operator.neg if isinstance(tree.op, ast.USub) else operator.pos
        return self.combine(tree, [node], lambda x: sign(_widen(x)), boolean=False)

    def arithmetic(self, tree: ast.BinOp) -> Node:
        """Compile ``+ - * / // % **``."""
        known = _ARITHMETIC.get(type(tree.op))
        if known is None:
            raise self.error(
                tree,
                f"the operator {type(tree.op).__name__} is not supported; powers are written x**2",
            )
        symbol, function = known
        nodes = [self.number(self.visit(side), repr(symbol)) for side in (tree.left, tree.right)]
        if all(node.kind is None for node in nodes) and symbol == "**":
            return self.combine(tree, nodes, _constant_power, boolean=False)

        def compute(left: Any, right: Any) -> Any:  # noqa: ANN401
            left, right = _widen(left), _widen(right)
            whole = all(np.asarray(side).dtype.kind in "iu" for side in (left, right))
            if whole and symbol in {"//", "%"} and np.any(np.equal(right, 0)):
                message = f"integers divided by zero with {symbol!r}; use / for inf and NaN"
                raise ZeroDivisionError(message)
            if whole and symbol == "**":
                left = np.asarray(left, dtype=np.float64)
            return function(left, right)

        return self.combine(tree, nodes, compute, boolean=False)

    def logic(self, tree: ast.expr, kind: type[ast.AST], operands: Sequence[ast.expr]) -> Node:
        """Compile ``and or & |``."""
        symbol, function = _LOGIC[kind]
        nodes = [self.condition(self.visit(operand), repr(symbol)) for operand in operands]
        result = nodes[0]
        for node in nodes[1:]:
            result = self.combine(tree, [result, node], function, boolean=True)
        return result

    def comparison(self, tree: ast.Compare) -> Node:
        """Compile a comparison or a chain of them, ``a < b < c`` being ``a < b and b < c``."""
        result: Node | None = None
        left = tree.left
        for sign, right in zip(tree.ops, tree.comparators, strict=True):
            link = (
                self.membership(tree, left, sign, right)
                if isinstance(sign, (ast.In, ast.NotIn))
                else self.compare(tree, left, sign, right)
            )
            left = right
            result = (
                link
                if result is None
                else self.combine(tree, [result, link], np.logical_and, boolean=True)
            )
        assert result is not None
        return result

    def compare(self, tree: ast.Compare, left: ast.expr, sign: ast.cmpop, right: ast.expr) -> Node:
        """Compile one comparison."""
        known = _COMPARISONS.get(type(sign))
        if known is None:
            raise self.error(tree, "'is' compares Python objects; write == or !=")
        symbol, function = known
        nodes = [self.visit(left), self.visit(right)]
        if symbol in {"==", "!="}:
            nodes = [self.label(nodes[0], nodes[1]), self.label(nodes[1], nodes[0])]

        def compute(a: Any, b: Any) -> Any:  # noqa: ANN401
            _refuse_text_against_numbers(a, b)
            result = function(a, b)
            return result & ~(_is_nan(a) | _is_nan(b)) if symbol == "!=" else result

        return self.combine(tree, nodes, compute, boolean=True)

    def label(self, node: Node, other: Node) -> Node:
        """Turn a text constant into the integer that it stands for in the other column."""
        if not (node.text and other.labels):
            return node
        value = node.run(_NO_COLUMNS)
        if value not in other.labels:
            raise self.error(
                node.tree,
                f"{self.source(other.tree)!r} has no class {value!r}"
                f"{did_you_mean(value, other.labels)} (classes: {', '.join(other.labels)})",
            )
        return self.folded(node.tree, other.labels.index(value))

    def membership(
        self, tree: ast.Compare, left: ast.expr, sign: ast.cmpop, right: ast.expr
    ) -> Node:
        """Compile ``x in [...]`` and ``x not in [...]``; NaN is in neither."""
        if not isinstance(right, (ast.List, ast.Tuple, ast.Set)) or not right.elts:
            raise self.error(right, "'in' needs a list of constants, such as [1, 2]")
        node = self.visit(left)
        values = []
        for element in right.elts:
            item = self.label(self.visit(element), node)
            if item.kind is not None:
                raise self.error(element, "only constants may stand in the list after 'in'")
            values.append(item.run(_NO_COLUMNS))
        if len({isinstance(value, str) for value in values}) > 1:
            raise self.error(right, "the list after 'in' mixes strings and numbers")
        outside = isinstance(sign, ast.NotIn)

        def compute(x: Any) -> Any:  # noqa: ANN401
            _refuse_text_against_numbers(x, values[0])
            x = np.asarray(x)
            table = np.asarray(values)
            if x.dtype.kind == "f":
                table = table.astype(x.dtype)
            elif x.dtype.kind == "O":
                table = table.astype(object)
            inside = np.isin(x, table)
            return ~inside & ~_is_nan(x) if outside else inside

        return self.combine(tree, [node], compute, boolean=True)

    # -- names -------------------------------------------------------------------------------

    def parts(self, tree: ast.expr) -> list[str] | None:
        """Return a dotted or quoted name as its parts, or None where it is not one."""
        match tree:
            case ast.Name(id=name):
                return [name]
            case ast.Attribute(value=value, attr=name):
                before = self.parts(value)
                return None if before is None else [*before, name]
            case ast.Subscript(value=value, slice=ast.Constant(value=str(name))):
                before = self.parts(value)
                return None if before is None else [*before, name]
            case _:
                return None

    def column(self, tree: ast.Name | ast.Attribute | ast.Subscript) -> Node:
        """Compile the name of a column or a named constant."""
        parts = self.parts(tree)
        if parts is None:
            reason = (
                f"'.{tree.attr}' can only follow the name of a stream, global or group"
                if isinstance(tree, ast.Attribute)
                else "values cannot be picked with [...]; use nth(x, 1), leading(x, 1) or where(), "
                "and quotes for names: target['t1/mass']"
            )
            raise self.error(tree, reason)
        stream, *rest = parts
        if len(rest) == 1 and rest[0] in self.scope.streams.get(stream, ()):
            return self.stream_column(tree, stream, rest[0], f"{stream}.{rest[0]}")
        spellings = (".".join(parts), "/".join(parts))
        for name in (*spellings, f"{COLUMNS}/{stream}") if len(parts) == 1 else spellings:
            if name in self.scope.objects:
                return self.stream_column(tree, self.scope.objects[name], name, name)
            if name in self.scope.events:
                return self.event_column(tree, name)
        if len(parts) == 1 and stream in _CONSTANTS:
            return self.folded(tree, _CONSTANTS[stream])
        raise self.unknown(tree, parts)

    def unknown(self, tree: ast.expr, parts: Sequence[str]) -> ExpressionError:
        """Say what is wrong with a name and which ones there are."""
        name, first = ".".join(parts), parts[0]
        if first in self.scope.streams:
            features = self.scope.streams[first]
            if len(parts) == 1:
                reason = (
                    f"{name!r} is a stream; name a feature ({first}.{next(iter(features), 'pt')}) "
                    f"or use count({first})"
                )
            else:
                feature = ".".join(parts[1:])
                reason = (
                    f"the stream {first!r} has no feature {feature!r}"
                    f"{did_you_mean(feature, features)} (features: {', '.join(features) or 'none'})"
                )
            return self.error(tree, reason)
        wanted = name.removeprefix(f"{COLUMNS}.")
        if wanted in self.scope.absent:
            where = self.scope.absent[wanted] or "the files"
            problem = self.error(tree, f"there is no column {wanted!r} in {where}")
            return MissingColumnError(str(problem))
        if len(parts) == 1 and name in self.known:
            signature = self.known[name].signature(name)
            return self.error(tree, f"{name!r} is a function; call it: {signature}")
        available = self.scope.available()
        inside = [known for known in available if known.startswith((f"{first}.", f"{first}/"))]
        candidates = [*available, *(known.replace("/", ".") for known in available)]
        candidates += [known.removeprefix(f"{COLUMNS}/") for known in available]
        streams = self.scope.streams if len(parts) == 1 else ()
        return self.error(
            tree,
            f"unknown name {name!r}{did_you_mean(name, [*candidates, *streams])}"
            f" (available: {', '.join(inside or available) or 'nothing'})",
        )

    def stream_column(self, tree: ast.expr, stream: str, feature: str, name: str) -> Node:
        """Read one value per object."""
        self.names.add(name)
        self.streams.add(stream)

        def run(columns: ColumnSource) -> Array:
            values = np.asarray(columns.stream(stream, feature))
            offsets = self.read_offsets(tree, columns, stream)
            if values.shape != (offsets[-1],):
                raise self.error(
                    tree,
                    f"the column {name!r} has shape {values.shape}, but the offsets of {stream!r} "
                    f"count {offsets[-1]} objects",
                )
            return values

        return Node(stream, run, tree, boolean=None)

    def event_column(self, tree: ast.expr, name: str) -> Node:
        """Read one value per event."""
        self.names.add(name)

        def run(columns: ColumnSource) -> Array:
            values = np.asarray(columns.event(name))
            if values.ndim != 1:
                raise self.error(
                    tree, f"the column {name!r} has shape {values.shape}, not one value per event"
                )
            return values

        return Node(EVENT, run, tree, boolean=None, labels=self.scope.labels.get(name, ()))

    def read_offsets(self, tree: ast.expr, columns: ColumnSource, stream: str) -> NDArray[np.int64]:
        """Read where the events of a stream begin and end."""
        offsets = np.asarray(columns.offsets(stream))
        if offsets.ndim != 1 or not len(offsets) or offsets[0] != 0:
            raise self.error(
                tree, f"the offsets of {stream!r} must be one-dimensional and begin with 0"
            )
        return offsets

    # -- calls -------------------------------------------------------------------------------

    def call(self, tree: ast.Call) -> Node:
        """Compile the call of a function."""
        if not isinstance(tree.func, ast.Name):
            raise self.error(tree.func, "functions are called by their plain name, such as sqrt(x)")
        name = tree.func.id
        if name == _MATCHES:
            return self.matches(tree)
        function = self.known.get(name)
        if function is None:
            raise self.error(
                tree.func,
                f"unknown function {name!r}{did_you_mean(name, self.known)} "
                f"(available: {', '.join(sorted([*self.known, _MATCHES]))})",
            )
        if tree.keywords:
            raise self.error(tree, f"{name}() takes no named arguments: {function.signature(name)}")
        most = len(function.arguments)
        if not most - function.optional <= len(tree.args) <= most:
            hint = (
                f"; use {name}imum() for the {name} of two values"
                if name in {"min", "max"} and function is FUNCTIONS[name]
                else ""
            )
            raise self.error(
                tree,
                f"wrong number of arguments ({len(tree.args)}); "
                f"write {function.signature(name)}{hint}",
            )
        if name == "count" and isinstance(tree.args[0], ast.Name):
            stream = tree.args[0].id
            if stream in self.scope.streams:
                return self.count(tree, stream)
        nodes = [
            self.argument(name, function, position, argument)
            for position, argument in enumerate(tree.args)
        ]
        boolean = {"number": False, "boolean": True, "any": None}[function.result]
        if function.kind == "reduction":
            return self.reduction(tree, name, function, nodes, boolean=boolean)

        def compute(*arguments: Any) -> Any:  # noqa: ANN401
            result = np.asarray(function.call(*_prepared(function, arguments)))
            length = max((np.size(a) for a in arguments if np.ndim(a)), default=None)
            if length is not None and result.shape != (length,):
                message = f"{name}() gave shape {result.shape} for {length} values"
                raise ValueError(message)
            return result

        return self.combine(tree, nodes, compute, boolean=boolean)

    def argument(self, name: str, function: Function, position: int, tree: ast.expr) -> Node:
        """Compile one argument and check what can be checked before evaluation."""
        if position in function.strings | function.files:
            return self.string(name, function, position, tree)
        node = self.number(self.visit(tree), f"{name}()")
        if position in function.ordinals:
            value = node.run(_NO_COLUMNS) if node.kind is None else None
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise self.error(
                    tree,
                    f"{function.arguments[position]!r} of {function.signature(name)} counts from "
                    f"1 and must be a whole constant",
                )
        if position in function.conditions:
            return self.condition(node, f"{name}()")
        return node

    def string(self, name: str, function: Function, position: int, tree: ast.expr) -> Node:
        """Compile an argument that is a string constant, and look whether its file exists."""
        node = self.visit(tree)
        if not node.text:
            raise self.error(
                tree,
                f"{function.arguments[position]!r} of {function.signature(name)} must be a string "
                "in quotes",
            )
        path = node.run(_NO_COLUMNS)
        if position in function.files and not Path(path).is_file():
            raise self.error(
                tree,
                f"{name}() reads the file {path!r}, which does not exist (working directory "
                f"{str(Path.cwd())!r})",
            )
        return node

    def matches(self, tree: ast.Call) -> Node:
        """Compile ``matches(text, 'pattern')``: whether a regular expression is found in a text."""
        if len(tree.args) != 2 or tree.keywords or not isinstance(tree.args[1], ast.Constant):
            raise self.error(tree, "write matches(text, 'pattern'), such as matches(file, 'ttbar')")
        node = self.visit(tree.args[0])
        try:
            pattern = re.compile(str(tree.args[1].value))
        except re.error as error:
            raise self.error(tree.args[1], f"not a regular expression: {error}") from error

        def compute(values: Any) -> Any:  # noqa: ANN401
            texts = np.asarray(values)
            if texts.dtype.kind not in "OUST":
                raise TypeError(f"matches() needs a string, but this has dtype {texts.dtype}")
            different, places = np.unique(texts.astype(str), return_inverse=True)
            found = np.array([pattern.search(text) is not None for text in different], bool)
            return found[places]

        return self.combine(tree, [node], compute, boolean=True)

    def count(self, tree: ast.expr, stream: str) -> Node:
        """Compile the number of objects of a stream."""
        self.names.add(stream)
        self.streams.add(stream)

        def run(columns: ColumnSource) -> Array:
            return np.diff(self.read_offsets(tree, columns, stream)).astype(np.int64)

        return Node(EVENT, run, tree, boolean=False)

    def reduction(
        self,
        tree: ast.Call,
        name: str,
        function: Function,
        nodes: Sequence[Node],
        *,
        boolean: bool | None,
    ) -> Node:
        """Compile a function that gives one value per event from the values of its objects."""
        if nodes[0].kind in (None, EVENT):
            raise self.error(
                nodes[0].tree,
                f"{name}() reduces the values of a stream, but {self.source(nodes[0].tree)!r} has "
                f"{'no column' if nodes[0].kind is None else 'one value per event'}",
            )
        joint = self.combine(tree, nodes, lambda *values: values, boolean=None)
        stream = str(joint.kind)

        def run(columns: ColumnSource) -> Array:
            offsets = self.read_offsets(tree, columns, stream)
            values = joint.run(columns)
            with self.guard(tree):
                result = np.asarray(function.call(offsets, *_prepared(function, values)))
                if result.shape != (len(offsets) - 1,):
                    message = f"{name}() gave shape {result.shape} for {len(offsets) - 1} events"
                    raise ValueError(message)
            return result

        return Node(EVENT, run, tree, boolean)


class _NoColumns:
    """The source of an expression without columns."""

    def event(self, name: str) -> Array:
        """Refuse."""
        raise KeyError(name)

    def stream(self, stream: str, feature: str) -> Array:
        """Refuse."""
        raise KeyError(stream, feature)

    def offsets(self, stream: str) -> NDArray[np.int64]:
        """Refuse."""
        raise KeyError(stream)


_NO_COLUMNS: Final = _NoColumns()
_MOST: Final = np.iinfo(np.int64).max


def _widen(value: Any) -> Any:  # noqa: ANN401
    """Make integers and booleans int64 and half precision float32; keep other floats."""
    if not isinstance(value, np.ndarray):
        return int(value) if isinstance(value, bool) else value
    if value.dtype == np.uint64 and value.max(initial=0) > _MOST:
        message = f"{value.max()} does not fit into a signed 64-bit integer"
        raise OverflowError(message)
    if value.dtype.kind in "biu":
        return value.astype(np.int64, copy=False)
    if value.dtype == np.float16:
        return value.astype(np.float32)
    if value.dtype.kind not in "iuf":
        message = f"it has dtype {value.dtype}, not numbers"
        raise TypeError(message)
    return value


def _prepared(function: Function, arguments: Sequence[Any]) -> list[Any]:
    """Widen the arguments of a function, except those that are conditions."""
    keep = range(len(arguments)) if function.result == "any" else function.conditions
    return [
        value if position in keep and np.asarray(value).dtype.kind == "b" else _widen(value)
        for position, value in enumerate(arguments)
    ]


def _is_nan(value: Any) -> Any:  # noqa: ANN401
    array = np.asarray(value)
    return np.isnan(array) if array.dtype.kind == "f" else np.zeros(array.shape, dtype=bool)


def _refuse_text_against_numbers(a: Any, b: Any) -> None:  # noqa: ANN401
    kinds = [np.asarray(value).dtype.kind for value in (a, b)]
    textual = [kind in "OUST" for kind in kinds]
    if textual[0] != textual[1]:
        message = "one side is a string, the other is not"
        raise TypeError(message)


def _constant_power(base: float, exponent: float) -> float:
    """A power of constants, without building huge integers."""
    result = math.pow(base, exponent)
    both_whole = isinstance(base, int) and isinstance(exponent, int) and exponent >= 0
    return int(result) if both_whole and abs(result) <= 2**53 else result
