"""Measure weaver's own Particle Transformer in an interpreter that has weaver-core.

    python weaver_part_adapter.py JETS.npz

It prints its version when it is ready. Per line of JSON on its input with what to ``do``, ``train``
or ``evaluate``, it answers by the cost of one such step. It imports nothing of hepset.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import sys
import time
from collections.abc import Callable
from typing import Any

WARM_UP = 6
"""Calls before its trimming of padding sets in."""


def main() -> None:
    logging.disable(logging.CRITICAL)
    import numpy as np
    import torch
    from weaver.nn.model.ParticleTransformer import ParticleTransformer
    from weaver.utils.nn.optimizer.ranger import Ranger

    torch.set_num_threads(1)
    torch.manual_seed(1)
    jets = np.load(sys.argv[1])
    features, vectors, mask, labels = (
        torch.from_numpy(jets[name]) for name in ("features", "vectors", "mask", "labels")
    )
    network = ParticleTransformer(
        features.shape[1], 188, fc_params=[(512, 0.1)], use_pre_activation_pair=True
    )
    optimizer: Any = Ranger(network.parameters(), lr=1e-4)

    def evaluate() -> None:
        network.eval()
        with torch.no_grad():
            network(features, vectors, mask)

    def train() -> None:
        network.train()
        optimizer.zero_grad()
        logits = network(features, vectors, mask)
        torch.nn.functional.cross_entropy(logits, labels).backward()
        optimizer.step()

    few = (features[:4], vectors[:4], mask[:4])
    with torch.no_grad():
        for _ in range(WARM_UP):
            network(*few)
    tasks: dict[str, Callable[[], None]] = {"train": train, "evaluate": evaluate}
    print(importlib.metadata.version("weaver-core"), flush=True)
    for line in sys.stdin:
        cpu, wall = time.process_time(), time.perf_counter()
        tasks[json.loads(line)["do"]]()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(json.dumps({"cpu": cpu, "wall": wall}), flush=True)


if __name__ == "__main__":
    main()
