"""Batches of the training and of the validation, turned and brought to the device."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor

from hepset.dataset import Dataset
from hepset.dataset.loader import Loader
from hepset.dataset.order import RowSampler
from hepset.errors import TrainingError
from hepset.model import Model
from hepset.schema.config import TrainConfig
from hepset.training.augment import Augmentation

__all__ = ["Batch", "Batches"]

Batch = dict[str, Tensor]

_COPIES_IN_FLIGHT = 1
"""Copies to the device that may be under way when a further batch is drawn: fewer than the
loader keeps."""


class Batches:
    """The loaders of a training, with the tensors that the model and its heads look at.

    Args:
        model: What is trained.
        dataset: What it is trained on.
        config: The training options.
        seed: Seed of the order of the events and of augmentation.
        sampler: How often each training event is shown; null = once per epoch.

    Attributes:
        weights: Weight tensors that the batches hold.
        validates: Whether there are validation events.

    Raises:
        TrainingError: If the augmentation needs a tensor that is not stored.
        ConfigurationError: If an option does not fit.
    """

    def __init__(
        self,
        model: Model,
        dataset: Dataset,
        config: TrainConfig,
        *,
        seed: int,
        sampler: RowSampler | None = None,
    ) -> None:
        self.dataset = dataset
        self.config = config
        self.seed = seed
        self.sampler = sampler
        self.validates = "val" in dataset.splits and len(dataset.split("val")) > 0
        columns = _columns(model, dataset)
        self.augmentation: Augmentation | None = None
        if config.augment.rotate_phi or config.augment.flip_eta:
            self.augmentation = Augmentation(
                model.event,
                model.contract,
                config.augment,
                [*columns, *model.contract.inputs().tensors],
            )
            needed = sorted(self.augmentation.needed)
            lacking = [name for name in needed if name not in dataset.layouts]
            if lacking:
                raise TrainingError(
                    f"train.augment.rotate_phi: {dataset.path} lacks {', '.join(lacking)}, "
                    "without which the vector cannot be rotated"
                )
            columns += needed
        self.weights = [name for name in dataset.layouts if name.split("/")[0] == "weight"]
        self.columns = columns + [name for name in self.weights if name not in columns]
        self._train: Loader | None = None
        self._val: Loader | None = None
        self._copies: deque[Any] = deque()
        self._state: dict[str, int] | None = None
        self._place = (0, 1, False)

    def place(self, rank: int, world: int, *, pin_memory: bool) -> None:
        """Say which process of how many this is, before the loaders are made."""
        self._place = (rank, world, pin_memory)

    @property
    def train(self) -> Loader:
        """The loader of this process's part of the training split."""
        if self._train is None:
            self._train = self._loader("train", shuffle=True, drop_last=True)
        return self._train

    @property
    def val(self) -> Loader:
        """The loader of this process's part of the validation split."""
        if self._val is None:
            self._val = self._loader("val", shuffle=False, drop_last=False)
        return self._val

    def continued(self) -> Loader:
        """Return the training loader where the checkpoint has left it."""
        if self._state is not None:
            self.train.load_state_dict(self._state)
            self._state = None
        return self.train

    def continue_from(self, state: dict[str, int]) -> None:
        """Keep where the training loader stood, until it is made."""
        self._state = state

    def augmented(self, batch: Batch) -> Batch:
        """Turn and mirror the events of a training batch, where that is asked for."""
        return batch if self.augmentation is None else self.augmentation(batch)

    def to_device(self, batch: Batch, device: torch.device) -> Batch:
        """Copy a batch beside the computation, and wait before its memory is used again."""
        if device.type != "cuda":
            return {name: tensor.to(device) for name, tensor in batch.items()}
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(device))
        self._copies.append(copied)
        if len(self._copies) > _COPIES_IN_FLIGHT:
            self._copies.popleft().synchronize()
        return moved

    def close(self) -> None:
        """End the threads of the loaders."""
        for loader in (self._train, self._val):
            if loader is not None:
                loader.close()

    def _loader(self, split: str, *, shuffle: bool, drop_last: bool) -> Loader:
        rank, world, pin_memory = self._place
        return self.dataset.loader(
            split,
            batch_size=self.config.batch_size,
            seed=self.seed,
            shuffle=shuffle,
            columns=self.columns,
            ids=True,
            threads=self.config.loader_threads,
            rank=rank,
            world=world,
            drop_last=drop_last,
            cache=self.config.cache,
            copy=False,
            pin_memory=pin_memory,
            sampling=self.sampler if split == "train" else None,
            by_length=self.config.batch_by_length,
            max_objects=self.config.max_objects,
        )


def _columns(model: Model, dataset: Dataset) -> list[str]:
    """Tensors that the model and its heads look at, as far as they are stored."""
    wanted = list(model.contract.inputs().tensors)
    for name in model.config.heads:
        wanted += model.head(name).contract(model.event).tensors
    return [name for name in dict.fromkeys(wanted) if name in dataset.layouts]
