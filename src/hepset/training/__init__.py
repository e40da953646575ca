"""Training: the Lightning module, losses with weights, schedule, checkpoints, and `fit`."""
