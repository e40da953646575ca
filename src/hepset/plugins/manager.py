"""Find the installed plugins, keep the ones that work, look components up by kind and name."""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points, version
from typing import Any

import pluggy

from hepset.errors import (
    ConfigurationError,
    PluginConflictError,
    PluginError,
    UnknownComponentError,
    closest,
    did_you_mean,
)
from hepset.plugins import builtin, hookspecs
from hepset.plugins.hookspecs import ENTRY_POINT_GROUP, INTERFACE, KINDS, PROJECT, Kind
from hepset.plugins.known import DISTRIBUTION_OF

SELECTION_VARIABLE = "HEPSET_PLUGINS"
"""Environment variable: a comma-separated list of the only plugins to load; empty for none."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
_HOOK_PREFIX = f"{PROJECT}_"


@dataclass(frozen=True)
class Plugin:
    """A plugin that works."""

    name: str
    """The name of its entry point."""
    distribution: str
    """What was installed with pip."""
    version: str
    """The version of the distribution."""
    components: Mapping[Kind, Mapping[str, object]]
    """What it provides: kind, then name, to ``"module:attribute"`` or the object itself."""

    @property
    def origin(self) -> str:
        """The plugin with its distribution and version, for messages."""
        return f"plugin {self.name!r} ({self.distribution} {self.version})"


@dataclass(frozen=True)
class FailedPlugin:
    """A plugin that could not be loaded; everything else goes on without it."""

    name: str
    """The name of its entry point."""
    distribution: str
    """What was installed with pip."""
    version: str
    """The version of the distribution."""
    reason: str
    """What went wrong, in one line."""

    def __str__(self) -> str:
        """Return one line for messages."""
        return (
            f"plugin {self.name!r} ({self.distribution} {self.version}) could not be loaded: "
            f"{self.reason}"
        )


@dataclass(frozen=True)
class Conflict:
    """A name that more than one plugin claims for the same kind of component."""

    kind: Kind
    """What sort of component it is."""
    name: str
    """The name in question."""
    plugins: tuple[Plugin, ...]
    """Who claims it, two or more, in the order they were loaded."""

    def __str__(self) -> str:
        """Return the message of the error."""
        claims = " and ".join(plugin.origin for plugin in self.plugins)
        return (
            f"the {_singular(self.kind)} {self.name!r} is claimed by {claims}; "
            f"uninstall one, or name the plugins to load in {SELECTION_VARIABLE}"
        )


class Plugins:
    """The plugins of one process: which work, which failed and why, and what they provide.

    The core's own components are always there, from a plugin like any other. The installed ones
    follow in the order of their names. One that cannot be loaded is remembered in `failed` and
    stops nothing else.

    Args:
        names: The only installed plugins to load. None takes the list from the environment
            variable ``HEPSET_PLUGINS``, or every plugin where that is not set.

    Raises:
        ConfigurationError: If a plugin named in `names` or the variable is not installed.
    """

    def __init__(self, names: Iterable[str] | None = None) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(hookspecs)
        self._loaded: dict[str, Plugin] = {}
        self._failed: list[FailedPlugin] = []
        self._left_out: set[str] = set()
        self.register(builtin, name="hepset", distribution="hepset", version=version("hepset"))
        self._discover(_selection(names))

    @property
    def loaded(self) -> tuple[Plugin, ...]:
        """The plugins that work, the core first."""
        return tuple(self._loaded.values())

    @property
    def failed(self) -> tuple[FailedPlugin, ...]:
        """The plugins that could not be loaded."""
        return tuple(self._failed)

    def register(
        self, plugin: object, *, name: str, distribution: str = "", version: str = ""
    ) -> Plugin:
        """Add a plugin that is already imported, as a test does.

        Args:
            plugin: A module, or an object, with implementations of the hooks.
            name: What to call it; it must be free.
            distribution: The distribution it came with; `name` if empty.
            version: The version of the distribution; ``0`` if empty.

        Returns:
            The plugin with what it provides.

        Raises:
            PluginError: If the plugin breaks a rule; nothing of it is kept.
        """
        if name in self._loaded:
            msg = f"there are two plugins named {name!r}; the first is {self._loaded[name].origin}"
            raise PluginError(msg)
        _check_interface(plugin)
        self._check_hooks(plugin)
        try:
            self._manager.register(plugin, name)
            components = self._ask(plugin)
        except BaseException:
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)
            raise
        self._loaded[name] = Plugin(name, distribution or name, version or "0", components)
        return self._loaded[name]

    def unregister(self, name: str) -> None:
        """Forget a plugin that was registered.

        Args:
            name: The name it was registered under.

        Raises:
            PluginError: If no plugin has this name.
        """
        if name not in self._loaded:
            msg = f"there is no plugin named {name!r}{did_you_mean(name, self._loaded)}"
            raise PluginError(msg)
        del self._loaded[name]
        self._manager.unregister(name=name)

    def names(self, kind: Kind) -> tuple[str, ...]:
        """List the names of one kind of component, sorted."""
        _check_kind(kind)
        return tuple(sorted({name for plugin in self.loaded for name in plugin.components[kind]}))

    def provider(self, kind: Kind, name: str) -> Plugin:
        """Find the one plugin that provides a component.

        Args:
            kind: What sort of component, for example ``"readers"``.
            name: Its short name, as in a configuration.

        Returns:
            The plugin.

        Raises:
            UnknownComponentError: If no plugin provides it. The message has the nearest name,
                the distribution to install where it is known, and the plugins that failed.
            PluginConflictError: If more than one plugin claims the name.
        """
        _check_kind(kind)
        found = tuple(plugin for plugin in self.loaded if name in plugin.components[kind])
        if not found:
            raise UnknownComponentError(self._unknown(kind, name))
        if len(found) > 1:
            raise PluginConflictError(str(Conflict(kind, name, found)))
        return found[0]

    def load(self, kind: Kind, name: str) -> Any:  # noqa: ANN401 - the kind says what it is
        """Import a component.

        Args:
            kind: What sort of component, for example ``"readers"``.
            name: Its short name, as in a configuration.

        Returns:
            The component: a class for most kinds.

        Raises:
            UnknownComponentError: If no plugin provides it.
            PluginConflictError: If more than one plugin claims the name.
            PluginError: If the module that holds it cannot be imported, or does not hold it.
        """
        plugin = self.provider(kind, name)
        component = plugin.components[kind][name]
        if not isinstance(component, str):
            return component
        module, _, attribute = component.partition(":")
        try:
            return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
        except Exception as error:
            msg = (
                f"{plugin.origin} provides the {_singular(kind)} {name!r}, but {component!r} "
                f"cannot be imported: {_one_line(error)}"
            )
            raise PluginError(msg) from error

    def conflicts(self) -> tuple[Conflict, ...]:
        """List every name that more than one plugin claims."""
        found = []
        for kind in KINDS:
            for name in self.names(kind):
                claims = tuple(plugin for plugin in self.loaded if name in plugin.components[kind])
                if len(claims) > 1:
                    found.append(Conflict(kind, name, claims))
        return tuple(found)

    def table(self) -> dict[str, object]:
        """Describe everything in plain data, ready for JSON.

        Returns:
            ``interface``, and lists ``plugins`` (name, distribution, version, provides),
            ``failed`` (name, distribution, version, reason), ``conflicts`` (kind, name,
            distributions) and ``left_out`` (names that the selection excludes).
        """
        return {
            "interface": INTERFACE,
            "plugins": [
                {
                    "name": plugin.name,
                    "distribution": plugin.distribution,
                    "version": plugin.version,
                    "provides": {
                        kind: sorted(names) for kind, names in plugin.components.items() if names
                    },
                }
                for plugin in self.loaded
            ],
            "failed": [
                {
                    "name": failed.name,
                    "distribution": failed.distribution,
                    "version": failed.version,
                    "reason": failed.reason,
                }
                for failed in self.failed
            ],
            "conflicts": [
                {
                    "kind": conflict.kind,
                    "name": conflict.name,
                    "distributions": [plugin.distribution for plugin in conflict.plugins],
                }
                for conflict in self.conflicts()
            ],
            "left_out": sorted(self._left_out),
        }

    def _discover(self, selection: set[str] | None) -> None:
        """Load the installed plugins, each on its own."""
        installed = sorted(
            entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: (entry.name, _owner(entry))
        )
        for name in sorted(selection or ()):
            known = {entry.name for entry in installed}
            if name not in known:
                msg = (
                    f"{SELECTION_VARIABLE} or the `names` argument asks for the plugin {name!r}, "
                    f"which is not installed{did_you_mean(name, known)}"
                )
                raise ConfigurationError(msg)
        for entry in installed:
            if selection is not None and entry.name not in selection:
                self._left_out.add(entry.name)
                continue
            distribution, number = _owner(entry)
            try:
                self.register(
                    entry.load(), name=entry.name, distribution=distribution, version=number
                )
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin may fail in any way
                self._failed.append(
                    FailedPlugin(entry.name, distribution, number, _one_line(error))
                )

    def _check_hooks(self, plugin: object) -> None:
        """Refuse hooks that do not exist, and hooks that were not marked."""
        known = [_HOOK_PREFIX + kind for kind in KINDS]
        for name in dir(plugin):
            marked = self._manager.parse_hookimpl_opts(plugin, name) is not None
            if marked and name not in known:
                msg = f"unknown hook {name!r}{did_you_mean(name, known)}"
                raise PluginError(msg)
            if not marked and name in known and inspect.isroutine(getattr(plugin, name)):
                msg = f"{name!r} is not marked as a hook; put @hookimpl above it"
                raise PluginError(msg)

    def _ask(self, plugin: object) -> dict[Kind, dict[str, object]]:
        """Call the hooks of one plugin and check what they return."""
        others = [other for other in self._manager.get_plugins() if other is not plugin]
        components: dict[Kind, dict[str, object]] = {}
        for kind in KINDS:
            hook = _HOOK_PREFIX + kind
            components[kind] = {}
            for answer in self._manager.subset_hook_caller(hook, others)():
                components[kind].update(_checked(hook, answer))
        return components

    def _unknown(self, kind: Kind, name: str) -> str:
        """Say that nothing provides a component, and what the user can do."""
        available = self.names(kind)
        known = {other for of_kind, other in DISTRIBUTION_OF if of_kind == kind}
        what = _singular(kind)
        message = f"no installed plugin provides the {what} {name!r}"
        if name in known:
            message += "; " + self._how_to_get(DISTRIBUTION_OF[kind, name])
        else:
            nearest = closest(name, {*available, *known}, count=1)
            if nearest:
                message += f"; did you mean {nearest[0]!r}?"
                if nearest[0] not in available:
                    message += " " + self._how_to_get(DISTRIBUTION_OF[kind, nearest[0]])
        lines = [message, f"available {_plural(kind)}: {', '.join(available) or 'none'}"]
        lines += [str(failed) for failed in self.failed]
        return "\n  ".join(lines)

    def _how_to_get(self, distribution: str) -> str:
        """Say how to get what a distribution of the hepset family provides."""
        if any(distribution == failed.distribution for failed in self.failed):
            return f"{distribution} should provide it, but could not be loaded"
        if distribution.removeprefix("hepset-") in self._left_out:
            return f"{distribution} is installed, but {SELECTION_VARIABLE} leaves it out"
        for plugin in self.loaded:
            if plugin.distribution == distribution:
                return (
                    f"{distribution} provides it, but not in the installed version "
                    f"{plugin.version}: pip install --upgrade {distribution}"
                )
        return f"{distribution} provides it: pip install {distribution}"


@functools.cache
def registry() -> Plugins:
    """Return the plugins of this process, found when first needed."""
    return Plugins()


def load(kind: Kind, name: str) -> Any:  # noqa: ANN401 - the kind says what it is
    """Import a component by kind and short name; see `Plugins.load`."""
    return registry().load(kind, name)


def names(kind: Kind) -> tuple[str, ...]:
    """List the names of one kind of component, sorted."""
    return registry().names(kind)


def table() -> dict[str, object]:
    """Describe the installed plugins in plain data; see `Plugins.table`."""
    return registry().table()


def _selection(names: Iterable[str] | None) -> set[str] | None:
    """Return the only plugins to load, or None for all of them."""
    if names is not None:
        return set(names)
    text = os.environ.get(SELECTION_VARIABLE)
    if text is None:
        return None
    return {name.strip() for name in text.split(",") if name.strip()}


def _owner(entry: EntryPoint) -> tuple[str, str]:
    """Return the distribution of an entry point and its version."""
    if entry.dist is None:
        return ("unknown distribution", "0")
    return (entry.dist.name, entry.dist.version)


def _check_interface(plugin: object) -> None:
    """Refuse a plugin that was written for a later hepset."""
    stated = getattr(plugin, "hepset_interface", 1)
    if not isinstance(stated, int) or isinstance(stated, bool) or stated < 1:
        msg = f"hepset_interface is {stated!r}, not a positive integer"
        raise PluginError(msg)
    if stated > INTERFACE:
        msg = (
            f"it was written for plugin interface {stated}, and hepset {version('hepset')} has "
            f"{INTERFACE}; upgrade hepset: pip install --upgrade hepset"
        )
        raise PluginError(msg)


def _check_kind(kind: str) -> None:
    """Refuse a kind that does not exist, a mistake of the calling code."""
    if kind not in KINDS:
        msg = f"there is no kind of component {kind!r}{did_you_mean(kind, KINDS)}"
        raise ValueError(msg)


def _checked(hook: str, answer: object) -> Mapping[str, object]:
    """Return what a hook answered if it is a mapping of usable names to usable references."""
    if not isinstance(answer, Mapping):
        msg = f"{hook} returned {type(answer).__name__}, not a mapping of names"
        raise PluginError(msg)
    for name, component in answer.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            msg = f"{hook} gives the name {name!r}; names are letters, digits, '-', '_' and '.'"
            raise PluginError(msg)
        if isinstance(component, str) and not _REFERENCE.fullmatch(component):
            msg = f"{hook} gives {component!r} for {name!r}, which is not 'module:attribute'"
            raise PluginError(msg)
    return answer


def _one_line(error: BaseException) -> str:
    """Return an error as one line: its own message if it is ours, with its type if not."""
    text = " ".join(str(error).split())
    return text if isinstance(error, PluginError) else f"{type(error).__name__}: {text}"


def _singular(kind: Kind) -> str:
    """Return the noun for one component of a kind."""
    return kind.removesuffix("s").replace("_", " ")


def _plural(kind: Kind) -> str:
    """Return the noun for the components of a kind."""
    return kind.replace("_", " ")
