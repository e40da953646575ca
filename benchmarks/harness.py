"""How contenders are measured and what comes of it: costs, peak memory, limits, tables, floors."""

from __future__ import annotations

import gc
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]

VERSIONS = ("hepset", "numpy", "torch", "pyarrow", "awkward", "uproot", "onnxruntime")
"""Distributions whose versions belong to a figure."""

Task = Callable[[], object]
Cell = float | str | None


@dataclass(frozen=True)
class Options:
    """What the user chose for all benchmarks.

    Attributes:
        folder: Scratch space, empty, gone afterwards.
        repeats: Turns of every contender that count.
        scale: Factor on the number of events.
        spanet_python: Interpreter that can import SPANet, if it is not this one.
        checkouts: Other checkouts of hepset to set beside this one.
    """

    folder: Path
    repeats: int = 3
    scale: float = 1.0
    spanet_python: str | None = None
    checkouts: tuple[Path, ...] = ()

    def events(self, number: int) -> int:
        """Scale a number of events."""
        return max(int(number * self.scale), 1)


@dataclass(frozen=True)
class Cost:
    """Seconds of CPU (this process and its finished children) and of wall time."""

    cpu: float
    wall: float

    def per(self, events: float) -> Cost:
        """Return the cost of one event."""
        return Cost(self.cpu / events, self.wall / events)

    def least(self, other: Cost) -> Cost:
        """Return the smaller figure of either kind."""
        return Cost(min(self.cpu, other.cpu), min(self.wall, other.wall))

    def over(self, base: Cost) -> Cost:
        """Return both figures as ratios to those of another."""
        return Cost(self.cpu / base.cpu, self.wall / base.wall)


def now() -> Cost:
    """Return what the clocks show."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
    return Cost(cpu, time.perf_counter())


def measure(task: Task) -> Cost:
    """Run a task once; a task that measured itself elsewhere returns its `Cost`."""
    gc.collect()
    start = now()
    found = task()
    end = now()
    return found if isinstance(found, Cost) else Cost(end.cpu - start.cpu, end.wall - start.wall)


def turns(names: Sequence[str], repeats: int, seed: int = 0) -> list[list[str]]:
    """Return who runs when: every name once per turn, each turn in another order."""
    order = random.Random(seed)
    return [order.sample(names, len(names)) for _ in range(repeats)]


def interleave(
    contenders: Mapping[str, Task], repeats: int = 3, *, warm_up: bool = False, seed: int = 0
) -> dict[str, Cost]:
    """Let contenders take turns in shuffled order; return the least cost of each.

    Args:
        contenders: Name → what to run.
        repeats: Turns that count.
        warm_up: Whether to run every contender once before, uncounted.
        seed: Seed of the order.
    """
    if warm_up:
        for task in contenders.values():
            measure(task)
    best = dict.fromkeys(contenders, Cost(np.inf, np.inf))
    for names in turns(list(contenders), repeats, seed):
        for name in names:
            best[name] = best[name].least(measure(contenders[name]))
    return best


@dataclass(frozen=True)
class Peak:
    """Memory of a function in a process of its own, in MB.

    Attributes:
        added: Largest resident memory above that before the call, when all was imported.
        total: Largest resident memory of the process.
        children: That of the largest of its own children; 0 without.
        value: What the function returned.
    """

    added: float
    total: float
    children: float
    value: Any


def peak_memory(target: str, *arguments: Any, python: str | None = None) -> Peak:
    """Call ``module:function`` with JSON arguments in a fresh process and watch its memory."""
    command = [python or sys.executable, "-m", "benchmarks.peak", target, json.dumps(arguments)]
    return Peak(**json.loads(run_python(command).splitlines()[-1]))


def run_python(command: Sequence[str], bytecode: Path | None = None) -> str:
    """Run a command from the root of the repository; its standard error is shown if it fails.

    Args:
        command: What to run.
        bytecode: Where Python keeps what it has compiled, for processes whose start is measured:
            installed packages are compiled once, not at every start.
    """
    environment = dict(os.environ)
    if bytecode is not None:
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        environment["PYTHONPYCACHEPREFIX"] = str(bytecode)
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


def machine_limits() -> dict[str, float]:
    """Return what the machine gives now, in GB/s: copies and a read from the page cache."""
    large = 1 << 27
    found = {"memcpy of 1 MB": _copy_speed(1 << 20), "memcpy of 128 MB": _copy_speed(large)}
    with tempfile.NamedTemporaryFile() as file:
        file.write(bytes(large))
        file.flush()
        buffer = bytearray(1 << 20)

        def read() -> None:
            with Path(file.name).open("rb", buffering=0) as opened:
                while opened.readinto(buffer):
                    pass

        found["read from the page cache"] = (
            large / interleave({"": read}, warm_up=True)[""].wall / 1e9
        )
    return found


def _copy_speed(size: int) -> float:
    source, target = np.ones(size, "u1"), np.ones(size, "u1")
    times = (1 << 28) // size

    def copy() -> None:
        for _ in range(times):
            np.copyto(target, source)

    return times * size / interleave({"": copy}, warm_up=True)[""].wall / 1e9


def machine() -> dict[str, Any]:
    """Return what the figures were measured on, and with which versions."""
    load = os.getloadavg()[0]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpu": cpu_name(),
        "cores": cores,
        "load": load,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in VERSIONS},
    }


def cpu_name(description: Path = Path("/proc/cpuinfo")) -> str:
    """Return the processor's name and its widest vectors, as far as the system tells them."""
    if not description.is_file():
        return platform.processor() or platform.machine()
    lines = (line.partition(":") for line in description.read_text().splitlines())
    told = {key.strip(): value.strip() for key, _, value in lines}
    flags = told.get("flags", "").split()
    widest = next((n for f, n in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if f in flags), "")
    return ", ".join(filter(None, [told.get("model name", platform.machine()), widest]))


@dataclass(frozen=True)
class Table:
    """Figures of some contenders.

    Attributes:
        title: What was measured.
        columns: Headings of the figures.
        rows: Contender → its figures.
    """

    title: str
    columns: tuple[str, ...]
    rows: dict[str, tuple[Cell, ...]]


@dataclass(frozen=True)
class Floor:
    """A ratio and what it should be; shown, never asserted."""

    what: str
    measured: float
    limit: float
    at_least: bool = True

    @property
    def met(self) -> bool:
        """Whether the ratio is on the right side of its limit."""
        if self.at_least:
            return self.measured >= self.limit
        return self.measured <= self.limit

    def describe(self) -> str:
        """Return the ratio, its limit and the verdict."""
        sign, verdict = "≥" if self.at_least else "≤", "met" if self.met else "NOT MET"
        return f"{self.what}: {self.measured:.3g} (floor {sign} {self.limit:g}, {verdict})"


@dataclass
class Report:
    """Outcome of one benchmark.

    Attributes:
        number: Its number in the list of benchmarks.
        title: What is compared.
        tables: Figures.
        floors: Ratios that should hold.
        notes: Anything to know, a skipped contender for instance.
    """

    number: int
    title: str
    tables: list[Table] = field(default_factory=list)
    floors: list[Floor] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain data."""
        floors = [{**asdict(floor), "met": bool(floor.met)} for floor in self.floors]
        return {**asdict(self), "floors": floors}


def cost_table(
    title: str,
    costs: Mapping[str, Cost],
    base: str,
    *,
    more: Mapping[str, Mapping[str, Cell]] | None = None,
    unit: str = "µs/event",
) -> Table:
    """Tabulate costs, and their ratios to one contender.

    Args:
        title: What was measured.
        costs: Contender → its cost in seconds.
        base: Contender whose ratio is 1.
        more: Heading → contender → further figure.
        unit: ``µs/event`` for costs per event, or ``ms``.
    """
    extra = more or {}
    factor = {"µs/event": 1e6, "ms": 1e3}[unit]
    rows = {}
    for name, cost in costs.items():
        ratio = cost.over(costs[base])
        figures = (factor * cost.cpu, ratio.cpu, factor * cost.wall, ratio.wall)
        rows[name] = (*figures, *(column.get(name) for column in extra.values()))
    headings = (f"CPU {unit}", "ratio", f"wall {unit}", "ratio")
    return Table(f"{title}; ratios to {base}", (*headings, *extra), rows)


def shown(cell: Cell) -> str:
    """Write one figure."""
    if cell is None:
        return "–"
    if isinstance(cell, str):
        return cell
    if cell != 0 and (abs(cell) < 1e-3 or abs(cell) >= 1e6):
        return f"{cell:.1e}"
    return f"{cell:.0f}" if abs(cell) >= 100 else f"{cell:.3g}"


def as_markdown(name: str, reports: Sequence[Report], where: Mapping[str, Any]) -> str:
    """Write the figures of one benchmark as a page.

    Args:
        name: The benchmark.
        reports: What it found.
        where: `machine()`.
    """
    versions = ", ".join(f"{what} {number}" for what, number in where["versions"].items())
    place = f"{where['cpu']}, {where['cores']} cores, load {where['load']:.1f}"
    page = [
        f"# Benchmark `{name}`",
        "",
        f"{where['date']} · {place} · Python {where['python']}, {versions}",
    ]
    for report in reports:
        page += ["", f"## {report.number}. {report.title}"]
        for table in report.tables:
            page += ["", table.title, "", f"| | {' | '.join(table.columns)} |"]
            page += [f"| --- |{' ---: |' * len(table.columns)}"]
            page += [f"| {n} | {' | '.join(map(shown, row))} |" for n, row in table.rows.items()]
        page += ["", *(f"- {floor.describe()}" for floor in report.floors)] if report.floors else []
        page += ["", *(f"- {note}" for note in report.notes)] if report.notes else []
    return "\n".join(page) + "\n"
