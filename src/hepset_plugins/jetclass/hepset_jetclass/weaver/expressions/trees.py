"""Pieces of syntax trees: how they are made, filled in, and walked through."""

from __future__ import annotations

import ast
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from hepset_jetclass.weaver.expressions.words import CHOSEN, REDUCTIONS, SPREADS

ZERO: Final = ast.Constant(0)


def differs(left: ast.expr, right: ast.expr) -> ast.expr:
    """``left != right`` as numpy has it: NaN differs from everything."""
    return ast.UnaryOp(ast.Invert(), ast.Compare(left, [ast.Eq()], [right]))


def applied(name: str, arguments: Sequence[ast.expr]) -> ast.Call:
    """Write a call of a function."""
    return ast.Call(ast.Name(name), list(arguments), [])


def constant_of(node: ast.expr | None) -> object:
    """Return the number, string or name that a node is; None for anything else."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
        case _:
            return None


def of_chosen(node: ast.expr) -> tuple[ast.expr, ast.expr | None]:
    """Take one condition out of an expression: ``x[c] + y[c]`` is that of ``x + y`` where c."""
    indices = [
        part.slice
        for part in per_object(node)
        if isinstance(part, ast.Subscript) and not isinstance(part.slice, ast.Constant | ast.Slice)
    ]
    if len({ast.unparse(index) for index in indices}) != 1:
        return node, None
    whole: ast.expr = _Whole(ast.unparse(indices[0])).visit(copy.deepcopy(node))
    return whole, indices[0]


def per_event(node: ast.AST) -> bool:
    """Whether this gives one value per event: conditions inside it are its own."""
    match node:
        case ast.Call(func=ast.Attribute(attr=name) | ast.Name(id=name)):
            return name in REDUCTIONS or name in SPREADS or name in CHOSEN
        case ast.Subscript(slice=ast.Tuple()):
            return True
    return False


def per_object(node: ast.AST) -> Iterator[ast.AST]:
    """Walk through an expression, but not into what gives one value per event."""
    if not per_event(node):
        yield node
        for part in ast.iter_child_nodes(node):
            yield from per_object(part)


class _Whole(ast.NodeTransformer):
    def __init__(self, index: str) -> None:
        self.index = index

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Leave alone what gives one value per event."""
        return node if per_event(node) else self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        """Leave a condition out."""
        if per_event(node):
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


def with_parts(tree: ast.expr, part: Callable[[str], ast.expr]) -> ast.expr:
    """Put an expression in the place of every name, but not of functions."""
    filled: ast.expr = _Filler(part).visit(tree)
    return filled


def written(text: str, parts: Mapping[str, ast.expr]) -> ast.expr:
    """Write a text of hepset's language with expressions in the places of some names."""
    tree = ast.parse(text, mode="eval").body
    return with_parts(tree, lambda name: parts.get(name, ast.Name(name)))
