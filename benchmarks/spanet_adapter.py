"""Measure SPANet's own data set in an interpreter that has SPANet; driven by lines on its input.

    python spanet_adapter.py BATCH

It prints a line when it is ready. Per line of JSON on its input, with ``data``, ``event`` and what
to ``do``, it then answers by one: ``load`` = take a file into memory, ``first`` = cost from the
file to the first batch, ``epoch`` = cost of some ``passes`` over what was loaded, ``peak`` = memory
that loading and one pass add in a fresh process; ``network`` = build the network of an ``options``
file, and write its parameters, a batch and its outputs to ``save``, ``step`` and ``forward`` = cost
of some ``times``, ``step_peak`` = memory that steps add in a fresh process. With ``start`` as its
argument instead of BATCH, it does one training step and ends. It imports nothing of hepset.
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


class Training:
    """SPANet's own network, loss and optimizer on the first events of a file.

    Args:
        request: ``data``, ``event``, ``options`` and ``batch``.
    """

    def __init__(self, request: dict[str, Any]) -> None:
        import torch
        from spanet import JetReconstructionModel
        from spanet import Options as SpanetOptions
        from spanet.dataset.types import AssignmentTargets, Batch, Source
        from torch.utils.data import default_collate

        chosen = json.loads(Path(request["options"]).read_text())
        chosen |= {"event_info_file": request["event"], "training_file": request["data"]}
        options = SpanetOptions(request["event"], request["data"])
        options.update_options(chosen | {"batch_size": request["batch"]})
        torch.manual_seed(0)
        with contextlib.redirect_stdout(sys.stderr):
            self.model = JetReconstructionModel(options)
        dataset = self.model.training_dataset
        sources, vectors, targets, *others = default_collate(
            [dataset[number] for number in range(request["batch"])]
        )
        self.batch = Batch(
            tuple(Source(*each) for each in sources),
            vectors,
            tuple(AssignmentTargets(*each) for each in targets),
            *others,
        )
        self.model.log = lambda *_, **__: None  # There is no trainer to log to.
        # As its `configure_optimizers` does.
        groups: tuple[list[Any], list[Any]] = ([], [])
        for name, parameter in self.model.named_parameters():
            groups["bias" in name].append(parameter)
        self.optimizer = torch.optim.AdamW(
            [
                {"params": groups[0], "weight_decay": options.l2_penalty},
                {"params": groups[1], "weight_decay": 0.0},
            ],
            lr=1e-6,
        )

    def step(self, times: int) -> int:
        self.model.train()
        for _ in range(times):
            self.model.training_step(self.batch, 0).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return times

    def forward(self, times: int) -> int:
        import torch

        self.model.eval()
        with torch.no_grad():
            for _ in range(times):
                self.model(self.batch.sources)
        return times

    def save(self, path: str) -> None:
        import numpy as np
        import torch

        self.model.eval()
        info = self.model.event_info
        with torch.no_grad():
            found = self.model(self.batch.sources)
        arrays = {f"state/{name}": value for name, value in self.model.state_dict().items()}
        arrays["vectors"] = self.batch.num_vectors
        for name, source in zip(info.input_names, self.batch.sources, strict=False):
            arrays[f"source/{name}/values"], arrays[f"source/{name}/mask"] = source
        for name, target, value in zip(
            info.product_particles, self.batch.assignment_targets, found.assignments, strict=False
        ):
            for part, each in zip(("indices", "mask", "weight"), target, strict=False):
                arrays[f"target/{name}/{part}"] = each
            arrays[f"out/{name}"] = value
        for kind in ("regression", "classification"):
            for name, value in getattr(self.batch, f"{kind}_targets").items():
                arrays[f"{kind}/{name}"] = value
        np.savez(path, **{name: value.detach().numpy() for name, value in arrays.items()})


def main() -> None:
    warnings.simplefilter("ignore")
    import torch
    from spanet.dataset.jet_reconstruction_dataset import JetReconstructionDataset
    from torch.utils.data import DataLoader

    torch.set_num_threads(1)
    if sys.argv[1] == "start":
        Training(json.loads(sys.argv[2])).step(1)
        return
    batch = int(sys.argv[1])
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

    def peak(task: Callable[[], int]) -> dict[str, float]:
        memory.forget_peak()
        before = memory.resident("VmRSS")
        events = task()
        total = memory.resident("VmHWM")
        return {"added": total - before, "total": total, "value": events}

    loader = training = None
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
        elif request["do"] == "network":
            training = Training(request)
            training.save(request["save"])
            answer = {"parameters": sum(p.numel() for p in training.model.parameters())}
        elif request["do"] in {"step", "forward"}:
            task = getattr(training, request["do"])
            answer = timed(lambda task=task, times=request["times"]: task(times))
        elif request["do"] == "step_peak":
            answer = in_child(
                lambda request=request: peak(lambda: Training(request).step(request["times"]))
            )
        else:
            answer = in_child(lambda request=request: peak(lambda: epoch(load(request))))
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
