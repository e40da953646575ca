"""Benchmark 15: training SPANet's network, against SPANet itself.

Its two public files and their example options: the same network with the same parameters in both
programs, and hepset's default assignment at the same number of parameters; the same events, one
thread. A step is forward, loss, backward and optimizer, without the loop around it, in a process
that keeps freed memory as one that trains does; forward is evaluation. Starting is a process of its
own from nothing to the end of its first step.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.bench_spanet_loading import (
    ADAPTER,
    DATA,
    FILES,
    MISSING,
    SPANET,
    convert,
    start_spanet,
)
from benchmarks.default_training import Default
from benchmarks.harness import (
    Cost,
    Floor,
    Options,
    Report,
    Task,
    cost_table,
    interleave,
    peak_memory,
    run_python,
)
from benchmarks.other_program import OtherProgram
from hepset.training.malloc import keep_freed_memory
from hepset.training.schedule import parameter_groups
from hepset_spanet.checkpoint import load_spanet
from hepset_spanet.losses import AssignmentTarget, LossTargets, spanet_loss
from hepset_spanet.network.embedding import Source
from hepset_spanet.network.network import SpanetNetwork

OURS, DEFAULT = "hepset, SPANet's network", "hepset, assignment"
THEIRS = SPANET.split(",")[0]
BATCHES = (32, 256)
MEMORY_STEPS = 3
ARCHITECTURE = {
    "hidden_dim": 64,
    "transformer_dim": 64,
    "initial_embedding_dim": 16,
    "position_embedding_dim": 32,
    "num_embedding_layers": 10,
    "num_encoder_layers": 6,
    "num_branch_embedding_layers": 3,
    "num_branch_encoder_layers": 3,
    "num_jet_embedding_layers": 0,
    "num_jet_encoder_layers": 2,
    "num_detector_layers": 2,
    "num_regression_layers": 3,
    "num_classification_layers": 3,
    "num_attention_heads": 4,
    "linear_block_type": "GRU",
    "transformer_type": "Gated",
    "linear_activation": "gelu",
    "partial_events": True,
    "balance_particles": True,
    "optimizer": "AdamW",
    "learning_rate": 0.0015,
    "l2_penalty": 0.0002,
    "num_dataloader_workers": 0,
}
"""What the two example files of options share."""
CHOICES: dict[str, dict[str, Any]] = {
    "full_hadronic_ttbar": {},
    "semi_leptonic_ttH": {
        "num_branch_embedding_layers": 5,
        "num_jet_encoder_layers": 1,
        "detection_loss_scale": 1.0,
        "regression_loss_scale": 1.0,
        "classification_loss_scale": 1.0,
    },
}
DEPTHS = {"full_hadronic_ttbar": 8, "semi_leptonic_ttH": 11}
"""Layers of width 192 that make a default model as large as SPANet's."""


def write_options(name: str, folder: Path) -> Path:
    path = folder / f"{name}-options.json"
    path.write_text(json.dumps(ARCHITECTURE | CHOICES[name]))
    return path


class Imported:
    """SPANet's network in hepset, with what `spanet_adapter.Training.save` has written."""

    def __init__(self, saved: str, options: str, event: str) -> None:
        arrays = dict(np.load(saved))
        get = {name: torch.from_numpy(value) for name, value in arrays.items()}
        state = {n.removeprefix("state/"): v for n, v in get.items() if n.startswith("state/")}
        self.network: SpanetNetwork = load_spanet(state, options, event).network
        topology = self.network.topology
        self.sources = {
            each.name: Source(get[f"source/{each.name}/values"], get[f"source/{each.name}/mask"])
            for each in topology.inputs
        }
        self.targets = LossTargets(
            {
                each.name: AssignmentTarget(
                    *(get[f"target/{each.name}/{part}"] for part in ("indices", "mask", "weight"))
                )
                for each in topology.particles
            },
            get["vectors"],
            {key: get[f"regression/{key}"] for key in topology.regressions},
            {key: get[f"classification/{key}"] for key in topology.classifications},
        )
        self.expected = {each.name: get[f"out/{each.name}"] for each in topology.particles}
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.network, 2e-4), lr=1e-6, fused=True
        )

    def difference(self) -> float:
        """Largest difference to SPANet's log-probabilities."""
        self.network.eval()
        with torch.no_grad():
            found = self.network(self.sources).log_probabilities
        return max(
            float((found[name] - value)[torch.isfinite(value)].abs().max())
            for name, value in self.expected.items()
        )

    def step(self, times: int) -> None:
        self.network.train()
        for _ in range(times):
            spanet_loss(self.network(self.sources), self.targets, self.network)[0].backward()
            self.optimizer.step()
            self.optimizer.zero_grad()

    def forward(self, times: int) -> None:
        self.network.eval()
        with torch.no_grad():
            for _ in range(times):
                self.network(self.sources)


def imported_steps(saved: str, options: str, event: str, times: int) -> None:
    """For `peak_memory`."""
    torch.set_num_threads(1)
    keep_freed_memory()
    Imported(saved, options, event).step(times)


class Prepared(NamedTuple):
    """Files of a comparison."""

    data: Path
    event: Path
    options: Path
    shards: Path
    saved: Path

    def request(self, batch: int) -> dict[str, Any]:
        return {
            "data": str(self.data),
            "event": str(self.event),
            "options": str(self.options),
            "batch": batch,
            "save": str(self.saved),
        }


def prepare(name: str, folder: Path) -> Prepared:
    data, event = DATA / f"{name}.h5", DATA / f"{name}.yaml"
    shards = folder / f"{name}-training"
    convert(data, event, shards)
    return Prepared(data, event, write_options(name, folder), shards, folder / f"{name}.npz")


def run(options: Options) -> Iterator[Report]:
    if not DATA.is_dir():
        note = f"skipped: SPANet's public files are not in {DATA}; name it by HEPSET_SPANET_DATA"
        yield Report(15, "training SPANet's network", notes=[note])
        return
    python = options.spanet_python or sys.executable
    try:
        spanet = start_spanet(python)
    except RuntimeError as problem:
        yield Report(15, "training SPANet's network", notes=[MISSING.format(reason=problem)])
        return
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        for name in FILES:
            files = prepare(name, options.folder)
            memory = {batch: peaks(name, files, batch, spanet, python) for batch in BATCHES}
            for batch in BATCHES:
                yield compare(name, files, batch, options, spanet, memory[batch])
            yield starting(name, files, options, python)
    finally:
        spanet.close()


def compare(
    name: str,
    files: Prepared,
    batch: int,
    options: Options,
    spanet: OtherProgram,
    memory: Mapping[str, float],
) -> Report:
    """Compare steps and forward passes at one batch size."""
    parameters = {THEIRS: spanet.ask("network", **files.request(batch))["parameters"]}
    ours = Imported(str(files.saved), str(files.options), str(files.event))
    default = Default(str(files.shards), DEPTHS[name], batch)
    parameters[OURS] = sum(p.numel() for p in ours.network.parameters())
    parameters[DEFAULT] = default.parameters()
    times = max(round(options.events(160) / batch), 1)
    report = Report(15, f"training: {name}, example options, batches of {batch}")
    floors = {"step": 2.5, "forward": 2.0}
    for what, floor in floors.items():
        contenders: dict[str, Task] = {
            THEIRS: partial(spanet.cost, what, times=times),
            OURS: partial(getattr(ours, what), times),
            DEFAULT: partial(getattr(default, what), times),
        }
        repeats = max(options.repeats, 5)
        costs = {
            each: cost.per(times)
            for each, cost in interleave(contenders, repeats, warm_up=True).items()
        }
        more: dict[str, Mapping[str, Any]] = {"parameters": parameters}
        if what == "step":
            more["added peak MB"] = memory
        report.tables.append(cost_table(f"one {what}", costs, THEIRS, more=more, unit="ms"))
        report.floors += [
            Floor(f"{what}: {THEIRS} / {each}, CPU", costs[THEIRS].over(costs[each]).cpu, floor)
            for each in (OURS, DEFAULT)
        ]
    report.floors += [
        Floor(f"peak memory of {MEMORY_STEPS} steps: {each} / {THEIRS}", value, 1.0, False)
        for each, value in ((n, memory[n] / memory[THEIRS]) for n in (OURS, DEFAULT))
    ]
    difference = ours.difference()
    report.notes.append(f"largest difference of log-probabilities to SPANet's: {difference:.1e}")
    return report


def peaks(
    name: str, files: Prepared, batch: int, spanet: OtherProgram, python: str
) -> dict[str, float]:
    """Return the memory that building and some steps add to processes that have imported all."""
    spanet.ask("network", **files.request(batch))
    module = "benchmarks.bench_spanet_training"
    imported = (str(files.saved), str(files.options), str(files.event), MEMORY_STEPS)
    default = (str(files.shards), DEPTHS[name], batch, MEMORY_STEPS)
    # A process that has held a network before has memory at hand, which would count for nothing.
    fresh = start_spanet(python)
    try:
        theirs = fresh.ask("step_peak", times=MEMORY_STEPS, **files.request(batch))["added"]
    finally:
        fresh.close()
    return {
        THEIRS: theirs,
        OURS: peak_memory(f"{module}:imported_steps", *imported).added,
        DEFAULT: peak_memory("benchmarks.default_training:default_steps", *default).added,
    }


def starting(name: str, files: Prepared, options: Options, python: str) -> Report:
    """Compare processes from their start to the end of their first training step."""
    request = json.dumps(files.request(BATCHES[0]))
    first = (
        "import sys; sys.path.insert(0, '.'); "
        "from benchmarks.default_training import default_steps; "
        f"default_steps({str(files.shards)!r}, {DEPTHS[name]}, {BATCHES[0]}, 1)"
    )
    commands = {
        THEIRS: [python, str(ADAPTER), "start", request],
        DEFAULT: [sys.executable, "-c", first],
        "importing torch alone": [sys.executable, "-c", "import torch"],
    }
    costs: dict[str, Cost] = interleave(
        {
            each: partial(run_python, command, options.folder / "bytecode")
            for each, command in commands.items()
        },
        options.repeats,
        warm_up=True,
    )
    report = Report(15, f"training: {name}, from nothing to the end of the first step")
    report.tables = [cost_table("start", costs, THEIRS, unit="ms")]
    ratio = costs[THEIRS].over(costs[DEFAULT]).cpu
    report.floors = [Floor(f"start: {THEIRS} / {DEFAULT}, CPU", ratio, 5.0)]
    return report
