"""The language of selections and derived features: ``count(jets.pt > 30) >= 4``.

An expression is parsed, checked against the columns that exist, and compiled to a tree of numpy
calls. Nothing is ever handed to Python's ``eval``: what is not named here is refused.

Names
    ``jets.pt`` (a feature of a stream: one value per object), ``met.pt`` (a feature of a global),
    ``weight``, ``process``, ``target.signal``, ``extra.run``. Names that are no identifiers are
    quoted: ``target['t1/mass']``. ``pi``, ``nan``, ``inf``, ``true`` and ``false`` are constants.
Operators
    ``+ - * / // % **``, comparisons (also chained, ``20 < x < 40``), ``and or not`` or ``& | ~``,
    and ``x in [1, 2]``. All act element by element. Where a value per event meets a value per
    object, the former is repeated for every object of its event.
Functions
    `hepset.expressions.functions.FUNCTIONS`, and those of plugins. ``count(jets)`` is the number of
    objects.

Rules that are easily got wrong:

* A comparison with NaN is False, ``!=`` and ``not in`` included, so **NaN fails a cut**. The
  negation ``not (x > 1)`` is True for NaN; write ``x <= 1`` or add ``isfinite(x)``.
* Numbers are not conditions: write ``count(jets) > 0``, not ``count(jets)``.
* ``&`` and ``|`` bind tighter than comparisons, as in Python: ``(a > 1) & (b > 2)``.
* Floating dtypes follow numpy, so float32 columns stay float32 against constants. Integers and
  booleans are widened to int64 in arithmetic, powers of integers are float64, sums and means
  accumulate in float64, so small integer types do not wrap around.
* Division by zero gives inf or NaN; of integers by ``//`` and ``%`` it is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepset.expressions.compiler import Compiler, Functions, Node
from hepset.expressions.scope import EVENT, ColumnSource, Scope

__all__ = [
    "EVENT",
    "ColumnSource",
    "Expression",
    "Functions",
    "Scope",
    "compile_expression",
    "compile_selection",
]


@dataclass(frozen=True, eq=False)
class Expression:
    """A compiled expression; made by `compile_expression`, can be pickled.

    Attributes:
        text: The expression as it was written.
        kind: `EVENT` for one value per event, else the name of the stream.
        names: Columns it reads, sorted: ``jets.pt``, ``met.pt``, ``target/signal``; a stream that
            is only counted is listed by its own name.
        streams: Streams whose offsets it may need, sorted.
    """

    text: str
    kind: str
    names: tuple[str, ...]
    streams: tuple[str, ...]
    _compiler: Compiler = field(repr=False)
    _node: Node = field(repr=False)

    def __reduce__(self) -> tuple[Callable[..., Expression], tuple[Any, ...]]:
        """Pickle as text; the receiver compiles it again."""
        compiler = self._compiler
        arguments = (compiler.text, compiler.scope, compiler.functions, compiler.where)
        return (_compile, (*arguments, compiler.selection))

    def evaluate(self, columns: ColumnSource) -> NDArray[Any]:
        """Compute the expression.

        Args:
            columns: Where the columns in `names` come from.

        Returns:
            Shape ``(event,)`` where `kind` is `EVENT`, else ``(object,)`` in the stream's order.
            May be a column itself, so do not write into it.

        Raises:
            ExpressionError: If a column has the wrong shape or type for what is done with it.
        """
        with np.errstate(all="ignore"):
            result = np.asarray(self._node.run(columns))
        if self._compiler.selection and result.dtype != np.bool_:
            raise self._compiler.error(
                self._node.tree,
                f"a selection is true or false for every event, but this has dtype {result.dtype}; "
                "compare it with something",
            )
        return result


def compile_expression(
    text: str,
    scope: Scope,
    functions: Functions | None = None,
    *,
    where: str = "expression",
) -> Expression:
    """Check an expression against the columns that exist, and compile it.

    Args:
        text: The expression.
        scope: Names it may use.
        functions: Further functions by name; they may not replace built-in ones.
        where: Place in the configuration, for error messages, such as ``"prepare.derive.ht"``.

    Returns:
        The compiled expression.

    Raises:
        ExpressionError: If the text is no expression of this language, names something unknown,
            or mixes streams; the message points at the place.
    """
    return _compile(text, scope, functions or {}, where, selection=False)


def compile_selection(
    text: str,
    scope: Scope,
    functions: Functions | None = None,
    *,
    where: str = "selection",
) -> Expression:
    """Compile an expression that must be true or false for every event.

    Args:
        text: The expression.
        scope: Names it may use.
        functions: Further functions by name.
        where: Place in the configuration, for error messages.

    Returns:
        An expression of kind `EVENT`; evaluating it gives a boolean array or an error.

    Raises:
        ExpressionError: As `compile_expression`, and if the result is a number or has one value
            per object.
    """
    return _compile(text, scope, functions or {}, where, selection=True)


def _compile(
    text: str, scope: Scope, functions: Functions, where: str, selection: bool
) -> Expression:
    compiler = Compiler(text, scope, functions, where, selection)
    node = compiler.compile()
    if node.kind is None:
        raise compiler.error(node.tree, "this names no column, so it is the same for all events")
    return Expression(
        text=text,
        kind=node.kind,
        names=tuple(sorted(compiler.names)),
        streams=tuple(sorted(compiler.streams)),
        _compiler=compiler,
        _node=node,
    )
