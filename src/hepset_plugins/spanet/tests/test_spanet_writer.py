from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from hepset.batch import EventBatch, FlatStream, concatenate, make_ids
from hepset.errors import ContractError
from hepset.schema.contract import Contract, compile_contract
from hepset.schema.event import EventInfo
from hepset_spanet.reader import SpanetReader, SpanetReaderConfig
from hepset_spanet.writer import SpanetWriter, SpanetWriterConfig

Datasets = dict[str, Any]
WriteFile = Callable[[Datasets], str]


def read(event: EventInfo, path: str | Path, **options: Any) -> EventBatch:
    return concatenate(SpanetReader(SpanetReaderConfig(files=[str(path)], **options), event))


@pytest.fixture
def batch(event: EventInfo, datasets: Datasets, write_file: WriteFile) -> EventBatch:
    datasets["TARGETS/t1/WEIGHT"] = np.array([1.0, 0.5, 2.0, 1.0])
    datasets["weight"] = np.array([1.0, -1.0, 1.0, 2.0])
    datasets["run"] = np.array([3, 4, 5, 6])
    path = write_file(datasets)
    return read(event, path, weight="weight", extra={"run": "run"})


@pytest.fixture
def contract(event: EventInfo) -> Contract:
    return compile_contract(event)


def write(path: Path, contract: Contract, *batches: EventBatch, **options: Any) -> Path:
    with SpanetWriter(SpanetWriterConfig(**options)) as writer:
        writer.open(path, contract)
        for batch in batches:
            writer.write(batch)
    return path


@pytest.mark.parametrize("compression", ["none", "gzip", "lzf"])
def test_what_is_written_reads_back(
    event: EventInfo, batch: EventBatch, contract: Contract, tmp_path: Path, compression: str
) -> None:
    parts = [batch.take(np.arange(3)), batch.take(np.arange(3, 4))]
    path = write(tmp_path / "out.h5", contract, *parts, compression=compression)
    again = read(event, path, weight="WEIGHT", extra={"run": "EXTRA/run"})
    assert sorted(again.names()) == sorted(batch.names())
    for name in batch.names():
        np.testing.assert_array_equal(again[name], batch[name], err_msg=name)
        assert again[name].dtype == batch[name].dtype, name


def test_layout_is_spanets(batch: EventBatch, contract: Contract, tmp_path: Path) -> None:
    with h5py.File(write(tmp_path / "out.h5", contract, batch)) as file:
        assert set(file["INPUTS/Jets"]) == {"MASK", "pt", "eta", "phi", "btag"}
        assert file["INPUTS/Jets/pt"].shape == (4, 3)
        np.testing.assert_array_equal(file["INPUTS/Jets/pt"][3], [29, 0, 0])
        assert set(file["TARGETS/t1"]) == {"b", "l", "MASK", "WEIGHT"}
        np.testing.assert_array_equal(file["TARGETS/t1/MASK"], [True, True, False, False])
        np.testing.assert_array_equal(file["TARGETS/t1/b"], [1, 2, -1, 0])
        assert set(file["REGRESSIONS/t1"]) == {"PARTICLE", "b"}
        np.testing.assert_array_equal(file["CLASSIFICATIONS/EVENT/signal"], [1, 0, -1, 1])
        np.testing.assert_array_equal(file["IDS/entry"], [0, 1, 2, 3])
        assert file["IDS/sources"].asstr()[:].tolist() == list(batch.sources)


def test_predictions_replace_the_truth(
    event: EventInfo, batch: EventBatch, contract: Contract, tmp_path: Path
) -> None:
    probability, detection = np.full(4, 0.5, np.float32), np.full(4, 0.25, np.float32)
    predicted = replace(
        batch,
        predictions={
            "assignment/t1": np.array([[1, 0], [2, 1], [-1, -1], [0, 1]]),
            "assignment/t1/probability": probability,
            "assignment/t1/detection": detection,
            "assignment/t2": np.array([[0, 4], [0, 1], [-1, -1], [-1, -1]]),
            "signal/probabilities": np.full((4, 2), 0.5, np.float32),
            "regression/mass": np.arange(4, dtype=np.float32),
            "regression/t1/pt": np.ones(4, np.float32),
        },
    )
    path = write(tmp_path / "out.h5", contract, predicted)
    with h5py.File(path) as file:
        # The lepton slots come after the 3 jet slots: lepton 0 is object 3 of the event.
        np.testing.assert_array_equal(file["TARGETS/t1/l"], [3, 4, -1, 4])
        np.testing.assert_array_equal(file["TARGETS/t1/b"], [1, 2, -1, 0])
        np.testing.assert_array_equal(file["TARGETS/t2/q2"], [4, 1, -1, -1])
        np.testing.assert_array_equal(file["TARGETS/t1/marginal_probability"], [0.125] * 4)
        assert set(file["TARGETS/t2"]) == {"q1", "q2"}
        assert file["CLASSIFICATIONS/EVENT/signal"].shape == (4, 2)
        np.testing.assert_array_equal(file["REGRESSIONS/EVENT/mass"], [0, 1, 2, 3])
        assert set(file["REGRESSIONS"]) == {"EVENT", "t1"}
    assert "target/assignment/t1" not in read(event, path)


def test_heads_are_known_by_what_they_want(event: EventInfo, tmp_path: Path) -> None:
    document = event.model_dump() | {"targets": {n: {"kind": "classification"} for n in "ab"}}
    contract = compile_contract(EventInfo.model_validate(document))
    spec = contract["target/b"].model_copy(update={"wanted_by": ("event", "tagger")})
    contract = contract.model_copy(update={"tensors": {**contract.tensors, "target/b": spec}})
    batch = _flat([[1.0]], [[2.0]])
    batch = replace(batch, predictions={"tagger/probabilities": np.ones((1, 3), np.float32)})
    with h5py.File(write(tmp_path / "out.h5", contract, batch)) as file:
        assert set(file["CLASSIFICATIONS/EVENT"]) == {"b"}


def test_predictions_without_a_place_are_logged(
    batch: EventBatch, contract: Contract, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    odd = replace(batch, predictions={"gen/points": np.ones((4, 2, 2))})
    with caplog.at_level(logging.INFO, logger="hepset_spanet"):
        write(tmp_path / "out.h5", contract, odd)
    assert "no place for the predictions gen/points" in caplog.text


def _flat(jets: list[list[float]], leptons: list[list[float]]) -> EventBatch:
    def stream(values: list[list[float]], names: tuple[str, ...]) -> FlatStream:
        counts = [len(event) for event in values]
        column = np.array([v for event in values for v in event], np.float32)
        return FlatStream(np.concatenate([[0], np.cumsum(counts)]), dict.fromkeys(names, column))

    return EventBatch(
        ids=make_ids(0, range(len(jets))),
        streams={
            "Jets": stream(jets, ("pt", "eta", "phi", "btag")),
            "Leptons": stream(leptons, ("pt",)),
        },
        arrays={"Met": np.ones((len(jets), 2), np.float32)},
        sources=["made.up"],
    )


def test_flat_streams_get_as_many_slots_as_they_need(
    event: EventInfo, contract: Contract, tmp_path: Path
) -> None:
    parts = [_flat([[1], []], [[], [2]]), _flat([[3, 4, 5]], [[6, 7]])]
    again = read(event, write(tmp_path / "out.h5", contract, *parts))
    np.testing.assert_array_equal(again["Jets"][..., 0], [[1, 0, 0], [0, 0, 0], [3, 4, 5]])
    np.testing.assert_array_equal(again["Leptons.mask"], [[0, 0], [1, 0], [1, 1]])


def test_slots_may_not_grow_under_indices_that_count_through_them(
    contract: Contract, tmp_path: Path
) -> None:
    target = {"target/assignment/t2": np.array([[0, 1]])}
    first, longer = _flat([[1]], [[2]]), _flat([[1, 2]], [[3]])
    with pytest.raises(ContractError, match="'Jets' needs 2 slots, the batches so far had 1"):
        write(
            tmp_path / "out.h5",
            contract,
            first.with_arrays(target),
            longer.with_arrays(target),
        )


def test_pairs_are_written(tmp_path: Path) -> None:
    event = EventInfo.model_validate({"streams": {"J": {"features": ["x"], "pairs": ["dr"]}}})
    pairs = np.arange(8, dtype=np.float32).reshape(2, 2, 2, 1)
    stream = FlatStream(np.array([0, 2, 4]), {"x": np.arange(4, dtype=np.float32)})
    batch = EventBatch(make_ids(0, range(2)), {"J": stream}, {"J.pairs": pairs})
    again = read(event, write(tmp_path / "out.h5", compile_contract(event), batch))
    np.testing.assert_array_equal(again["J.pairs"], pairs)


def test_nothing_is_visible_before_the_end(
    batch: EventBatch, contract: Contract, tmp_path: Path
) -> None:
    writer = SpanetWriter()
    writer.open(tmp_path / "out.h5", contract)
    writer.write(batch)
    assert [path.name[0] for path in tmp_path.glob("*out.h5*")] == ["."]
    writer.close()
    assert (tmp_path / "out.h5").exists()
    assert not list(tmp_path.glob(".*"))


def test_an_error_leaves_nothing(batch: EventBatch, contract: Contract, tmp_path: Path) -> None:
    (tmp_path / "out.h5").write_text("older")
    lacking = replace(batch, arrays={k: v for k, v in batch.arrays.items() if k != "Met"})
    with pytest.raises(ContractError, match="the batch lacks Met"):
        write(tmp_path / "out.h5", contract, lacking)
    assert not list(tmp_path.glob(".*"))
    assert (tmp_path / "out.h5").read_text() == "older"


def test_batches_of_one_file_have_the_same_tensors(
    batch: EventBatch, contract: Contract, tmp_path: Path
) -> None:
    fewer = replace(batch, arrays={k: v for k, v in batch.arrays.items() if k != "target/mass"})
    with pytest.raises(ContractError, match="this batch lacks REGRESSIONS/EVENT/mass"):
        write(tmp_path / "out.h5", contract, batch, fewer)
    predicted = replace(batch, predictions={"regression/mass": np.ones(4)})
    with pytest.raises(ContractError, match="held events, this one predictions"):
        write(tmp_path / "out.h5", contract, batch, predicted)


def test_no_events_are_a_file_too(event: EventInfo, contract: Contract, tmp_path: Path) -> None:
    path = write(tmp_path / "out.h5", contract)
    assert SpanetReader(SpanetReaderConfig(files=[str(path)]), event).sources()[0].entries == 0


def test_several_processes_are_refused(event: EventInfo, tmp_path: Path) -> None:
    particles = {"particles": {"t": ["a"]}}
    two = event.model_dump() | {"processes": {"x": particles, "y": particles}, "targets": {}}
    contract = compile_contract(EventInfo.model_validate(two))
    with pytest.raises(ContractError, match="hold one topology, the contract has 2 processes"):
        SpanetWriter().open(tmp_path / "out.h5", contract)


def test_targets_without_a_place_are_logged(
    event: EventInfo, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    targets = {"t9/mass": {"kind": "regression"}, "pt": {"kind": "regression", "stream": "Jets"}}
    contract = compile_contract(EventInfo.model_validate(event.model_dump() | {"targets": targets}))
    writer = SpanetWriter()
    writer.open(tmp_path / "out.h5", contract)
    writer.abort()
    assert "no place for the targets t9/mass, pt" in caplog.text


def test_writing_needs_an_open_file(batch: EventBatch) -> None:
    with pytest.raises(ContractError, match="call open"):
        SpanetWriter().write(batch)
