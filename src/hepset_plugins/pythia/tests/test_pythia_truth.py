from __future__ import annotations

import numpy as np
import pytest

from hepset.errors import ReadError
from hepset.kinematics import mass_of, pt_of
from hepset_pythia.generate import GeneratedBlock, generate_block
from hepset_pythia.processes import ProcessOptions, make_process
from hepset_pythia.truth import find_truth


def test_hadronic_tops(top_block: GeneratedBlock) -> None:
    process = make_process("ttbar-allhadronic")
    truth = find_truth(top_block.record, process)
    ids = truth.product_ids
    assert set(truth.products) == {f"{top}/{q}" for top in ("t1", "t2") for q in ("q1", "q2", "b")}
    for top, sign in (("t1", 1), ("t2", -1)):
        assert set(ids[f"{top}/q1"]) <= {2 * sign, 4 * sign}
        assert set(ids[f"{top}/q2"]) <= {-1 * sign, -3 * sign, -5 * sign}
        assert set(ids[f"{top}/b"]) <= {1 * sign, 3 * sign, 5 * sign}
        w = truth.products[f"{top}/q1"] + truth.products[f"{top}/q2"]
        assert abs(np.median(mass_of(w)) - 80.4) < 1.0
        assert abs(np.median(mass_of(truth.resonances[top])) - 172.5) < 0.7
    whole = truth.resonances["t1"] + truth.resonances["t2"]
    np.testing.assert_allclose(truth.system, whole)
    assert (mass_of(truth.system) > 300).all()


def test_first_copies_are_direct_daughters(top_block: GeneratedBlock) -> None:
    record, process = top_block.record, make_process("ttbar-allhadronic")
    truth = find_truth(record, process)
    # Walked the other way, from the quark up: the mother of the first b copy is a top.
    for product, parent in (("t1/b", 6), ("t2/q1", -24)):
        for p4 in truth.products[product]:
            row = np.flatnonzero((record.p4 == p4).all(axis=1))[0]
            assert record.pdg_id[record.mother[row]] == parent


def test_last_copies_have_radiated(top_block: GeneratedBlock) -> None:
    process = make_process("ttbar-allhadronic")
    first = find_truth(top_block.record, process)
    last = find_truth(top_block.record, process, copy="last")
    np.testing.assert_array_equal(first.product_ids["t1/b"], last.product_ids["t1/b"])
    energies = [truth.products["t1/b"][:, 3].mean() for truth in (first, last)]
    assert energies[1] < energies[0]
    np.testing.assert_array_equal(first.system, last.system)


def test_leptonic_top_and_both_charges(lepton_block: GeneratedBlock) -> None:
    truth = find_truth(lepton_block.record, make_process("ttbar-semileptonic"))
    lepton = truth.product_ids["lt/l"]
    assert set(np.abs(lepton)) == {11, 13}
    assert (lepton > 0).sum() == (lepton < 0).sum() == 30
    # A positive lepton comes from the top, whose b quark is positive by PDG code.
    usual = np.abs(truth.product_ids["lt/b"]) == 5
    assert (np.sign(truth.product_ids["lt/b"]) == -np.sign(lepton))[usual].all()
    assert (np.abs(truth.product_ids["ht/q1"]) % 2 == 0).all()
    w = truth.products["lt/l"] + truth.invisible["neutrino"]
    assert abs(np.median(mass_of(w)) - 80.4) < 1.0
    hidden = truth.invisible_sum
    assert (pt_of(hidden - truth.invisible["neutrino"]) < 80).all()


@pytest.mark.parametrize(
    ("name", "parent", "products", "mass"),
    [
        ("zjets", "z", ("z/l1", "z/l2"), 91.2),
        ("hh4b", "h1", ("h1/b1", "h1/b2"), 125.0),
    ],
)
def test_pairs_have_the_mass_of_their_parent(
    name: str, parent: str, products: tuple[str, str], mass: float
) -> None:
    process = make_process(name)
    truth = find_truth(generate_block(process, seed=3, block=0, n_events=12).record, process)
    pair = truth.products[products[0]] + truth.products[products[1]]
    assert abs(np.median(mass_of(pair)) - mass) < 2.0
    assert abs(np.median(mass_of(truth.resonances[parent])) - mass) < 2.0
    assert (truth.product_ids[products[0]] > 0).all()
    assert (truth.product_ids[products[0]] == -truth.product_ids[products[1]]).all()


def test_dileptonic_and_w_neutrinos() -> None:
    process = make_process("ttbar-dileptonic", ProcessOptions(include_tau=True))
    record = generate_block(process, seed=3, block=0, n_events=12).record
    truth = find_truth(record, process)
    assert list(truth.invisible) == ["neutrino", "antineutrino"]
    assert (truth.product_ids["t1/l"] < 0).all()
    assert (truth.product_ids["t2/l"] > 0).all()
    w = truth.products["t2/l"] + truth.invisible["antineutrino"]
    assert abs(np.median(mass_of(w)) - 80.4) < 2.0
    process = make_process("wjets")
    truth = find_truth(generate_block(process, seed=3, block=0, n_events=12).record, process)
    w = truth.products["w/l"] + truth.invisible["neutrino"]
    np.testing.assert_allclose(mass_of(w), mass_of(truth.resonances["w"]), rtol=1e-4)


def test_a_process_without_its_particles_is_named(top_block: GeneratedBlock) -> None:
    with pytest.raises(ReadError, match="60 of 60 events have no heavy scalar, first event 0"):
        find_truth(top_block.record, make_process("hh4b"))
