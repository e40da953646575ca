"""The loss of every epoch, as training has logged it."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hepset.figures import COLOURS, styled

__all__ = ["draw_history", "read_history"]

Curves = dict[str, dict[str, list[tuple[float, float]]]]
"""Loss (``loss``, ``signal/cross_entropy``) → ``train`` or ``val`` → (epoch, value)."""


def read_history(directory: Path) -> Curves:
    """Read the losses that training has logged as CSV in ``<run>/logs``.

    Columns ``train/<loss>`` and ``val/<loss>`` are taken, one point per ``epoch``; a training that
    was continued may have left several files, the newest says what an epoch's loss was.

    Returns:
        The curves; empty where nothing was logged.
    """
    points: dict[str, dict[str, dict[float, float]]] = {}
    files = sorted((directory / "logs").rglob("*.csv"), key=lambda path: path.stat().st_mtime)
    for path in files:
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                epoch = _number(row.get("epoch"))
                if epoch is None:
                    continue
                for column, text in row.items():
                    part, _, loss = (column or "").partition("/")
                    value = _number(text)
                    if part in {"train", "val"} and loss and value is not None:
                        points.setdefault(loss, {}).setdefault(part, {})[epoch] = value
    return {
        loss: {part: sorted(curve.items()) for part, curve in parts.items()}
        for loss, parts in points.items()
    }


def losses_of(curves: Curves, heads: list[str]) -> list[str]:
    """Return the curves that are losses: the sum, and those of heads."""
    return [name for name in curves if name == "loss" or name.split("/")[0] in heads]


@styled
def draw_history(name: str, curve: dict[str, list[tuple[float, float]]]) -> Figure:
    """Draw one loss of the training and of the validation split against the epoch."""
    figure = Figure(figsize=(5.6, 3.8), dpi=72)
    axes = figure.add_subplot()
    for part, colour, marker in (("train", COLOURS[0], "o"), ("val", COLOURS[1], "s")):
        points = curve.get(part, [])
        if points:
            axes.plot(
                [epoch + 1 for epoch, _ in points],
                [value for _, value in points],
                color=colour,
                marker=marker,
                markersize=4,
                label={"train": "training", "val": "validation"}[part],
            )
    best = min(curve.get("val", []), key=lambda point: point[1], default=None)
    if best is not None and name == "loss":
        axes.axvline(best[0] + 1, color="0.6", linestyle="--", linewidth=1, label="best epoch")
    axes.set_xlabel("epoch")
    axes.set_ylabel("total loss" if name == "loss" else f"{name} loss")
    axes.ticklabel_format(useMathText=False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    return figure


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None
