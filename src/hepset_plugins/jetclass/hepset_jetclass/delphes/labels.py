"""Which of JetClass-II's labels a jet has, by the generator's particles around it.

The rules are those of the published n-tuplizer (arXiv:2405.12972). X is a neutral or charged scalar
of PDG 25, 35 or 37, in its last copy:

- X to two quarks, gluons, electrons or muons: both are within the radius.
- X to two τ: one decays to hadrons, and what is visible of both decays is within the radius.
- X to two scalars Y: at least three of the four products are within the radius, a neutrino is
  written though nothing of it is seen, of two τ both are needed.
- No X in the event: QCD. Quarks of the hardest hadronisation (status 71) with pT > 10 GeV within
  the radius count, b, c and s up to two each.

Up and down quarks are called q. A jet in an event with X that holds none of its decays whole has no
label. The direction of a τ that decays to hadrons is that of the sum of its visible products, that
of another one the direction of its electron or muon; the published rules do not tell it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hepset_jetclass.delphes.jets import Objects, wrapped
from hepset_jetclass.labels import INDEX, LABELS

__all__ = ["LEAVES", "jet_labels"]

Array = NDArray[Any]

LEAVES: Final = ("PID", "Status", "M1", "D1", "D2", "PT", "Eta", "Phi")
"""Leaves of the particles that labels are made of."""

_SCALARS: Final = (25, 35, 37)
_LETTER: Final = {1: "q", 2: "q", 3: "s", 4: "c", 5: "b", 21: "g", 11: "e", 13: "m"}
_NEUTRINOS: Final = (12, 14, 16)
_TAU: Final = 15
_HARDEST: Final = 71
"""Pythia's status of partons that are about to become hadrons."""
_MIN_PT: Final = 10.0
"""Smallest pT in GeV of a quark that gives a QCD jet its flavour."""
_PRONG: Final = re.compile(r"tau[hem]|[bcsqgemv]")
_DECAYS: Final = {
    (label.part, tuple(sorted(_PRONG.findall(label.name.removeprefix("X_").removeprefix("YY_"))))):
        label.index
    for label in LABELS
    if label.part != "QCD"
}  # fmt: skip
"""Part and products → label."""


class _Prong(NamedTuple):
    """A product of X or Y.

    Attributes:
        name: As labels call it; ``v`` is a neutrino.
        eta: Its direction.
        phi: Its direction in rad.
    """

    name: str
    eta: float
    phi: float


class _Event:
    """The particles of one event."""

    def __init__(self, values: dict[str, Array]) -> None:
        self.values = values
        self.pid = np.abs(values["PID"].astype(np.int64))

    def daughters(self, particle: int) -> list[int]:
        """Return the direct products of a particle."""
        first, last = int(self.values["D1"][particle]), int(self.values["D2"][particle])
        if first < 0:
            return []
        return list(range(first, max(first, last) + 1))

    def last_copy(self, particle: int) -> int:
        """Follow a particle through recoils to the copy that decays."""
        while True:
            same = [d for d in self.daughters(particle) if self.pid[d] == self.pid[particle]]
            if not same or same[0] <= particle:
                return particle
            particle = same[0]

    def resonances(self) -> list[int]:
        """Return the scalars that come from no other scalar, each in its last copy."""
        found = []
        for particle in np.flatnonzero(np.isin(self.pid, _SCALARS)):
            mother = int(self.values["M1"][particle])
            if mother >= 0 and self.pid[mother] in _SCALARS:
                continue
            found.append(self.last_copy(int(particle)))
        return found

    def prongs(self, particle: int) -> list[_Prong] | None:
        """Return the products of a scalar; None where labels do not know such a decay."""
        found = []
        for product in self.daughters(particle):
            pid = int(self.pid[product])
            if pid == _TAU:
                found.append(self._tau(product))
            elif pid in _LETTER:
                found.append(_Prong(_LETTER[pid], *self._direction(product)))
            elif pid in _NEUTRINOS:
                found.append(_Prong("v", math.nan, math.nan))
            else:
                return None
        return found if len(found) == 2 else None

    def _direction(self, particle: int) -> tuple[float, float]:
        return float(self.values["Eta"][particle]), float(self.values["Phi"][particle])

    def _tau(self, particle: int) -> _Prong:
        products = self.daughters(self.last_copy(particle))
        for pid, name in ((11, "taue"), (13, "taum")):
            lepton = [d for d in products if self.pid[d] == pid]
            if lepton:
                return _Prong(name, *self._direction(lepton[0]))
        visible = [d for d in products if self.pid[d] not in _NEUTRINOS] or [particle]
        pt = self.values["PT"][visible].astype(np.float64)
        eta = self.values["Eta"][visible].astype(np.float64)
        phi = self.values["Phi"][visible].astype(np.float64)
        px, py, pz = (pt * np.cos(phi)).sum(), (pt * np.sin(phi)).sum(), (pt * np.sinh(eta)).sum()
        across = math.hypot(px, py)
        return _Prong("tauh", math.asinh(pz / across) if across else 0.0, math.atan2(py, px))

    def decays(self) -> Iterator[tuple[str, list[list[_Prong]]]]:
        """Yield the part of every X, and the products of itself or of its two Y."""
        for resonance in self.resonances():
            products = self.daughters(resonance)
            if len(products) == 2 and all(self.pid[p] in _SCALARS for p in products):
                pairs = [self.prongs(self.last_copy(p)) for p in products]
                yield "Res34P", [pair or [] for pair in pairs]
            else:
                yield "Res2P", [self.prongs(resonance) or []]

    def qcd_label(self, eta: float, phi: float, radius: float) -> int:
        """Return the label of a QCD jet."""
        near = _distance(self.values["Eta"], self.values["Phi"], eta, phi) < radius
        counted = near & (self.values["Status"] == _HARDEST) & (self.values["PT"] > _MIN_PT)
        numbers = {quark: min(int((self.pid[counted] == quark).sum()), 2) for quark in (5, 4, 3)}
        flavour = "".join(_LETTER[quark] * number for quark, number in numbers.items())
        return INDEX[f"QCD_{flavour or 'light'}"]


def jet_labels(jets: Objects, particles: Objects, radius: float) -> Array:
    """Return the label of every jet, −1 where it has none.

    Args:
        jets: The jets.
        particles: The generator's particles of the same events, with `LEAVES`; indices of mothers
            and products count within the event.
        radius: Largest ΔR of a product and the jet.
    """
    found = np.full(len(jets), -1, np.int32)
    for event in range(len(jets.offsets) - 1):
        mine = range(jets.offsets[event], jets.offsets[event + 1])
        if not mine:
            continue
        rows = slice(particles.offsets[event], particles.offsets[event + 1])
        record = _Event({leaf: particles[leaf][rows] for leaf in LEAVES})
        decays = list(record.decays())
        for jet in mine:
            eta, phi = float(jets["Eta"][jet]), float(jets["Phi"][jet])
            if not decays:
                found[jet] = record.qcd_label(eta, phi, radius)
                continue
            known = (_label(part, pairs, eta, phi, radius) for part, pairs in decays)
            found[jet] = next((label for label in known if label >= 0), -1)
    return found


def _label(part: str, pairs: list[list[_Prong]], eta: float, phi: float, radius: float) -> int:
    """Return the label of a jet by one decay, −1 where it does not hold enough of it."""
    names: list[str] = []
    missed = 0
    for pair in pairs:
        inside = [
            prong.name for prong in pair if _distance(prong.eta, prong.phi, eta, phi) < radius
        ]
        taus = sum(prong.name.startswith("tau") for prong in pair)
        neutrinos = sum(prong.name == "v" for prong in pair)
        lost = 2 - len(inside)
        if len(pair) != 2 or (taus == 2 and lost):
            return -1
        missed += lost
        names += inside + ["v"] * neutrinos
    if missed > (0 if part == "Res2P" else 1):
        return -1
    return _DECAYS.get((part, tuple(sorted(names))), -1)


def _distance(eta: Any, phi: Any, jet_eta: float, jet_phi: float) -> Any:  # noqa: ANN401  or array
    """ΔR of a direction, or of many, and a jet; NaN for what has none."""
    turned = wrapped(np.asarray(phi, np.float64) - jet_phi)
    return np.hypot(np.asarray(eta, np.float64) - jet_eta, turned)
