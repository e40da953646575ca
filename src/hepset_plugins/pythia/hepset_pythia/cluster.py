"""Jets of visible particles with FastJet."""

from __future__ import annotations

import awkward as ak
import fastjet
import numpy as np

from hepset_pythia.arrays import BoolArray, FloatArray, IntArray
from hepset_pythia.record import ParticleRecord

RADIUS = 0.4
"""Jet radius parameter R."""

CLUSTER_PT = 12.0
"""Smallest jet pT in GeV before smearing, half of the usual cut after it."""

# FastJet announces itself on standard output; the plugin's README gives its reference.
fastjet._swig.ClusterSequence.set_fastjet_banner_stream(None)


def cluster_jets(record: ParticleRecord, inputs: BoolArray) -> tuple[IntArray, FloatArray]:
    """Cluster anti-kT jets (Cacciari, Salam, Soyez, JHEP 04 (2008) 063) with R = 0.4.

    Args:
        record: The particles.
        inputs: True for the rows to cluster, shape ``(particle,)``.

    Returns:
        The event of each jet, shape ``(jet,)``, ascending, and (px, py, pz, E) in GeV, shape
        ``(jet, 4)``; within an event by falling pT. Jets below `CLUSTER_PT` are left out.
    """
    p4 = record.p4[inputs]
    counts = np.bincount(record.event[inputs], minlength=record.n_events)
    particles = ak.unflatten(momentum_array(p4), counts)
    definition = fastjet.JetDefinition(fastjet.antikt_algorithm, RADIUS)
    jets = fastjet.ClusterSequence(particles, definition).inclusive_jets(min_pt=CLUSTER_PT)
    event = np.repeat(np.arange(record.n_events), np.asarray(ak.num(jets)))
    flat = ak.flatten(jets)
    momenta = np.stack([np.asarray(flat[name]) for name in ("px", "py", "pz", "E")], axis=-1)
    order = np.lexsort((-np.hypot(momenta[:, 0], momenta[:, 1]), event))
    return event[order], momenta[order].astype(np.float64)


def momentum_array(p4: FloatArray) -> ak.Array:
    """Return (px, py, pz, E) in GeV, shape ``(particle, 4)``, as FastJet takes it."""
    names = ("px", "py", "pz", "E")
    return ak.zip({n: p4[:, i] for i, n in enumerate(names)}, with_name="Momentum4D")
