from __future__ import annotations

import pickle
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import hepset_pythia.generated as generated_module
import hepset_pythia.reader as reader_module
from hepset.batch import EventBatch, concatenate
from hepset.errors import ConfigurationError
from hepset.interfaces.reader import Chunk
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo
from hepset_pythia.describe import describe_process, known_targets, target_names
from hepset_pythia.processes import PROCESS_NAMES, ProcessOptions, make_process
from hepset_pythia.reader import PythiaConfig, PythiaReader
from hepset_pythia.truth import Truth, find_truth


def _reader(process: str, event: EventInfo | None = None, **options: object) -> PythiaReader:
    given = {"process": process, "events": 40, "seed": 5, **options}
    return PythiaReader(PythiaConfig.parse(given, "test"), event)


def _assert_same(one: EventBatch, other: EventBatch) -> None:
    assert one.names() == other.names()
    np.testing.assert_array_equal(one.ids, other.ids)
    for name in one.names():
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


@pytest.fixture(scope="module")
def top_batch() -> EventBatch:
    reader = _reader("ttbar-allhadronic")
    return reader.read(reader.chunks()[0])


@pytest.mark.parametrize("name", [name for name in PROCESS_NAMES if name != "custom"])
def test_every_process_gives_what_its_event_info_says(name: str) -> None:
    reader = _reader(name, events=8)
    event = reader.event_info()
    batch = reader.read(reader.chunks()[0])
    contract = compile_contract(event)
    missing = [spec for spec in contract.tensors if spec not in batch]
    assert missing == []
    for tensor, spec in contract.tensors.items():
        if spec.kind not in {"stream", "mask"}:
            assert batch[tensor].shape[1:] == spec.event_shape, tensor
        assert batch[tensor].dtype == spec.dtype, tensor
    assert set(event.targets) - {"signal"} <= set(target_names(reader.process))
    assert all(not np.isnan(batch[f"target/{t}"]).any() for t in event.targets)


def test_contract_holds(top_batch: EventBatch) -> None:
    pytest.importorskip("hepset.check")
    reader = _reader("ttbar-allhadronic")
    compile_contract(reader.event_info()).check(top_batch, strict=True)


def test_chunks_are_cheap_whole_blocks() -> None:
    reader = _reader("ttbar-allhadronic", events=2600, chunk_size=700)
    assert reader.chunks() == [Chunk(0, 0, 1000), Chunk(0, 1000, 2000), Chunk(0, 2000, 2600)]
    assert pickle.loads(pickle.dumps(reader.chunks())) == reader.chunks()
    assert [chunk.stop for chunk in _reader("qcd", events=900, max_events=510).chunks()] == [
        500,
        510,
    ]
    (source,) = reader.sources()
    assert (source.key, source.entries, source.is_file) == (
        "pythia:ttbar-allhadronic:5",
        2600,
        False,
    )


def test_events_do_not_depend_on_where_the_sequence_is_cut(top_batch: EventBatch) -> None:
    reader = pickle.loads(pickle.dumps(_reader("ttbar-allhadronic", events=1000)))
    parts = [reader.read(Chunk(0, 0, 13)), reader.read(Chunk(0, 13, 40))]
    _assert_same(top_batch, concatenate(parts))
    assert top_batch.ids["entry"].tolist() == list(range(40))


def test_blocks_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (reader_module, generated_module):
        monkeypatch.setattr(module, "BLOCK_SIZE", 10)
    reader = _reader("qcd", events=12)
    across = reader.read(Chunk(0, 8, 12))
    assert across.ids["entry"].tolist() == [8, 9, 10, 11]
    _assert_same(across.take(np.array([2, 3])), reader.read(Chunk(0, 10, 12)))
    assert len(reader.chunks()) == 1  # 500 events, the default, in whole blocks of ten


def test_shuffled_truth_leaves_the_inputs_alone(
    top_batch: EventBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shuffled(*arguments: Any, **options: Any) -> Truth:
        truth = find_truth(*arguments, **options)
        order = np.random.default_rng(1).permutation(40)
        names = list(truth.products)
        truth.products = {
            name: truth.products[other][order]
            for name, other in zip(names, reversed(names), strict=True)
        }
        return truth

    monkeypatch.setattr(reader_module, "find_truth", shuffled)
    reader = _reader("ttbar-allhadronic")
    changed = reader.read(reader.chunks()[0])
    for name in ("jets", "jets.mask", "met", "met.mask", "weight", "extra/jets/flavour"):
        np.testing.assert_array_equal(top_batch[name], changed[name])
    name = "target/assignment/t1"
    assert (top_batch[name] != changed[name]).any()


def test_assignment_points_at_the_jet_near_the_parton(top_batch: EventBatch) -> None:
    jets, mask = top_batch["jets"], top_batch["jets.mask"]
    pairs = 0
    for top in ("t1", "t2"):
        for column, product in enumerate(("q1", "q2", "b")):
            p4 = top_batch[f"extra/truth/{top}/{product}"].astype(np.float64)
            phi = np.arctan2(p4[:, 1], p4[:, 0])
            eta = np.arcsinh(p4[:, 2] / np.hypot(p4[:, 0], p4[:, 1]))
            index = top_batch[f"target/assignment/{top}"][:, column]
            for event in np.flatnonzero(index >= 0):
                assert mask[event, index[event]]
                jet = jets[event, index[event]]
                turn = (jet[2] - phi[event] + np.pi) % (2 * np.pi) - np.pi
                distance = np.hypot(jet[1] - eta[event], turn)
                assert distance < 0.4
                stored = top_batch[f"extra/match_delta_r/{top}"][event, column]
                np.testing.assert_allclose(distance, stored, atol=1e-4)
                pairs += 1
    assert pairs > 100
    both = np.concatenate(
        [top_batch["target/assignment/t1"], top_batch["target/assignment/t2"]], axis=1
    )
    for row in both:
        used = row[row >= 0]
        assert len(set(used)) == len(used)


def test_true_mass_is_that_of_the_last_copies(top_batch: EventBatch) -> None:
    total = (top_batch["extra/truth/t1"] + top_batch["extra/truth/t2"]).astype(np.float64)
    mass = np.sqrt(total[:, 3] ** 2 - (total[:, :3] ** 2).sum(axis=1))
    np.testing.assert_allclose(top_batch["target/m_ttbar"], mass, rtol=1e-4)


def test_cuts_keep_ids_and_contents(top_batch: EventBatch) -> None:
    reader = _reader("ttbar-allhadronic", min_jets=6, leading_jet_pt_min=80.0)
    kept = reader.read(reader.chunks()[0])
    wanted = (top_batch["jets.mask"].sum(axis=1) >= 6) & (top_batch["jets"][:, 0, 0] > 80)
    assert 0 < len(kept) < 40
    np.testing.assert_array_equal(kept.ids, top_batch.ids[wanted])
    np.testing.assert_array_equal(kept["target/m_ttbar"], top_batch["target/m_ttbar"][wanted])


TWO_SAMPLES: Mapping[str, Any] = {
    "streams": {"jets": {"slots": 12, "features": ["btag", "pt", "eta", "phi", "energy"]}},
    "globals": {"met": {"features": ["px", "py"]}},
    "particles": {"t1": ["q1", "q2", "b"], "t2": ["q1", "q2", "b"]},
    "targets": {
        "signal": {"kind": "classification", "classes": ["qcd", "ttbar"]},
        "m_ttbar": {"kind": "regression"},
        "t1/pt": {"kind": "regression"},
    },
}


def test_samples_of_one_run_have_the_same_tensors_and_miss_what_they_lack() -> None:
    event = EventInfo.parse(TWO_SAMPLES, "test")
    signal, background = (
        reader.read(reader.chunks()[0])
        for reader in (_reader(name, event, events=5) for name in ("ttbar-allhadronic", "qcd"))
    )
    assert signal.names() == background.names()
    assert signal["target/signal"].tolist() == [1] * 5
    assert background["target/signal"].tolist() == [0] * 5
    assert np.isfinite(signal["target/t1/pt"]).all()
    assert np.isnan(background["target/m_ttbar"]).all()
    assert (background["target/assignment/t2"] == -1).all()
    assert np.isnan(background["extra/truth/t1/b"]).all()
    assert np.isnan(background["extra/match_delta_r/t1"]).all()
    assert background["extra/truth/t1/b"].dtype == signal["extra/truth/t1/b"].dtype
    jets = signal["jets"][signal["jets.mask"]].astype(np.float64)
    assert set(jets[:, 0]) <= {0.0, 1.0}
    momentum = jets[:, 1] * np.cosh(jets[:, 2])
    assert (jets[:, 4] >= momentum * (1 - 1e-6)).all()


def test_processes_by_name_get_a_process_number() -> None:
    tops = TWO_SAMPLES["particles"]
    document = {
        **{name: TWO_SAMPLES[name] for name in ("streams", "globals")},
        "processes": {"had": {"particles": tops}, "zp": {"particles": tops}},
    }
    event = EventInfo.parse(document, "test")
    reader = _reader("ttbar-allhadronic", event, events=30, topology="had")
    batch = reader.read(reader.chunks()[0])
    assert batch["process"].tolist() == [0] * 30
    assert (batch["target/assignment/had/t1"] >= 0).any()
    assert (batch["target/assignment/zp/t1"] == -1).all()


def test_labels_take_names_and_numbers() -> None:
    event = EventInfo.parse(TWO_SAMPLES, "test")
    assert _reader("qcd", event, labels={"signal": "ttbar"}).labels == {"signal": 1}
    assert _reader("qcd", event, labels={"signal": -1}).labels == {"signal": -1}
    for labels, message in (
        ({"sigal": 1}, "did you mean 'signal'"),
        ({"signal": "tbar"}, "did you mean 'ttbar'"),
        ({"signal": 2}, "no class of"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            _reader("qcd", event, labels=labels)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"streams": {"jet": {"features": ["pt"]}}, "particles": None}, "did you mean 'jets'"),
        ({"streams": {"jets": {"features": ["pt", "b_tag"]}}}, "did you mean 'btag'"),
        ({"particles": {"t1": ["q1", "q3"]}}, "has no product 'q3'"),
        ({"targets": {"m_tbar": {"kind": "regression"}}}, "did you mean 'm_ttbar'"),
    ],
)
def test_wrong_descriptions_are_refused_before_anything_is_made(
    change: dict[str, object], message: str
) -> None:
    event = EventInfo.parse({**TWO_SAMPLES, **change}, "test")
    with pytest.raises(ConfigurationError, match=message):
        _reader("ttbar-allhadronic", event)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"process": "ttbar-hadronic"}, "did you mean 'ttbar-allhadronic'"),
        ({"process": "custom"}, "switches nothing on"),
        ({"settings": ["Random:seed = 3"]}, "the option `seed`"),
        ({"event": 3}, "did you mean 'events'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        PythiaConfig.parse({"process": "qcd", **options}, "read")


def test_provenance_says_what_was_done() -> None:
    found = _reader("ttbar-semileptonic").provenance()
    assert found["seed"] == 5
    assert found["includes_tau"] is False
    assert "Beams:eCM = 13600.0" in found["settings"]
    # 2 × 0.216 × 0.676 of some 565 pb at 13.6 TeV.
    assert abs(found["cross_section_leading_order_pb"] - 165) < 15


def test_custom_settings_can_be_read() -> None:
    settings = ("HardQCD:hardbbbar = on", "PhaseSpace:pTHatMin = 60.0")
    reader = _reader("custom", settings=settings, events=20)
    batch = reader.read(reader.chunks()[0])
    flavour = batch["extra/jets/flavour"][batch["jets.mask"]]
    assert (flavour == 5).mean() > 0.5


def test_default_targets_are_known_to_all() -> None:
    options = ProcessOptions(settings=("HardQCD:all = on",))
    for name in PROCESS_NAMES:
        targets: NDArray[Any] = np.array(
            [
                target
                for target, spec in describe_process(make_process(name, options)).targets.items()
                if spec.kind == "regression"
            ]
        )
        assert set(targets) <= known_targets()
