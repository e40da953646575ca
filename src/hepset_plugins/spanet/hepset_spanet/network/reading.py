"""Contents of a SPANet checkpoint, checked against the event and options of its training."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from hepset.errors import ConfigurationError, did_you_mean
from hepset.schema.event import EventInfo, Process
from hepset_spanet.names import spanet_key, target_name
from hepset_spanet.network.network import CLASS_WEIGHTS, TABLES, SpanetNetwork
from hepset_spanet.network.topology import (
    InputKind,
    Particle,
    RegressionKind,
    SpanetInput,
    Topology,
    regression_kind,
)
from hepset_spanet.options import SpanetOptions

__all__ = ["read_network", "read_topology"]

_LAYERS = "embedding.vector_embedding_layers."
_REGRESSIONS = "regression_decoder.networks."
_CLASSIFICATIONS = "classification_decoder.networks."
_GROUP = "event_permutation_tensor"
_SHOWN = 5
"""How many names of parameters a message lists."""


def read_network(
    state_dict: Mapping[str, Tensor],
    options: SpanetOptions,
    event: EventInfo,
    *,
    where: str = "the SPANet state dict",
) -> SpanetNetwork:
    """Build the network of a checkpoint, in evaluation mode.

    Args:
        state_dict: SPANet's own parameters by name.
        options: The options it was trained with.
        event: The event it was trained for.
        where: Name of the checkpoint, for messages.

    Raises:
        ConfigurationError: If the parameters do not fit options and event.
    """
    if not isinstance(state_dict, Mapping):
        raise ConfigurationError(
            f"{where}: expected parameters by name, found {type(state_dict).__name__}"
        )
    topology = read_topology(state_dict, event, where=where)
    _refuse_not_finite(state_dict, where)
    tables = {
        name: value
        for name, value in state_dict.items()
        if name in TABLES or name.startswith(CLASS_WEIGHTS)
    }
    network = SpanetNetwork(options, topology, tables)
    _refuse_difference(network.state_dict(), state_dict, where)
    network.load_state_dict(dict(state_dict))
    return network.eval()


def read_topology(
    state_dict: Mapping[str, Tensor],
    event: EventInfo,
    *,
    where: str = "the SPANet state dict",
) -> Topology:
    """Find out what a checkpoint was trained for.

    The order of the inputs, the number of features, the order of the event's group and the
    numbers of classes come from the checkpoint, and have to agree with the event; names and the
    symmetries of products come from the event alone.

    Args:
        state_dict: SPANet's own parameters by name.
        event: The event.
        where: Name of the checkpoint, for messages.

    Raises:
        ConfigurationError: If they do not agree.
    """
    if len(event.processes) > 1:
        raise ConfigurationError(
            f"{where}: SPANet knows one topology, the event has the processes "
            f"{', '.join(event.processes)}"
        )
    process = next(iter(event.processes.values()), Process(particles={}))
    branches = _count(state_dict, "branch_decoders.")
    if branches != len(process.particles):
        raise ConfigurationError(
            f"{where}: the checkpoint has {branches} branches, the event {len(process.particles)} "
            f"particles ({', '.join(process.particles) or 'none'}); is this its event file?"
        )
    return Topology(
        inputs=_inputs(state_dict, event, where),
        particles=tuple(
            Particle(
                name=name, products=tuple(products), group=process.product_group(name).elements
            )
            for name, products in process.particles.items()
        ),
        permutations=_permutations(state_dict, process, where),
        regressions=_regressions(state_dict, event, process, where),
        classifications=_classifications(state_dict, event, process, where),
    )


def _inputs(
    state_dict: Mapping[str, Tensor], event: EventInfo, where: str
) -> tuple[SpanetInput, ...]:
    kinds = [_input_kind(state_dict, i) for i in range(_count(state_dict, _LAYERS))]
    streams, globals_ = list(event.streams), list(event.globals)
    counted = (sum(kind != "global" for kind in kinds), sum(kind == "global" for kind in kinds))
    if counted != (len(streams), len(globals_)):
        raise ConfigurationError(
            f"{where}: the checkpoint has {counted[0]} sequential or relative inputs and "
            f"{counted[1]} global ones, the event has {', '.join(streams) or 'none'} and "
            f"{', '.join(globals_) or 'none'}"
        )
    found = []
    for index, kind in enumerate(kinds):
        name = (globals_ if kind == "global" else streams).pop(0)
        if kind == "global":
            features = [*event.globals[name].features]
        else:
            features = [*event.streams[name].features, *event.streams[name].pairs]
            if kind == "sequential" and event.streams[name].pairs:
                raise ConfigurationError(
                    f"{where}: {name} has features of pairs, but input {index} of the checkpoint "
                    "is sequential"
                )
        expected = len(_get(state_dict, f"{_LAYERS}{index}.normalizer.mean", where))
        if expected != len(features):
            raise ConfigurationError(
                f"{where}: input {index} of the checkpoint has {expected} features, {name} has "
                f"{len(features)} ({', '.join(features)})"
            )
        found.append(SpanetInput(name=name, kind=kind, features=expected))
    return tuple(found)


def _input_kind(state_dict: Mapping[str, Tensor], index: int) -> InputKind:
    prefix = f"{_LAYERS}{index}.vector_embeddings."
    below = {name[len(prefix) :].split(".")[0] for name in state_dict if name.startswith(prefix)}
    if "shared_embedding_stack" in below:
        return "relative"
    return "global" if "embedding" in below else "sequential"


def _permutations(
    state_dict: Mapping[str, Tensor], process: Process, where: str
) -> tuple[tuple[int, ...], ...]:
    stored = tuple(tuple(row) for row in _get(state_dict, _GROUP, where).tolist())
    group = process.event_group
    if len(set(stored)) != group.order or not all(map(group.contains, stored)):
        raise ConfigurationError(
            f"{where}: {_GROUP} lists {len(set(stored))} permutations of the particles, "
            f"{list(stored[:_SHOWN])}; the event declares a group of {group.order}, "
            f"{group.entries()}; is this its event file?"
        )
    return stored


def _regressions(
    state_dict: Mapping[str, Tensor],
    event: EventInfo,
    process: Process,
    where: str,
) -> dict[str, RegressionKind]:
    found: dict[str, RegressionKind] = {}
    for key in _keys(state_dict, _REGRESSIONS, ".linear.output_layer.weight"):
        name = target_name(key)
        target = event.targets.get(name)
        if target is None or target.kind != "regression":
            hint = did_you_mean(name, event.targets)
            raise ConfigurationError(
                f"{where}: the checkpoint regresses {key}, but the event declares no regression "
                f"target {name!r}{hint}: its type is not known"
            )
        found[key] = regression_kind(target)
    _refuse_headless(event, process, "regression", found, where)
    return found


def _classifications(
    state_dict: Mapping[str, Tensor], event: EventInfo, process: Process, where: str
) -> dict[str, int]:
    found = {}
    for key in _keys(state_dict, _CLASSIFICATIONS, ".output_layer.weight"):
        count = len(state_dict[f"{_CLASSIFICATIONS}{key}.output_layer.weight"])
        target = event.targets.get(target_name(key))
        if target is not None and target.classes is not None and len(target.classes) != count:
            raise ConfigurationError(
                f"{where}: the checkpoint has {count} classes for {key}, the event "
                f"{len(target.classes)} ({', '.join(target.classes)})"
            )
        found[key] = count
    _refuse_headless(event, process, "classification", found, where)
    return found


def _refuse_headless(
    event: EventInfo, process: Process, kind: str, keys: Mapping[str, object], where: str
) -> None:
    for name, target in event.targets.items():
        if target.kind == kind and spanet_key(name, process.particles) not in keys:
            raise ConfigurationError(
                f"{where}: the event declares the {kind} {name!r}, the checkpoint has no head for "
                f"it; it has {', '.join(keys) or 'none'}"
            )


def _keys(state_dict: Mapping[str, Tensor], prefix: str, suffix: str) -> list[str]:
    return [
        name[len(prefix) : -len(suffix)]
        for name in state_dict
        if name.startswith(prefix) and name.endswith(suffix)
    ]


def _count(state_dict: Mapping[str, Tensor], prefix: str) -> int:
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    matches = map(pattern.match, state_dict)
    return len({match.group(1) for match in matches if match})


def _get(state_dict: Mapping[str, Tensor], name: str, where: str) -> Tensor:
    value = state_dict.get(name)
    if not isinstance(value, torch.Tensor):
        raise ConfigurationError(
            f"{where}: not a checkpoint of SPANet 2: it lacks {name!r} among {len(state_dict)} "
            "entries"
        )
    return value


def _refuse_not_finite(state_dict: Mapping[str, Tensor], where: str) -> None:
    """Refuse parameters that no network can compute with, as a diverged training leaves them."""
    bad = [
        name
        for name, value in state_dict.items()
        if not bool(torch.isfinite(torch.as_tensor(value)).all())
    ]
    if bad:
        more = f" and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise ConfigurationError(
            f"{where}: NaN or infinite in {', '.join(bad[:_SHOWN])}{more}: the training has "
            "diverged; take an earlier checkpoint"
        )


def _refuse_difference(own: Mapping[str, Tensor], given: Mapping[str, Tensor], where: str) -> None:
    """Compare names and shapes, with a message that shows what differs."""
    lacking = [name for name in own if name not in given]
    further = [name for name in given if name not in own]
    shaped = [
        f"{name}: {tuple(given[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in given and given[name].shape != own[name].shape
    ]
    lines = []
    for what, names in (("lacks", lacking), ("also has", further), ("differs in", shaped)):
        if names:
            rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            lines.append(f"  {what} {', '.join(names[:_SHOWN])}{rest}")
    if lines:
        raise ConfigurationError(
            f"{where}: the parameters are not those of a network with these options and this "
            "event:\n" + "\n".join(lines)
        )
