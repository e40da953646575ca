"""Trained SPANet models: `load_spanet`, `load_spanet_run`, and what they become in hepset."""

from __future__ import annotations

import json
import logging
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch import Tensor

from hepset.dialects import load_yaml
from hepset.errors import ConfigurationError
from hepset.model import Model, build_model
from hepset.model.load import BEST_CHECKPOINT
from hepset.model.save import save_run
from hepset.schema.config import ModelConfig, RunConfig
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo
from hepset.schema.feature import Feature
from hepset.schema.statistics import Statistics
from hepset_assignment.dense_scores import as_spanet
from hepset_spanet.event_file import parse_event_file
from hepset_spanet.names import target_name
from hepset_spanet.network.network import SpanetNetwork
from hepset_spanet.network.reading import read_network
from hepset_spanet.options import (
    SpanetOptions,
    assignment_options,
    parse_options_file,
    run_defaults,
)

if TYPE_CHECKING:
    from hepset.batch import EventBatch
    from hepset.model.model import Array

__all__ = ["SpanetModel", "import_spanet", "load_spanet", "load_spanet_run"]

_LOG = logging.getLogger(__name__)

ASSIGNMENT, REGRESSION = "assignment", "regression"
"""Names of the heads."""
Which = Literal["best", "last"]


class SpanetModel(Model):
    """A trained SPANet network as a model of hepset: physical inputs in, decisions out.

    Attributes:
        network: The network, under SPANet's parameter names.
    """

    @property
    def network(self) -> SpanetNetwork:
        """The network, under SPANet's parameter names."""
        network = self.backbone.network
        assert isinstance(network, SpanetNetwork)
        return network

    def predict(
        self,
        batch: EventBatch | Mapping[str, Array],
        batch_size: int = 1024,
        *,
        raw: bool = False,
    ) -> dict[str, Array]:
        """Decide for some events; targets are neither needed nor looked at.

        Args:
            batch: Events, or physical input arrays by contract name.
            batch_size: Events that are computed at a time.
            raw: Whether to add what SPANet's network itself gives:
                ``assignment/<particle>/log_probability`` (event, slot, …), NaN in an event with
                too few objects, ``assignment/<particle>/detection_logit``, and under SPANet's own
                keys values of regressions (event,) and logits of classifications (event, class).

        Returns:
            ``assignment/<particle>`` (event, product) with −1 = none, ``…/probability`` of the
            unordered assignment (0 for none), ``…/detection``; ``regression/<target>``;
            ``<classification>/probabilities``.

        Raises:
            ContractError: If the inputs do not obey the contract; lists every violation.
        """
        self._raw = raw
        try:
            return super().predict(batch, batch_size)
        finally:
            self._raw = False

    _raw = False

    def decode(self, outputs: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Turn raw outputs into decisions, and keep them where `predict` was asked to."""
        found = super().decode(outputs)
        if self._raw:
            topology = self.network.topology
            keys = {*topology.regressions, *topology.classifications}
            for head, fields in outputs.items():
                for name, value in fields.items():
                    if head == ASSIGNMENT and not name.startswith("mask/"):
                        found[f"{ASSIGNMENT}/{name}"] = (
                            as_spanet(value) if name.endswith("log_probability") else value
                        )
                    elif head != ASSIGNMENT and name in keys:
                        found[name] = value
        return found


def load_spanet(
    state_dict: Mapping[str, Tensor],
    options: Mapping[str, Any] | str | os.PathLike[str] | SpanetOptions,
    event: EventInfo | Mapping[str, Any] | str | os.PathLike[str],
    *,
    exclusive_sources: bool = False,
    provenance: Mapping[str, Any] | None = None,
    where: str = "the SPANet state dict",
) -> SpanetModel:
    """Make a trained SPANet 2 network a model of hepset.

    The moments of inputs and targets, the order of the event's group and the numbers of classes
    are those of the checkpoint; nothing is computed from training data.

    Args:
        state_dict: SPANet's parameters by name.
        options: The options it was trained with, or their JSON file.
        event: The event it was trained for, or its YAML file. For relative inputs with features of
            pairs take `SpanetReader.event_info`: only the data files tell which these are.
        exclusive_sources: Whether a product with a declared stream is looked for only there.
            SPANet itself looks everywhere; a product found elsewhere is −1 then.
        provenance: Where the checkpoint comes from.
        where: Name of the checkpoint, for messages.

    Raises:
        ConfigurationError: If the parameters do not fit options and event.
        EventInfoError: If the event file does not follow SPANet's grammar.
    """
    parsed = _options(options)
    given = _event(event)
    network = read_network(state_dict, parsed, given, where=where)
    own = _without_standardisation(given, where)
    config = _config(network, given, exclusive_sources=exclusive_sources)
    classes = {
        f"target/{target_name(key)}": count
        for key, count in network.topology.classifications.items()
        if target_name(key) in own.targets
    }
    contract = compile_contract(own).resolve(slots=_fixed_slots(own), classes=classes)
    built = build_model(config, own, contract, Statistics(), provenance=provenance)
    model = SpanetModel(
        built.config,
        built.event,
        built.contract,
        built.statistics,
        backbone=built.backbone,
        heads={name: built.head(name) for name in built.heads},
        provenance=built.provenance,
    )
    model.network.load_state_dict(dict(state_dict))
    return model.eval()


class _RunFiles(NamedTuple):
    checkpoint: Path
    options: Path
    event: Path


def load_spanet_run(
    directory: str | os.PathLike[str],
    *,
    which: Which = "best",
    event: EventInfo | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    exclusive_sources: bool = False,
) -> SpanetModel:
    """Load a run directory of SPANet: ``checkpoints/*.ckpt``, ``options.json``, ``event.yaml``.

    Only tensors and plain data of the checkpoint are read, never pickled code.

    Args:
        directory: The directory.
        which: ``best``: the checkpoint whose file name states the highest validation accuracy, of
            equals the later one. ``last``: the latest. SPANet itself takes the name that comes
            last in the alphabet, so that epoch 9 beats epoch 10.
        event: The event, instead of the directory's ``event.yaml``; see `load_spanet`.
        exclusive_sources: See `load_spanet`.

    Raises:
        ConfigurationError: If a file is missing or cannot be read, or they do not fit together.
    """
    files = _files(Path(directory), which)
    return load_spanet(
        _state_dict(files.checkpoint),
        files.options,
        files.event if event is None else event,
        exclusive_sources=exclusive_sources,
        provenance={
            "imported": {"system": "SPANet", "checkpoint": str(files.checkpoint)},
            "data": {"read": [{"reader": "spanet-hdf5"}]},
        },
        where=str(files.checkpoint),
    )


def import_spanet(
    directory: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    which: Which = "best",
    event: EventInfo | Mapping[str, Any] | str | os.PathLike[str] | None = None,
    exclusive_sources: bool = False,
) -> Path:
    """Write a run directory that `hepset.load_model` opens from one of SPANet.

    It holds the checkpoint and ``config.yaml``, a run that continues the training: with SPANet's
    options, from the imported weights, on the training file that they name.

    Args:
        directory: SPANet's run directory.
        output: The directory to write; it must not hold a checkpoint yet.
        which: See `load_spanet_run`.
        event: See `load_spanet_run`.
        exclusive_sources: See `load_spanet`.

    Returns:
        The checkpoint that was written, ``checkpoints/best.ckpt``.

    Raises:
        ConfigurationError: As `load_spanet_run`, and if the output holds a checkpoint.
    """
    model = load_spanet_run(
        directory, which=which, event=event, exclusive_sources=exclusive_sources
    )
    options = _options(_files(Path(directory), which).options)
    path = (Path(output) / BEST_CHECKPOINT).absolute()
    return save_run(model, output, _run_document(model, options, path))


def _run_document(model: SpanetModel, options: SpanetOptions, path: Path) -> dict[str, Any]:
    """The run file of a training that goes on with an imported model."""
    event = model.event
    counted = (list(event.streams), list(event.globals))
    # SPANet's paths are relative to the working directory, those of a run file to its folder.
    paths = {n: getattr(options, n) for n in ("training_file", "validation_file", "testing_file")}
    stated = {name: str(Path(file).absolute()) for name, file in paths.items() if file}
    options = options.model_copy(update=stated)
    defaults = run_defaults(options, {}, counted, network=True)
    plain = model.config.model_dump(mode="json")
    heads = plain["heads"]
    if ASSIGNMENT in heads:
        heads[ASSIGNMENT] |= assignment_options(options)
    run = path.parent.parent
    document = {
        "name": f"{run.name}-continued",
        "event": {"inline": event.model_dump(mode="json", exclude_none=True)},
        "read": {"reader": "spanet-hdf5", "files": []},
        **defaults,
        "model": {"backbone": plain["backbone"], "heads": heads},
        "output": str(run.with_name(f"{run.name}-continued")),
    }
    document["train"]["start_from"] = str(path)
    RunConfig.parse(document, "the imported run")
    return document


def _options(
    options: Mapping[str, Any] | str | os.PathLike[str] | SpanetOptions,
) -> SpanetOptions:
    if isinstance(options, SpanetOptions):
        return options
    if isinstance(options, Mapping):
        return parse_options_file(options, where="options")
    if not isinstance(options, str | os.PathLike):
        raise ConfigurationError(
            f"options: expected a mapping or the name of a JSON file, found {options!r}"
        )
    path = Path(options)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise ConfigurationError(f"{path}: cannot be read as JSON: {problem}") from None
    if not isinstance(document, dict):
        raise ConfigurationError(f"{path}: expected a mapping, found {type(document).__name__}")
    return parse_options_file(document, where=str(path))


def _event(
    event: EventInfo | Mapping[str, Any] | str | os.PathLike[str],
) -> EventInfo:
    if isinstance(event, EventInfo):
        return event
    if isinstance(event, Mapping):
        return parse_event_file(event, where="event", parity=True)
    return parse_event_file(load_yaml(Path(event)), where=str(event), parity=True)


def _without_standardisation(event: EventInfo, where: str) -> EventInfo:
    """The event as the network sees it: it takes logarithms, and standardises itself."""

    def plain(name: str, features: Mapping[str, Feature]) -> dict[str, Feature]:
        found = {}
        for column, feature in features.items():
            steps = [s for s in feature.transform if s not in {"standardise", "circular"}]
            if steps not in ([], ["log1p"]):
                raise ConfigurationError(
                    f"{where}: {name}.{column}: SPANet has the transform log1p only, the event "
                    f"asks for {', '.join(map(str, steps))}"
                )
            found[column] = feature.model_copy(update={"transform": tuple(steps)})
        return found

    streams = {
        name: stream.model_copy(
            update={
                "features": plain(name, stream.features),
                "pairs": plain(name, stream.pairs),
            }
        )
        for name, stream in event.streams.items()
    }
    globals_ = {
        name: block.model_copy(update={"features": plain(name, block.features)})
        for name, block in event.globals.items()
    }
    return event.model_copy(update={"streams": streams, "globals": globals_})


def _fixed_slots(event: EventInfo) -> dict[str, int]:
    return {n: s.slots for n, s in event.streams.items() if isinstance(s.slots, int)}


def _config(network: SpanetNetwork, event: EventInfo, *, exclusive_sources: bool) -> ModelConfig:
    topology, options = network.topology, network.options
    heads: dict[str, dict[str, Any]] = {}
    plain = topology.model_dump(mode="json")
    if topology.particles:
        heads[ASSIGNMENT] = {
            "name": "spanet-assignment",
            "topology": plain,
            "sources": {
                each.particle: list(each.products.values()) for each in event.assignments()
            },
            "exclusive_sources": exclusive_sources,
            "loss_weight": options.assignment_loss_scale,
            **assignment_options(options),
            # The counts of training events that weights are made of are not in a checkpoint.
            "balance_particles": False,
            "balance_objects": False,
        }
    if topology.regressions:
        heads[REGRESSION] = {
            "name": "spanet-regression",
            "targets": [target_name(key) for key in topology.regressions],
            "loss_weight": options.regression_loss_scale,
        }
    for key in topology.classifications:
        head = re.sub(r"\W", "_", target_name(key), flags=re.ASCII)
        while head in heads:
            head += "_"
        heads[head] = {
            "name": "spanet-classification",
            "target": target_name(key),
            "loss_weight": options.classification_loss_scale,
        }
    backbone = {
        "name": "spanet",
        "options": options.model_dump(mode="json"),
        "topology": plain,
        "tables": network.tables(),
    }
    return ModelConfig(backbone=backbone, heads=heads)


def _files(directory: Path, which: Which) -> _RunFiles:
    checkpoint = _choose(directory, which)
    found = {}
    for name in ("options.json", "event.yaml"):
        path = directory / name
        if not path.is_file():
            raise ConfigurationError(f"{directory}: no {name}: this is not a run of SPANet")
        found[name] = path
    return _RunFiles(checkpoint, found["options.json"], found["event.yaml"])


def _choose(directory: Path, which: Which) -> Path:
    paths = sorted((directory / "checkpoints").glob("*.ckpt"))
    if not paths:
        raise ConfigurationError(f"{directory}: no checkpoints/*.ckpt: this is not a run of SPANet")
    if which == "last":
        return max(paths, key=lambda path: (path.stem == "last", _progress(path)))
    stated = [path for path in paths if _accuracy(path) is not None]
    if stated:
        return max(stated, key=lambda path: (_accuracy(path), _progress(path)))
    _LOG.info("%s: no checkpoint states its accuracy; the latest is taken", directory)
    return max(paths, key=lambda path: (path.stem == "last", _progress(path)))


def _progress(path: Path) -> tuple[int, int]:
    """Epoch and step that a file name states, -1 where it does not."""
    found = [re.search(rf"{word}=(\d+)", path.stem) for word in ("epoch", "step")]
    epoch, step = (int(match.group(1)) if match else -1 for match in found)
    return epoch, step


def _accuracy(path: Path) -> float | None:
    match = re.search(r"accuracy=(\d+(?:\.\d+)?)", path.stem)
    return float(match.group(1)) if match else None


def _state_dict(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as problem:
        raise ConfigurationError(
            f"{path}: cannot be read safely (tensors and plain data only): "
            f"{str(problem).splitlines()[0]}"
        ) from None
    weights = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(weights, dict):
        raise ConfigurationError(f"{path}: no 'state_dict': not a checkpoint of SPANet")
    return weights
