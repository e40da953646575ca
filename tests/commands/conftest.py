from __future__ import annotations

from toy_model import batch_of, checkpoint, dataset, event, model, toy_plugin

__all__ = ["batch_of", "checkpoint", "dataset", "event", "model", "toy_plugin"]
