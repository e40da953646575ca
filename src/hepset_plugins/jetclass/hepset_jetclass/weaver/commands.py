"""``hepset convert-weaver``: weaver's data configuration as hepset's own two files."""

from __future__ import annotations

import os
from pathlib import Path

import click

from hepset.interfaces import named_group


@click.command(short_help="Write hepset's configuration for a data configuration of weaver.")
@click.argument("config", type=click.Path(exists=True, dir_okay=False))
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False), metavar="DIR")
@click.option(
    "--files",
    multiple=True,
    metavar="PATTERN",
    help="What the run is to read; may be given several times. data/*.root in DIR without it.",
)
@click.option(
    "--reader", default="jetclass", show_default=True, metavar="NAME", help="How to read it."
)
@click.option(
    "--parity",
    is_flag=True,
    help="Take NaN and infinite inputs, and draw events, as weaver does.",
)
def convert_weaver(
    config: str, *, output: str, files: tuple[str, ...], reader: str, parity: bool
) -> None:
    """Write DIR/event.yaml and DIR/config.yaml for CONFIG, a data configuration of weaver.

    They need not be written to use CONFIG: a run may name it as its event. They are the place to
    go on from.
    """
    from hepset_jetclass.weaver.writing import write_configuration  # noqa: PLC0415  imports more

    own = [_from_folder(path, output) for path in files]
    paths = write_configuration(
        config, output, files=own or ["data/*.root"], reader=reader, parity=parity
    )
    for path in paths:
        click.echo(f"{path}: written")


def _from_folder(path: str, folder: str) -> str:
    """Write a path, or ``group:path``, for a run file in a folder: relative paths start there."""
    group, pattern = named_group(path)
    if "://" not in pattern and not Path(pattern).is_absolute():
        pattern = os.path.relpath(pattern, folder)
    return f"{group}:{pattern}" if group else pattern
