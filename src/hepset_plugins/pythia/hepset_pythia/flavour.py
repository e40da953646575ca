"""Which jets hold a B or a C hadron, and the emulation of a b-tag.

The flavour comes from hadrons, never from the matching of partons to jets, which would put the
assignment's answer into the inputs.
"""

from __future__ import annotations

import numpy as np
from pydantic import model_validator

from hepset.kinematics import delta_r, phi_of, pt_of
from hepset.schema.base import Model
from hepset_pythia.arrays import BoolArray, FloatArray, IntArray
from hepset_pythia.randomness import Purpose, event_generator
from hepset_pythia.record import ParticleRecord

HADRON_PT = 5.0
"""Smallest pT in GeV of a hadron that gives its jet a flavour."""

HADRON_DELTA_R = 0.3
"""Largest distance of such a hadron from its jet."""

BOTTOM, CHARM = 5, 4

LIGHTEST_HEAVY_HADRON = 400
"""No hadron with charm or bottom has a smaller PDG code."""


class TagTable(Model):
    """Tag efficiencies in bins of the smeared jet pT.

    Bin i lies between edge i − 1 and edge i; the first starts at 0, the last is open, so there is
    one efficiency more than there are edges. The defaults average to about 0.77 (b), 0.17 (c) and
    0.01 (light) over the jets of all-hadronic top pairs.
    """

    pt_edges: tuple[float, ...] = (30.0, 40.0, 60.0, 100.0, 200.0, 400.0)
    """Inner bin edges of the jet pT in GeV, rising."""
    b: tuple[float, ...] = (0.66, 0.72, 0.77, 0.80, 0.80, 0.76, 0.66)
    """Probability to tag a jet with a B hadron, per bin (no unit)."""
    c: tuple[float, ...] = (0.14, 0.16, 0.17, 0.18, 0.18, 0.17, 0.15)
    """Probability to tag a jet with a C but no B hadron, per bin (no unit)."""
    light: tuple[float, ...] = (0.010, 0.009, 0.009, 0.010, 0.011, 0.015, 0.025)
    """Probability to tag any other jet, per bin (no unit)."""

    @model_validator(mode="after")
    def _check(self) -> TagTable:
        if any(low >= high for low, high in zip(self.pt_edges, self.pt_edges[1:], strict=False)):
            msg = f"pt_edges {self.pt_edges} do not rise"
            raise ValueError(msg)
        for name in ("b", "c", "light"):
            values: tuple[float, ...] = getattr(self, name)
            if len(values) != len(self.pt_edges) + 1:
                msg = (
                    f"{name} has {len(values)} efficiencies, {len(self.pt_edges)} edges "
                    f"need {len(self.pt_edges) + 1}"
                )
                raise ValueError(msg)
            if not all(0.0 <= value <= 1.0 for value in values):
                msg = f"{name} holds efficiencies outside 0 to 1: {values}"
                raise ValueError(msg)
        return self

    def efficiency(self, pt: FloatArray, flavour: IntArray) -> FloatArray:
        """Return the tag probability of each jet.

        Args:
            pt: Jet pT in GeV, shape ``(jet,)``.
            flavour: 5 with a B hadron, 4 with a C hadron, 0 otherwise, shape ``(jet,)``.
        """
        place = np.searchsorted(np.asarray(self.pt_edges), pt, side="right")
        b, c, light = (np.asarray(values)[place] for values in (self.b, self.c, self.light))
        return np.where(flavour == BOTTOM, b, np.where(flavour == CHARM, c, light))


def holds_quark(pdg_id: IntArray, quark: int) -> BoolArray:
    """Tell which PDG codes are hadrons with open bottom (`quark` = 5) or charm (4).

    Quarkonia, which do not decay weakly, and diquarks do not count; a hadron with bottom and
    charm counts as both.
    """
    code = np.abs(pdg_id)
    digits = code % 10_000
    thousands, hundreds, tens = digits // 1000, digits // 100 % 10, digits // 10 % 10
    hadron = (code > 100) & (tens > 0) & (hundreds > 0) & (code < 9_000_000)
    meson = (thousands == 0) & ((hundreds == quark) ^ (tens == quark))
    baryon = (thousands > 0) & ((thousands == quark) | (hundreds == quark) | (tens == quark))
    found: BoolArray = hadron & (meson | baryon)
    return found


def weakly_decaying(record: ParticleRecord, quark: int) -> IntArray:
    """Return the rows of hadrons with this quark that pass it on to no daughter."""
    heavy = np.flatnonzero(np.abs(record.pdg_id) > LIGHTEST_HEAVY_HADRON)
    holds = heavy[holds_quark(record.pdg_id[heavy], quark)]
    return np.setdiff1d(holds, record.mother[holds])


def jet_flavour(
    record: ParticleRecord, event: IntArray, eta: FloatArray, phi: FloatArray
) -> IntArray:
    """Return the flavour of each jet: 5, 4 or 0.

    Each weakly decaying B hadron with more than `HADRON_PT` marks the jet nearest to it, if that
    is nearer than `HADRON_DELTA_R`; then C hadrons do so on jets not yet marked.

    Args:
        record: The particles.
        event: Event of each jet, shape ``(jet,)``, ascending.
        eta: Jet eta_of, shape ``(jet,)``.
        phi: Jet azimuth, shape ``(jet,)``.
    """
    flavour = np.zeros(len(event), dtype=np.int64)
    bounds = np.searchsorted(event, np.arange(record.n_events + 1))
    for quark in (CHARM, BOTTOM):
        rows = weakly_decaying(record, quark)
        rows = rows[pt_of(record.p4[rows]) > HADRON_PT]
        hadron_eta, hadron_phi = record.eta[rows], phi_of(record.p4[rows])
        for number, of_event in enumerate(record.event[rows]):
            start, stop = bounds[of_event], bounds[of_event + 1]
            if start == stop:
                continue
            distance = delta_r(
                eta[start:stop], phi[start:stop], hadron_eta[number], hadron_phi[number]
            )
            nearest = int(np.argmin(distance))
            if distance[nearest] < HADRON_DELTA_R:
                flavour[start + nearest] = quark
    return flavour


def tag_jets(
    table: TagTable,
    key: int,
    entry: IntArray,
    event: IntArray,
    pt: FloatArray,
    flavour: IntArray,
) -> BoolArray:
    """Emulate a b-tag.

    Args:
        table: The efficiencies.
        key: Key of the block's random numbers.
        entry: Number of each event in its block, shape ``(event,)``.
        event: Event of each jet, shape ``(jet,)``, ascending.
        pt: Smeared jet pT in GeV, shape ``(jet,)``.
        flavour: From `jet_flavour`, shape ``(jet,)``.
    """
    counts = np.bincount(event, minlength=len(entry))
    uniform = [
        event_generator(key, Purpose.TAGS, int(number)).random(count)
        for number, count in zip(entry, counts, strict=True)
    ]
    return np.concatenate([np.zeros(0), *uniform]) < table.efficiency(pt, flavour)
