"""`TrainingModule`: what Lightning's loop calls for a step, an epoch, a checkpoint."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from hepset.dataset import Dataset
from hepset.dataset.loader import Loader, ids_of
from hepset.dataset.order import RowSampler
from hepset.errors import ConfigurationError, TrainingError, did_you_mean
from hepset.model import Model
from hepset.schema.config import TrainConfig
from hepset.training.augment import Augmentation
from hepset.training.history import History
from hepset.training.losses import LossSums, WeightedLoss, summarise_weights
from hepset.training.schedule import create_optimizer, learning_rate_factor

__all__ = ["TrainingModule"]

_LOG = logging.getLogger(__name__)

Batch = dict[str, Tensor]

_COPIES_IN_FLIGHT = 1
"""Copies to the device that may be under way when a further batch is drawn: fewer than the
loader keeps."""


class TrainingModule(LightningModule):
    """Trains a model on a data set.

    A step is a function of the weights, the optimizer's state and (seed, step) alone: torch's
    generator is set anew for every step, so that a training that continues from a checkpoint gives
    the same numbers as one that was never interrupted.

    Args:
        model: What is trained.
        dataset: What it is trained on.
        config: The training options.
        seed: Seed of the order of the events, of dropout and of augmentation.
        directory: Where the history is written; null writes none.
        key: What a checkpoint must agree on to be continued.
        sampler: How often each training event is shown; null = once per epoch.

    Attributes:
        history: What every epoch gave.
        score: Loss that decides which checkpoint is the best, of the last epoch.

    Raises:
        TrainingError: If the weights of the training split are refused.
        ConfigurationError: If an option does not fit.
    """

    def __init__(
        self,
        model: Model,
        dataset: Dataset,
        config: TrainConfig,
        *,
        seed: int,
        directory: Path | None = None,
        key: str = "",
        sampler: RowSampler | None = None,
    ) -> None:
        super().__init__()
        self.sampler = sampler
        self.model = model
        self.dataset = dataset
        self.config = config
        self.seed = seed
        self.directory = directory
        self.key = key
        for name in model.config.heads:
            if model.head(name).config.freeze:
                model.head(name).requires_grad_(False)
        start = config.start_from
        self.backbone_is_frozen = start is not None and start.freeze
        if self.backbone_is_frozen:
            model.backbone.requires_grad_(False)
        split = dataset.split("train")
        self.validates = "val" in dataset.splits and len(dataset.split("val")) > 0
        columns = self._columns()
        self.augmentation: Augmentation | None = None
        if config.augment.rotate_phi or config.augment.flip_eta:
            augmentation = Augmentation(
                model.event,
                model.contract,
                config.augment,
                [*columns, *model.contract.inputs().tensors],
            )
            lacking = [n for n in sorted(augmentation.needed) if n not in dataset.layouts]
            if lacking:
                raise TrainingError(
                    f"train.augment.rotate_phi: {dataset.path} lacks {', '.join(lacking)}, "
                    "without which the vector cannot be rotated"
                )
            columns += sorted(augmentation.needed)
            self.augmentation = augmentation
        self.columns = columns
        weights = [name for name in dataset.layouts if name.split("/")[0] == "weight"]
        self.columns += [name for name in weights if name not in columns]
        summaries = summarise_weights(split, weights, config.negative_weights)
        self.combine = WeightedLoss(model, summaries, config.negative_weights)
        self._check_stages()
        self.history = History()
        self.score = float("nan")
        self._train_sums = LossSums()
        self._val_sums = LossSums()
        self._val_means: dict[str, float] = {}
        self._train_loader: Loader | None = None
        self._val_loader: Loader | None = None
        self._copies: deque[Any] = deque()
        self._loader_state: dict[str, int] | None = None
        self._clock = _Clock()

    @property
    def monitored(self) -> str:
        """The loss that decides: of the validation split, where there is one."""
        return "val/loss" if self.validates else "train/loss"

    def _columns(self) -> list[str]:
        """Tensors that the model and its heads look at, as far as they are stored."""
        layouts = self.dataset.layouts
        wanted = list(self.model.contract.inputs().tensors)
        for name in self.model.config.heads:
            wanted += self.model.head(name).contract(self.model.event).tensors
        return [name for name in dict.fromkeys(wanted) if name in layouts]

    def train(self, mode: bool = True) -> Self:
        """Set training mode; a frozen backbone stays in that of evaluation."""
        super().train(mode)
        if mode and self.backbone_is_frozen:
            self.model.backbone.eval()
        return self

    # Weights are stored under the model's own names, so that a checkpoint opens without Lightning.

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]  # noqa: ANN401
        """Return the model's weights."""
        found: dict[str, Any] = self.model.state_dict(*args, **kwargs)
        return found

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> None:
        """Load the model's weights."""
        self.model.load_state_dict(state_dict, strict=strict, assign=assign)

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]  # plain data
        """Build the optimizer and the schedule of the learning rate."""
        half = self.trainer.precision == "16-mixed"
        # Lightning clips no gradients of a fused optimizer that scales them itself.
        optimizer = create_optimizer(
            self.model, self.config, fused=not half, devices=self.trainer.world_size
        )
        steps = len(self.train_loader)
        warmup, total = self.config.warmup_epochs * steps, self.config.total_epochs * steps
        schedule, cycles = self.config.schedule, self.config.cycles
        epochs = self.config.total_epochs

        def factor(step: int) -> float:
            return learning_rate_factor(
                step,
                warmup=warmup,
                total=total,
                schedule=schedule,
                cycles=cycles,
                epochs=epochs,
            )

        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, factor), "interval": "step"},
        }

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients.

        Lightning refuses fused optimizers in every mixed precision, but in bf16 nothing is scaled
        that they would have to undo.
        """
        if self.trainer.precision == "bf16-mixed":
            clip = self.trainer.precision_plugin.clip_grad_by_norm
            if gradient_clip_val:
                clip(optimizer, gradient_clip_val)
            return
        self.clip_gradients(
            optimizer,
            gradient_clip_val=gradient_clip_val,
            gradient_clip_algorithm=gradient_clip_algorithm,
        )

    @property
    def train_loader(self) -> Loader:
        """The loader of this process's part of the training split."""
        if self._train_loader is None:
            self._train_loader = self._loader("train", shuffle=True, drop_last=True)
        return self._train_loader

    def train_dataloader(self) -> Loader:
        """Return the loader of the training split, where the checkpoint has left it."""
        if self._loader_state is not None:
            self.train_loader.load_state_dict(self._loader_state)
            self._loader_state = None
        return self.train_loader

    def val_dataloader(self) -> Loader | list[Loader]:
        """Return the loader of the validation split; none where it is empty."""
        if not self.validates:
            return []
        if self._val_loader is None:
            self._val_loader = self._loader("val", shuffle=False, drop_last=False)
        return self._val_loader

    def _loader(self, split: str, *, shuffle: bool, drop_last: bool) -> Loader:
        return self.dataset.loader(
            split,
            batch_size=self.config.batch_size,
            seed=self.seed,
            shuffle=shuffle,
            columns=self.columns,
            ids=True,
            threads=self.config.loader_threads,
            rank=self.trainer.global_rank,
            world=self.trainer.world_size,
            drop_last=drop_last,
            cache=self.config.cache,
            copy=False,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
            sampling=self.sampler if split == "train" else None,
        )

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Copy a batch beside the computation, and wait before its memory is used again."""
        del dataloader_idx
        if device.type != "cuda":
            return {name: tensor.to(device) for name, tensor in batch.items()}
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
        copied = torch.cuda.Event()
        copied.record(torch.cuda.current_stream(device))
        self._copies.append(copied)
        if len(self._copies) > _COPIES_IN_FLIGHT:
            self._copies.popleft().synchronize()
        return moved

    def on_fit_start(self) -> None:
        """Compile the model where that is asked for."""
        if self.config.compile:
            self.model.compile()

    @property
    def starts_stage(self) -> bool:
        """Whether this epoch is the first of its stage, so that its losses are a new sum."""
        stage = self.config.stage_of(self.current_epoch)
        return self.current_epoch == 0 or stage != self.config.stage_of(self.current_epoch - 1)

    @property
    def in_last_stage(self) -> bool:
        """Whether no other stage follows."""
        return self.config.stage_of(self.current_epoch) >= len(self.config.stages) - 1

    def _check_stages(self) -> None:
        """Refuse a head that names a stage which does not exist, and a stage without a head."""
        known = [stage.name for stage in self.config.stages]
        stages = {name: self.model.head(name).config.stages for name in self.model.config.heads}
        for head, named in stages.items():
            for name in named:
                if name not in known:
                    raise ConfigurationError(
                        f"model.heads.{head}.stages: there is no stage {name!r} in train.stages "
                        f"({', '.join(known) or 'which is empty'}){did_you_mean(name, known)}"
                    )
        for name in known:
            if all(named and name not in named for named in stages.values()):
                raise ConfigurationError(f"train.stages: no head learns in {name!r}")

    def _start_stage(self) -> None:
        """Let the heads of this epoch's stage learn."""
        if not self.config.stages:
            return
        stage = self.config.stages[self.config.stage_of(self.current_epoch)].name
        self.combine.active = {
            name
            for name in self.model.config.heads
            if stage in (self.model.head(name).config.stages or (stage,))
        }
        if self.starts_stage:
            _LOG.info("stage %s: %s", stage, ", ".join(sorted(self.combine.active)))

    def on_train_start(self) -> None:
        """Start the clock: also where an epoch continues."""
        self._start_stage()
        self._clock = _Clock()
        self._clock.start(self.train_loader.wait_seconds)

    def on_train_epoch_start(self) -> None:
        """Start the clock and the sums of the epoch."""
        self._clock = _Clock()
        self._clock.start(self.train_loader.wait_seconds)
        self._train_sums = LossSums()
        self._start_stage()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        self._set_generator(0, self.global_step)
        if self.augmentation is not None:
            batch = self.augmentation(batch)
        loss = self._loss(batch, batch_idx, self._train_sums, "training")
        self._clock.events += len(batch["ids"])
        if self.trainer.progress_bar_callback is not None:
            self.log("loss", loss.detach(), prog_bar=True, logger=False, on_epoch=False)
        return loss

    def on_validation_start(self) -> None:
        """Stop the clock of the training."""
        self._clock.stop(self.train_loader.wait_seconds)

    def on_validation_epoch_start(self) -> None:
        """Start the sums of the validation."""
        self._val_sums = LossSums()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add up the losses of a batch."""
        self._set_generator(1, batch_idx)
        self._loss(batch, batch_idx, self._val_sums, "validation")

    def on_validation_epoch_end(self) -> None:
        """Compute the validation loss over all events of all processes."""
        self._val_means = {f"val/{k}": v for k, v in self._means(self._val_sums).items()}
        self.log_dict(self._val_means, sync_dist=True)

    def on_train_epoch_end(self) -> None:
        """Compute what the epoch gave; the callbacks that look at it come after."""
        self._clock.stop(self.train_loader.wait_seconds)
        means = {f"train/{k}": v for k, v in self._means(self._train_sums).items()}
        rate = self.optimizers(use_pl_optimizer=False).param_groups[0]["lr"]  # type: ignore[union-attr]
        record = {
            "epoch": float(self.current_epoch),
            **means,
            **(self._val_means if self.validates else {}),
            "learning_rate": float(rate),
            "seconds": self._clock.seconds,
            "events_per_second": self._clock.rate * self.trainer.world_size,
            "loader_wait": self._clock.waiting,
        }
        self.score = record[self.monitored]
        self.history.add(record)
        told = {k: v for k, v in record.items() if k != "epoch" and not k.startswith("val/")}
        self.log_dict(told, sync_dist=True)
        if self.trainer.is_global_zero:
            total = self.config.total_epochs
            _LOG.info("epoch %d/%d: %s", self.current_epoch + 1, total, _said(record))
            if self.directory is not None:
                self.history.write(self.directory)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what describes the model, and where the training stands: plain data and tensors."""
        names = list(self._train_sums.names)
        sums = self._reduced(self._train_sums, names)
        checkpoint["model"] = self.model.record()
        checkpoint["training"] = {
            "key": self.key,
            "loader": self.train_loader.state_dict(),
            "history": self.history.records,
            "sums": dict(zip(names, sums.tolist(), strict=True)),
            "val": self._val_means,
            "score": self.score,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up where the training stood."""
        stored = checkpoint["training"]
        self._loader_state = stored["loader"]
        self.history = History(stored["history"])
        # The sums are those of all processes: one of them takes them over.
        self._train_sums = LossSums(stored["sums"] if self.trainer.is_global_zero else None)
        self._val_means = dict(stored["val"])
        self.score = stored["score"]

    def close(self) -> None:
        """End the threads of the loaders."""
        for loader in (self._train_loader, self._val_loader):
            if loader is not None:
                loader.close()

    def _loss(self, batch: Batch, batch_idx: int, sums: LossSums, part: str) -> Tensor:
        outputs = self.model(batch)
        terms = self.model.losses(self.combine.prepared(batch), outputs)
        together = part == "training" and self.trainer.world_size > 1
        loss, found = self.combine(terms, batch, self._process_mean if together else None)
        if not bool(torch.isfinite(loss)):
            raise TrainingError(self._what_is_not_finite(terms, batch, batch_idx, part))
        for name, (total, count) in found.items():
            sums.add(name, total, count)
        return loss

    def _what_is_not_finite(
        self, terms: Mapping[str, Any], batch: Batch, batch_idx: int, part: str
    ) -> str:
        lines = []
        for name, term in terms.items():
            bad = term.valid & ~torch.isfinite(term.value)
            if bool(bad.any()):
                row = int(bad.nonzero()[0])
                identity = ids_of(batch["ids"][row : row + 1])[0]
                keys = self.dataset.source_keys
                source = int(identity["source"])
                where = keys[source] if source < len(keys) else f"source {source}"
                head, _, short = name.partition("/")
                lines.append(
                    f"  head {head!r}, term {short!r}: {int(bad.sum())} of {len(bad)} events, "
                    f"first {where}, entry {int(identity['entry'])}: {term.value[row].item()}"
                )
        if not lines:
            lines.append("  every term is finite, but their weighted sum is not")
        step = self.global_step
        return (
            f"the {part} loss is not finite in epoch {self.current_epoch + 1}, batch "
            f"{batch_idx + 1} (step {step}):\n" + "\n".join(lines) + "\n"
            "Look at these events with `hepset inspect`; where they are fine, lower "
            "train.learning_rate, lengthen train.warmup_epochs, or set train.precision: 32"
        )

    def _set_generator(self, part: int, step: int) -> None:
        key = (self.seed, part, step, self.trainer.global_rank)
        state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
        torch.manual_seed(int(state >> np.uint64(1)))

    def _reduced(self, sums: LossSums, names: list[str]) -> Tensor:
        stacked = sums.stacked(names, self.device)
        if self.trainer.world_size > 1:
            stacked = cast(Tensor, self.trainer.strategy.reduce(stacked, reduce_op="sum"))
        return stacked

    def _process_mean(self, values: Tensor) -> Tensor:
        return cast(Tensor, self.trainer.strategy.reduce(values, reduce_op="mean"))

    def _means(self, sums: LossSums) -> dict[str, float]:
        names = sums.names
        pairs = self._reduced(sums, names).tolist()
        return self.combine.mean({n: (p[0], p[1]) for n, p in zip(names, pairs, strict=True)})


class _Clock:
    """Time of training without validation, and how much of it was waiting for batches."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.events = 0
        self._waited = 0.0
        self._began: float | None = None
        self._waited_before = 0.0

    def start(self, waited: float) -> None:
        self._began, self._waited_before = time.perf_counter(), waited

    def stop(self, waited: float) -> None:
        if self._began is not None:
            self.seconds += time.perf_counter() - self._began
            self._waited += waited - self._waited_before
            self._began = None

    @property
    def rate(self) -> float:
        return self.events / self.seconds if self.seconds else 0.0

    @property
    def waiting(self) -> float:
        return self._waited / self.seconds if self.seconds else 0.0


def _said(record: Mapping[str, float]) -> str:
    losses = [f"{k} {v:.4g}" for k, v in record.items() if k in {"train/loss", "val/loss"}]
    terms = [f"{k} {v:.4g}" for k, v in record.items() if k.startswith("val/") and k != "val/loss"]
    return (
        f"{', '.join(losses)}{' (' + ', '.join(terms) + ')' if len(terms) > 1 else ''}; "
        f"{record['events_per_second']:.0f} events/s, loader wait {record['loader_wait']:.1%}"
    )
