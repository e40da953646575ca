"""`TrainingModule`: what Lightning's loop calls for a step, an epoch, a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from hepset.dataset import Dataset
from hepset.dataset.loader import Loader
from hepset.dataset.order import RowSampler
from hepset.interfaces.head import LossTerm
from hepset.model import Model
from hepset.schema.config import TrainConfig
from hepset.training.batches import Batch, Batches
from hepset.training.combinations import create_combination
from hepset.training.finite import FiniteCheck, Moment
from hepset.training.history import Clock, History, summary
from hepset.training.losses import LossSums, WeightedLoss, summarise_weights
from hepset.training.schedule import create_optimizer, learning_rate_factors
from hepset.training.stages import StagePlan

__all__ = ["TrainingModule"]

_LOG = logging.getLogger(__name__)


class TrainingModule(LightningModule):
    """Trains a model on a data set.

    A step is a function of the weights, the optimizer's state and (seed, step) alone: torch's
    generator is seeded for every step, so that a training that continues from a checkpoint gives
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
        batches: Where the events come from.
        stages: What holds in each epoch.
        combination: How the losses of the heads become one.
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
        self.batches = Batches(model, dataset, config, seed=seed, sampler=sampler)
        self.stages = StagePlan(model, config)
        self.combination = create_combination(config.loss_combination, model.tasks)
        policy = config.negative_weights
        summaries = summarise_weights(dataset.split("train"), self.batches.weights, policy)
        self.combine = WeightedLoss(model, summaries, policy, self.combination)
        self.history = History()
        self.score = float("nan")
        self._finite = FiniteCheck(dataset.source_keys, self._advice)
        self._train_sums = LossSums()
        self._val_sums = LossSums()
        self._val_means: dict[str, float] = {}
        self._heads: set[str] = set(model.config.heads)
        self._clock = Clock()
        self._announced = ""
        self._shown: tuple[Batch, int] | None = None

    @property
    def monitored(self) -> str:
        """The loss that decides: of the validation split, where there is one."""
        return "val/loss" if self.batches.validates else "train/loss"

    def train(self, mode: bool = True) -> Self:
        """Set training mode; what is frozen as a whole stays in that of evaluation."""
        super().train(mode)
        if mode:
            if self.backbone_is_frozen:
                self.model.backbone.eval()
            for module in self.stages.quiet(self.current_epoch):
                module.eval()
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
            self.model,
            self.config,
            fused=not half,
            devices=self.trainer.world_size,
            others=list(self.combination.parameters()),
        )
        factors = learning_rate_factors(self.config, optimizer.param_groups, self._steps)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": LambdaLR(optimizer, factors), "interval": "step"},
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

    def setup(self, stage: str) -> None:
        """Learn which process of how many this is."""
        del stage
        trainer = self.trainer
        on_gpu = trainer.strategy.root_device.type == "cuda"
        self.batches.place(trainer.global_rank, trainer.world_size, pin_memory=on_gpu)

    def train_dataloader(self) -> Loader:
        """Return the loader of the training split, where the checkpoint has left it."""
        return self.batches.continued()

    def val_dataloader(self) -> Loader | list[Loader]:
        """Return the loader of the validation split; none where it is empty."""
        return self.batches.val if self.batches.validates else []

    def transfer_batch_to_device(
        self, batch: Batch, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Copy a batch beside the computation."""
        del dataloader_idx
        return self.batches.to_device(batch, device)

    def on_fit_start(self) -> None:
        """Compile the model where that is asked for."""
        if self.config.compile:
            for part in (self.model.backbone, *self.model.heads.values()):
                part.compile()

    @property
    def starts_stage(self) -> bool:
        """Whether this epoch is the first of its stage, so that its losses are a new sum."""
        return self.stages.starts(self.current_epoch)

    @property
    def in_last_stage(self) -> bool:
        """Whether no other stage follows."""
        return self.stages.is_last(self.current_epoch)

    def on_train_start(self) -> None:
        """Start the clock: also where an epoch continues."""
        self._start_stage()
        self._start_clock()

    def on_train_epoch_start(self) -> None:
        """Start the clock and the sums of the epoch."""
        self._start_clock()
        self._train_sums = LossSums()
        self._start_stage()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        step = self.global_step
        self._set_generator(0, step)
        batch = self.batches.augmented(batch)
        self._set_factors(batch_idx / self._steps)
        loss = self._loss(batch, batch_idx, self._train_sums, "training")
        self._clock.events += len(batch["ids"])
        self._shown = (batch, step) if self.combination.looks_again else None
        if self.trainer.progress_bar_callback is not None:
            self.log("loss", loss.detach(), prog_bar=True, logger=False, on_epoch=False)
        return loss

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Leave what is frozen, and heads that are off, out of the step."""
        del optimizer
        for parameter in (*self._off(), *self.stages.frozen(self.current_epoch).values()):
            parameter.grad = None

    def optimizer_step(  # type: ignore[override]  # what else Lightning hands on
        self,
        epoch: int,
        batch_idx: int,
        optimizer: Optimizer,
        optimizer_closure: Callable[[], Any] | None = None,
    ) -> None:
        """Take the step; then let the combination see what that did to the batch."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        if self._shown is None:
            return
        (batch, step), self._shown = self._shown, None
        self._set_generator(0, step)  # The same dropout.
        with torch.no_grad(), self.trainer.precision_plugin.train_step_context():
            terms = self._terms(batch)
            self.combine.after_step(terms, batch, self._mean_over_processes)

    def on_validation_start(self) -> None:
        """Stop the clock of the training."""
        self._clock.stop(self.batches.train.wait_seconds)

    def on_validation_epoch_start(self) -> None:
        """Start the sums of the validation."""
        self._val_sums = LossSums()

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add up the losses of a batch."""
        self._set_generator(1, batch_idx)
        self._loss(batch, batch_idx, self._val_sums, "validation")

    def on_validation_epoch_end(self) -> None:
        """Compute the validation loss over all events of all processes."""
        self._finite.settle()
        self._val_means = {f"val/{k}": v for k, v in self._means(self._val_sums).items()}
        self.log_dict(self._val_means, sync_dist=True)

    def on_train_epoch_end(self) -> None:
        """Compute what the epoch gave; the callbacks that look at it come after."""
        self._clock.stop(self.batches.train.wait_seconds)
        self._finite.settle()
        means = {f"train/{k}": v for k, v in self._means(self._train_sums).items()}
        rate = self.optimizers(use_pl_optimizer=False).param_groups[0]["lr"]  # type: ignore[union-attr]
        record = {
            "epoch": float(self.current_epoch),
            **means,
            **(self._val_means if self.batches.validates else {}),
            **{f"combination/{task}": v for task, v in self.combination.shares().items()},
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
            _LOG.info("epoch %d/%d: %s", self.current_epoch + 1, total, summary(record))
            if self.directory is not None:
                self.history.write(self.directory)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what describes the model, and where the training stands: plain data and tensors."""
        self._finite.settle()
        names = list(self._train_sums.names)
        sums = self._reduced(self._train_sums, names)
        checkpoint["model"] = self.model.record()
        checkpoint["training"] = {
            "key": self.key,
            "loader": self.batches.train.state_dict(),
            "history": self.history.records,
            "sums": dict(zip(names, sums.tolist(), strict=True)),
            "val": self._val_means,
            "score": self.score,
        }
        combination = self.combination.state_dict()
        if combination:
            checkpoint["training"]["combination"] = combination

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up where the training stood."""
        stored = checkpoint["training"]
        self.batches.continue_from(stored["loader"])
        self.history = History(stored["history"])
        # The sums are those of all processes: one of them takes them over.
        self._train_sums = LossSums(stored["sums"] if self.trainer.is_global_zero else None)
        self._val_means = dict(stored["val"])
        self.score = stored["score"]
        self.combination.load_state_dict(stored.get("combination", {}))

    def close(self) -> None:
        """End the threads of the loaders."""
        self.batches.close()

    @property
    def _steps(self) -> int:
        """Steps per epoch."""
        return len(self.batches.train)

    def _start_clock(self) -> None:
        self._clock = Clock()
        self._clock.start(self.batches.train.wait_seconds)

    def _start_stage(self) -> None:
        """Let the heads of this epoch's stage learn, and what it does not freeze."""
        epoch = self.current_epoch
        stage = self.stages.stage(epoch)
        if stage is None:
            return
        self._heads = self.stages.active(epoch)
        self.combine.final_factors = self.stages.final_factors(epoch)
        if self.trainer.world_size == 1:
            # Several processes have agreed on what has gradients; those are dropped at each step.
            frozen = self.stages.frozen(epoch)
            for name, parameter in self.stages.changing.items():
                parameter.requires_grad_(name not in frozen)
        self.train()
        if stage.name != self._announced:
            self._announced = stage.name
            frozen_parts = f"; frozen: {', '.join(stage.freeze)}" if stage.freeze else ""
            heads = ", ".join(name for name in self.model.config.heads if name in self._heads)
            _LOG.info("stage %s: %s%s", stage.name, heads, frozen_parts)

    def _off(self) -> list[torch.nn.Parameter]:
        """Parameters of heads that are not computed in this epoch."""
        off = [name for name in self.model.config.heads if name not in self._heads]
        return [p for name in off for p in self.model.head(name).parameters() if p.requires_grad]

    def _set_factors(self, share: float) -> None:
        self.combine.stage_factors = self.stages.factors(self.current_epoch, share)

    def _terms(self, batch: Batch) -> dict[str, LossTerm]:
        heads = [name for name in self.model.config.heads if name in self._heads]
        return self.model.losses_of(batch, targets=self.combine.prepared(batch), heads=heads)

    def _loss(self, batch: Batch, batch_idx: int, sums: LossSums, part: str) -> Tensor:
        terms = self._terms(batch)
        trains = part == "training"
        loss, found = self.combine(terms, batch, self._mean_over_processes if trains else None)
        moment = Moment(part, self.current_epoch, batch_idx, self.global_step)
        self._finite(loss, terms, batch["ids"], moment)
        for name, (total, count) in found.items():
            sums.add(name, total, count)
        if trains and self.trainer.world_size > 1:
            # Processes wait for the gradients of all parameters, those that do not learn included.
            for parameter in (*self._off(), *self.combination.parameters()):
                loss = loss + 0.0 * parameter.sum()
        return loss

    def _advice(self) -> str:
        said = self.combination.advice
        return f"\n{said}" if said else ""

    def _set_generator(self, part: int, step: int) -> None:
        key = (self.seed, part, step, self.trainer.global_rank)
        state = np.random.SeedSequence(key).generate_state(1, np.uint64)[0]
        torch.manual_seed(int(state >> np.uint64(1)))

    def _reduced(self, sums: LossSums, names: list[str]) -> Tensor:
        stacked = sums.stacked(names, self.device)
        if self.trainer.world_size > 1:
            stacked = cast(Tensor, self.trainer.strategy.reduce(stacked, reduce_op="sum"))
        return stacked

    @property
    def _mean_over_processes(self) -> Callable[[Tensor], Tensor] | None:
        if self.trainer.world_size == 1:
            return None

        def mean(values: Tensor) -> Tensor:
            return cast(Tensor, self.trainer.strategy.reduce(values, reduce_op="mean"))

        return mean

    def _means(self, sums: LossSums) -> dict[str, float]:
        names = sums.names
        pairs = self._reduced(sums, names).tolist()
        return self.combine.mean({n: (p[0], p[1]) for n, p in zip(names, pairs, strict=True)})
