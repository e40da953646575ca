"""The command line ``hepset``: finds a command, runs it, and turns errors into messages.

The commands themselves are in `hepset.commands` and in plugins, and are imported when typed.
"""

from __future__ import annotations

import errno
import importlib
import traceback
from typing import Final

import click

import hepset
from hepset.errors import ConfigurationError, HepsetError, PluginError, did_you_mean
from hepset.plugins import registry
from hepset.plugins.builtin import COMMANDS

_NOT_WRITABLE: Final = {
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
}
"""What the machine refuses, which is no defect of the program: a full disk, a closed folder."""


class LazyGroup(click.Group):
    """A group whose commands come from the core's table and from plugins."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """List the core's commands in their order, then those of plugins."""
        try:
            installed = registry().names("commands")
        except ConfigurationError as error:
            raise click.UsageError(str(error), ctx) from error
        added = [name for name in installed if name not in COMMANDS]
        return [*COMMANDS, *added]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None if there is no such command."""
        if cmd_name in COMMANDS:
            module, _, attribute = str(COMMANDS[cmd_name].reference).partition(":")
            command = getattr(importlib.import_module(module), attribute)
        elif cmd_name in self.list_commands(ctx):
            command = registry().load("commands", cmd_name)
        else:
            return None
        if not isinstance(command, click.Command):
            msg = f"the command {cmd_name!r} is a {type(command).__name__}, not a click command"
            raise PluginError(msg)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that was typed; an unknown one is answered with the nearest."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            hint = did_you_mean(name, self.list_commands(ctx)) or "; see hepset --help"
            ctx.fail(f"there is no command {name!r}{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        rows = [(name, _summary(name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command; an error raised on purpose becomes a message and an exit code."""
        try:
            return super().invoke(ctx)
        except HepsetError as error:
            if ctx.params["debug"]:
                traceback.print_exception(error)
            click.echo(f"hepset: {error}", err=True)
            ctx.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("\nhepset: interrupted; the same command continues", err=True)
            ctx.exit(1)
        except OSError as error:
            if error.errno not in _NOT_WRITABLE:
                raise
            if ctx.params["debug"]:
                traceback.print_exception(error)
            place = f"{error.filename}: " if error.filename else ""
            click.echo(f"hepset: {place}{error.strerror}", err=True)
            ctx.exit(HepsetError.exit_code)


def _summary(name: str) -> str:
    """Say what a command does, or where it comes from if its plugin does not say what it does."""
    if name in COMMANDS:
        return COMMANDS[name].summary
    claims = [plugin for plugin in registry().loaded if name in plugin.of_kind("commands")]
    stated = [plugin.of_kind("commands")[name].summary for plugin in claims]
    if len(stated) == 1 and stated[0]:
        return stated[0]
    return "From " + " and ".join(plugin.distribution for plugin in claims) + "."


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(hepset.__version__, message="hepset %(version)s")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def main(*, debug: bool) -> None:
    """Neural networks on sets of particles, from files to a checked and exported model."""
