"""What is installed: components by kind and name, from the core and from every plugin.

``plugins.load("readers", "root")`` gives the class, ``plugins.names("heads")`` what there is.
"""

from __future__ import annotations

from hepset.plugins.hookspecs import INTERFACE, KINDS, Kind, hookimpl
from hepset.plugins.manager import (
    Conflict,
    FailedPlugin,
    Plugin,
    Plugins,
    load,
    names,
    registry,
    table,
)

__all__ = [
    "INTERFACE",
    "KINDS",
    "Conflict",
    "FailedPlugin",
    "Kind",
    "Plugin",
    "Plugins",
    "hookimpl",
    "load",
    "names",
    "registry",
    "table",
]
