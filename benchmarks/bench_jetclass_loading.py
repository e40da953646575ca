"""Benchmark 9: JetClass-II files to jets, against weaver-core's loader.

100 000 jets made of the public hundred, in Parquet and in ROOT, with Sophon's selection and derived
variables and without reweighting. Of hepset: the reader alone, and batches streamed from the files,
checked against the contract or not. Of weaver: reading the columns, and the batches of its loader,
in the interpreter of HEPSET_WEAVER_PYTHON. One computing thread, no worker process.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.harness import (
    ROOT,
    Cell,
    Cost,
    Floor,
    Options,
    Report,
    Task,
    cost_table,
    interleave,
    peak_memory,
)
from benchmarks.jetclass_files import make_table, write_parquet, write_root
from hepset import Run
from hepset.readers import open_reader
from hepset_jetclass.columns import PARTICLES

DATA = Path(os.environ.get("HEPSET_JETCLASS_DATA", ROOT.parent / "shared/data/jetclass2"))
ADAPTER = Path(__file__).parent / "weaver_adapter.py"
JETS = 100_000
BATCH = 512
FETCH: dict[str, dict[str, Any]] = {
    "parquet": {"step": 1.0, "split": 10},
    "root": {"step": 0.1, "split": 1},
}
"""How weaver is to fetch: of Parquet it reads the whole file in every step."""
SCALARS = ("jet_pt", "jet_energy", "jet_sdmass", "jet_label")
COLUMNS = [quantity.column for quantity in PARTICLES.values()] + list(SCALARS)
EVENT = {
    "streams": {"pf": {"features": [quantity.column for quantity in PARTICLES.values()]}},
    "globals": {"jet": {"features": list(SCALARS[:3])}},
    "targets": {"jet_label": {"kind": "classification"}},
}
READ = "hepset: read"
STREAM = "hepset: batches"
UNCHECKED = "hepset: batches, not checked"
WEAVER_READ = "weaver: read"
WEAVER = "weaver: batches"
MISSING = (
    "weaver itself is skipped: {reason}. Install weaver-core 0.5.3 into an environment of its own "
    "and give that by HEPSET_WEAVER_PYTHON."
)


def unweighted(config: Path, target: Path) -> None:
    """Copy a data configuration without its weights."""
    text = config.read_text(encoding="utf-8")
    target.write_text(re.sub(r"(?ms)^weights:.*?(?=^\S|\Z)", "", text), encoding="utf-8")


def read(path: str) -> int:
    """Read all jets."""
    return sum(len(batch) for batch in open_reader("jetclass", files=path, event=EVENT))


def batches(config: str, path: str, *, check: bool) -> Iterator[dict[str, Any]]:
    """Stream what the configuration asks for."""
    document = {
        "event": config,
        "read": {"reader": "jetclass", "files": [path]},
        "prepare": {"split": {"train": 1.0, "val": 0.0, "test": 0.0}},
        "output": str(Path(config).parent / "run"),
    }
    stream = Run.from_yaml(document).stream("train", batch_size=BATCH, check=check)
    return iter(stream)


def deliver(config: str, path: str, check: bool = True) -> int:
    """Stream all batches."""
    return sum(len(batch["pf"]) for batch in batches(config, path, check=check))


def first(config: str, path: str) -> int:
    """Stream the first batch."""
    stream = batches(config, path, check=True)
    jets = len(next(stream)["pf"])
    stream.close()  # type: ignore[attr-defined]
    return jets


class Weaver:
    """weaver's loader in an interpreter of its own, which measures itself when it is asked.

    Raises:
        RuntimeError: If weaver cannot be imported there, or its process ends.
    """

    def __init__(self, python: str) -> None:
        with tempfile.TemporaryFile("w+") as errors:
            self.process = subprocess.Popen(
                [python, str(ADAPTER), str(BATCH)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
            assert self.process.stdout is not None
            if self.process.stdout.readline() != "ready\n":
                self.process.wait()
                errors.seek(0)
                raise RuntimeError((errors.read().strip().splitlines() or ["it ended"])[-1])

    def ask(self, what: str, **more: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": what, **more}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"weaver's process ended with {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def cost(self, what: str, **more: Any) -> Cost:
        answer = self.ask(what, **more)
        return Cost(answer["cpu"], answer["wall"])

    def close(self) -> None:
        self.process.communicate()


def run(options: Options) -> Iterator[Report]:
    source = DATA / "JetClassII_example.parquet"
    if not source.is_file():
        note = f"skipped: no public jets in {DATA}; name the folder by HEPSET_JETCLASS_DATA"
        yield Report(9, "JetClass files to jets", notes=[note])
        return
    weaver, missing = None, ""
    try:
        weaver = Weaver(os.environ.get("HEPSET_WEAVER_PYTHON", sys.executable))
    except (OSError, RuntimeError) as problem:
        missing = MISSING.format(reason=problem)
    config = options.folder / "sophon.yaml"
    unweighted(DATA / "JetClassII_full.yaml", config)
    table = make_table(source, options.events(JETS))
    try:
        for kind, write in {"parquet": write_parquet, "root": write_root}.items():
            path = options.folder / f"QCD_0000.{kind}"
            write(table, path)
            report = compare(kind, str(path), str(config), options, weaver)
            if missing:
                report.notes.append(missing)
            yield report
    finally:
        if weaver is not None:
            weaver.close()


def compare(kind: str, path: str, config: str, options: Options, weaver: Weaver | None) -> Report:
    """Compare on one file."""
    jets = read(path)
    selected = deliver(config, path)
    tasks: dict[str, Task] = {
        READ: lambda: read(path),
        STREAM: lambda: deliver(config, path),
        UNCHECKED: lambda: deliver(config, path, check=False),
    }
    starts: dict[str, Task] = {STREAM: lambda: first(config, path)}
    module = "benchmarks.bench_jetclass_loading"
    memory: dict[str, Cell] = {
        READ: peak_memory(f"{module}:read", path).added,
        STREAM: peak_memory(f"{module}:deliver", config, path).added,
    }
    if weaver is not None:
        request = {"data": path, "config": config, "columns": COLUMNS, **FETCH[kind]}
        assert weaver.ask("deliver", **request)["events"] == selected
        tasks[WEAVER_READ] = partial(weaver.cost, "read", **request)
        tasks[WEAVER] = partial(weaver.cost, "deliver", **request)
        starts[WEAVER] = partial(weaver.cost, "first", **request)
        memory[WEAVER] = weaver.ask("peak", **request)["added"]
    costs = interleave(tasks, options.repeats)
    started = interleave(starts, options.repeats)
    base = STREAM if weaver is None else WEAVER
    per_jet = {name: cost.per(selected) for name, cost in costs.items()}
    report = Report(9, f"JetClass-II, {kind}, {jets} jets of which {selected} are selected")
    report.tables = [
        cost_table("per selected jet", per_jet, base, more={"peak MB": memory}),
        cost_table("to the first batch", started, base, unit="ms"),
    ]
    if weaver is not None:
        pairs = ((WEAVER, STREAM, 3.0), (WEAVER, UNCHECKED, 3.0), (WEAVER_READ, READ, 1.0))
        for theirs, ours, least in pairs:
            ratio = costs[theirs].over(costs[ours]).cpu
            report.floors.append(Floor(f"{kind}: {theirs} / {ours}, CPU", ratio, least))
        theirs_mb, ours_mb = memory[WEAVER], memory[STREAM]
        assert isinstance(theirs_mb, float)
        assert isinstance(ours_mb, float)
        report.floors.append(
            Floor(f"{kind}: peak memory, hepset / weaver", ours_mb / theirs_mb, 1.0, at_least=False)
        )
    return report
