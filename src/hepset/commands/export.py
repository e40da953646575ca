"""``hepset export``: a trained model as one ONNX graph."""

from __future__ import annotations

from pathlib import Path

import click
from rich.console import Console

from hepset.commands.options import named_options
from hepset.errors import ConfigurationError


@click.command(short_help="Write a trained model as ONNX.")
@click.argument("run", type=click.Path(exists=True))
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), metavar="FILE")
@click.option(
    "--layout",
    default="hepset",
    show_default=True,
    help="Names and axes of inputs and outputs.",
)
@click.option(
    "--layout-option",
    "layout_options",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of the layout; may be given several times.",
)
@click.option("--opset", default=18, show_default=True, help="Version of the ONNX operators.")
def export(
    run: str, *, output: str, layout: str, layout_options: tuple[str, ...], opset: int
) -> None:
    """Write the model of RUN (a run directory or a checkpoint) as one ONNX graph.

    The graph takes physical inputs and gives physics decisions; it is compared with torch before
    it is written.
    """
    from hepset.export import export_onnx  # noqa: PLC0415  imports torch
    from hepset.model import load_checkpoint  # noqa: PLC0415

    if Path(run).suffix == ".onnx":
        raise ConfigurationError(f"{run}: already an ONNX file; give a run or a checkpoint")
    chosen = {**named_options(layout_options, "--layout-option"), "name": layout}
    console = Console(soft_wrap=True)
    with console.status("exporting and comparing with torch"):
        check = export_onnx(load_checkpoint(run), output, layout=chosen, opset=opset)
    console.print(
        f"{check.path}: {check.bytes / 1e6:.1f} MB, layout {check.layout}, opset {check.opset}, "
        f"in {check.seconds:.1f} s",
        highlight=False,
    )
    events = sorted({output.events for output in check.outputs})
    worst = check.worst
    if worst is not None:
        console.print(
            f"agrees with torch on batches of {', '.join(map(str, events))} events; largest "
            f"difference {worst.difference:.2g} in {worst.name} (values up to {worst.scale:.3g})",
            highlight=False,
        )
