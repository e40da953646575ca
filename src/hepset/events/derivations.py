"""Derived columns: ``derive: {jets.pt_fraction: "jets.pt / sum(jets.pt)"}``.

A derived column may use others, in any order of writing; they are computed in an order in which
each finds what it needs. ``stream.feature`` is a new feature of a stream, a plain name (``ht``)
whatever its expression gives and of use to other expressions only, anything else (``met.log_pt``,
``extra.ht``) a new value per event. A value per event that is given to a stream is repeated for its
objects. Columns that exist cannot be replaced.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hepset.errors import ExpressionError
from hepset.expressions.language import (
    EVENT,
    ColumnSource,
    Expression,
    Functions,
    Scope,
    compile_expression,
)

__all__ = [
    "Derivation",
    "DerivedColumns",
    "compile_derivations",
    "derived_columns",
    "evaluate_derivations",
    "names_of",
    "order_derivations",
]

_TARGET: Final = re.compile(r"[A-Za-z_]\w*([./][^./\s](?:[^.\s]*[^./\s])?)?", re.ASCII)
_GROUPS: Final = frozenset({"extra", "target", "weight"})


@dataclass(frozen=True)
class Derivation:
    """One derived column.

    Attributes:
        name: The new column as `Scope` names it: ``jets.pt_fraction``, ``met.log_pt``,
            ``extra/ht``, ``ht``.
        kind: `EVENT`, or the stream that the column belongs to.
        feature: Its name within the stream; equals `name` where the kind is `EVENT`.
        expression: How it is computed.
        plain: Whether it is a plain name, of use to other expressions only.
    """

    name: str
    kind: str
    feature: str
    expression: Expression
    plain: bool = False

    def evaluate(self, columns: ColumnSource) -> NDArray[Any]:
        """Compute the column, shape ``(event,)`` or ``(object,)``.

        Raises:
            ExpressionError: As `Expression.evaluate`.
        """
        values = self.expression.evaluate(columns)
        if self.expression.kind == self.kind:
            return values
        return np.repeat(values, np.diff(columns.offsets(self.kind)))


def order_derivations(dependencies: Mapping[str, Collection[str]]) -> list[str]:
    """Return the names so that each comes after those it needs; otherwise as they were written.

    Args:
        dependencies: Column → the columns its expression reads; those that are not keys exist
            already.

    Raises:
        ExpressionError: If columns need each other in a circle; the message shows it.
    """
    sorter = TopologicalSorter(
        {
            name: [needed for needed in dependencies if needed in needs]
            for name, needs in dependencies.items()
        }
    )
    try:
        sorter.prepare()
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        message = f"derived columns need each other in a circle: {circle}"
        raise ExpressionError(message) from error
    rank = {name: position for position, name in enumerate(dependencies)}
    ordered: list[str] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready(), key=rank.__getitem__)
        ordered += ready
        sorter.done(*ready)
    return ordered


def compile_derivations(
    derive: Mapping[str, str],
    scope: Scope,
    functions: Functions | None = None,
    *,
    where: str = "prepare.derive",
) -> tuple[list[Derivation], Scope]:
    """Compile derived columns and order them.

    Args:
        derive: New column → expression.
        scope: Columns that exist.
        functions: Further functions by name.
        where: Place in the configuration, for error messages.

    Returns:
        The derivations in the order in which they can be computed, and the scope with the new
        columns, for selections.

    Raises:
        ExpressionError: If an expression is wrong, a column exists already, a value per object is
            given to the event, or columns need each other in a circle.
    """
    targets = {written: _target(written, scope, f"{where}.{written}") for written in derive}
    extended = scope
    for written, (name, kind, feature) in targets.items():
        if extended.kind(name) is not None:
            message = (
                f"{where}.{written}: the column {name!r} exists already and cannot be replaced; "
                "choose a new name"
            )
            raise ExpressionError(message)
        if not _is_plain(name):
            extended = _with_column(extended, name, kind, feature)
    found: dict[str, Derivation] = {}
    # What a plain name has one value of follows from its expression, so they are compiled first,
    # in the order in which they need each other.
    plain = [written for written in derive if _is_plain(targets[written][0])]
    needs = {written: names_of(derive[written]) & set(plain) for written in plain}
    for written in [*order_derivations(needs), *(w for w in derive if w not in plain)]:
        name, kind, feature = targets[written]
        place = f"{where}.{written}"
        expression = compile_expression(derive[written], extended, functions, where=place)
        if _is_plain(name):
            kind = expression.kind
            extended = _with_plain(extended, name, kind)
        if expression.kind not in (EVENT, kind):
            owner = "the event" if kind == EVENT else f"the stream {kind!r}"
            message = (
                f"{place}: this column belongs to {owner}, but its expression has one value per "
                f"object of {expression.kind!r}\n  {expression.text}"
            )
            raise ExpressionError(message)
        found[name] = Derivation(name, kind, feature, expression, _is_plain(name))
    found = {targets[written][0]: found[targets[written][0]] for written in derive}
    ordered = order_derivations({name: d.expression.names for name, d in found.items()})
    return [found[name] for name in ordered], extended


def evaluate_derivations(
    derivations: Iterable[Derivation], columns: ColumnSource
) -> dict[str, NDArray[Any]]:
    """Compute derived columns one after the other.

    Args:
        derivations: In the order of `compile_derivations`.
        columns: The columns that exist.

    Returns:
        Name of each derivation → its values, ``(event,)`` or ``(object,)``.

    Raises:
        ExpressionError: As `Expression.evaluate`.
    """
    overlay = derived_columns(derivations, columns)
    return {name: overlay.derived[place] for name, place in overlay.names.items()}


def derived_columns(derivations: Iterable[Derivation], columns: ColumnSource) -> DerivedColumns:
    """Compute derived columns one after the other and lay them over the others.

    Args:
        derivations: In the order of `compile_derivations`.
        columns: The columns that exist.

    Raises:
        ExpressionError: As `Expression.evaluate`.
    """
    overlay = DerivedColumns(columns)
    for derivation in derivations:
        overlay.derived[derivation.kind, derivation.feature] = derivation.evaluate(overlay)
        overlay.names[derivation.name] = (derivation.kind, derivation.feature)
    return overlay


class DerivedColumns:
    """Columns with derived ones laid over them."""

    def __init__(self, columns: ColumnSource) -> None:
        self.columns = columns
        self.derived: dict[tuple[str, str], NDArray[Any]] = {}
        self.names: dict[str, tuple[str, str]] = {}

    def event(self, name: str) -> NDArray[Any]:
        """Return one value per event."""
        found = self.derived.get((EVENT, name))
        return self.columns.event(name) if found is None else found

    def stream(self, stream: str, feature: str) -> NDArray[Any]:
        """Return one value per object."""
        found = self.derived.get((stream, feature))
        return self.columns.stream(stream, feature) if found is None else found

    def offsets(self, stream: str) -> NDArray[np.int64]:
        """Return where the events of a stream begin and end."""
        return self.columns.offsets(stream)


def _target(written: str, scope: Scope, where: str) -> tuple[str, str, str]:
    """Split the name of a new column into its canonical name, kind and feature."""
    if not _TARGET.fullmatch(written):
        message = (
            f"{where}: {written!r} is no name for a column; write stream.feature, global.feature "
            "or extra.name"
        )
        raise ExpressionError(message)
    first, separator, rest = written.replace("/", ".", 1).partition(".")
    if first in scope.streams:
        if not separator:
            message = f"{where}: {first!r} is a stream; name a feature of it, {first}.<feature>"
            raise ExpressionError(message)
        return f"{first}.{rest}", first, rest
    name = f"{first}/{rest}" if separator and first in _GROUPS else written.replace("/", ".", 1)
    return name, EVENT, name


def _is_plain(name: str) -> bool:
    return "." not in name and "/" not in name


def names_of(text: str) -> set[str]:
    """Return the names that an expression uses: ``met`` of ``met.pt``, no functions.

    A text that is no expression uses none.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()  # Compiling it says what is wrong.
    nodes = list(ast.walk(tree))
    functions = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    return {n.id for n in nodes if isinstance(n, ast.Name) and id(n) not in functions}


def _with_plain(scope: Scope, name: str, kind: str) -> Scope:
    if kind == EVENT:
        return replace(scope, events=[*scope.events, name])
    return replace(scope, objects={**scope.objects, name: kind})


def _with_column(scope: Scope, name: str, kind: str, feature: str) -> Scope:
    if kind == EVENT:
        return replace(scope, events=[*scope.events, name])
    return replace(scope, streams={**scope.streams, kind: [*scope.streams[kind], feature]})
