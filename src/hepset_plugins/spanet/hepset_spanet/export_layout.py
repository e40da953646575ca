"""`SpanetLayout`: graphs with the inputs and outputs of those that SPANet exports.

Names and axes are those of SPANet 2.2: a program that runs its graphs runs these by opening another
file. The number of objects is free here, which it is not in SPANet's own.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from hepset.arrays import Array
from hepset.errors import ExportError
from hepset.export.layouts import ExportLayout
from hepset.interfaces.component import ComponentConfig
from hepset.interfaces.head import EncoderHandle, Head
from hepset.model import Model
from hepset.schema.steps import transform_parts
from hepset_assignment.dense_scores import as_spanet, dense_log_probability
from hepset_assignment.head import AssignmentHead
from hepset_spanet.backbone import SpanetEncoded
from hepset_spanet.names import spanet_key
from hepset_spanet.network_assignment import SpanetAssignmentHead

__all__ = ["SpanetLayout", "SpanetLayoutConfig"]

_LOG = logging.getLogger(__name__)

_TINY = 1e-38
"""What the logarithm of a probability takes instead of anything smaller."""


class SpanetLayoutConfig(ComponentConfig):
    """Options of the layout, SPANet's own."""

    input_log_transform: bool = False
    """Whether the graph takes ln(x + 1) of the features with that transform; else whoever runs it
    does, and gives the logarithms."""
    output_log_transform: bool = False
    """Whether probabilities are given as their logarithms, under names with ``log_probability``."""
    output_embeddings: bool = False
    """Whether the vectors of the event, of particles and of products are outputs too; only SPANet's
    own network has them."""


class SpanetLayout(ExportLayout):
    """Inputs ``<input>_data`` and ``<input>_mask``; outputs ``<particle>_assignment_probability``.

    Data are (event, slot, feature), of a global (event, 1, feature), of an input with features of
    pairs (event, slot, slot, feature): at [r, c] those of object c, then those of the pair. Masks
    have the same axes without the last. ``<particle>_assignment_probability`` (event, slot, …) has
    one axis per product over the slots of all inputs of objects. The probability that the particle
    is there, ``<particle>_detection_probability``, is (event,). Regressions and classifications
    have SPANet's keys; those of the head ``assignment`` are of the objects that its own selection
    takes. An event with too few objects for a particle has NaN for it, as in SPANet.
    """

    name = "spanet"
    Config: ClassVar[type[ComponentConfig]] = SpanetLayoutConfig
    config: SpanetLayoutConfig

    def bind(self, model: Model) -> None:
        """Look for the one head that assigns, and for the targets of the others.

        Raises:
            ExportError: If there is none or several, processes are several, or embeddings are
                asked of a network that has none.
        """
        found = {
            name: head
            for name, head in model.heads.items()
            if isinstance(head, AssignmentHead | SpanetAssignmentHead)
        }
        if len(found) != 1:
            raise ExportError(
                f"the layout spanet needs one head that assigns, this model has {len(found)} "
                f"(heads: {', '.join(model.heads)}); take the layout hepset"
            )
        if len(self.event.processes) > 1:
            raise ExportError(
                "the layout spanet has no place for several processes, the event has "
                f"{', '.join(self.event.process_names)}; take the layout hepset"
            )
        ((self.head, head),) = found.items()
        if self.config.output_embeddings and not isinstance(head, SpanetAssignmentHead):
            raise ExportError(
                "output_embeddings: only SPANet's own network (model.backbone.name: spanet) has a "
                "vector of every particle and product; leave the option out"
            )
        if isinstance(head, AssignmentHead) and head.learns_jointly:
            _LOG.warning(
                "layout spanet: the head %r has learnt the scores of all particles jointly, which "
                "need the exact selection of the layout hepset. A program that decides greedily "
                "from the probabilities of each particle alone, as with SPANet's graphs, is right "
                "less often with them; for this layout train with likelihood: separate",
                self.head,
            )
        self.particles = [each.particle for each in self.event.assignments()]

    def axes(self) -> dict[str, dict[int, str]]:
        """Streams in order, then globals; number of events and of slots are free."""
        found: dict[str, dict[int, str]] = {}
        for name in self.event.streams:
            slots = {1: f"num_{name}"}
            if self._has_pairs(name):
                slots[2] = f"num_{name}"
            found[f"{name}_data"] = found[f"{name}_mask"] = {0: "batch_size", **slots}
        for name in self.event.globals:
            found[f"{name}_data"] = found[f"{name}_mask"] = {0: "batch_size"}
        return found

    def to_model(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Turn SPANet's inputs into hepset's, logarithms into values."""
        found: dict[str, Tensor] = {}
        for name in self.event.streams:
            data, mask = inputs[f"{name}_data"], inputs[f"{name}_mask"]
            if self._has_pairs(name):
                width = len(self.contract[name].columns)
                slot = torch.arange(data.shape[1], device=data.device)
                same = slot[:, None] == slot
                found[f"{name}.pairs"] = self._physical(f"{name}.pairs", data[..., width:])
                data = torch.where(same[..., None], data[..., :width], 0.0).sum(1)
                mask = (mask & same).any(1)
            found[name] = self._physical(name, data)
            found[f"{name}.mask"] = mask
        for name in self.event.globals:
            found[name] = self._physical(name, inputs[f"{name}_data"][:, 0])
            if f"{name}.mask" in self.contract:
                found[f"{name}.mask"] = inputs[f"{name}_mask"][:, 0]
        return found

    def from_model(self, predictions: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the predictions as they are; `run` makes the outputs."""
        return dict(predictions)

    def run(self, model: Model, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute distributions, detections and targets.

        There is no selection, except where the head ``assignment`` has targets of its own.
        """
        tensors = model.transform(self.to_model(inputs))
        encoded = model.backbone(tensors)
        handle = EncoderHandle(model.transform, model.backbone, tensors)
        head = model.heads[self.head]
        assert isinstance(head, Head)
        raw: dict[str, Tensor]
        if isinstance(head, AssignmentHead):
            raw = head.score(encoded)
            tables, logits = self._own(head, raw)
        else:
            raw = head(encoded, handle)
            tables = {p: raw[f"{p}/log_probability"] for p in self.particles}
            logits = {p: raw[f"{p}/detection_logit"] for p in self.particles}
        log = "log_" if self.config.output_log_transform else ""
        found = {}
        for particle in self.particles:
            table = as_spanet(tables[particle])
            found[f"{particle}_assignment_{log}probability"] = table if log else table.exp()
        for particle in self.particles:
            if particle in logits:
                name = f"{particle}_detection_{log}probability"
                logit = logits[particle]
                found[name] = functional.logsigmoid(logit) if log else torch.sigmoid(logit)
        decided = {
            name: model.head(name).decode(model.head(name)(encoded, handle))
            for name in model.heads
            if name != self.head
        }
        if isinstance(head, AssignmentHead) and head.quantities is not None:
            decided[self.head] = head.decode(raw)
        found |= self._targets(model, decided)
        if self.config.output_embeddings and isinstance(encoded, SpanetEncoded):
            for key, vector in encoded.outputs.vectors.items():
                found[f"{key}/embedding_vector"] = vector
        return found

    def feed(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Turn arrays by contract name into SPANet's."""
        found: dict[str, Array] = {}
        for name in self.event.streams:
            data, mask = self._given(name, arrays[name]), arrays[f"{name}.mask"]
            if self._has_pairs(name):
                slots = mask.shape[1]
                columns = np.repeat(data[:, None], slots, 1)
                pairs = self._given(f"{name}.pairs", arrays[f"{name}.pairs"])
                data = np.concatenate([columns, pairs], -1)
                mask = mask[:, :, None] & mask[:, None, :]
            found[f"{name}_data"], found[f"{name}_mask"] = data, mask
        for name in self.event.globals:
            found[f"{name}_data"] = self._given(name, arrays[name])[:, None]
            mask = arrays.get(f"{name}.mask", np.ones(len(arrays[name]), bool))
            found[f"{name}_mask"] = mask[:, None]
        return found

    def _own(
        self, head: AssignmentHead, raw: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Distributions, and logits of detection where they are learnt, of the own network."""
        tables, logits = {}, {}
        for particle in head.topology.processes[0].particles:
            tables[particle.field] = dense_log_probability(particle, raw, head.space)
            if f"detection.{particle.kind}" in raw:
                logits[particle.field] = raw[f"detection.{particle.kind}"][:, particle.query]
        return tables, logits

    def _targets(
        self, model: Model, decided: Mapping[str, Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Regressions, then classifications, in the order of the event's targets."""
        regressions, classifications = {}, {}
        for name, target in self.event.targets.items():
            key = spanet_key(name, self.particles)
            if key is None or target.stream is not None:
                continue
            for head, fields in decided.items():
                if target.kind == "regression" and name in fields:
                    regressions[key] = fields[name]
                elif target.kind == "classification":
                    own = getattr(model.heads[head].config, "target", None) == name
                    value = fields.get("probabilities" if own else f"{name}/probabilities")
                    if value is None:
                        continue
                    log = self.config.output_log_transform
                    classifications[key] = value.clamp(min=_TINY).log() if log else value
        return regressions | classifications

    def _has_pairs(self, name: str) -> bool:
        return f"{name}.pairs" in self.contract

    def _logarithmic(self, name: str) -> list[bool]:
        """Which columns of a tensor are given as logarithms."""
        spec = self.contract[name]
        return [
            not self.config.input_log_transform
            and transform_parts(spec.features[column].transform).shape == "log1p"
            for column in spec.columns
        ]

    def _physical(self, name: str, data: Tensor) -> Tensor:
        columns = self._logarithmic(name)
        if not any(columns):
            return data
        return torch.where(torch.tensor(columns), data.exp() - 1, data)

    def _given(self, name: str, data: Array) -> Array:
        columns = self._logarithmic(name)
        safe = np.where(columns, np.maximum(data, -0.999), 0.0)
        given: Array = np.where(columns, np.log1p(safe), data).astype(np.float32)
        return given
