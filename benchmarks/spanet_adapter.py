"""Measure SPANet's own data set in an interpreter that has SPANet; driven by lines on its input.

    python spanet_adapter.py BATCH

It prints a line when it is ready. Per line of JSON on its input, with ``data``, ``event`` and what
to ``do``, it then answers by one: ``load`` = take a file into memory, ``first`` = cost from the
file to the first batch, ``epoch`` = cost of some ``passes`` over what was loaded, ``peak`` = memory
that loading and one pass add in a fresh process. It imports nothing of hepset.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any


def load_peak() -> Any:
    """Load the neighbour that reads this process's memory."""
    spec = importlib.util.spec_from_file_location("peak", Path(__file__).with_name("peak.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def timed(task: Callable[[], int]) -> dict[str, float]:
    cpu, wall = time.process_time(), time.perf_counter()
    events = task()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"cpu": cpu, "wall": wall, "events": events}


def in_child(task: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Run a task in a copy of this process."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(theirs, json.dumps(task()).encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as answer:
        found: dict[str, float] = json.load(answer)
    os.waitpid(child, 0)
    return found


def main() -> None:
    warnings.simplefilter("ignore")
    import torch
    from spanet.dataset.jet_reconstruction_dataset import JetReconstructionDataset
    from torch.utils.data import DataLoader

    batch = int(sys.argv[1])
    torch.set_num_threads(1)
    memory = load_peak()

    def load(request: dict[str, Any]) -> Any:
        # What it reports while it loads is not an answer.
        with contextlib.redirect_stdout(sys.stderr):
            dataset = JetReconstructionDataset(request["data"], request["event"])
        return DataLoader(dataset, batch, shuffle=True)

    def first(request: dict[str, Any]) -> int:
        return len(next(iter(load(request))).num_vectors)

    def epoch(loader: Any, passes: int = 1) -> int:
        return sum(len(found.num_vectors) for _ in range(passes) for found in loader)

    def peak(request: dict[str, Any]) -> dict[str, float]:
        memory.forget_peak()
        before = memory.resident("VmRSS")
        events = epoch(load(request))
        total = memory.resident("VmHWM")
        return {"added": total - before, "total": total, "value": events}

    loader = None
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "load":
            loader = load(request)
            answer: dict[str, float] = {"events": len(loader.dataset)}
        elif request["do"] == "first":
            answer = timed(lambda request=request: first(request))
        elif request["do"] == "epoch":
            answer = timed(lambda loader=loader, passes=request["passes"]: epoch(loader, passes))
        else:
            answer = in_child(lambda request=request: peak(request))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
