from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Unpack

import numpy as np
import pytest

from hepset.arrays import Array
from hepset.batch import EventBatch, PaddedStream
from hepset.dataset import Dataset, open_dataset
from hepset.errors import ContractError, DatasetError, ExpressionError
from hepset.events.split import EVENT_NUMBER, RUN_NUMBER
from hepset.interfaces import Chunk, Reader, ReaderConfig, Source
from hepset.interfaces.writer import Known, Writer
from hepset.model import Model
from hepset.model.inputs import events_at_once
from hepset.predict import predict_files, predict_split
from hepset.predict.membership import TrainingMembership
from hepset.predict.predictions import read_predictions
from hepset.schema.contract import Contract
from hepset.schema.event import EventInfo

BatchOf = Callable[..., EventBatch]


class FixedReader(Reader):
    """Gives the events of a batch, some at a time."""

    def __init__(self, batch: EventBatch, event: EventInfo, size: int = 7) -> None:
        super().__init__(ReaderConfig(chunk_size=size), event)
        self.batch = batch

    def event_info(self) -> EventInfo:
        assert self.event is not None
        return self.event

    def sources(self) -> list[Source]:
        return [
            Source(key, len(self.batch), is_file="://" not in key) for key in self.batch.sources
        ]

    def chunks(self) -> list[Chunk]:
        size, total = self.config.chunk_size, len(self.batch)
        return [Chunk(0, i, min(i + size, total)) for i in range(0, total, size)]

    def read(self, chunk: Chunk) -> EventBatch:
        return self.batch.take(np.arange(chunk.start, chunk.stop))


def test_a_split_is_predicted_in_any_batches(
    model: Model, dataset: Dataset, tmp_path: Path, batch_of: BatchOf
) -> None:
    wanted = model.predict(batch_of(90, 2))
    for size in (13, 1000):
        path = tmp_path / f"{size}.parquet"
        batches = list(predict_split(model, dataset, "test", path, batch_size=size))
        assert max(len(batch) for batch in batches) <= size
        table, provenance = read_predictions(path)
        assert provenance["split"] == "test"
        assert table.num_rows == 90
        np.testing.assert_allclose(
            np.stack(table["toy/probabilities"].to_pylist()),
            wanted["toy/probabilities"],
            rtol=1e-5,
        )
        assert table["entry"].to_pylist() == list(range(90))
        assert set(table["source"].to_pylist()) == {"made.h5"}
        assert not any(table["trained_on"].to_pylist())
        assert all(table["selected"].to_pylist())
        assert table["target/signal"].to_pylist() == batch_of(90, 2)["target/signal"].tolist()
    for train in predict_split(model, dataset, "train", max_events=5, batch_size=4):
        assert train.arrays["trained_on"].all()
    with pytest.raises(DatasetError, match="no split 'tets'"):
        list(predict_split(model, dataset, "tets"))


def test_given_up_predictions_leave_no_file(model: Model, dataset: Dataset, tmp_path: Path) -> None:
    batches = predict_split(model, dataset, "test", tmp_path / "out" / "p.parquet", batch_size=10)
    next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert not list((tmp_path / "out").iterdir())


def test_files_are_derived_selected_and_predicted(
    model: Model, event: EventInfo, tmp_path: Path, batch_of: BatchOf
) -> None:
    batch = batch_of(30, 5, targets=False)
    counts = predict_files(model, FixedReader(batch, event), tmp_path / "p.parquet")
    passed = batch["met"][:, 0] > 5
    assert counts.events == 30
    assert counts.selected == passed.sum()
    assert 0 < counts.selected < 30
    assert counts.trained_on is None
    table, provenance = read_predictions(tmp_path / "p.parquet")
    assert provenance["files"] == ["toy.h5"]
    assert "trained_on" not in table.column_names
    assert table["selected"].to_pylist() == passed.tolist()
    found = table["toy/probabilities"].to_pylist()
    wanted = model.predict(batch)["toy/probabilities"]
    for row, chosen in enumerate(passed):
        if chosen:
            np.testing.assert_allclose(found[row], wanted[row], rtol=1e-5)
        else:
            assert found[row] is None


class CuttingReader(FixedReader):
    """Leaves out every other event, but not from predictions."""

    def read(self, chunk: Chunk) -> EventBatch:
        found = super().read(chunk)
        return found if self.purpose == "predict" else found.take(np.arange(0, len(found), 2))


def test_readers_are_told_that_every_event_is_to_be_predicted(
    model: Model, event: EventInfo, tmp_path: Path, batch_of: BatchOf
) -> None:
    reader = CuttingReader(batch_of(30, 5, targets=False), event)
    assert sum(len(batch) for batch in reader) < 30
    counts = predict_files(model, reader, tmp_path / "p.parquet")
    assert counts.events == 30
    assert reader.purpose == "train"


def test_few_objects_at_a_time_change_nothing(
    model: Model,
    event: EventInfo,
    tmp_path: Path,
    batch_of: BatchOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = batch_of(30, 5, targets=False)
    predict_files(model, FixedReader(batch, event), tmp_path / "p.parquet", select={})
    sizes: list[int] = []
    predict = Model.predict

    def noted(self: Model, events: EventBatch, size: int = 1024) -> dict[str, Array]:
        sizes.append(size)
        return predict(self, events, size)

    monkeypatch.setattr(Model, "predict", noted)
    slots = sum(size or 0 for size in model.contract.slots.values())
    reader = FixedReader(batch, event)
    predict_files(model, reader, tmp_path / "f.parquet", select={}, max_objects=7 * slots + 1)
    assert set(sizes) == {7}
    whole, few = (read_predictions(tmp_path / f"{name}.parquet")[0] for name in "pf")
    for name in whole.column_names:
        if name.startswith("toy/"):
            columns = (table[name].to_pylist() for table in (whole, few))
            for one, other in zip(*columns, strict=True):
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_one_event_is_always_computed(model: Model) -> None:
    assert events_at_once(model.contract, 64, 1) == 1
    assert events_at_once(model.contract, 64, None) == 64
    assert events_at_once(model.contract, 64, 10**9) == 64


def test_derived_features_are_computed_and_none_may_pass(
    model: Model, event: EventInfo, tmp_path: Path, batch_of: BatchOf
) -> None:
    batch = batch_of(12, 5, targets=False)
    jets = dict(batch.flat("jets").columns)
    whole = model.predict(batch)
    jets["doubled"] = 2 * jets.pop("mass")
    other = replace(batch, streams={"jets": replace(batch.flat("jets"), columns=jets)})
    predict_files(
        model,
        FixedReader(other, event),
        tmp_path / "p.parquet",
        derive={"jets.mass": "jets.doubled / 2"},
        select={},
    )
    table, _ = read_predictions(tmp_path / "p.parquet")
    np.testing.assert_allclose(
        np.concatenate(table["toy/scores"].to_pylist()),
        whole["toy/scores"][batch["jets.mask"]],
        rtol=1e-4,
        atol=1e-6,
    )
    counts = predict_files(
        model, FixedReader(batch, event), tmp_path / "n.parquet", select={"none": "met.pt < 0"}
    )
    assert counts.selected == 0
    table, _ = read_predictions(tmp_path / "n.parquet")
    assert table["toy/decision"].to_pylist() == [None] * 12
    with pytest.raises(ExpressionError, match="btag"):
        predict_files(
            model,
            FixedReader(batch, event),
            tmp_path / "x.parquet",
            select={"b": "count(jets.btag > 1) > 1"},
        )
    assert not (tmp_path / "x.parquet").exists()


def test_objects_beyond_the_slots_are_cut_and_counted(
    model: Model, event: EventInfo, tmp_path: Path, batch_of: BatchOf
) -> None:
    batch = batch_of(8, 3, targets=False)
    jets = batch.padded("jets")
    # Two real jets more in every event, behind the model's six slots.
    columns = {
        name: np.concatenate([values, np.full((8, 2), 1, values.dtype)], axis=1)
        for name, values in jets.columns.items()
    }
    mask = np.ones((8, 8), bool)
    longer = replace(batch, streams={"jets": PaddedStream(columns, mask)}, slots={})
    counts = predict_files(model, FixedReader(longer, event, 3), tmp_path / "p.parquet", select={})
    assert counts.cut == {"jets": 16}


def test_bad_events_are_refused_and_leave_no_file(
    model: Model, event: EventInfo, tmp_path: Path, batch_of: BatchOf
) -> None:
    batch = batch_of(20, targets=False)
    met = batch["met"].copy()
    met[17] = np.nan
    bad = batch.with_arrays({"met": met})
    with pytest.raises(ContractError, match=r"met\.pt: finite in 1 of"):
        predict_files(model, FixedReader(bad, event), tmp_path / "p.parquet", select={})
    # A cut that NaN fails takes the event out before it can do harm.
    predict_files(model, FixedReader(bad, event), tmp_path / "p.parquet")
    without = replace(batch, arrays={})
    with pytest.raises(ContractError, match="the model needs met"):
        predict_files(model, FixedReader(without, event), tmp_path / "q.parquet", select={})
    assert [path.name for path in tmp_path.iterdir()] == ["p.parquet"]


class Keeping(Writer):
    """Keeps what it is given."""

    def open(self, target: Path, contract: Contract, **known: Unpack[Known]) -> None:
        self.known = known
        self.target, self.contract, self.batches = target, contract, []  # type: ignore[var-annotated]

    def write(self, batch: EventBatch) -> None:
        self.batches.append(batch)

    def close(self) -> None:
        self.target.touch()

    def abort(self) -> None:
        self.batches.clear()


def test_other_writers_get_whole_arrays(
    model: Model, event: EventInfo, tmp_path: Path, batch_of: BatchOf
) -> None:
    writer = Keeping()
    batch = batch_of(30, 5, targets=False)
    predict_files(model, FixedReader(batch, event), tmp_path / "p", writer=writer)
    failed = np.concatenate([part.predictions["toy/decision"] for part in writer.batches])[
        batch["met"][:, 0] <= 5
    ]
    assert (failed == -1).all()
    scores = np.concatenate([part.predictions["toy/scores"] for part in writer.batches])
    assert np.isnan(scores[batch["met"][:, 0] <= 5]).all()


def test_training_events_are_recognised(
    model: Model,
    dataset: Dataset,
    event: EventInfo,
    tmp_path: Path,
    batch_of: BatchOf,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from hepset.files import digest_file

    file = tmp_path / "renamed.h5"
    file.write_bytes(b"the same bytes")
    source = dataset.manifest.sources[0].model_copy(update={"digest": digest_file(file)})
    dataset.manifest.model_copy(update={"sources": (source,)}).write(dataset.path)
    known = open_dataset(dataset.path)
    # Row i of the training split has the entry i: 300 of them.
    batch = replace(batch_of(310, targets=False), sources=(str(file),))
    reader = FixedReader(batch, event, 100)
    counts = predict_files(model, reader, tmp_path / "p.parquet", dataset=known)
    assert counts.trained_on == 300
    table, _ = read_predictions(tmp_path / "p.parquet")
    assert table["trained_on"].to_pylist() == [True] * 300 + [False] * 10
    other = tmp_path / "other.h5"
    other.write_bytes(b"other bytes")
    stranger = replace(batch, sources=(str(other),))
    flags = TrainingMembership(known, FixedReader(stranger, event).sources()).flags(stranger)
    assert not flags.any()
    assert not caplog.records
    known.manifest.splits["fold0"] = known.manifest.splits.pop("train")
    with caplog.at_level(logging.WARNING):
        flags = TrainingMembership(known, reader.sources()).flags(batch)
    assert not flags.any()
    assert "no split 'train'" in caplog.text


def test_events_are_recognised_by_their_numbers_in_other_files(
    write_dataset: Callable[..., Dataset], event: EventInfo, batch_of: BatchOf
) -> None:
    def with_numbers(batch: EventBatch, first: int) -> EventBatch:
        numbers = {
            RUN_NUMBER: np.full(len(batch), 9),
            EVENT_NUMBER: first + np.arange(len(batch)),
        }
        return batch.with_arrays(numbers)

    splits = {}
    for name, (events, first) in {"train": (50, 1000), "test": (20, 5000)}.items():
        batch = with_numbers(batch_of(events), first)
        splits[name] = {tensor: batch[tensor] for tensor in batch.names()}
    dataset = write_dataset(event, splits)
    skim = with_numbers(batch_of(30), 1040)
    reader = FixedReader(skim, event)
    flags = TrainingMembership(dataset, reader.sources()).flags(skim)
    # 1040 … 1049 of the 1000 … 1049 that were trained on.
    assert flags.tolist() == [True] * 10 + [False] * 20
    without_run = replace(skim, arrays={k: v for k, v in skim.arrays.items() if k != RUN_NUMBER})
    assert not TrainingMembership(dataset, reader.sources()).flags(without_run).any()


def test_a_file_without_events_has_the_same_columns(
    model: Model, event: EventInfo, tmp_path: Path, batch_of: BatchOf
) -> None:
    class Empty(FixedReader):
        def chunks(self) -> list[Chunk]:
            return []

    batch = batch_of(6, 5, targets=False)
    predict_files(model, FixedReader(batch, event), tmp_path / "some.parquet")
    predict_files(model, Empty(batch, event), tmp_path / "none.parquet")
    some, _ = read_predictions(tmp_path / "some.parquet")
    none, _ = read_predictions(tmp_path / "none.parquet")
    assert len(none) == 0
    assert none.schema.names == some.schema.names
    assert none.schema.types == some.schema.types


def test_objects_keep_their_place_in_the_file(
    model: Model, event: EventInfo, tmp_path: Path, batch_of: BatchOf
) -> None:
    """The model sees the jets ordered by falling pt; the index leads back."""
    ordered = event.model_copy(
        update={"streams": {"jets": event.streams["jets"].model_copy(update={"order": "-pt"})}}
    )
    batch = batch_of(20, 5, targets=False)
    model.event = ordered
    predict_files(model, FixedReader(batch, ordered), tmp_path / "p.parquet", select={})
    model.event = event
    table, _ = read_predictions(tmp_path / "p.parquet")
    jets = batch.flat("jets")
    for row, index in enumerate(table["jets.index"].to_pylist()):
        pt = jets.columns["pt"][jets.offsets[row] : jets.offsets[row + 1]]
        assert len(index) == len(pt)
        np.testing.assert_array_equal(pt[index], np.sort(pt)[::-1])
