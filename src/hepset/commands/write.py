"""``hepset write``: a dataset in somebody else's format."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from hepset.commands.options import named_options
from hepset.plugins import registry


@click.command(short_help="Write a dataset in another format.")
@click.argument("dataset", type=click.Path(exists=True, file_okay=False))
@click.option("--writer", required=True, metavar="NAME", help="Format; hepset plugins lists them.")
@click.option("-o", "--output", required=True, type=click.Path(), metavar="FILE")
@click.option("--split", default="train", show_default=True, help="The split that is written.")
@click.option(
    "--option",
    "options",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of the writer (hepset schema writer:NAME); may be given several times.",
)
def write(dataset: str, *, writer: str, output: str, split: str, options: tuple[str, ...]) -> None:
    """Write a split of DATASET, the directory that a conversion makes, through any writer."""
    from hepset.dataset import open_dataset  # noqa: PLC0415
    from hepset.dataset.writing import write_split  # noqa: PLC0415

    chosen = {**named_options(options, "--option"), "name": writer}
    made = registry().create("writers", chosen, "--option")
    events = write_split(open_dataset(dataset), split, Path(output), made)
    Console(soft_wrap=True).print(f"{output}: {events} events of {split}", highlight=False)
