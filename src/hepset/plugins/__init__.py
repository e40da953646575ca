"""What is installed: components by kind and name, from the core and from every plugin.

``registry().load("readers", "root")`` gives the class, ``registry().names("heads")`` what there is.
"""

from __future__ import annotations

from hepset.plugins.hookspecs import INTERFACE, Component, hookimpl
from hepset.plugins.kinds import KINDS, Kind
from hepset.plugins.manager import Conflict, FailedPlugin, Plugin, Plugins, registry

__all__ = [
    "INTERFACE",
    "KINDS",
    "Component",
    "Conflict",
    "FailedPlugin",
    "Kind",
    "Plugin",
    "Plugins",
    "hookimpl",
    "registry",
]
