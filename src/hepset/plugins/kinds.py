"""The kinds of component that a plugin may provide, as one table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class Kind:
    """What sort of component it is, for messages and pages."""

    singular: str
    """The noun for one of them."""
    used: str
    """Where users write its name."""
    base: str
    """What a component of this kind is: ``"module:Class"`` of the class that it derives from or
    is an instance of."""


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "readers": Kind("reader", "read.reader", "hepset.interfaces.reader:Reader"),
        "writers": Kind(
            "writer", "hepset predict --writer NAME", "hepset.interfaces.writer:Writer"
        ),
        "backbones": Kind("backbone", "model.backbone.name", "hepset.interfaces.backbone:Backbone"),
        "heads": Kind("head", "model.heads.<head>.name", "hepset.interfaces.head:Head"),
        "dialects": Kind("dialect", "event.dialect", "hepset.interfaces.dialect:Dialect"),
        "commands": Kind("command", "hepset NAME", "click:Command"),
        "engines": Kind("engine", "execution.convert.engine", "hepset.interfaces.engine:Engine"),
        "functions": Kind(
            "function",
            "NAME(…) in prepare.select and prepare.derive",
            "hepset.expressions.functions:Function",
        ),
        "optimizers": Kind("optimizer", "train.optimizer", "torch.optim:Optimizer"),
        "export_layouts": Kind(
            "export layout", "hepset export --layout NAME", "hepset.export.layouts:ExportLayout"
        ),
        "callbacks": Kind("callback", "train.callbacks", "lightning.pytorch.callbacks:Callback"),
        "loss_combinations": Kind(
            "loss combination",
            "train.loss_combination",
            "hepset.interfaces.loss_combination:LossCombination",
        ),
        "judges": Kind("judge", "kind of a head's prediction", "hepset.interfaces.judge:Judge"),
        "transform_steps": Kind(
            "transform step", "transform of a feature", "hepset.schema.steps:Curve"
        ),
    }
)
"""Kind, as a `hepset.plugins.Component` states it, to what it is."""

FORMER_HOOKS: Mapping[str, str] = MappingProxyType(
    {
        f"hepset_{kind}": kind
        for kind in (
            "readers",
            "writers",
            "backbones",
            "heads",
            "dialects",
            "commands",
            "engines",
            "functions",
            "optimizers",
            "export_layouts",
        )
    }
)
"""Hooks of interface 1, one a kind: each returned ``{name: "module:attribute"}``."""
