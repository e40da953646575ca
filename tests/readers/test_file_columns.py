"""Columns of the files under their own names, for expressions only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hepset
from hepset.batch import EventBatch
from hepset.errors import ExpressionError, ReadError
from hepset.events.derive import input_event
from hepset.events.pipeline import EventPipeline
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo

COUNTS = np.array([2, 0, 3, 1])
OFFSETS = np.concatenate([[0], np.cumsum(COUNTS)])
PT = np.arange(6, dtype=np.float32) + 1


def write(path: Path) -> str:
    lists = pa.ListArray.from_arrays(pa.array(OFFSETS, pa.int32()), pa.array(PT))
    ids = pa.ListArray.from_arrays(
        pa.array(OFFSETS, pa.int32()), pa.array(np.arange(6, dtype="i4"))
    )
    short = pa.ListArray.from_arrays(pa.array([0, 1, 1, 1, 1], pa.int32()), pa.array([7.0]))
    grid = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(8.0)), 2)
    columns = {
        "part_pt": lists,
        "part_id": ids,
        "other": short,
        "grid_x": grid,
        "grid_y": grid,
        "jet_pt": pa.array(np.array([10, 20, 30, 40], np.float32)),
        "number": pa.array(np.array([2**40, 1, 2, 3], np.int64)),
        "weight": pa.array(np.ones(4)),
    }
    pq.write_table(pa.table(columns), path)
    return str(path)


def read(tmp_path: Path, **event: Any) -> Any:
    described = EventInfo.parse({"streams": {"pf": {"features": ["part_pt"]}}, **event}, "event")
    path = write(tmp_path / "ttbar.parquet")
    return hepset.open_reader("parquet", files=[path], event=described), described


def test_each_is_where_it_belongs(tmp_path: Path) -> None:
    wanted = {"part_id": "pf", "part_pt": None, "jet_pt": "pf", "number": None, "none": None}
    reader, _ = read(tmp_path, columns={**wanted, "file": None})
    (batch,) = reader
    flat = batch.flat("pf")
    assert flat.attached["columns/part_id"].dtype == np.int32
    assert set(flat.attached) == {"columns/part_id", "columns/part_pt"}
    assert batch.arrays["columns/jet_pt"].dtype == np.float32
    assert batch.arrays["columns/number"].tolist() == [2**40, 1, 2, 3]
    assert batch.arrays["columns/file"][0].endswith("ttbar.parquet")
    assert not any("none" in name for name in (*batch.arrays, *flat.attached))
    scalars = reader.read_scalars(reader.chunks()[0])
    assert "columns/number" in scalars.arrays
    assert "columns/jet_pt" not in scalars.arrays


def prepared(
    batch: EventBatch, event: EventInfo, derive: dict[str, str], cuts: dict[str, str]
) -> EventBatch:
    return EventPipeline(event, compile_contract(event), derive, cuts).select(batch).batch


def test_arrays_of_one_size_and_streams_that_are_all_derived(tmp_path: Path) -> None:
    derive = {"grid.sum": "grid_x + grid_y", "pf.log": "log(part_pt)"}
    reader, event = read(
        tmp_path,
        streams={"pf": {"features": ["log"]}, "grid": {"features": ["sum"]}},
        columns={"part_pt": "pf", "grid_x": "grid", "grid_y": "grid"},
    )
    files = input_event(event, derive)
    (batch,) = type(reader)(reader.config, files)
    found = prepared(batch, event, derive, {})
    assert found["grid"][..., 0].tolist() == [[0, 2], [4, 6], [8, 10], [12, 14]]
    np.testing.assert_array_equal(found.flat("pf").columns["log"], np.log(PT))
    assert found.flat("pf").offsets.tolist() == OFFSETS.tolist()


def test_a_list_as_long_as_no_stream_is_refused(tmp_path: Path) -> None:
    reader, _ = read(tmp_path, columns=["other"])
    with pytest.raises(
        ReadError, match=r"columns\.other: holds lists that are as long as no stream"
    ):
        list(reader)


def test_expressions_name_them_and_say_where_one_is_missing(tmp_path: Path) -> None:
    reader, event = read(tmp_path, columns=["part_id", "jet_pt", "file", "gone", "weight"])
    (batch,) = reader
    derive = {
        "extra.ratio": "max(part_id) / jet_pt",
        "extra.top": "matches(file, 'tt.ar') & ~matches(columns.file, '^wjets')",
        "extra.w": "columns.weight + weight",
    }
    found = prepared(batch, event, derive, {"some": "count(pf) > 0"})
    np.testing.assert_allclose(found.arrays["extra/ratio"], [1 / 10, 4 / 30, 5 / 40])
    assert found.arrays["extra/top"].tolist() == [True] * 3
    assert found.arrays["extra/w"].tolist() == [2.0] * 3
    with pytest.raises(ExpressionError, match=r"no column 'gone' in .*ttbar\.parquet"):
        prepared(batch, event, {"extra.x": "gone + 1"}, {})
    for text, message in (
        ("matches(file, '(')", "not a regular expression"),
        ("matches(file)", "write matches"),
        ("matches(jet_pt, 'a')", "needs a string"),
    ):
        with pytest.raises(ExpressionError, match=message):
            prepared(batch, event, {"extra.x": text}, {})


def test_a_column_of_no_stream_is_refused() -> None:
    with pytest.raises(hepset.errors.ConfigurationError, match=r"columns.x: no stream 'pff'"):
        EventInfo.parse({"streams": {"pf": {"features": ["pt"]}}, "columns": {"x": "pff"}}, "event")
