"""``hepset plugins``: what is installed, what failed and why."""

from __future__ import annotations

import json

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
    console = Console(soft_wrap=True)
    console.print(_table(installed))
    for failed in installed.failed:
        console.print(f"[red]failed[/red]    {escape(str(failed))}")
    for conflict in installed.conflicts():
        console.print(f"[red]conflict[/red]  {escape(str(conflict))}")
    left_out = installed.table()["left_out"]
    if isinstance(left_out, list) and left_out:
        console.print(f"left out by HEPSET_PLUGINS: {escape(', '.join(left_out))}")


def _table(installed: Plugins) -> Table:
    """Lay the working plugins out, one row for each kind of component of each."""
    table = Table("plugin", "distribution", "provides", "names")
    for plugin in installed.loaded:
        first = True
        for kind in KINDS:
            names = ", ".join(sorted(plugin.components[kind]))
            if not names:
                continue
            who = (plugin.name, f"{plugin.distribution} {plugin.version}") if first else ("", "")
            table.add_row(*map(escape, (*who, kind.replace("_", " "), names)))
            first = False
        if first:
            table.add_row(
                escape(plugin.name), escape(f"{plugin.distribution} {plugin.version}"), "nothing"
            )
        table.add_section()
    return table
