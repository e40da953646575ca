from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import hepset
from hepset.convert import prepare_dataset
from hepset.convert.engines import LocalEngine, LocalEngineConfig
from hepset.dataset import Dataset, open_dataset
from hepset.errors import DatasetError
from hepset.schema.config import PrepareConfig
from hepset.schema.contract import compile_contract
from synthetic_events import SyntheticConfig, SyntheticReader


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    reader = SyntheticReader(SyntheticConfig(events=300))
    event = reader.event_info()
    return prepare_dataset(
        [reader],
        event=event,
        contract=compile_contract(event),
        config=PrepareConfig(shard_size=150, select="count(jets) > 1"),
        seed=1,
        output=tmp_path / "dataset",
        engine=LocalEngine(LocalEngineConfig(workers=1)),
    )


def test_opening_gives_everything_that_is_known(dataset: Dataset) -> None:
    again = hepset.open_dataset(dataset.path)
    assert again.manifest == dataset.manifest
    assert list(again.splits) == ["train", "val", "test"]
    assert len(again) == sum(map(len, again.splits.values()))
    assert again.contract.slots == {"jets": 18}
    assert again.samples[0].events == 600
    assert again.cutflow[-1].name == "cut"
    assert "count(jets) &gt; 1" in again._repr_html_()
    assert "train" in repr(again)
    with pytest.raises(DatasetError, match="did you mean 'train'"):
        again.split("trian")


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_batches_of_any_size_hold_the_same_rows(dataset: Dataset, size: int) -> None:
    split = dataset.split("train")
    whole = split.read(["ids", "jets", "target/assignment/t1", "weight"])
    parts = list(split.batches(size, ["jets", "target/assignment/t1", "weight"]))
    assert [len(part) for part in parts[:-1]] == [size] * (len(parts) - 1)
    np.testing.assert_array_equal(np.concatenate([p.ids for p in parts]), whole["ids"])
    for name in ("jets", "target/assignment/t1", "weight"):
        np.testing.assert_array_equal(np.concatenate([p[name] for p in parts]), whole[name])
    assert parts[0]["target/assignment/t1"].dtype == np.int64
    assert parts[0]["jets.mask"].dtype == bool  # comes with the stream
    assert "met" not in parts[0]
    with pytest.raises(KeyError, match="did you mean 'jets'"):
        next(split.batches(3, ["jet"]))
    with pytest.raises(ValueError, match="at least one"):
        next(split.batches(0))


def test_verify_names_every_corrupt_file(dataset: Dataset) -> None:
    assert dataset.verify() == len(list(dataset.path.glob("*.parquet")))
    shards = sorted(dataset.path.glob("train-*.parquet"))
    content = bytearray(shards[0].read_bytes())
    content[len(content) // 2] ^= 1
    shards[0].write_bytes(content)
    shards[1].unlink()
    with pytest.raises(DatasetError) as caught:
        dataset.verify()
    message = str(caught.value)
    assert "2 of" in message
    assert f"{shards[0]}: the bytes have changed" in message
    assert f"{shards[1]}: this shard of" in message
    with pytest.raises(DatasetError, match=f"{shards[1].name}.*missing"):
        open_dataset(dataset.path)


def test_what_is_no_data_set_says_why(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no such directory"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match=r"did you mean .*dataset\?"):
        open_dataset(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(DatasetError, match="a file; expected the directory"):
        open_dataset(tmp_path / "file")
    manifest = dataset.path / "dataset.json"
    document = json.loads(manifest.read_text())
    for content, message in (
        ({**document, "format": "hepset-dataset/12"}, "newer than this hepset reads"),
        ({**document, "format": "other/1"}, "not the description"),
        ({**document, "splits": 3}, "splits"),
        ([], "not the description"),
    ):
        manifest.write_text(json.dumps(content))
        with pytest.raises(DatasetError, match=message):
            open_dataset(dataset.path)
    manifest.write_text("{")
    with pytest.raises(DatasetError, match="not JSON"):
        open_dataset(dataset.path)
    manifest.unlink()
    (dataset.path / ".work").mkdir()
    with pytest.raises(DatasetError, match="has not finished"):
        open_dataset(dataset.path)


def test_export_is_ordinary_parquet(dataset: Dataset, tmp_path: Path) -> None:
    paths = dataset.export(tmp_path / "plain", ["val"])
    assert [path.name for path in paths] == [s.file for s in dataset.split("val").shards]
    table = pq.read_table(paths[0])
    with dataset.split("val").open_shard(0) as shard:
        ids, columns = shard.read_group(0)
    mask = columns["jets.mask"]
    assert isinstance(mask, np.ndarray)
    assert isinstance(columns["jets"], np.ndarray)
    assert table.column("id.entry").to_pylist() == ids["entry"].tolist()
    pt = table.column("jets.pt").to_pylist()
    assert [len(row) for row in pt] == mask.sum(axis=1).tolist()
    assert pt[0] == columns["jets"][0, mask[0], 0].tolist()
    np.testing.assert_array_equal(table.column("met.pt"), np.asarray(columns["met"])[:, 0])
    assert np.array(table.column("target/assignment/t1").to_pylist()).shape == (len(ids), 3)
    assert np.array(table.column("extra/truth").to_pylist()).shape == (len(ids), 2, 3)
    assert table.column("extra/name")[0].as_py().startswith("event ")
    assert len(table.column("extra/origin")[0]) == mask[0].sum()
    with pytest.raises(DatasetError, match="itself"):
        dataset.export(dataset.path)
