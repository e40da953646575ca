"""Whether a data set holds what the heads of a model are to learn, asked before any work."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from hepset.dataset import Dataset
from hepset.errors import TrainingError
from hepset.interfaces.head import create_head
from hepset.schema.config import ModelConfig

__all__ = ["check_dataset"]

_LOG = logging.getLogger(__name__)

_EVENTS = 8192
"""Events that are looked at together."""
_NAMED = 3
"""Files that a message names."""


def check_dataset(model_config: ModelConfig, dataset: Dataset) -> None:
    """Make sure that a data set holds events and what the heads learn.

    A target that no training event has, and a class that none is of, are warned about.

    Raises:
        TrainingError: If there is nothing to learn, or nothing at all for a head that assigns
            objects, whose choices would look like those of one that has learnt.
    """
    if "train" not in dataset.splits or not len(dataset.split("train")):
        known = ", ".join(f"{name} ({len(part)})" for name, part in dataset.splits.items())
        raise TrainingError(
            f"{dataset.path}: the training split has no events; there are {known or 'no splits'}. "
            "Give prepare.split.train a larger fraction or loosen the selection"
        )
    if not model_config.heads:
        raise TrainingError("model.heads: no head is named; there is nothing to train")
    required = {
        name: [
            spec
            for spec in create_head(name, options).contract(dataset.event).tensors.values()
            if spec.required
        ]
        for name, options in model_config.heads.items()
    }
    wanted = {name: [spec.name for spec in specs] for name, specs in required.items()}
    lacking = [
        f"{tensor} (head {name})"
        for name, tensors in wanted.items()
        for tensor in tensors
        if tensor not in dataset.layouts
    ]
    if lacking:
        raise TrainingError(
            f"{dataset.path}: lacks {', '.join(lacking)}; the files that it was made of do not "
            "have these targets"
        )
    tensors = list(dict.fromkeys(tensor for part in wanted.values() for tensor in part))
    empty = {tensor for tensor in tensors if _entries(dataset, tensor) == 0}
    for name, specs in required.items():
        indices = [spec.name for spec in specs if spec.kind == "index"]
        if indices and set(indices) <= empty and model_config.heads[name].get("loss_weight", 1):
            files = [record.key for record in dataset.manifest.sources]
            named = ", ".join(files[:_NAMED]) + (", …" if len(files) > _NAMED else "")
            raise TrainingError(
                f"{dataset.path}: model.heads.{name} assigns objects, but in no training event is "
                f"any of {', '.join(indices)} known (read from {named}). Convert files that have "
                "these indices, or leave the head out"
            )
    learning = [
        name
        for name, options in model_config.heads.items()
        if options.get("loss_weight", 1) and not set(wanted[name]) <= empty
    ]
    if not learning:
        raise TrainingError(
            "model.heads: there is nothing to learn: every head has loss_weight 0 or targets that "
            "no training event has" + (f" ({', '.join(sorted(empty))})" if empty else "")
        )
    for tensor in tensors:
        if tensor in empty:
            _LOG.warning("%s: no training event has this target; it is not learnt", tensor)
        else:
            for name in _absent_classes(dataset, tensor):
                _LOG.warning("%s: no training event is of the class %r", tensor, name)


def _entries(dataset: Dataset, tensor: str) -> int | None:
    """Number of training events, or objects, that have a target; None where not known."""
    statistics = dataset.statistics
    if tensor in statistics.labels:
        return sum(statistics.labels[tensor].events)
    if tensor in statistics.tensors:
        return sum(column.count for column in statistics.tensors[tensor].columns.values())
    if dataset.contract[tensor].kind == "index":
        parts = dataset.split("train").batches(_EVENTS, [tensor])
        return None if any((part[tensor] >= 0).any() for part in parts) else 0
    return None


def _absent_classes(dataset: Dataset, tensor: str) -> Iterator[str]:
    counts = dataset.statistics.labels.get(tensor)
    if counts is None:
        return
    for index, name in enumerate(dataset.manifest.class_names.get(tensor, ())):
        if index >= len(counts.events) or not counts.events[index]:
            yield name
