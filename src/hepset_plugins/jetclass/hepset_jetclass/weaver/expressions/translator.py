"""`Translator`: an expression of weaver's in the words of hepset's, node by node."""

from __future__ import annotations

import ast
from collections.abc import Iterable

from hepset_jetclass.weaver.expressions.calls import Calls
from hepset_jetclass.weaver.expressions.forms import Surroundings
from hepset_jetclass.weaver.expressions.trees import applied, differs
from hepset_jetclass.weaver.expressions.words import CONSTANTS, MODULES, SHORT


class Translator(Surroundings):
    """Writes expressions of one data configuration in hepset's language."""

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


class _Expression(Calls):
    """Translates one expression, node by node."""

    def __init__(
        self, owner: Surroundings, text: str, key: str, inline: frozenset[str] = frozenset()
    ) -> None:
        super().__init__(owner, text, key)
        self.inline = inline
        self.open: list[str] = []

    def tree(self) -> ast.expr:
        return self.visit(self.owner.parse(self.text, self.key))

    def visit(self, node: ast.expr) -> ast.expr:
        match node:
            case ast.Constant(value=bool() | int() | float()):
                return node
            case ast.Constant(value=bytes() | str() | None):
                raise self.error(node, "a string or None has no place in an expression")
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
                    return differs(self.visit(left), self.visit(others[0]))
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
            constant = CONSTANTS.get(node.attr)
            if constant is None:
                raise self.error(node, "this is no number")
            return ast.Name(constant) if isinstance(constant, str) else ast.Constant(constant)
        vector = self.vector(node.value)
        if vector is None:
            raise self.error(
                node, "attributes are known of four-momenta only (_p4_from_pxpypze(…).mass)"
            )
        return self.property(node, vector, SHORT.get(node.attr, node.attr))

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
                found = applied("nth", [values, ast.Constant(k + 1)])
                if fill is None:
                    return found
                there = ast.Compare(applied("number", [values]), [ast.Gt()], [ast.Constant(k)])
                return applied("where", [there, found, self.visit(fill)])
        raise self.error(
            node,
            "of […] only x[:, k], the k-th object's value, and x[condition] inside a sum, max, … "
            "have a translation",
        )
