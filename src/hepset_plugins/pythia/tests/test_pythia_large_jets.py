from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import pythia8mc
from numpy.testing import assert_allclose, assert_array_equal

import hepset
from hepset.batch import EventBatch
from hepset.errors import ConfigurationError
from hepset.testing import check_reader
from hepset_pythia.large_jets.classes import JetClass, make_jet_process
from hepset_pythia.large_jets.cluster import LargeJets, cluster_large_jets, substructure
from hepset_pythia.large_jets.constituents import charges, impact_parameters
from hepset_pythia.large_jets.labels import QCD_LABELS, holds_decay, qcd_flavours
from hepset_pythia.large_jets.reader import LABELS, PythiaJetsConfig, PythiaJetsReader
from hepset_pythia.record import ParticleRecord


def read(**options: Any) -> EventBatch:
    return next(iter(hepset.open_reader("pythia-jets", **options)))


@pytest.fixture(scope="module")
def b_jets() -> EventBatch:
    return read(jets="X_bb", events=120, seed=3)


def record(rows: list[tuple[int, int, int, int, tuple[float, float, float, float]]]) -> Any:
    """One event from (code, status, first daughter, second daughter, momentum)."""
    code, status, first, second, p4 = (np.array(column) for column in zip(*rows, strict=True))
    mother = np.full(len(rows), -1)
    return ParticleRecord(np.array([0, len(rows)]), code, status, mother, first, second, p4)


def test_it_conforms() -> None:
    config = PythiaJetsConfig(jets="QCD", events=9, seed=2)
    check_reader(PythiaJetsReader(config), sizes=(5,), every_entry=False)


def test_jets_are_the_sums_of_their_constituents(b_jets: EventBatch) -> None:
    flat, jet = b_jets.flat("particles"), b_jets.arrays["jet"]
    px, py = (np.add.reduceat(flat.columns[name], flat.offsets[:-1]) for name in ("px", "py"))
    assert_allclose(np.hypot(px, py), jet[:, 0], rtol=1e-5)
    assert jet[:, 0].min() >= 200
    assert np.abs(jet[:, 1]).max() < 2.5
    pt = np.hypot(flat.columns["px"], flat.columns["py"])
    inside = np.ones(len(pt), bool)
    inside[flat.offsets[:-1]] = False
    assert np.all(np.diff(pt)[inside[1:]] <= 0)
    kinds = [values for name, values in flat.columns.items() if name.startswith("is_")]
    assert_array_equal(np.sum(kinds, 0), 1)
    neutral = flat.columns["charge"] == 0
    assert not flat.columns["d0"][neutral].any()
    assert (flat.columns["d0_error"][~neutral] > 0).all()


def test_jets_of_x_are_heavy_and_displaced(b_jets: EventBatch) -> None:
    assert {LABELS[label] for label in b_jets.arrays["target/label"]} == {"X_bb"}
    qcd = read(jets="QCD", events=60, seed=3)
    assert all(LABELS[label].startswith("QCD_") for label in qcd.arrays["target/label"])
    mass = {name: np.median(b.arrays["jet"][:, 4]) for name, b in (("x", b_jets), ("q", qcd))}
    assert 50 < mass["x"] < 150
    assert mass["q"] < 40

    def displaced(batch: EventBatch) -> float:
        columns = batch.flat("particles").columns
        d0 = np.abs(columns["d0"][columns["charge"] != 0])
        return float(np.mean((d0 > 0.1) & (d0 < 5)))

    assert displaced(b_jets) > 1.5 * displaced(qcd)


def test_more_events_append_and_chunks_do_not_matter() -> None:
    few = read(jets="QCD", events=20, seed=5)
    many = read(jets="QCD", events=40, seed=5)
    kept = many.take(many.ids["entry"] < 20)
    assert_array_equal(kept.ids, few.ids)
    assert_array_equal(kept.arrays["jet"], few.arrays["jet"])
    # Two jets of one collision are two samples of one entry.
    assert few.ids["sample"].max() == 1


def test_labels_can_be_summed_up() -> None:
    event = hepset.load_event(
        {
            "streams": {"particles": {"features": ["px", "py", "pz", "energy"]}},
            "targets": {"label": {"kind": "classification", "classes": ["X_bb", "QCD"]}},
        }
    )
    batch = read(jets="QCD", events=20, event=event)
    assert set(batch.arrays["target/label"].tolist()) == {1}
    assert list(batch.flat("particles").columns) == ["px", "py", "pz", "energy"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jets": "X_bbb"}, "no class 'X_bbb'.*X_bb"),
        ({"jets": "X_bb", "mass_range": (100, 50)}, "low < high"),
        ({"jets": "X_YY_qqqq", "mass_range": (10, 40)}, "two Y of 24 GeV only above 48 GeV"),
        ({"jets": "X_bb", "settings": ["Random:seed = 4"]}, "seed"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        hepset.open_reader("pythia-jets", **options)


def test_wrong_descriptions_are_refused() -> None:
    for event, message in (
        ({"streams": {"particles": {"features": ["ptt"]}}}, "particles.ptt"),
        ({"streams": {"jets": {"features": ["px"]}}}, "streams.jets"),
        (
            {
                "streams": {"particles": {"features": ["px"]}},
                "targets": {"label": {"kind": "classification", "classes": ["X_bb", "X_dd"]}},
            },
            "no class 'X_dd'",
        ),
    ):
        with pytest.raises(ConfigurationError, match=message):
            hepset.open_reader("pythia-jets", jets="QCD", event=hepset.load_event(event))


def test_impact_parameters_by_pencil() -> None:
    vertex = np.array([[0.0, 2.0, 1.0], [3.0, 0.0, 1.0]])
    p4 = np.array([[10.0, 0.0, 5.0, 20.0], [10.0, 0.0, 5.0, 20.0]])
    d0, dz = impact_parameters(vertex, p4)
    # The first passes the origin at 2 mm; the second comes from it, at z = 1 − 3 · 5/10.
    assert_allclose(d0, [-2.0, 0.0])
    assert_allclose(dz, [1.0, -0.5])


def test_charges_are_pythias() -> None:
    codes = np.array([11, -11, 22, 211, -211, 130, 2212, 2112, -3312, 3334])
    assert_array_equal(charges(codes), [-1, 1, 0, 1, -1, 0, 1, 0, 1, -1])


def test_soft_drop_removes_a_soft_prong() -> None:
    def prong(pt: float, eta: float) -> list[float]:
        return [pt, 0.0, pt * np.sinh(eta), pt * np.cosh(eta)]

    # Two prongs of 100 GeV at ΔR = 0.6: m² = 2 pT² (cosh 0.6 − 1); the third has z < 0.1.
    hard, soft = [prong(100, 0.3), prong(100, -0.3)], prong(5, 1.1)
    found = substructure(np.array([*hard, soft, prong(50, 0.0)]), np.array([0, 3, 4]))
    expected = np.sqrt(2 * 100**2 * (np.cosh(0.6) - 1))
    assert_allclose(found["sdmass"], [expected, 0.0], atol=1e-3)
    assert found["tau2"][0] < 0.1 * found["tau1"][0]
    assert_array_equal(found["tau3"] > 0, [False, False])
    assert found["tau4"][0] == 0  # fewer constituents than axes


def test_constituents_find_their_jets() -> None:
    back = [(211, 1, -1, -1, (-100.0, 1.0, 0.0, 101.0)), (211, 1, -1, -1, (-90.0, 0.0, 0.0, 90.0))]
    event = record([(12, 1, -1, -1, (300.0, 0.0, 0.0, 300.0)), *back,
                    (22, 1, -1, -1, (250.0, 0.0, 0.0, 250.0))])  # fmt: skip
    jets = cluster_large_jets(event, 150.0)
    assert_array_equal(jets.offsets, [0, 1, 3])
    assert_array_equal(jets.rows, [3, 1, 2])
    assert_allclose(jets.p4[1, 0], -190.0)


def test_a_jet_must_hold_all_prongs() -> None:
    rows = [
        (35, -62, 1, 2, (300.0, 0.0, 0.0, 320.0)),
        (5, -23, -1, -1, (150.0, 30.0, 0.0, 153.0)),
        (-5, -23, -1, -1, (150.0, -30.0, 0.0, 153.0)),
    ]
    near = np.array([[300.0, 0.0, 0.0, 320.0], [-300.0, 0.0, 0.0, 320.0]])
    jets = LargeJets(np.array([0, 0]), near, np.array([0, 1, 2]), np.array([1, 2]))
    two = JetClass("X_bb", ("",), 2)
    assert_array_equal(holds_decay(record(rows), jets, two), [True, False])
    rows[2] = (-5, -23, -1, -1, (10.0, -150.0, 0.0, 153.0))
    assert_array_equal(holds_decay(record(rows), jets, two), [False, False])


def test_flavours_of_qcd_jets() -> None:
    quark = (-71, -1, -1)
    event = record(
        [
            (5, *quark, (100.0, 0.0, 0.0, 100.0)),
            (-5, *quark, (50.0, 5.0, 0.0, 51.0)),
            (5, *quark, (50.0, 5.0, 0.0, 51.0)),
            (3, *quark, (5.0, 0.0, 0.0, 5.0)),  # too soft
            (4, *quark, (-50.0, 0.0, 0.0, 50.0)),
        ]
    )
    axes = np.array([[200.0, 0.0, 0.0, 210.0], [-200.0, 0.0, 0.0, 210.0], [0.0, 200.0, 0.0, 210.0]])
    jets = LargeJets(np.zeros(3, int), axes, np.arange(4), np.arange(3))
    assert [QCD_LABELS[i] for i in qcd_flavours(event, jets)] == ["QCD_bb", "QCD_c", "QCD_light"]


def test_the_classes_are_pythias() -> None:
    for name in ("X_bb", "X_YY_bbbb", "QCD"):
        process = make_jet_process(name, pt_hat_min=300.0, mass_range=(60.0, 200.0), settings=())
        generator = pythia8mc.Pythia("", False)
        assert all(generator.readString(setting) for setting in process.settings)
