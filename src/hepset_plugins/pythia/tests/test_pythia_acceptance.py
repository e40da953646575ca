"""The numbers a sample of these processes must have, with statistical bands.

References were measured with Pythia 8.317 and FastJet 3.5 on 2000 and more selected events by an
independent program with the same conventions; each comes with what it may differ by. Here the
sample is smaller, so four of its own standard errors are allowed on top.
"""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from hepset.batch import EventBatch
from hepset_pythia.reader import PythiaConfig, PythiaReader

pytestmark = pytest.mark.slow


def _read(process: str, events: int) -> EventBatch:
    reader = PythiaReader(PythiaConfig(process=process, events=events, seed=2024))
    return reader.read(reader.chunks()[0])


@pytest.fixture(scope="module")
def tops() -> EventBatch:
    return _read("ttbar-allhadronic", 500)


def _fraction(values: NDArray[np.bool_], reference: float, band: float) -> None:
    error = np.sqrt(max(reference * (1 - reference), 0.01) / len(values))
    found = float(np.mean(values))
    assert abs(found - reference) < band + 4 * error, (found, reference, band, error)


def _matched(batch: EventBatch, particle: str) -> NDArray[np.int64]:
    found: NDArray[np.int64] = (batch[f"target/assignment/{particle}"] >= 0).sum(axis=1)
    return found


def test_jet_multiplicity(tops: EventBatch) -> None:
    counts = tops["jets.mask"].sum(axis=1)
    error = counts.std() / np.sqrt(len(counts))
    assert 5.0 - 4 * error < counts.mean() < 5.4 + 4 * error
    _fraction(counts >= 6, 0.405, 0.025)
    many = counts[counts >= 6]
    for jets, reference in ((6, 0.55), (7, 0.28), (8, 0.11), (9, 0.035)):
        _fraction(many == jets, reference, 0.03)


def test_matching(tops: EventBatch) -> None:
    selected = tops["jets.mask"].sum(axis=1) >= 6
    first, second = _matched(tops, "t1"), _matched(tops, "t2")
    both, one = (first == 3) & (second == 3), (first == 3) | (second == 3)
    _fraction(both, 0.095, 0.015)
    _fraction(both[selected], 0.235, 0.035)
    _fraction(one[selected], 0.78, 0.03)
    products = np.concatenate([first[selected], second[selected]])
    for number, reference in enumerate((0.005, 0.06, 0.43, 0.50)):
        _fraction(products == number, reference, 0.03)


def test_masses_are_low_as_physics_has_them(tops: EventBatch) -> None:
    selected = tops["jets.mask"].sum(axis=1) >= 6
    pt, eta, phi, mass = np.moveaxis(tops["jets"][..., :4].astype(np.float64), -1, 0)
    p4 = np.stack([pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)], axis=-1)
    energy = np.sqrt((p4**2).sum(axis=-1) + mass**2)
    p4 = np.concatenate([p4, energy[..., None]], axis=-1)
    masses: dict[int, list[float]] = {2: [], 3: []}
    for top in ("t1", "t2"):
        index = tops[f"target/assignment/{top}"]
        for size, found in masses.items():
            for event in np.flatnonzero(selected & (index[:, :size] >= 0).all(axis=1)):
                total = p4[event, index[event, :size]].sum(axis=0)
                found.append(float(np.sqrt(total[3] ** 2 - (total[:3] ** 2).sum())))
    for size, low, high, half_low, half_high in (
        (2, 78.0, 81.5, 11.5, 14.0),
        (3, 163.5, 168.0, 19.5, 23.0),
    ):
        values = np.array(masses[size])
        lower, median, upper = np.percentile(values, [16, 50, 84])
        half = (upper - lower) / 2
        # Normal approximation: the median has 1.25 σ/√n, the half width about 1.1 σ/√n.
        error = half / np.sqrt(len(values))
        assert low - 5 * error < median < high + 5 * error, (median, error)
        assert half_low - 4.4 * error < half < half_high + 4.4 * error, (half, error)


def test_flavour_and_tags(tops: EventBatch) -> None:
    mask, flavour = tops["jets.mask"], tops["extra/jets/flavour"]
    tagged = tops["jets"][..., 4] == 1
    for code, reference, band in ((5, 0.77, 0.02), (4, 0.17, 0.02), (0, 0.01, 0.004)):
        _fraction(tagged[mask & (flavour == code)], reference, band)
    b_partons = []
    for top in ("t1", "t2"):
        index = tops[f"target/assignment/{top}"][:, 2]
        found = np.flatnonzero(index >= 0)
        b_partons.append(flavour[found, index[found]] == 5)
    _fraction(np.concatenate(b_partons), 0.959, 0.01)
    selected = mask.sum(axis=1) >= 6
    _fraction(selected & ((tagged & mask).sum(axis=1) >= 2), 0.22, 0.02)


def test_lepton_plus_jets() -> None:
    batch = _read("ttbar-semileptonic", 500)
    jets = batch["jets.mask"].sum(axis=1)
    lepton = batch["extra/truth/lt/l"]
    hard = np.hypot(lepton[:, 0], lepton[:, 1]) > 25
    _fraction(hard & (jets >= 4), 0.46, 0.02)
    kept = (jets >= 4) & batch["leptons.mask"].any(axis=1)
    hadronic, leptonic = _matched(batch, "ht")[kept] == 3, _matched(batch, "lt")[kept] == 1
    _fraction(hadronic, 0.505, 0.02)
    _fraction(leptonic, 0.85, 0.02)
    _fraction(hadronic & leptonic, 0.41, 0.02)


def test_boosted_tops_merge() -> None:
    batch = _read("zprime-ttbar", 300)
    merged = np.concatenate([batch["extra/merged/t1"], batch["extra/merged/t2"]])
    _fraction(merged, 0.10, 0.03)


def test_quickstart_samples_are_not_told_apart_by_the_cuts(tops: EventBatch) -> None:
    qcd = _read("qcd", 500)
    columns = []
    for batch, efficiency in ((tops, 0.30), (qcd, 0.10)):
        jets, mask = batch["jets"], batch["jets.mask"]
        kept = (mask.sum(axis=1) >= 4) & (jets[:, 0, 0] > 130)
        _fraction(kept, efficiency, 0.015)
        ht = (jets[..., 0] * mask).sum(axis=1)
        tags = (jets[..., 4] * mask).sum(axis=1)
        columns.append([jets[kept, 0, 0], ht[kept], tags[kept]])
    for signal, background, reference in zip(*columns, (0.52, 0.74, 0.88), strict=True):
        above = (signal[:, None] > background) + 0.5 * (signal[:, None] == background)
        # Hanley and McNeil's error is below this for any AUC.
        error = 0.5 / np.sqrt(min(len(signal), len(background)))
        assert abs(above.mean() - reference) < 4 * error
