"""The columns of the constituents of jets, with tracks from where particles were produced."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pythia8mc

from hepset.kinematics import eta_of, phi_of, pt_of, wrap_phi
from hepset_pythia.arrays import FloatArray, IntArray
from hepset_pythia.detector import normal_numbers
from hepset_pythia.generate import GeneratedBlock
from hepset_pythia.large_jets.cluster import LargeJets
from hepset_pythia.randomness import Purpose

D0_RESOLUTION = (0.01, 0.1)
"""σ(d0) in mm: a constant ⊕ this over pT in GeV."""
DZ_RESOLUTION = (0.02, 0.2)
"""σ(dz) in mm, the same way."""


def constituent_columns(block: GeneratedBlock, jets: LargeJets) -> dict[str, FloatArray]:
    """Return the columns of the constituents by name, shape ``(constituent,)`` each.

    ``px`` to ``energy`` in GeV; ``deta`` (mirrored so that the jet is at positive η) and ``dphi``
    to the jet axis; ``d0``, ``dz`` in mm to the collision with their errors, 0 for neutral
    particles; ``charge``; and one of ``is_electron``, ``is_muon``, ``is_photon``,
    ``is_charged_hadron``, ``is_neutral_hadron`` is 1. Momenta are those of the particles; only
    the impact parameters are smeared, by one resolution.

    Raises:
        ValueError: If the record was generated without vertices.
    """
    record = block.record
    if record.vertex is None:
        raise ValueError("impact parameters need generate_block(…, vertices=True)")
    rows = jets.rows
    jet = np.repeat(np.arange(len(jets)), np.diff(jets.offsets))
    p4, code = record.p4[rows], np.abs(record.pdg_id[rows])
    charge = charges(record.pdg_id[rows])
    pt = pt_of(p4)
    jet_eta, jet_phi = eta_of(jets.p4), phi_of(jets.p4)
    side = np.where(jet_eta > 0, 1.0, -1.0)
    columns = {name: p4[:, index] for index, name in enumerate(("px", "py", "pz", "energy"))}
    columns["deta"] = (side[jet] * (eta_of(p4) - jet_eta[jet])).astype(np.float64)
    columns["dphi"] = wrap_phi(phi_of(p4) - jet_phi[jet])
    noise = normal_numbers(block.key, Purpose.TRACKS, block.entry, jets.event[jet])
    d0, dz = impact_parameters(record.vertex[rows], p4)
    for name, exact, resolution, draw in (
        ("d0", d0, D0_RESOLUTION, noise[:, 0]),
        ("dz", dz, DZ_RESOLUTION, noise[:, 1]),
    ):
        error = np.hypot(resolution[0], resolution[1] / np.maximum(pt, 1e-3))
        columns[name] = np.where(charge != 0, exact + error * draw, 0.0)
        columns[f"{name}_error"] = np.where(charge != 0, error, 0.0)
    columns["charge"] = charge
    kinds = {"is_electron": code == 11, "is_muon": code == 13, "is_photon": code == 22}
    other = ~(kinds["is_electron"] | kinds["is_muon"] | kinds["is_photon"])
    kinds["is_charged_hadron"] = other & (charge != 0)
    kinds["is_neutral_hadron"] = other & (charge == 0)
    columns |= {name: chosen.astype(np.float64) for name, chosen in kinds.items()}
    return columns


def impact_parameters(vertex: FloatArray, p4: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return d0 and dz in mm of straight tracks to the collision at the origin.

    d0 is the signed distance of closest approach in the transverse plane, positive where the
    particle goes around the collision clockwise; dz is where it is along the beam then.

    Args:
        vertex: (x, y, z) in mm of the production, shape ``(particle, 3)``.
        p4: (px, py, pz, E), shape ``(particle, 4)``.
    """
    x, y, z = vertex.T
    px, py, pz, _ = p4.T
    pt2 = np.maximum(px**2 + py**2, 1e-12)
    d0 = (x * py - y * px) / np.sqrt(pt2)
    dz = z - (x * px + y * py) * pz / pt2
    return d0, dz


def charges(pdg_id: IntArray) -> FloatArray:
    """Return the charges of particles in units of e, from Pythia's table."""
    codes, places = np.unique(pdg_id, return_inverse=True)
    table = _particle_data()
    return np.array([table.charge(int(code)) for code in codes], np.float64)[places]


@lru_cache(maxsize=1)
def _particle_data() -> pythia8mc.ParticleData:
    # The table is part of the generator, which is kept with it.
    _GENERATORS.append(pythia8mc.Pythia("", False))
    return _GENERATORS[0].particleData


_GENERATORS: list[pythia8mc.Pythia] = []
