"""Apply a trained model to a split of a data set, or to files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hepset.arrays import Array, Ragged, missing_value, offsets_of
from hepset.batch import EventBatch, make_ids
from hepset.convert.convert import Progress
from hepset.dataset import Dataset
from hepset.errors import ContractError
from hepset.events.pipeline import EventPipeline
from hepset.interfaces.writer import Known, open_writer
from hepset.model.inputs import events_at_once
from hepset.predict.membership import TrainingMembership
from hepset.predict.predictions import INDEX, SELECTED, TRAINED_ON, ParquetWriter
from hepset.schema.contract import Contract
from hepset.schema.event import EventInfo

if TYPE_CHECKING:
    from hepset.interfaces.reader import Reader
    from hepset.interfaces.writer import Writer

__all__ = ["PredictionCounts", "Predictor", "predict_files", "predict_split", "preparation"]


class Predictor(Protocol):
    """What a model has to offer: a torch model, or an ONNX file."""

    @property
    def contract(self) -> Contract:
        """Inputs of the model."""
        ...

    @property
    def event(self) -> EventInfo:
        """What an event is."""
        ...

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Where the model comes from."""
        ...

    def predict(self, batch: EventBatch, batch_size: int = 1024) -> dict[str, Array]:
        """Return ``<head>/<field>`` → array, computing so many events at a time."""
        ...


@dataclass(frozen=True)
class PredictionCounts:
    """What was predicted.

    Attributes:
        events: Number of events in the files.
        selected: Number that pass the selection; only these have predictions.
        trained_on: Number that the model was trained on; None where that is not known.
        cut: Stream → objects beyond its slots, which the model did not see.
    """

    events: int = 0
    selected: int = 0
    trained_on: int | None = None
    cut: Mapping[str, int] | None = None


def preparation(model: Predictor) -> tuple[dict[str, str], dict[str, str]]:
    """Return the derived features and the cuts that belong to a model, as it says itself."""
    prepare = model.provenance.get("prepare") or {}
    cuts = prepare.get("predict_select")
    if cuts is None:
        cuts = prepare.get("select") or {}
    return dict(prepare.get("derive") or {}), dict(cuts)


def predict_split(
    model: Predictor,
    dataset: Dataset,
    split: str,
    path: Path | None = None,
    *,
    batch_size: int = 1024,
    max_events: int | None = None,
    writer: Writer | None = None,
    provenance: Mapping[str, Any] | None = None,
    decide: Callable[[EventBatch], EventBatch] | None = None,
) -> Iterator[EventBatch]:
    """Predict a split batch by batch, and write the predictions on the way.

    The file is complete when the iteration is; an iteration that is given up leaves none.

    Args:
        model: The model.
        dataset: Where the events are.
        split: Name of the split.
        path: File to write; None writes nothing.
        batch_size: Events per batch: what is in memory at once.
        max_events: Stop after so many events.
        writer: How to write; Parquet where None.
        provenance: Where the predictions come from, for the file's metadata.
        decide: Returns a batch with its predictions, and whatever else, in the place of
            ``model.predict``.

    Yields:
        The events with ``batch.predictions``, ``selected`` and ``trained_on``.

    Raises:
        DatasetError: If there is no such split.
        ContractError: If the inputs do not obey the model's contract.
    """
    size = len(dataset.split(split))
    left = size if max_events is None else min(size, max_events)
    with ExitStack() as stack:
        used: Writer | None = None
        if path is not None:
            used = writer if writer is not None else ParquetWriter()
            if isinstance(used, ParquetWriter):
                used.provenance = {
                    **model.provenance,
                    "dataset": str(dataset.path),
                    "split": split,
                    **(provenance or {}),
                }
            known = _known(model, left)
            known["classes"] = {**known["classes"], **dataset.manifest.class_names}
            open_writer(used, path, model.contract, **known)
            stack.enter_context(used)
        for events in dataset.split(split).batches(batch_size):
            if left <= 0:
                break
            batch = events if len(events) <= left else events.take(np.arange(left))
            left -= len(batch)
            flags = {
                SELECTED: np.ones(len(batch), bool),
                TRAINED_ON: np.full(len(batch), split == "train"),
            }
            if decide is None:
                judged = replace(batch, predictions=model.predict(batch))
            else:
                judged = decide(batch)
            judged = judged.with_arrays(flags)
            if used is not None:
                used.write(judged)
            yield judged


def predict_files(
    model: Predictor,
    reader: Reader,
    out: Path,
    *,
    writer: Writer | None = None,
    derive: Mapping[str, str] | None = None,
    select: Mapping[str, str] | None = None,
    dataset: Dataset | None = None,
    progress: Callable[[Progress], None] | None = None,
    max_objects: int | None = None,
) -> PredictionCounts:
    """Predict files chunk by chunk, with the derived features and the cuts of the training.

    Every event of the files has a row. One that fails a cut is marked ``selected = false`` and has
    no prediction (null in Parquet; NaN, −1 or False for other writers). Targets are not needed.
    Objects are ordered and cut to the model's slots as prepare does it, so predicted indices count
    through the ordered objects.

    Args:
        model: The model.
        reader: Reads the files; its event is that of the files (`hepset.events.derive`).
        out: File to write; it appears complete or not at all.
        writer: How to write; Parquet where None.
        derive: Derived feature → expression; as the model says where None.
        select: Cut → expression; as the model says where None.
        dataset: What the model was trained on, to mark those events; None leaves the column
            ``trained_on`` out.
        progress: Called after each chunk, in units of chunks.
        max_objects: Most objects that are computed at a time, padding included, which bounds the
            memory of long streams; None = as many as 1024 events have.

    Returns:
        How many events there were.

    Raises:
        ReadError: If a file cannot be read.
        ContractError: If selected events do not obey the model's contract.
        ExpressionError: If an expression names what the files do not have.
    """
    own_derive, own_select = preparation(model)
    pipeline = EventPipeline(
        model.event,
        model.contract,
        own_derive if derive is None else derive,
        own_select if select is None else select,
        purpose="predict",
    )
    reader = copy(reader)
    reader.purpose = "predict"
    membership = None if dataset is None else TrainingMembership(dataset, reader.sources())
    counts = PredictionCounts(trained_on=None if membership is None else 0, cut={})
    used = writer if writer is not None else ParquetWriter()
    if isinstance(used, ParquetWriter):
        used.provenance = {
            **model.provenance,
            "files": [source.key for source in reader.sources()],
            "reader": type(reader).__name__,
        }
    chunks = reader.chunks()
    open_writer(used, out, model.contract, **_known(model, None))
    with used:
        if not chunks:
            used.write(_nothing(model, membership))
        for number, chunk in enumerate(chunks):
            judged, cut = _predict_chunk(
                model,
                pipeline,
                reader.read(chunk),
                membership,
                ordered=used.wants_model_order,
                max_objects=max_objects,
            )
            used.write(judged)
            counts = _count(counts, judged, cut)
            if progress is not None:
                progress(Progress("predict", number + 1, len(chunks)))
    return counts


def _predict_chunk(
    model: Predictor,
    pipeline: EventPipeline,
    batch: EventBatch,
    membership: TrainingMembership | None,
    *,
    ordered: bool,
    max_objects: int | None,
) -> tuple[EventBatch, dict[str, int]]:
    """Prepare and predict one batch as a reader gave it.

    Its objects are those of the file, or `ordered` and cut as the model saw them; none then where
    the event was not selected.
    """
    marked = pipeline.mark(batch)
    selected = marked.selected
    assert selected is not None
    flags = {SELECTED: selected}
    if membership is not None:
        flags[TRAINED_ON] = membership.flags(marked.batch)
    _require_inputs(marked.batch, model)
    if ordered:
        marked = replace(marked, batch=_with_index(marked.batch))
    chosen = pipeline.conform(marked if selected.all() else marked.take(selected))
    size = events_at_once(model.contract, 1024, max_objects)
    events = chosen.batch
    found = model.predict(events) if max_objects is None else model.predict(events, size)
    predictions = {name: _spread(array, selected) for name, array in found.items()}
    cut = {name: part.objects for name, part in chosen.truncated.items() if part.objects}
    streams = marked.batch.streams
    if ordered:
        streams = {n: _spread_objects(d, selected) for n, d in chosen.batch.streams.items()}
    judged = replace(marked.batch.with_arrays(flags), predictions=predictions, streams=streams)
    return judged, cut


def _with_index(batch: EventBatch) -> EventBatch:
    """Give every object its place in the file, which follows it when objects are ordered."""
    return replace(
        batch,
        streams={
            name: replace(data, attached={**data.attached, INDEX.format(name): data.place})
            for name, data in batch.streams.items()
        },
    )


def _spread_objects(data: Ragged, selected: Array) -> Ragged:
    """Give the objects of the selected events a row per event."""
    counts = np.zeros(len(selected), np.int64)
    counts[selected] = data.counts
    return replace(data, offsets=offsets_of(counts), in_padding={})


def _known(model: Predictor, events: int | None) -> Known:
    """What writers are told before the first event."""
    targets = model.event.targets.items()
    return {
        "event": model.event,
        "statistics": getattr(model, "statistics", None),
        "classes": {f"target/{name}": t.classes for name, t in targets if t.classes},
        "events": events,
        "axes": getattr(model, "axes", {}),
    }


def _nothing(model: Predictor, membership: TrainingMembership | None) -> EventBatch:
    """No events, with all columns that predictions have."""
    streams = {
        spec.name: Ragged(offsets_of([]), {n: np.zeros(0, np.float32) for n in spec.features})
        for spec in model.contract.of_kind("stream")
    }
    arrays: dict[str, Array] = {}
    for spec in model.contract.of_kind("global"):
        arrays[spec.name] = np.zeros((0, len(spec.features)), np.float32)
        arrays[f"{spec.name}.mask"] = np.zeros(0, bool)
    slots = {name: count for name, count in model.contract.slots.items() if count is not None}
    batch = EventBatch(make_ids(0, []), streams, arrays, slots)
    flags = {SELECTED: np.zeros(0, bool)}
    if membership is not None:
        flags[TRAINED_ON] = np.zeros(0, bool)
    predictions = {name: array[:0] for name, array in model.predict(batch).items()}
    return replace(batch.with_arrays(flags), predictions=predictions)


def _require_inputs(batch: EventBatch, model: Predictor) -> None:
    """Refuse a batch that lacks an input, before it is rearranged."""
    missing = [
        spec.name
        for spec in model.contract.of_kind("stream", "global", "pairs")
        if spec.name not in batch.streams and spec.name not in batch.arrays
    ]
    if missing:
        where = batch.where(0)[0] if len(batch) else "the files"
        raise ContractError(
            f"{where}: the model needs {', '.join(missing)}, the reader gives "
            f"{', '.join(batch.names()) or 'nothing'}; is this the reader the model was trained "
            "with (--reader)?"
        )


def _spread(array: Array, selected: Array) -> Array:
    """Give predictions of the selected events a row per event."""
    if selected.all():
        return array
    full = np.full((len(selected), *array.shape[1:]), missing_value(array.dtype), array.dtype)
    full[selected] = array
    return full


def _count(counts: PredictionCounts, judged: EventBatch, cut: dict[str, int]) -> PredictionCounts:
    trained = judged.arrays.get(TRAINED_ON)
    before = counts.cut or {}
    return PredictionCounts(
        counts.events + len(judged),
        counts.selected + int(judged.arrays[SELECTED].sum()),
        None if trained is None else (counts.trained_on or 0) + int(trained.sum()),
        {name: before.get(name, 0) + cut.get(name, 0) for name in {**before, **cut}},
    )
