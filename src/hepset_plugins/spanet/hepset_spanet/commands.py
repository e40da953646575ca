"""``hepset import-spanet`` and ``hepset spanet-test``: what SPANet's own commands become."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click
from rich.console import Console
from rich.table import Table as RichTable

if TYPE_CHECKING:
    from hepset.uncertainty import Estimate
    from hepset_spanet.purity_table import Table

_WIDE = 1000
"""Columns of the terminal for the tables: wider ones than it shows are not broken into pieces."""


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
        from hepset.dialects import load_event  # noqa: PLC0415
        from hepset_spanet.reader import SpanetReader, SpanetReaderConfig  # noqa: PLC0415

        stated = load_event(Path(directory) / "event.yaml", dialect="spanet", parity=True)
        event = SpanetReader(SpanetReaderConfig(files=[data]), stated).event_info()
    path = import_spanet(
        directory, output, which=which, event=event, exclusive_sources=exclusive_sources
    )
    click.echo(f"{path}: written")


@click.command(short_help="Print SPANet's table of purities for a model on files.")
@click.argument("model", type=click.Path(exists=True))
@click.argument("files", nargs=-1, required=True)
@click.option(
    "-l",
    "--lines",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Rows with one number of objects; one more holds all larger ones.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False),
    metavar="JSON",
    help="Write all categories, with errors, under SPANet's names.",
)
@click.option("--head", help="The head that assigns, where there are several.")
@click.option("--reader", help="Format of the files; as in the training where not given.")
@click.option("--max-events", type=click.IntRange(min=1), help="Read at most so many events.")
def spanet_test(
    model: str,
    files: Sequence[str],
    *,
    lines: int,
    output: str | None,
    head: str | None,
    reader: str | None,
    max_events: int | None,
) -> None:
    """Apply MODEL (a run, a checkpoint or an ONNX file) to FILES and compare with their truth.

    The tables are those of python -m spanet.test: event and particle purities by number of objects,
    for events with so many (1t, 2t) or any (*t) of the particles.
    """
    from hepset.commands.predict import (  # noqa: PLC0415
        UNKNOWN_TRAINING,
        find_origin,
        open_files,
    )
    from hepset.model import load_model  # noqa: PLC0415  imports torch
    from hepset.predict import predict_files  # noqa: PLC0415
    from hepset_spanet.purity_table import PurityTableWriter  # noqa: PLC0415

    trained = load_model(model)
    origin = find_origin(Path(model), trained.provenance)
    source = open_files(trained, origin, files, reader, max_events)
    writer = PurityTableWriter(trained.event, lines=lines, head=head)
    target = Path() if output is None else Path(output)
    counts = predict_files(trained, source, target, writer=writer, dataset=origin.dataset)
    console = Console(soft_wrap=True, width=_WIDE)
    for process, table in writer.tables.items():
        for category in _categories(table):
            title = f"{process}: {category}" if process else category
            console.print(_as_rich(title, category, table))
    console.print(f"{counts.selected} of {counts.events} events", highlight=False)
    if counts.trained_on is None:
        console.print(UNKNOWN_TRAINING, highlight=False)
    elif counts.trained_on:
        console.print(f"the model was trained on {counts.trained_on} of them", highlight=False)


def _categories(table: Table) -> list[str]:
    """The categories that have events, by their names."""
    ending = "/event_proportion"
    shares = {n.removesuffix(ending): e for n, e in table["Full"].items() if n.endswith(ending)}
    return sorted(category for category, share in shares.items() if share.value > 0)


def _as_rich(title: str, category: str, table: Table) -> RichTable:
    """One category of a table for the terminal."""
    start = f"{category}/"
    shares = ["event_jet_proportion", f"{start}event_proportion", f"{start}event_purity"]
    others = [n for n in table["Full"] if n.startswith(start) and n not in shares]
    found = RichTable(title=title, title_justify="left")
    found.add_column("objects", no_wrap=True)
    for name in (*shares, *others):
        heading = name.removeprefix(start).removeprefix("event_jet_").replace("_", " ")
        heading = "share of events" if heading == "proportion" else heading
        found.add_column(heading, justify="right", no_wrap=True)
    for label, cells in table.items():
        found.add_row(label, *(_as_text(cells[name]) for name in (*shares, *others)))
    return found


def _as_text(estimate: Estimate) -> str:
    value, error = estimate
    if math.isnan(value):
        return ""
    return f"{value:.3f}" if math.isnan(error) else f"{value:.3f} ± {error:.3f}"
