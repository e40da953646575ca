"""Readers of columns against awkward's own lists, for every kind of column and any chunk size."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot

from hepset.arrays import Array
from hepset.batch import EventBatch, concatenate
from hepset.errors import ConfigurationError, ReadError, UnknownComponentError
from hepset.readers import open_reader
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo
from hepset.testing import check_reader

EVENT: dict[str, Any] = {
    "streams": {"jets": {"features": {"pt": {"unit": "GeV"}, "eta": None, "tag": None}}},
    "globals": {"met": {"features": {"pt": None, "phi": None}}},
    "particles": {"t": {"b": "jets", "q": "jets"}},
    "targets": {
        "signal": {"kind": "classification", "classes": ["background", "signal"]},
        "top_mass": {"kind": "regression"},
        "origin": {"kind": "classification", "stream": "jets"},
    },
}
EVENTS = 23
RNG = np.random.default_rng(5)
COUNTS = RNG.integers(0, 5, EVENTS)
COUNTS[[0, 7, 22]] = 0
TOTAL = int(COUNTS.sum())
JETS: dict[str, Array] = {
    "pt": RNG.exponential(50, TOTAL).astype(np.float32),
    "eta": RNG.normal(size=TOTAL),
    "tag": RNG.integers(0, 2, TOTAL).astype(np.int32),
    "origin": RNG.integers(-1, 3, TOTAL).astype(np.int32),
}
SCALARS: dict[str, Array] = {
    "MET_pt": RNG.exponential(40, EVENTS).astype(np.float32),
    "MET_phi": RNG.uniform(-3, 3, EVENTS).astype(np.float32),
    "signal": RNG.integers(0, 2, EVENTS).astype(np.int32),
    "top_mass": np.where(np.arange(EVENTS) % 4 == 0, np.nan, 172.5).astype(np.float32),
    "t_b": np.where(COUNTS > 1, 0, -1).astype(np.int32),
    "t_q": np.where(COUNTS > 1, 1, -1).astype(np.int32),
    "genWeight": RNG.normal(1, 1, EVENTS),
    "run": np.arange(EVENTS, dtype=np.uint32) + 362000,
}


def jagged(name: str) -> ak.Array:
    return ak.unflatten(JETS[name], COUNTS)


def write_counters(path: Path) -> Path:
    """NanoAOD-like: nJet and Jet_pt[nJet]."""
    with uproot.recreate(path) as file:
        jets = {name: jagged(name) for name in JETS}
        types: dict[str, Any] = {name: values.dtype for name, values in SCALARS.items()}
        types["Jet"] = ak.zip(jets).type.content
        file.mktree("Events", types)
        # Two baskets, so that ranges cross a boundary.
        for part in (slice(0, 10), slice(10, None)):
            rows = {name: values[part] for name, values in SCALARS.items()}
            file["Events"].extend({**rows, "Jet": ak.zip(jets)[part]})
    return path


def write_vectors(path: Path) -> Path:
    with uproot.recreate(path) as file:
        types: dict[str, Any] = {name: values.dtype for name, values in SCALARS.items()}
        types |= {f"jets_{name}": jagged(name).type.content for name in JETS}
        file.mktree("deep/events", types)
        file["deep/events"].extend({**SCALARS, **{f"jets_{n}": jagged(n) for n in JETS}})
    return path


def write_rntuple(path: Path) -> Path:
    with uproot.recreate(path) as file:
        columns = {**SCALARS, "Jet": ak.zip({name: jagged(name) for name in JETS})}
        ntuple = file.mkrntuple("events", {name: ak.Array(c)[:9] for name, c in columns.items()})
        ntuple.extend({name: ak.Array(c)[9:] for name, c in columns.items()})
    return path


def write_flat_parquet(path: Path) -> Path:
    columns = {name: pa.array(values) for name, values in SCALARS.items()}
    columns |= {f"jet_{name}": ak.to_arrow(jagged(name), extensionarray=False) for name in JETS}
    pq.write_table(pa.table(columns), path, row_group_size=5)
    return path


def write_nested_parquet(path: Path) -> Path:
    columns = {name: pa.array(values) for name, values in SCALARS.items()}
    columns["jets"] = pa.array([[dict(jet) for jet in event] for event in _structs()])
    pq.write_table(pa.table(columns), path)
    return path


def _structs() -> list[list[dict[str, Any]]]:
    found: list[list[dict[str, Any]]] = ak.zip({name: jagged(name) for name in JETS}).to_list()
    return found


FORMATS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "counters": ("root", write_counters),
    "vectors": ("root", write_vectors),
    "rntuple": ("root", write_rntuple),
    "flat": ("parquet", write_flat_parquet),
    "nested": ("parquet", write_nested_parquet),
}


@pytest.fixture(scope="module", params=list(FORMATS))
def sample(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    reader, write = FORMATS[request.param]
    return reader, write(tmp_path_factory.mktemp("columns") / f"{request.param}.{reader}")


def read(reader: Any) -> EventBatch:
    return concatenate(list(reader))


@pytest.mark.parametrize("chunk_size", [1, 7, 100])
def test_reads_what_awkward_wrote(sample: Any, chunk_size: int) -> None:
    name, path = sample
    origin = {"rntuple": "Jet.origin", "counters": "Jet_origin", "vectors": "jets_origin"}
    origin |= {"flat": "jet_origin", "nested": "jets.origin"}
    columns = {"extra.run": "run", "targets.origin": origin[path.stem]}
    reader = open_reader(name, files=path, event=EVENT, chunk_size=chunk_size, columns=columns)
    batch = read(reader)
    assert [s.entries for s in reader.sources()] == [EVENTS]
    jets = batch.streams["jets"]
    assert jets.slots is None
    assert list(jets.columns) == ["pt", "eta", "tag"]
    for feature, values in jets.columns.items():
        assert ak.unflatten(values, jets.counts).to_list() == jagged(feature).to_list()
    np.testing.assert_array_equal(jets.attached["target/origin"], JETS["origin"])
    met = np.stack([SCALARS["MET_pt"], SCALARS["MET_phi"]], axis=1)
    np.testing.assert_array_equal(batch["met"], met)
    np.testing.assert_array_equal(batch["target/signal"], SCALARS["signal"])
    np.testing.assert_array_equal(batch["target/top_mass"], SCALARS["top_mass"])
    both = np.stack([SCALARS["t_b"], SCALARS["t_q"]], axis=1)
    np.testing.assert_array_equal(batch["target/assignment/t"], both)
    np.testing.assert_array_equal(batch["weight"], SCALARS["genWeight"])
    np.testing.assert_array_equal(batch["extra/run"], SCALARS["run"])
    assert batch["extra/run"].dtype.kind in "iu"
    np.testing.assert_array_equal(batch.ids["entry"], np.arange(EVENTS))
    assert batch.where(3) == (str(path), 3)
    assert compile_contract(reader.event_info()).check(batch).violations == ()


def test_features_keep_the_dtype_of_the_file(sample: Any) -> None:
    name, path = sample
    jets = read(open_reader(name, files=path, event=EVENT)).streams["jets"]
    assert jets.columns["pt"].dtype == (np.float64 if path.stem == "nested" else np.float32)
    assert jets.columns["eta"].dtype == np.float64


def test_chunks_can_be_read_in_any_order_and_elsewhere(sample: Any) -> None:
    name, path = sample
    reader = open_reader(name, files=path, event=EVENT, chunk_size=4)
    chunks = reader.chunks()
    expected = {chunk: reader.read(chunk) for chunk in chunks}
    travelled = pickle.loads(pickle.dumps(reader))
    for chunk in reversed(chunks):
        batch = travelled.read(chunk)
        np.testing.assert_array_equal(batch.ids, expected[chunk].ids)
        for feature, values in batch.flat("jets").columns.items():
            assert values.tolist() == expected[chunk].flat("jets").columns[feature].tolist()


def test_conforms(sample: Any, tmp_path: Path) -> None:
    name, path = sample
    second = tmp_path / f"second-{path.name}"
    second.write_bytes(path.read_bytes())
    check_reader(open_reader(name, files={"a": str(path), "b": str(second)}, event=EVENT))


def test_max_events(sample: Any) -> None:
    name, path = sample
    assert len(read(open_reader(name, files=path, event=EVENT, max_events=9, chunk_size=4))) == 9


def test_scale_index_map_and_constants(tmp_path: Path) -> None:
    path = write_counters(tmp_path / "a.root")
    columns = {
        "streams.jets.pt": {"from": "Jet_pt", "scale": 0.001},
        "streams.jets.eta": {"from": "Jet_tag", "scale": 0.5},
        "streams.jets.charge": {"value": 1},
        "globals.met.phi": 0.25,
        "targets.signal": {"from": "signal", "map": {0: "signal", 1: "background"}},
        "weight": {"value": 2},
    }
    batch = read(open_reader("root", files=path, event=EVENT, columns=columns))
    jets = batch.flat("jets")
    assert jets.columns["pt"].dtype == np.float32
    np.testing.assert_array_equal(jets.columns["pt"], JETS["pt"] * np.float32(0.001))
    np.testing.assert_array_equal(jets.columns["eta"], JETS["tag"] * 0.5)
    assert jets.columns["charge"].tolist() == [1] * TOTAL
    assert set(batch["met"][:, 1]) == {0.25}
    np.testing.assert_array_equal(batch["target/signal"], 1 - SCALARS["signal"])
    assert set(batch["weight"]) == {2}


def test_map_refuses_what_it_does_not_list(tmp_path: Path) -> None:
    path = write_counters(tmp_path / "a.root")
    first = int(np.argmax(SCALARS["signal"] == 0))
    columns: dict[str, Any] = {"targets.signal": {"from": "signal", "map": {1: 0}}}
    with pytest.raises(ReadError, match=rf"map does not list the value 0.*first: entry {first}"):
        read(open_reader("root", files=path, event=EVENT, columns=columns))
    columns["targets.signal"]["otherwise"] = -1
    batch = read(open_reader("root", files=path, event=EVENT, columns=columns))
    np.testing.assert_array_equal(batch["target/signal"], SCALARS["signal"] - 1)


def test_label_by_group(tmp_path: Path) -> None:
    write_counters(tmp_path / "a.root")
    write_vectors(tmp_path / "b.root")
    files = {"ttbar": str(tmp_path / "a.root"), "qcd": [str(tmp_path / "b.root")]}
    columns: dict[str, Any] = {"targets.signal": {"group": {"ttbar": "signal", "qcd": 0}}}
    batch = read(open_reader("root", files=files, event=EVENT, columns=columns))
    assert batch["target/signal"].tolist() == [1] * EVENTS + [0] * EVENTS
    assert batch["extra/group"].tolist() == ["ttbar"] * EVENTS + ["qcd"] * EVENTS
    np.testing.assert_array_equal(batch.ids["source"], [0] * EVENTS + [1] * EVENTS)
    columns["targets.signal"]["group"].pop("qcd")
    reader = open_reader("root", files=files, event=EVENT, columns=columns)
    with pytest.raises(ConfigurationError, match="no value for the group 'qcd'"):
        reader.sources()


@pytest.mark.parametrize("kind", ["root", "parquet"])
def test_fixed_size_arrays_are_padded_streams(tmp_path: Path, kind: str) -> None:
    pt = np.arange(15, dtype=np.float32).reshape(5, 3)
    counts = np.array([3, 0, 1, 2, 3], np.int32)
    indices = np.array([[0, 1]] + [[-1, -1]] * 4, np.int32)
    columns = {"jet_pt": pt, "n": counts, "target_assignment_t": indices, "ok": pt > 3}
    path = tmp_path / f"a.{kind}"
    if kind == "root":
        with uproot.recreate(path) as file:
            file.mktree("t", {n: np.dtype((c.dtype, c.shape[1:])) for n, c in columns.items()})
            file["t"].extend(columns)
    else:
        pq.write_table(
            pa.table(
                {
                    name: pa.FixedSizeListArray.from_arrays(pa.array(c.ravel()), c.shape[1])
                    if c.ndim > 1
                    else pa.array(c)
                    for name, c in columns.items()
                }
            ),
            path,
        )
    event = {"streams": {"jets": {"features": ["pt"]}}, "particles": EVENT["particles"]}
    mapped = {"counts.jets": "n", "extra.second": {"from": "jet_pt", "index": 1}}
    for size in (2, 5):
        options: dict[str, Any] = {"files": path, "event": event, "chunk_size": size}
        batch = read(open_reader(kind, columns=mapped, **options))
        jets = batch.streams["jets"]
        assert jets.slots == 3
        mask = np.arange(3) < counts[:, None]
        np.testing.assert_array_equal(jets.columns["pt"], pt[mask])
        np.testing.assert_array_equal(batch["jets.mask"], mask)
        np.testing.assert_array_equal(batch["target/assignment/t"], indices)
        np.testing.assert_array_equal(batch["extra/second"], pt[:, 1])
        by_mask = read(open_reader(kind, columns={"masks.jets": "ok"}, **options))
        np.testing.assert_array_equal(by_mask["jets.mask"], pt > 3)
        assert read(open_reader(kind, **options))["jets.mask"].all()


def test_nulls_in_parquet(tmp_path: Path) -> None:
    table = pa.table(
        {
            "jets_pt": pa.array([[1.0, None], None, [2.0]]),
            "signal": pa.array([1, None, 0]),
            "label": pa.array(["b", "s", "b"]),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet")
    event = {
        "streams": {"jets": {"features": ["pt"]}},
        "targets": {"signal": {"kind": "classification"}, "kind": {"kind": "classification"}},
    }
    columns = {"targets.kind": {"from": "label", "map": {"b": 0, "s": 1}}, "extra.label": "label"}
    reader = open_reader("parquet", files=tmp_path / "a.parquet", event=event, columns=columns)
    batch = read(reader)
    assert batch.flat("jets").counts.tolist() == [2, 0, 1]
    np.testing.assert_array_equal(batch.flat("jets").columns["pt"], [1, np.nan, 2])
    assert batch["target/signal"].tolist() == [1, -1, 0]
    assert batch["target/kind"].tolist() == [0, 1, 0]
    assert batch["extra/label"].tolist() == ["b", "s", "b"]


class TestErrors:
    def test_missing_column_names_the_nearest(self, sample: Any) -> None:
        name, path = sample
        columns = {"streams.jets.pt": "Jet_ptt"}
        with pytest.raises(ReadError, match=r"streams.jets.pt: no column 'Jet_ptt'; closest: '"):
            read(open_reader(name, files=path, event=EVENT, columns=columns))

    def test_feature_without_a_column(self, sample: Any) -> None:
        name, path = sample
        streams = {"jets": {"features": ["pt", "charge"]}}
        event = {"streams": streams}
        with pytest.raises(ReadError, match=r"streams.jets.charge: no column 'jets_charge'") as e:
            read(open_reader(name, files=path, event=event))
        assert "{streams.jets.charge: null}" in str(e.value)
        columns = {"streams.jets.charge": None}
        batch = read(open_reader(name, files=path, event=event, columns=columns))
        assert list(batch.streams["jets"].columns) == ["pt"]

    def test_several_trees(self, tmp_path: Path) -> None:
        path = write_counters(tmp_path / "a.root")
        with uproot.update(path) as file:
            file.mktree("other", {"x": "f4"})
        with pytest.raises(ReadError, match="several trees: Events, other; say which with tree"):
            open_reader("root", files=path, event=EVENT).sources()
        with pytest.raises(ReadError, match="no TTree or RNTuple 'Event'; did you mean 'Events'"):
            open_reader("root", files=path, event=EVENT, tree="Event").sources()
        assert len(read(open_reader("root", files=path, event=EVENT, tree="Events"))) == EVENTS

    def test_no_tree(self, tmp_path: Path) -> None:
        uproot.recreate(tmp_path / "a.root").close()
        with pytest.raises(ReadError, match="has no tree"):
            open_reader("root", files=tmp_path / "a.root", event=EVENT).sources()

    @pytest.mark.parametrize("kind", ["root", "parquet"])
    def test_no_such_format(self, tmp_path: Path, kind: str) -> None:
        (tmp_path / "a").write_bytes(b"nonsense " * 100)
        with pytest.raises(ReadError, match=r"/a: cannot be read as"):
            open_reader(kind, files=tmp_path / "a", event=EVENT).sources()

    def test_truncated(self, sample: Any, tmp_path: Path) -> None:
        name, path = sample
        short = tmp_path / path.name
        content = path.read_bytes()
        short.write_bytes(content[: len(content) // 3])
        with pytest.raises(ReadError, match=path.name):
            read(open_reader(name, files=short, event=EVENT))

    def test_damaged_pages(self, sample: Any, tmp_path: Path) -> None:
        """Zeros over the data but not over header and footer: an error or the same numbers."""
        name, path = sample
        content = bytearray(path.read_bytes())
        middle = slice(len(content) // 4, len(content) // 2)
        content[middle] = bytes(len(content[middle]))
        (tmp_path / "damaged").write_bytes(content)
        try:
            batch = read(open_reader(name, files=tmp_path / "damaged", event=EVENT))
        except ReadError:
            return
        assert len(batch) == EVENTS

    def test_lengths_that_disagree(self, tmp_path: Path) -> None:
        table = pa.table({"jets_pt": [[1.0], [2.0, 3.0]], "jets_eta": [[1.0], [2.0]]})
        pq.write_table(table, tmp_path / "a.parquet")
        event = {"streams": {"jets": {"features": ["pt", "eta"]}}}
        with pytest.raises(ReadError, match=r"'jets_pt' has 2 objects where .*first: entry 1"):
            read(open_reader("parquet", files=tmp_path / "a.parquet", event=event))

    def test_wrong_forms(self, tmp_path: Path) -> None:
        path = write_counters(tmp_path / "a.root")

        def refuse(columns: dict[str, Any], message: str) -> None:
            with pytest.raises(ReadError, match=message):
                read(open_reader("root", files=path, event=EVENT, columns=columns))

        refuse({"globals.met.pt": "Jet_pt"}, "holds lists, expected one value per event")
        refuse({"streams.jets.pt": "MET_pt"}, "one value per event, the other columns lists")
        refuse({"globals.met.pt": {"from": "Jet_pt", "index": 0}}, "no element 0 of 'Jet_pt'")
        refuse({"extra.x": "Jet_pt"}, "say which stream")
        refuse({"targets.assignment/t": ["t_b"]}, "2 products .b, q. need as many columns")

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"stream.jets.pt": "x"}, "no place in an event; did you mean 'streams'"),
            ({"streams.jet.pt": "x"}, "no stream 'jet'; did you mean 'jets'"),
            ({"streams.jets": "x"}, "which feature"),
            ({"targets.signl": "x"}, "no target 'signl'; did you mean 'signal'"),
            ({"weight": {"from": "x", "value": 1}}, "exactly one of 'from', 'value' and 'group'"),
            ({"weight": {"value": 1, "scale": 2}}, "they need 'from'"),
            ({"weight": {"group": {"a": 1}}}, "needs grouped files"),
            ({"weight": {"form": "x"}}, "unknown key; did you mean 'from'"),
            ({"weight": ["a", "b"]}, "one column is enough"),
            ({"targets.signal": {"value": "signall"}}, "no class 'signall'; did you mean"),
        ],
    )
    def test_column_map(self, tmp_path: Path, columns: dict[str, Any], message: str) -> None:
        path = write_counters(tmp_path / "a.root")
        with pytest.raises(ConfigurationError, match=message):
            read(open_reader("root", files=path, event=EVENT, columns=columns))

    def test_ambiguous(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"JETS_pt": [[1.0]], "Jets_pt": [[1.0]]}), tmp_path / "a.parquet")
        event = {"streams": {"jets": {"features": ["pt"]}}}
        with pytest.raises(ReadError, match="could be 'JETS_pt' or 'Jets_pt'; say which"):
            read(open_reader("parquet", files=tmp_path / "a.parquet", event=event))

    def test_no_event(self, sample: Any) -> None:
        name, path = sample
        with pytest.raises(ConfigurationError, match="give an event file"):
            open_reader(name, files=path).event_info()

    def test_unknown_reader_and_option(self) -> None:
        with pytest.raises(UnknownComponentError, match="'rot'"):
            open_reader("rot", files="x")
        with pytest.raises(ConfigurationError, match="did you mean 'tree'"):
            open_reader("root", files="x", tre="y")


def test_event_may_be_a_file(tmp_path: Path) -> None:
    path = write_counters(tmp_path / "a.root")
    event = tmp_path / "event.yaml"
    event.write_text("format: hepset-event/1\nglobals: {met: {features: [pt]}}\n")
    reader = open_reader("root", files=[path], event=event)
    assert reader.event_info() == EventInfo.parse({"globals": {"met": {"features": ["pt"]}}}, "x")
    assert read(reader)["met"].shape == (EVENTS, 1)
    assert reader.provenance() == {"columns": {"globals.met.pt": "MET_pt", "weight": "genWeight"}}


def test_no_row_group_is_read_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_flat_parquet(tmp_path / "a.parquet")
    calls = []
    original = pq.ParquetFile.iter_batches

    def counted(self: Any, *args: Any, **options: Any) -> Any:
        calls.append(options["row_groups"])
        return original(self, *args, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    reader = open_reader("parquet", files=path, event=EVENT, chunk_size=3)
    read(reader)
    assert calls == [[0, 1, 2, 3, 4]]
    reader.read(reader.chunks()[4])
    assert calls[1] == [2, 3, 4]
