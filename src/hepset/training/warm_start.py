"""`start_from`: begin a training with what another one has learnt."""

from __future__ import annotations

import logging
from pathlib import Path

from torch import nn

from hepset.errors import ConfigurationError, did_you_mean
from hepset.files import digest_file
from hepset.model import Model
from hepset.model.load import load_checkpoint, run_checkpoint
from hepset.schema.config import StartFrom

__all__ = ["digest_of_start", "start_from"]

_LOG = logging.getLogger(__name__)


def start_from(model: Model, start: StartFrom) -> None:
    """Take over backbone, input transform and chosen heads of another model.

    The transform belongs to the backbone: the weights were learnt for inputs that were standardised
    by the statistics of their own training, so these stay.

    Args:
        model: What is to be trained.
        start: Which weights.

    Raises:
        ConfigurationError: If there is no such model, or the two differ in what is taken over.
    """
    source = load_checkpoint(start.path)
    where = f"train.start_from: {start.path}"
    theirs, ours = _inputs(source), _inputs(model)
    if theirs != ours:
        raise ConfigurationError(
            f"{where}: its backbone was trained on {theirs}, the event has {ours}; the inputs and "
            "their transforms have to be the same"
        )
    for name in start.heads:
        for which, each in (("the configuration", model), ("that model", source)):
            if name not in each.heads:
                raise ConfigurationError(
                    f"{where}: {which} has no head {name!r}{did_you_mean(name, each.heads)}; it "
                    f"has {', '.join(each.heads)}"
                )
    _take_over(model.transform, source.transform, f"{where}: input transform")
    _take_over(model.backbone, source.backbone, f"{where}: backbone")
    for name in start.heads:
        _take_over(model.head(name), source.head(name), f"{where}: head {name!r}")
    new = [name for name in model.heads if name not in start.heads]
    _LOG.info("training starts from %s; new heads: %s", start.path, ", ".join(new) or "none")


def digest_of_start(start: StartFrom) -> str:
    """Return the digest of the weights that a training begins with.

    Raises:
        ConfigurationError: If there is no such checkpoint.
    """
    path = Path(start.path)
    if path.is_dir():
        path = run_checkpoint(path)
    if not path.is_file():
        raise ConfigurationError(f"train.start_from: {path}: there is no such checkpoint")
    return digest_file(path)


def _inputs(model: Model) -> dict[str, dict[str, str]]:
    """Input → feature that the backbone sees → its transform."""
    found = {}
    for spec in model.contract.of_kind("stream", "global", "pairs"):
        features = {name: spec.features[name] for name in spec.columns}
        found[spec.name] = {
            name: " → ".join(map(str, feature.transform)) or "as it is"
            for name, feature in features.items()
            if feature.input
        }
    return found


def _take_over(own: nn.Module, other: nn.Module, where: str) -> None:
    weights = other.state_dict()
    expected = own.state_dict()
    wrong = [
        f"{name} ({'absent there' if name not in weights else 'absent here'})"
        for name in sorted(set(expected) ^ set(weights))
    ]
    wrong += [
        f"{name} ({tuple(weights[name].shape)} there, {tuple(tensor.shape)} here)"
        for name, tensor in expected.items()
        if name in weights and weights[name].shape != tensor.shape
    ]
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise ConfigurationError(
            f"{where}: the weights do not fit: {', '.join(wrong[:3])}{more}; give "
            "the same options as that training"
        )
    own.load_state_dict(weights)
