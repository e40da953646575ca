"""``hepset inspect``: what is in a data set, a run, an ONNX file, a checkpoint or an input file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from rich.console import Console
from rich.markup import escape

from hepset.arrays import Array
from hepset.batch import EventBatch
from hepset.dataset import Dataset, open_dataset
from hepset.dataset.tables import (
    classes_table,
    cutflow_table,
    range_row,
    ranges_table,
    samples_table,
    sources_table,
    splits_table,
    training_ranges,
)
from hepset.errors import ConfigurationError, HepsetError, ReadError
from hepset.interfaces.remote import file_system, is_address, open_address
from hepset.numbers import number
from hepset.schema.contract import Contract, compile_contract
from hepset.schema.event import EventInfo
from hepset.schema.report import Report
from hepset.schema.statistics import ColumnStatistics
from hepset.schema.units import unit_of
from hepset.tables import Table

if TYPE_CHECKING:
    from hepset.interfaces import Reader
    from hepset.model import Model
    from hepset.model.onnx_model import OnnxModel

_SHOWN_ROWS = 60


@click.command(short_help="Show a dataset, a run, an ONNX file or an input file.")
@click.argument("path")
@click.option(
    "--event", type=click.Path(exists=True, dir_okay=False), help="What an event is, for a file."
)
@click.option(
    "--reader", help="Format of an input file; the installed readers are asked where not given."
)
def inspect(path: str, *, event: str | None, reader: str | None) -> None:
    """Show what PATH holds: contract, counts, ranges, cutflow, samples, four-momenta.

    PATH is a data set, a run directory, a checkpoint, an ONNX file, predictions, or an input file,
    which may be at an address (root://…).
    With --event an input file is read as events and checked; without, its columns are listed.
    """
    # Without a terminal there is no width to keep to.
    console = Console(width=None if sys.stdout.isatty() else 160)
    place = Path(path)
    if not is_address(path) and not place.exists():
        raise ConfigurationError(f"{path}: there is no such file or directory")
    if place.is_dir():
        _directory(place, console)
    elif place.suffix == ".onnx":
        from hepset.model import OnnxModel  # noqa: PLC0415

        _onnx(OnnxModel(place), console)
    elif place.suffix in {".ckpt", ".pt"}:
        from hepset.model import load_checkpoint  # noqa: PLC0415  imports torch

        _model(load_checkpoint(place), console)
    elif event is not None:
        _events(path, reader, event, console)
    else:
        _columns(path, console)


def _directory(place: Path, console: Console) -> None:
    if (place / "dataset.json").is_file():
        show_dataset(open_dataset(place), console)
        return
    if not (place / "config.yaml").is_file():
        # An imported network has no training, only its checkpoint.
        checkpoint = place / "checkpoints" / "best.ckpt"
        if checkpoint.is_file():
            from hepset.model import load_checkpoint  # noqa: PLC0415  imports torch

            _model(load_checkpoint(checkpoint), console)
            return
        raise ConfigurationError(
            f"{place}: neither a data set (no dataset.json) nor a run (no config.yaml)"
        )
    from hepset.run import Run  # noqa: PLC0415

    run = Run.open(place)
    rows = [
        ("name", run.config.name),
        ("seed", str(run.config.seed)),
        ("backbone", str(run.config.model.backbone.get("name"))),
        ("heads", ", ".join(f"{k} ({v['name']})" for k, v in run.config.model.heads.items())),
    ]
    for what, file in (
        ("checkpoint", run.checkpoint),
        ("metrics", place / "metrics.json"),
        ("report", place / "report.html"),
        ("graph", place / "model.onnx"),
    ):
        rows.append((what, str(file) if file.is_file() else "not yet"))
    _print(console, "run", ("", ""), rows)
    try:
        dataset = open_dataset(run.dataset_path)
    except HepsetError as problem:
        console.print(f"dataset: {problem}", markup=False)
    else:
        show_dataset(dataset, console)
    run.show(console)


def show_dataset(dataset: Dataset, console: Console) -> None:
    """Print everything that a data set says of itself."""
    manifest = dataset.manifest
    console.print(f"[b]{escape(str(dataset.path))}[/b]: {len(dataset)} events")
    for table in (
        splits_table(manifest),
        samples_table(dataset),
        sources_table(manifest, _SHOWN_ROWS),
        cutflow_table(manifest),
        dataset.contract.table(),
    ):
        _show(console, table)
    _momenta(dataset.event, console)
    _show(console, training_ranges(manifest))
    _show(console, classes_table(manifest))
    _report(manifest.report, console)


def _onnx(model: OnnxModel, console: Console) -> None:
    metadata = model.metadata
    rows = [
        ("layout", metadata.layout),
        ("versions", ", ".join(f"{k} {v}" for k, v in _mapping(metadata.provenance, "versions"))),
        ("dataset", str(metadata.provenance.get("dataset", "–"))),
        ("seed", str(metadata.provenance.get("seed", "–"))),
        *((f"derive {k}", v) for k, v in metadata.derive.items()),
        *((f"select {k}", v) for k, v in metadata.select.items()),
        *((f"classes of {k}", ", ".join(v)) for k, v in metadata.classes.items()),
    ]
    _print(console, f"ONNX file {model.path}", ("", ""), rows)
    _show(console, metadata.contract.table())
    _momenta(metadata.event, console)


def _model(model: Model, console: Console) -> None:
    parameters = sum(p.numel() for p in model.parameters())
    rows = [
        ("backbone", ", ".join(f"{k}: {v}" for k, v in model.config.backbone.items())),
        *((f"head {k}", ", ".join(f"{a}: {b}" for a, b in v.items())) for k, v in _heads(model)),
        ("parameters", number(parameters)),
        ("versions", ", ".join(f"{k} {v}" for k, v in _mapping(model.record(), "versions"))),
        ("dataset", str(model.provenance.get("dataset", "–"))),
    ]
    _print(console, "checkpoint", ("", ""), rows)
    _show(console, model.contract.table())
    _momenta(model.event, console)


def _heads(model: Model) -> Iterable[tuple[str, dict[str, Any]]]:
    return model.config.heads.items()


def _mapping(document: Mapping[str, Any], key: str) -> Iterable[tuple[str, Any]]:
    found = document.get(key)
    return found.items() if isinstance(found, Mapping) else ()


def _reader(path: str, name: str | None, event: EventInfo) -> Reader:
    from hepset.readers import guess_reader, open_reader  # noqa: PLC0415

    return open_reader(name or guess_reader(path), files=path, event=event)


def _events(path: str, name: str | None, description: str, console: Console) -> None:
    """Read the first chunk as events, check it, show counts and ranges.

    What the description derives is derived, and nothing is selected.
    """
    from hepset.dialects import describe_event  # noqa: PLC0415
    from hepset.events.derive import input_event, restored_event  # noqa: PLC0415
    from hepset.events.pipeline import EventPipeline  # noqa: PLC0415

    described = describe_event(description)
    derived = described.defaults.get("prepare", {}).get("derive", {})
    reader = _reader(path, name, input_event(described.event, derived))
    event = restored_event(reader.event_info(), described.event, derived)
    entries = sum(source.entries for source in reader.sources())
    chunks = reader.chunks()
    if not chunks:
        console.print("no events")
        return
    contract = compile_contract(event)
    pipeline = EventPipeline(event, contract, derived, purpose="predict")
    found = pipeline.run(reader.read(chunks[0]), "check")
    console.print(
        f"{number(entries)} events, the first {number(len(found))} of them are shown",
        highlight=False,
    )
    _show(console, contract.table())
    _momenta(event, console)
    rows = list(_batch_ranges(found.batch, contract))
    _show(console, ranges_table("feature ranges (first events)", rows))
    _report(found.report, console)


def _batch_ranges(batch: EventBatch, contract: Contract) -> Iterable[tuple[str, ...]]:
    for name in batch.streams:
        flat = batch.flat(name)
        yield range_row(f"number of {name}", "", _describe(flat.counts))
        spec = contract.tensors.get(name)
        for column, values in flat.columns.items():
            feature = spec.features.get(column) if spec is not None else None
            unit = unit_of(column, feature) if feature is not None else ""
            yield range_row(f"{name}.{column}", unit, _describe(values))
    for name, array in batch.arrays.items():
        if array.dtype.kind not in "biuf":
            continue
        spec = contract.tensors.get(name)
        columns = list(spec.features) if spec is not None else []
        if array.ndim == 2 and len(columns) == array.shape[1]:
            for index, column in enumerate(columns):
                unit = unit_of(column, spec.features[column]) if spec is not None else ""
                yield range_row(f"{name}.{column}", unit, _describe(array[:, index]))
        else:
            yield range_row(name, "", _describe(array))


def _describe(values: Array) -> ColumnStatistics:
    flat = np.asarray(values, np.float64).ravel()
    finite = flat[np.isfinite(flat)]
    if not finite.size:
        return ColumnStatistics(non_finite=flat.size)
    return ColumnStatistics(
        count=finite.size,
        mean=float(finite.mean()),
        m2=float(((finite - finite.mean()) ** 2).sum()),
        minimum=float(finite.min()),
        maximum=float(finite.max()),
        non_finite=flat.size - finite.size,
    )


def _columns(path: str, console: Console) -> None:
    """List what a file holds, without knowing what an event is."""
    suffix = Path(path).suffix
    if suffix in {".parquet", ".pq"}:
        if _parquet(path, console):
            return
    elif suffix == ".root":
        _root(path, console)
    elif suffix in {".h5", ".hdf5"}:
        _hdf5(path, console)
    elif suffix in {".yaml", ".yml"}:
        raise ConfigurationError(f"{path}: a text file; hepset check shows what it leads to")
    else:
        raise ConfigurationError(
            f"{path}: neither a directory nor a file that hepset can list; known are .onnx, .ckpt, "
            ".root, .parquet and .h5"
        )
    console.print("give --event EVENT_FILE to read the file as events and check it")


def _parquet(path: str, console: Console) -> bool:
    """List the columns of a file; say whether they are predictions."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    place = open_address(path) if is_address(path) else path
    try:
        file = pq.ParquetFile(place)
    except (pa.ArrowException, OSError, ValueError) as problem:
        raise ReadError(f"{path}: not a Parquet file: {problem}") from None
    stored = file.metadata.metadata or {}
    predicted = b"hepset.provenance" in stored
    if predicted:
        provenance = json.loads(stored[b"hepset.provenance"])
        rows = [(k, v) for k, v in provenance.items() if isinstance(v, str | int | float)]
        _print(console, "predictions", ("", ""), rows)
    title = f"{path}: {number(file.metadata.num_rows)} rows"
    _print(console, title, ("column", "type"), [(f.name, f.type) for f in file.schema_arrow])
    return predicted


def _root(path: str, console: Console) -> None:
    import uproot  # noqa: PLC0415

    if is_address(path):
        file_system(path)  # names the package that it needs
    try:
        with uproot.open(path) as file:
            for key, kind in file.classnames(recursive=True, cycle=False).items():
                if kind not in {"TTree", "ROOT::RNTuple", "ROOT::Experimental::RNTuple"}:
                    continue
                tree = file[key]
                names = tree.typenames() if hasattr(tree, "typenames") else dict.fromkeys(tree)
                _print(
                    console,
                    f"{path}: {kind} {key}, {number(tree.num_entries)} entries",
                    ("column", "type"),
                    [(name, text or "–") for name, text in names.items()],
                )
    except (OSError, ValueError) as problem:
        raise ReadError(f"{path}: not a ROOT file: {problem}") from None


def _hdf5(path: str, console: Console) -> None:
    try:
        import h5py  # noqa: PLC0415  comes with the plugins that read HDF5
    except ImportError:
        raise ConfigurationError(f"{path}: listing HDF5 needs h5py: pip install h5py") from None
    rows: list[tuple[str, str, str]] = []

    def visit(name: str, found: object) -> None:
        if isinstance(found, h5py.Dataset):
            rows.append((name, str(found.shape), str(found.dtype)))

    try:
        with h5py.File(path) as file:
            file.visititems(visit)
    except OSError as problem:
        raise ReadError(f"{path}: not an HDF5 file: {problem}") from None
    _print(console, path, ("dataset", "shape", "dtype"), rows)


def _momenta(event: EventInfo, console: Console) -> None:
    rows = []
    for name, stream in event.streams.items():
        found = stream.momentum
        text = "none" if found is None else ", ".join(f"{r} = {f}" for r, f in found.items())
        how = "" if found is None else "declared" if stream.p4 is not None else "guessed from names"
        rows.append((name, text, how))
    _print(console, "four-momenta", ("stream", "features", ""), rows)


def _report(report: Report, console: Console) -> None:
    if not report.violations:
        console.print(f"contract: {report.events} events checked, every rule holds")
        return
    console.print(f"contract: {report.events} events checked")
    for violation in report.violations:
        colour = {"error": "red", "warning": "yellow"}.get(violation.severity, "dim")
        console.print(f"[{colour}]{violation.severity}[/]: {escape(str(violation))}")


def _print(
    console: Console, title: str, head: Sequence[str], rows: Sequence[Sequence[object]]
) -> None:
    _show(console, Table(title, tuple(head), tuple(map(tuple, rows))))


def _show(console: Console, table: Table) -> None:
    """Print a table; nothing where it has no rows."""
    if table.rows:
        console.print(table.to_rich())
