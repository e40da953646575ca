"""Operators, and what is true or false: numpy's ``& | ^ ~ + *`` of conditions and of numbers."""

from __future__ import annotations

import ast

from hepset_jetclass.weaver.expressions.forms import Form
from hepset_jetclass.weaver.expressions.trees import differs
from hepset_jetclass.weaver.expressions.words import BITS


class Conditions(Form):
    """Translates operators and conditions."""

    def operation(
        self, node: ast.expr, left: ast.expr, op: ast.operator, right: ast.expr
    ) -> ast.expr:
        """Write an operator between two values; true + true is true, as numpy has it."""
        if isinstance(op, ast.BitAnd | ast.BitOr | ast.BitXor):
            one, other = self.truth(node, left), self.truth(node, right)
            if isinstance(op, ast.BitXor):
                if not (self.is_condition(left) and self.is_condition(right)):
                    raise self.error(
                        node, f"{BITS}; of what is true or false, write np.logical_xor(a, b)"
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
            raise self.error(node, BITS)
        if self.is_number(operand):
            raise self.error(node, BITS)
        return self.visit(operand)

    def inverted(self, node: ast.expr, operand: ast.expr) -> ast.expr:
        """Write ``~x`` of what is true or false."""
        return ast.UnaryOp(ast.Invert(), self.truth(node, operand))

    def condition(self, node: ast.expr) -> ast.expr:
        """Write something that is true or false; of a number, whether it is not 0."""
        written = self.visit(node)
        if self.is_condition(node):
            return written
        return differs(written, ast.Constant(0))
