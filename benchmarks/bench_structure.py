"""How hepset is built: functions on the way, import cycles, lines; beside another checkout."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import Options, Report, Table, run_python

SCRIPT = Path(__file__).with_name("structure.py")
HERE = SCRIPT.parents[1]


def commit(checkout: Path) -> str:
    """Return the commit of a checkout, or its folder where git cannot tell."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or checkout.name


def run(options: Options) -> Iterator[Report]:
    """Trace a run of 400 events in this checkout, and in others that were named."""
    report = Report(17, "how hepset is built")
    checkouts = {"here": HERE} | {commit(path): path for path in options.checkouts}
    found: dict[str, dict[str, Any]] = {}
    for name, path in checkouts.items():
        found[name] = json.loads(run_python([sys.executable, str(SCRIPT), str(path)]))
        for cycle in found[name].pop("cycles"):
            report.notes.append(f"{name}: these import each other: {', '.join(cycle)}")
    rows = {what: tuple(figures[what] for figures in found.values()) for what in found["here"]}
    title = "a run of 400 events from one Parquet file; Python files and templates without tests"
    report.tables.append(Table(title, tuple(checkouts), rows))
    yield report
