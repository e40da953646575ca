from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hepset.batch import EventBatch
from hepset.convert import convert, lengths, prepare_dataset
from hepset.convert.engines import LocalEngine, LocalEngineConfig
from hepset.convert.plan import make_plan
from hepset.dataset import Dataset, open_dataset
from hepset.errors import ConfigurationError, ContractError, DatasetError, ReadError
from hepset.interfaces import Chunk
from hepset.readers import open_reader
from hepset.schema.config import PrepareConfig
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo
from synthetic_events import SequentialSyntheticReader, SyntheticConfig, SyntheticReader

CUTS = {"three": "count(jets) >= 3", "weight": "weight > 0.1"}
DERIVED = {
    "jets.share": "jets.pt / sum(jets.pt)",
    "met.log": "log(met.pt)",
    "extra.ht": "sum(jets.pt)",
}


def make(
    output: Path,
    *,
    workers: int = 1,
    reader: type[SyntheticReader] = SyntheticReader,
    prepare: dict[str, Any] | None = None,
    seed: int = 3,
    **options: Any,
) -> Dataset:
    made = reader(SyntheticConfig(**{"events": 600, "chunk_size": 200, **options}))
    event = made.event_info()
    engine = LocalEngine(LocalEngineConfig(workers=workers))
    try:
        return prepare_dataset(
            [made],
            event=event,
            contract=compile_contract(event),
            config=PrepareConfig.model_validate(prepare or {}),
            seed=seed,
            output=output,
            engine=engine,
            provenance={"test": True},
        )
    finally:
        engine.close()


def digests(directory: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in directory.iterdir()
    }


FULL: dict[str, Any] = {"select": CUTS, "derive": DERIVED, "shard_size": 200}


def test_bytes_do_not_depend_on_workers_or_chunks(tmp_path: Path) -> None:
    expected = digests(make(tmp_path / "one", prepare=FULL).path)
    assert len(expected) > 4
    for name, workers, chunk in (("two", 2, 70), ("three", 3, 130), ("small", 1, 37)):
        found = make(tmp_path / name, workers=workers, prepare=FULL, chunk_size=chunk)
        assert digests(found.path) == expected
    other = make(tmp_path / "seed", prepare=FULL, seed=4)
    assert digests(other.path)["train-00000.parquet"] != expected["train-00000.parquet"]


@pytest.mark.parametrize("flat", [True, False])
def test_counting_pass_and_sequential_reader_change_nothing(tmp_path: Path, flat: bool) -> None:
    plain = make(tmp_path / "plain", prepare=FULL, flat=flat)
    sequence = make(
        tmp_path / "sequence", prepare=FULL, flat=flat, reader=SequentialSyntheticReader, workers=2
    )
    one, other = digests(plain.path), digests(sequence.path)
    # The reader is on record; the events are the same.
    one.pop("dataset.json"), other.pop("dataset.json")
    assert one == other
    counted = make(tmp_path / "auto", prepare=FULL, flat=flat, auto=True, chunk_size=51)
    again = make(tmp_path / "again", prepare=FULL, flat=flat, auto=True, workers=2)
    assert digests(counted.path) == digests(again.path)
    longest = max(int(b["jets.mask"].sum(1).max()) for b in counted.split("train").batches(500))
    assert longest <= counted.contract.slots["jets"] <= 18  # type: ignore[operator]


def everything(reader: SyntheticReader) -> EventBatch:
    from hepset.batch import concatenate

    return concatenate(list(reader))


def test_every_selected_event_arrives_once_with_its_content(tmp_path: Path) -> None:
    dataset = make(
        tmp_path / "d", prepare={**FULL, "split": {"train": 0.5, "val": 0.25, "test": 0.25}}
    )
    batch = everything(SyntheticReader(SyntheticConfig(events=600, chunk_size=600)))
    counts = batch.flat("jets").counts
    passed = (counts >= 3) & (batch["weight"] > 0.1)
    rows = {
        (int(s), int(e)): i
        for i, (s, e) in enumerate(zip(batch.ids["source"], batch.ids["entry"], strict=True))
    }
    seen: set[tuple[int, int]] = set()
    flat = batch.flat("jets")
    for name, split in dataset.splits.items():
        assert len(split) == sum(len(b) for b in split.batches(64))
        fraction = {"train": 0.5, "val": 0.25, "test": 0.25}[name]
        assert abs(len(split) - fraction * passed.sum()) < 5 * np.sqrt(passed.sum() * fraction)
        for part in split.batches(64):
            for row, key in enumerate(zip(part.ids["source"], part.ids["entry"], strict=True)):
                index = rows[int(key[0]), int(key[1])]
                seen.add((int(key[0]), int(key[1])))
                jets = slice(flat.offsets[index], flat.offsets[index + 1])
                pt = flat.columns["pt"][jets]
                order = np.argsort(-pt, kind="stable")
                n = len(pt)
                np.testing.assert_array_equal(part["jets"][row, :n, 0], pt[order])
                np.testing.assert_allclose(
                    part["jets"][row, :n, 7], pt[order] / pt.sum(), rtol=1e-5
                )
                assert part["jets.mask"][row].sum() == n
                assert not part["jets"][row, n:].any()
                np.testing.assert_array_equal(
                    part["target/jets/flavour"][row, :n],
                    flat.attached["target/jets/flavour"][jets][order],
                )
                assert (part["target/jets/flavour"][row, n:] == -1).all()
                np.testing.assert_allclose(
                    part["met"][row, 2], np.log(batch["met"][index, 0]), rtol=1e-6
                )
                np.testing.assert_allclose(part["extra/ht"][row], pt.astype(float).sum(), rtol=1e-6)
                for tensor in (
                    "target/signal",
                    "target/mass",
                    "weight",
                    "extra/truth",
                    "extra/name",
                ):
                    np.testing.assert_array_equal(part[tensor][row], batch[tensor][index])
                for particle in ("t1", "t2"):
                    old = batch[f"target/assignment/{particle}"][index]
                    new = part[f"target/assignment/{particle}"][row]
                    expected = [list(order).index(i) if i >= 0 else -1 for i in old]
                    assert list(new) == expected
    assert len(seen) == passed.sum() == len(dataset)
    steps = dataset.cutflow
    assert [step.name for step in steps] == ["all events", "three", "weight"]
    assert [step.total.events for step in steps] == [1200, (counts >= 3).sum(), passed.sum()]
    assert steps[2].total.sum_of_weights == pytest.approx(batch["weight"][passed].sum(), rel=1e-14)
    assert sum(source.rows["train"] for source in dataset.manifest.sources) == len(
        dataset.split("train")
    )
    assert dataset.manifest.class_names["target/kind"] == ("0", "1", "2")
    assert dataset.manifest.event.targets["kind"].classes == ("0", "1", "2")
    assert dataset.contract.resolved
    assert dataset.contract.check(next(dataset.split("train").batches(100))).ok


def test_statistics_are_those_of_the_training_split(tmp_path: Path) -> None:
    dataset = make(tmp_path / "d", prepare=FULL)
    arrays = dataset.split("train").read(["jets", "jets.mask", "met", "target/mass", "target/kind"])
    jets = arrays["jets"][arrays["jets.mask"]].astype(np.float64)
    found = dataset.statistics.tensors["jets"]
    for index, name in enumerate(dataset.contract["jets"].columns):
        column = found.columns[name]
        assert column.count == len(jets)
        assert column.mean == pytest.approx(jets[:, index].mean(), rel=1e-12, abs=1e-12)
        assert column.std == pytest.approx(jets[:, index].std(), rel=1e-12)
    assert found.transformed["pt"].mean == pytest.approx(np.log1p(jets[:, 0]).mean(), rel=1e-12)
    assert found.transformed["mass"].std == pytest.approx(
        np.arcsinh(jets[:, 3] / 2).std(), rel=1e-12
    )
    assert "phi" not in found.transformed
    assert found.multiplicity is not None
    assert found.multiplicity.mean == pytest.approx(arrays["jets.mask"].sum(1).mean(), rel=1e-12)
    mass = dataset.statistics.tensors["target/mass"].columns[""]
    assert mass.non_finite == np.isnan(arrays["target/mass"]).sum()
    labels = dataset.statistics.labels["target/kind"]
    assert labels.events == [int((arrays["target/kind"] == i).sum()) for i in range(3)]
    assert labels.missing == (arrays["target/kind"] == -1).sum()
    assert dataset.manifest.prior["target/kind"][0] == pytest.approx(
        labels.events[0] / sum(labels.events)
    )


def test_finished_data_set_is_left_alone_and_a_changed_one_is_replaced(tmp_path: Path) -> None:
    first = make(tmp_path / "d", prepare=FULL)
    times = {path.name: path.stat().st_mtime_ns for path in first.path.iterdir()}
    make(tmp_path / "d", prepare=FULL, chunk_size=99)
    assert {path.name: path.stat().st_mtime_ns for path in first.path.iterdir()} == times
    (tmp_path / "d" / "notes.txt").write_text("mine")
    second = make(tmp_path / "d", prepare={"shard_size": 5000})
    assert {p.name for p in second.path.iterdir()} == {
        "dataset.json",
        "notes.txt",
        "test-00000.parquet",
        "train-00000.parquet",
        "val-00000.parquet",
    }
    assert second.verify() == 3


def test_the_inputs_of_a_plan_say_what_changed() -> None:
    def inputs(seed: int = 1, **options: Any) -> dict[str, Any]:
        reader = SyntheticReader(SyntheticConfig(**options))
        event = reader.event_info()
        arguments: dict[str, Any] = {
            "event": event,
            "contract": compile_contract(event),
            "config": PrepareConfig(),
            "seed": seed,
        }
        plan = make_plan([reader], **arguments)
        assert len(plan.key) == 32
        return plan.inputs

    base = inputs()
    assert inputs(chunk_size=7) == base
    changed = inputs(seed=2)
    assert {key for key in base if base[key] != changed[key]} == {"seed"}
    changed = inputs(events=7)
    assert {key for key in base if base[key] != changed[key]} == {"readers", "sources"}


def test_groups_folds_and_keys(tmp_path: Path) -> None:
    groups = {"train": {"groups": ["a"]}, "val": {"groups": ["c"]}, "test": {"groups": ["b"]}}
    names = ("toy:1", "toy:2", "toy:3")
    dataset = make(
        tmp_path / "g", prepare={"split": groups}, names=names, groups=("a", "b", "c"), events=50
    )
    assert {n: set(s.read("extra/group")["extra/group"]) for n, s in dataset.splits.items()} == {
        "train": {"a"}, "val": {"c"}, "test": {"b"},
    }  # fmt: skip
    with pytest.raises(ConfigurationError, match=r"\['c'\] belong to no split"):
        make(
            tmp_path / "h",
            prepare={"split": {**groups, "val": 0.0}},
            names=names,
            groups=("a", "b", "c"),
        )
    folds = make(tmp_path / "f", prepare={"split": {"folds": 5}})
    assert list(folds.splits) == [f"fold{i}" for i in range(5)]
    assert folds.statistics.events == len(folds) == 1200
    # Both sources have the same run and event numbers: copies share a split.
    numbered = make(tmp_path / "n", numbered=True)
    assert numbered.manifest.split_rule.hashed == ("event",)
    where = {
        name: [set(part["entry"][part["source"] == s]) for s in (0, 1)]
        for name, split in numbered.splits.items()
        for part in [split.read("ids")["ids"]]
    }
    assert all(first == second for first, second in where.values())
    with pytest.raises(ConfigurationError, match="extra/event"):
        make(tmp_path / "e", prepare={"split": {"key": "event"}})


def test_class_sorted_input_is_shuffled_as_well_as_can_be(tmp_path: Path) -> None:
    dataset = make(
        tmp_path / "d", events=20_000, chunk_size=10_000, sorted_by_class=True, rich=False,
        prepare={"shard_size": 8192, "split": {"train": 1.0, "val": 0.0, "test": 0.0}},
    )  # fmt: skip
    assert list(dataset.splits) == ["train"]
    labels = dataset.split("train").read("target/signal")["target/signal"]
    assert len(labels) == 40_000
    size = 256
    fractions = labels[: len(labels) // size * size].reshape(-1, size).mean(axis=1)
    ideal = 0.5 / np.sqrt(size)
    # 156 batches: the spread itself is known to 6 %.
    assert fractions.std() < 1.1 * ideal
    assert abs(fractions.mean() - 0.5) < 0.001


def test_nothing_left_is_an_error_with_the_cutflow(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"none of 1200 events .*\n +1200  all events\n +0  no: weight > 5"
    ):
        make(tmp_path / "d", prepare={"select": {"no": "weight > 5"}})
    with pytest.raises(DatasetError, match=r"no dataset\.json"):
        open_dataset(tmp_path / "d")
    with pytest.raises(ConfigurationError, match="read twice"):
        make(tmp_path / "e", names=("toy:a", "toy:a"))


class Duplicating(SyntheticReader):
    def read(self, chunk: Chunk) -> EventBatch:
        batch = super().read(chunk)
        ids = batch.ids.copy()
        ids["entry"][5] = ids["entry"][6]
        return replace(batch, ids=ids)


class Invalid(SyntheticReader):
    def read(self, chunk: Chunk) -> EventBatch:
        batch = super().read(chunk)
        arrays = dict(batch.arrays)
        arrays["met"] = np.where(batch.ids["entry"][:, None] % 100 == 3, np.nan, arrays["met"])
        arrays["target/signal"] = arrays["target/signal"] + (batch.ids["entry"] == 7) * 300
        return replace(batch, arrays=arrays)


class Several(SyntheticReader):
    """Two samples of every event."""

    def read(self, chunk: Chunk) -> EventBatch:
        batch = super().read(chunk)
        twice = batch.take(np.repeat(np.arange(len(batch)), 2))
        twice.ids["sample"] = np.tile([0, 1], len(batch))
        return twice


def test_duplicate_ids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"toy:[ab]: entry 6, sample 0 occurs twice"):
        make(tmp_path / "d", reader=Duplicating, chunk_size=600, prepare={"split": {"folds": 2}})


def test_samples_of_an_event_share_its_split(tmp_path: Path) -> None:
    dataset = make(tmp_path / "d", reader=Several)
    assert len(dataset) == 2400
    for split in dataset.splits.values():
        ids = split.read("ids")["ids"]
        assert sorted(map(tuple, ids[ids["sample"] == 0][["source", "entry"]])) == sorted(
            map(tuple, ids[ids["sample"] == 1][["source", "entry"]])
        )


def test_strict_lists_all_violations_and_report_goes_on(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="3 violations") as caught:
        make(tmp_path / "d", reader=Invalid, prepare={"check": "strict"})
    assert "met.pt: finite in 12 of 1200 events (first: entry 3)" in str(caught.value)
    assert "target/signal: labels in 2 of 1200 events (first: entry 7)" in str(caught.value)
    assert not list((tmp_path / "d").iterdir())
    dataset = make(tmp_path / "d", reader=Invalid, prepare={"check": "report"})
    assert [v.events for v in dataset.manifest.report.errors] == [12, 12, 2]
    assert len(dataset) == 1200
    labels = dataset.split("train").read("target/signal")["target/signal"]
    assert labels.max() <= 301
    again = make(tmp_path / "e", reader=Invalid, prepare={"check": "report"}, chunk_size=77)
    assert digests(again.path) == digests(dataset.path)


def test_unreadable_source_is_skipped_whole(tmp_path: Path) -> None:
    with pytest.raises(ReadError, match="damaged on purpose"):
        make(tmp_path / "d", broken=(1,))
    dataset = make(tmp_path / "d", broken=(1,), prepare={"on_error": "skip"})
    assert [(s.key, s.reason) for s in dataset.manifest.skipped] == [
        ("toy:b", "toy:b: entry 300: damaged on purpose")
    ]
    assert len(dataset) == 600
    assert dataset.cutflow[0].total.events == 600
    assert not dataset.manifest.sources[1].trained
    coarse = make(tmp_path / "e", broken=(1,), prepare={"on_error": "skip"}, chunk_size=600)
    assert digests(coarse.path) == digests(dataset.path)


def test_jagged_streams_hold_the_same_events(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    padded = make(tmp_path / "p", prepare=FULL)
    monkeypatch.setattr(lengths, "MANY_SLOTS", 10)
    jagged = make(tmp_path / "j", prepare=FULL, flat=False)
    assert jagged.manifest.layouts["jets"].layout == "jagged"
    assert jagged.manifest.layouts["jets.mask"].layout == "counts"
    assert jagged.manifest.layouts["extra/origin"].layout == "jagged"
    names = [layout.name for layout in padded.manifest.columns]
    for split in ("train", "test"):
        one, other = (
            padded.split(split).read([*names, "ids"]),
            jagged.split(split).read([*names, "ids"]),
        )
        for name, values in one.items():
            np.testing.assert_array_equal(values, other[name], err_msg=name)
        for a, b in zip(
            padded.split(split).batches(33), jagged.split(split).batches(33), strict=True
        ):
            np.testing.assert_array_equal(a["jets"], b["jets"])
            np.testing.assert_array_equal(a["target/jets/flavour"], b["target/jets/flavour"])
    for tensor in ("jets", "target/jets/energy"):
        one_stat, other_stat = (d.statistics.tensors[tensor] for d in (padded, jagged))
        for name, column in one_stat.columns.items():
            assert column.count == other_stat.columns[name].count
            assert column.mean == pytest.approx(other_stat.columns[name].mean, rel=1e-12)


PROGRAM = """
from pathlib import Path
from hepset.convert import prepare_dataset
from hepset.convert.engines import LocalEngine, LocalEngineConfig
from hepset.schema.config import PrepareConfig
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo
from synthetic_events import SyntheticConfig, SyntheticReader

if __name__ == "__main__":
    reader = SyntheticReader(SyntheticConfig(events=4000, chunk_size=250))
    event = reader.event_info()
    engine = LocalEngine(LocalEngineConfig(workers={workers}))
    prepare_dataset(
        [reader], event=event, contract=compile_contract(event),
        config=PrepareConfig(shard_size=400), seed=3, output=Path({output!r}), engine=engine,
        provenance={{"test": True}},
    )
    engine.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["read", "write"])
def test_killed_conversion_goes_on_and_gives_the_same_bytes(tmp_path: Path, stage: str) -> None:
    options: dict[str, Any] = {"events": 4000, "chunk_size": 250}
    expected = digests(make(tmp_path / "whole", prepare={"shard_size": 400}, **options).path)
    output = tmp_path / "killed"
    script = tmp_path / "convert.py"
    script.write_text(PROGRAM.format(workers=2, output=str(output)))
    process = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        start_new_session=True,
    )
    pattern = ".work/range-*.arrow" if stage == "read" else ".work/*.parquet.json"
    deadline = time.monotonic() + 60
    while len(list(output.glob(pattern))) < 3 and time.monotonic() < deadline:
        assert process.poll() is None, "finished before it could be killed"
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    time.sleep(0.5)  # the workers notice that their parent is gone
    assert not (output / "dataset.json").exists()
    with pytest.raises(DatasetError, match="has not finished"):
        open_dataset(output)
    (output / ".train-00000.parquet.1.tmp").write_bytes(b"cut")
    found = make(output, prepare={"shard_size": 400}, **options)
    assert digests(found.path) == expected
    found.verify()


def test_finished_ranges_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(convert, "write_one_shard", stop)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "d")
    with monkeypatch.context() as patch:
        patch.setattr(SyntheticReader, "read", stop)
        found = make(tmp_path / "d")
    assert digests(found.path) == digests(make(tmp_path / "e").path)
    with monkeypatch.context() as patch:
        patch.setattr(convert, "write_one_shard", stop)
        with pytest.raises(KeyboardInterrupt):
            make(tmp_path / "f", seed=1)
    # Another seed: the old work is thrown away.
    assert digests(make(tmp_path / "f").path) == digests(found.path)


def test_second_conversion_into_one_directory_is_refused(tmp_path: Path) -> None:
    work = tmp_path / ".work"
    work.mkdir()
    with convert._lock(work), pytest.raises(DatasetError, match="another conversion"):
        make(tmp_path)


def test_progress_ends_with_everything(tmp_path: Path) -> None:
    seen: list[convert.Progress] = []
    reader = SyntheticReader(SyntheticConfig(events=100, chunk_size=30, auto=True))
    event = reader.event_info()
    prepare_dataset(
        [reader], event=event, contract=compile_contract(event), config=PrepareConfig(), seed=1,
        output=tmp_path / "d", progress=seen.append,
    )  # fmt: skip
    last = {progress.phase: progress for progress in seen}
    assert [(p.phase, p.done, p.total) for p in last.values()] == [
        ("count", 200, 200), ("read", 200, 200), ("write", 200, 200),
    ]  # fmt: skip


class Unnumbered(SyntheticReader):
    def read(self, chunk: Chunk) -> EventBatch:
        batch = super().read(chunk)
        return batch.with_arrays({"extra/event": np.zeros(len(batch), np.int64)})


def test_event_numbers_that_are_none_are_noticed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path / "d", reader=Unnumbered)
    assert "'test' is empty although 120 events were expected" in caplog.text
    caplog.clear()
    make(tmp_path / "e", reader=Unnumbered, prepare={"split": {"key": "entry"}})
    assert "is empty" not in caplog.text


def test_a_chunk_without_any_object_is_kept(tmp_path: Path) -> None:
    counts = np.array([0] * 10 + [2] * 90)
    offsets = pa.array(np.concatenate([[0], counts.cumsum()]), pa.int32())
    pt = pa.ListArray.from_arrays(offsets, pa.array(np.arange(1.0, 181.0, dtype=np.float32)))
    pq.write_table(pa.table({"jets_pt": pt}), tmp_path / "events.parquet")
    event = EventInfo.parse({"streams": {"jets": {"slots": 2, "features": ["pt"]}}}, "event")
    reader = open_reader("parquet", files=str(tmp_path / "*.parquet"), event=event, chunk_size=7)
    engine = LocalEngine(LocalEngineConfig(workers=1))
    try:
        dataset = prepare_dataset(
            [reader],
            event=event,
            contract=compile_contract(event),
            config=PrepareConfig(),
            seed=1,
            output=tmp_path / "dataset",
            engine=engine,
        )
    finally:
        engine.close()
    assert sum(len(split) for split in dataset.splits.values()) == 100
