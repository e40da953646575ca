"""What a plugin may provide: one hook for each kind of component.

A plugin is a module that an installed distribution names in the entry-point group
``hepset.plugins``. It implements any of the hooks below with `hookimpl`. Every hook takes nothing
and returns a mapping from the short name that users write in a configuration to where the
component is, ``"module:attribute"``. Nothing is imported until somebody looks the name up, so a
plugin module itself should import nothing heavy. Where a component is at hand anyway, as in a
test, the mapping may hold the object instead of the text.

The module states the version of this interface that it was written for::

    hepset_interface = 1

A plugin that states none is taken to be written for version 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import pluggy

PROJECT = "hepset"
"""The name by which pluggy knows the program, and the prefix of every hook."""

INTERFACE = 1
"""The version of this interface; it grows when plugins written for the last one would break."""

ENTRY_POINT_GROUP = "hepset.plugins"
"""Where a distribution lists its plugin modules."""

Kind = Literal[
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
]

KINDS: tuple[Kind, ...] = get_args(Kind)
"""The kinds of component; the hook of a kind is ``hepset_<kind>``."""

Components = Mapping[str, object]
"""Short name to ``"module:attribute"``, or to the component itself."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def hepset_readers() -> Components:  # type: ignore[empty-body]
    """Name the readers, subclasses of `hepset.Reader`: files or generators into event batches.

    Called once, when the installed plugins are first needed. Core and plugins may implement it.

    Returns:
        ``{name: "module:attribute"}``; users write the name as ``read.reader``.
    """


@hookspec
def hepset_writers() -> Components:  # type: ignore[empty-body]
    """Name the writers, subclasses of `hepset.Writer`: event batches into somebody's files.

    Called once, when the installed plugins are first needed. Core and plugins may implement it.

    Returns:
        ``{name: "module:attribute"}``; users write the name as ``hepset predict --writer NAME``.
    """


@hookspec
def hepset_backbones() -> Components:  # type: ignore[empty-body]
    """Name the backbones, subclasses of `hepset.Backbone`: inputs into embeddings.

    Called once, when the installed plugins are first needed. Core and plugins may implement it.

    Returns:
        ``{name: "module:attribute"}``; users write the name as ``model.backbone.name``.
    """


@hookspec
def hepset_heads() -> Components:  # type: ignore[empty-body]
    """Name the heads, subclasses of `hepset.Head`: embeddings into physics predictions.

    Called once, when the installed plugins are first needed. Core and plugins may implement it.

    Returns:
        ``{name: "module:attribute"}``; users write the name as ``model.heads.<head>.name``.
    """


@hookspec
def hepset_dialects() -> Components:  # type: ignore[empty-body]
    """Name the dialects, subclasses of `hepset.interfaces.Dialect`: event files into `EventInfo`.

    Each dialect recognises its files by content, so users need the name only where two could
    claim a file. Called once, when the installed plugins are first needed. Core and plugins may
    implement it.

    Returns:
        ``{name: "module:attribute"}``; users write the name as ``event.dialect``.
    """


@hookspec
def hepset_commands() -> Components:  # type: ignore[empty-body]
    """Name commands of the command line, `click.Command` objects.

    Called once, when an unknown command is typed or the list of commands is shown. Core and
    plugins may implement it.

    Returns:
        ``{name: "module:attribute"}``; users type ``hepset <name>``.
    """


@hookspec
def hepset_engines() -> Components:  # type: ignore[empty-body]
    """Name the engines, subclasses of `hepset.interfaces.Engine`: they run independent tasks.

    Called once, when the installed plugins are first needed. Core and plugins may implement it.

    Returns:
        ``{name: "module:attribute"}``; users write the name as ``execution.convert.engine``.
    """


@hookspec
def hepset_functions() -> Components:  # type: ignore[empty-body]
    """Name functions that selections and derived features may call.

    Each is a `hepset.expressions.functions.Function` over numpy arrays. Called once, when the
    installed plugins are first needed. Core and plugins may implement it.

    Returns:
        ``{name: "module:attribute"}``; users write ``name(...)`` in ``prepare.select`` and
        ``prepare.derive``.
    """


@hookspec
def hepset_optimizers() -> Components:  # type: ignore[empty-body]
    """Name optimizers, subclasses of `torch.optim.Optimizer`.

    Called once, when the installed plugins are first needed. Core and plugins may implement it.

    Returns:
        ``{name: "module:attribute"}``; users write the name as ``train.optimizer``.
    """


@hookspec
def hepset_export_layouts() -> Components:  # type: ignore[empty-body]
    """Name the layouts of exported ONNX graphs: how inputs and outputs are called and shaped.

    Called once, when the installed plugins are first needed. Core and plugins may implement it.

    Returns:
        ``{name: "module:attribute"}``; users write ``hepset export --layout NAME``.
    """
