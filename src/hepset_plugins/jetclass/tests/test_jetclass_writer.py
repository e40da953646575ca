from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uproot

import hepset
from hepset.batch import EventBatch, concatenate
from hepset.errors import ConfigurationError, ContractError, HepsetError
from hepset.interfaces import Chunk, parse_options
from hepset.testing import check_writer
from hepset.testing.conditions import require_same_batch
from hepset_jetclass.labels import INDEX, JETCLASS
from hepset_jetclass.writer import JetClassRootConfig, JetClassRootWriter

from .conftest import make_jets, write_parquet

TRUTH = ("gen_jet", "decay_products", "gen_particles")


def jets(tmp_path: Path, count: int = 12) -> tuple[EventBatch, Any]:
    path = write_parquet(tmp_path / "jets.parquet", make_jets(count, 1))
    reader = hepset.open_reader("jetclass", files=path, truth=TRUTH)
    return concatenate(reader), hepset.compile_contract(reader.event_info())


def read_back(path: Path, **options: Any) -> EventBatch:
    reader = hepset.open_reader("jetclass", files=str(path), truth=TRUTH, **options)
    return reader.read(Chunk(0, 0, reader.sources()[0].entries))


def test_the_writer_conforms(tmp_path: Path) -> None:
    batch, contract = jets(tmp_path)
    tensors = [name for name in batch.names() if not name.endswith(".counts")]
    check_writer(
        JetClassRootWriter,
        batch,
        contract,
        read_back=read_back,
        tensors=tensors,
        name="jets.root",
    )


def test_what_is_written_is_the_layout_of_jetclass2(tmp_path: Path) -> None:
    batch, contract = jets(tmp_path)
    with JetClassRootWriter() as writer:
        writer.open(tmp_path / "out.root", contract)
        writer.write(batch)
    back = read_back(tmp_path / "out.root")
    require_same_batch(back, batch, "read back")
    tree = uproot.open(tmp_path / "out.root")["tree"]
    types = {name: branch.typename for name, branch in tree.items()}
    assert types["part_px"] == "std::vector<float>"
    assert types["part_charge"] == "std::vector<int32_t>"
    assert types["part_isMuon"] == "std::vector<bool>"
    assert types["jet_nparticles"] == types["jet_label"] == "int32_t"
    assert types["aux_genpart_isResX"] == "std::vector<bool>"
    # The unmatched generator jet of the second event is zero in the file, missing when read.
    assert tree["genjet_pt"].array()[1] == 0
    assert np.isnan(back["target/gen_jet/pt"][1])


def test_many_jets_come_in_clusters(tmp_path: Path) -> None:
    batch, contract = jets(tmp_path, 40)
    many = batch.take(np.arange(25_000) % 40)
    with JetClassRootWriter() as writer:
        writer.open(tmp_path / "out.root", contract)
        for start in range(0, len(many), 7000):
            writer.write(many.take(np.arange(start, min(start + 7000, len(many)))))
    tree = uproot.open(tmp_path / "out.root")["tree"]
    assert tree.common_entry_offsets() == [0, 10_000, 20_000, 25_000]
    require_same_batch(read_back(tmp_path / "out.root"), many, "read back", ids=False)


def written(batch: EventBatch, contract: Any, path: Path, **options: Any) -> Any:
    config = parse_options(JetClassRootConfig, options, "writer")
    with JetClassRootWriter(config) as writer:
        writer.open(path, contract)
        writer.write(batch)
    return uproot.open(path)["tree"]


def test_classes_become_labels(tmp_path: Path) -> None:
    batch, contract = jets(tmp_path, 4)
    batch = batch.with_arrays({"target/label": np.array([1, 0, -1, 1])})
    tree = written(batch, contract, tmp_path / "a.root", classes=["X_cc", "QCD_light"])
    light = INDEX["QCD_light"]
    assert list(tree["jet_label"].array()) == [light, INDEX["X_cc"], -1, light]
    tree = written(batch, contract, tmp_path / "b.root", classes=["label_Hbb", "QCD"])
    assert {f"label_{name}" for name in JETCLASS} <= set(tree.keys())
    assert list(tree["label_QCD"].array()) == [1, 0, 0, 1]
    assert list(tree["label_Hbb"].array()) == [0, 1, 0, 0]
    with pytest.raises(ContractError, match="target/label has the class 1; the writer's classes"):
        written(batch, contract, tmp_path / "c.root", classes=["X_cc"])
    assert not list(tmp_path.glob("*c.root*"))
    with pytest.raises(
        ConfigurationError, match=r"'X_cd' is no label of JetClass-II.*did you mean"
    ):
        written(batch, contract, tmp_path / "c.root", classes=["X_cd", "X_cc"])
    wrong = batch.with_arrays({"target/label": np.array([1, 0, -2, 1])})
    with pytest.raises(ContractError, match="target/label has the class -2; expected a class, or"):
        written(wrong, contract, tmp_path / "c.root", classes=["X_cc", "QCD_light"])


def test_numbers_of_other_classes_are_no_jet_label(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "jets.parquet", make_jets(4, 1))
    event = {
        "streams": {"particles": {"features": ["deta"]}},
        "targets": {"label": {"kind": "classification", "classes": ["QCD", "Res2P", "Res34P"]}},
    }
    reader = hepset.open_reader("jetclass", files=path, event=event)
    batch = concatenate(reader)
    contract = hepset.compile_contract(reader.event_info())
    tree = written(batch, contract, tmp_path / "a.root")
    assert "jet_label" not in tree.keys()  # noqa: SIM118  no mapping
    assert list(tree["label"].array()) == list(batch["target/label"])
    back = hepset.open_reader("jetclass", files=str(tmp_path / "a.root"), event=event)
    assert list(concatenate(back)["target/label"]) == list(batch["target/label"])


def test_nothing_is_left_of_a_file_that_grows_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch, contract = jets(tmp_path, 4)
    monkeypatch.setattr("hepset_jetclass.root_tree.LARGEST", 2000)
    with pytest.raises(HepsetError, match="records for large files; write several smaller"):
        written(batch, contract, tmp_path / "a.root")
    assert not list(tmp_path.glob("*a.root*"))


def test_predictions_and_extras_are_written_as_they_are(tmp_path: Path) -> None:
    batch, contract = jets(tmp_path, 4)
    scores = np.arange(12, dtype=np.float32).reshape(4, 3)
    extras = {"extra/run": np.arange(4), "extra/group": np.array(["a"] * 4)}
    batch = replace(batch, predictions={"label/probabilities": scores, "mass/value": scores[:, 0]})
    tree = written(batch.with_arrays(extras), contract, tmp_path / "a.root")
    assert tree["label_probabilities"].array().to_list() == scores.tolist()
    assert list(tree["mass_value"].array()) == [0, 3, 6, 9]
    assert list(tree["run"].array()) == [0, 1, 2, 3]
    assert "group" not in tree
    large = batch.with_arrays({"extra/run": np.full(4, 2**40)})
    with pytest.raises(ContractError, match=r"run goes from .* beyond 32 bits"):
        written(large, contract, tmp_path / "b.root")


def test_predictions_tell_of_which_event_and_whether_it_was_selected(tmp_path: Path) -> None:
    batch, contract = jets(tmp_path, 4)
    plain = written(batch, contract, tmp_path / "plain.root")
    assert not {"source_index", "entry", "sample", "selected"} & set(plain.keys())
    batch = batch.take(np.array([3, 1, 0])).with_arrays({"selected": np.array([True, False, True])})
    batch = replace(batch, predictions={"mass/value": np.array([5.0, np.nan, 7.0])})
    tree = written(batch, contract, tmp_path / "a.root")
    assert tree["entry"].array().to_list() == [3, 1, 0]
    assert tree["source_index"].array().to_list() == tree["sample"].array().to_list() == [0, 0, 0]
    assert tree["selected"].array().to_list() == [True, False, True]
    assert tree["selected"].typename == "bool"
    assert "trained_on" not in tree
    known = batch.with_arrays({"trained_on": np.array([False, True, True])})
    tree = written(known, contract, tmp_path / "b.root")
    assert tree["trained_on"].array().to_list() == [False, True, True]
    ids = batch.ids.copy()
    ids["source"][1] = 2**31
    with pytest.raises(ContractError, match=r"source_index goes from 0 to 2147483648, beyond 32"):
        written(replace(batch, ids=ids), contract, tmp_path / "c.root")


def test_two_tensors_of_one_column_are_refused(tmp_path: Path) -> None:
    batch, contract = jets(tmp_path, 4)
    twice = batch.with_arrays({"extra/jet_pt": np.zeros(4, np.float32)})
    with pytest.raises(ContractError, match="two different tensors become the column 'jet_pt'"):
        written(twice, contract, tmp_path / "a.root")
    again = batch.with_arrays({"extra/jet_pt": batch["jet"][:, 0]})
    assert contract["jet"].columns[0] == "pt"
    tree = written(again, contract, tmp_path / "b.root")
    assert tree["jet_pt"].array().to_list() == batch["jet"][:, 0].tolist()
    for other in ("extra/part_px", "extra/jet_nparticles"):
        with pytest.raises(ContractError, match="two different tensors"):
            written(batch.with_arrays({other: np.zeros(4)}), contract, tmp_path / "c.root")


def test_batches_have_the_same_columns(tmp_path: Path) -> None:
    batch, contract = jets(tmp_path, 4)
    with JetClassRootWriter() as writer:
        writer.open(tmp_path / "a.root", contract)
        writer.write(batch)
        with pytest.raises(ContractError, match="other columns than those before: run"):
            writer.write(batch.with_arrays({"extra/run": np.arange(4)}))
    with pytest.raises(ContractError, match="is not open"):
        writer.write(batch)
