"""`Ema`: an average of the weights over the steps, which is what a training gives."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import (
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
)
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from hepset.errors import ConfigurationError
from hepset.interfaces.component import ComponentConfig

__all__ = ["Ema", "EmaConfig"]


class EmaConfig(ComponentConfig):
    """Options of `Ema`."""

    decay: float = Field(default=0.999, ge=0, lt=1)
    """Share of the average that an update keeps."""
    every: PositiveInt = 1
    """Steps from one update to the next."""
    warm_up: bool = True
    """Whether update n keeps at most (1 + n) / (10 + n), so that a short training does not
    average over its start."""


class Ema(Callback):
    """Exponential moving average of the weights.

    It is the average that is validated, that decides which checkpoint is the best, and that
    checkpoints hold, so that whatever opens one (evaluation, prediction, export) uses it. The
    weights that are trained stand in the checkpoint beside it, and an interrupted training
    continues exactly. Running averages of the model are averaged as parameters are; other buffers
    are those of the trained model.

    Args:
        config: Options.
    """

    Config = EmaConfig

    def __init__(self, config: EmaConfig) -> None:
        self.config = config
        self.updates = 0
        self._average: dict[str, Tensor] = {}
        self._step = 0

    def decay(self, update: int) -> float:
        """Return the share that is kept by an update, from 0."""
        if not self.config.warm_up:
            return self.config.decay
        return min(self.config.decay, (1 + update) / (10 + update))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with the weights as they are.

        Raises:
            ConfigurationError: If the weights are spread over several devices.
        """
        if isinstance(trainer.strategy, FSDPStrategy | ModelParallelStrategy | DeepSpeedStrategy):
            raise ConfigurationError(
                "train.callbacks: ema needs all weights on each device; use execution.train."
                "strategy: ddp"
            )
        if not self._average:
            self._average = {n: t.detach().clone() for n, t in _averaged(pl_module).items()}
        self._average = {n: t.to(pl_module.device) for n, t in self._average.items()}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Know which steps were taken before."""
        del pl_module
        self._step = trainer.global_step

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: object,
        batch: object,
        batch_idx: int,
    ) -> None:
        """Update the average after a step."""
        del outputs, batch, batch_idx
        if trainer.global_step == self._step:
            return
        self._step = trainer.global_step
        if self._step % self.config.every:
            return
        share = 1 - self.decay(self.updates)
        self.updates += 1
        current = _averaged(pl_module)
        weights = [name for name, tensor in current.items() if isinstance(tensor, nn.Parameter)]
        with torch.no_grad():
            for dtype in {current[name].dtype for name in weights}:
                names = [name for name in weights if current[name].dtype == dtype]
                torch._foreach_lerp_(
                    [self._average[name] for name in names],
                    [current[name] for name in names],
                    share,
                )
            for name in current.keys() - set(weights):
                before, now = self._average[name], current[name]
                # Constants stay what they are, infinite ones included.
                before.copy_(torch.where(before == now, now, torch.lerp(before, now, share)))

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validate the average."""
        del trainer
        self._swap(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with the weights that are trained."""
        del trainer
        self._swap(pl_module)

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Store the average as the weights, and beside it the weights that are trained."""
        del trainer, pl_module
        weights = checkpoint["state_dict"]
        checkpoint["trained_state_dict"] = weights
        checkpoint["state_dict"] = {**weights, **self._average}

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take up both."""
        del trainer
        averaged = _averaged(pl_module)
        self._average = {name: checkpoint["state_dict"][name].clone() for name in averaged}
        pl_module.load_state_dict(checkpoint["trained_state_dict"])

    def state_dict(self) -> dict[str, Any]:
        """Return the number of updates."""
        return {"updates": self.updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the number of updates."""
        self.updates = state_dict["updates"]

    def _swap(self, module: LightningModule) -> None:
        with torch.no_grad():
            for name, tensor in _averaged(module).items():
                kept = tensor.detach().clone()
                tensor.copy_(self._average[name])
                self._average[name] = kept


def _averaged(module: LightningModule) -> dict[str, Tensor]:
    """Parameters and buffers of the model that are averaged, by their names in checkpoints."""
    weights = module.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in weights.items() if tensor.is_floating_point()}
