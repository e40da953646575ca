"""The columns of JetClass and JetClass-II, and the names that hepset has for them.

One row is one large-R jet. Momenta and energies are in GeV, lengths in mm, angles in rad. The
generator particles' ``genpart_t`` is in seconds, whatever the files' own documentation says: for
particles from the interaction point r / (c · t) is 1 with t in s.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from hepset_jetclass.labels import JETCLASS

Flavour = Literal["jetclass", "jetclass2"]


@dataclass(frozen=True)
class Quantity:
    """One column.

    Attributes:
        column: Name in the files.
        unit: Its unit, if it has one.
        transform: Steps to model space in the description that the reader gives.
        dtype: What ROOT files hold: ``f`` float32, ``i`` int32, ``b`` bool.
    """

    column: str
    unit: str | None = None
    transform: tuple[str, ...] = ()
    dtype: str = "f"


_SIGNED: Final = ("asinh", "standardise")
_POSITIVE: Final = ("log1p", "standardise")

PARTICLES: Final = {
    "px": Quantity("part_px", "GeV", _SIGNED),
    "py": Quantity("part_py", "GeV", _SIGNED),
    "pz": Quantity("part_pz", "GeV", _SIGNED),
    "energy": Quantity("part_energy", "GeV", _POSITIVE),
    "deta": Quantity("part_deta"),
    "dphi": Quantity("part_dphi", "rad"),
    "d0": Quantity("part_d0val", "mm", _SIGNED),
    "d0_error": Quantity("part_d0err", "mm", _POSITIVE),
    "dz": Quantity("part_dzval", "mm", _SIGNED),
    "dz_error": Quantity("part_dzerr", "mm", _POSITIVE),
    "charge": Quantity("part_charge", dtype="i"),
    "is_electron": Quantity("part_isElectron", dtype="b"),
    "is_muon": Quantity("part_isMuon", dtype="b"),
    "is_photon": Quantity("part_isPhoton", dtype="b"),
    "is_charged_hadron": Quantity("part_isChargedHadron", dtype="b"),
    "is_neutral_hadron": Quantity("part_isNeutralHadron", dtype="b"),
}
"""Constituents of the jet, sorted by pT. ``deta`` is mirrored so that the jet is at η > 0."""

JET: Final = {
    "pt": Quantity("jet_pt", "GeV", _POSITIVE),
    "eta": Quantity("jet_eta"),
    "phi": Quantity("jet_phi", "rad"),
    "energy": Quantity("jet_energy", "GeV", _POSITIVE),
    "sdmass": Quantity("jet_sdmass", "GeV", _SIGNED),
    "tau1": Quantity("jet_tau1"),
    "tau2": Quantity("jet_tau2"),
    "tau3": Quantity("jet_tau3"),
    "tau4": Quantity("jet_tau4"),
}
"""The jet; ``sdmass`` is the soft-drop mass, ``tau<N>`` the N-subjettiness."""

GEN_JET: Final = {
    "pt": Quantity("genjet_pt", "GeV", _POSITIVE),
    "eta": Quantity("genjet_eta"),
    "phi": Quantity("genjet_phi", "rad"),
    "energy": Quantity("genjet_energy", "GeV", _POSITIVE),
    "sdmass": Quantity("genjet_sdmass", "GeV", _SIGNED),
}
"""The matched generator jet; all zero in the files where there is none."""

GEN_PARTICLES: Final = {
    "px": Quantity("genpart_px", "GeV", _SIGNED),
    "py": Quantity("genpart_py", "GeV", _SIGNED),
    "pz": Quantity("genpart_pz", "GeV", _SIGNED),
    "energy": Quantity("genpart_energy", "GeV", _POSITIVE),
    "deta": Quantity("genpart_jet_deta"),
    "dphi": Quantity("genpart_jet_dphi", "rad"),
    "vertex_x": Quantity("genpart_x", "mm", _SIGNED),
    "vertex_y": Quantity("genpart_y", "mm", _SIGNED),
    "vertex_z": Quantity("genpart_z", "mm", _SIGNED),
    "vertex_t": Quantity("genpart_t", "s"),
    "pid": Quantity("genpart_pid", dtype="i"),
}
"""Stable particles of the generator jet without neutrinos: momentum and production vertex."""

DECAY_PRODUCTS: Final = {
    "pt": Quantity("aux_genpart_pt", "GeV", _POSITIVE),
    "eta": Quantity("aux_genpart_eta"),
    "phi": Quantity("aux_genpart_phi", "rad"),
    "mass": Quantity("aux_genpart_mass", "GeV", _SIGNED),
    "pid": Quantity("aux_genpart_pid", dtype="i"),
    "is_x": Quantity("aux_genpart_isResX", dtype="b"),
    "is_y": Quantity("aux_genpart_isResY", dtype="b"),
    "is_decay_product": Quantity("aux_genpart_isResDecayProd", dtype="b"),
    "is_tau_decay_product": Quantity("aux_genpart_isTauDecayProd", dtype="b"),
    "is_qcd_parton": Quantity("aux_genpart_isQcdParton", dtype="b"),
}
"""X, then Y1 and Y2 if any, then what they decay to, then what τ leptons decay to; for QCD the
quarks with pT > 10 GeV in the cone."""

STREAMS: Final = {
    "particles": PARTICLES,
    "gen_particles": GEN_PARTICLES,
    "decay_products": DECAY_PRODUCTS,
}
"""Streams that the reader knows by name."""

N_PARTICLES: Final = "jet_nparticles"
LABEL: Final = "jet_label"
ONE_HOT: Final = tuple(f"label_{name}" for name in JETCLASS)
"""Columns of JetClass, one of which is 1."""


def flavour(names: Iterable[str]) -> Flavour | None:
    """Tell by the columns what a file holds.

    Returns:
        ``jetclass2``, ``jetclass``, or None where there is no label.
    """
    present = set(names)
    if LABEL in present:
        return "jetclass2"
    return "jetclass" if present & set(ONE_HOT) else None
