from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hepset.batch import EventBatch, concatenate
from hepset.errors import ConfigurationError, EventInfoError, ReadError
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo
from hepset_spanet.event_file import parse_event_file
from hepset_spanet.reader import SpanetReader, SpanetReaderConfig

Datasets = dict[str, Any]
WriteFile = Callable[[Datasets], str]


def open_reader(event: EventInfo | None, files: Any, **options: Any) -> SpanetReader:
    config = SpanetReaderConfig.parse({"files": files, **options}, "read")
    return SpanetReader(config, event)


def read(event: EventInfo, files: Any, **options: Any) -> EventBatch:
    return concatenate(open_reader(event, files, **options))


def refused(event: EventInfo, path: str, **options: Any) -> str:
    with pytest.raises(ReadError) as caught:
        read(event, path, **options)
    assert path in str(caught.value)
    return str(caught.value)


def test_inputs(event: EventInfo, datasets: Datasets, write_file: WriteFile) -> None:
    batch = read(event, write_file(datasets))
    assert len(batch) == 4
    np.testing.assert_array_equal(batch["Jets.mask"], datasets["INPUTS/Jets/MASK"])
    np.testing.assert_array_equal(batch.flat("Jets").counts, [2, 3, 0, 1])
    np.testing.assert_array_equal(batch.flat("Jets").columns["pt"], [20, 21, 23, 24, 25, 29])
    assert list(batch.flat("Jets").columns) == ["pt", "eta", "phi", "btag"]
    np.testing.assert_allclose(batch["Met"], [[50, 0.1], [60, 0.2], [70, 0.3], [80, 0.4]])
    assert batch["Met.mask"].all()
    assert batch.where(2)[1] == 2


def test_columns_keep_the_dtype_of_the_file(
    event: EventInfo, datasets: Datasets, write_file: WriteFile
) -> None:
    datasets["INPUTS/Jets/pt"] = datasets["INPUTS/Jets/pt"].astype(np.float64)
    columns = read(event, write_file(datasets)).padded("Jets").columns
    assert columns["pt"].dtype == np.float64
    assert columns["eta"].dtype == np.float32
    assert columns["btag"].dtype == np.int8


def test_targets(event: EventInfo, datasets: Datasets, write_file: WriteFile) -> None:
    batch = read(event, write_file(datasets))
    np.testing.assert_array_equal(
        batch["target/assignment/t1"], [[1, 0], [2, 1], [-1, -1], [0, -1]]
    )
    # Products without a source count through the 3 jet slots, then the 2 lepton slots.
    np.testing.assert_array_equal(
        batch["target/assignment/t2"], [[0, 4], [0, 1], [-1, -1], [-1, -1]]
    )
    np.testing.assert_array_equal(batch["target/signal"], [1, 0, -1, 1])
    np.testing.assert_array_equal(batch["target/mass"], [170, np.nan, 172, 173])
    np.testing.assert_array_equal(batch["target/t1/pt"], [10, 20, np.nan, 40])
    np.testing.assert_array_equal(batch["target/t1/b/energy"], [11, 21, np.nan, 41])
    assert batch["target/assignment/t1"].dtype == np.int64


def test_batches_obey_the_contract(
    event: EventInfo, datasets: Datasets, write_file: WriteFile
) -> None:
    reader = open_reader(event, write_file(datasets))
    report = compile_contract(reader.event_info()).check(concatenate(reader))
    assert report.errors == []


def test_files_without_targets_predict(
    event: EventInfo, datasets: Datasets, write_file: WriteFile
) -> None:
    inputs = {k: v for k, v in datasets.items() if k.startswith("INPUTS")}
    batch = read(event, write_file(inputs))
    assert not [name for name in batch.names() if name.startswith("target/")]


def test_targets_of_some_files_are_missing_in_the_others(
    event: EventInfo, datasets: Datasets, write_file: WriteFile
) -> None:
    datasets["TARGETS/t2/WEIGHT"] = np.array([1.0, 2, 3, 4])
    inputs = {k: v for k, v in datasets.items() if k.startswith("INPUTS")}
    batch = read(event, [write_file(datasets), write_file(inputs)])
    assert len(batch) == 8
    np.testing.assert_array_equal(batch["target/signal"], [1, 0, -1, 1, -1, -1, -1, -1])
    assert np.isnan(batch["target/scale"][4:]).all()
    assert (batch["target/assignment/t1"][4:] == -1).all()
    np.testing.assert_array_equal(batch["weight/assignment/t2"], [1, 2, 3, 4, 1, 1, 1, 1])
    np.testing.assert_array_equal(batch.ids["source"], [0] * 4 + [1] * 4)


def test_groups_are_kept(event: EventInfo, datasets: Datasets, write_file: WriteFile) -> None:
    files = {"train": [write_file(datasets)], "validation": [write_file(datasets)]}
    batch = read(event, files)
    np.testing.assert_array_equal(batch["extra/group"], ["train"] * 4 + ["validation"] * 4)


def test_mask_that_repeats_completeness_keeps_partial_particles(
    event: EventInfo, datasets: Datasets, write_file: WriteFile
) -> None:
    datasets["TARGETS/t1/MASK"] = np.array([True, True, False, False])
    batch = read(event, write_file(datasets))
    np.testing.assert_array_equal(batch["target/assignment/t1"][3], [0, -1])


def test_masked_out_complete_particles_become_missing(
    event: EventInfo, datasets: Datasets, write_file: WriteFile, caplog: pytest.LogCaptureFixture
) -> None:
    datasets["TARGETS/t1/MASK"] = np.array([1, 0, 0, 0], np.uint8)
    with caplog.at_level(logging.INFO, logger="hepset_spanet"):
        batch = read(event, write_file(datasets))
    np.testing.assert_array_equal(
        batch["target/assignment/t1"], [[1, 0], [-1, -1], [-1, -1], [0, -1]]
    )
    assert "1 complete particles of 4 events are masked out" in caplog.text


def test_present_particles_that_lack_a_product_are_warned_of(
    event: EventInfo, datasets: Datasets, write_file: WriteFile, caplog: pytest.LogCaptureFixture
) -> None:
    datasets["TARGETS/t1/MASK"] = np.array([True, True, False, True])
    with caplog.at_level(logging.WARNING, logger="hepset_spanet"):
        read(event, write_file(datasets))
    assert "1 particles are marked as present but lack a product (first: entry 3)" in caplog.text


def test_global_mask_and_event_weight(
    event: EventInfo, datasets: Datasets, write_file: WriteFile
) -> None:
    datasets["INPUTS/Met/MASK"] = np.array([True, False, True, True])
    datasets["mc/weight"] = np.array([1, -1, 2, 1], np.float32)
    batch = read(event, write_file(datasets), weight="mc/weight")
    np.testing.assert_array_equal(batch["Met.mask"], [True, False, True, True])
    np.testing.assert_array_equal(batch["weight"], [1, -1, 2, 1])


def test_extra_datasets(event: EventInfo, datasets: Datasets, write_file: WriteFile) -> None:
    datasets["run"] = np.arange(4)
    datasets["name"] = [b"a", b"b", b"c", b"d"]
    path = write_file(datasets)
    batch = read(event, path, extra=["INPUTS/Jets/unused", "run", "name"])
    assert batch["extra/unused"].shape == (4, 3)
    assert "extra/unused" in batch.streams["Jets"].attached
    np.testing.assert_array_equal(batch["extra/run"], [0, 1, 2, 3])
    assert "extra/unused" not in read(event, path)
    renamed = read(event, path, extra={"number": "run"})
    np.testing.assert_array_equal(renamed["extra/number"], [0, 1, 2, 3])
    with pytest.raises(ConfigurationError, match="called 'run'"):
        open_reader(event, path, extra=["run", "a/run"])


@pytest.mark.parametrize("name", ["INPUTS/Jets", "SpecialKey.Inputs/Jets"])
def test_relative_inputs(write_file: WriteFile, name: str) -> None:
    document = {
        "INPUTS": {"RELATIVE": {"Jets": {"dr": "log", "pt": "none", "dphi": "none"}}},
        "EVENT": {"t": ["a", "b"]},
    }
    event = parse_event_file(document, where="event.yaml")
    pairs = np.arange(18, dtype=np.float32).reshape(2, 3, 3)
    path = write_file(
        {
            f"{name}/MASK": np.ones((2, 3), bool),
            f"{name}/pt": np.ones((2, 3), np.float32),
            f"{name}/dr": pairs,
            f"{name}/dphi": -pairs,
        }
    )
    reader = open_reader(event, path)
    stream = reader.event_info().streams["Jets"]
    assert (list(stream.features), list(stream.pairs)) == (["pt"], ["dr", "dphi"])
    assert stream.pairs["dr"].transform == ("log1p",)
    batch = concatenate(reader)
    assert batch["Jets"].shape == (2, 3, 1)
    assert batch["Jets.pairs"].shape == (2, 3, 3, 2)
    np.testing.assert_array_equal(batch["Jets.pairs"][..., 1], -pairs)
    # What the reader refined is understood by another reader as it is.
    again = open_reader(reader.event_info(), path)
    assert again.event_info() == reader.event_info()


def test_ordering_by_a_pair_feature_is_refused(write_file: WriteFile) -> None:
    event = EventInfo.model_validate({"streams": {"J": {"order": "dr", "features": ["dr", "x"]}}})
    arrays = {"dr": np.zeros((1, 2, 2)), "x": np.zeros((1, 2)), "MASK": np.ones((1, 2), bool)}
    path = write_file({f"INPUTS/J/{k}": v for k, v in arrays.items()})
    with pytest.raises(EventInfoError, match="order: no feature 'dr'"):
        open_reader(event, path).event_info()


def test_version_1_files(write_file: WriteFile) -> None:
    document = {
        "INPUTS": {"SEQUENTIAL": {"Source": {"pt": "log"}}},
        "EVENT": {"t1": ["b", "q"], "t2": ["b", "q"]},
    }
    event = parse_event_file(document, where="event.yaml")
    path = write_file(
        {
            "source/pt": np.array([[1.0, 2.0]]),
            "source/mask": np.array([[True, True]]),
            "t1/b": np.array([0], np.int32),
            "t1/q": np.array([1], np.int32),
            "t1/mask": np.array([False]),
            "t2/b": np.array([-1], np.int32),
            "t2/q": np.array([-1], np.int32),
        }
    )
    batch = read(event, path)
    np.testing.assert_array_equal(batch["Source"], [[[1], [2]]])
    np.testing.assert_array_equal(batch["target/assignment/t1"], [[0, 1]])
    assert batch["target/assignment/t1"].dtype == np.int64


def test_prediction_files_give_inputs_only(
    event: EventInfo, datasets: Datasets, write_file: WriteFile, caplog: pytest.LogCaptureFixture
) -> None:
    datasets["TARGETS/t1/assignment_probability"] = np.ones(4)
    datasets["CLASSIFICATIONS/EVENT/signal"] = np.ones((4, 2))
    batch = read(event, write_file(datasets))
    assert not [name for name in batch.names() if name.startswith("target/")]
    assert "holds predictions" in caplog.text


@given(size=st.integers(1, 9), limit=st.none() | st.integers(1, 9))
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_chunks_do_not_change_the_events(
    event: EventInfo, datasets: Datasets, write_file: WriteFile, size: int, limit: int | None
) -> None:
    files = [write_file(datasets), write_file(datasets)]
    whole = read(event, files).take(np.arange(limit or 8)[:8])
    cut = read(event, files, chunk_size=size, max_events=limit)
    assert cut.names() == whole.names()
    for name in whole.names():
        np.testing.assert_array_equal(cut[name], whole[name])
    np.testing.assert_array_equal(cut.ids, whole.ids)


def test_reader_survives_pickling_without_its_file(
    event: EventInfo, datasets: Datasets, write_file: WriteFile
) -> None:
    path = write_file(datasets)
    reader = open_reader(event, path)
    first = concatenate(reader)
    copy = pickle.loads(pickle.dumps(reader))
    np.testing.assert_array_equal(copy.read(reader.chunks()[0])["Jets"], first["Jets"])
    assert copy.sources()[0].entries == 4


def test_missing_datasets_name_what_is_near(
    event: EventInfo, datasets: Datasets, write_file: WriteFile
) -> None:
    datasets["INPUTS/Jets/b_tag"] = datasets.pop("INPUTS/Jets/btag")
    message = refused(event, write_file(datasets))
    assert "no dataset INPUTS/Jets/btag; closest names there: b_tag" in message


def test_missing_groups_name_what_is_near(
    event: EventInfo, datasets: Datasets, write_file: WriteFile
) -> None:
    renamed = {k.replace("/Jets/", "/Jet/"): v for k, v in datasets.items()}
    message = refused(event, write_file(renamed))
    assert "no input group INPUTS/Jets; closest names there: Jet" in message


def test_misspelt_targets_are_refused(
    event: EventInfo, datasets: Datasets, write_file: WriteFile
) -> None:
    datasets["CLASSIFICATIONS/EVENT/signl"] = datasets.pop("CLASSIFICATIONS/EVENT/signal")
    message = refused(event, write_file(datasets))
    assert "no CLASSIFICATIONS/EVENT/signal, but CLASSIFICATIONS/EVENT holds 'signl'" in message


def test_neighbours_that_are_declared_are_not_misspelt(
    event: EventInfo, datasets: Datasets, write_file: WriteFile
) -> None:
    for product in ("b", "l"):
        del datasets[f"TARGETS/t1/{product}"]
    batch = read(event, write_file(datasets))
    assert "target/assignment/t1" not in batch
    assert "target/assignment/t2" in batch


def test_particles_without_a_product_are_refused(
    event: EventInfo, datasets: Datasets, write_file: WriteFile
) -> None:
    del datasets["TARGETS/t2/q2"]
    assert "no dataset TARGETS/t2/q2" in refused(event, write_file(datasets))


def test_other_hdf5_files_are_refused(event: EventInfo, write_file: WriteFile) -> None:
    message = refused(event, write_file({"jets": np.zeros(3)}))
    assert "no group 'INPUTS'" in message
    assert "it holds jets" in message


def test_rows_that_disagree_are_refused(
    event: EventInfo, datasets: Datasets, write_file: WriteFile
) -> None:
    datasets["INPUTS/Met/met"] = np.zeros(3, np.float32)
    message = refused(event, write_file(datasets))
    assert "INPUTS/Jets/MASK has 4 events, INPUTS/Met/met has 3" in message


def test_slots_that_disagree_are_refused(
    event: EventInfo, datasets: Datasets, write_file: WriteFile
) -> None:
    datasets["INPUTS/Jets/pt"] = np.zeros((4, 2), np.float32)
    message = refused(event, write_file(datasets))
    assert "INPUTS/Jets/pt has shape (4, 2), but the mask INPUTS/Jets/MASK has 3 slots" in message


def test_files_of_different_slots_are_refused(
    event: EventInfo, datasets: Datasets, write_file: WriteFile
) -> None:
    first = write_file(datasets)
    shorter = {k: v[:, :2] if k.startswith("INPUTS/Jets") else v for k, v in datasets.items()}
    second = write_file(shorter)
    with pytest.raises(ReadError) as caught:
        open_reader(event, [first, second]).sources()
    assert first in str(caught.value)
    assert second in str(caught.value)
    assert "2 slots, but 3" in str(caught.value)


def test_axes_that_do_not_fit_are_refused(
    event: EventInfo, datasets: Datasets, write_file: WriteFile
) -> None:
    datasets["INPUTS/Met/met"] = np.zeros((4, 1), np.float32)
    message = refused(event, write_file(datasets))
    assert "INPUTS/Met/met: expected 1 axes, found shape (4, 1)" in message


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("TARGETS/t1/b", [0.5, 1, 2, 3], "expected integers, found 0.5"),
        ("TARGETS/t1/b", [0, np.nan, 2, 3], "expected integers, found nan"),
        ("INPUTS/Jets/pt", np.full((4, 3), b"x"), "expected numbers"),
        ("INPUTS/Jets/MASK", np.full((4, 3), 2), "a mask holds true or false"),
    ],
)
def test_values_of_the_wrong_kind_are_refused(
    event: EventInfo,
    datasets: Datasets,
    write_file: WriteFile,
    name: str,
    values: Any,
    message: str,
) -> None:
    assert message in refused(event, write_file({**datasets, name: np.asarray(values)}))


def test_whole_floats_are_indices(
    event: EventInfo, datasets: Datasets, write_file: WriteFile
) -> None:
    datasets["TARGETS/t1/b"] = np.array([1.0, 2.0, -1.0, 0.0])
    batch = read(event, write_file(datasets))
    np.testing.assert_array_equal(batch["target/assignment/t1"][:, 0], [1, 2, -1, 0])


def test_files_that_are_open_elsewhere_are_read(
    event: EventInfo, datasets: Datasets, write_file: WriteFile
) -> None:
    path = write_file(datasets)
    with h5py.File(path, "r"):
        assert len(read(event, path)) == 4
    reader = open_reader(event, path)
    concatenate(reader)
    with h5py.File(path, "r") as file:  # the reader has let go of it
        assert "INPUTS" in file


def test_damaged_files_are_named(
    event: EventInfo, datasets: Datasets, write_file: WriteFile, tmp_path: Path
) -> None:
    path = write_file(datasets)
    os.truncate(path, Path(path).stat().st_size // 2)
    assert "cannot be opened as HDF5" in refused(event, path)
    text = tmp_path / "text.h5"
    text.write_text("not HDF5")
    assert "cannot be opened as HDF5" in refused(event, str(text))


def test_damaged_chunks_are_named(
    event: EventInfo, datasets: Datasets, write_file: WriteFile
) -> None:
    path = write_file({k: v for k, v in datasets.items() if k != "INPUTS/Met/met"})
    with h5py.File(path, "a") as file:
        values = np.random.default_rng(1).normal(size=4)
        file.create_dataset("INPUTS/Met/met", data=values, chunks=(4,), compression="gzip")
        place = file["INPUTS/Met/met"].id.get_chunk_info(0)
        start, size = place.byte_offset, place.size
    with Path(path).open("r+b") as raw:
        raw.seek(start)
        raw.write(b"\xff" * size)
    message = refused(event, path)
    assert "INPUTS/Met/met: entries 0 to 3 cannot be read" in message


def test_event_description_is_needed(
    event: EventInfo, datasets: Datasets, write_file: WriteFile
) -> None:
    path = write_file(datasets)
    with pytest.raises(ConfigurationError, match="give the event description"):
        open_reader(None, path).event_info()
    products = {"particles": {"t": ["a"]}}
    two = event.model_dump() | {"processes": {"x": products, "y": products}}
    with pytest.raises(ConfigurationError, match="hold one topology, the event has 2: x, y"):
        open_reader(EventInfo.model_validate(two), path).sources()
