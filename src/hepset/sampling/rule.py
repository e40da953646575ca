"""`SamplingRule`: the expressions of a sampling configuration, compiled and evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hepset.batch import EventBatch
from hepset.errors import ConfigurationError, did_you_mean
from hepset.events.select import BatchColumns, plugin_functions
from hepset.expressions.language import Expression, compile_expression
from hepset.schema.event import EventInfo
from hepset.schema.sampling import SamplingConfig

__all__ = ["SamplingRule"]

Array = NDArray[Any]

_ALL: Final = "all"
"""Name of the one class where none are given."""


class SamplingRule:
    """The compiled expressions of a sampling configuration.

    Args:
        config: What to compile.
        event: What an event of the data set is.
        example: Some events, for the columns that there are.
        class_names: Classes of targets that the event file leaves open.

    Raises:
        ExpressionError: If an expression cannot be compiled.
        ConfigurationError: If the target does not exist, or an expression is not one number per
            event.
    """

    def __init__(
        self,
        config: SamplingConfig,
        event: EventInfo,
        example: EventBatch,
        class_names: Mapping[str, tuple[str, ...]],
    ) -> None:
        self.config = config
        self._event = event
        self._scope = BatchColumns(example, event).scope
        self.variables = [self._compile(text, "variables") for text in config.variables]
        self.members = {
            name: self._compile(text, f"classes.{name}")
            for name, text in config.expressions.items()
        }
        self.base = None
        if config.base_weight is not None:
            self.base = self._compile(config.base_weight, "base_weight")
        self.classes: tuple[str, ...] = tuple(config.expressions) or (_ALL,)
        if config.target is not None:
            self.classes = _target_classes(config, event, class_names)

    def _compile(self, text: str, option: str) -> Expression:
        where = f"train.sampling.{option}"
        expression = compile_expression(text, self._scope, plugin_functions(), where=where)
        if expression.kind != "event":
            raise ConfigurationError(
                f"{where}: {text!r} has one value for each of the {expression.kind}, expected one "
                "per event; take the sum, the largest, or the count of them"
            )
        return expression

    def _member(self, name: str, batch: EventBatch, columns: BatchColumns) -> Array:
        """Tell which events are in a class whose expression is a condition, or 0 or 1."""
        found = np.asarray(self.members[name].evaluate(columns))
        wrong = np.flatnonzero((found != 0) & (found != 1))
        if wrong.size:
            source, entry = batch.where(int(wrong[0]))
            raise ConfigurationError(
                f"train.sampling.classes.{name}: {wrong.size} of {len(batch)} events have neither "
                f"0 nor 1, first {found[wrong[0]]:g} in entry {entry} of {source}; write a "
                "condition, such as target.label == 3"
            )
        belongs: Array = found == 1
        return belongs

    @property
    def columns(self) -> list[str]:
        """Names that the expressions read: ``jets.pt``, ``extra/jet_pt``, ``target/label``."""
        expressions = [*self.variables, *self.members.values(), *filter(None, [self.base])]
        names = {name for e in expressions for name in (*e.names, *e.streams)}
        if self.config.target is not None:
            names.add(f"target/{self.config.target}")
        return sorted(names)

    def evaluate(self, batch: EventBatch) -> tuple[list[Array], Array, Array | None]:
        """Return the variables, which classes each event is in (event, class), and the factor.

        Raises:
            ConfigurationError: If a factor is negative or not finite, or a class is neither
                true-or-false nor 0 or 1.
        """
        columns = BatchColumns(batch, self._event)
        count = len(batch)
        values = [np.broadcast_to(e.evaluate(columns), (count,)) for e in self.variables]
        if self.config.target is not None:
            labels = np.asarray(batch.arrays[f"target/{self.config.target}"])
            members = labels[:, None] == np.arange(len(self.classes))
        elif self.members:
            members = np.stack(
                [self._member(name, batch, columns) for name in self.members], axis=1
            )
        else:
            members = np.ones((count, 1), bool)
        base = None
        if self.base is not None:
            base = np.broadcast_to(self.base.evaluate(columns), (count,)).astype(np.float64)
            wrong = np.flatnonzero(~(base >= 0) | np.isinf(base))
            if wrong.size:
                source, entry = batch.where(int(wrong[0]))
                raise ConfigurationError(
                    f"train.sampling.base_weight: {wrong.size} of {count} events have a factor "
                    f"that is negative or not finite, first {base[wrong[0]]:g} in entry {entry} of "
                    f"{source}; a probability is not negative: use abs(), or leave signed "
                    "weights to the loss"
                )
        return values, members, base


def _target_classes(
    config: SamplingConfig, event: EventInfo, class_names: Mapping[str, tuple[str, ...]]
) -> tuple[str, ...]:
    name = config.target or ""
    target = event.targets.get(name)
    if target is None or target.kind != "classification" or target.stream is not None:
        known = [n for n, t in event.targets.items() if t.kind == "classification"]
        raise ConfigurationError(
            f"train.sampling.classes: {name!r} is no classification target of the event; there "
            f"are {', '.join(known) or 'none'}{did_you_mean(name, known)}"
        )
    classes = target.classes or class_names.get(name, ())
    for other in [*config.class_weights, *filter(None, [config.reference])]:
        if other not in classes:
            raise ConfigurationError(
                f"train.sampling: the target {name!r} has no class {other!r}"
                f"{did_you_mean(other, classes)}"
            )
    return classes
