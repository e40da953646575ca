"""``hepset import-spanet``: a trained model of SPANet as a run directory of hepset."""

from __future__ import annotations

from typing import Literal

import click


@click.command(short_help="Make a run directory from one of SPANet.")
@click.argument("directory", type=click.Path(exists=True, file_okay=False))
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False), metavar="RUN")
@click.option(
    "--which",
    type=click.Choice(["best", "last"]),
    default="best",
    show_default=True,
    help="The checkpoint with the highest stated accuracy, or the latest.",
)
@click.option(
    "--exclusive-sources",
    is_flag=True,
    help="Look for a product only in its declared input. SPANet looks in all.",
)
@click.option(
    "--data",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="A data file; tells which features of relative inputs belong to pairs of objects.",
)
def import_spanet_run(
    directory: str,
    *,
    output: str,
    which: Literal["best", "last"],
    exclusive_sources: bool,
    data: str | None,
) -> None:
    """Write the run RUN from DIRECTORY, a run of SPANet 2.

    DIRECTORY holds checkpoints/*.ckpt, options.json and event.yaml.
    """
    from hepset_spanet.checkpoint import import_spanet  # noqa: PLC0415  imports torch

    event = None
    if data is not None:
        from pathlib import Path  # noqa: PLC0415

        from hepset.dialects import load_event  # noqa: PLC0415
        from hepset_spanet.reader import SpanetReader, SpanetReaderConfig  # noqa: PLC0415

        stated = load_event(Path(directory) / "event.yaml", dialect="spanet", parity=True)
        event = SpanetReader(SpanetReaderConfig(files=[data]), stated).event_info()
    path = import_spanet(
        directory, output, which=which, event=event, exclusive_sources=exclusive_sources
    )
    click.echo(f"{path}: written")
