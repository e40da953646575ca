"""Large-R jets of visible particles, their constituents and their substructure, with FastJet."""

from __future__ import annotations

from dataclasses import dataclass

import awkward as ak
import fastjet
import numpy as np

from hepset.arrays import offsets_of
from hepset_pythia.arrays import FloatArray, IntArray
from hepset_pythia.cluster import momentum_array
from hepset_pythia.record import ParticleRecord

RADIUS = 0.8
"""Jet radius parameter R."""
SYMMETRY_CUT = 0.1
"""z_cut of the soft drop; β = 0."""
AXES = (1, 2, 3, 4)
"""Numbers of axes of the N-subjettiness."""

_EVERYTHING = 10.0
"""Radius in which all constituents of one jet become one jet again."""


@dataclass(frozen=True)
class LargeJets:
    """Jets of many events, by event and falling pT.

    Attributes:
        event: Event of each jet, shape ``(jet,)``, ascending.
        p4: (px, py, pz, E) in GeV, shape ``(jet, 4)``.
        offsets: Where the constituents of each jet begin, shape ``(jet + 1,)``.
        rows: Row of each constituent in the record, by falling pT in a jet.
    """

    event: IntArray
    p4: FloatArray
    offsets: IntArray
    rows: IntArray

    def __len__(self) -> int:
        """Return the number of jets."""
        return len(self.event)

    def take(self, chosen: IntArray) -> LargeJets:
        """Return some of the jets, in the given order."""
        counts = np.diff(self.offsets)[chosen]
        offsets = offsets_of(counts)
        places = np.repeat(self.offsets[:-1][chosen] - offsets[:-1], counts)
        rows = self.rows[places + np.arange(offsets[-1])]
        return LargeJets(self.event[chosen], self.p4[chosen], offsets, rows)


def cluster_large_jets(record: ParticleRecord, pt_min: float) -> LargeJets:
    """Cluster anti-kT jets (Cacciari, Salam, Soyez, JHEP 04 (2008) 063) with R = 0.8.

    Args:
        record: The particles; invisible ones are left out.
        pt_min: Smallest jet pT in GeV.
    """
    visible = np.flatnonzero(record.visible)
    counts = np.bincount(record.event[visible], minlength=record.n_events)
    particles = ak.unflatten(momentum_array(record.p4[visible]), counts)
    definition = fastjet.JetDefinition(fastjet.antikt_algorithm, RADIUS)
    sequence = fastjet.ClusterSequence(particles, definition)
    jets = sequence.inclusive_jets(min_pt=pt_min)
    index = ak.drop_none(sequence.constituent_index(min_pt=pt_min))
    event = np.repeat(np.arange(record.n_events), np.asarray(ak.num(jets)))
    flat = ak.flatten(jets)
    p4 = np.stack([np.asarray(flat[name]) for name in ("px", "py", "pz", "E")], axis=-1)
    sizes = np.asarray(ak.flatten(ak.num(index, axis=2)), np.int64)
    inside = np.asarray(ak.flatten(index, axis=None), np.int64)
    first = offsets_of(counts)[event]
    rows = visible[inside + np.repeat(first, sizes)]
    jet = np.repeat(np.arange(len(event)), sizes)
    pt = np.hypot(record.p4[rows, 0], record.p4[rows, 1])
    rows = rows[np.lexsort((-pt, jet))]
    found = LargeJets(event, p4, offsets_of(sizes), rows)
    return found.take(np.lexsort((-np.hypot(p4[:, 0], p4[:, 1]), event)))


def substructure(p4: FloatArray, offsets: IntArray) -> dict[str, FloatArray]:
    """Return the soft-drop mass and the N-subjettiness of jets.

    Soft drop (Larkoski, Marzani, Soyez, Thaler, JHEP 05 (2014) 146) with β = 0, z_cut = 0.1;
    N-subjettiness (Thaler, Van Tilburg, JHEP 03 (2011) 015) with β = 1 about one-pass kT axes,
    normalised. A jet with fewer constituents than axes has 0.

    Args:
        p4: (px, py, pz, E) in GeV of the constituents, shape ``(constituent, 4)``.
        offsets: Where those of each jet begin, shape ``(jet + 1,)``.

    Returns:
        ``sdmass`` in GeV and ``tau1`` to ``tau4``, shape ``(jet,)`` each.
    """
    if len(offsets) == 1:
        return dict.fromkeys(("sdmass", *(f"tau{n}" for n in AXES)), np.zeros(0))
    jets = ak.unflatten(momentum_array(p4), np.diff(offsets))
    definition = fastjet.JetDefinition(fastjet.cambridge_algorithm, _EVERYTHING)
    sequence = fastjet.ClusterSequence(jets, definition)
    groomed = sequence.exclusive_jets_softdrop_grooming(
        njets=1, beta=0.0, symmetry_cut=SYMMETRY_CUT, R0=RADIUS
    )
    found = {"sdmass": np.asarray(groomed.msoftdrop, np.float64)}
    tau = np.asarray(sequence.njettiness(njets=list(AXES), R0=RADIUS), np.float64)
    for column, axes in enumerate(AXES):
        found[f"tau{axes}"] = np.where(np.diff(offsets) >= axes, tau[:, column], 0.0)
    return found
