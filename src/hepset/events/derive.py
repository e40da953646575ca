"""What derived columns do to the description of an event.

A derived feature may be declared in the event file (with unit and transform) or not; either way the
files do not hold it and the data set does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hepset.schema.contract import Contract, compile_contract
from hepset.schema.event import EventInfo, GlobalInput


def _derived(event: EventInfo, derive: Mapping[str, str]) -> dict[str, list[str]]:
    """Stream or global → its derived features."""
    found: dict[str, list[str]] = {}
    for name in derive:
        block, dot, feature = name.replace("/", ".", 1).partition(".")
        if dot and (block in event.streams or block in event.globals):
            found.setdefault(block, []).append(feature)
    return found


def derived_event(event: EventInfo, derive: Mapping[str, str]) -> EventInfo:
    """Return what an event of the data set is: with derived features that were not declared.

    Args:
        event: As described by the user.
        derive: ``prepare.derive``; ``extra.…`` columns are no part of the description.
    """
    blocks = _derived(event, derive)
    if not blocks:
        return event
    streams, globals_ = dict(event.streams), dict(event.globals)
    for name, features in blocks.items():
        place: dict[str, Any] = streams if name in streams else globals_
        block = place[name]
        absent = [feature for feature in features if feature not in block.features]
        if absent:
            # Validated again, so that a derived φ is circular like a declared one.
            completed = type(block).model_validate(
                {"features": {**block.features, **dict.fromkeys(absent)}}
            )
            place[name] = block.model_copy(update={"features": completed.features})
    return event.model_copy(update={"streams": streams, "globals": globals_})


def input_event(event: EventInfo, derive: Mapping[str, str]) -> EventInfo:
    """Return what an event of the files is: without the features and targets prepare derives."""
    blocks = _derived(event, derive)
    targets = {n: t for n, t in event.targets.items() if not _is_derived(f"target/{n}", derive)}
    if not blocks and len(targets) == len(event.targets):
        return event
    streams, globals_ = dict(event.streams), dict(event.globals)
    for name, features in blocks.items():
        place: dict[str, Any] = streams if name in streams else globals_
        block = place[name]
        kept = {f: spec for f, spec in block.features.items() if f not in features}
        if not kept and isinstance(block, GlobalInput):
            del place[name]
            continue
        place[name] = block.model_copy(update={"features": kept})
    changed = {"streams": streams, "globals": globals_, "targets": targets}
    return event.model_copy(update=changed)


def _is_derived(tensor: str, derive: Mapping[str, str]) -> bool:
    return tensor in derive or tensor.replace("/", ".", 1) in derive


def derived_contract(contract: Contract, event: EventInfo) -> Contract:
    """Return a contract whose inputs have the features of an event, derived ones included."""
    compiled = compile_contract(event)
    tensors = dict(contract.tensors)
    for name, spec in compiled.tensors.items():
        known = tensors.get(name)
        if spec.kind in {"stream", "global"} and (known is None or known.columns != spec.columns):
            update = {} if known is None else {"wanted_by": known.wanted_by}
            tensors[name] = spec.model_copy(update=update)
    return contract.model_copy(update={"tensors": tensors})


def restored_event(found: EventInfo, declared: EventInfo, derive: Mapping[str, str]) -> EventInfo:
    """Return a reader's description with the declared features that it was not asked for.

    Args:
        found: What a reader says of its files, which may refine `declared`.
        declared: As described by the user.
        derive: ``prepare.derive``.
    """
    streams, globals_ = dict(found.streams), dict(found.globals)
    for name, features in _derived(declared, derive).items():
        place: dict[str, Any] = streams if name in declared.streams else globals_
        full = declared.streams.get(name) or declared.globals[name]
        known = place[name].features if name in place else {}
        completed = {
            feature: known.get(feature, spec)
            for feature, spec in full.features.items()
            if feature in known or feature in features
        }
        place[name] = place.get(name, full).model_copy(update={"features": completed})
    targets = {
        name: found.targets.get(name, target)
        for name, target in declared.targets.items()
        if name in found.targets or _is_derived(f"target/{name}", derive)
    }
    changed = {"streams": streams, "globals": globals_, "targets": targets | found.targets}
    return found.model_copy(update=changed)
