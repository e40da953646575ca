"""After the training: heads look at held-out events and adjust what they promise."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from hepset.dataset import Dataset
from hepset.interfaces.head import EncoderHandle, Head
from hepset.model import Model
from hepset.model.load import load_checkpoint
from hepset.model.save import write_checkpoint

__all__ = ["calibrate_checkpoint"]

_LOG = logging.getLogger(__name__)

Held = tuple[Mapping[str, Tensor], Mapping[str, Tensor]]


def calibrate_checkpoint(path: Path, dataset: Dataset, *, batch_size: int = 1024) -> None:
    """Let the heads of a stored model see the validation split, and store what that changes.

    Args:
        path: The checkpoint; it is replaced in one step.
        dataset: Its split ``val``; nothing is done where it is empty or absent.
        batch_size: Events that are computed at a time.
    """
    if "val" not in dataset.splits or not len(dataset.split("val")):
        return
    model = load_checkpoint(path)
    heads = [name for name in model.heads if _is_calibrated(model.head(name))]
    if not heads:
        return
    for name in heads:
        with torch.no_grad():
            model.head(name).calibrate(_held_out(model, name, dataset, batch_size))
    content = torch.load(path, map_location="cpu", weights_only=True)
    weights = content["state_dict"]
    prefix = "model." if any(name.startswith("model.") for name in weights) else ""
    for name, value in model.state_dict().items():
        weights[prefix + name] = value
    write_checkpoint(content, path)
    _LOG.info("calibrating with %d events of val: %s", len(dataset.split("val")), ", ".join(heads))


def _is_calibrated(head: Head) -> bool:
    return type(head).calibrate is not Head.calibrate


def _held_out(model: Model, name: str, dataset: Dataset, batch_size: int) -> Iterator[Held]:
    """Raw outputs of a head and the batch, over the validation split."""
    head = model.head(name)
    wanted = [*model.contract.inputs().tensors, *head.contract(model.event).tensors]
    loader = dataset.loader(
        "val",
        batch_size=batch_size,
        shuffle=False,
        drop_last=False,
        columns=[column for column in dict.fromkeys(wanted) if column in dataset.layouts],
    )
    try:
        for batch in loader:
            inputs = model.transform(batch)
            handle = EncoderHandle(model.transform, model.backbone, inputs)
            yield head(model.backbone(inputs), handle), batch
    finally:
        loader.close()
