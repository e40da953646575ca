from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pyarrow.parquet as pq
import pytest

import hepset
from hepset.batch import EventBatch, concatenate
from hepset.convert import prepare_dataset
from hepset.convert.engines import LocalEngine, LocalEngineConfig
from hepset.errors import ConfigurationError, ReadError
from hepset.interfaces.reader import Reader
from hepset.schema.config import PrepareConfig
from hepset.testing import check_reader
from hepset.testing.conditions import require_same_batch
from hepset_jetclass.columns import PARTICLES
from hepset_jetclass.labels import INDEX, JETCLASS, NAMES

from .conftest import (
    WRITERS,
    make_jets,
    write_counters,
    write_parquet,
    write_rntuple,
    write_vectors,
)

TRUTH = ("resonances", "gen_jet", "decay_products", "gen_particles")


def open_jets(files: Any, event: Any = None, **options: Any) -> Reader:
    return hepset.open_reader("jetclass", files=files, event=event, **options)


def whole(reader: Reader) -> EventBatch:
    return concatenate(reader)


@pytest.mark.parametrize("kind", WRITERS)
def test_the_reader_conforms(kind: str, tmp_path: Path) -> None:
    paths = [
        WRITERS[kind](tmp_path / f"QCD_000{seed}.{kind}", make_jets(7, seed)) for seed in (1, 2)
    ]
    check_reader(open_jets(paths, truth=TRUTH, chunk_size=4), entries=4, sizes=(1,))


def test_the_first_file_may_lack_nothing_that_others_have(tmp_path: Path) -> None:
    jets = make_jets(5, 3)
    less = {n: v for n, v in jets.items() if n not in {"part_d0val", "jet_tau4", "jet_label"}}
    paths = [write_parquet(tmp_path / "a.parquet", less)]
    assert len(whole(open_jets(paths))) == 5
    paths.append(write_parquet(tmp_path / "b.parquet", jets))
    lacking = r"a.parquet: the first file .*label, particles.d0, jet.tau4, which .*b.parquet has"
    with pytest.raises(ConfigurationError, match=lacking):
        open_jets(paths).sources()
    with pytest.raises(ReadError, match=r"a.parquet: .*no column 'part_d0val'"):
        open_jets(paths[::-1]).sources()


def test_every_part_that_is_asked_for_has_a_file(tmp_path: Path) -> None:
    for name in ("QCD_0000.parquet", "Res2P_0000.parquet"):
        write_parquet(tmp_path / name, make_jets(3, 1))
    with pytest.raises(ReadError, match=r"parts: QDC by its name; .*did you mean 'QCD'"):
        open_jets(str(tmp_path), parts=["Res2P", "QDC"]).sources()
    with pytest.raises(ConfigurationError, match="first number 9 is above the last, 2"):
        open_jets(str(tmp_path), numbers=(9, 2))


def test_an_address_without_a_file_is_not_called_damaged() -> None:
    with pytest.raises(ReadError, match=r"^memory://nowhere/a.parquet: cannot be opened"):
        open_jets("memory://nowhere/a.parquet").sources()


def test_containers_give_the_same(tmp_path: Path) -> None:
    jets = make_jets(20, 3)
    batches = [
        whole(open_jets(write(tmp_path / f"jets.{kind}", jets), truth=TRUTH))
        for kind, write in WRITERS.items()
    ]
    for kind, batch in zip(WRITERS, batches, strict=True):
        require_same_batch(batch, batches[0], kind)


def test_columns_arrive_at_their_places(tmp_path: Path) -> None:
    jets = make_jets(20, 4)
    batch = whole(open_jets(write_parquet(tmp_path / "jets.parquet", jets), truth=TRUTH))
    particles = batch.flat("particles")
    assert list(particles.columns) == list(PARTICLES)
    for name, quantity in PARTICLES.items():
        wanted = ak.to_numpy(ak.flatten(jets[quantity.column]))
        assert particles.columns[name].dtype == wanted.dtype
        assert np.array_equal(particles.columns[name], wanted)
    assert np.array_equal(batch["target/label"], jets["jet_label"])
    assert np.array_equal(batch["jet"][:, 4], jets["jet_sdmass"])
    assert np.array_equal(
        batch.flat("gen_particles").columns["vertex_t"], ak.to_numpy(ak.flatten(jets["genpart_t"]))
    )
    masses, pids = jets["aux_genpart_mass"], batch["target/y2/mass"]
    for jet, mass in enumerate(masses):
        assert batch["target/x/mass"][jet] == mass[0] if jet % 3 < 2 else True
        assert np.isnan(batch["target/x/mass"][jet]) == (jet % 3 == 2)
        if jet % 3 == 1:
            assert (batch["target/y1/mass"][jet], pids[jet]) == (mass[1], mass[2])
        else:
            assert np.isnan(pids[jet])


def test_a_jet_without_generator_jet_has_missing_targets_and_is_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_parquet(tmp_path / "jets.parquet", make_jets(5, 5))
    with caplog.at_level(logging.INFO, logger="hepset_jetclass.reader"):
        batch = whole(open_jets(path, truth=["gen_jet"]))
    missing = np.isnan(batch["target/gen_jet/pt"])
    assert list(missing) == [False, True, False, False, False]
    assert np.isnan(batch["target/gen_jet/eta"][1])
    assert "1 of 5 jets from entry 0 on have no generator jet" in caplog.text


def test_the_event_description_decides_what_is_read(tmp_path: Path) -> None:
    jets = make_jets(9, 6)
    path = write_counters(tmp_path / "jets.root", jets)
    event = {
        "streams": {"pf": {"features": ["part_deta", "part_charge"]}},
        "globals": {"jet": {"features": ["jet_pt", "jet_tau3"]}},
        "targets": {
            "jet_label": {"kind": "classification"},
            "x_mass": {"kind": "regression"},
            "n_b": {"kind": "classification", "classes": ["none", "one", "two", "three", "four"]},
        },
    }
    batch = whole(open_jets(path, event))
    assert list(batch.flat("pf").columns) == ["part_deta", "part_charge"]
    assert np.array_equal(batch["jet"][:, 1], jets["jet_tau3"])
    assert np.array_equal(batch["target/jet_label"], jets["jet_label"])
    assert list(np.isnan(batch["target/x_mass"])) == [False, False, True] * 3
    assert np.array_equal(batch["pf.counts"], jets["jet_nparticles"])
    counted = [NAMES[label].partition("_")[2].count("b") for label in jets["jet_label"]]
    assert list(batch["target/n_b"]) == counted


def test_columns_that_are_not_there_are_not_needed(tmp_path: Path) -> None:
    jets = make_jets(6, 7)
    kept = {name: jets[name] for name in ("part_px", "part_charge", "jet_pt")}
    reader = open_jets(write_parquet(tmp_path / "jets.parquet", kept))
    batch = whole(reader)
    assert batch.names() == ["particles", "particles.mask", "jet"]
    assert reader.event_info().streams["particles"].momentum is None
    with pytest.raises(ConfigurationError, match=r"jets.parquet: truth: the files do not hold"):
        open_jets(reader.sources()[0].key, truth=["gen_jet"]).event_info()
    without = write_parquet(tmp_path / "none.parquet", {"jet_pt": jets["jet_pt"]})
    with pytest.raises(ConfigurationError, match=r"none.parquet: .* none of the columns of const"):
        open_jets(without).event_info()


def one_hot(labels: list[int]) -> dict[str, Any]:
    table = np.eye(len(JETCLASS), dtype=np.int32)[labels]
    return {f"label_{name}": table[:, index] for index, name in enumerate(JETCLASS)}


def test_jetclass_has_one_hot_labels(tmp_path: Path) -> None:
    jets = make_jets(4, 8)
    del jets["jet_label"]
    reader = open_jets(write_counters(tmp_path / "a.root", jets | one_hot([3, 0, 9, 1])))
    assert reader.event_info().targets["label"].classes == JETCLASS
    assert list(whole(reader)["target/label"]) == [3, 0, 9, 1]
    columns = jets | one_hot([3, 0, 9, 1])
    columns["label_Hbb"] = np.array([0, 1, 0, 1], np.int32)
    reader = open_jets(write_counters(tmp_path / "b.root", columns))
    message = (
        "b.root: entries 0 to 3: label: 1 of 4 jets have not exactly one label; the first is row 1 "
        "of these, with label_QCD, label_Hbb of"
    )
    with pytest.raises(ReadError, match=message):
        whole(reader)


def test_classes_are_found_by_name(tmp_path: Path) -> None:
    jets = make_jets(5, 9)
    names = ["X_bb", "X_cc", "QCD_light", "X_YY_bbbb", "X_YY_bcev"]
    jets["jet_label"] = np.array([INDEX[name] for name in names], np.int32)
    path = write_parquet(tmp_path / "jets.parquet", jets)

    def labels(classes: list[str]) -> list[int]:
        event = {
            "streams": {"particles": {"features": ["deta"]}},
            "targets": {"label": {"kind": "classification", "classes": classes}},
        }
        return list(whole(open_jets(path, event))["target/label"])

    assert labels(["QCD", "label_X_bb", "X_YY_QQlv"]) == [1, -1, 0, -1, 2]
    assert labels(["Res34P", "Res2P", "QCD"]) == [1, 1, 2, 0, 0]
    assert labels(["QCD_b*", "QCD_light", "X_YY_b*"]) == [-1, -1, 1, 2, 2]
    assert labels(list(NAMES)) == [INDEX[name] for name in names]
    with pytest.raises(ConfigurationError, match=r"'X_bbb' is no label .* did you mean"):
        labels(["X_bbb", "QCD"])
    with pytest.raises(ConfigurationError, match=r"'X_a\*' is no label"):
        labels(["X_a*", "QCD"])
    with pytest.raises(ConfigurationError, match="'X_QQ' and 'X_bb' share the label 0"):
        labels(["X_bb", "X_QQ"])
    jets["jet_label"] = np.array([0, -1, 188, 3, -2], np.int32)
    write_parquet(tmp_path / "jets.parquet", jets)
    message = r"jets.parquet: .*jet_label: 2 of 5 jets have no label .* row 2 of these, with 188"
    with pytest.raises(ReadError, match=message):
        labels(["X_bb", "QCD"])


def test_files_are_chosen_by_part_split_and_number(tmp_path: Path) -> None:
    jets = make_jets(3, 10)
    first = write_parquet(tmp_path / "one.parquet", jets)
    folder = tmp_path / "Pythia"
    folder.mkdir()
    for name in ("Res2P_0199", "Res2P_0200", "QCD_0279", "QCD_0350", "Res34P_1075"):
        shutil.copy(first, folder / f"{name}.parquet")

    def names(**options: Any) -> list[str]:
        return [Path(s.key).stem for s in open_jets(str(folder), **options).sources()]

    assert names(parts=["Res2P", "QCD"]) == ["QCD_0279", "QCD_0350", "Res2P_0199", "Res2P_0200"]
    assert names(splits=["train"]) == ["QCD_0279", "Res2P_0199"]
    assert names(splits=["test"], parts=["Res34P"]) == ["Res34P_1075"]
    assert names(numbers=[200, 350]) == ["QCD_0279", "QCD_0350", "Res2P_0200"]
    with pytest.raises(
        ReadError, match=r"none of 5 files is of parts: Res3P by .* did you mean 'Res34P'"
    ):
        names(parts=["Res3P"])
    sources = open_jets(str(folder)).sources()
    assert [s.split for s in sources] == ["train", "test", "train", "val", "test"]
    assert open_jets(first).sources()[0].split == ""


def test_jetclass_files_lie_in_the_folders_of_their_splits(tmp_path: Path) -> None:
    for folder in ("train_100M", "val_5M", "test_20M"):
        (tmp_path / folder).mkdir()
        write_parquet(tmp_path / folder / "HToBB_000.parquet", make_jets(2, 11))
    reader = open_jets(str(tmp_path / "*" / "*.parquet"))
    assert [s.split for s in reader.sources()] == ["test", "train", "val"]


def test_groups_are_named_as_weaver_does(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_parquet(tmp_path / f"{name}.parquet", make_jets(2, 12))
    reader = open_jets([f"signal:{tmp_path}/a*", f"background:{tmp_path}/b.parquet"])
    assert [s.group for s in reader.sources()] == ["signal", "background"]
    assert list(whole(reader)["extra/group"]) == ["signal"] * 2 + ["background"] * 2
    address = open_jets(["QCD:memory://place/x.root", "root://host//x.root"])
    assert address.config.files == {"QCD": ["memory://place/x.root"], "": ["root://host//x.root"]}


def convert(reader: Reader, output: Path, **options: Any) -> Any:
    event = reader.event_info()
    return prepare_dataset(
        [reader],
        event=event,
        contract=hepset.compile_contract(event),
        config=PrepareConfig.model_validate(options),
        seed=1,
        output=output,
        engine=LocalEngine(LocalEngineConfig(workers=1)),
    )


def test_official_splits_are_kept(tmp_path: Path) -> None:
    for number, seed in (("0000", 1), ("0280", 2), ("0350", 3)):
        write_parquet(tmp_path / f"QCD_{number}.parquet", make_jets(5, seed))
    convert(open_jets(str(tmp_path / "*.parquet")), tmp_path / "out")
    dataset = hepset.open_dataset(tmp_path / "out")
    assert {name: len(dataset.split(name)) for name in ("train", "val", "test")} == {
        "train": 5,
        "val": 5,
        "test": 5,
    }


def test_bad_files_are_errors_or_counted(tmp_path: Path) -> None:
    jets = make_jets(8, 13)
    good = write_parquet(tmp_path / "a.parquet", jets)
    lacking = {name: values for name, values in jets.items() if name != "part_d0val"}
    write_parquet(tmp_path / "b.parquet", lacking)
    content = Path(good).read_bytes()
    (tmp_path / "c.parquet").write_bytes(content[: len(content) // 2])
    damaged = bytearray(content)
    damaged[200:5000] = b"\xff" * 4800
    (tmp_path / "d.parquet").write_bytes(damaged)
    with pytest.raises(ReadError, match=r"b.parquet: streams.particles.d0: no column 'part_d0val'"):
        open_jets(str(tmp_path / "*.parquet")).sources()
    with pytest.raises(ReadError, match=r"c.parquet: cannot be read as Parquet"):
        open_jets(str(tmp_path / "[ac].parquet")).sources()
    with pytest.raises(ReadError, match=r"d.parquet"):
        list(open_jets(str(tmp_path / "d.parquet")))
    for name, text, message in (
        ("e.root", "", "e.root: the file is empty"),
        ("f.root", "hello", "f.root: neither ROOT nor Parquet: it begins with b'hell'"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ReadError, match=message):
            open_jets(str(tmp_path / name)).sources()
    convert(open_jets(str(tmp_path / "*.parquet")), tmp_path / "out", on_error="skip")
    dataset = hepset.open_dataset(tmp_path / "out")
    assert sum(len(dataset.split(name)) for name in dataset.splits) == 8
    skipped = {record.key for record in dataset.manifest.skipped}
    assert {Path(key).name for key in skipped} == {"b.parquet", "c.parquet", "d.parquet"}


def test_the_public_jets_are_the_same_from_any_container(jets_file: Path, tmp_path: Path) -> None:
    table = pq.read_table(jets_file)
    columns = {name: ak.from_arrow(table[name]) for name in table.column_names}
    columns = {n: ak.to_numpy(v) if v.ndim == 1 else v for n, v in columns.items()}
    reader = open_jets(str(jets_file), truth=TRUTH)
    assert reader.event_info().targets["label"].classes == NAMES
    batch = whole(reader)
    assert len(batch) == 100
    px, py = (batch.flat("particles").columns[name] for name in ("px", "py"))
    offsets = batch.flat("particles").offsets[:-1]
    pt = np.hypot(
        np.add.reduceat(px, offsets, dtype=float), np.add.reduceat(py, offsets, dtype=float)
    )
    assert np.abs(pt / batch["jet"][:, 0] - 1).max() < 1e-6
    assert 100 <= np.nanmin(batch["target/x/mass"]) <= np.nanmax(batch["target/x/mass"]) <= 500
    for name, write in (
        ("c.root", write_counters),
        ("n.root", write_rntuple),
        ("v.root", write_vectors),
    ):
        copy = open_jets(write(tmp_path / name, columns), truth=TRUTH, chunk_size=33)
        assert copy.event_info() == reader.event_info()
        require_same_batch(whole(copy), batch, name)
