"""What the form of a weaver expression tells before it is translated."""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hepset.errors import EventInfoError
from hepset_jetclass.weaver.expressions.trees import constant_of, per_object
from hepset_jetclass.weaver.expressions.words import TRUE_OF_TRUE, TRUE_OR_FALSE, TRUTH


@dataclass
class Surroundings:
    """What the expressions of one data configuration may refer to.

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


class Form(ABC):
    """One expression, its questions answered from what is written.

    Args:
        owner: What it may refer to.
        text: The expression.
        key: Its place in the configuration, for messages.
    """

    def __init__(self, owner: Surroundings, text: str, key: str) -> None:
        self.owner = owner
        self.key = key
        self.text = text

    @abstractmethod
    def visit(self, node: ast.expr) -> ast.expr:
        """Translate a part of the expression."""

    def error(self, node: ast.AST, reason: str) -> EventInfoError:
        """Say what part has no translation, why, and where it stands."""
        return EventInfoError(
            f"{self.owner.where}: {self.key}: {ast.unparse(node)!r}: {reason}\n  {self.text}"
        )

    def options(self, node: ast.Call) -> dict[str, ast.expr]:
        """Return the arguments of a call that are given by name."""
        if any(keyword.arg is None for keyword in node.keywords) or any(
            isinstance(argument, ast.Starred) for argument in node.args
        ):
            raise self.error(node, "'*' cannot unpack here")
        return {str(keyword.arg): keyword.value for keyword in node.keywords}

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
                return name not in TRUTH | TRUE_OR_FALSE and self.is_number(value, seen)
            case ast.Name(id=name) if name in self.owner.new_variables and name not in seen:
                key, text = f"new_variables.{name}", self.owner.new_variables[name]
                return self.is_number(self.owner.parse(text, key), seen | {name})
        return False

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
                    kind = (
                        constant_of(values[1]) if len(values) > 1 else self.options(node).get("to")
                    )
                    return kind in TRUTH
                if name not in TRUE_OF_TRUE:
                    return name in TRUE_OR_FALSE | TRUTH
                taken = values[name == "where" :]
                return bool(taken) and all(self.is_condition(value, seen) for value in taken)
            case ast.Subscript(value=value):
                return self.is_condition(value, seen)
            case ast.Name(id=name) if name in self.owner.new_variables and name not in seen:
                key, text = f"new_variables.{name}", self.owner.new_variables[name]
                return self.is_condition(self.owner.parse(text, key), seen | {name})
        return False

    def pads(self, node: ast.expr, seen: frozenset[str] = frozenset()) -> bool:
        """Whether padding is among the values of an expression."""
        for part in per_object(node):
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
                across = 1 if axis is None and name != "stack" else constant_of(axis)
                if across not in {1, -1}:
                    raise self.error(stack, "a stack of columns needs axis=1")
                return values
        return None
