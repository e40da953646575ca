"""Labels of jets by the generator's particles: by hand, and as the published files have them."""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import hepset
from hepset.batch import EventBatch
from hepset.schema.event import EventInfo
from hepset_jetclass.delphes.jets import Objects
from hepset_jetclass.delphes.labels import LEAVES, jet_labels
from hepset_jetclass.labels import INDEX, NAMES

Particle = dict[str, Any]


def record(particles: list[Particle]) -> Objects:
    """One event; a particle is given by what differs from a stable one at the jet's axis."""
    plain = {"PID": 21, "Status": 23, "M1": -1, "D1": -1, "D2": -1}
    plain |= {"PT": 100.0, "Eta": 0.0, "Phi": 0.0}
    rows = [plain | particle for particle in particles]
    values = {leaf: np.array([row[leaf] for row in rows]) for leaf in LEAVES}
    return Objects(np.array([0, len(rows)]), values)


def label(particles: list[Particle], radius: float = 0.8) -> str:
    """Label of a jet at η = φ = 0."""
    jets = Objects(np.array([0, 1]), {"Eta": np.zeros(1), "Phi": np.zeros(1)})
    [found] = jet_labels(jets, record(particles), radius)
    return "" if found < 0 else NAMES[found]


def tree(mother: int, *products: int, at: dict[int, float] | None = None) -> list[Particle]:
    """A particle that decays to others, in η at 0 unless `at` says otherwise."""
    places = at or {}
    found: list[Particle] = [{"PID": mother, "D1": 1, "D2": len(products)}]
    return found + [
        {"PID": pid, "M1": 0, "Eta": places.get(number, 0.0)} for number, pid in enumerate(products)
    ]


def four(first: list[int], second: list[int], away: tuple[int, ...] = ()) -> list[Particle]:
    """X → YY; the products of those numbers are far away."""
    charged = 37 if sum(first) or sum(second) else 35
    found: list[Particle] = [{"PID": 25, "D1": 1, "D2": 2}]
    found += [{"PID": charged, "M1": 0, "D1": 3, "D2": 4}]
    found += [{"PID": -charged, "M1": 0, "D1": 5, "D2": 6}]
    return found + [
        {"PID": pid, "M1": 1 + number // 2, "Eta": 2.0 if number in away else 0.3}
        for number, pid in enumerate([*first, *second])
    ]


@pytest.mark.parametrize(
    ("products", "name"),
    [
        ((5, -5), "X_bb"), ((4, -3), "X_cs"), ((2, -2), "X_qq"), ((1, -5), "X_bq"),
        ((21, 21), "X_gg"), ((11, -11), "X_ee"), ((13, -13), "X_mm"), ((22, 22), ""),
        ((24, -24), ""), ((5, -5, 21), ""),
    ],
)  # fmt: skip
def test_two_prongs(products: tuple[int, ...], name: str) -> None:
    assert label(tree(25, *products)) == name
    # Both have to be inside, and the radius says how far that is.
    assert label(tree(25, *products, at={1: 0.9})) == ""
    if name:
        assert label(tree(25, *products, at={1: 0.9}), radius=1.0) == name


def test_the_last_copy_decays() -> None:
    particles = [
        {"PID": 35, "D1": 1, "D2": 1},
        {"PID": 35, "M1": 0, "D1": 2, "D2": 3, "Eta": 3.0},
        {"PID": 4, "M1": 1, "Phi": 0.5},
        {"PID": -4, "M1": 1, "Phi": -0.5},
    ]
    assert label(particles) == "X_cc"
    particles[3]["Phi"] = -1.0
    assert label(particles) == ""


def test_a_jet_takes_the_scalar_that_is_in_it() -> None:
    far = [{**p, "M1": p.get("M1", -1) if "M1" not in p else 3, "Eta": 2.0} for p in tree(25, 5, 5)]
    far[0] |= {"D1": 4, "D2": 5, "M1": -1}
    assert label(tree(25, 4, -4) + far) == "X_cc"


@pytest.mark.parametrize(
    ("first", "second", "away", "name"),
    [
        ([5, -5], [5, -5], (), "X_YY_bbbb"),
        ([5, -5], [11, -11], (), "X_YY_bbee"),
        ([3, -3], [11, -11], (0,), "X_YY_see"),
        ([5, -5], [13, -13], (2,), "X_YY_bbm"),
        ([5, -5], [5, -5], (0, 1), ""),
        ([11, -11], [13, -13], (), ""),
        ([-5, 4], [11, -12], (), "X_YY_bcev"),
        ([-5, 4], [13, -14], (3,), "X_YY_bcmv"),
        ([-5, 4], [13, -14], (2,), ""),
        ([4, -3], [5, -2], (), "X_YY_bcsq"),
        ([21, 21], [1, -1], (3,), "X_YY_ggq"),
    ],
)
def test_four_prongs_of_which_one_may_be_lost(
    first: list[int], second: list[int], away: tuple[int, ...], name: str
) -> None:
    assert label(four(first, second, away)) == name
    assert label(four(second, first, tuple((n + 2) % 4 for n in away))) == name


def with_taus(particles: list[Particle], decays: dict[int, list[tuple[int, float]]]) -> Any:
    """Let particles of those numbers decay to products given by PDG code and η."""
    found = [dict(particle) for particle in particles]
    for number, products in decays.items():
        found[number] |= {"D1": len(found), "D2": len(found) + len(products) - 1, "Eta": 0.0}
        found += [{"PID": pid, "M1": number, "Eta": eta} for pid, eta in products]
    return found


def test_taus_are_named_by_their_decay_and_are_where_one_sees_them() -> None:
    hadronic = [(16, 3.0), (-211, 0.3), (111, 0.5)]
    electron, muon = [(16, 0.0), (11, 0.2), (-12, 5.0)], [(-16, 0.0), (-13, 0.4), (14, 0.0)]
    pair = tree(25, 15, -15)
    assert label(with_taus(pair, {1: hadronic, 2: hadronic})) == "X_tauhtauh"
    assert label(with_taus(pair, {1: hadronic, 2: muon})) == "X_tauhtaum"
    assert label(with_taus(pair, {1: electron, 2: hadronic})) == "X_tauhtaue"
    assert label(with_taus(pair, {1: electron, 2: muon})) == ""
    away = [(16, 0.0), (-211, 1.5), (111, 1.5)]
    assert label(with_taus(pair, {1: away, 2: hadronic})) == ""
    mixed = four([5, -5], [15, -15])
    assert label(with_taus(mixed, {5: hadronic, 6: electron})) == "X_YY_bbtauhtaue"
    lost = four([5, -5], [15, -15], (0,))
    assert label(with_taus(lost, {5: hadronic, 6: hadronic})) == "X_YY_btauhtauh"
    # Of two τ both are needed.
    assert label(with_taus(mixed, {5: away, 6: hadronic})) == ""
    charged = four([-5, 4], [15, -16])
    assert label(with_taus(charged, {5: hadronic})) == "X_YY_bctauhv"


def test_qcd_is_told_by_its_quarks() -> None:
    quark = {"Status": 71, "PT": 11.0}
    assert label([{"PID": 21, "Status": 71}]) == "QCD_light"
    assert label([{**quark, "PID": 5}, {**quark, "PID": -5}, {**quark, "PID": 3}]) == "QCD_bbs"
    assert label([{**quark, "PID": 4, "PT": 9.9}, {**quark, "PID": 2}]) == "QCD_light"
    assert label([{**quark, "PID": 4, "Phi": 0.9}, {**quark, "PID": 3}]) == "QCD_s"
    assert label([{**quark, "PID": 3}] * 4) == "QCD_ss"
    assert label([{**quark, "PID": 5, "Status": 62}]) == "QCD_light"
    # No jet of an event with an X is QCD.
    assert label([*tree(25, 5, -5, at={0: 2.0}), {**quark, "PID": 5}]) == ""


def test_phi_goes_round() -> None:
    jets = Objects(np.array([0, 1]), {"Eta": np.zeros(1), "Phi": np.array([math.pi - 0.1])})
    particles = record([{"PID": 5, "Status": 71, "Phi": -math.pi + 0.1}])
    assert list(jet_labels(jets, particles, 0.8)) == [INDEX["QCD_b"]]


def test_the_labels_of_the_public_jets_are_found_again(jets_file: Path) -> None:
    """The files hold the products with their directions, enough to tell the label."""
    rows = pq.read_table(jets_file).to_pylist()
    for row in rows:
        truth = {
            name.removeprefix("aux_genpart_"): np.array(values)
            for name, values in row.items()
            if name.startswith("aux_genpart_")
        }
        events = record(_published(truth))
        jets = Objects(
            np.array([0, 1]),
            {"Eta": np.array([row["jet_eta"]]), "Phi": np.array([row["jet_phi"]])},
        )
        assert NAMES[jet_labels(jets, events, 0.8)[0]] == NAMES[row["jet_label"]]


def _published(truth: dict[str, Any]) -> list[Particle]:
    """Put X, Y, their products, and those of τ behind them, in a generator's record."""
    kinds = ("isResX", "isResY", "isResDecayProd", "isTauDecayProd", "isQcdParton")
    numbers = {kind: list(np.flatnonzero(truth[kind])) for kind in kinds}
    found: list[Particle] = [
        {
            "PID": int(truth["pid"][i]),
            "PT": float(truth["pt"][i]),
            "Eta": float(truth["eta"][i]),
            "Phi": float(truth["phi"][i]),
            "Status": 71 if truth["isQcdParton"][i] else 23,
        }
        for i in range(len(truth["pid"]))
    ]
    mothers = numbers["isResY"] or numbers["isResX"]
    products = numbers["isResDecayProd"]
    for resonance in numbers["isResX"]:
        if numbers["isResY"]:
            found[resonance] |= {"D1": numbers["isResY"][0], "D2": numbers["isResY"][-1]}
    for number, mother in enumerate(mothers):
        own = products[2 * number : 2 * number + 2]
        found[mother] |= {"D1": own[0], "D2": own[-1]}
        if numbers["isResY"]:
            found[mother]["M1"] = numbers["isResX"][0]
    # The products of a τ begin with its neutrino, of the same sign.
    starts = [i for i in numbers["isTauDecayProd"] if abs(found[i]["PID"]) == 16]
    ends = [*starts[1:], numbers["isTauDecayProd"][-1] + 1] if starts else []
    taus = [i for i in products if abs(found[i]["PID"]) == 15]
    for tau, start, end in zip(taus, starts, ends, strict=True):
        found[tau] |= {"D1": start, "D2": end - 1}
    return found


def read(path: Path, **options: Any) -> tuple[EventInfo, list[EventBatch]]:
    with closing(hepset.open_reader("delphes", files=str(path), **options)) as reader:
        return reader.event_info(), list(reader)


def test_jets_of_a_delphes_file_have_labels_where_asked_for(delphes_file: Path) -> None:
    described, batches = read(delphes_file, labels=True)
    assert described.targets["label"].classes == NAMES
    found = np.concatenate([batch["target/label"] for batch in batches])
    assert len(found) == 22
    # Two Higgs bosons in every event: no jet is QCD, and some hold both quarks of one.
    names = {NAMES[n] for n in found if n >= 0}
    assert names
    assert all(name.startswith("X_") for name in names)
    event = EventInfo.parse(
        {
            "streams": {"particles": {"features": ["deta"]}},
            "targets": {"label": {"kind": "classification", "classes": ["Res2P", "QCD"]}},
        },
        "event",
    )
    _, grouped = read(delphes_file, labels=True, event=event)
    labels = np.concatenate([batch["target/label"] for batch in grouped])
    np.testing.assert_array_equal(labels, np.where((found >= 0) & (found < 15), 0, -1))
    _, plain = read(delphes_file, event=event)
    assert all("target/label" not in batch.names() for batch in plain)
