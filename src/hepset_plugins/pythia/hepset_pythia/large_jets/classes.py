"""The classes of large-R jets: how Pythia makes them, and what a jet must hold to be one.

A neutral scalar X recoils against a parton and decays to two quarks or gluons, or to two lighter
scalars Y of 2 quarks each. Its mass is spread over a wide range, so that no mass gives a class
away. The rest is QCD.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hepset.errors import ConfigurationError, did_you_mean
from hepset_pythia.processes import Process, ProcessOptions, make_process

X_ID, Y_ID = 35, 25
"""PDG codes of the scalars."""
Y_MASS = 24.0
"""Mass of Y in GeV."""


@dataclass(frozen=True)
class JetClass:
    """A class of jets.

    Attributes:
        name: As JetClass-II names it; ``QCD`` for all flavours together.
        decay: Pythia settings of the decay; empty for QCD.
        prongs: Number of partons that the jet must hold.
    """

    name: str
    decay: tuple[str, ...] = ()
    prongs: int = 0


_TWO_YS = (
    f"{X_ID}:onIfMatch = {Y_ID} {Y_ID}",
    f"{Y_ID}:m0 = {Y_MASS!r}",
    f"{Y_ID}:mMin = 10.0",
    f"{Y_ID}:onMode = off",
)

CLASSES = {
    found.name: found
    for found in (
        JetClass("X_bb", (f"{X_ID}:onIfMatch = 5 -5",), 2),
        JetClass("X_cc", (f"{X_ID}:onIfMatch = 4 -4",), 2),
        JetClass("X_qq", (f"{X_ID}:onIfAny = 1 2",), 2),
        JetClass("X_gg", (f"{X_ID}:onIfMatch = 21 21",), 2),
        JetClass("X_YY_qqqq", (*_TWO_YS, f"{Y_ID}:onIfAny = 1 2"), 4),
        JetClass("X_YY_bbbb", (*_TWO_YS, f"{Y_ID}:onIfMatch = 5 -5"), 4),
        JetClass("QCD"),
    )
}
"""The classes by name."""


def make_jet_process(
    name: str, *, pt_hat_min: float, mass_range: tuple[float, float], settings: tuple[str, ...]
) -> Process:
    """Return the process that makes jets of a class.

    Args:
        name: One of `CLASSES`.
        pt_hat_min: Smallest transverse momentum in GeV of the hard process.
        mass_range: Smallest and largest mass of X in GeV.
        settings: Free Pythia settings, applied last.

    Raises:
        ConfigurationError: If there is no such class.
    """
    if name not in CLASSES:
        raise ConfigurationError(
            f"classes: {name!r} is no class of large-R jets; there are {', '.join(CLASSES)}"
            f"{did_you_mean(name, CLASSES)}"
        )
    chosen = CLASSES[name]
    hard: tuple[str, ...] = ("HardQCD:all = on",)
    if chosen.prongs:
        low, high = mass_range
        hard = (
            "Higgs:useBSM = on",
            "HiggsBSM:gg2H2g(l:t) = on",
            "HiggsBSM:qg2H2q(l:t) = on",
            f"{X_ID}:m0 = {(low + high) / 2!r}",
            f"{X_ID}:mMin = {low!r}",
            f"{X_ID}:mMax = {high!r}",
            f"{X_ID}:doForceWidth = on",
            # Wide against the range: the spectrum between its ends is nearly flat.
            f"{X_ID}:mWidth = {high - low!r}",
            f"{X_ID}:onMode = off",
            *chosen.decay,
        )
    free = ProcessOptions(
        pt_hat_min=None,
        settings=(*hard, f"PhaseSpace:pTHatMin = {pt_hat_min!r}", *settings),
    )
    return replace(make_process("custom", free), name=f"{name} jets")
