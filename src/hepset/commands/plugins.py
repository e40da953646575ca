"""``hepset plugins``: what is installed, what failed and why."""

from __future__ import annotations

import json
import sys

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hepset.plugins import KINDS, Plugins, registry


@click.command(short_help="Show what is installed, what failed and why.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def plugins(*, as_json: bool) -> None:
    """Show the installed plugins, what each provides, which could not be loaded and why."""
    installed = registry()
    if as_json:
        click.echo(json.dumps(installed.table(), indent=2))
        return
    # Without a terminal there is no width to keep to.
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(_table(installed))
    for failed in installed.failed:
        console.print(f"[red]failed[/red]    {escape(str(failed))}", soft_wrap=True)
    for conflict in installed.conflicts():
        console.print(f"[red]conflict[/red]  {escape(str(conflict))}", soft_wrap=True)
    if installed.left_out:
        console.print(
            f"left out by HEPSET_PLUGINS: {escape(', '.join(installed.left_out))}", soft_wrap=True
        )


def _table(installed: Plugins) -> Table:
    """Lay the working plugins out, one row for each component."""
    table = Table(box=None, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for plugin in installed.loaded:
        title = f"[b]{escape(plugin.distribution)}[/b] {escape(plugin.version)}"
        what = f"plugin {plugin.name!r}" + ("" if plugin.components else ", which provides nothing")
        table.add_row(title, "", escape(what))
        for key, kind in KINDS.items():
            for component in sorted(plugin.of_kind(key).values(), key=lambda one: one.name):
                table.add_row(
                    f"  {kind.singular}", escape(component.name), escape(component.summary)
                )
    return table
