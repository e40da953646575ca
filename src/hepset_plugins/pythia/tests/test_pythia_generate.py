from __future__ import annotations

import awkward as ak
import numpy as np
import pytest

from hepset.errors import ConfigurationError, ReadError
from hepset.kinematics import pt_of
from hepset_pythia.cluster import CLUSTER_PT, cluster_jets
from hepset_pythia.generate import (
    GeneratedBlock,
    _columns,
    estimate_cross_section,
    first_weights,
    generate_block,
    start_pythia,
)
from hepset_pythia.processes import ProcessOptions, make_process
from hepset_pythia.record import ParticleRecord


def _same(one: ParticleRecord, other: ParticleRecord) -> bool:
    return np.array_equal(one.pdg_id, other.pdg_id) and np.array_equal(one.p4, other.p4)


def test_fewer_events_are_a_prefix(top_block: GeneratedBlock) -> None:
    short = generate_block(make_process("ttbar-allhadronic"), seed=11, block=0, n_events=7)
    size = short.record.offsets[-1]
    assert np.array_equal(short.record.offsets, top_block.record.offsets[:8])
    assert np.array_equal(short.record.p4, top_block.record.p4[:size])


def test_alternating_process_is_a_prefix_too(lepton_block: GeneratedBlock) -> None:
    short = generate_block(make_process("ttbar-semileptonic"), seed=11, block=0, n_events=15)
    size = short.record.offsets[-1]
    assert np.array_equal(short.record.p4, lepton_block.record.p4[:size])


def test_seed_and_block_change_the_events() -> None:
    process = make_process("qcd")
    blocks = [
        generate_block(process, seed=seed, block=block, n_events=2)
        for seed, block in ((1, 0), (1, 0), (1, 1), (2, 0))
    ]
    assert _same(blocks[0].record, blocks[1].record)
    assert not _same(blocks[0].record, blocks[2].record)
    assert not _same(blocks[0].record, blocks[3].record)


def test_momentum_is_conserved_and_daughters_point_inside(top_block: GeneratedBlock) -> None:
    record = top_block.record
    total = np.zeros((record.n_events, 4))
    np.add.at(total, record.event[record.final], record.p4[record.final])
    np.testing.assert_allclose(total[:, :3], 0.0, atol=0.05)
    np.testing.assert_allclose(total[:, 3], 13600.0, rtol=1e-5)
    for rows in (record.mother, record.first_daughter, record.second_daughter):
        known = rows >= 0
        assert np.array_equal(record.event[rows[known]], record.event[known])


def test_biased_generation_keeps_its_weights() -> None:
    settings = ("PhaseSpace:bias2Selection = on", "PhaseSpace:bias2SelectionPow = 4.0")
    process = make_process("qcd", ProcessOptions(settings=settings))
    weight = generate_block(process, seed=1, block=0, n_events=20).weight
    assert np.unique(weight).size == 20
    assert (weight > 0).all()
    assert (weight != 1).all()


def test_a_missing_weight_is_an_error_and_never_one() -> None:
    with pytest.raises(ReadError, match=r"1 of 2 events carry no weight, first event 8"):
        first_weights(ak.Array([[1.0], []]), np.array([7, 8]), "here")
    with pytest.raises(ReadError, match="not finite, first event 7"):
        first_weights(ak.Array([[np.nan], [1.0]]), np.array([7, 8]), "here")


def test_all_events_failing_is_an_error() -> None:
    broken = ("Check:mTolErr = 1e-9", "Check:mTolWarn = 1e-10", "Check:epTolErr = 1e-13")
    process = make_process("qcd", ProcessOptions(settings=broken))
    with pytest.raises(ReadError, match="failed on all 3 events"):
        generate_block(process, seed=1, block=0, n_events=3)


def test_failed_events_are_counted_and_keep_their_entry() -> None:
    strict = ("Check:epTolErr = 1e-12", "Check:epTolWarn = 1e-13")
    process = make_process("qcd", ProcessOptions(settings=strict))
    block = generate_block(process, seed=1, block=0, n_events=60)
    assert 0 < block.n_failed < 60
    assert len(block.entry) == 60 - block.n_failed == block.record.n_events == len(block.weight)
    assert block.entry.max() < 60
    assert (np.diff(block.entry) > 0).all()


def test_events_after_a_failed_one_keep_their_number() -> None:
    process = make_process("qcd")
    batch = start_pythia(process, 1).nextBatch(4, errorMode="none")
    whole = _columns(batch, 100, "here")
    columns = _columns(ak.mask(batch, np.array([True, False, True, True])), 100, "here")
    assert columns.entry.tolist() == [100, 102, 103]
    kept = np.repeat([True, False, True, True], whole.counts)
    np.testing.assert_array_equal(columns.p4, whole.p4[kept])
    np.testing.assert_array_equal(columns.integers["mother1"], whole.integers["mother1"][kept])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("HardQCD:al = on", "did you mean 'HardQCD:all'"),
        ("HardQCD:all = maybe", "is a switch"),
        ("PhaseSpace:pTHatMin = x", "takes one float"),
        ("6000021:m0 = 3", "knows no particle"),
        ("24:m0 = heavy", "takes one number"),
    ],
)
def test_wrong_settings_are_named(setting: str, message: str) -> None:
    process = make_process("qcd", ProcessOptions(settings=(setting,)))
    with pytest.raises(ConfigurationError, match=message):
        generate_block(process, seed=1, block=0, n_events=1)


def test_cross_sections_are_those_of_leading_order() -> None:
    # About 509 pb at 13 TeV; all decays, so no branching fraction.
    options = ProcessOptions(beam_energy=13000.0, settings=("24:onMode = on",))
    value, error = estimate_cross_section(make_process("ttbar-allhadronic", options), seed=1)
    assert abs(value - 509.0) < 4 * error + 5.0
    whole = ProcessOptions(settings=("24:onMode = on",))
    total, _ = estimate_cross_section(make_process("ttbar-allhadronic", whole), seed=1)
    semileptonic, error = estimate_cross_section(make_process("ttbar-semileptonic"), seed=1)
    # Two flavours of lepton, each 0.108, times 0.676 for quarks, times two charges.
    assert abs(semileptonic - 2 * 0.216 * 0.676 * total) < 5 * error


def test_jets_are_ordered_and_hold_the_visible_momentum(top_block: GeneratedBlock) -> None:
    record = top_block.record
    event, p4 = cluster_jets(record, record.visible)
    pt = pt_of(p4)
    assert (np.diff(event) >= 0).all()
    assert (pt >= CLUSTER_PT).all()
    assert (np.diff(pt)[np.diff(event) == 0] <= 0).all()


def test_clustering_agrees_with_the_definition() -> None:
    # Two particles 0.3 apart merge; a third one 0.5 from both does not.
    pt, phi = np.array([50.0, 20.0, 40.0]), np.array([0.0, 0.3, 0.8])
    p4 = np.stack([pt * np.cos(phi), pt * np.sin(phi), 0 * pt, pt], axis=-1)
    none = np.full(3, -1)
    record = ParticleRecord(
        np.array([0, 3]), np.full(3, 211), np.ones(3, dtype=int), none, none, none, p4
    )
    event, jets = cluster_jets(record, record.visible)
    assert event.tolist() == [0, 0]
    np.testing.assert_allclose(jets, [p4[0] + p4[1], p4[2]])
