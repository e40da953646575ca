from __future__ import annotations

import os
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_allclose

import hepset.stream
from hepset import Run
from hepset.dataset.loader import ids_of
from hepset.errors import ConfigurationError, ContractError, MissingColumnError, ReadError
from hepset.plugins import registry
from hepset.stream import read_scalars

ROWS = 900


def table(seed: int, rows: int = ROWS) -> pa.Table:
    """Jets of a file; signal is rare and hard."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 6, rows)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    signal = rng.random(rows) < 0.15

    def jagged(values: np.ndarray) -> pa.Array:
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values))

    total = int(offsets[-1])
    return pa.table(
        {
            "jet_pt": jagged(rng.exponential(40, total).astype(np.float32)),
            "jet_eta": jagged(rng.normal(0, 1.5, total).astype(np.float32)),
            "met": pa.array(rng.exponential(np.where(signal, 80, 30)).astype(np.float32)),
            "signal": pa.array(signal.astype(np.int32)),
        }
    )


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    for index in range(3):
        pq.write_table(table(index), tmp_path / f"part{index}.parquet", row_group_size=250)
    return {
        "event": {
            "streams": {"jets": {"slots": 5, "features": ["pt", "eta", "share"], "order": "-pt"}},
            "globals": {"met": {"features": ["pt"]}},
            "targets": {"signal": {"kind": "classification", "classes": ["no", "yes"]}},
        },
        "read": {
            "reader": "parquet",
            "files": [str(tmp_path / "*.parquet")],
            "chunk_size": 200,
            "columns": {
                "streams.jets.pt": "jet_pt",
                "streams.jets.eta": "jet_eta",
                "globals.met.pt": "met",
                "targets.signal": "signal",
            },
        },
        "prepare": {
            "select": {"met": "met.pt > 10"},
            "derive": {"jets.share": "jets.pt / sum(jets.pt)"},
            "split": {"train": 0.7, "val": 0.3, "test": 0.0},
        },
        "seed": 4,
        "output": str(tmp_path / "run"),
    }


def contents(batches: Any) -> dict[tuple[int, int], list[np.ndarray]]:
    """Tensors by source and entry; an event that is shown twice is the same both times."""
    found: dict[tuple[int, int], list[np.ndarray]] = {}
    for batch in batches:
        ids = ids_of(batch["ids"])
        for row, key in enumerate(zip(ids["source"].tolist(), ids["entry"].tolist(), strict=True)):
            tensors = [batch[n][row].numpy() for n in ("jets", "jets.mask", "met")]
            tensors.append(batch["target/signal"][row].numpy())
            for known, tensor in zip(found.setdefault(key, tensors), tensors, strict=True):
                np.testing.assert_array_equal(known, tensor)
    return found


def shown(batches: Any) -> Counter[tuple[int, int]]:
    counter: Counter[tuple[int, int]] = Counter()
    for batch in batches:
        ids = ids_of(batch["ids"])
        counter.update(zip(ids["source"].tolist(), ids["entry"].tolist(), strict=True))
    return counter


def test_a_stream_gives_what_a_conversion_gives(document: dict[str, Any]) -> None:
    run = Run.from_yaml(document)
    dataset = run.prepare()
    for split in ("train", "val"):
        converted = contents(dataset.loader(split, batch_size=64, ids=True))
        streamed = contents(run.stream(split, batch_size=64))
        assert streamed.keys() == converted.keys()
        for key, tensors in converted.items():
            for expected, found in zip(tensors, streamed[key], strict=True):
                np.testing.assert_array_equal(found, expected)


def test_batches_are_full_and_epochs_differ(document: dict[str, Any]) -> None:
    stream = Run.from_yaml(document).stream(batch_size=64, window=3)
    first, second = list(stream), list(stream)
    assert {len(batch["met"]) for batch in first[:-1]} == {64}
    assert shown(first) == shown(second)
    assert first[0]["ids"].tolist() != second[0]["ids"].tolist()
    again = Run.from_yaml(document).stream(batch_size=64, window=3)
    assert [b["ids"].tolist() for b in again] == [b["ids"].tolist() for b in first]
    # All three files are in the early part of an epoch.
    early = np.concatenate([ids_of(batch["ids"])["source"] for batch in first[:8]])
    assert set(early.tolist()) == {0, 1, 2}


SAMPLING = {
    "variables": {"met.pt": [10, 20, 40, 80, 160]},
    "classes": "signal",
    "threshold": 0,
}


@pytest.mark.parametrize("sampler", ["exact", "accept_reject"])
def test_what_is_shown_does_not_depend_on_how_files_are_cut(
    document: dict[str, Any], sampler: str
) -> None:
    document["train"] = {"sampling": {**SAMPLING, "sampler": sampler}}
    document["read"]["chunk_size"] = 900
    whole = Run.from_yaml(document).stream()
    document["read"]["chunk_size"] = 130
    cut = Run.from_yaml(document).stream(window=2)
    for _ in range(2):
        assert shown(whole) == shown(cut)


def test_sampling_balances_classes_and_flattens_spectra(document: dict[str, Any]) -> None:
    document["train"] = {"sampling": SAMPLING}
    stream = Run.from_yaml(document).stream()
    met, signal = [], []
    for _ in range(30):
        for batch in stream:
            met.append(batch["met"][:, 0].numpy())
            signal.append(batch["target/signal"].numpy())
    labels = np.concatenate(signal)
    assert labels.mean() == pytest.approx(0.5, abs=0.02)
    for label in (0, 1):
        spectrum, _ = np.histogram(np.concatenate(met)[labels == label], [10, 20, 40, 80, 160])
        assert_allclose(spectrum / spectrum.sum(), 0.25, atol=0.02)
    assert np.concatenate(met).max() <= 160


def test_objects_may_decide_too(document: dict[str, Any]) -> None:
    """A cut on jets is decided after reading them, with the same result as a conversion's."""
    document["prepare"]["select"] = {"ht": "sum(jets.pt) > 80"}
    run = Run.from_yaml(document)
    assert (
        shown(run.stream()).keys()
        == contents(run.prepare().loader("train", batch_size=64, ids=True)).keys()
    )


def test_bad_data_and_bad_options_are_named(document: dict[str, Any], tmp_path: Path) -> None:
    run = Run.from_yaml(document)
    with pytest.raises(ConfigurationError, match="no split 'trian'"):
        run.stream("trian")
    with pytest.raises(ConfigurationError, match="batch_size = 0"):
        run.stream(batch_size=0)
    broken = table(0).set_column(2, "met", pa.array(np.full(ROWS, np.nan, np.float32)))
    pq.write_table(broken, tmp_path / "part1.parquet", row_group_size=250)
    document["prepare"]["select"] = {}
    with pytest.raises(ContractError, match=r"part1\.parquet.*met"):
        list(Run.from_yaml(document).stream())
    document["event"]["streams"]["jets"]["slots"] = "auto"
    with pytest.raises(ConfigurationError, match=r"streams\.jets\.slots"):
        Run.from_yaml(document).stream()


def test_a_throw_accepts_an_event_once_however_large_its_factor(document: dict[str, Any]) -> None:
    document["train"] = {
        "sampling": {
            "method": "weights",
            "base_weight": "where(met.pt > 100, 1000, 0)",
            "sampler": "accept_reject",
        }
    }
    run = Run.from_yaml(document)
    counts = shown(run.stream("train"))
    hard = len(counts)
    # As many tries as the events that a throw accepts leave room for, not as the factors sum to.
    assert set(counts.values()) == {min(10, len(shown(run.stream("train", sampling=None))) // hard)}


def test_an_empty_epoch_is_logged(
    document: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    document["prepare"]["select"] = {"met": "met.pt > 1e9"}
    with caplog.at_level("WARNING", logger="hepset"):
        assert not list(Run.from_yaml(document).stream("train"))
    assert "no event of the files is in the split 'train'" in caplog.text


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of events that were read once for what decides about them."""
    found: list[int] = []

    def counted(plan: Any, work: Any, chunk: Any) -> Any:
        batch = read_scalars(plan, work, chunk)
        found.append(len(batch))
        return batch

    monkeypatch.setattr(hepset.stream, "read_scalars", counted)
    return found


def test_a_stream_that_is_left_reads_no_further_and_leaves_no_thread(
    document: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    go, reading = threading.Event(), threading.Event()
    calls: list[int] = []

    def slow(plan: Any, work: Any, chunk: Any) -> Any:
        calls.append(chunk.start)
        if len(calls) == 2:
            reading.set()
            assert go.wait(30)
        return read_scalars(plan, work, chunk)

    document["read"]["chunk_size"] = 100
    stream = Run.from_yaml(document).stream(batch_size=16, window=20)
    monkeypatch.setattr(hepset.stream, "read_scalars", slow)
    epoch: Any = iter(stream)
    next(epoch)
    assert reading.wait(30), "the next window is read while a batch is used"
    threading.Timer(0.3, go.set).start()
    epoch.close()
    assert len(calls) == 2
    assert not [t for t in threading.enumerate() if t.name.startswith("hepset-stream")]


def started(document: dict[str, Any]) -> Any:
    return Run.from_yaml(document).stream()


def test_a_second_start_makes_no_pass_over_the_events(
    document: dict[str, Any], passes: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    document["train"] = {"sampling": SAMPLING}
    caplog.set_level("INFO")
    first = contents(started(document))
    assert "learnt the spectra" in caplog.text
    passes.clear()
    again = started(document)
    assert sum(passes) == 1, "one event shows what columns there are"
    assert "are those kept in" in caplog.text
    assert contents(again).keys() == first.keys()
    assert not [p for p in Path(document["output"]).parent.glob("*") if p.suffix == ".npz"]


@pytest.mark.parametrize("changed", ["file", "cut", "bins", "seed"])
def test_what_was_learnt_of_other_events_does_not_count(
    document: dict[str, Any], passes: list[int], changed: str, tmp_path: Path
) -> None:
    document["train"] = {"sampling": SAMPLING}
    started(document)
    passes.clear()
    if changed == "file":
        file = tmp_path / "part1.parquet"
        os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    elif changed == "cut":
        document["prepare"]["select"] = {"met": "met.pt > 11"}
    elif changed == "seed":
        document["seed"] = 5
    else:
        document["train"] = {"sampling": {**SAMPLING, "threshold": 20.0}}
    started(document)
    assert sum(passes) > ROWS


def test_options_that_change_no_spectrum_keep_it(
    document: dict[str, Any], passes: list[int]
) -> None:
    document["train"] = {"sampling": SAMPLING}
    started(document)
    passes.clear()
    document["train"] = {"sampling": {**SAMPLING, "events": 700}}
    stream = started(document)
    assert sum(passes) == 1
    assert 500 < sum(shown(stream).values()) < 900


def test_spectra_are_learnt_again_for_another_version_of_a_plugin(
    document: dict[str, Any], passes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    document["train"] = {"sampling": SAMPLING}
    started(document)
    passes.clear()
    loaded = registry().loaded
    newer = [replace(plugin, version=f"{plugin.version}.1") for plugin in loaded]
    monkeypatch.setattr(type(registry()), "loaded", property(lambda _: tuple(newer)))
    started(document)
    assert sum(passes) > ROWS


@pytest.mark.parametrize("size", [0, 100])
def test_a_truncated_file_of_spectra_is_made_again(
    document: dict[str, Any], passes: list[int], size: int
) -> None:
    document["train"] = {"sampling": SAMPLING}
    expected = shown(started(document))
    kept = Path(document["output"]) / "stream" / "sampling-train.npz"
    whole = kept.read_bytes()
    kept.write_bytes(whole[:size])
    passes.clear()
    assert shown(started(document)) == expected
    assert sum(passes) > ROWS
    assert kept.stat().st_size == len(whole)
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


def damage(path: Path, group: int, column: int) -> None:
    """Overwrite what a Parquet file holds of a column in one row group."""
    chunk = pq.ParquetFile(path).metadata.row_group(group).column(column)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    raw = bytearray(path.read_bytes())
    raw[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(bytes(raw))


def files_of(counts: Counter[tuple[int, int]]) -> dict[int, int]:
    """Source → number of its events that were shown."""
    return dict(Counter(source for source, _ in counts))


MET, JET_PT = 2, 0


@pytest.mark.parametrize("broken", [0, 1])
@pytest.mark.parametrize("sampling", [None, SAMPLING])
def test_a_file_that_is_damaged_inside_is_left_out_on_request(
    document: dict[str, Any],
    tmp_path: Path,
    broken: int,
    sampling: dict[str, Any] | None,
    caplog: pytest.LogCaptureFixture,
) -> None:
    document["train"] = {} if sampling is None else {"sampling": sampling}
    whole = files_of(shown(started(document)))
    key = f"part{broken}.parquet"
    damage(tmp_path / key, 2, MET)
    with pytest.raises(ReadError, match=key):
        list(started(document))
    document["prepare"]["on_error"] = "skip"
    stream = started(document)
    first, second = (files_of(shown(stream)) for _ in range(2))
    others = {index for index in range(3) if index != broken}
    assert set(second) == others
    if sampling is None:
        # Row groups before the damaged one may have been shown when it is met.
        assert first.get(broken, 0) < whole[broken]
        assert all(first[other] == second[other] == whole[other] for other in others)
    else:
        assert set(first) == others, "the pass over all events has met the damage"
    assert list(stream.skipped) == [key]
    assert caplog.text.count(f"{key}: skipped from here on: ") == 1


def test_spectra_are_those_of_the_files_that_are_left(
    document: dict[str, Any], tmp_path: Path
) -> None:
    document["train"] = {"sampling": SAMPLING}
    document["prepare"]["on_error"] = "skip"
    damage(tmp_path / "part1.parquet", 2, MET)
    found = [shown(started(document)) for _ in range(2)]
    assert found[0] == found[1]
    assert not (Path(document["output"]) / "stream").exists(), "a transient error is not kept"
    (tmp_path / "part1.parquet").unlink()
    expected = shown(started(document))
    assert found[0] == {(2 * source, entry): n for (source, entry), n in expected.items()}


def test_damaged_objects_are_met_when_they_are_read(
    document: dict[str, Any], tmp_path: Path
) -> None:
    document["train"] = {"sampling": SAMPLING}
    document["prepare"]["on_error"] = "skip"
    damage(tmp_path / "part2.parquet", 0, JET_PT)
    stream = started(document)
    list(stream)
    assert list(stream.skipped) == ["part2.parquet"]
    assert set(files_of(shown(stream))) == {0, 1}


@pytest.mark.parametrize("lacks", [0, 1])
def test_a_file_that_lacks_a_column_of_an_expression_is_left_out_on_request(
    document: dict[str, Any], tmp_path: Path, lacks: int, caplog: pytest.LogCaptureFixture
) -> None:
    for index in {0, 1, 2} - {lacks}:
        full = table(index)
        full = full.append_column("quality", full["met"])
        pq.write_table(full, tmp_path / f"part{index}.parquet")
    document["event"]["columns"] = ["quality"]
    document["prepare"]["select"] = {"quality": "quality > 10"}
    with pytest.raises(MissingColumnError, match=rf"no column 'quality' in .*part{lacks}"):
        list(started(document))
    document["prepare"]["on_error"] = "skip"
    stream = started(document)
    assert set(files_of(shown(stream))) == {0, 1, 2} - {lacks}
    assert list(stream.skipped) == [f"part{lacks}.parquet"]
    assert "no column 'quality'" in caplog.text


def test_files_that_do_not_open_are_named_and_nothing_left_is_an_error(
    document: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    document["prepare"]["on_error"] = "skip"
    (tmp_path / "part1.parquet").write_bytes(b"PAR1")
    stream = started(document)
    assert list(stream.skipped) == ["part1.parquet"]
    assert caplog.text.count("part1.parquet: skipped: ") == 1
    for index in (0, 2):
        for column in (MET, JET_PT):
            damage(tmp_path / f"part{index}.parquet", 0, column)
    with pytest.raises(ReadError, match="every file was skipped"):
        started(document)
