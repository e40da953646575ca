"""Many event records as flat columns."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hepset.kinematics import eta_of
from hepset_pythia.arrays import BoolArray, FloatArray, IntArray

INVISIBLE_IDS = (12, 14, 16, 18, 39, 1000022, 1000039, 5000039, 51, 52, 53)
"""Absolute PDG codes that leave no trace: neutrinos, gravitons, neutralino, dark matter."""


@dataclass(frozen=True)
class ParticleRecord:
    """All particles of all events of a block, event after event.

    Attributes:
        offsets: Start of each event in the columns and, last, their length, shape ``(event + 1,)``.
        pdg_id: PDG particle codes, shape ``(particle,)``.
        status: Pythia status codes, positive for final-state particles.
        mother: Row of the first mother, −1 where there is none.
        first_daughter: Row of the first daughter, −1 where there is none.
        second_daughter: Row of the last daughter, −1 where there is none.
        p4: (px, py, pz, E) in GeV, shape ``(particle, 4)``.
        vertex: (x, y, z) in mm of the production, shape ``(particle, 3)``, where it was kept.
    """

    offsets: IntArray
    pdg_id: IntArray
    status: IntArray
    mother: IntArray
    first_daughter: IntArray
    second_daughter: IntArray
    p4: FloatArray
    vertex: FloatArray | None = None

    @property
    def n_events(self) -> int:
        """Number of events."""
        return len(self.offsets) - 1

    @cached_property
    def event(self) -> IntArray:
        """Event of each row, shape ``(particle,)``."""
        return np.repeat(np.arange(self.n_events), np.diff(self.offsets))

    @cached_property
    def final(self) -> BoolArray:
        """True for final-state particles."""
        return self.status > 0

    @cached_property
    def visible(self) -> BoolArray:
        """True for final-state particles that a detector sees."""
        return self.final & ~np.isin(np.abs(self.pdg_id), INVISIBLE_IDS)

    @cached_property
    def eta(self) -> FloatArray:
        """Pseudorapidity of each row."""
        return eta_of(self.p4)

    def first_rows(self, pdg_id: int) -> IntArray:
        """Return the first row of each event that has this PDG code, −1 where none has."""
        rows = np.flatnonzero(self.pdg_id == pdg_id)
        found = np.full(self.n_events, -1, dtype=np.int64)
        events, first = np.unique(self.event[rows], return_index=True)
        found[events] = rows[first]
        return found

    def last_copies(self, rows: IntArray) -> IntArray:
        """Follow each row to the last entry of the same particle; −1 stays −1."""
        current = np.array(rows, dtype=np.int64)
        while True:
            step = np.full_like(current, -1)
            for daughters in (self.second_daughter, self.first_daughter):
                daughter = np.where(current >= 0, daughters[current], -1)
                same = (daughter >= 0) & (self.pdg_id[daughter] == self.pdg_id[current])
                step = np.where(same, daughter, step)
            if not (step >= 0).any():
                return current
            current = np.where(step >= 0, step, current)

    def two_daughters(self, rows: IntArray) -> tuple[IntArray, IntArray]:
        """Return both daughters of each row; −1 where the row is −1 or has none."""
        first = np.where(rows >= 0, self.first_daughter[rows], -1)
        second = np.where(rows >= 0, self.second_daughter[rows], -1)
        return first, second
