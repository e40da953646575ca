"""Checkpoints: the best, and the last from which an interrupted training continues exactly."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any, Final, cast

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping
from torch import Tensor

from hepset.training.module import TrainingModule

__all__ = ["BEST", "LAST", "Checkpoints", "StopEarly", "stored_key"]

_LOG = logging.getLogger(__name__)

BEST: Final = "best.ckpt"
LAST: Final = "last.ckpt"
SECONDS_BETWEEN: Final = 300.0
"""Time between two checkpoints within an epoch."""
STEPS_BETWEEN_QUESTIONS: Final = 50
"""Steps after which several processes ask the first whether it is time."""


class Checkpoints(Checkpoint):
    """Saves ``last.ckpt`` at the end of every epoch and every few minutes within, and ``best.ckpt``
    when the monitored loss is the lowest of its stage so far.

    Args:
        directory: Where to.
        seconds: Time between two checkpoints within an epoch; null = five minutes.
    """  # noqa: D205  the rule is the summary

    def __init__(self, directory: Path, seconds: float | None = None) -> None:
        self.directory = directory
        self.seconds = SECONDS_BETWEEN if seconds is None else seconds
        self.best = math.inf
        self._saved_at = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """Return the lowest loss."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the lowest loss."""
        self.best = state_dict["best"]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to count the time."""
        del trainer, pl_module
        self._saved_at = time.monotonic()

    def on_train_batch_end(  # type: ignore[override]  # narrower than Lightning's Any
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Tensor | None,
        batch: dict[str, Tensor],
        batch_idx: int,
    ) -> None:
        """Save within an epoch when it is time, or when the process is told to end."""
        del pl_module, outputs, batch
        if trainer.is_last_batch:
            return
        several = trainer.world_size > 1
        if several and batch_idx % STEPS_BETWEEN_QUESTIONS:
            return
        due = time.monotonic() - self._saved_at >= self.seconds or trainer.received_sigterm
        if several:
            due = bool(trainer.strategy.broadcast(due))
        if due:
            self._save(trainer, LAST)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save at the end of an epoch."""
        assert isinstance(pl_module, TrainingModule)
        if pl_module.starts_stage:
            self.best = math.inf
        if pl_module.score < self.best:
            self.best = pl_module.score
            self._save(trainer, BEST)
        self._save(trainer, LAST)

    def _save(self, trainer: Trainer, name: str) -> None:
        # Lightning writes elsewhere and moves, which is one step only on one file system.
        temporary = self.directory / f".{name}.tmp"
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            temporary.replace(self.directory / name)
        self._saved_at = time.monotonic()


class StopEarly(EarlyStopping):
    """Early stopping in the last stage, which stays stopped when a training is continued."""

    def _run_early_stopping_check(self, trainer: Trainer) -> None:
        if cast("TrainingModule", trainer.lightning_module).in_last_stage:
            super()._run_early_stopping_check(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop at once where the checkpoint had run out of patience."""
        del pl_module
        if self.wait_count >= self.patience:
            trainer.should_stop = True


def stored_key(path: Path) -> str | None:
    """Return what a checkpoint was trained with; None where it cannot be read."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as problem:  # noqa: BLE001  what is no checkpoint makes torch raise anything
        _LOG.warning("%s: cannot be read and is not used: %s", path, str(problem).split("\n")[0])
        return None
    training = content.get("training") if isinstance(content, dict) else None
    key = training.get("key") if isinstance(training, dict) else None
    return key if isinstance(key, str) else None
