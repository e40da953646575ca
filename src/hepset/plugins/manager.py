"""Find the installed plugins, keep the ones that work, look components up by kind and name."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import EntryPoint, entry_points, version
from importlib.resources import files
from typing import Any

import pluggy

from hepset.errors import (
    ConfigurationError,
    HepsetError,
    PluginConflictError,
    PluginError,
    UnknownComponentError,
    closest,
    did_you_mean,
)
from hepset.plugins import builtin, hookspecs
from hepset.plugins.hookspecs import ENTRY_POINT_GROUP, INTERFACE, PROJECT, Component
from hepset.plugins.kinds import FORMER_HOOKS, KINDS

SELECTION_VARIABLE = "HEPSET_PLUGINS"
"""Environment variable: a comma-separated list of the only plugins to load; empty for none."""

_HOOKS = ("hepset_components", *FORMER_HOOKS)


@dataclass(frozen=True)
class Plugin:
    """A plugin that works."""

    name: str
    """The name of its entry point."""
    distribution: str
    """What was installed with pip."""
    version: str
    """The version of the distribution."""
    components: tuple[Component, ...] = ()
    """What it provides."""

    def of_kind(self, kind: str) -> dict[str, Component]:
        """Return its components of one kind, by name."""
        return {found.name: found for found in self.components if found.kind == kind}

    def __str__(self) -> str:
        """Return the plugin with its distribution and version, for messages."""
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

    kind: str
    """What sort of component it is."""
    name: str
    """The name in question."""
    plugins: tuple[Plugin, ...]
    """Who claims it, two or more, in the order they were loaded."""

    def __str__(self) -> str:
        """Return the message of the error."""
        claims = " and ".join(map(str, self.plugins))
        return (
            f"the {KINDS[self.kind].singular} {self.name!r} is claimed by {claims}; "
            f"uninstall one, or name the plugins to load in {SELECTION_VARIABLE}"
        )


class Plugins:
    """The plugins that were found, and what they provide.

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
        self._manager.add_hookspecs(hookspecs.FormerHooks)
        self._loaded: dict[str, Plugin] = {}
        self._failed: list[FailedPlugin] = []
        self._left_out: dict[str, str] = {}
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

    @property
    def left_out(self) -> tuple[str, ...]:
        """Names of the installed plugins that the selection leaves out."""
        return tuple(sorted(self._left_out))

    def register(
        self, plugin: object, *, name: str, distribution: str = "", version: str = ""
    ) -> Plugin:
        """Add a plugin that is already imported, as a test does.

        Args:
            plugin: A module, or an object, with an implementation of the hook.
            name: What to call it; it must be free.
            distribution: The distribution it came with; `name` if empty.
            version: The version of the distribution; ``0`` if empty.

        Returns:
            The plugin with what it provides.

        Raises:
            PluginError: If the plugin breaks a rule; nothing of it is kept.
        """
        if name in self._loaded:
            raise PluginError(
                f"there are two plugins named {name!r}; the first is {self._loaded[name]}"
            )
        _check_interface(plugin)
        self._check_hooks(plugin)
        found = Plugin(name, distribution or name, version or "0")
        try:
            self._manager.register(plugin, name)
            components = tuple(self._ask(found, plugin))
        except BaseException:
            if self._manager.has_plugin(name):
                self._manager.unregister(name=name)
            raise
        self._loaded[name] = Plugin(name, found.distribution, found.version, components)
        return self._loaded[name]

    def unregister(self, name: str) -> None:
        """Forget a plugin that was registered.

        Args:
            name: The name it was registered under.

        Raises:
            PluginError: If no plugin has this name.
        """
        if name not in self._loaded:
            raise PluginError(
                f"there is no plugin named {name!r}{did_you_mean(name, self._loaded)}"
            )
        del self._loaded[name]
        self._manager.unregister(name=name)

    def names(self, kind: str) -> tuple[str, ...]:
        """List the names of one kind of component, sorted."""
        _check_kind(kind)
        return tuple(sorted({name for plugin in self.loaded for name in plugin.of_kind(kind)}))

    def provider(self, kind: str, name: str, where: str = "") -> Plugin:
        """Find the one plugin that provides a component.

        Args:
            kind: What sort of component, for example ``"readers"``.
            name: Its short name, as in a configuration.
            where: The place of the name, for messages.

        Returns:
            The plugin.

        Raises:
            UnknownComponentError: If no plugin provides it. The message has the nearest name,
                the distribution to install where it is known, and the plugins that failed.
            PluginConflictError: If more than one plugin claims the name.
        """
        _check_kind(kind)
        found = self._claims(kind, name)
        place = f"{where}: " if where else ""
        if not found:
            raise UnknownComponentError(place + self._unknown(kind, name))
        if len(found) > 1:
            raise PluginConflictError(place + str(Conflict(kind, name, found)))
        return found[0]

    def load(self, kind: str, name: str, where: str = "") -> Any:  # noqa: ANN401 - the kind says what it is
        """Import a component.

        Args:
            kind: What sort of component, for example ``"readers"``.
            name: Its short name, as in a configuration.
            where: The place of the name, for messages.

        Returns:
            The component: a class for most kinds.

        Raises:
            UnknownComponentError: If no plugin provides it.
            PluginConflictError: If more than one plugin claims the name.
            PluginError: If the module that holds it cannot be imported, or does not hold it.
        """
        plugin = self.provider(kind, name, where)
        reference = plugin.of_kind(kind)[name].reference
        if not isinstance(reference, str):
            return reference
        module, _, attribute = reference.partition(":")
        try:
            return functools.reduce(getattr, attribute.split("."), importlib.import_module(module))
        except Exception as error:
            raise PluginError(
                f"{plugin} provides the {KINDS[kind].singular} {name!r}, but {reference!r} "
                f"cannot be imported: {_one_line(error)}"
            ) from error

    def choose(
        self, kind: str, options: str | Mapping[str, Any], where: str, *, key: str = "name"
    ) -> tuple[Any, dict[str, Any]]:
        """Import the component that a part of a configuration names.

        Args:
            kind: What sort of component, for example ``"heads"``.
            options: The name with the component's own options flat beside it, or the name alone.
            where: The place of the options, for messages: ``model.heads.origin``.
            key: The option that holds the name.

        Returns:
            The component, and the options without the name.

        Raises:
            ConfigurationError: If the options do not say which component it is.
            UnknownComponentError: If no plugin provides it.
        """
        given = {key: options} if isinstance(options, str) else options
        name = given.get(key)
        if not isinstance(name, str):
            raise ConfigurationError(
                f"{where}: {key!r} is missing or not a string; available "
                f"{kind.replace('_', ' ')}: {', '.join(self.names(kind)) or 'none'}"
            )
        rest = {option: value for option, value in given.items() if option != key}
        return self.load(kind, name, where), rest

    def configure(
        self, kind: str, options: str | Mapping[str, Any], where: str, *, key: str = "name"
    ) -> tuple[Any, Any]:
        """Import the component that a part of a configuration names, and check its options.

        Args:
            kind: What sort of component; its classes have a model ``Config`` of their options.
            options: As for `choose`.
            where: As for `choose`.
            key: As for `choose`.

        Returns:
            The class, and its ``Config``.

        Raises:
            ConfigurationError: Naming every option that does not fit.
            UnknownComponentError: If no plugin provides it.
        """
        component, rest = self.choose(kind, options, where, key=key)
        return component, component.Config.parse(rest, where, ConfigurationError)

    def create(
        self,
        kind: str,
        options: str | Mapping[str, Any],
        where: str,
        *arguments: object,
        key: str = "name",
    ) -> Any:  # noqa: ANN401 - the kind says what it is
        """Build the component that a part of a configuration names.

        A class with a model ``Config`` is called with `arguments` and its checked options, any
        other with `arguments` and the options as keywords.

        Args:
            kind: What sort of component, for example ``"heads"``.
            options: As for `choose`.
            where: As for `choose`.
            arguments: What the class takes before its options.
            key: As for `choose`.

        Raises:
            ConfigurationError: If an option does not fit.
            UnknownComponentError: If no plugin provides it.
        """
        component, rest = self.choose(kind, options, where, key=key)
        if hasattr(component, "Config"):
            return component(*arguments, component.Config.parse(rest, where, ConfigurationError))
        try:
            return component(*arguments, **rest)
        except HepsetError:
            raise
        except (TypeError, ValueError) as problem:
            name = options if isinstance(options, str) else options[key]
            raise ConfigurationError(f"{where}: {name}: {problem}") from None

    def conflicts(self) -> tuple[Conflict, ...]:
        """List every name that more than one plugin claims."""
        claims = {
            (kind, name): self._claims(kind, name) for kind in KINDS for name in self.names(kind)
        }
        return tuple(Conflict(*what, who) for what, who in claims.items() if len(who) > 1)

    def table(self) -> dict[str, object]:
        """Describe everything in plain data, ready for JSON.

        Returns:
            ``interface``, and lists ``plugins`` (name, distribution, version, provides: names by
            kind, components: kind, name, summary), ``failed`` (name, distribution, version,
            reason), ``conflicts`` (kind, name, distributions) and ``left_out`` (names that the
            selection excludes).
        """
        return {
            "interface": INTERFACE,
            "plugins": [
                {
                    "name": plugin.name,
                    "distribution": plugin.distribution,
                    "version": plugin.version,
                    "provides": {
                        kind: sorted(names) for kind in KINDS if (names := plugin.of_kind(kind))
                    },
                    "components": [
                        {"kind": one.kind, "name": one.name, "summary": one.summary}
                        for one in plugin.components
                    ],
                }
                for plugin in self.loaded
            ],
            "failed": [asdict(failed) for failed in self.failed],
            "conflicts": [
                {
                    "kind": conflict.kind,
                    "name": conflict.name,
                    "distributions": [plugin.distribution for plugin in conflict.plugins],
                }
                for conflict in self.conflicts()
            ],
            "left_out": list(self.left_out),
        }

    def _discover(self, selection: set[str] | None) -> None:
        """Load the installed plugins, each on its own."""
        installed = sorted(
            entry_points(group=ENTRY_POINT_GROUP), key=lambda entry: (entry.name, _owner(entry))
        )
        known = {entry.name for entry in installed}
        for name in sorted((selection or set()) - known):
            raise ConfigurationError(
                f"{SELECTION_VARIABLE} or the `names` argument asks for the plugin {name!r}, "
                f"which is not installed{did_you_mean(name, known)}"
            )
        for entry in installed:
            owner, number = _owner(entry)
            if selection is not None and entry.name not in selection:
                self._left_out[entry.name] = owner
                continue
            try:
                self.register(entry.load(), name=entry.name, distribution=owner, version=number)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a plugin may fail in any way
                self._failed.append(FailedPlugin(entry.name, owner, number, _one_line(error)))

    def _check_hooks(self, plugin: object) -> None:
        """Refuse hooks that do not exist, and hooks that were not marked."""
        for name in dir(plugin):
            marked = self._manager.parse_hookimpl_opts(plugin, name) is not None
            if marked and name not in _HOOKS:
                raise PluginError(f"unknown hook {name!r}{did_you_mean(name, _HOOKS)}")
            if not marked and name in _HOOKS and inspect.isroutine(getattr(plugin, name)):
                raise PluginError(f"{name!r} is not marked as a hook; put @hookimpl above it")

    def _ask(self, found: Plugin, plugin: object) -> Iterator[Component]:
        """Call the hooks of one plugin and check what they return."""
        former = []
        for caller in self._manager.get_hookcallers(plugin) or ():
            (answer,) = (
                hook.function() for hook in caller.get_hookimpls() if hook.plugin is plugin
            )
            if caller.name in FORMER_HOOKS:
                former.append(caller.name)
                yield from _of_former_hook(caller.name, answer)
                continue
            if not isinstance(answer, Iterable):
                raise PluginError(f"{caller.name} returned {type(answer).__name__}, not a list")
            for component in answer:
                if not isinstance(component, Component):
                    raise PluginError(
                        f"{caller.name} lists {component!r}, which is not a hepset.Component"
                    )
                yield component
        if former:
            warnings.warn(
                f"{found} uses {', '.join(former)}; one hook replaces them: hepset_components "
                "returns a list of hepset.Component(kind, name, reference, summary)",
                DeprecationWarning,
                stacklevel=2,
            )

    def _claims(self, kind: str, name: str) -> tuple[Plugin, ...]:
        """Return the plugins that provide a component of this name."""
        return tuple(plugin for plugin in self.loaded if name in plugin.of_kind(kind))

    def _unknown(self, kind: str, name: str) -> str:
        """Say that nothing provides a component, and what the user can do."""
        available = self.names(kind)
        known = {
            other: distribution
            for distribution, provides in first_party().items()
            for other in provides.get(kind, ())
        }
        message = f"no installed plugin provides the {KINDS[kind].singular} {name!r}"
        if name in known:
            message += "; " + self._how_to_get(known[name])
        else:
            nearest = closest(name, {*available, *known}, count=1)
            if nearest:
                message += f"; did you mean {nearest[0]!r}?"
                if nearest[0] not in available:
                    message += " " + self._how_to_get(known[nearest[0]])
        plural = kind.replace("_", " ")
        lines = [message, f"available {plural}: {', '.join(available) or 'none'}"]
        return "\n  ".join([*lines, *map(str, self.failed)])

    def _how_to_get(self, distribution: str) -> str:
        """Say how to get what a distribution of the hepset family provides."""
        if any(distribution == failed.distribution for failed in self.failed):
            return f"{distribution} should provide it, but could not be loaded"
        if distribution in self._left_out.values():
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


def first_party() -> dict[str, dict[str, list[str]]]:
    """Return what the distributions of the hepset family provide: distribution, kind, names."""
    text = files("hepset.plugins").joinpath("first_party.json").read_text(encoding="utf-8")
    found: dict[str, dict[str, list[str]]] = json.loads(text)
    return found


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
        raise PluginError(f"hepset_interface is {stated!r}, not a positive integer")
    if stated > INTERFACE:
        raise PluginError(
            f"it was written for plugin interface {stated}, and hepset {version('hepset')} has "
            f"{INTERFACE}; upgrade hepset: pip install --upgrade hepset"
        )


def _check_kind(kind: str) -> None:
    """Refuse a kind that does not exist, a mistake of the calling code."""
    if kind not in KINDS:
        raise ValueError(f"there is no kind of component {kind!r}{did_you_mean(kind, KINDS)}")


def _of_former_hook(hook: str, answer: object) -> Iterator[Component]:
    """Turn what a hook of interface 1 returned into records."""
    if not isinstance(answer, Mapping):
        raise PluginError(f"{hook} returned {type(answer).__name__}, not a mapping of names")
    for name, reference in answer.items():
        yield Component(FORMER_HOOKS[hook], name, reference)


def _one_line(error: BaseException) -> str:
    """Return an error as one line: its own message if it is ours, with its type if not."""
    text = " ".join(str(error).split())
    return text if isinstance(error, PluginError) else f"{type(error).__name__}: {text}"
