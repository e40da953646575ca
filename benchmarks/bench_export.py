"""Benchmark 19: CPU time and peak memory of an export, its comparison with torch included.

Every model is built and exported in a process of its own; random weights, one thread. The models
are small in width: an export takes time for every operator, whatever the sizes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import Cell, Floor, Options, Report, Table, now, peak_memory

LIMIT_S = 20.0
"""CPU seconds that the export of one network may take."""

JETS: dict[str, Any] = {
    "slots": 10,
    "features": {
        "pt": {"unit": "GeV", "transform": ["log1p"]},
        "eta": {},
        "phi": {},
        "mass": {"unit": "GeV", "transform": ["log1p"]},
        "btag": {},
    },
}
TOP = {"q1": "jets", "q2": "jets", "b": "jets"}
SWAP = [["q1", "q2"]]
PARTICLES: dict[str, dict[str, Any]] = {
    "one particle": {
        "particles": {"z": {"q1": "jets", "q2": "jets"}},
        "symmetries": {"z": SWAP},
    },
    "tt̄, all-hadronic": {
        "particles": {"t1": TOP, "t2": TOP},
        "symmetries": {"event": [["t1", "t2"]], "t1": SWAP, "t2": SWAP},
    },
    "ttH, semi-leptonic": {
        "particles": {"ht": TOP, "lt": {"b": "jets"}, "h": {"q1": "jets", "q2": "jets"}},
        "symmetries": {"ht": SWAP, "h": SWAP},
    },
}
CLASSES = {"signal": {"kind": "classification", "classes": ["background", "signal"]}}
CONSTITUENTS = {"slots": 64, "features": ["px", "py", "pz", "energy", "charge"]}


def export(name: str) -> tuple[float, float]:
    """For `peak_memory`: CPU seconds, and MB of the graph."""
    import torch

    from hepset.export import export_onnx
    from hepset.model import build_model
    from hepset.schema.config import ModelConfig
    from hepset.schema.contract import compile_contract
    from hepset.schema.event import EventInfo
    from hepset.schema.statistics import Statistics

    torch.set_num_threads(1)
    torch.manual_seed(1)
    backbone: dict[str, Any] = {"name": "transformer", "width": 32, "depth": 2}
    head: dict[str, Any] = {"name": "classification", "target": "signal"}
    if name in PARTICLES:
        head = {"name": "assignment", "hidden": 32}
        document: dict[str, Any] = {"streams": {"jets": JETS}, **PARTICLES[name]}
    elif name == "Particle Transformer":
        backbone = {"name": "part"}
        document = {"streams": {"constituents": CONSTITUENTS}, "targets": CLASSES}
    else:
        document = {"streams": {"jets": JETS}, "targets": CLASSES}
    event = EventInfo.model_validate(document)
    config = ModelConfig(backbone=backbone, heads={"learns": head})
    model = build_model(config, event, compile_contract(event), Statistics())
    with tempfile.TemporaryDirectory() as folder:
        start = now().cpu
        check = export_onnx(model, Path(folder) / "model.onnx")
        return now().cpu - start, check.bytes / 1e6


def run(options: Options) -> Iterator[Report]:
    del options
    rows: dict[str, tuple[Cell, ...]] = {}
    floors = []
    for name in ("classification", "Particle Transformer", *PARTICLES):
        peak = peak_memory("benchmarks.bench_export:export", name)
        seconds, size = peak.value
        rows[name] = (seconds, peak.total, size)
        floors.append(Floor(f"{name}, CPU s", seconds, LIMIT_S, at_least=False))
    columns = ("CPU s", "peak MB", "graph MB")
    yield Report(19, "export of a model as one graph", [Table("export", columns, rows)], floors)
