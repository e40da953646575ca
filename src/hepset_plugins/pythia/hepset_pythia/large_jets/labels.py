"""Which class a large-R jet is of, by the partons inside it.

The rules and names are those of JetClass-II (arXiv:2405.12972).
"""

from __future__ import annotations

import numpy as np

from hepset.kinematics import delta_r, eta_of, phi_of, pt_of
from hepset_pythia.arrays import BoolArray, IntArray
from hepset_pythia.large_jets.classes import X_ID, Y_ID, JetClass
from hepset_pythia.large_jets.cluster import RADIUS, LargeJets
from hepset_pythia.record import ParticleRecord

QUARK_PT = 10.0
"""Smallest pT in GeV of a quark that gives a QCD jet its flavour."""
QUARK_STATUS = 71
"""Pythia's status of partons after the shower, before they become hadrons."""
MOST = 2
"""Quarks of one flavour that a name counts."""

QCD_LABELS = tuple(
    "QCD_" + (b * "b" + c * "c" + s * "s" or "light")
    for b in (2, 1, 0)
    for c in (2, 1, 0)
    for s in (2, 1, 0)
)
"""The flavours of QCD jets as JetClass-II names them, from most b quarks to none."""


def holds_decay(record: ParticleRecord, jets: LargeJets, wanted: JetClass) -> BoolArray:
    """Tell which jets hold all partons of the decay of X, shape ``(jet,)``."""
    partons = _decay_partons(record, wanted)
    held = np.ones(len(jets), bool)
    eta, phi = eta_of(jets.p4), phi_of(jets.p4)
    for rows in partons.T:
        own = rows[jets.event]
        p4 = record.p4[own]
        held &= (own >= 0) & (delta_r(eta, phi, eta_of(p4), phi_of(p4)) < RADIUS)
    return held


def _decay_partons(record: ParticleRecord, wanted: JetClass) -> IntArray:
    """Rows of the quarks or gluons of the decay of each event, −1 = none, ``(event, parton)``."""
    last = record.last_copies(record.first_rows(X_ID))
    daughters = record.two_daughters(last)
    if wanted.prongs == len(daughters):
        return np.stack(daughters, axis=1)
    partons: list[IntArray] = []
    for daughter in daughters:
        of_y = np.where((daughter >= 0) & (record.pdg_id[daughter] == Y_ID), daughter, -1)
        partons += record.two_daughters(record.last_copies(of_y))
    return np.stack(partons, axis=1)


def qcd_flavours(record: ParticleRecord, jets: LargeJets) -> IntArray:
    """Return the flavour of QCD jets as an index into `QCD_LABELS`, shape ``(jet,)``."""
    quarks = np.flatnonzero(
        (np.abs(record.status) == QUARK_STATUS)
        & np.isin(np.abs(record.pdg_id), (3, 4, 5))
        & (pt_of(record.p4) > QUARK_PT)
    )
    of_jets = np.searchsorted(jets.event, np.arange(record.n_events + 1))
    jet_eta, jet_phi = eta_of(jets.p4), phi_of(jets.p4)
    eta, phi = eta_of(record.p4[quarks]), phi_of(record.p4[quarks])
    counts = np.zeros((len(jets), 3), np.int64)
    for number, row in enumerate(quarks):
        start, stop = of_jets[record.event[row]], of_jets[record.event[row] + 1]
        near = delta_r(jet_eta[start:stop], jet_phi[start:stop], eta[number], phi[number]) < RADIUS
        counts[start:stop][near, abs(record.pdg_id[row]) - 3] += 1
    s, c, b = np.minimum(counts, MOST).T
    found: IntArray = (MOST - b) * (MOST + 1) ** 2 + (MOST - c) * (MOST + 1) + (MOST - s)
    return found
