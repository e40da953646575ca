"""Benchmark 14: the Particle Transformer, against that of weaver-core.

One training step (forward, loss, backward, Ranger) and one evaluation of Sophon's network on the
hundred public jets of JetClass-II, repeated to a batch, so that the multiplicities are real ones.
Weaver runs in an interpreter of its own; both get 128 slots, as from weaver's loader, and may then
trim as they do in a training.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.harness import ROOT, Floor, Options, Report, Task, cost_table, interleave
from benchmarks.other_program import OtherProgram
from hepset.dialects import load_yaml
from hepset.interfaces.backbone import InputLayout, Inputs
from hepset.nn.mlp import MLP
from hepset_jetclass.part.backbone import PartBackbone
from hepset_jetclass.part.options import PartConfig
from hepset_jetclass.ranger import Ranger
from hepset_jetclass.weaver.inputs import weaver_batches, weaver_inputs

DATA = Path(os.environ.get("HEPSET_JETCLASS_DATA", ROOT.parent / "shared/data/jetclass2"))
ADAPTER = Path(__file__).parent / "weaver_part_adapter.py"
JETS = 500
"""Jets of a batch, five times the hundred: about weaver's own 512."""
WEAVER = "weaver-core"
OURS = "hepset"
MISSING = (
    "weaver-core is skipped: {reason}. Install weaver-core==0.5.3 from PyPI into an environment of "
    "its own, and name its interpreter by HEPSET_WEAVER_PYTHON."
)


def load_jets(count: int) -> dict[str, NDArray[np.float32]]:
    """The public jets as weaver's loader gives them, repeated to so many."""
    document = {**load_yaml(DATA / "JetClassII_full.yaml"), "selection": None}
    file = DATA / "JetClassII_example.parquet"
    (batch,) = weaver_batches(document, [file])
    found = weaver_inputs(document, batch)
    rows = np.arange(count) % len(batch)
    names = {"features": "pf_features", "vectors": "pf_vectors", "mask": "pf_mask"}
    jets = {name: found[group][rows] for name, group in names.items()}
    return {**jets, "labels": found["truth_label"][rows].astype(np.int64)}


class Network:
    """Sophon's network of hepset on a batch."""

    def __init__(self, jets: dict[str, NDArray[np.float32]]) -> None:
        torch.manual_seed(1)
        mask = torch.from_numpy(jets["mask"][:, 0] > 0)
        features, vectors = (
            torch.where(mask[..., None], torch.from_numpy(jets[name]).transpose(1, 2), 0.0)
            for name in ("features", "vectors")
        )
        self.inputs = Inputs(streams={"pf": features}, masks={"pf": mask}, p4={"pf": vectors})
        self.labels = torch.from_numpy(jets["labels"])
        self.backbone = PartBackbone(PartConfig())
        self.backbone.build(InputLayout(streams={"pf": features.shape[-1]}, p4=("pf",)))
        self.head = MLP(128, [512], 188, activation="relu", norm=False, dropout=0.1)
        self.parts = torch.nn.ModuleList([self.backbone, self.head])
        self.optimizer = Ranger(self.parts.parameters(), lr=1e-4)

    def evaluate(self) -> None:
        self.parts.eval()
        with torch.no_grad():
            self.head(self.backbone(self.inputs).event)

    def train(self) -> None:
        self.parts.train()
        self.optimizer.zero_grad()
        logits = self.head(self.backbone(self.inputs).event)
        torch.nn.functional.cross_entropy(logits, self.labels).backward()
        self.optimizer.step()


def run(options: Options) -> Iterator[Report]:
    if not DATA.is_dir():
        note = f"skipped: the public jets are not in {DATA}; name it by HEPSET_JETCLASS_DATA"
        yield Report(14, "Particle Transformer", notes=[note])
        return
    jets = load_jets(options.events(JETS))
    count = len(jets["labels"])
    file = options.folder / "jets.npz"
    np.savez(file, **jets)
    network = Network(jets)
    tasks: dict[str, dict[str, Task]] = {
        "train": {OURS: network.train},
        "evaluate": {OURS: network.evaluate},
    }
    weaver, missing = None, ""
    try:
        weaver = OtherProgram(
            "weaver", os.environ.get("HEPSET_WEAVER_PYTHON", sys.executable), ADAPTER, file
        )
    except RuntimeError as problem:
        missing = MISSING.format(reason=problem)
    try:
        if weaver is not None:
            for what, contenders in tasks.items():
                contenders[WEAVER] = partial(weaver.cost, what)
        costs = {
            what: interleave(contenders, options.repeats, warm_up=True)
            for what, contenders in tasks.items()
        }
    finally:
        if weaver is not None:
            weaver.close()
    particles = jets["mask"].sum((1, 2))
    report = Report(
        14,
        f"Particle Transformer, {count} jets of {particles.mean():.0f} particles on average, "
        f"{particles.max():.0f} at most",
    )
    base = OURS if weaver is None else WEAVER
    for what, title in (("train", "one training step"), ("evaluate", "one evaluation")):
        found = {name: cost.per(count) for name, cost in costs[what].items()}
        report.tables.append(cost_table(title, found, base))
    if weaver is None:
        report.notes.append(missing)
    else:
        report.notes.append(f"weaver-core {weaver.ready}")
        for what, limit in (("train", 1.5), ("evaluate", 2.0)):
            ratio = costs[what][WEAVER].over(costs[what][OURS]).cpu
            report.floors.append(Floor(f"{what}: weaver-core / hepset, CPU", ratio, limit))
    yield report
