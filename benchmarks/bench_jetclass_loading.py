"""Benchmark 9: JetClass-II files to jets, against weaver-core's loader.

100 000 jets made of the public hundred, in Parquet and in ROOT, with Sophon's selection and derived
variables, without and with its reweighting. Of hepset: the reader alone; batches streamed from the
files, checked against the contract or not; batches of the data set that the files are converted to,
in memory that is used again, as a training reads them. Of weaver: reading the columns, and the
batches of its loader, in the interpreter of HEPSET_WEAVER_PYTHON. One computing thread, no worker
process.

weaver is given each file in the steps that cost it least (``at its best``) and in those of Sophon's
published instructions: of Parquet a whole file at once, of ROOT a fiftieth of a file of 100 000. A
process that starts, imports and gives one batch is measured from outside.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
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
    Table,
    Task,
    cost_table,
    interleave,
    peak_memory,
    run_python,
)
from benchmarks.jetclass_files import make_table, write_parquet, write_root
from benchmarks.other_program import OtherProgram
from hepset import Run, open_dataset
from hepset.readers import open_reader
from hepset_jetclass.columns import PARTICLES

DATA = Path(os.environ.get("HEPSET_JETCLASS_DATA", ROOT.parent / "shared/data/jetclass2"))
ADAPTER = Path(__file__).parent / "weaver_adapter.py"
JETS = 100_000
BATCH = 512
FETCH: dict[str, dict[str, int]] = {
    "parquet": {"best": JETS, "published": JETS},
    "root": {"best": 10_000, "published": 2_000},
}
"""Jets that weaver is to fetch at a time. In every step it reads all of a Parquet file, so that one
step is best; Sophon's 200 steps over 268 files of a worker are more than a file each. ROOT files
are best read by whole clusters."""
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
PUBLISHED = "weaver: batches, published steps"
WEIGHTED = "hepset: batches, reweighted"
CONVERTED = "hepset: batches, converted"
WEAVER_WEIGHTED = "weaver: batches, reweighted"
COLD = """
import sys, time
began = time.perf_counter()
import torch
from hepset import Run, open_dataset
from benchmarks.bench_jetclass_loading import first
imported, cpu = time.perf_counter(), time.process_time()
first(*sys.argv[1:])
print(imported - began, cpu, time.process_time())
"""
"""A process of its own that gives one batch; it prints wall and CPU of its imports, and all CPU."""
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


def document(config: str, path: str) -> dict[str, Any]:
    """Describe a run over one file, all of which is for training."""
    return {
        "event": config,
        "read": {"reader": "jetclass", "files": [path]},
        "prepare": {"split": {"train": 1.0, "val": 0.0, "test": 0.0}},
        "output": f"{path}.run",
    }


def batches(config: str, path: str, *, check: bool) -> Iterator[dict[str, Any]]:
    """Stream what the configuration asks for."""
    run = Run.from_yaml(document(config, path))
    return iter(run.stream("train", batch_size=BATCH, check=check))


def deliver(config: str, path: str, check: bool = True) -> int:
    """Stream all batches."""
    return sum(len(batch["pf"]) for batch in batches(config, path, check=check))


def first(config: str, path: str) -> int:
    """Stream the first batch."""
    stream = batches(config, path, check=True)
    jets = len(next(stream)["pf"])
    stream.close()  # type: ignore[attr-defined]
    return jets


def weighted(config: str, path: str) -> Callable[[], int]:
    """Return what streams one epoch, with the weights learnt before."""
    stream = Run.from_yaml(document(config, path)).stream("train", batch_size=BATCH)
    return lambda: sum(len(batch["pf"]) for batch in stream)


def converted(config: str, path: str) -> Callable[[], int]:
    """Convert, and return what gives all batches of the data set once."""
    loader = (
        Run.from_yaml(document(config, path))
        .prepare()
        .loader("train", batch_size=BATCH, shuffle=True)
    )
    return lambda: sum(len(batch["pf"]) for batch in loader)


def deliver_converted(folder: str) -> int:
    """Give all batches of a data set that is there."""
    loader = open_dataset(folder).loader("train", batch_size=BATCH, shuffle=True, copy=False)
    return sum(len(batch["pf"]) for batch in loader)


def start_weaver(python: str) -> OtherProgram:
    """Start weaver's loader in its interpreter."""
    return OtherProgram("weaver", python, ADAPTER, BATCH)


def run(options: Options) -> Iterator[Report]:
    source = DATA / "JetClassII_example.parquet"
    if not source.is_file():
        note = f"skipped: no public jets in {DATA}; name the folder by HEPSET_JETCLASS_DATA"
        yield Report(9, "JetClass files to jets", notes=[note])
        return
    python = os.environ.get("HEPSET_WEAVER_PYTHON", sys.executable)
    weaver, missing = None, ""
    try:
        weaver = start_weaver(python)
    except RuntimeError as problem:
        missing = MISSING.format(reason=problem)
    config = options.folder / "sophon.yaml"
    unweighted(DATA / "JetClassII_full.yaml", config)
    table = make_table(source, options.events(JETS))
    try:
        for kind, write in {"parquet": write_parquet, "root": write_root}.items():
            path = options.folder / f"QCD_0000.{kind}"
            write(table, path)
            # weaver keeps the weights that it learns beside the configuration.
            reweighted = options.folder / f"sophon_{kind}.yaml"
            shutil.copyfile(DATA / "JetClassII_full.yaml", reweighted)
            report = compare(kind, str(path), (str(config), str(reweighted)), options, weaver)
            if weaver is None:
                report.notes.append(missing)
            else:
                cold(kind, str(path), str(config), python, options, report)
            yield report
    finally:
        if weaver is not None:
            weaver.close()


def compare(
    kind: str, path: str, configs: tuple[str, str], options: Options, weaver: OtherProgram | None
) -> Report:
    """Compare on one file."""
    config, reweighted = configs
    selected = deliver(config, path)
    epoch, again = weighted(reweighted, path), converted(config, path)
    tasks: dict[str, Task] = {
        READ: lambda: read(path),
        STREAM: lambda: deliver(config, path),
        UNCHECKED: lambda: deliver(config, path, check=False),
        WEIGHTED: epoch,
        CONVERTED: again,
    }
    drawn = {WEIGHTED: epoch(), CONVERTED: again()}
    module = "benchmarks.bench_jetclass_loading"
    peaks: dict[str, Any] = {
        STREAM: asdict(peak_memory(f"{module}:deliver", config, path)),
        CONVERTED: asdict(
            peak_memory(f"{module}:deliver_converted", str(Path(f"{path}.run") / "dataset"))
        ),
    }
    if weaver is not None:
        request = {"data": path, "config": config, "columns": COLUMNS}
        best, published = steps(kind, "best", options), steps(kind, "published", options)
        requests = {WEAVER: {**request, **best}}
        if published != best:
            requests[PUBLISHED] = {**request, **published}
        for name, asked in requests.items():
            assert weaver.ask("deliver", **asked)["events"] == selected
            tasks[name] = partial(weaver.cost, "deliver", **asked)
            peaks[name] = weaver.ask("peak", **asked)
        tasks[WEAVER_READ] = partial(weaver.cost, "read", **request)
        with_weights = {**request, **best, "config": reweighted}
        drawn[WEAVER_WEIGHTED] = weaver.ask("deliver", **with_weights)["events"]
        tasks[WEAVER_WEIGHTED] = partial(weaver.cost, "deliver", **with_weights)
    costs = interleave(tasks, options.repeats)
    base = STREAM if weaver is None else WEAVER
    per_jet = {name: cost.per(drawn.get(name, selected)) for name, cost in costs.items()}
    memory: dict[str, Cell] = {name: peak["total"] for name, peak in peaks.items()}
    added: dict[str, Cell] = {name: peak["added"] for name, peak in peaks.items()}
    jets: dict[str, Cell] = {name: float(drawn.get(name, selected)) for name in costs}
    report = Report(9, f"JetClass-II, {kind}, of which {selected} jets are selected")
    columns = {"peak MB": memory, "of these added MB": added, "jets": jets}
    report.tables = [cost_table("per delivered jet", per_jet, base, more=columns)]
    if weaver is not None:
        pairs = [
            (WEAVER, STREAM, 3.0),
            (WEAVER, UNCHECKED, 3.0),
            (WEAVER_WEIGHTED, WEIGHTED, 4.0),
            (WEAVER, CONVERTED, 5.0),
            (WEAVER_READ, READ, 1.0),
            *((PUBLISHED, name, 3.0) for name in (STREAM,) if PUBLISHED in per_jet),
        ]
        for theirs, ours, least in pairs:
            ratio = per_jet[theirs].over(per_jet[ours]).cpu
            report.floors.append(Floor(f"{kind}: {theirs} / {ours}, CPU", ratio, least))
        for theirs in (name for name in (WEAVER, PUBLISHED) if name in peaks):
            for ours in (STREAM, CONVERTED):
                ratio = peaks[ours]["total"] / peaks[theirs]["total"]
                what = f"{kind}: peak memory of the process, {ours} / {theirs}"
                report.floors.append(Floor(what, ratio, 1.0, at_least=False))
    return report


def steps(kind: str, how: str, options: Options) -> dict[str, Any]:
    """Say how weaver is to fetch the file."""
    return {"step": min(1.0, FETCH[kind][how] / options.events(JETS)), "split": 1}


def cold(kind: str, path: str, config: str, python: str, options: Options, report: Report) -> None:
    """Measure processes from their start to their first batch, from outside."""
    seconds: list[list[float]] = []
    fetch = steps(kind, "best", options)
    command = [sys.executable, "-c", COLD, config, path]
    run_python(command, options.folder / "bytecode")

    def ours() -> None:
        printed = run_python(command, options.folder / "bytecode")
        seconds.append([float(number) for number in printed.split()])

    def theirs() -> Cost:
        began = time.perf_counter()
        weaver = start_weaver(python)
        try:
            cpu = weaver.ask("first", data=path, config=config, **fetch)["cpu"]
        finally:
            weaver.close()
        return Cost(cpu, time.perf_counter() - began)

    found = interleave({STREAM: ours, WEAVER: theirs}, options.repeats)
    imports, of_imports, cpu = (min(column) for column in zip(*seconds, strict=True))
    rows: dict[str, tuple[Cell, ...]] = {
        STREAM: (found[STREAM].wall, imports, cpu, of_imports),
        WEAVER: (found[WEAVER].wall, None, None, None),
    }
    title = "from the start of a process to its first batch"
    columns = ("wall s", "of these imports", "CPU s", "of these imports")
    report.tables.append(Table(title, columns, rows))
    what = f"{kind}: first batch of a new process, seconds"
    report.floors.append(Floor(what, found[STREAM].wall, 2.0, at_least=False))
