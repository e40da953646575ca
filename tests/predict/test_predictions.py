from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hepset.batch import EventBatch, PaddedStream, make_ids
from hepset.errors import ContractError
from hepset.predict.predictions import ParquetWriter, read_predictions
from hepset.schema.contract import Contract, compile_contract
from hepset.schema.event import EventInfo
from hepset.testing import check_writer


@pytest.fixture
def contract(event: EventInfo) -> Contract:
    return compile_contract(event)


def predicted(events: int) -> EventBatch:
    numbers = np.arange(events, dtype=np.float32)
    return EventBatch(
        make_ids(np.arange(events) % 2, range(events), sample=np.arange(events) % 3),
        {},
        {
            "weight": numbers.astype(np.float64) - 1,
            "extra/run": np.full(events, 3, np.int32),
            "extra/name": np.array([f"e{i}" for i in range(events)], "U8"),
            "target/signal": np.arange(events) % 2,
            "selected": np.arange(events) != 2,
        },
        {},
        ("a.h5", "b.h5"),
        predictions={
            "signal/probabilities": np.stack([numbers, 1 - numbers], axis=1),
            "signal/pairs": numbers[:, None, None] * np.ones((1, 2, 3), np.float32),
            "mass/m": numbers,
            "assignment/t1": np.arange(3 * events).reshape(events, 3),
        },
    )


def read_back(path: Path) -> EventBatch:
    """Read with awkward, as an analyst does."""
    array = ak.from_parquet(path)
    ids = make_ids(*(ak.to_numpy(array[name]) for name in ("source_index", "entry", "sample")))
    names = ["weight", "extra/run", "extra/name", "target/signal", "selected"]
    found = {name: array[name].to_list() for name in names if name in array.fields}
    assert ak.to_list(array["source"]) == [f"{'ab'[i]}.h5" for i in ids["source"]]
    return EventBatch(ids, {}, {name: np.array(values) for name, values in found.items()})


def test_the_writer_conforms(contract: Contract) -> None:
    check_writer(
        ParquetWriter,
        predicted(9),
        contract,
        read_back=read_back,
        tensors=["weight", "extra/run", "extra/name", "target/signal", "selected"],
        name="predictions.parquet",
    )


def test_columns_read_easily_and_missing_predictions_are_null(
    contract: Contract, tmp_path: Path
) -> None:
    writer = ParquetWriter()
    writer.provenance = {"run": "r", "seed": 7}
    with writer:
        writer.open(tmp_path / "p.parquet", contract)
        writer.write(predicted(4))
    table, provenance = read_predictions(tmp_path / "p.parquet")
    assert provenance == {"run": "r", "seed": 7}
    assert table["source"].to_pylist() == ["a.h5", "b.h5", "a.h5", "b.h5"]
    assert table["entry"].to_pylist() == [0, 1, 2, 3]
    assert table["selected"].to_pylist() == [True, True, False, True]
    assert table["signal/probabilities"].to_pylist() == [[0, 1], [1, 0], None, [3, -2]]
    assert table["mass/m"].to_pylist() == [0, 1, None, 3]
    assert table["assignment/t1"].to_pylist()[3] == [9, 10, 11]
    assert table["signal/pairs"].to_pylist()[1] == [[1, 1, 1], [1, 1, 1]]
    assert table["signal/pairs"].to_pylist()[3] == [[3, 3, 3], [3, 3, 3]]
    stored = pq.read_metadata(tmp_path / "p.parquet").metadata
    assert Contract.load(json.loads(stored[b"hepset.contract"]), "p") == contract
    array = ak.from_parquet(tmp_path / "p.parquet")
    assert array["weight"].to_list() == [-1, 0, 1, 2]


def test_other_columns_later_are_refused(contract: Contract, tmp_path: Path) -> None:
    first = predicted(4)
    later = replace(first, predictions={"mass/m": first.predictions["mass/m"]})
    writer = ParquetWriter()
    writer.open(tmp_path / "p.parquet", contract)
    writer.write(first)
    with pytest.raises(ContractError, match=r"columns differ.*assignment/t1"):
        writer.write(later)
    writer.abort()
    assert not list(tmp_path.iterdir())


def test_a_file_of_others_is_no_prediction(tmp_path: Path) -> None:
    pq.write_table(pa.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(ContractError, match="no predictions"):
        read_predictions(tmp_path / "x.parquet")


def test_what_objects_have_is_written_without_padding(contract: Contract, tmp_path: Path) -> None:
    """Three events of 2, 0 and 1 jets in slots, the last in slot 2; the second is not selected."""
    mask = np.array([[True, True, False], [False] * 3, [False, False, True]])
    score = np.where(mask, np.arange(9).reshape(3, 3), -5.0).astype(np.float32)
    pair = 10 * score[:, :, None] + score[:, None, :]
    stream = PaddedStream(
        {"pt": score}, mask, {"target/flavour": np.where(mask, 1, -1), "extra/cell": score + 100}
    )
    batch = EventBatch(
        make_ids(0, range(3)),
        {"jets": stream},
        {"selected": np.array([True, False, True]), "weight/signal": np.ones(3)},
        {"jets": 3},
        ("a",),
        predictions={"h/score": score, "h/pair": pair, "h/both": score[..., None] * [1, 2]},
    )
    axes = {
        "h/score": ("event", "jets"),
        "h/pair": ("event", "jets", "jets"),
        "h/both": ("event", "jets"),
    }
    with ParquetWriter() as writer:
        writer.open(tmp_path / "p.parquet", contract, axes=axes)
        writer.write(batch)
    table, _ = read_predictions(tmp_path / "p.parquet")
    found = {name: table[name].to_pylist() for name in table.column_names}
    assert found["h/score"] == [[0, 1], None, [8]]
    assert found["h/pair"] == [[[0, 1], [10, 11]], None, [[88]]]
    assert found["h/both"] == [[[0, 0], [1, 2]], None, [[8, 16]]]
    assert found["jets.index"] == [[0, 1], None, [2]]
    assert found["target/flavour"] == [[1, 1], None, [1]]
    assert found["extra/cell"] == [[100, 101], None, [108]]
    assert found["weight/signal"] == [1, 1, 1]
    # A target of the contract that the events do not have.
    assert found["target/signal"] == [None] * 3


@pytest.mark.parametrize("swapped", [False, True])
def test_events_with_and_without_truth_share_one_file(
    contract: Contract, tmp_path: Path, *, swapped: bool
) -> None:
    """Half of the events lack label, weight and extras; the labels have another type."""
    full = predicted(3)
    full = replace(full, arrays={**full.arrays, "target/signal": np.array([1, 0, 1], np.int16)})
    bare = replace(full, arrays={"selected": np.ones(3, bool)})
    writer = ParquetWriter()
    with writer:
        writer.open(tmp_path / "p.parquet", contract)
        for batch in (bare, full, bare) if swapped else (full, bare, bare):
            writer.write(batch)
    assert [path.name for path in tmp_path.iterdir()] == ["p.parquet"]
    table, _ = read_predictions(tmp_path / "p.parquet")
    there, null = ([0, 1, 2], [None] * 3)
    before = null if swapped else []
    after = null * (1 if swapped else 2)
    assert table["weight"].to_pylist() == [*before, -1, 0, 1, *after]
    assert table["target/signal"].to_pylist() == [*before, 1, 0, 1, *after]
    assert table["extra/run"].to_pylist() == [*before, 3, 3, 3, *after]
    assert table["entry"].to_pylist() == there * 3
    assert table.schema.field("target/signal").type == pa.int64()
