"""``hepset predict``: a trained model on files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from hepset.commands.console import show_progress
from hepset.commands.options import named_options
from hepset.dataset import Dataset, open_dataset
from hepset.errors import ConfigurationError, DatasetError
from hepset.interfaces import Reader, parse_options
from hepset.plugins import registry

if TYPE_CHECKING:
    from hepset.predict.predict import Predictor

UNKNOWN_TRAINING = "the training data set is not available: nothing says which events it used"
_BOOKKEEPING = {"files", "sample", "max_events"}
"""Options of a reader that belong to the training files, not to others."""


@dataclass(frozen=True)
class Origin:
    """What is known of the run that a model comes from.

    Attributes:
        read: The readers of the training with their options.
        dataset: The data set; None where it is gone or unknown.
    """

    read: tuple[dict[str, Any], ...] = ()
    dataset: Dataset | None = None


@click.command(short_help="Apply a trained model to files.")
@click.argument("model", type=click.Path(exists=True))
@click.argument("files", nargs=-1, required=True)
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), metavar="FILE")
@click.option("--writer", default="parquet", show_default=True, help="Format of the output.")
@click.option(
    "--writer-option",
    "writer_options",
    multiple=True,
    metavar="KEY=VALUE",
    help="An option of the writer (hepset schema writer:NAME); may be given several times.",
)
@click.option("--reader", help="Format of the files; as in the training where not given.")
@click.option("--max-events", type=click.IntRange(min=1), help="Read at most so many events.")
@click.option(
    "--max-objects",
    type=click.IntRange(min=1),
    help="Compute at most so many objects at a time, padding included: less memory.",
)
def predict(
    model: str,
    files: Sequence[str],
    *,
    output: str,
    writer: str,
    writer_options: tuple[str, ...],
    reader: str | None,
    max_events: int | None,
    max_objects: int | None,
) -> None:
    """Apply MODEL (a run, a checkpoint or an ONNX file) to FILES.

    Derived features and cuts of the training are applied; events that fail a cut are kept and
    marked. Events that the model was trained on are marked too, where the data set is available.
    """
    from hepset.model import load_model  # noqa: PLC0415  torch, unless ONNX
    from hepset.predict import predict_files  # noqa: PLC0415

    console = Console(soft_wrap=True)
    trained = load_model(model)
    origin = find_origin(Path(model), trained.provenance)
    source = open_files(trained, origin, files, reader, max_events)
    options = {**named_options(writer_options, "--writer-option"), "name": writer}
    chosen = registry().create("writers", options, "--writer-option")
    with show_progress(console) as progress:
        counts = predict_files(
            trained,
            source,
            Path(output),
            writer=chosen,
            dataset=origin.dataset,
            progress=progress,
            max_objects=max_objects,
        )
    console.print(
        f"{output}: {counts.events} events, {counts.selected} pass the selection and have "
        "predictions",
        highlight=False,
    )
    if counts.trained_on is None:
        console.print(UNKNOWN_TRAINING, highlight=False)
    elif counts.trained_on:
        console.print(
            f"{counts.trained_on} events were trained on (column trained_on): leave them out of "
            "any judgement",
            highlight=False,
        )
    for stream, objects in (counts.cut or {}).items():
        console.print(
            f"{objects} objects of {stream} were beyond the model's slots and not looked at",
            highlight=False,
        )


def find_origin(path: Path, provenance: Mapping[str, Any]) -> Origin:
    """Find the run that a model belongs to: its directory, or one around the file.

    A model that has left its run still knows how its files were read.
    """
    folders = [path] if path.is_dir() else [path.parent, path.parent.parent]
    folder = next((each for each in folders if (each / "config.yaml").is_file()), None)
    if folder is None:
        return Origin(tuple(provenance.get("data", {}).get("read", ())))
    from hepset.run import Run  # noqa: PLC0415

    run = Run.open(folder)
    try:
        dataset = open_dataset(run.dataset_path)
    except DatasetError:
        return Origin(run.config.read)
    return Origin(run.config.read, dataset)


def open_files(
    model: Predictor,
    origin: Origin,
    files: Sequence[str],
    name: str | None,
    max_events: int | None = None,
) -> Reader:
    """Build the reader of some files as the training read its own.

    Args:
        model: Says what an event is, and which features are derived.
        origin: The run of the model.
        files: Paths or patterns.
        name: Short name of the reader; that of the training where None.
        max_events: Read at most so many.

    Raises:
        ConfigurationError: If neither the run nor the user says how to read.
    """
    from hepset.events.derive import input_event  # noqa: PLC0415
    from hepset.predict.predict import preparation  # noqa: PLC0415  only after the model

    known = [options for options in origin.read if name in (None, options.get("reader"))]
    options = dict(known[0]) if known else {}
    reader = name if name is not None else options.get("reader")
    if not isinstance(reader, str):
        raise ConfigurationError(
            "the model does not say how its files were read; name the format with --reader, one "
            f"of {', '.join(registry().names('readers'))}"
        )
    kept = {key: value for key, value in options.items() if key not in {*_BOOKKEEPING, "reader"}}
    kept["files"] = list(files)
    if isinstance(kept.get("columns"), Mapping):
        kept["columns"] = {key: c for key, c in kept["columns"].items() if not _by_group(c)}
    if max_events is not None:
        kept["max_events"] = max_events
    cls = registry().load("readers", reader)
    if "files" not in cls.Config.model_fields:
        raise ConfigurationError(f"the reader {reader!r} generates events and reads no files")
    derive, _ = preparation(model)
    source: Reader = cls(
        parse_options(cls.Config, kept, f"reader {reader!r}"), input_event(model.event, derive)
    )
    source.purpose = "predict"
    return source


def _by_group(column: object) -> bool:
    """Whether a column's value follows from the group of the file, which new files do not have."""
    return isinstance(column, Mapping) and column.get("group") is not None
