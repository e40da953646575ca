from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor

from hepset.batch import EventBatch, FlatStream
from hepset.errors import ConfigurationError, ContractError, ExportError, UnknownComponentError
from hepset.export import export_onnx
from hepset.export.onnx import HepsetLayout, _compare, _proved, _same_decisions
from hepset.model import Model, OnnxModel, load_model
from hepset.model.onnx_model import open_session
from hepset.plugins import Component, hookimpl, registry


@pytest.fixture(scope="module")
def exported(model: Model, tmp_path_factory: pytest.TempPathFactory) -> OnnxModel:
    folder = tmp_path_factory.mktemp("exported")
    check = export_onnx(model, folder / "model.onnx")
    assert check.bytes == check.path.stat().st_size
    assert {output.events for output in check.outputs} == {1, 3, 256}
    assert {output.slots["jets"] for output in check.outputs} == {5, 6, 9}
    assert check.worst is not None
    assert check.worst.difference < 1e-5
    assert [path.name for path in folder.iterdir()] == ["model.onnx"]
    return OnnxModel(folder / "model.onnx", threads=1)


def test_the_graph_says_what_torch_says(
    model: Model,
    exported: OnnxModel,
    batch_of: Callable[..., EventBatch],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exported.event == model.event
    assert exported.contract.inputs() == model.contract.inputs()
    spec = exported.contract["toy/scores"]
    assert spec.dims == ("event", "jets")
    assert spec.shape == (None, None)
    assert exported.contract["toy/probabilities"].shape == (None, 2)
    assert exported.metadata.select == {"hard": "met.pt > 5"}
    assert exported.metadata.classes == {"target/signal": ["background", "signal"]}
    assert exported.provenance["run"] == "toys"
    assert "hepset" in exported.provenance["versions"]
    for events in (0, 1, 50):
        batch = batch_of(events, targets=False)
        wanted, found = model.predict(batch), exported.predict(batch, batch_size=16)
        assert list(wanted) == list(found)
        for name, array in wanted.items():
            assert array.dtype == found[name].dtype, name
            np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-6, err_msg=name)
    # Other numbers of slots only add padding.
    wide = EventBatch(batch.ids, batch.streams, batch.arrays, {"jets": 11}, batch.sources)
    found = exported.predict(wide)
    assert found["toy/scores"].shape == (50, 11)
    np.testing.assert_allclose(
        found["toy/scores"][:, :6], wanted["toy/scores"], rtol=1e-4, atol=1e-6
    )
    assert not found["toy/scores"][:, 6:].any()
    # Plain arrays by name, as C++ would feed them; a global without a mask is there.
    arrays = {name: batch[name] for name in ("jets", "jets.mask", "met")}
    found = exported.predict(arrays)
    np.testing.assert_allclose(found["toy/scores"], wanted["toy/scores"], rtol=1e-4, atol=1e-6)
    assert not capsys.readouterr().out
    # Inputs are checked like everything else.
    bad = batch.with_columns("jets", {"pt": -2 * np.ones(len(batch.flat("jets").columns["pt"]))})
    with pytest.raises(ContractError, match=r"jets\.pt: domain"):
        exported.predict(bad)
    stream = batch.flat("jets")
    columns = {name: v for name, v in stream.columns.items() if name != "mass"}
    less = EventBatch(batch.ids, {"jets": FlatStream(stream.offsets, columns)}, batch.arrays)
    with pytest.raises(ContractError, match=r"jets\.mass"):
        exported.predict(less)
    with pytest.raises(ContractError, match="met"):
        exported.predict({"jets": arrays["jets"], "jets.mask": arrays["jets.mask"]})


def test_no_event_is_answered_by_no_event(
    exported: OnnxModel, batch_of: Callable[..., EventBatch]
) -> None:
    batch = batch_of(3, targets=False)
    session = open_session(str(exported.path), threads=1)
    feed = {node.name: np.asarray(batch[node.name]) for node in session.get_inputs()}
    names = [node.name for node in session.get_outputs()]
    some = dict(zip(names, session.run(names, feed), strict=True))
    none = session.run(names, {name: array[:0] for name, array in feed.items()})
    for name, array in zip(names, none, strict=True):
        assert array.shape == (0, *some[name].shape[1:]), name
        assert array.dtype == some[name].dtype, name


def test_features_are_found_by_name_in_any_order(
    model: Model, exported: OnnxModel, batch_of: Callable[..., EventBatch]
) -> None:
    batch = batch_of(20, targets=False)
    stream = batch.flat("jets")
    turned = dict(reversed(stream.columns.items())) | {"btag": np.ones(len(stream.columns["pt"]))}
    other = EventBatch(
        batch.ids, {"jets": FlatStream(stream.offsets, turned)}, batch.arrays, batch.slots
    )
    np.testing.assert_allclose(
        exported.predict(other)["toy/scores"],
        model.predict(batch)["toy/scores"],
        rtol=1e-4,
        atol=1e-6,
    )


def test_opening_an_onnx_file_needs_no_torch(exported: OnnxModel) -> None:
    code = (
        "import sys, hepset, numpy as np\n"
        f"model = hepset.load_model({str(exported.path)!r})\n"
        "jets, mask = np.ones((2, 3, 4), np.float32), np.ones((2, 3), bool)\n"
        "found = model.predict({'jets': jets, 'jets.mask': mask, 'met': np.ones((2, 1), 'f')})\n"
        "assert found['toy/probabilities'].shape == (2, 2)\n"
        "assert not {'torch', 'lightning', 'matplotlib'} & set(sys.modules)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


class Biased(HepsetLayout):
    """Says something else in the graph than in torch: only the comparison can tell."""

    name = "biased"

    def from_model(self, predictions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        shift = 0.01 if torch.compiler.is_exporting() else 0.0
        return {name: value + shift for name, value in predictions.items()}


class Renamed(HepsetLayout):
    """Another program's names, and a mask that is inverted there."""

    name = "renamed"

    def axes(self) -> dict[str, dict[int, str]]:
        return {f"in_{name}".replace(".", "_"): axes for name, axes in super().axes().items()}

    def to_model(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        found = dict(zip(super().axes(), inputs.values(), strict=True))
        return {name: ~t if name == "jets.mask" else t for name, t in found.items()}

    def from_model(self, predictions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"score": predictions["toy/probabilities"][:, 1]}

    def feed(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        turned = {name: ~a if name == "jets.mask" else a for name, a in arrays.items()}
        return {f"in_{name}".replace(".", "_"): array for name, array in turned.items()}


class _Layouts:
    hepset_interface = 1

    @hookimpl
    def hepset_components(self) -> list[Component]:
        return [
            Component("export_layouts", "biased", Biased),
            Component("export_layouts", "renamed", Renamed),
        ]


def test_layouts_of_plugins_and_a_graph_that_disagrees(model: Model, tmp_path: Path) -> None:
    registry().register(_Layouts(), name="layouts")
    try:
        with pytest.raises(ExportError, match=r"output 'toy/probabilities'.*differs from torch"):
            export_onnx(model, tmp_path / "wrong.onnx", layout="biased")
        assert not list(tmp_path.iterdir())
        export_onnx(model, tmp_path / "other.onnx", layout="renamed")
    finally:
        registry().unregister("layouts")
    graph = onnx.load(tmp_path / "other.onnx").graph
    assert [node.name for node in graph.input] == [
        "in_jets",
        "in_jets_mask",
        "in_met",
        "in_met_mask",
    ]
    assert [node.name for node in graph.output] == ["score"]
    with pytest.raises(ExportError, match="layout 'renamed' for another program"):
        load_model(tmp_path / "other.onnx")


def test_what_cannot_be_exported_or_opened_says_why(model: Model, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="opset 17"):
        export_onnx(model, tmp_path / "m.onnx", opset=17)
    with pytest.raises(UnknownComponentError, match="hepsset"):
        export_onnx(model, tmp_path / "m.onnx", layout="hepsset")
    (tmp_path / "text.onnx").write_text("no graph")
    with pytest.raises(ExportError, match="cannot open"):
        OnnxModel(tmp_path / "text.onnx")
    with pytest.raises(ExportError, match="no such file"):
        OnnxModel(tmp_path / "absent.onnx")


def test_metadata_of_others_and_of_the_future(exported: OnnxModel, tmp_path: Path) -> None:
    proto = onnx.load(exported.path)
    for prop in proto.metadata_props:
        if prop.key == "hepset.format":
            prop.value = "2"
    onnx.save(proto, tmp_path / "newer.onnx")
    with pytest.raises(ExportError, match="format 2 is newer"):
        OnnxModel(tmp_path / "newer.onnx")
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "foreign.onnx")
    with pytest.raises(ExportError, match="no hepset metadata"):
        OnnxModel(tmp_path / "foreign.onnx")


def test_torch_and_the_graph_refuse_the_same_events(
    model: Model, exported: OnnxModel, batch_of: Callable[..., EventBatch]
) -> None:
    batch = batch_of(20)
    jets, mask = batch["jets"], batch["jets.mask"]
    good = {"jets": jets, "jets.mask": mask, "met": batch["met"]}
    lost = np.where(mask[..., None], np.nan, jets)
    cases: dict[str, dict[str, Any]] = {
        "at most 6 objects": {"jets": np.tile(jets, (1, 2, 1)), "jets.mask": np.tile(mask, (1, 2))},
        "finite": {"jets": lost},
        "feature: 4": {"jets": jets[..., :3]},
        "rename 'mett' to 'met'": {"met": None, "mett": batch["met"]},
        "disagree in length": {"met": batch["met"][:5]},
    }
    for text, changes in cases.items():
        events = {k: v for k, v in {**good, **changes}.items() if v is not None}
        for opened in (model, exported):
            with pytest.raises(ContractError, match=text):
                opened.predict(events)


def test_numbers_are_compared_where_decisions_agree() -> None:
    chosen = np.zeros((2000, 1), np.int64)
    other = chosen.copy()
    other[7] = 3
    chance = np.full(2000, 0.5, np.float32)
    changed = chance.copy()
    changed[7] = 0.2
    all_proved = np.ones(2000, bool)
    names = ["tops/t1", "tops/probability"]
    agree = _same_decisions(names, set(), [chosen, chance], [other, changed], 2000)["tops"]
    assert list(np.flatnonzero(~agree)) == [7]
    assert (
        _compare("tops/probability", chance, changed, 2000, {}, agree, all_proved).difference == 0
    )
    changed[8] = 0.2
    with pytest.raises(ExportError, match="differs from torch in 1 of 2000"):
        _compare("tops/probability", chance, changed, 2000, {}, agree, all_proved)


def test_decisions_that_the_graph_cannot_prove_are_not_compared() -> None:
    """Torch searches on where the graph gives up, and the graph says which events these are."""
    names = ["tops/t1", "tops/certified"]
    wanted = [np.zeros((100, 3), np.int64), np.ones(100, bool)]
    found = [wanted[0].copy(), wanted[1].copy()]
    found[0][:40] = 5
    everything = np.ones(100, bool)
    with pytest.raises(ExportError, match="the decision differs in 40 events"):
        _compare(names[0], wanted[0], found[0], 100, {}, everything, everything)
    found[1][:40] = False
    by_head = _proved([*names, "signal/class"], {names[1]}, [*found, wanted[0]], 100)
    assert by_head["signal"].all()
    proved = by_head["tops"]
    assert list(np.flatnonzero(~proved)) == list(range(40))
    checks = [
        _compare(name, ours, theirs, 100, {}, everything, proved)
        for name, ours, theirs in zip(names, wanted, found, strict=True)
    ]
    assert [(check.decisions, check.unproved) for check in checks] == [(0, 40), (0, 40)]
    # The other way round the graph claims what torch could not prove.
    with pytest.raises(ExportError, match="the decision differs in 40 events"):
        _compare(names[1], found[1], wanted[1], 100, {}, everything, everything)
