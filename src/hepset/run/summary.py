"""What a run says on the terminal when it is done."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from hepset.numbers import metric_text
from hepset.run.stages import StageRecords

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["print_summary"]


def print_summary(
    console: Console, name: str, output: Path, dataset: Path, metrics: Mapping[str, Any]
) -> None:
    """Print up to three numbers, each beside its baseline, and where the results are.

    What an earlier training has left behind is not shown.

    Args:
        console: Where to.
        name: Of the run.
        output: Directory of the run, finished or not.
        dataset: Directory of its dataset.
        metrics: Content of its ``metrics.json``; empty where there is none.
    """
    done = StageRecords(output)
    if done.has("evaluate") and metrics.get("heads"):
        console.print(_table(name, metrics))
    places = [
        ("dataset", dataset, (dataset / "dataset.json").exists()),
        ("report", output / "report.html", done.has("evaluate")),
        ("model", output / "model.onnx", done.has("export")),
    ]
    for what, path, there in places:
        if there:
            console.print(f"{what}: {escape(str(path))}", highlight=False)


def _table(name: str, metrics: Mapping[str, Any]) -> Table:
    """The headline of ``metrics.json``."""
    from hepset.report.summary import (  # noqa: PLC0415  imports torch
        compare_metric,
        headline,
        metric_of,
        verdict,
    )

    heads = {
        head: (
            [metric_of(part) for part in found.get("metrics", [])],
            [metric_of(part) for part in found.get("baselines", [])],
        )
        for head, found in metrics["heads"].items()
    }
    table = Table(
        title=f"{escape(name)}: {metrics.get('events', 0)} events of the split "
        f"{metrics.get('split', '?')!r}",
        title_justify="left",
    )
    for title in ("head", "metric", "model", "baseline", ""):
        table.add_column(title)
    for head, metric, baseline in headline(heads):
        beside, sigma = "none", math.nan
        if baseline is not None:
            beside = metric_text(baseline)
            beside += f" ({baseline.of})" if baseline.of else ""
            sigma = compare_metric(metric, baseline)
        cells = (
            head,
            metric.name,
            metric_text(metric),
            beside,
            verdict(sigma),
        )
        table.add_row(*map(escape, cells))
    return table
