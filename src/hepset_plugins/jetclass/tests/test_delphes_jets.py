from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hepset.arrays import Ragged
from hepset_jetclass.delphes.files import generator_branch
from hepset_jetclass.delphes.jets import (
    Links,
    Objects,
    constituent_columns,
    find,
    generator_jet_columns,
    generator_particle_columns,
    jet_columns,
    match,
    wrapped,
)


def objects(offsets: list[int], **leaves: list[Any]) -> Objects:
    return Objects(np.array(offsets), {name: np.array(v) for name, v in leaves.items()})


def two_events() -> Objects:
    """One jet in the first event, two in the second."""
    return objects(
        [0, 1, 3],
        PT=[300.0, 250.0, 220.0],
        Eta=[1.0, -2.0, 0.0],
        Phi=[3.1, 0.0, -1.0],
        Mass=[50.0, 40.0, 0.0],
    )


def test_references_are_found_in_their_own_event() -> None:
    # Both events have an object of the number 7; the upper byte tells processes apart.
    candidates = objects([0, 2, 4], fUniqueID=[7, 5, 9, (3 << 24) + 7])
    links = Links(np.array([0, 3, 4, 6]), np.array([7, 0, 8, 7, 9, 5], np.uint32))
    jet, found = find(two_events(), links, candidates)
    assert list(jet) == [0, 0, 1, 2, 2]
    assert list(found) == [0, -1, 3, 2, -1]
    nothing = objects([0, 0, 0], fUniqueID=np.zeros(0, int))  # type: ignore[arg-type]
    assert list(find(two_events(), links, nothing)[1]) == [-1] * 5


def test_constituents_follow_the_published_rules() -> None:
    candidates = {
        "PT": np.array([10.0, 30.0, 0.0, 5.0, 20.0, 8.0, 3.0]),
        "Eta": np.array([1.5, 0.5, 1.0, 6.0, -2.5, 0.1, 0.0]),
        "Phi": np.array([-3.1, 3.0, 0.0, 0.0, 0.25, -1.0, -1.0]),
        "Mass": np.zeros(7),
        "PID": np.array([211, 22, 211, 211, -11, 0, -13]),
        "Charge": np.array([1, 0, 1, 1, 1, 0, 1]),
        "D0": np.array([0.1, 0, 0, 0, 0.2, 0, 0.3]),
        "DZ": np.array([5.0, 0, 0, 0, -3.0, 0, 0]),
        "ErrorD0": np.array([0.01, 0, 0, 0, 0.02, 0, 0.03]),
        "ErrorDZ": np.array([0.04, 0, 0, 0, 0.05, 0, 0.06]),
    }
    jet = np.array([0, 0, 0, 0, 1, 2, 2])
    found = constituent_columns(two_events(), jet, candidates, np.array([4.0, -1.0]))

    def values(name: str) -> list[float]:
        column = found[name]
        assert isinstance(column, Ragged)
        assert list(column.offsets) == [0, 2, 3, 5]
        return [round(float(value), 5) for value in column.values]

    # The vanishing pT and |η| > 5 are gone, and the rest sorted by pT within the jets.
    assert np.allclose(values("part_px")[:2], [30 * np.cos(3.0), 10 * np.cos(3.1)])
    assert np.allclose(values("part_energy")[2], 20 * np.cosh(2.5))
    assert values("part_deta") == [-0.5, 0.5, 0.5, -0.1, 0.0]
    assert np.allclose(values("part_dphi"), [-0.1, 2 * np.pi - 6.2, 0.25, 0.0, 0.0], atol=1e-5)
    assert values("part_d0val") == [0, 0.1, 0.2, 0, 0.3]
    # From the primary vertex, unless it is exactly 0.
    assert values("part_dzval") == [0, 1.0, -2.0, 0, 0]
    assert values("part_dzerr") == [0, 0.04, 0.05, 0, 0.06]
    assert values("part_charge") == [0, 1, 1, 0, 1]
    assert values("part_isPhoton") == [1, 0, 0, 0, 0]
    assert values("part_isChargedHadron") == [0, 1, 0, 0, 0]
    assert values("part_isElectron") == [0, 0, 1, 0, 0]
    assert values("part_isNeutralHadron") == [0, 0, 0, 1, 0]
    assert values("part_isMuon") == [0, 0, 0, 0, 1]
    assert list(found["jet_nparticles"]) == [2, 1, 2]


def test_a_jet_may_be_left_without_constituents() -> None:
    empty = {name: np.zeros(0) for name in ("PT", "Eta", "Phi", "Mass", "PID", "Charge")}
    found = constituent_columns(two_events(), np.zeros(0, int), empty, np.zeros(2))
    assert list(found["jet_nparticles"]) == [0, 0, 0]


def test_the_energy_of_a_jet_is_that_of_its_mass() -> None:
    found = jet_columns(two_events())
    assert found["jet_energy"][0] == pytest.approx(np.hypot(300 * np.cosh(1.0), 50))
    assert set(found) == {"jet_pt", "jet_eta", "jet_phi", "jet_energy"}


def test_generator_jets_are_matched_once_each() -> None:
    jets = objects([0, 2, 3], Eta=[0.0, 0.1, 0.0], Phi=[3.1, 3.1, 0.0])
    generated = objects([0, 1, 2], Eta=[0.05, 2.0], Phi=[-3.1, 0.0])
    assert list(match(jets, generated, 0.8)) == [0, -1, -1]
    more = objects([0, 2, 3], Eta=[0.05, 0.5, 2.0], Phi=[-3.1, 3.1, 0.0])
    assert list(match(jets, more, 0.8)) == [0, 1, -1]


def test_an_unmatched_generator_jet_is_zero() -> None:
    generated = two_events()
    found = generator_jet_columns(np.array([2, -1]), generated)
    assert list(found["genjet_pt"]) == [220, 0]
    assert list(found["genjet_energy"]) == [220, 0]


def test_generator_particles_are_without_neutrinos() -> None:
    particles = {
        "PID": np.array([-211, 12, 22]),
        "PT": np.array([1.0, 9.0, 2.0]),
        "Eta": np.array([1.2, 1.0, 0.9]),
        "Phi": np.array([3.1, 3.1, -3.1]),
        **{name: np.array([1.0, 2.0, 3.0]) for name in ("Px", "Py", "Pz", "E", "X", "Y", "T")},
        "Z": np.array([5.0, 0.0, 4.0]),
    }
    found = generator_particle_columns(two_events(), np.zeros(3, int), particles, np.array([4, 0]))

    def values(name: str) -> list[float]:
        column = found[name]
        assert isinstance(column, Ragged)
        return [round(float(value), 4) for value in column.values]

    assert values("genpart_pid") == [22, 211]
    assert values("genpart_jet_deta") == [-0.1, 0.2]
    assert values("genpart_z") == [0, 1]
    # What comes from the vertex itself has no offset at all.
    assert values("genpart_x") == [0, 1]
    assert list(found["genjet_nparticles"]) == [2, 0, 0]


def test_angles_are_wrapped_to_the_half_open_interval() -> None:
    assert np.allclose(wrapped(np.array([np.pi, -np.pi, 4.0])), [np.pi, np.pi, 4 - 2 * np.pi])


def test_generator_jets_are_named_after_the_jets() -> None:
    assert generator_branch("JetPUPPIAK8") == "GenJetAK8"
    assert generator_branch("JetAK15") == "GenJetAK15"
    assert generator_branch("JetPUPPI") == "GenJet"
