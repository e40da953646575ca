"""``hepset run`` and ``hepset convert``: the stages of a run configuration."""

from __future__ import annotations

from typing import cast

import click
from rich.console import Console

from hepset.commands.console import keep_log, show_progress, stage_log
from hepset.schema.config import STAGES, Stage

_SETS = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the configuration, dots between keys; may be repeated.",
)


@click.command(short_help="Prepare, train, evaluate and export, as a configuration says.")
@click.argument("config", type=click.Path(dir_okay=False))
@click.option("--from", "first", type=click.Choice(STAGES), help="Redo from this stage on.")
@click.option("--to", "last", type=click.Choice(STAGES), help="Stop after this stage.")
@_SETS
def run(config: str, *, first: str | None, last: str | None, overrides: tuple[str, ...]) -> None:
    """Run CONFIG: prepare, train, evaluate, export; stages that are up to date are skipped."""
    from hepset.run import Run  # noqa: PLC0415  the stages import torch when they need it

    console = Console(soft_wrap=True)
    with keep_log() as earlier:
        work = Run.from_yaml(config, overrides=overrides)
    with stage_log(console, work.output, earlier), show_progress(console) as progress:
        work.run(
            first=cast("Stage | None", first), last=cast("Stage | None", last), progress=progress
        )
    work.show(console)


@click.command(short_help="Make the dataset of a configuration: the prepare stage alone.")
@click.argument("config", type=click.Path(dir_okay=False))
@_SETS
def convert(config: str, *, overrides: tuple[str, ...]) -> None:
    """Read, check, select, split and write the dataset that CONFIG describes."""
    from hepset.run import Run  # noqa: PLC0415

    console = Console(soft_wrap=True)
    with keep_log() as earlier:
        work = Run.from_yaml(config, overrides=overrides)
    with stage_log(console, work.output, earlier), show_progress(console) as progress:
        work.prepare(progress=progress)
    work.show(console)
