"""The named processes: which Pythia settings make them and which decay products they have.

All of them are proton-proton collisions at leading order plus parton shower with Pythia's default
(Monash 2013) tune. Beam energy and top mass are pinned here, since Pythia's own defaults
(14 TeV, 173.0 GeV) change between releases.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from hepset.errors import ConfigurationError, did_you_mean

TruthKind = Literal["ttbar", "higgs-pair", "w", "z", "none"]

BEAM_ENERGY = 13600.0
"""Default centre-of-mass energy in GeV."""

TOP_MASS = 172.5
"""Default top-quark mass in GeV."""

INVISIBLE_NAMES = ("neutrino", "antineutrino")
"""Names of prompt neutrinos. Alone it is ``neutrino``, whatever its sign; in a pair that of the
top comes first."""

LEPTONIC_TOP_LEPTON = "lt/l"
"""The charged lepton of a leptonic top: truth, but no product to assign."""

_QUARKS = "1 2 3 4 5"


@dataclass(frozen=True)
class ProcessOptions:
    """What may be changed about a named process.

    Attributes:
        beam_energy: Centre-of-mass energy in GeV.
        top_mass: Top-quark mass in GeV.
        resonance_mass: Mass in GeV of the Z' or of the X in X -> HH; None takes the default.
        include_tau: Whether charged leptons from W and Z decays include the tau.
        pt_hat_min: Smallest transverse momentum in GeV of the hard 2 -> 2 process; None takes
            the default of the process.
        settings: Free Pythia settings, applied last.
    """

    beam_energy: float = BEAM_ENERGY
    top_mass: float = TOP_MASS
    resonance_mass: float | None = None
    include_tau: bool = False
    pt_hat_min: float | None = None
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Process:
    """One process, ready to be generated.

    Attributes:
        name: The name it was asked for by.
        title: One line for people.
        settings: Pythia settings, in the order in which they are applied.
        alternatives: Decay settings that take turns (both charges of a semi-leptonic decay);
            empty where there is nothing to alternate.
        truth: How the decay chain is walked.
        particles: Decaying particle -> product -> stream it is reconstructed in.
        symmetries: Interchangeable particles (key ``event``) and products (key: the particle).
        leptons: Whether prompt charged leptons are part of the final state.
        invisible: Names of the prompt neutrinos, in the order of the truth table.
        signal: Class of the default target ``signal``: 1 for what one searches for, 0 for its
            backgrounds.
    """

    name: str
    title: str
    settings: tuple[str, ...]
    alternatives: tuple[tuple[str, ...], ...] = ()
    truth: TruthKind = "none"
    particles: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    symmetries: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)
    leptons: bool = False
    invisible: tuple[str, ...] = ()
    signal: int = 0

    @property
    def identity(self) -> str:
        """All settings as one string: equal strings generate equal events."""
        turns = [";".join(turn) for turn in self.alternatives]
        return "\n".join((*self.settings, "--", *turns))


_HADRONIC_TOP = {"q1": "jets", "q2": "jets", "b": "jets"}
_TTBAR_SYMMETRIES = {"event": [["t1", "t2"]], "t1": [["q1", "q2"]], "t2": [["q1", "q2"]]}
_TTBAR = ("Top:gg2ttbar = on", "Top:qqbar2ttbar = on")


def _charged_leptons(options: ProcessOptions) -> str:
    return "11 13 15" if options.include_tau else "11 13"


def _pt_hat(options: ProcessOptions, default: float) -> tuple[str, ...]:
    value = default if options.pt_hat_min is None else options.pt_hat_min
    return (f"PhaseSpace:pTHatMin = {value!r}",) if value > 0 else ()


def _ttbar_allhadronic(options: ProcessOptions) -> Process:
    return Process(
        name="ttbar-allhadronic",
        title="top pairs, both W decay to quarks",
        settings=(*_TTBAR, *_pt_hat(options, 0.0), "24:onMode = off", f"24:onIfAny = {_QUARKS}"),
        truth="ttbar",
        particles={"t1": _HADRONIC_TOP, "t2": _HADRONIC_TOP},
        symmetries=_TTBAR_SYMMETRIES,
        signal=1,
    )


def _ttbar_semileptonic(options: ProcessOptions) -> Process:
    leptons = _charged_leptons(options)
    turns = tuple(
        ("24:onMode = off", f"24:onPosIfAny = {positive}", f"24:onNegIfAny = {negative}")
        for positive, negative in ((leptons, _QUARKS), (_QUARKS, leptons))
    )
    return Process(
        name="ttbar-semileptonic",
        title="top pairs, one W decays to quarks, one to a charged lepton and a neutrino",
        settings=(*_TTBAR, *_pt_hat(options, 0.0), *turns[0]),
        alternatives=turns,
        truth="ttbar",
        particles={"ht": _HADRONIC_TOP, "lt": {"b": "jets"}},
        symmetries={"ht": [["q1", "q2"]]},
        leptons=True,
        invisible=("neutrino",),
        signal=1,
    )


def _ttbar_dileptonic(options: ProcessOptions) -> Process:
    return Process(
        name="ttbar-dileptonic",
        title="top pairs, both W decay to a charged lepton and a neutrino",
        settings=(
            *_TTBAR,
            *_pt_hat(options, 0.0),
            "24:onMode = off",
            f"24:onIfAny = {_charged_leptons(options)}",
        ),
        truth="ttbar",
        particles={
            "t1": {"l": "leptons", "b": "jets"},
            "t2": {"l": "leptons", "b": "jets"},
        },
        symmetries={"event": [["t1", "t2"]]},
        leptons=True,
        invisible=("neutrino", "antineutrino"),
        signal=1,
    )


def _qcd(options: ProcessOptions) -> Process:
    return Process(
        name="qcd",
        title="QCD multijets",
        settings=("HardQCD:all = on", *_pt_hat(options, 100.0)),
    )


def _zprime_ttbar(options: ProcessOptions) -> Process:
    mass = 1000.0 if options.resonance_mass is None else options.resonance_mass
    return Process(
        name="zprime-ttbar",
        title="Z' to top pairs, both W decay to quarks",
        settings=(
            "NewGaugeBoson:ffbar2gmZZprime = on",
            "Zprime:gmZmode = 3",
            f"32:m0 = {mass!r}",
            "32:onMode = off",
            "32:onIfAny = 6",
            *_pt_hat(options, 0.0),
            "24:onMode = off",
            f"24:onIfAny = {_QUARKS}",
        ),
        truth="ttbar",
        particles={"t1": _HADRONIC_TOP, "t2": _HADRONIC_TOP},
        symmetries=_TTBAR_SYMMETRIES,
        signal=1,
    )


def _wjets(options: ProcessOptions) -> Process:
    return Process(
        name="wjets",
        title="W plus at least one parton, W decays to a charged lepton and a neutrino",
        settings=(
            "WeakBosonAndParton:qqbar2Wg = on",
            "WeakBosonAndParton:qg2Wq = on",
            *_pt_hat(options, 20.0),
            "24:onMode = off",
            f"24:onIfAny = {_charged_leptons(options)}",
        ),
        truth="w",
        leptons=True,
        invisible=("neutrino",),
    )


def _zjets(options: ProcessOptions) -> Process:
    return Process(
        name="zjets",
        title="Z plus at least one parton, Z decays to a pair of charged leptons",
        settings=(
            "WeakBosonAndParton:qqbar2gmZg = on",
            "WeakBosonAndParton:qg2gmZq = on",
            "WeakZ0:gmZmode = 2",
            *_pt_hat(options, 20.0),
            "23:onMode = off",
            f"23:onIfAny = {_charged_leptons(options)}",
        ),
        truth="z",
        particles={"z": {"l1": "leptons", "l2": "leptons"}},
        symmetries={"z": [["l1", "l2"]]},
        leptons=True,
    )


def _hh4b(options: ProcessOptions) -> Process:
    mass = 500.0 if options.resonance_mass is None else options.resonance_mass
    return Process(
        name="hh4b",
        title="narrow scalar X to a pair of Higgs bosons, each to a pair of b quarks",
        settings=(
            "Higgs:useBSM = on",
            "HiggsBSM:gg2H2 = on",
            f"35:m0 = {mass!r}",
            "35:doForceWidth = on",
            "35:mWidth = 1.0",
            "35:onMode = off",
            "35:onIfMatch = 25 25",
            "25:m0 = 125.0",
            *_pt_hat(options, 0.0),
            "25:onMode = off",
            "25:onIfMatch = 5 -5",
        ),
        truth="higgs-pair",
        particles={"h1": {"b1": "jets", "b2": "jets"}, "h2": {"b1": "jets", "b2": "jets"}},
        symmetries={"event": [["h1", "h2"]], "h1": [["b1", "b2"]], "h2": [["b1", "b2"]]},
        signal=1,
    )


def _custom(options: ProcessOptions) -> Process:
    if not options.settings:
        msg = (
            "process 'custom' switches nothing on by itself: give the Pythia settings, "
            "for example settings: ['HardQCD:hardbbbar = on', 'PhaseSpace:pTHatMin = 50']"
        )
        raise ConfigurationError(msg)
    return Process(
        name="custom",
        title="free Pythia settings",
        settings=_pt_hat(options, 0.0),
        leptons=True,
    )


_BUILDERS = {
    "ttbar-allhadronic": _ttbar_allhadronic,
    "ttbar-semileptonic": _ttbar_semileptonic,
    "ttbar-dileptonic": _ttbar_dileptonic,
    "qcd": _qcd,
    "zprime-ttbar": _zprime_ttbar,
    "wjets": _wjets,
    "zjets": _zjets,
    "hh4b": _hh4b,
    "custom": _custom,
}

PROCESS_NAMES: tuple[str, ...] = tuple(_BUILDERS)
"""Names that `make_process` knows."""


def make_process(name: str, options: ProcessOptions | None = None) -> Process:
    """Return a named process with its options applied.

    Args:
        name: One of `PROCESS_NAMES`.
        options: What differs from the defaults.

    Raises:
        ConfigurationError: If no process has this name, or if ``custom`` comes without settings.
    """
    chosen = ProcessOptions() if options is None else options
    if name not in _BUILDERS:
        msg = (
            f"unknown process {name!r}{did_you_mean(name, _BUILDERS)} "
            f"(known: {', '.join(PROCESS_NAMES)})"
        )
        raise ConfigurationError(msg)
    process = _BUILDERS[name](chosen)
    common = (
        "Beams:idA = 2212",
        "Beams:idB = 2212",
        f"Beams:eCM = {chosen.beam_energy!r}",
        f"6:m0 = {chosen.top_mass!r}",
        "Tune:pp = 14",
    )
    return replace(process, settings=(*common, *process.settings, *chosen.settings))
