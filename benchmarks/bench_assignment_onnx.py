"""Benchmark 16: assignment in ONNX Runtime, selection included, against SPANet's network alone.

SPANet's public files; SPANet's network with its example options, exported by its own code in the
interpreter of `--spanet-python` (see README.md), against the head `assignment` with exact selection
inside the graph, of as many parameters. Random weights: of a graph, only time depends on nothing
else. One thread, the same events in the same batches.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench_spanet_loading import DATA, FILES, MISSING, convert, open_reader
from benchmarks.harness import Floor, Options, Report, cost_table, interleave
from hepset.batch import Array
from hepset.dataset import open_dataset
from hepset.export import export_onnx
from hepset.model import Model, build_model
from hepset.model.inputs import as_batch, input_arrays
from hepset.model.onnx_model import open_session
from hepset.schema.config import ModelConfig
from hepset.schema.contract import compile_contract
from hepset_spanet.export_layout import SpanetLayout

ADAPTER = Path(__file__).parent / "spanet_graph.py"
BATCH = 256
EVENTS = 2048
SPANET = "SPANet, network alone"
OURS = "hepset, with exact selection"
COMMON = {
    "hidden_dim": 64,
    "initial_embedding_dim": 16,
    "position_embedding_dim": 32,
    "num_encoder_layers": 6,
    "num_branch_encoder_layers": 3,
    "num_detector_layers": 2,
    "num_regression_layers": 3,
    "num_classification_layers": 3,
    "partial_events": True,
}
"""SPANet's example options, as far as they make the network."""
EXAMPLES = {
    "full_hadronic_ttbar": {"num_branch_embedding_layers": 3, "num_jet_encoder_layers": 2},
    "semi_leptonic_ttH": {"num_branch_embedding_layers": 5, "num_jet_encoder_layers": 1},
}


def make_model(name: str, parameters: int, folder: Path) -> Model:
    """The head `assignment` on a transformer of about so many parameters."""
    convert(DATA / f"{name}.h5", DATA / f"{name}.yaml", folder)
    dataset = open_dataset(folder)
    event, statistics = dataset.event, dataset.statistics
    contract = compile_contract(event)

    def make(width: int) -> Model:
        config = ModelConfig.model_validate(
            {
                "backbone": {
                    "name": "transformer",
                    "width": width,
                    "depth": 6,
                    "attention_heads": 4,
                },
                "heads": {"assignment": {"name": "assignment"}},
            }
        )
        return build_model(config, event, contract, statistics)

    def size(model: Model) -> int:
        return sum(parameter.numel() for parameter in model.parameters())

    return min(
        (make(width) for width in range(96, 289, 16)), key=lambda m: abs(size(m) - parameters)
    ).eval()


def spanet_graph(name: str, python: str | None, folder: Path) -> tuple[Path, int]:
    """Let SPANet export its network; return the file and the number of parameters.

    Raises:
        RuntimeError: If SPANet cannot be run there.
    """
    if python is None:
        raise RuntimeError("no interpreter was given")
    chosen, output = folder / f"{name}.json", folder / f"{name}.onnx"
    chosen.write_text(json.dumps({**COMMON, **EXAMPLES[name]}))
    files = [str(DATA / f"{name}.h5"), str(DATA / f"{name}.yaml"), str(chosen), str(output)]
    try:
        done = subprocess.run(
            [python, str(ADAPTER), *files], capture_output=True, text=True, check=False
        )
    except OSError as problem:
        raise RuntimeError(str(problem)) from None
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it ended"])[-1])
    return output, int(done.stdout.split()[-1])


def runner(graph: Path, feed: Mapping[str, Array], events: int) -> Callable[[], None]:
    """Run a graph over all events."""
    session = open_session(str(graph), threads=1)
    names = [node.name for node in session.get_inputs()]
    batches = [
        {name: np.ascontiguousarray(feed[name][start : start + BATCH]) for name in names}
        for start in range(0, events, BATCH)
    ]

    def task() -> None:
        for batch in batches:
            session.run(None, batch)

    return task


def read(name: str, model: Model, events: int) -> dict[str, Array]:
    """The first events of a file, over and over where it has fewer."""
    reader = open_reader(DATA / f"{name}.h5", DATA / f"{name}.yaml")
    batch: Any = next(iter(reader))
    arrays = input_arrays(model.contract.inputs(), as_batch(batch), what=name)
    rows = np.arange(events) % len(next(iter(arrays.values())))
    return {key: array[rows] for key, array in arrays.items()}


def run(options: Options) -> Iterator[Report]:
    if not DATA.is_dir():
        note = f"skipped: SPANet's public files are not in {DATA}; name it by HEPSET_SPANET_DATA"
        yield Report(16, "assignment in ONNX Runtime", notes=[note])
        return
    for name in FILES:
        events = options.events(EVENTS)
        notes: list[str] = []
        theirs: tuple[Path, int] | None = None
        try:
            theirs = spanet_graph(name, options.spanet_python, options.folder)
        except RuntimeError as problem:
            notes.append(MISSING.format(reason=problem))
        model = make_model(name, theirs[1] if theirs else 2_500_000, options.folder / name)
        path = options.folder / f"{name}-hepset.onnx"
        export_onnx(model, path)
        arrays = read(name, model, events)
        tasks = {OURS: runner(path, arrays, events)}
        if theirs:
            feed = SpanetLayout(model.contract.inputs(), model.event).feed(arrays)
            tasks[SPANET] = runner(theirs[0], feed, events)
        costs = interleave(tasks, options.repeats, warm_up=True)
        parameters = {OURS: float(sum(p.numel() for p in model.parameters())) / 1e6}
        if theirs:
            parameters[SPANET] = theirs[1] / 1e6
        report = Report(16, f"assignment in ONNX Runtime: {name}, batches of {BATCH}", notes=notes)
        per = {each: cost.per(events) for each, cost in costs.items()}
        base = SPANET if theirs else OURS
        more = {"million parameters": parameters}
        report.tables.append(cost_table("inference", per, base, more=more))
        if theirs:
            ratio = costs[SPANET].over(costs[OURS]).cpu
            report.floors.append(Floor(f"{name}: {SPANET} / {OURS}, CPU", ratio, 1.0))
        yield report
