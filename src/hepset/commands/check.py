"""``hepset check``: what can be wrong, before any work."""

from __future__ import annotations

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hepset.errors import ContractError
from hepset.schema.report import Report

_COLOURS = {"error": "red", "warning": "yellow", "note": "blue"}


@click.command(short_help="Say what can be wrong with a configuration and its files.")
@click.argument("config", type=click.Path(dir_okay=False))
@click.option("--full", is_flag=True, help="Look at every event, not only the first of each file.")
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the configuration, dots between keys; may be repeated.",
)
def check(config: str, *, full: bool, overrides: tuple[str, ...]) -> None:
    """Check CONFIG, its event file, the headers of its files and their first events."""
    from hepset.run import Run  # noqa: PLC0415
    from hepset.run.preflight import check_run  # noqa: PLC0415

    console = Console(soft_wrap=True)
    found = check_run(Run.from_yaml(config, overrides=overrides), full=full)
    table = Table("source", "sample", "entries", "checked", "pass the selection")
    for source in found.sources:
        numbers = map(str, (source.entries, source.checked, source.selected))
        table.add_row(escape(source.key), escape(source.sample), *numbers)
    console.print(table)
    show_report(console, found.report)
    if not found.report.ok:
        count = len(found.report.errors)
        raise ContractError(
            f"{count} violation{'s' if count > 1 else ''} of the contract, see above"
        )
    extent = "every event" if found.full else "the first events of each source"
    console.print(f"{extent}: every rule of the contract holds")


def show_report(console: Console, report: Report) -> None:
    """Print the violations of a report, the worst first."""
    rank = list(_COLOURS)
    for violation in sorted(report.violations, key=lambda v: rank.index(v.severity)):
        colour = _COLOURS[violation.severity]
        console.print(f"[{colour}]{violation.severity}[/{colour}]  {escape(str(violation))}")
