"""Arrays as weaver's loader gives them, against numpy per event and against the public files."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from hepset.batch import EventBatch, concatenate
from hepset.model.input_transform import InputTransform
from hepset.run import Run
from hepset_jetclass import weaver_batches, weaver_inputs
from hepset_jetclass.weaver.writing import write_configuration

from .conftest import WRITERS

ROOT = Path(__file__).parents[4]
PUBLIC = ROOT.parent / "shared" / "fixtures" / "weaver" / "inputs_selected.npz"
SOPHON = ROOT.parent / "shared" / "data" / "jetclass2" / "JetClassII_full.yaml"
F = np.float32

CONFIG = """
treename: tree
selection: (jet_pt > 220) & (np.abs(jet_eta) < 2.0) & ~(npv > 50)
test_time_selection: jet_pt > 210
file_magic:
   is_hbb: {"HToBB": 1, "QCD": 0}
   source: {"sig/": 3, "bkg/": 7}
new_variables:
   pf_mask: ak.ones_like(pf_pt)
   sv_mask: ak.ones_like(sv_pt)
   pf_logpt: np.log(pf_pt)
   pf_ptrel: pf_pt / jet_pt
   pf_absd0: np.abs(pf_d0)
   pf_scaled: pf_pt / jet_pt * 500
   pf_clipped: _clip(pf_scaled, 1, 30)
   sv_logm: np.log(np.maximum(sv_mass, 1e-3))
   is_signal: np.logical_and(is_sig == 1, is_bkg == 0)
   not_signal: ~is_signal
   number_of_pf: ak.num(pf_pt)
   sum_pt: ak.sum(pf_pt, axis=1)
inputs:
   pf_points:
      length: 6
      pad_mode: wrap
      vars:
         - [pf_eta, null]
   pf_features:
      length: 6
      vars:
         - [pf_logpt, 1.0, 0.5, -3, 3, -9]
         - [pf_ptrel, 0.1]
         - [pf_absd0, 0, 1, 0, 2]
         - pf_clipped
         - [pf_charge, null]
   pf_vectors:
      length: 6
      vars: [[pf_px, null], [pf_py, null], [pf_pz, null], [pf_energy, null]]
   pf_mask:
      length: 6
      vars: [[pf_mask, null]]
   sv_features:
      length: 3
      pad_mode: wrap
      vars: [[sv_logm, 0.5, 1], [sv_pt, null]]
   sv_mask:
      length: 3
      vars: [[sv_mask, null]]
   jet_features:
      length: null
      vars: [[jet_pt, 300, 0.01, -1, 1], [jet_eta, null]]
labels:
   type: simple
   value: [is_signal, not_signal]
observers: [jet_pt, evt, number_of_pf, sum_pt, is_hbb, source]
weights:
   use_precomputed_weights: false
   reweight_method: ref
   reweight_vars: {jet_pt: [200, 300, 450, 900], jet_mass: [20, 60, 120, 400]}
   reweight_classes: [is_signal, not_signal]
   class_weights: [1, 2]
   reweight_threshold: 15
   reweight_discard_under_overflow: false
   reweight_hists:
"""


def document(**changed: Any) -> dict[str, Any]:
    """Return the configuration with changed keys; None takes one out."""
    loaded: dict[str, Any] = yaml.safe_load(CONFIG)
    loaded.update(changed)
    return {key: value for key, value in loaded.items() if value is not None}


def arrays(events: int, seed: int, *, signal: bool) -> dict[str, Any]:
    """Return columns: arrays per event, and ``(counts, values)`` of lists."""
    rng = np.random.default_rng(seed)
    pf, sv = rng.poisson(5, events), rng.poisson(1.5, events)
    pf[:3], sv[:3] = [0, 1, 15], [2, 0, 9]
    n = int(pf.sum())
    pt = rng.exponential(20, n) + 0.5
    eta, phi = rng.normal(0, 1, n), rng.uniform(-3.1, 3.1, n)
    momenta = {
        "pf_px": pt * np.cos(phi),
        "pf_py": pt * np.sin(phi),
        "pf_pz": pt * np.sinh(eta),
        "pf_energy": 1.01 * pt * np.cosh(eta),
        "pf_pt": pt,
        "pf_eta": eta,
        "pf_d0": rng.normal(0, 1, n),
    }
    found: dict[str, Any] = {k: (pf, v.astype(np.float32)) for k, v in momenta.items()}
    found["pf_charge"] = pf, rng.integers(-1, 2, n).astype(np.int32)
    found["sv_pt"] = sv, (rng.exponential(30, sv.sum()) + 1).astype(np.float32)
    found["sv_mass"] = sv, rng.exponential(2, sv.sum()).astype(np.float32)
    found |= {
        "jet_pt": (rng.exponential(150, events) + 200).astype(np.float32),
        "jet_eta": rng.normal(0, 1, events).astype(np.float32),
        "jet_mass": (rng.exponential(60, events) + 20).astype(np.float32),
        "npv": rng.integers(1, 60, events).astype(np.int32),
        "is_sig": np.full(events, int(signal), np.int32),
        "is_bkg": np.full(events, int(not signal), np.int32),
        "evt": rng.integers(0, 2**40, events),
    }
    return found


def write(path: Path, columns: dict[str, Any]) -> Path:
    """Write columns to a Parquet file."""
    table = {}
    for name, values in columns.items():
        if isinstance(values, tuple):
            offsets = np.concatenate([[0], np.cumsum(values[0])]).astype(np.int32)
            table[name] = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values[1]))
        else:
            table[name] = pa.array(values)
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), path)
    return path


@pytest.fixture(scope="module")
def columns() -> list[dict[str, Any]]:
    return [arrays(40, 1, signal=True), arrays(60, 2, signal=False)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory, columns: list[dict[str, Any]]) -> list[Path]:
    folder = tmp_path_factory.mktemp("weaver")
    names = ("sig/HToBB_000.parquet", "bkg/QCD_000.parquet")
    return [write(folder / name, part) for name, part in zip(names, columns, strict=True)]


def rows_of(part: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a file, lists cut out one by one."""
    found = []
    for row in range(len(part["jet_pt"])):
        event = {}
        for name, values in part.items():
            if isinstance(values, tuple):
                start = values[0][:row].sum()
                event[name] = values[1][start : start + values[0][row]]
            else:
                event[name] = values[row]
        found.append(event)
    return found


def padded(values: np.ndarray, length: int, fill: float | None) -> np.ndarray:
    """Cut and fill up one event's values; None repeats them."""
    if fill is None:
        return np.resize(values, length) if len(values) else np.zeros(length, F)
    out = np.full(length, fill, F)
    out[: len(values)] = values[:length]
    return out


def expected(columns: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """What weaver gives, event by event, in its float32 arithmetic."""
    events = [(e, i) for i, part in enumerate(columns) for e in rows_of(part)]
    kept = [
        (e, i)
        for e, i in events
        if e["jet_pt"] > 220 and abs(e["jet_eta"]) < 2 and not e["npv"] > 50
    ]
    out: dict[str, list[Any]] = {}

    def add(name: str, rows: list[np.ndarray]) -> None:
        out.setdefault(name, []).append(np.stack(rows))

    for e, i in kept:
        pt, jet = e["pf_pt"], e["jet_pt"]
        with np.errstate(divide="ignore"):
            features = [
                (np.clip((np.log(pt) - F(1)) * F(0.5), -3, 3), -9.0),
                (np.clip(pt / jet - F(0.1), -5, 5), 0.0),
                (np.clip(np.abs(e["pf_d0"]), 0, 2), 0.0),
                (np.clip(pt / jet * 500, 1, 30), 0.0),
                (e["pf_charge"].astype(F), 0.0),
            ]
        add("pf_points", [padded(e["pf_eta"], 6, None)])
        add("pf_features", [padded(v, 6, fill) for v, fill in features])
        momenta = ("pf_px", "pf_py", "pf_pz", "pf_energy")
        add("pf_vectors", [padded(e[name], 6, 0.0) for name in momenta])
        add("pf_mask", [padded(np.ones_like(pt), 6, 0.0)])
        mass = np.clip(np.log(np.maximum(e["sv_mass"], 1e-3)) - F(0.5), -5, 5)
        add("sv_features", [padded(mass, 3, None), padded(e["sv_pt"], 3, None)])
        add("sv_mask", [padded(np.ones_like(e["sv_pt"]), 3, 0.0)])
        once = [np.clip((jet - F(300)) * F(0.01), F(-1), F(1)), e["jet_eta"]]
        out.setdefault("jet_features", []).append(np.array(once, F))
        out.setdefault("_label_", []).append(i)
        for name in ("jet_pt", "evt"):
            out.setdefault(name, []).append(e[name])
        out.setdefault("number_of_pf", []).append(len(pt))
        out.setdefault("sum_pt", []).append(pt.astype(np.float64).sum())
        out.setdefault("is_hbb", []).append(1 - i)
        out.setdefault("source", []).append(7 if i else 3)
    return {name: np.array(values) for name, values in out.items()}


def read(files: list[Path], reader: str, **options: Any) -> EventBatch:
    return concatenate(weaver_batches(document(), files, reader=reader, **options))


@pytest.mark.parametrize(("reader", "chunk"), [("parquet", 1000), ("parquet", 7), ("jetclass", 33)])
def test_everything_is_what_weaver_gives(
    files: list[Path], columns: list[dict[str, Any]], reader: str, chunk: int
) -> None:
    found = weaver_inputs(document(), read(files, reader, chunk_size=chunk))
    wanted = expected(columns)
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        if name == "sum_pt":
            np.testing.assert_allclose(found[name], values, rtol=1e-6)
        else:
            np.testing.assert_array_equal(found[name], values, err_msg=name)
        if values.ndim > 1:
            assert found[name].dtype == np.float32


def chosen(part: dict[str, Any], rows: list[int]) -> dict[str, Any]:
    """Some events of a file, in any order."""
    events = rows_of(part)
    found: dict[str, Any] = {}
    for name, values in part.items():
        column = [events[row][name] for row in rows]
        if isinstance(values, tuple):
            lengths = np.array([len(value) for value in column])
            found[name] = lengths, np.concatenate([values[1][:0], *column])
        else:
            found[name] = np.array(column, values.dtype)
    return found


@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_a_jet_does_not_depend_on_what_stands_beside_it(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    part = arrays(14, 5, signal=True) | {"npv": np.ones(14, np.int32), "evt": np.arange(14)}
    rows = data.draw(st.permutations(range(14)), "rows")
    cuts = sorted({0, 14, *data.draw(st.sets(st.integers(1, 13), max_size=3), "cuts")})
    folder = tmp_path_factory.mktemp("jets")

    def inputs(file: Path, chunk: int) -> list[tuple[int, dict[str, np.ndarray]]]:
        batches = weaver_batches(document(), [file], reader="parquet", chunk_size=chunk)
        found = weaver_inputs(document(), concatenate(list(batches)))
        keys = [int(number) for number in found["evt"]]
        return [(key, {n: v[i] for n, v in found.items()}) for i, key in enumerate(keys)]

    alone = dict(inputs(write(folder / "all" / "HToBB.parquet", part), 1))
    seen = 0
    for start, stop in itertools.pairwise(cuts):
        file = folder / str(start) / "HToBB.parquet"
        write(file, chosen(part, rows[start:stop]))
        for key, jet in inputs(file, data.draw(st.integers(1, 14), "chunk")):
            seen += 1
            for name, values in jet.items():
                np.testing.assert_array_equal(values, alone[key][name], err_msg=name)
    assert seen == len(alone) > 5


def test_the_model_sees_the_same(files: list[Path], tmp_path: Path) -> None:
    run = Run.from_yaml(
        {
            "event": {"inline": document()},
            "read": {"reader": "parquet", "files": [str(path) for path in files]},
            "prepare": {"split": {"train": 1.0, "val": 0.0, "test": 0.0}},
            "execution": {"convert": {"workers": 1}},
            "output": str(tmp_path / "run"),
        }
    )
    dataset = run.prepare()
    (batch,) = dataset.split("train").batches(1000)
    arrays = weaver_inputs(document(), batch)
    transform = InputTransform(dataset.event, dataset.contract, dataset.statistics)
    names = [s.name for s in dataset.contract.of_kind("stream", "mask", "global")]
    x = transform(
        {name: torch.from_numpy(np.asarray(batch[name])) for name in names if name in batch}
    )
    mask = x.masks["pf"].numpy()[:, None]
    np.testing.assert_array_equal(mask[:, 0], arrays["pf_mask"][:, 0] == 1)
    features = x.streams["pf"].numpy().swapaxes(1, 2)
    np.testing.assert_array_equal(features, np.where(mask, arrays["pf_features"], 0))
    np.testing.assert_array_equal(x.p4["pf"].numpy().swapaxes(1, 2), arrays["pf_vectors"])
    np.testing.assert_array_equal(x.globals["jet"].numpy(), arrays["jet_features"])
    assert run.config.train.sampling is not None
    assert run.config.prepare.predict_select == {"test_time_selection": "jet_pt > 210"}


def test_the_written_configuration_prepares_the_same(
    files: list[Path], columns: list[dict[str, Any]], tmp_path: Path
) -> None:
    source = tmp_path / "top.yaml"
    source.write_text(yaml.safe_dump(document(), sort_keys=False))
    event, config = write_configuration(
        source, tmp_path / "own", files=[str(path) for path in files], reader="parquet"
    )
    split = "prepare.split={train: 1.0, val: 0.0, test: 0.0}"
    settings = [split, "execution.convert.workers=1", f"output={tmp_path / 'run'}"]
    run = Run.from_yaml(config, overrides=settings)
    (batch,) = run.prepare().split("train").batches(1000)
    order = np.lexsort((batch.ids["entry"], batch.ids["source"]))
    found = weaver_inputs(document(), batch.take(order))
    for name, values in expected(columns).items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6, err_msg=name)
    assert event.read_text().startswith("# From top.yaml.\nformat: hepset-event/1\n")


def public_columns(path: Path) -> dict[str, Any]:
    """All 54 columns of the public jets, as the files of the tests are made of."""
    table = pq.read_table(path)
    found = {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            values = column.flatten().to_numpy(zero_copy_only=False)
            lengths = np.diff(column.offsets.to_numpy())
            found[name] = ak.unflatten(values, lengths)
        else:
            found[name] = column.to_numpy(zero_copy_only=False)
    return found


@pytest.mark.parametrize("container", [None, *WRITERS])
def test_the_public_jets_are_the_same_to_the_bit(
    jets_file: Path, tmp_path: Path, container: str | None
) -> None:
    if not PUBLIC.is_file() or not SOPHON.is_file():
        pytest.skip("the public configuration is not here")
    wanted = np.load(PUBLIC)
    path = jets_file
    if container is not None:
        path = tmp_path / f"copy.{container}"
        WRITERS[container](path, public_columns(jets_file))
    for chunk in (10_000, 9):
        parts = [b for b in weaver_batches(SOPHON, [path], chunk_size=chunk) if len(b)]
        batch = concatenate(parts)
        found = weaver_inputs(SOPHON, batch)
        np.testing.assert_array_equal(batch.ids["entry"], wanted["entry_index"])
        for name in wanted.files:
            if name != "entry_index":
                own = found[name.removeprefix("obs_")]
                np.testing.assert_array_equal(own, wanted[name], err_msg=name)
