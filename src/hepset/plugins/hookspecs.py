"""What a plugin provides: one hook, which returns a record for each component.

A plugin is a module that an installed distribution names in the entry-point group
``hepset.plugins``::

    from hepset import Component, hookimpl

    hepset_interface = 2


    @hookimpl
    def hepset_components() -> list[Component]:
        return [Component("readers", "npz", "hepset_counts.reader:NpzReader", "NumPy files.")]

Nothing is imported until somebody looks the name up, so a plugin module itself should import
nothing heavy. The module states the version of this interface that it was written for; a plugin
that states none is taken to be written for version 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import pluggy

from hepset.errors import PluginError, did_you_mean
from hepset.plugins.kinds import FORMER_HOOKS, KINDS

PROJECT = "hepset"
"""The name by which pluggy knows the program, and the prefix of every hook."""

INTERFACE = 2
"""The version of this interface; it grows when plugins written for it need a newer hepset."""

ENTRY_POINT_GROUP = "hepset.plugins"
"""Where a distribution lists its plugin modules."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@dataclass(frozen=True)
class Component:
    """One component of a plugin.

    Raises:
        PluginError: If there is no such kind, or name or reference cannot be used.
    """

    kind: str
    """What sort of component it is, a key of `hepset.plugins.KINDS`: ``"readers"``."""
    name: str
    """What users write in a configuration: letters, digits, ``-``, ``_`` and ``.``."""
    reference: object
    """Where it is, ``"module:attribute"``; or the component itself where available, as in a
    test."""
    summary: str = ""
    """What it is, in one short sentence, shown in lists without importing it."""

    def __post_init__(self) -> None:
        """Refuse what no configuration could name and no import could find."""
        if self.kind not in KINDS:
            hint = did_you_mean(str(self.kind), KINDS)
            raise PluginError(f"there is no kind of component {self.kind!r}{hint}")
        if not _NAME.fullmatch(str(self.name)):
            raise PluginError(
                f"{self.kind} has the name {self.name!r}; names are letters, digits, '-', '_' "
                "and '.'"
            )
        if isinstance(self.reference, str) and not _REFERENCE.fullmatch(self.reference):
            raise PluginError(
                f"{self.kind} gives {self.reference!r} for {self.name!r}, which is not "
                "'module:attribute'"
            )
        if "\n" in self.summary:
            raise PluginError(f"the summary of {self.name!r} ({self.kind}) is not one line")


@hookspec
def hepset_components() -> Iterable[Component]:  # type: ignore[empty-body]
    """Name the components of this plugin.

    Called once, when the installed plugins are first needed. The core and plugins implement it.

    Returns:
        A record for each component, of any kind and in any order.
    """


FormerHooks = type(
    "FormerHooks", (), {hook: staticmethod(hookspec(lambda: None)) for hook in FORMER_HOOKS}
)
"""Hooks of interface 1 for pluggy; they still work, with a `DeprecationWarning`."""
