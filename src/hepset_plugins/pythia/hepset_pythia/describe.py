"""What a simulated event has: the `EventInfo` of a process, and every name a reader can fill."""

from __future__ import annotations

from collections.abc import Iterable

from hepset.errors import ConfigurationError, did_you_mean
from hepset.schema.event import EventInfo
from hepset_pythia.processes import (
    LEPTONIC_TOP_LEPTON,
    PROCESS_NAMES,
    Process,
    ProcessOptions,
    make_process,
)

JET_SLOTS = 12
"""Default number of jet slots; less than 0.1 % of top pairs have more jets."""

LEPTON_SLOTS = 4
"""Default number of lepton slots."""

JET_FEATURES = (
    *("pt", "eta", "phi", "mass", "btag"),
    *("energy", "px", "py", "pz", "sin_phi", "cos_phi"),
)
LEPTON_FEATURES = (
    *("pt", "eta", "phi", "mass", "charge", "muon"),
    *("energy", "px", "py", "pz", "sin_phi", "cos_phi"),
)
MET_FEATURES = ("pt", "phi", "px", "py", "sin_phi", "cos_phi")

STREAM_FEATURES: dict[str, tuple[str, ...]] = {"jets": JET_FEATURES, "leptons": LEPTON_FEATURES}
GLOBAL_FEATURES: dict[str, tuple[str, ...]] = {"met": MET_FEATURES}

KINEMATICS = ("pt", "eta", "phi", "mass", "energy", "px", "py", "pz")
"""Components of a truth four-momentum that can be targets."""

SYSTEM_MASS = {"ttbar": "m_ttbar", "higgs-pair": "m_hh"}
"""Kind of decay chain -> name of the target that holds the mass of the whole system in GeV."""

_MOMENTUM = {"unit": "GeV", "transform": ["log1p", "standardise"]}
_COMPONENT = {"unit": "GeV", "transform": ["standardise"]}
_ETA = {"transform": ["standardise"]}
_PHI = {"unit": "rad", "transform": ["circular"]}


def describe_process(process: Process, label: str = "") -> EventInfo:
    """Return the event information of a process.

    Args:
        process: What is generated.
        label: Name of the process in the event information, for runs with several topologies;
            empty for the single unnamed one.
    """
    axes = {"pt": _MOMENTUM, "eta": _ETA, "phi": _PHI, "mass": _MOMENTUM}
    streams: dict[str, object] = {
        "jets": {"slots": JET_SLOTS, "order": "-pt", "features": {**axes, "btag": {}}}
    }
    if process.leptons:
        streams["leptons"] = {
            "slots": LEPTON_SLOTS,
            "order": "-pt",
            "features": {**axes, "charge": {}, "muon": {}},
        }
    targets: dict[str, object] = {
        "signal": {"kind": "classification", "classes": ["background", "signal"]}
    }
    if process.truth in SYSTEM_MASS:
        targets[SYSTEM_MASS[process.truth]] = {"kind": "regression", **_MOMENTUM}
    for name in process.invisible:
        for component in ("px", "py", "pz"):
            targets[f"{name}_{component}"] = {"kind": "regression", **_COMPONENT}
        targets[f"{name}_eta"] = {"kind": "regression", **_ETA}
    document: dict[str, object] = {
        "streams": streams,
        "globals": {"met": {"features": {"pt": _MOMENTUM, "phi": _PHI}}},
        "targets": targets,
    }
    if process.particles:
        topology = {
            "particles": {name: dict(found) for name, found in process.particles.items()},
            "symmetries": {name: list(found) for name, found in process.symmetries.items()},
        }
        document["processes"] = {label: topology}
    return EventInfo.parse(document, f"process {process.name!r}")


def target_names(process: Process) -> list[str]:
    """Return the regression targets that a process can fill."""
    momenta = [*process.particles]
    if process.truth in {"w", "z"} and process.truth not in momenta:
        momenta.append(process.truth)
    for particle, products in process.particles.items():
        momenta += [f"{particle}/{product}" for product in products]
    if process.truth == "ttbar" and "lt" in process.particles:
        momenta.append(LEPTONIC_TOP_LEPTON)
    if process.truth == "w":
        momenta.append("w/l")
    names = [f"{momentum}/{component}" for momentum in momenta for component in KINEMATICS]
    names += [f"{name}_{component}" for name in process.invisible for component in KINEMATICS]
    if process.truth in SYSTEM_MASS:
        names.append(SYSTEM_MASS[process.truth])
    return names


def known_targets() -> set[str]:
    """Return the regression targets that at least one named process can fill."""
    options = ProcessOptions(settings=("Main:numberOfEvents = 1",))
    return {
        name for process in PROCESS_NAMES for name in target_names(make_process(process, options))
    }


def check_event(event: EventInfo, process: Process) -> None:
    """Refuse an event description that asks for inputs or products that are not made here.

    Targets and topologies of other processes are fine: they are missing in these events.

    Raises:
        ConfigurationError: Naming the input, feature, product or misspelt target.
    """
    for name, stream in event.streams.items():
        _check_features("stream", name, stream.features, STREAM_FEATURES)
        if stream.pairs:
            msg = f"stream {name!r}: the reader pythia makes no pair features"
            raise ConfigurationError(msg)
    for name, block in event.globals.items():
        _check_features("global", name, block.features, GLOBAL_FEATURES)
    first_stream = next(iter(event.streams), None)
    for assignment in event.assignments():
        own = process.particles.get(assignment.particle)
        if own is None:
            continue
        for product, stream_name in assignment.products.items():
            if product not in own:
                msg = (
                    f"particle {assignment.particle!r} of process {process.name!r} has no product "
                    f"{product!r}{did_you_mean(product, own)} (known: {', '.join(own)})"
                )
                raise ConfigurationError(msg)
            found = first_stream if stream_name is None else stream_name
            if found != own[product]:
                msg = (
                    f"{assignment.particle}.{product} of process {process.name!r} is found in "
                    f"stream {own[product]!r}, the event description says {found!r}"
                )
                raise ConfigurationError(msg)
    known = known_targets()
    for name, target in event.targets.items():
        hint = did_you_mean(name, known)
        if target.kind == "regression" and name not in known and hint:
            msg = f"target {name!r} is not made by any process{hint}"
            raise ConfigurationError(msg)


def _check_features(
    kind: str, name: str, features: Iterable[str], known: dict[str, tuple[str, ...]]
) -> None:
    if name not in known:
        msg = (
            f"the reader pythia makes no {kind} {name!r}{did_you_mean(name, known)} "
            f"(it makes: {', '.join(known)})"
        )
        raise ConfigurationError(msg)
    for feature in features:
        if feature not in known[name]:
            msg = (
                f"{kind} {name!r}: the reader pythia makes no feature {feature!r}"
                f"{did_you_mean(feature, known[name])} (it makes: {', '.join(known[name])})"
            )
            raise ConfigurationError(msg)
