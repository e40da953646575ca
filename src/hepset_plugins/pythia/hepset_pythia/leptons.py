"""Isolated electrons and muons, found without looking at where they come from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hepset.kinematics import delta_r, phi_of, pt_of
from hepset_pythia.arrays import BoolArray, FloatArray, IntArray
from hepset_pythia.record import ParticleRecord

CANDIDATE_PT = 10.0
"""Smallest pT in GeV of a lepton before smearing."""

CANDIDATE_ETA = 2.5
"""Largest |eta| of a lepton: what no tracker sees stays an input of the jets."""

DRESSING_DELTA_R = 0.1
"""Photons nearer than this belong to the lepton."""

ISOLATION_DELTA_R = 0.3
"""Size of the isolation cone."""

ISOLATION = 0.15
"""Largest scalar sum of the pT in the cone, divided by the lepton's pT."""

_ELECTRON, _MUON, _PHOTON = 11, 13, 22


@dataclass(frozen=True)
class LeptonCandidates:
    """Isolated leptons before smearing.

    Attributes:
        event: Event of each lepton, shape ``(lepton,)``, ascending.
        pdg_id: PDG code: 11 electron, 13 muon, negative for antiparticles.
        p4: (px, py, pz, E) in GeV with its photons, shape ``(lepton, 4)``.
        used: True for the particles that make up the leptons, shape ``(particle,)``.
    """

    event: IntArray
    pdg_id: IntArray
    p4: FloatArray
    used: BoolArray


def find_leptons(record: ParticleRecord) -> LeptonCandidates:
    """Find isolated electrons and muons with pT > 10 GeV and |eta| < 2.5."""
    pt = pt_of(record.p4)
    code = np.abs(record.pdg_id)
    is_lepton = record.final & ((code == _ELECTRON) | (code == _MUON))
    rows = np.flatnonzero(is_lepton & (pt > CANDIDATE_PT) & (np.abs(record.eta) < CANDIDATE_ETA))
    used = np.zeros(len(pt), dtype=np.bool_)
    kept: list[int] = []
    momenta: list[FloatArray] = []
    for row in rows:
        inside = slice(*record.offsets[record.event[row] : record.event[row] + 2])
        near = np.flatnonzero(
            record.visible[inside]
            & (np.abs(record.eta[inside] - record.eta[row]) < ISOLATION_DELTA_R)
        )
        near = near[near + inside.start != row] + inside.start
        distance = delta_r(
            record.eta[near], phi_of(record.p4[near]), record.eta[row], phi_of(record.p4[row])
        )
        photons = near[(distance < DRESSING_DELTA_R) & (code[near] == _PHOTON) & ~used[near]]
        dressed = record.p4[row] + record.p4[photons].sum(axis=0)
        cone = near[distance < ISOLATION_DELTA_R]
        activity = pt[cone].sum() - pt[photons].sum()
        if activity < ISOLATION * pt_of(dressed):
            used[row] = True
            used[photons] = True
            kept.append(int(row))
            momenta.append(dressed)
    chosen = np.array(kept, dtype=np.int64)
    return LeptonCandidates(
        event=record.event[chosen],
        pdg_id=record.pdg_id[chosen],
        p4=np.array(momenta).reshape(-1, 4),
        used=used,
    )
