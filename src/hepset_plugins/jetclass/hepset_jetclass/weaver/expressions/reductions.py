"""Reductions: one value per event, of all of its objects, of chosen ones, or of a stack."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from hepset_jetclass.weaver.expressions.conditions import Conditions
from hepset_jetclass.weaver.expressions.trees import (
    ZERO,
    applied,
    constant_of,
    of_chosen,
    per_event,
    written,
)
from hepset_jetclass.weaver.expressions.words import (
    ACROSS,
    CHOSEN,
    OF_CONDITIONS,
    OF_NOTHING,
    REDUCTIONS,
    SPREADS,
)


class Reductions(Conditions):
    """Translates reductions, and what awkward has where there is nothing to reduce."""

    def reduction(self, node: ast.Call, name: str, options: dict[str, ast.expr]) -> ast.expr:
        """Write a reduction with ``axis=1``: of a column, of ``x[condition]`` or of a stack."""
        arguments = list(node.args)
        axis = options.pop("axis", arguments.pop(1) if len(arguments) > 1 else None)
        masked = constant_of(options.pop("mask_identity", None)) is not False
        if constant_of(options.get("keepdims")) is False:
            del options["keepdims"]
        if options:
            raise self.error(node, f"the option {next(iter(options))!r} has no translation")
        if len(arguments) != 1:
            raise self.error(node, "one column is reduced at a time")
        allowed = {1, -1, None} if name in {"num", "firsts"} else {1, -1}
        if constant_of(axis) not in allowed:
            raise self.error(
                node, "over all events; with axis=1 it gives one value per event, of its objects"
            )
        if self.pads(arguments[0]):
            raise self.error(
                node,
                "hepset does not reduce padding; reduce the column itself, for example "
                "np.maximum(ak.max(x, axis=1), 9) for a padding of 9",
            )
        word = REDUCTIONS.get(name, name)
        if word in OF_NOTHING and (stacked := self.stacked(node)) is not None:
            return applied(f"{word}_of", [self.visit(value) for value in stacked])
        if word in ACROSS and (stacked := self.stacked(node)) is not None:
            total = self.value_for(word, stacked[0])
            for value in stacked[1:]:
                total = written(ACROSS[word], {"x": total, "y": self.value_for(word, value)})
            count = ast.Constant(len(stacked))
            return ast.BinOp(total, ast.Div(), count) if word == "mean" else total
        reduced, index = of_chosen(arguments[0])
        if index is not None and word in CHOSEN:
            parts = {"x": self.value_for(word, reduced), "c": self.condition(index)}
            nothing = "nan" if masked else OF_NOTHING.get(word, "nan")
            parts["none"] = ast.parse(nothing, mode="eval").body
            return written(CHOSEN[word], parts)
        value = self.value_for(word, arguments[0])
        if name in SPREADS:
            if name == "ptp" and not masked:
                raise self.error(node, "the option 'mask_identity' has no translation")
            return written(SPREADS[name], {"x": value})
        found = applied(word, [value])
        if word in OF_NOTHING and not masked:
            if self.is_condition(arguments[0]):
                raise self.error(node, "write ak.any(…) or ak.all(…) of what is true or false")
            text = f"where(number(x) > 0, found, {OF_NOTHING[word]})"
            return written(text, {"x": value, "found": found})
        return found

    def value_for(self, reduction: str, node: ast.expr) -> ast.expr:
        """Write what a reduction takes: a number, or something true or false."""
        return self.condition(node) if reduction in OF_CONDITIONS else self.visit(node)

    def filled(self, node: ast.Call) -> ast.expr:
        """``ak.fill_none(x, y)``: y where an event has no such value; NaN is a value."""
        if len(node.args) != 2 or node.keywords:
            raise self.error(node, "write ak.fill_none(x, value)")
        found, instead = (self.visit(argument) for argument in node.args)
        needed = {ast.unparse(there): there for there in self.needed(node.args[0])}
        for there in needed.values():
            found = applied("where", [there, found, instead])
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
                yield ast.Compare(applied("number", [self.visit(value)]), [ast.Gt()], [ZERO])
                return
            case ast.Call(func=ast.Attribute(attr=name), args=[value, *_]) if (
                REDUCTIONS.get(name) in OF_NOTHING and self.stacked(node) is None
            ):
                if constant_of(self.options(node).get("mask_identity")) is False:
                    return
                reduced, index = of_chosen(value)
                if index is not None:
                    yield applied("any", [self.condition(index)])
                else:
                    yield ast.Compare(applied("number", [self.visit(reduced)]), [ast.Gt()], [ZERO])
                return
            case ast.Subscript(
                value=ast.Call(func=ast.Attribute(attr="pad_none"), args=[value, *_]),
                slice=ast.Tuple(elts=[_, ast.Constant(value=int() as number)]),
            ):
                count = applied("number", [self.visit(value)])
                yield ast.Compare(count, [ast.Gt()], [ast.Constant(number)])
                return
        if not per_event(node):
            for part in ast.iter_child_nodes(node):
                if isinstance(part, ast.expr):
                    yield from self.needed(part, seen)
