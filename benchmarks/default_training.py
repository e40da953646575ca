"""Training steps of hepset's own network, in a module that imports nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hepset.dataset import open_dataset
from hepset.model import Model, build_model
from hepset.schema.config import ModelConfig
from hepset.training.losses import WeightedLoss, summarise_weights
from hepset.training.malloc import keep_freed_memory
from hepset.training.schedule import parameter_groups


class Default:
    """hepset's transformer and head `assignment`, of a given depth, on a prepared data set."""

    def __init__(self, folder: str, depth: int, batch: int) -> None:
        dataset = open_dataset(Path(folder))
        backbone = {"name": "transformer", "width": 192, "depth": depth, "attention_heads": 8}
        heads: dict[str, dict[str, Any]] = {"assignment": {"name": "assignment"}}
        for name, target in dataset.event.targets.items():
            option: dict[str, dict[str, Any]] = {
                "regression": {"targets": [name]},
                "classification": {"target": name},
            }
            heads[name] = {"name": target.kind, **option[target.kind]}
        self.model: Model = build_model(
            ModelConfig(backbone=backbone, heads=heads),
            dataset.event,
            dataset.contract,
            dataset.statistics,
        )
        weights = summarise_weights(dataset.split("train"), [], "keep")
        self.loss = WeightedLoss(self.model, weights, "keep")
        self.optimizer = torch.optim.AdamW(parameter_groups(self.model, 2e-4), lr=1e-6, fused=True)
        self.batch: dict[str, Tensor] = next(
            iter(dataset.loader("train", batch_size=batch, shuffle=False))
        )

    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    def step(self, times: int) -> None:
        self.model.train()
        for _ in range(times):
            terms = self.model.losses(self.loss.prepared(self.batch), self.model(self.batch))
            self.loss(terms, self.batch, None)[0].backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

    def forward(self, times: int) -> None:
        self.model.eval()
        with torch.no_grad():
            for _ in range(times):
                self.model(self.batch)


def default_steps(folder: str, depth: int, batch: int, times: int) -> None:
    """For `peak_memory`, and for a start."""
    torch.set_num_threads(1)
    keep_freed_memory()
    Default(folder, depth, batch).step(times)
