"""Training: the Lightning module, losses with weights, schedule, checkpoints, and `fit`."""

from __future__ import annotations

from hepset.training.fit import fit

__all__ = ["fit"]
