"""`Run.prepare` and `check_run` on small Parquet files, with what goes wrong in practice."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from hepset.batch import EventBatch
from hepset.convert import plan
from hepset.errors import (
    ConfigurationError,
    DatasetError,
    HepsetError,
    MissingColumnError,
    ReadError,
)
from hepset.events import select
from hepset.expressions.functions import Function
from hepset.interfaces import Chunk
from hepset.readers.columnar import ColumnarReader
from hepset.run import Run, config
from hepset.run.preflight import check_run


def _write(path: Path, events: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    path.parent.mkdir(exist_ok=True)
    pq.write_table(
        pa.table(
            {
                "met_pt": rng.exponential(40.0, events).astype(np.float32),
                "signal": rng.integers(0, 2, events),
            }
        ),
        path,
    )


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    _write(tmp_path / "in" / "a.parquet", 30, 1)
    _write(tmp_path / "in" / "b.parquet", 20, 2)
    return {
        "event": {
            "globals": {"met": {"features": ["pt"]}},
            "targets": {"signal": {"kind": "classification", "classes": ["no", "yes"]}},
        },
        "read": {"reader": "parquet", "files": str(tmp_path / "in" / "*.parquet")},
        "execution": {"convert": {"workers": 1}},
        "output": str(tmp_path / "run"),
    }


def _again(document: dict[str, Any], caplog: pytest.LogCaptureFixture) -> str:
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="hepset"):
        Run.from_yaml(document).prepare()
    return "\n".join(caplog.messages)


def test_what_has_not_changed_is_skipped_and_what_has_is_named(
    document: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert "prepare: running (first time)" in _again(document, caplog)
    assert _again(document, caplog) == "prepare: up to date, skipped"
    (tmp_path / "in" / "b.parquet").touch()
    assert _again(document, caplog) == "prepare: up to date, skipped"
    _write(tmp_path / "in" / "b.parquet", 20, 3)
    assert "prepare: sources.1.digest changed from" in _again(document, caplog)
    document["prepare"] = {"shard_size": 10}
    assert "prepare: prepare.shard_size changed from 65536 to 10" in _again(document, caplog)


def _scaled(values: Any, path: str) -> Any:
    return values * float(Path(path).read_text())


def test_a_file_that_an_expression_names_is_part_of_the_inputs(
    document: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    function = Function(_scaled, "elementwise", ("x", "file"), files=frozenset({1}))
    for module in (select, plan, config):
        monkeypatch.setattr(module, "plugin_functions", lambda: {"scaled": function})
    factor = tmp_path / "factor.txt"
    factor.write_text("2")
    document["prepare"] = {"derive": {"extra.double": "scaled(met.pt, 'factor.txt')"}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(document))
    caplog.set_level(logging.INFO, logger="hepset")
    for value in (2, 3):
        factor.write_text(str(value))
        dataset = Run.from_yaml(tmp_path / "run.yaml").prepare()
        batch = next(iter(dataset.split("train").batches(100)))
        np.testing.assert_array_equal(batch["extra/double"], value * batch["met"][:, 0])
    assert "factor.txt changed from" in caplog.text
    caplog.clear()
    Run.from_yaml(tmp_path / "run.yaml").prepare()
    assert caplog.messages == ["prepare: up to date, skipped"]


def test_a_dataset_that_lost_a_shard_is_made_again(
    document: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    path = Run.from_yaml(document).prepare().path
    lost = path / "train-00000.parquet"
    before = lost.read_bytes()
    lost.unlink()
    assert "this shard of" in _again(document, caplog)
    assert lost.read_bytes() == before


def test_a_forced_stage_writes_its_files_again(
    document: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    shard = Run.from_yaml(document).prepare().path / "train-00000.parquet"
    before = shard.read_bytes()
    shard.write_bytes(bytes(len(before)))
    with caplog.at_level(logging.INFO, logger="hepset"):
        Run.from_yaml(document).run(first="prepare", last="prepare")
    assert shard.read_bytes() == before


@pytest.mark.parametrize("broken", ["a.parquet", "b.parquet"])
def test_a_truncated_file_is_skipped_on_request(
    document: dict[str, Any], tmp_path: Path, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "in" / broken
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ReadError, match=broken):
        Run.from_yaml(document).prepare()
    document["prepare"] = {"on_error": "skip"}
    said = _again(document, caplog)
    assert said.count(f"{broken}: skipped: ") == 1
    dataset = Run.from_yaml(document).dataset
    assert [skipped.key for skipped in dataset.manifest.skipped] == [broken]
    assert len(dataset) == (20 if broken == "a.parquet" else 30)
    found = check_run(Run.from_yaml(document))
    assert found.report.ok
    assert [source.key for source in found.sources][1] == f"{broken} (skipped)"


@pytest.mark.parametrize("affine", [False, True])
def test_a_file_that_lacks_a_column_of_an_expression_is_skipped_on_request(
    document: dict[str, Any], tmp_path: Path, affine: bool, caplog: pytest.LogCaptureFixture
) -> None:
    table = pq.read_table(tmp_path / "in" / "a.parquet")
    pq.write_table(table.append_column("x", table["met_pt"]), tmp_path / "in" / "a.parquet")
    feature = {"transform": [{"affine": "auto"}]} if affine else {}
    document["event"]["globals"]["met"]["features"] = {"pt": {}, "twice": feature}
    document["event"]["columns"] = ["x"]
    document["prepare"] = {"derive": {"met.twice": "2 * x"}}
    for look in (Run.prepare, check_run):
        with pytest.raises(MissingColumnError, match=r"no column 'x' in .*b\.parquet"):
            look(Run.from_yaml(document))
    document["prepare"]["on_error"] = "skip"
    assert _again(document, caplog).count("b.parquet: skipped: ") == 1
    dataset = Run.from_yaml(document).dataset
    assert len(dataset) == 30
    assert [skipped.key for skipped in dataset.manifest.skipped] == ["b.parquet"]
    found = check_run(Run.from_yaml(document))
    assert [source.key for source in found.sources] == ["a.parquet", "b.parquet (skipped)"]
    document["event"]["columns"] = ["xx"]
    document["prepare"]["derive"] = {"met.twice": "2 * xx"}
    error, message = (
        (DatasetError, "affine: auto finds no value .* stop says which files")
        if affine
        else (ReadError, r"every file was skipped(?s:.)*no column 'xx'")
    )
    with pytest.raises(error, match=message):
        Run.from_yaml(document).prepare()
    with pytest.raises(MissingColumnError, match="no column 'xx'"):
        check_run(Run.from_yaml(document))


def test_the_check_names_a_file_whatever_its_library_raises(
    document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = ColumnarReader.read

    def broken(self: Any, chunk: Chunk) -> EventBatch:
        if self.sources()[chunk.source].key.endswith("b.parquet"):
            raise RuntimeError("bad block")
        return read(self, chunk)

    monkeypatch.setattr(ColumnarReader, "read", broken)
    with pytest.raises(ReadError, match=r"b\.parquet: entries 0 to 20 cannot be read .*bad block"):
        check_run(Run.from_yaml(document))
    document["prepare"] = {"on_error": "skip"}
    found = check_run(Run.from_yaml(document))
    assert [source.key for source in found.sources] == ["a.parquet", "b.parquet (skipped)"]


def test_weights_to_start_from_that_are_not_there_are_missed_before_anything_is_read(
    document: dict[str, Any], tmp_path: Path
) -> None:
    document["model"] = {
        "backbone": {"name": "transformer"},
        "heads": {"signal": {"name": "classification", "target": "signal"}},
    }
    document["train"] = {"start_from": str(tmp_path / "nowhere")}
    for look in (check_run, Run.run):
        with pytest.raises(ConfigurationError, match=r"start_from: .*nowhere: there is no such"):
            look(Run.from_yaml(document))
    assert not (tmp_path / "run" / "dataset").exists()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"prepare": {"split": {"key": "event"}}}, ConfigurationError, "extra/event"),
        ({"execution": {"convert": {"engine": "locl"}}}, HepsetError, "did you mean 'local'"),
        (
            {"execution": {"convert": {"worker": 1}}},
            ConfigurationError,
            "worker: unknown key; did you mean 'workers'",
        ),
    ],
)
def test_check_finds_what_the_conversion_would_stumble_over(
    document: dict[str, Any], change: dict[str, Any], error: type[HepsetError], message: str
) -> None:
    with pytest.raises(error, match=message):
        check_run(Run.from_yaml({**document, **change}))
    with pytest.raises(error, match=message):
        Run.from_yaml({**document, **change}).prepare()


@pytest.mark.parametrize(
    ("split", "made"),
    [({"folds": 3}, "fold0, fold1, fold2"), ({"train": 0.0, "val": 0.5, "test": 0.5}, "val, test")],
)
def test_heads_need_a_training_split(
    document: dict[str, Any], split: dict[str, Any], made: str
) -> None:
    heads = {"heads": {"signal": {"name": "classification", "target": "signal"}}}
    run = Run.from_yaml({**document, "prepare": {"split": split}, "model": heads})
    message = f"the heads need a split 'train', this makes {made};"
    with pytest.raises(ConfigurationError, match=message):
        run.run()
    with pytest.raises(ConfigurationError, match=message):
        check_run(run)
    assert not run.output.exists()
    assert len(run.prepare()) == 50


def test_no_events_are_no_success(document: dict[str, Any], tmp_path: Path) -> None:
    none = {**document, "prepare": {"select": "met.pt > 1e9"}}
    assert check_run(Run.from_yaml(none)).sources[0].selected == 0
    with pytest.raises(DatasetError, match=r"none of 50 events passes prepare\.select"):
        check_run(Run.from_yaml(none), full=True)
    for name in ("a", "b"):
        _write(tmp_path / "in" / f"{name}.parquet", 0, 1)
    with pytest.raises(DatasetError, match=r"there are no events in a.parquet, b.parquet"):
        check_run(Run.from_yaml(document))


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"callbacks": [{"name": "emma"}]}, "emma.*ema"),
        ({"callbacks": [{"name": "ema", "decoy": 1}]}, r"train\.callbacks\.0: decoy"),
        ({"loss_combination": "fano"}, "fano.*famo"),
        ({"loss_combination": {"name": "famo", "lower": {"sgnal": 1}}}, "sgnal.*signal"),
        ({"optimizer": "adamv"}, "adamv"),
        ({"stages": [{"name": "a", "epochs": 1, "freeze": ["heads.sgnal"]}]}, "sgnal.*signal"),
        ({"stages": [{"name": "a", "epochs": 1, "loss_weights": {"sgnal": 1}}]}, "sgnal.*signal"),
    ],
)
def test_a_check_finds_wrong_names_of_the_training(
    document: dict[str, Any], train: dict[str, Any], message: str
) -> None:
    document["model"] = {"heads": {"signal": {"name": "classification", "target": "signal"}}}
    with pytest.raises(HepsetError, match=message):
        check_run(Run.from_yaml({**document, "train": train}))
