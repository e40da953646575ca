"""The jets of Delphes events in the columns of JetClass-II (arXiv:2405.12972, its n-tuplizer).

Everything is computed in float64 on flat arrays over all jets of a range of events and stored in
float32, as the published files were made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hepset.arrays import Ragged, offsets_of
from hepset.readers.assembly import Data

Array = NDArray[Any]

MAX_PZ: Final = 10_000.0
"""Constituents with a larger |pz| in GeV are left out."""
MAX_ETA: Final = 5.0
"""Constituents with a larger |η| are left out."""

_UID: Final = 0xFFFFFF
"""ROOT numbers the objects that are referred to in the lower 24 bits of fUniqueID."""
_NEUTRINOS: Final = (12, 14, 16)


@dataclass(frozen=True)
class Objects:
    """Some branch of a range of events.

    Attributes:
        offsets: Event i has the objects ``offsets[i]:offsets[i + 1]``.
        values: Leaf → values of all objects, first axis object.
    """

    offsets: Array
    values: Mapping[str, Array]

    def __getitem__(self, leaf: str) -> Array:
        """Values of one leaf."""
        return self.values[leaf]

    def __len__(self) -> int:
        """Number of objects."""
        return int(self.offsets[-1])

    @property
    def event(self) -> Array:
        """Event of every object."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))


@dataclass(frozen=True)
class Links:
    """References of objects to others.

    Attributes:
        offsets: Object i has the references ``offsets[i]:offsets[i + 1]``.
        numbers: What is referred to, by its fUniqueID; 0 = nothing.
    """

    offsets: Array
    numbers: Array


def momenta(pt: Array, eta: Array, phi: Array, mass: Array) -> tuple[Array, Array, Array, Array]:
    """Return px, py, pz and energy in GeV, in float64."""
    pt, eta, phi, mass = (np.asarray(values, np.float64) for values in (pt, eta, phi, mass))
    px, py, pz = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)
    return px, py, pz, np.sqrt(px**2 + py**2 + pz**2 + mass**2)


def wrapped(phi: Array) -> Array:
    """Return angles in (−π, π]."""
    turned: Array = np.pi - np.mod(np.pi - phi, 2 * np.pi)
    return turned


def find(jets: Objects, links: Links, objects: Objects) -> tuple[Array, Array]:
    """Find the objects that jets refer to, each in the event of its jet.

    Returns:
        Jet of every reference, and the object that it means, −1 where the event has none with that
        number. References to nothing are left out.
    """
    jet = np.repeat(np.arange(len(jets)), np.diff(links.offsets))
    stated = links.numbers != 0
    jet, numbers = jet[stated], links.numbers[stated].astype(np.int64) & _UID
    wanted = (jets.event[jet] << 24) + numbers
    there = (objects.event << 24) + (objects["fUniqueID"].astype(np.int64) & _UID)
    if not len(there):
        return jet, np.full(len(jet), -1)
    order = np.argsort(there, kind="stable")
    place = np.minimum(np.searchsorted(there[order], wanted), len(there) - 1)
    found = order[place]
    return jet, np.where(there[found] == wanted, found, -1)


def jet_columns(jets: Objects) -> dict[str, Data]:
    """Return the columns of the jets themselves."""
    *_, energy = momenta(jets["PT"], jets["Eta"], jets["Phi"], jets["Mass"])
    found: dict[str, Data] = {
        "jet_pt": _single(jets["PT"]),
        "jet_eta": _single(jets["Eta"]),
        "jet_phi": _single(jets["Phi"]),
        "jet_energy": _single(energy),
    }
    if "SoftDropped" in jets.values:
        found["jet_sdmass"] = _single(jets["SoftDropped"])
    if "Tau" in jets.values:
        for number in range(4):
            found[f"jet_tau{number + 1}"] = _single(jets["Tau"][:, number])
    if "Flavor" in jets.values:
        found["jet_flavor"] = jets["Flavor"].astype(np.int32)
    return found


def constituent_columns(
    jets: Objects, jet: Array, candidates: Mapping[str, Array], vertex_z: Array
) -> dict[str, Data]:
    """Return the columns of the constituents, sorted by pT within a jet.

    Args:
        jets: The jets.
        jet: Jet of every constituent.
        candidates: Leaf → values of every constituent; without impact parameters they are 0.
        vertex_z: Position of the primary vertex of every event in mm, 0 where there is none.
    """
    pt, eta, phi = candidates["PT"], candidates["Eta"], candidates["Phi"]
    px, py, pz, energy = momenta(pt, eta, phi, candidates["Mass"])
    kept = np.flatnonzero((np.abs(pz) <= MAX_PZ) & (np.abs(eta) <= MAX_ETA) & (pt > 0))
    kept = kept[np.lexsort((-pt[kept], jet[kept]))]
    jet = jet[kept]
    pid = np.abs(candidates["PID"][kept])
    charge = candidates["Charge"][kept].astype(np.int32)
    deta, dphi = _relative(jets, jet, eta[kept], phi[kept])
    zeros = np.zeros(len(kept), np.float32)

    def track(leaf: str) -> Array:
        return candidates[leaf][kept] if leaf in candidates else zeros

    dz = track("DZ")
    z = vertex_z[jets.event[jet]]
    electron, muon = pid == 11, pid == 13
    photon = candidates["PID"][kept] == 22
    columns = {
        "part_px": _single(px[kept]),
        "part_py": _single(py[kept]),
        "part_pz": _single(pz[kept]),
        "part_energy": _single(energy[kept]),
        "part_deta": deta,
        "part_dphi": dphi,
        "part_d0val": _single(track("D0")),
        "part_d0err": _single(track("ErrorD0")),
        "part_dzval": _single(np.where(dz != 0, dz - z, dz)),
        "part_dzerr": _single(track("ErrorDZ")),
        "part_charge": charge,
        "part_isElectron": electron,
        "part_isMuon": muon,
        "part_isPhoton": photon,
        "part_isChargedHadron": (charge != 0) & ~electron & ~muon,
        "part_isNeutralHadron": (charge == 0) & ~photon & ~electron & ~muon,
    }
    counts = np.bincount(jet, minlength=len(jets))
    found = _lists(counts, columns)
    found["jet_nparticles"] = counts.astype(np.int32)
    return found


def match(jets: Objects, others: Objects, radius: float) -> Array:
    """Give every jet the nearest generator jet of its event that is still free.

    Returns:
        Index of the generator jet of every jet, −1 where none is nearer than `radius` in ΔR.
    """
    found = np.full(len(jets), -1)
    for event in range(len(jets.offsets) - 1):
        mine = range(jets.offsets[event], jets.offsets[event + 1])
        free = list(range(others.offsets[event], others.offsets[event + 1]))
        for jet in mine:
            if not free:
                break
            dphi = wrapped(jets["Phi"][jet].astype(np.float64) - others["Phi"][free])
            distance = np.hypot(jets["Eta"][jet].astype(np.float64) - others["Eta"][free], dphi)
            nearest = int(np.argmin(distance))
            if distance[nearest] < radius:
                found[jet] = free.pop(nearest)
    return found


def generator_jet_columns(matched: Array, generated: Objects) -> dict[str, Data]:
    """Return the columns of the matched generator jets, all zero where there is none."""
    there = matched >= 0

    def taken(values: Data) -> Array:
        assert not isinstance(values, Ragged)
        full = np.zeros(len(matched), values.dtype)
        full[there] = values[matched[there]]
        return full

    names = ("pt", "eta", "phi", "energy", "sdmass")
    own = jet_columns(generated)
    return {f"genjet_{name}": taken(own[f"jet_{name}"]) for name in names if f"jet_{name}" in own}


def generator_particle_columns(
    jets: Objects, jet: Array, particles: Mapping[str, Array], vertex_z: Array
) -> dict[str, Data]:
    """Return the columns of the particles of the matched generator jets, without neutrinos.

    Production vertices are in mm, with z from the primary vertex; times in s.
    """
    pid = np.abs(particles["PID"])
    kept = np.flatnonzero(~np.isin(pid, _NEUTRINOS))
    kept = kept[np.lexsort((-particles["PT"][kept], jet[kept]))]
    jet = jet[kept]
    deta, dphi = _relative(jets, jet, particles["Eta"][kept], particles["Phi"][kept])
    z = particles["Z"][kept].astype(np.float64) - vertex_z[jets.event[jet]]
    central = np.abs(z) < 1e-10
    columns = {
        "genpart_px": _single(particles["Px"][kept]),
        "genpart_py": _single(particles["Py"][kept]),
        "genpart_pz": _single(particles["Pz"][kept]),
        "genpart_energy": _single(particles["E"][kept]),
        "genpart_jet_deta": deta,
        "genpart_jet_dphi": dphi,
        "genpart_x": _single(np.where(central, 0, particles["X"][kept])),
        "genpart_y": _single(np.where(central, 0, particles["Y"][kept])),
        "genpart_z": _single(z),
        "genpart_t": _single(particles["T"][kept]),
        "genpart_pid": pid[kept].astype(np.int32),
    }
    counts = np.bincount(jet, minlength=len(jets))
    return {**_lists(counts, columns), "genjet_nparticles": counts.astype(np.int32)}


def _relative(jets: Objects, jet: Array, eta: Array, phi: Array) -> tuple[Array, Array]:
    """Return η and φ from the axis of the jet, η turned so that the jet is at η > 0."""
    axis = jets["Eta"][jet].astype(np.float64)
    deta = np.where(axis > 0, 1, -1) * (eta - axis)
    return _single(deta), _single(wrapped(phi - jets["Phi"][jet].astype(np.float64)))


def _lists(counts: Array, columns: Mapping[str, Array]) -> dict[str, Data]:
    offsets = offsets_of(counts)
    return {name: Ragged.of(offsets, values) for name, values in columns.items()}


def _single(values: Array) -> Array:
    return np.asarray(values, np.float32)
