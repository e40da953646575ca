"""Run all benchmarks, or some: ``python -m benchmarks [name …]``."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.harness import Report

# One native thread each, and set before any library reads it.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

FOLDER = Path(__file__).parent
RESULTS = FOLDER / "results"
NAMES = tuple(sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py")))


def single_thread() -> None:
    """Let the libraries compute in one thread."""
    import pyarrow as pa
    import torch

    pa.set_cpu_count(1)
    torch.set_num_threads(1)


def show(report: Report, limits: dict[str, float], seconds: float) -> None:
    """Print one report."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as RichTable

    from benchmarks.harness import shown

    console = Console(width=max(Console().width, 120), highlight=False)
    console.rule(f"[bold]{report.number}. {escape(report.title)}", align="left")
    for table in report.tables:
        console.print(escape(table.title), style="italic")
        printed = RichTable()
        printed.add_column("")
        for column in table.columns:
            printed.add_column(escape(column), justify="right")
        for name, cells in table.rows.items():
            printed.add_row(escape(name), *(escape(shown(cell)) for cell in cells))
        console.print(printed)
    for floor in report.floors:
        colour = "green" if floor.met else "red"
        console.print(f"[{colour}]{escape(floor.describe())}")
    for note in report.notes:
        console.print(escape(note), style="dim", soft_wrap=True)
    now = ", ".join(f"{name} {value:.1f} GB/s" for name, value in limits.items())
    console.print(f"limits in this run: {now}; took {seconds:.0f} s\n", style="dim")


def main(arguments: list[str] | None = None) -> int:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Speed and memory, as ratios of one run."
    )
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(NAMES)}; all")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each contender")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on numbers of events")
    parser.add_argument(
        "--spanet-python",
        default=os.environ.get("HEPSET_SPANET_PYTHON"),
        help="interpreter that can import SPANet ($HEPSET_SPANET_PYTHON)",
    )
    parser.add_argument(
        "--checkout",
        type=Path,
        action="append",
        default=[],
        help="another checkout of hepset beside this one, in `structure`; may be repeated",
    )
    parser.add_argument(
        "--record",
        action="store_true",
        help="write the figures, with machine and versions, to benchmarks/results/<name>.md",
    )
    parser.add_argument("--output", type=Path, default=Path("build/benchmarks.json"))
    parser.add_argument("--directory", type=Path, help="where scratch files go")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(NAMES))
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    single_thread()
    from benchmarks.harness import Options, as_markdown, machine, machine_limits

    results: list[dict[str, Any]] = []
    for name in options.names or NAMES:
        module = importlib.import_module(f"benchmarks.bench_{name}")
        limits, where = machine_limits(), machine()
        reports = []
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix=f"hepset-{name}-", dir=options.directory) as folder:
            chosen = Options(
                Path(folder),
                options.repeats,
                options.scale,
                options.spanet_python,
                tuple(path.resolve() for path in options.checkout),
            )
            for report in module.run(chosen):
                seconds = time.perf_counter() - start
                show(report, limits, seconds)
                reports.append(report)
                results.append({"benchmark": name, "limits_gb_s": limits, **report.as_json()})
                start = time.perf_counter()
        if options.record:
            RESULTS.mkdir(exist_ok=True)
            (RESULTS / f"{name}.md").write_text(as_markdown(name, reports, where))
    document = {
        "machine": machine(),
        "repeats": options.repeats,
        "scale": options.scale,
        "reports": results,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    print(f"all figures: {options.output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
