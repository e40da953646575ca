"""Prompt electrons and muons, dressed with the photons around them.

Prompt means not from the decay of a hadron (nor of a tau or a photon from one): the usual
particle-level stand-in for an isolated, identified lepton.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hepset.kinematics import delta_r, phi_of, pt_of
from hepset_pythia.arrays import BoolArray, FloatArray, IntArray
from hepset_pythia.record import ParticleRecord

CANDIDATE_PT = 10.0
"""Smallest pT in GeV of a lepton before smearing; softer ones stay inputs of the jets."""

DRESSING_DELTA_R = 0.1
"""Photons nearer than this belong to the lepton."""

_ELECTRON, _MUON, _TAU, _PHOTON = 11, 13, 15, 22
_FIRST_HADRON = 100


@dataclass(frozen=True)
class LeptonCandidates:
    """Prompt leptons before smearing.

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


def is_prompt(record: ParticleRecord, rows: IntArray) -> BoolArray:
    """Tell which of these leptons come, through leptons only, from neither hadron nor photon."""
    ancestor = record.mother[rows]
    while True:
        code = np.abs(record.pdg_id[ancestor])
        lepton = (ancestor >= 0) & np.isin(code, (_ELECTRON, _MUON, _TAU))
        if not lepton.any():
            break
        ancestor = np.where(lepton, record.mother[ancestor], ancestor)
    prompt: BoolArray = (ancestor >= 0) & (code < _FIRST_HADRON) & (code != _PHOTON)
    return prompt


def find_leptons(record: ParticleRecord) -> LeptonCandidates:
    """Find prompt electrons and muons above `CANDIDATE_PT`.

    A photon near two leptons belongs to the first of them in the record.
    """
    pt = pt_of(record.p4)
    code = np.abs(record.pdg_id)
    wanted = record.final & ((code == _ELECTRON) | (code == _MUON)) & (pt > CANDIDATE_PT)
    rows = np.flatnonzero(wanted)
    rows = rows[is_prompt(record, rows)]
    used = np.zeros(len(pt), dtype=np.bool_)
    used[rows] = True
    momenta = record.p4[rows].copy()
    for number, row in enumerate(rows):
        event = record.event[row]
        inside = np.arange(record.offsets[event], record.offsets[event + 1])
        photons = inside[record.final[inside] & (code[inside] == _PHOTON) & ~used[inside]]
        distance = delta_r(
            record.eta[photons],
            phi_of(record.p4[photons]),
            record.eta[row],
            phi_of(record.p4[row]),
        )
        own = photons[distance < DRESSING_DELTA_R]
        used[own] = True
        momenta[number] += record.p4[own].sum(axis=0)
    return LeptonCandidates(
        event=record.event[rows], pdg_id=record.pdg_id[rows], p4=momenta, used=used
    )
