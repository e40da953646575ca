"""`Model`: input transform, backbone and heads in a row, with the contract that they obey.

Physical tensors go in, physics decisions come out. Everything that is needed to build the same
model again is plain data (`Model.record`) beside a state dict, so that no pickle is ever read.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hepset import __version__
from hepset.batch import EventBatch
from hepset.errors import ConfigurationError, did_you_mean
from hepset.interfaces.backbone import Backbone, Encoded
from hepset.interfaces.head import (
    EncoderHandle,
    Head,
    LossTerm,
    Prediction,
    create_head,
    head_losses,
)
from hepset.model.input_transform import InputTransform
from hepset.model.inputs import as_batch, input_arrays
from hepset.plugins import registry
from hepset.schema.config import ModelConfig
from hepset.schema.contract import Contract
from hepset.schema.event import EventInfo
from hepset.schema.statistics import Statistics

__all__ = ["MODEL_FORMAT", "Model", "Predictions", "build_model"]

MODEL_FORMAT: Final = 1
"""Format of `Model.record`."""

Array = NDArray[Any]
Outputs = dict[str, dict[str, Tensor]]
"""Head → name of a raw output → tensor, batch first."""


class Predictions(NamedTuple):
    """What a model says of some events, first axis event.

    Attributes:
        decided: ``<head>/<field>`` → array of `Head.decode` and `Head.sample`.
        diagnosed: ``<head>/<field>`` → array of `Head.diagnose`, for judges only.
    """

    decided: dict[str, Array]
    diagnosed: dict[str, Array]


class Model(nn.Module):
    """Transform, backbone and heads; made by `build_model`.

    Attributes:
        transform: Physical inputs to model space.
        backbone: Model space to embeddings.
        heads: Head name → head.
        config: Backbone and heads with their options, as in a run configuration.
        event: What an event is.
        contract: The resolved contract, with what the heads need to learn.
        statistics: Statistics of the training split.
        provenance: Where the model comes from: run name, dataset, digests; any JSON-ready data.
    """

    def __init__(
        self,
        config: ModelConfig,
        event: EventInfo,
        contract: Contract,
        statistics: Statistics,
        *,
        backbone: Backbone,
        heads: Mapping[str, Head],
        provenance: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.event = event
        self.contract = contract
        self.statistics = statistics
        self.provenance = dict(provenance or {})
        self.transform = InputTransform(event, contract, statistics)
        self.backbone = backbone
        self.heads = nn.ModuleDict(heads)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    @property
    def tasks(self) -> tuple[str, ...]:
        """What may give losses: the heads, and the backbone."""
        return (*self.heads, "backbone")

    def head(self, name: str) -> Head:
        """Return a head.

        Raises:
            ConfigurationError: If the model has none of this name.
        """
        if name not in self.heads:
            raise ConfigurationError(
                f"the model has no head {name!r}{did_you_mean(name, self.heads)}; it has "
                f"{', '.join(self.heads) or 'none'}"
            )
        head = self.heads[name]
        assert isinstance(head, Head)
        return head

    def encode(self, tensors: Mapping[str, Tensor]) -> Encoded:
        """Return the embeddings of events; `tensors` as for `forward`."""
        encoded: Encoded = self.backbone(self.transform(tensors))
        return encoded

    def forward(self, tensors: Mapping[str, Tensor]) -> Outputs:
        """Compute the raw outputs of every head.

        Args:
            tensors: Physical inputs by contract name (`InputTransform.inputs`); a batch of a
                dataset's loader fits, its targets are not looked at.
        """
        return self._run(tensors)[0]

    def _run(self, tensors: Mapping[str, Tensor]) -> tuple[Outputs, EncoderHandle]:
        inputs = self.transform(tensors)
        encoded = self.backbone(inputs)
        handle = EncoderHandle(self.transform, self.backbone, inputs, tensors)
        return {name: head(encoded, handle) for name, head in self.heads.items()}, handle

    def predictions(self) -> dict[str, list[Prediction]]:
        """What the fields of every head are, by head."""
        return {name: list(self.head(name).predictions(self.event)) for name in self.heads}

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """What the axes of the predicted fields are, ``<head>/<field>`` → ``("event", "jets")``."""
        return {
            f"{name}/{field}": prediction.axes
            for name, stated in self.predictions().items()
            for prediction in stated
            for field in prediction.fields.values()
        }

    def losses(
        self, tensors: Mapping[str, Tensor], outputs: Mapping[str, Mapping[str, Tensor]]
    ) -> dict[str, LossTerm]:
        """Compute every head's losses, per event and without any weight.

        Args:
            tensors: The batch with its targets, by contract name.
            outputs: What `forward` gave for it.

        Returns:
            ``<head>/<term>`` → value and valid, both ``(B,)``.
        """
        return {
            f"{name}/{term}": loss
            for name in self.heads
            for term, loss in head_losses(self.head(name), outputs[name], tensors, None).items()
        }

    def losses_of(
        self,
        tensors: Mapping[str, Tensor],
        *,
        targets: Mapping[str, Tensor] | None = None,
        heads: Iterable[str] | None = None,
    ) -> dict[str, LossTerm]:
        """Compute the losses of a batch; a training step asks for nothing else.

        Args:
            tensors: The batch, by contract name.
            targets: What heads see in `losses`; null = the batch.
            heads: Heads that are computed; null = all.

        Returns:
            ``<head>/<term>``, and ``backbone/<term>`` for losses that the backbone gives itself →
            value and valid, both ``(B,)``.
        """
        inputs = self.transform(tensors)
        encoded: Encoded = self.backbone(inputs)
        handle = EncoderHandle(self.transform, self.backbone, inputs, tensors)
        chosen = list(self.heads) if heads is None else list(heads)
        outputs = {name: self.heads[name](encoded, handle) for name in chosen}
        known = tensors if targets is None else targets
        losses = {
            f"{name}/{term}": loss
            for name in chosen
            for term, loss in head_losses(self.head(name), outputs[name], known, handle).items()
        }
        return losses | {f"backbone/{name}": loss for name, loss in encoded.losses.items()}

    def decode(self, outputs: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """Turn raw outputs into physics decisions, ``<head>/<field>`` → tensor."""
        return {
            f"{name}/{field}": value
            for name in self.heads
            for field, value in self.head(name).decode(outputs[name]).items()
        }

    def predict(
        self, batch: EventBatch | Mapping[str, Array], batch_size: int = 1024
    ) -> dict[str, Array]:
        """Decide for some events; targets are neither needed nor looked at.

        Args:
            batch: Events, or physical input arrays by contract name: ``jets`` (event, jets,
                feature), ``jets.mask`` (event, jets), ``met`` (event, feature) and, where some are
                absent, ``met.mask`` (event,).
            batch_size: Events that are computed at a time; changes nothing but memory and speed.

        Returns:
            ``<head>/<field>`` → array, first axis event.

        Raises:
            ContractError: Naming every rule that the inputs break, or events with more objects than
                the model was trained on; the number of padded slots is free.
        """
        return self._in_parts(batch, batch_size, diagnose=False).decided

    def diagnose(
        self, batch: EventBatch | Mapping[str, Array], batch_size: int = 1024
    ) -> Predictions:
        """Decide for some events, and compute what only the judges of the heads want to know.

        Args:
            batch: As for `predict`.
            batch_size: As for `predict`.

        Raises:
            ContractError: As `predict`.
        """
        return self._in_parts(batch, batch_size, diagnose=True)

    def _in_parts(
        self, batch: EventBatch | Mapping[str, Array], batch_size: int, *, diagnose: bool
    ) -> Predictions:
        """Compute and decide some events at a time, without gradients."""
        events = as_batch(batch)
        arrays = input_arrays(self.contract, events)
        size = len(next(iter(arrays.values())))
        seed = int(events.ids["entry"][0]) if len(events) else 0
        was_training = self.training
        self.eval()
        try:
            with torch.no_grad():
                if not size:
                    # One event without objects, and its row dropped: shapes and dtypes are as ever.
                    one = {name: np.zeros((1, *a.shape[1:]), a.dtype) for name, a in arrays.items()}
                    found = self._part(one, seed, diagnose=diagnose)
                    return Predictions(*({k: v[:0] for k, v in part.items()} for part in found))
                parts = [
                    self._part(
                        {n: a[start : start + batch_size] for n, a in arrays.items()},
                        seed + start,
                        diagnose=diagnose,
                    )
                    for start in range(0, size, batch_size)
                ]
        finally:
            self.train(was_training)
        if len(parts) == 1:
            return parts[0]
        return Predictions(
            {n: np.concatenate([p.decided[n] for p in parts]) for n in parts[0].decided},
            {n: np.concatenate([p.diagnosed[n] for p in parts]) for n in parts[0].diagnosed},
        )

    def record(self) -> dict[str, Any]:
        """Describe the model as JSON-ready data; with the state dict it is the whole model."""
        return {
            "format": MODEL_FORMAT,
            "config": self.config.model_dump(mode="json"),
            "event": self.event.model_dump(mode="json"),
            "contract": self.contract.dump(),
            "statistics": self.statistics.model_dump(mode="json"),
            "versions": self._versions(),
            "provenance": self.provenance,
        }

    @classmethod
    def from_record(
        cls,
        record: Mapping[str, Any],
        state_dict: Mapping[str, Tensor],
        where: str = "the stored model",
    ) -> Model:
        """Build a model again.

        Args:
            record: What `record` gave.
            state_dict: The weights.
            where: Path of the checkpoint, for messages.

        Raises:
            ConfigurationError: If the record is of a newer format or incomplete, or the weights
                do not fit it.
            UnknownComponentError: If a plugin that the model needs is not installed.
        """
        found = record.get("format")
        if not isinstance(found, int) or found > MODEL_FORMAT:
            raise ConfigurationError(
                f"{where}: model format {found!r} is not one that this hepset reads "
                f"(1 to {MODEL_FORMAT}); update hepset"
            )
        missing = {"config", "event", "contract", "statistics"} - set(record)
        if missing:
            raise ConfigurationError(f"{where}: the record lacks {', '.join(sorted(missing))}")
        model = build_model(
            ModelConfig.parse(record["config"], f"{where}: model"),
            EventInfo.parse(record["event"], f"{where}: event"),
            Contract.load(record["contract"], f"{where}: contract"),
            Statistics.parse(record["statistics"], f"{where}: statistics"),
            provenance=record.get("provenance"),
        )
        try:
            model.load_state_dict(dict(state_dict))
        except RuntimeError as error:
            raise ConfigurationError(
                f"{where}: the weights do not fit the model (written with "
                f"{record.get('versions', {})}): {error}"
            ) from error
        return model

    def _part(self, arrays: Mapping[str, Array], seed: int, *, diagnose: bool) -> Predictions:
        """Decide for events given by `input_arrays`; the seed is that of heads which sample."""
        # Copied, because arrays of a data set may be read-only, which torch knows not.
        tensors = {name: torch.tensor(array, device=self.device) for name, array in arrays.items()}
        outputs, handle = self._run(tensors)
        decided = self.decode(outputs)
        diagnosed: dict[str, Tensor] = {}
        for name in self.heads:
            head = self.head(name)
            if head.samples:
                generator = torch.Generator(self.device).manual_seed(seed)
                drawn = head.sample(handle, head.samples, generator)
                decided |= {f"{name}/{field}": value for field, value in drawn.items()}
            if diagnose:
                found = head.diagnose(outputs[name])
                diagnosed |= {f"{name}/{field}": value for field, value in found.items()}
        return Predictions(
            {name: value.cpu().numpy() for name, value in decided.items()},
            {name: value.cpu().numpy() for name, value in diagnosed.items()},
        )

    def _versions(self) -> dict[str, str]:
        """Versions of what the numbers depend on, plugins included."""
        found = {"hepset": __version__, "torch": torch.__version__, "numpy": np.__version__}
        found["python"] = platform.python_version()
        used = [("backbones", self.config.backbone["name"])]
        used += [("heads", options["name"]) for options in self.config.heads.values()]
        for kind, name in used:
            plugin = registry().provider(kind, name)
            found[plugin.distribution] = plugin.version
        return {name: str(version) for name, version in found.items()}


def build_model(
    config: ModelConfig,
    event: EventInfo,
    contract: Contract,
    statistics: Statistics,
    *,
    provenance: Mapping[str, Any] | None = None,
) -> Model:
    """Build an untrained model; seed torch before, for weights that can be made again.

    Args:
        config: Backbone and heads by name, with their options.
        event: What an event is.
        contract: The resolved contract of the data; what the heads need is added to it.
        statistics: Statistics of the training split.
        provenance: Where the model comes from.

    Raises:
        UnknownComponentError: If no installed plugin provides a component.
        ConfigurationError: If options do not fit; names their place under ``model.``.
        ContractError: If a head needs a tensor that the contract describes differently.
    """
    backbone: Backbone = registry().create("backbones", config.backbone, "model.backbone")
    heads = {}
    for head_name, options in config.heads.items():
        if hasattr(nn.ModuleDict(), head_name) or head_name == "backbone":
            raise ConfigurationError(
                f"model.heads.{head_name}: a head cannot have this name; choose another one"
            )
        heads[head_name] = create_head(head_name, options)
        contract = contract.merge(heads[head_name].contract(event))
    model = Model(
        config,
        event,
        contract,
        statistics,
        backbone=backbone,
        heads=heads,
        provenance=provenance,
    )
    backbone.build(
        replace(model.transform.layout, event=event, contract=contract, statistics=statistics)
    )
    for head_name, head in heads.items():
        head.event_width = backbone.event_width
        if backbone.event_width != backbone.width and not head.knows_event_width:
            raise ConfigurationError(
                f"model.heads.{head_name}: {type(head).__name__} takes an event as wide as objects "
                f"are ({backbone.width}), and the backbone gives {backbone.event_width}; choose "
                "a head that takes both"
            )
        head.build(contract, statistics, backbone.width)
    return model
