"""Particle Transformers trained with weaver, as models of hepset."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hepset.dialects import describe_event
from hepset.errors import ConfigurationError
from hepset.interfaces import Description
from hepset.model import Model, build_model
from hepset.model.save import save_run
from hepset.schema.config import ModelConfig
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo
from hepset.schema.statistics import Statistics
from hepset_jetclass.part.names import WeaverVersion, WeaverWeights, read_weights

__all__ = ["import_weaver", "load_part"]

Weights = Mapping[str, Tensor] | str | os.PathLike[str]
Scores = Mapping[str, Mapping[str, Sequence[str]]]
Event = EventInfo | Mapping[str, Any] | str | os.PathLike[str]


def load_part(
    weights: Weights,
    event: Event,
    *,
    weaver: WeaverVersion | None = None,
    pair_activation: bool = False,
    target: str | None = None,
    scores: Scores | None = None,
    top: int = 0,
    provenance: Mapping[str, Any] | None = None,
) -> Model:
    """Make a Particle Transformer that was trained with weaver a model of hepset.

    Args:
        weights: weaver's state dict, or its file (``…_state.pt``). Only tensors are read, never
            pickled code.
        event: The data configuration it was trained with, or an event of any dialect.
        weaver: The version it was trained with. Weights of 0.4 are wrong in 0.5 without any error;
            null takes 0.4 where the names of the parameters are those of 0.4. Sophon's weights of
            August 2024 are of 0.4.
        pair_activation: Whether a GELU ends the embedding of the pairs: weaver's
            ``use_pre_activation_pair=False``, as in the networks published with JetClass.
        target: The classification that the network decides; needed where the event has several.
        scores: Further predictions, s / (s + b) of summed probabilities: name → ``signal`` and
            ``background``, names or patterns of classes.
        top: Give so many most probable classes too.
        provenance: Where the weights come from.

    Returns:
        A model with the backbone ``part`` and one head ``classification``, named as the data
        configuration names it.

    Raises:
        ConfigurationError: If the file cannot be read, or weights and event do not fit.
        EventInfoError: If the event file does not follow its grammar.
    """
    where = "the state dict" if isinstance(weights, Mapping) else os.fspath(weights)
    state = weights if isinstance(weights, Mapping) else _state_dict(Path(weights))
    found = read_weights(state, weaver, where)
    described = describe_event(event)
    own = described.event
    head, name = _head(described, target, where)
    classes = len(found.last[1])
    stated = own.targets[name].classes
    if stated is not None and len(stated) != classes:
        raise ConfigurationError(
            f"{where}: the network has {classes} classes, the target {name!r} of the event has "
            f"{len(stated)}"
        )
    config = ModelConfig(
        backbone={"name": "part", **found.options, "pair_activation": pair_activation},
        heads={
            head: {
                "name": "classification",
                "target": name,
                "hidden": [len(bias) for _, bias in found.hidden],
                "activation": "relu",
                "dropout": 0.1 if found.hidden else 0.0,
                "norm": False,
                "scores": dict(scores or {}),
                "top": top,
            }
        },
    )
    slots = {n: s.slots for n, s in own.streams.items() if isinstance(s.slots, int)}
    contract = compile_contract(own).resolve(slots=slots, classes={f"target/{name}": classes})
    model = build_model(
        config, own, contract, Statistics(), provenance=_provenance(described, found, provenance)
    )
    _load(model, head, found, where)
    return model.eval()


def import_weaver(
    weights: str | os.PathLike[str],
    event: Event,
    output: str | os.PathLike[str],
    *,
    weaver: WeaverVersion | None = None,
    pair_activation: bool = False,
    target: str | None = None,
    scores: Scores | None = None,
    top: int = 0,
) -> Path:
    """Write a run directory that `hepset.load_model` opens, from weights of weaver.

    Args:
        weights: weaver's file of weights.
        event: See `load_part`.
        output: The directory to write; it must not hold a checkpoint yet.
        weaver: See `load_part`.
        pair_activation: See `load_part`.
        target: See `load_part`.
        scores: See `load_part`.
        top: See `load_part`.

    Returns:
        The checkpoint that was written, ``checkpoints/best.ckpt``.

    Raises:
        ConfigurationError: As `load_part`, and if the output holds a checkpoint.
    """
    model = load_part(
        weights,
        event,
        weaver=weaver,
        pair_activation=pair_activation,
        target=target,
        scores=scores,
        top=top,
    )
    return save_run(model, output)


def _head(described: Description, target: str | None, where: str) -> tuple[str, str]:
    """Name of the head, and the target that it decides."""
    known = [n for n, t in described.event.targets.items() if t.kind == "classification"]
    if target is None:
        if len(known) != 1:
            raise ConfigurationError(
                f"{where}: the event has {len(known)} classifications ({', '.join(known) or '–'}); "
                "say which the network decides (--target)"
            )
        target = known[0]
    elif target not in known:
        raise ConfigurationError(
            f"{where}: no classification {target!r} in the event; it has {', '.join(known) or '–'}"
        )
    heads: Mapping[str, Any] = described.defaults.get("model", {}).get("heads", {})
    named = [head for head, options in heads.items() if options.get("target") == target]
    return (named[0] if named else target.replace("/", "_")), target


def _provenance(
    described: Description, found: WeaverWeights, given: Mapping[str, Any] | None
) -> dict[str, Any]:
    """How files are read and prepared for the model, as a training would have stored it."""
    defaults = described.defaults
    prepare = {
        key: dict(defaults.get("prepare", {}).get(key) or {})
        for key in ("derive", "select", "predict_select")
        if key in defaults.get("prepare", {})
    }
    read = {"reader": "jetclass", **defaults.get("read", {})}
    classes = {
        f"target/{name}": list(each.classes)
        for name, each in described.event.targets.items()
        if each.classes
    }
    return {
        "imported": {"system": "weaver", "version": found.version},
        "prepare": prepare,
        "data": {"read": [read]},
        "class_names": classes,
        **(given or {}),
    }


def _load(model: Model, head: str, found: WeaverWeights, where: str) -> None:
    network = model.head(head).get_submodule("network.layers")
    linear = [layer for layer in network.children() if isinstance(layer, torch.nn.Linear)]
    try:
        model.backbone.load_state_dict(found.backbone)
        for layer, (weight, bias) in zip(linear, [*found.hidden, found.last], strict=True):
            layer.load_state_dict({"weight": weight, "bias": bias})
    except RuntimeError as problem:
        raise ConfigurationError(
            f"{where}: the weights do not fit the event's inputs: {problem}"
        ) from None


def _state_dict(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as problem:  # what is no file of weights makes torch raise anything
        # torch goes on with advice to load the file unsafely.
        reason = str(problem).partition(". ")[0].partition("\n")[0] or type(problem).__name__
        raise ConfigurationError(
            f"{path}: cannot be read safely (tensors and plain data only): {reason}; give "
            "weaver's file …_state.pt"
        ) from problem
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ConfigurationError(
            f"{path}: not a state dict of weaver (a mapping of tensors); give the file "
            "…_state.pt, not …_optimizer.pt"
        )
    return content
