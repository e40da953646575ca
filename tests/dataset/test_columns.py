from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hepset.arrays import Ragged
from hepset.batch import make_ids
from hepset.dataset.columns import (
    ColumnLayout,
    TensorType,
    decode,
    encode,
    extra_layout,
    raw,
    smallest_integer,
    tensor_layout,
)
from hepset.dataset.shards import ShardFile, row_group_rows, write_shard
from hepset.errors import ContractError, DatasetError
from hepset.files import digest_file
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo


def fixed(shape: tuple[int, ...], dtype: str, stored: str | None = None) -> ColumnLayout:
    dims = ("event", *(f"axis{i}" for i in range(len(shape))))
    return ColumnLayout(name="x", dims=dims, shape=shape, stored=stored or dtype, dtype=dtype)


DTYPES = ["<f4", "<f8", "<i8", "<i2", "|b1", "|u1", "<U3", "<f2", "<c8", "|S2"]


@given(
    st.sampled_from(DTYPES),
    st.integers(0, 7),
    st.lists(st.integers(1, 3), max_size=3).map(tuple),
    st.integers(0, 4),
)
@settings(deadline=None, max_examples=60)
def test_every_dtype_and_slice_comes_back(
    dtype: str, rows: int, shape: tuple[int, ...], start: int
) -> None:
    rng = np.random.default_rng(rows)
    values = rng.integers(0, 2, (rows, *shape)).astype(dtype)
    layout = fixed(shape, dtype)
    array = encode(layout, values)
    assert array.type == TensorType(layout)
    np.testing.assert_array_equal(decode(layout, array), values)
    sliced = array.slice(start, 2)
    np.testing.assert_array_equal(decode(layout, sliced), values[start : start + 2])
    chunked = pa.chunked_array([array, array.slice(1), array.slice(rows)], type=array.type)
    expected = np.concatenate([values, values[1:]])
    np.testing.assert_array_equal(decode(layout, chunked), expected)


def test_decoding_floats_copies_nothing() -> None:
    layout = fixed((4, 2), "<f4")
    values = np.arange(80, dtype="<f4").reshape(10, 4, 2)
    array = encode(layout, values)
    assert np.shares_memory(decode(layout, array), values)
    assert np.shares_memory(array.slice(3).to_numpy(zero_copy_only=True), values)
    narrow = fixed((4,), "<i8", "|i1")
    with pytest.raises(pa.ArrowInvalid, match="copy"):
        encode(narrow, np.zeros((3, 4), "<i8")).to_numpy(zero_copy_only=True)


def test_integers_are_narrowed_and_never_wrapped() -> None:
    assert [smallest_integer(-1, n) for n in (127, 128, 32767, 32768, 2**31)] == [
        "|i1", "<i2", "<i2", "<i4", "<i8",
    ]  # fmt: skip
    layout = fixed((), "<i8", "|i1")
    array = encode(layout, np.array([-1, 127], "<i8"))
    assert array.storage.type == pa.binary(1)
    assert decode(layout, array).dtype == np.int64
    with pytest.raises(ContractError, match="128 do not fit int8"):
        encode(layout, np.array([128], "<i8"))
    with pytest.raises(ContractError, match="do not fit"):
        encode(fixed((), "<U2"), np.array(["abc"]))
    with pytest.raises(ContractError, match="shape"):
        encode(layout, np.zeros((3, 2), "<i8"))


def test_nulls_are_refused() -> None:
    layout = fixed((), "<i8", "|i1")
    storage = pa.array([b"a", None], pa.binary(1))
    with pytest.raises(DatasetError, match="1 of 2 rows are null"):
        decode(layout, pa.ExtensionArray.from_storage(TensorType(layout), storage))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=9), st.integers(0, 4), st.integers(0, 4))
@settings(deadline=None, max_examples=60)
def test_jagged_comes_back_from_any_slice(counts: list[int], start: int, rows: int) -> None:
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    values = np.arange(offsets[-1] * 2, dtype="<f4").reshape(-1, 2)
    layout = ColumnLayout(
        name="cells", layout="jagged", dims=("event", "cells", "feature"), shape=(5, 2),
        stored="<f4", dtype="<f4", mask="cells.mask", features=("e", "t"),
    )  # fmt: skip
    array = encode(layout, Ragged.of(offsets, values)).slice(start, rows)
    found = raw(layout, array)
    assert isinstance(found, Ragged)
    rows_wanted = list(range(len(counts)))[start : start + rows]
    expected = [values[offsets[i] : offsets[i + 1]] for i in rows_wanted]
    assert list(found.counts) == [len(e) for e in expected]
    np.testing.assert_array_equal(found.values, np.concatenate([np.zeros((0, 2)), *expected]))
    padded = decode(layout, array)
    assert padded.shape == (len(expected), 5, 2)
    for event, objects in zip(padded, expected, strict=True):
        np.testing.assert_array_equal(event[: len(objects)], objects)
        assert not event[len(objects) :].any()
    sliced_input = Ragged.of(offsets[start:], values)
    if len(sliced_input.offsets) > 1:
        again = raw(layout, encode(layout, sliced_input))
        assert isinstance(again, Ragged)
        np.testing.assert_array_equal(again.values, values[offsets[start] :])


def test_layout_follows_the_contract() -> None:
    event = EventInfo.model_validate(
        {
            "streams": {
                "jets": {"slots": 200, "features": ["pt", "eta"]},
                "leptons": {"slots": 4, "features": ["pt"]},
            },
            "particles": {"t": {"b": "jets", "l": "leptons"}, "w": {"l": "leptons", "x": None}},
            "targets": {
                "many": {"kind": "classification", "classes": [str(i) for i in range(200)]},
                "open": {"kind": "classification"},
                "m": {"kind": "regression"},
            },
        }
    )
    contract = compile_contract(event)
    stored = {name: tensor_layout(contract, spec).stored for name, spec in contract.tensors.items()}
    assert stored["jets"] == "<f4"
    assert stored["jets.mask"] == "|b1"
    assert stored["target/assignment/t"] == "<i2"  # indices up to 199
    assert stored["target/assignment/w"] == "<i2"  # through all streams: up to 203
    assert stored["target/many"] == "<i2"
    assert stored["target/open"] == "<i8"
    assert stored["target/m"] == "<f4"
    assert stored["weight"] == "<f8"
    jagged = tensor_layout(contract, contract["jets"], jagged=frozenset({"jets"}))
    assert (jagged.layout, jagged.width) == ("jagged", 8)
    mask = tensor_layout(contract, contract["jets.mask"], jagged=frozenset({"jets"}))
    assert (mask.layout, mask.width) == ("counts", 4)
    with pytest.raises(ContractError, match="dtype object"):
        extra_layout("extra/x", np.dtype(object), ())
    auto = EventInfo.model_validate({"streams": {"jets": {"features": ["pt"]}}})
    open_contract = compile_contract(auto)
    with pytest.raises(ContractError, match="axis 'jets' is not resolved"):
        tensor_layout(open_contract, open_contract["jets"])


def shard(path: Path, **options: Any) -> tuple[Any, dict[str, ColumnLayout], dict[str, Any]]:
    layouts = {
        "jets": fixed((3, 2), "<f4").model_copy(update={"name": "jets"}),
        "jets.mask": fixed((3,), "|b1").model_copy(update={"name": "jets.mask"}),
        "extra/nothing": ColumnLayout(
            name="extra/nothing", layout="empty", dims=("event", "axis0"), shape=(0,),
            stored="<f4", dtype="<f4",
        ),
    }  # fmt: skip
    rng = np.random.default_rng(3)
    columns = {
        "jets": rng.normal(size=(10, 3, 2)).astype("<f4"),
        "jets.mask": rng.random((10, 3)) < 0.5,
        "extra/nothing": np.zeros((10, 0), "<f4"),
    }
    ids = make_ids(2, range(10))
    blocks = [
        (ids[a:b], {name: values[a:b] for name, values in columns.items()})
        for a, b in ((0, 6), (6, 10), (10, 10))
    ]
    return write_shard(path, layouts, blocks, **options), layouts, columns


@pytest.mark.parametrize("codec", ["lz4", "zstd", "none"])
def test_shard_is_written_once_and_read_by_group(tmp_path: Path, codec: str) -> None:
    record, layouts, columns = shard(tmp_path / "a.parquet", codec=codec)
    assert record.rows == 10
    assert record.row_groups == (6, 4)
    assert record.digest == digest_file(tmp_path / "a.parquet")
    assert record.bytes == (tmp_path / "a.parquet").stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == ["a.parquet"]
    again, _, _ = shard(tmp_path / "b.parquet", codec=codec)
    assert again.digest == record.digest
    with ShardFile(tmp_path / "a.parquet", record, layouts) as file:
        ids, found = file.read_group(1)
        assert list(ids["entry"]) == [6, 7, 8, 9]
        assert set(ids["source"]) == {2}
        for name, values in columns.items():
            np.testing.assert_array_equal(found[name], values[6:])
        assert list(file.read_group(0, ["jets"])[1]) == ["jets"]
        with pytest.raises(KeyError, match="did you mean 'jets'"):
            file.read_group(0, ["jet"])
    # pyarrow alone gives the meaning of the bytes too.
    table = pq.read_table(tmp_path / "a.parquet")
    np.testing.assert_array_equal(
        table.column("jets").chunk(0).to_numpy(), columns["jets"][: len(table.column(0).chunk(0))]
    )
    metadata = pq.read_metadata(tmp_path / "a.parquet")
    assert metadata.schema.column(3).physical_type == "FIXED_LEN_BYTE_ARRAY"


def test_interrupted_writer_leaves_nothing(tmp_path: Path) -> None:
    layouts = {"x": fixed((), "<f4")}

    def blocks() -> Any:
        yield make_ids(0, range(2)), {"x": np.zeros(2, "<f4")}
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path / "a.parquet", layouts, blocks())
    assert list(tmp_path.iterdir()) == []


def test_wrong_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    record, layouts, _ = shard(path)
    with pytest.raises(DatasetError, match="missing"):
        ShardFile(tmp_path / "b.parquet", record, layouts)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DatasetError, match="records"):
        ShardFile(path, record, layouts)
    path.write_bytes(bytes(record.bytes))
    with pytest.raises(DatasetError, match="cannot be read"):
        ShardFile(path, record, layouts)


def test_row_groups_are_alike() -> None:
    assert row_group_rows(100, 1000) == 100
    assert row_group_rows(65536, 65536 * 1625) == 3856  # 17 groups of 6.3 MB
    assert row_group_rows(0, 0) == 1


def test_a_column_of_another_type_is_refused() -> None:
    layout = ColumnLayout(name="target/s", dims=("event",), shape=(), stored="|i1", dtype="<i8")
    with pytest.raises(DatasetError, match=r"'target/s': stored as int64, expected fixed_size"):
        raw(layout, pa.array([0, 1, 0]))
