"""One smearing model instead of a detector: resolutions, acceptance and missing momentum."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import Field

from hepset.kinematics import eta_of, mass_of, p4_from_pt_eta_phi_mass, phi_of, pt_of, wrap_phi
from hepset.schema.base import Model
from hepset_pythia.arrays import BoolArray, FloatArray, IntArray
from hepset_pythia.cluster import cluster_jets
from hepset_pythia.flavour import TagTable, jet_flavour, tag_jets
from hepset_pythia.generate import GeneratedBlock
from hepset_pythia.leptons import find_leptons
from hepset_pythia.randomness import Purpose, event_generator

LEPTON_RESOLUTION = 0.02
"""Relative pT resolution of electrons and muons."""

LEPTON_ANGLE = 0.001
"""Resolution of their eta and phi."""


class Detector(Model):
    """Which smeared objects an event keeps."""

    smear: bool = True
    """Apply the resolutions; false keeps particle-level jets and leptons."""
    jet_pt_min: float = Field(default=25.0, ge=15.0)
    """Smallest jet pT in GeV, after smearing."""
    jet_eta_max: float = Field(default=2.5, gt=0.0)
    """Largest jet |eta|, after smearing."""
    lepton_pt_min: float = Field(default=25.0, ge=12.0)
    """Smallest lepton pT in GeV, after smearing."""
    lepton_eta_max: float = Field(default=2.5, gt=0.0, le=2.5)
    """Largest lepton |eta|, after smearing."""
    btag: TagTable = TagTable()
    """Tag efficiencies by flavour and jet pT."""


@dataclass(frozen=True)
class Objects:
    """Like objects of many events, by event and falling pT.

    Attributes:
        event: Event of each object, shape ``(object,)``, ascending.
        pt: GeV.
        eta: Pseudorapidity.
        phi: In [-pi, pi).
        mass: GeV.
        labels: Further integer columns by name, each of shape ``(object,)``.
    """

    event: IntArray
    pt: FloatArray
    eta: FloatArray
    phi: FloatArray
    mass: FloatArray
    labels: dict[str, IntArray]

    def __len__(self) -> int:
        """Return the number of objects of all events."""
        return len(self.event)

    @property
    def p4(self) -> FloatArray:
        """(px, py, pz, E) in GeV, shape ``(object, 4)``."""
        return p4_from_pt_eta_phi_mass(self.pt, self.eta, self.phi, self.mass)

    def take(self, chosen: BoolArray | IntArray) -> Objects:
        """Return some of the objects, in the given order."""
        return Objects(
            event=self.event[chosen],
            pt=self.pt[chosen],
            eta=self.eta[chosen],
            phi=self.phi[chosen],
            mass=self.mass[chosen],
            labels={name: values[chosen] for name, values in self.labels.items()},
        )

    def sort(self) -> Objects:
        """Return the objects by event and falling pT."""
        return self.take(np.lexsort((-self.pt, self.event)))


@dataclass(frozen=True)
class Reconstructed:
    """What the smeared detector saw of a block.

    Attributes:
        n_events: Number of events.
        jets: With the labels ``btag`` (0 or 1) and ``flavour`` (5, 4 or 0; truth).
        leptons: With the labels ``charge`` (±1) and ``pdg_id`` (±11, ±13).
        met: (px, py) in GeV of the missing transverse momentum, shape ``(event, 2)``.
    """

    n_events: int
    jets: Objects
    leptons: Objects
    met: FloatArray


def relative_jet_resolution(pt: FloatArray) -> FloatArray:
    """Return sigma(pT)/pT = 3 GeV/pT ⊕ 0.8 √GeV/√pT ⊕ 0.04 for pT in GeV."""
    return np.sqrt((3.0 / pt) ** 2 + 0.64 / pt + 0.04**2)


def jet_angle_resolution(pt: FloatArray) -> FloatArray:
    """Return sigma(eta) = sigma(phi) = 0.01 ⊕ 1 GeV/pT for pT in GeV."""
    return np.hypot(0.01, 1.0 / pt)


def smear(objects: Objects, relative: FloatArray, angle: FloatArray, normal: FloatArray) -> Objects:
    """Smear pT, eta and phi; the mass follows the pT, as it does when an energy scale is off.

    Args:
        objects: What to smear.
        relative: Relative pT resolution, shape ``(object,)``.
        angle: Resolution of eta and of phi, shape ``(object,)``.
        normal: Standard normal numbers for pT, eta and phi, shape ``(object, 3)``.

    Returns:
        The smeared objects in the same order. A factor on the pT that would be negative is 0.
    """
    factor = np.maximum(1.0 + relative * normal[:, 0], 0.0)
    return Objects(
        event=objects.event,
        pt=objects.pt * factor,
        eta=objects.eta + angle * normal[:, 1],
        phi=wrap_phi(objects.phi + angle * normal[:, 2]),
        mass=objects.mass * factor,
        labels=objects.labels,
    )


def normal_numbers(key: int, purpose: Purpose, entry: IntArray, event: IntArray) -> FloatArray:
    """Draw three standard normal numbers per object, event by event.

    Args:
        key: Key of the block.
        purpose: What they are for.
        entry: Number of each event in its block, shape ``(event,)``.
        event: Event of each object, shape ``(object,)``, ascending.

    Returns:
        Shape ``(object, 3)``.
    """
    counts = np.bincount(event, minlength=len(entry))
    drawn = [
        event_generator(key, purpose, int(number)).standard_normal((count, 3))
        for number, count in zip(entry, counts, strict=True)
    ]
    return np.concatenate([np.zeros((0, 3)), *drawn])


def reconstruct(block: GeneratedBlock, detector: Detector) -> Reconstructed:
    """Turn particles into smeared jets, leptons and missing transverse momentum.

    The missing momentum balances all smeared objects, also those that the acceptance then cuts
    (jets above 12 GeV at any eta, leptons above 10 GeV); it never sees a neutrino.
    """
    record = block.record
    found = find_leptons(record)
    event, p4 = cluster_jets(record, record.visible & ~found.used)
    jets = _objects(event, p4, {})
    flavour = jet_flavour(record, jets.event, jets.eta, jets.phi)
    jets.labels["flavour"] = flavour
    leptons = _objects(
        found.event,
        found.p4,
        {"charge": -np.sign(found.pdg_id), "pdg_id": found.pdg_id},
    )
    if detector.smear:
        jets = smear(
            jets,
            relative_jet_resolution(jets.pt),
            jet_angle_resolution(jets.pt),
            normal_numbers(block.key, Purpose.JETS, block.entry, jets.event),
        )
        leptons = smear(
            leptons,
            np.full(len(leptons), LEPTON_RESOLUTION),
            np.full(len(leptons), LEPTON_ANGLE),
            normal_numbers(block.key, Purpose.LEPTONS, block.entry, leptons.event),
        )
    met = missing_momentum(record.n_events, jets, leptons)
    tagged = tag_jets(
        detector.btag, block.key, block.entry, jets.event, jets.pt, jets.labels["flavour"]
    )
    jets.labels["btag"] = tagged.astype(np.int64)
    kept_jets = (jets.pt > detector.jet_pt_min) & (np.abs(jets.eta) < detector.jet_eta_max)
    kept_leptons = (leptons.pt > detector.lepton_pt_min) & (
        np.abs(leptons.eta) < detector.lepton_eta_max
    )
    return Reconstructed(
        n_events=record.n_events,
        jets=jets.take(kept_jets).sort(),
        leptons=leptons.take(kept_leptons).sort(),
        met=met,
    )


def missing_momentum(n_events: int, *groups: Objects) -> FloatArray:
    """Return minus the vector sum of all objects, (px, py) in GeV, shape ``(event, 2)``."""
    met = np.zeros((n_events, 2))
    for objects in groups:
        np.subtract.at(met, objects.event, objects.p4[:, :2])
    return met


def _objects(event: IntArray, p4: FloatArray, labels: dict[str, IntArray]) -> Objects:
    return Objects(
        event=event,
        pt=pt_of(p4),
        eta=eta_of(p4),
        phi=phi_of(p4),
        mass=mass_of(p4),
        labels=labels,
    )
