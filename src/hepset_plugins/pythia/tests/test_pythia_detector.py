from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError

from hepset.errors import HepsetError
from hepset.kinematics import pt_of
from hepset_pythia.cluster import cluster_jets
from hepset_pythia.detector import (
    Detector,
    Objects,
    jet_angle_resolution,
    reconstruct,
    relative_jet_resolution,
    smear,
)
from hepset_pythia.flavour import TagTable, holds_quark, jet_flavour
from hepset_pythia.generate import GeneratedBlock
from hepset_pythia.leptons import find_leptons
from hepset_pythia.record import ParticleRecord


def test_resolutions_have_the_documented_values() -> None:
    # 3/25 ⊕ 0.8/5 ⊕ 0.04 = √(0.0144 + 0.0256 + 0.0016); 3/100 ⊕ 0.8/10 ⊕ 0.04.
    found = relative_jet_resolution(np.array([25.0, 100.0]))
    np.testing.assert_allclose(found, [np.sqrt(0.0416), np.sqrt(0.0089)])
    np.testing.assert_allclose(jet_angle_resolution(np.array([100.0])), [np.sqrt(2e-4)])


def test_smearing_has_the_width_it_was_given() -> None:
    n = 40_000
    objects = Objects(
        np.zeros(n, dtype=int), np.full(n, 50.0), np.zeros(n), np.full(n, 3.1), np.full(n, 5.0), {}
    )
    normal = np.random.default_rng(3).standard_normal((n, 3))
    seen = smear(objects, np.full(n, 0.1), np.full(n, 0.05), normal)
    # The error of a standard deviation is σ/√(2n).
    assert abs(seen.pt.std() - 5.0) < 4 * 5.0 / np.sqrt(2 * n)
    assert abs(seen.pt.mean() - 50.0) < 4 * 5.0 / np.sqrt(n)
    assert abs(seen.eta.std() - 0.05) < 4 * 0.05 / np.sqrt(2 * n)
    np.testing.assert_allclose(seen.mass / seen.pt, 0.1)
    assert ((seen.phi >= -np.pi) & (seen.phi < np.pi)).all()
    assert (seen.phi < 0).any()


def test_smeared_jets_are_the_particle_level_jets_up_to_the_resolution(
    top_block: GeneratedBlock,
) -> None:
    record = top_block.record
    truth = reconstruct(top_block, Detector(smear=False)).jets
    event, p4 = cluster_jets(record, record.visible & ~find_leptons(record).used)
    kept = (pt_of(p4) > 25) & (np.abs(np.arcsinh(p4[:, 2] / pt_of(p4))) < 2.5)
    np.testing.assert_allclose(truth.pt, pt_of(p4[kept]))
    assert np.array_equal(truth.event, event[kept])


def test_acceptance_and_order(top_block: GeneratedBlock) -> None:
    jets = reconstruct(top_block, Detector()).jets
    assert (jets.pt > 25.0).all()
    assert (np.abs(jets.eta) < 2.5).all()
    assert (np.diff(jets.event) >= 0).all()
    assert (np.diff(jets.pt)[np.diff(jets.event) == 0] <= 0).all()


def test_missing_momentum_balances_all_smeared_objects(lepton_block: GeneratedBlock) -> None:
    # Without cuts every smeared object is kept, so the sum can be checked from outside.
    everything = Detector().model_copy(
        update={
            "jet_pt_min": -1.0,
            "jet_eta_max": 99.0,
            "lepton_pt_min": -1.0,
            "lepton_eta_max": 99.0,
        }
    )
    seen = reconstruct(lepton_block, everything)
    for event in range(seen.n_events):
        px = py = 0.0
        for objects in (seen.jets, seen.leptons):
            for number in np.flatnonzero(objects.event == event):
                px += objects.pt[number] * np.cos(objects.phi[number])
                py += objects.pt[number] * np.sin(objects.phi[number])
        np.testing.assert_allclose(seen.met[event], [-px, -py], atol=1e-9)
    np.testing.assert_array_equal(seen.met, reconstruct(lepton_block, Detector()).met)


def test_missing_momentum_never_sees_a_neutrino(lepton_block: GeneratedBlock) -> None:
    record = lepton_block.record
    p4 = record.p4.copy()
    p4[record.final & ~record.visible] *= 3.0
    changed = replace(lepton_block, record=replace(record, p4=p4))
    one, other = (reconstruct(block, Detector()) for block in (lepton_block, changed))
    np.testing.assert_array_equal(one.met, other.met)
    np.testing.assert_array_equal(one.jets.pt, other.jets.pt)


def test_objects_of_one_event_do_not_depend_on_the_others(top_block: GeneratedBlock) -> None:
    record = top_block.record
    first, last = record.offsets[20], record.offsets[21]
    shift = np.where(record.mother >= 0, record.mother - first, -1)
    daughters = [
        np.where(rows >= 0, rows - first, -1)[first:last]
        for rows in (record.first_daughter, record.second_daughter)
    ]
    single = ParticleRecord(
        np.array([0, last - first]),
        record.pdg_id[first:last],
        record.status[first:last],
        shift[first:last],
        *daughters,
        record.p4[first:last],
    )
    alone = reconstruct(
        replace(top_block, record=single, entry=top_block.entry[20:21]), Detector()
    ).jets
    among = reconstruct(top_block, Detector()).jets
    of_event = among.take(among.event == 20)
    np.testing.assert_array_equal(alone.pt, of_event.pt)
    np.testing.assert_array_equal(alone.labels["btag"], of_event.labels["btag"])


def test_prompt_leptons_are_those_of_the_w(lepton_block: GeneratedBlock) -> None:
    found = find_leptons(lepton_block.record)
    assert len(found.event) == len(np.unique(found.event))
    assert len(found.event) > 40
    mothers = lepton_block.record.mother
    code = np.abs(lepton_block.record.pdg_id)
    for row in np.flatnonzero(found.used & np.isin(code, (11, 13))):
        while code[row] in {11, 13}:
            row = mothers[row]  # noqa: PLW2901 - walking up
        assert code[row] == 24


@pytest.mark.parametrize(
    ("code", "bottom", "charm"),
    [
        (511, True, False),  # B0
        (-521, True, False),  # B-
        (10513, True, False),  # an excited B
        (541, True, True),  # Bc
        (5122, True, False),  # Lambda_b
        (5242, True, True),  # Xi_bc
        (411, False, True),  # D+
        (-4122, False, True),  # anti-Lambda_c
        (553, False, False),  # Upsilon
        (100553, False, False),  # Upsilon(2S)
        (443, False, False),  # J/psi
        (5101, False, False),  # a diquark
        (5, False, False),  # a quark
        (211, False, False),  # a pion
        (9900551, False, False),  # Pythia's colour-octet state
    ],
)
def test_heavy_hadrons(code: int, bottom: bool, charm: bool) -> None:
    assert holds_quark(np.array([code]), 5).tolist() == [bottom]
    assert holds_quark(np.array([code]), 4).tolist() == [charm]


def _record(codes: list[int], mothers: list[int], pt: list[float], eta: list[float]) -> object:
    pts, etas = np.array(pt), np.array(eta)
    p4 = np.stack([pts, 0 * pts, pts * np.sinh(etas), pts * np.cosh(etas)], axis=-1)
    none = np.full(len(codes), -1)
    return ParticleRecord(
        np.array([0, len(codes)]), np.array(codes), none, np.array(mothers), none, none, p4
    )


def test_flavour_goes_to_the_nearest_jet_and_bottom_before_charm() -> None:
    eta, phi, event = np.array([0.0, 0.25, 2.0]), np.zeros(3), np.zeros(3, dtype=int)
    # B* -> B -> D: the B marks the jet at 0.25 (0.05 away), its D the same one.
    record = _record([513, 511, 411], [-1, 0, 1], [40.0, 40.0, 20.0], [0.2, 0.2, 0.2])
    assert jet_flavour(record, event, eta, phi).tolist() == [0, 5, 0]
    # A D alone; a B below 5 GeV; a B 0.35 away from any jet.
    record = _record([421, 521, 531], [-1, -1, -1], [20.0, 4.0, 30.0], [0.0, 0.25, 2.35])
    assert jet_flavour(record, event, eta, phi).tolist() == [4, 0, 0]


def test_tag_table_is_looked_up_by_pt_and_flavour() -> None:
    table = TagTable(pt_edges=(50.0,), b=(0.6, 0.8), c=(0.1, 0.2), light=(0.0, 1.0))
    found = table.efficiency(
        np.array([49.0, 50.0, 30.0, 60.0, 30.0, 60.0]), np.array([5, 5, 4, 4, 0, 0])
    )
    np.testing.assert_allclose(found, [0.6, 0.8, 0.1, 0.2, 0.0, 1.0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pt_edges": (60.0, 50.0, 70.0, 80.0, 90.0, 100.0)}, "do not rise"),
        ({"b": (0.5, 0.6)}, "2 efficiencies, 6 edges need 7"),
        ({"light": (0.1,) * 6 + (1.1,)}, "outside 0 to 1"),
    ],
)
def test_wrong_tag_tables_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises((ValidationError, HepsetError), match=message):
        TagTable(**options)
