"""The commands of the command line, one module each, imported when they are typed."""

from __future__ import annotations

from typing import NamedTuple


class CommandEntry(NamedTuple):
    """Where a command is, and what the list of commands says about it."""

    reference: str
    """``"module:attribute"`` of the `click.Command`."""
    summary: str
    """One line for ``hepset --help``, shown without importing the command."""


COMMANDS: dict[str, CommandEntry] = {
    "plugins": CommandEntry(
        "hepset.commands.plugins:plugins", "Show what is installed, what failed and why."
    ),
}
"""The core's commands, in the order of the help page."""
