"""``hepset import-weaver``: a Particle Transformer of weaver as a run directory of hepset."""

from __future__ import annotations

from typing import Literal

import click

from hepset.errors import ConfigurationError


@click.command(short_help="Make a run directory from weights of weaver.")
@click.argument("checkpoint", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--event",
    required=True,
    type=click.Path(exists=True, dir_okay=False),
    metavar="YAML",
    help="The data configuration of the training, or an event file of any dialect.",
)
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False), metavar="RUN")
@click.option(
    "--weaver",
    type=click.Choice(["0.4", "0.5"]),
    help="The version of the training; by the names of the parameters without it.",
)
@click.option(
    "--pair-activation",
    is_flag=True,
    help="A GELU ends the embedding of pairs, as in the networks published with JetClass.",
)
@click.option("--target", metavar="NAME", help="The classification that the network decides.")
@click.option(
    "--score",
    "scores",
    multiple=True,
    metavar="NAME=SIGNAL/BACKGROUND",
    help="A score s / (s + b) of summed classes, 'xbb=X_bb/QCD_*'; may be given several times.",
)
@click.option("--top", type=click.IntRange(min=0), default=0, help="Most probable classes to give.")
def import_weaver_run(
    checkpoint: str,
    *,
    event: str,
    output: str,
    weaver: Literal["0.4", "0.5"] | None,
    pair_activation: bool,
    target: str | None,
    scores: tuple[str, ...],
    top: int,
) -> None:
    """Write the run RUN from CHECKPOINT, weights of weaver's Particle Transformer.

    CHECKPOINT is a file such as net_best_epoch_state.pt; only tensors are read from it.
    """
    from hepset_jetclass.part.checkpoint import import_weaver  # noqa: PLC0415  imports torch

    path = import_weaver(
        checkpoint,
        event,
        output,
        weaver=weaver,
        pair_activation=pair_activation,
        target=target,
        scores=dict(map(_score, scores)),
        top=top,
    )
    click.echo(f"{path}: written")


def _score(text: str) -> tuple[str, dict[str, list[str]]]:
    """Read ``NAME=SIGNAL/BACKGROUND``, each a list of classes or patterns divided by commas."""
    name, equals, classes = text.partition("=")
    signal, slash, background = classes.partition("/")
    if not equals or not slash:
        raise ConfigurationError(f"--score {text!r}: expected NAME=SIGNAL/BACKGROUND")
    return name, {"signal": signal.split(","), "background": background.split(",")}
