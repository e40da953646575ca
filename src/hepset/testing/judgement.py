"""What a head says of its own results: metrics, baselines and figures."""

from __future__ import annotations

import io
import math
import re

import numpy as np

from hepset.interfaces.head import Head
from hepset.interfaces.judge import Drawing, Evaluation, Metric
from hepset.judges import judge_head
from hepset.testing.conditions import require

__all__ = ["draw", "judge"]


def judge(head: Head, evaluation: Evaluation, where: str) -> dict[str, float]:
    """Require well-formed metrics and baselines, the same at every call.

    Args:
        head: The head.
        evaluation: What it is to judge.
        where: Which head on which events, for messages.

    Returns:
        The value of each metric.

    Raises:
        AssertionError: Naming the metric and the reason.
    """
    try:
        own = judge_head(head, evaluation)
        metrics, baselines = own.metrics(), own.baselines()
        again = judge_head(head, evaluation).metrics()
    except Exception as problem:
        raise AssertionError(
            f"{where} metrics or baselines raise {type(problem).__name__} ({problem}): the "
            "report of the other heads would be lost"
        ) from problem
    for metric in metrics:
        _metric(metric, where)
        require(metric.of == "", f"{where} metric {metric.name!r} is said to be of {metric.of!r}")
    for metric in baselines:
        _metric(metric, where)
        require(metric.of, f"{where} baseline {metric.name!r} does not say whose it is (of)")
    names = [metric.name for metric in metrics]
    require(len(set(names)) == len(names), f"{where} two metrics have one name: {names}")
    stray = sorted({metric.name for metric in baselines} - set(names))
    require(
        not stray,
        f"{where} baselines {stray} have no metric of the same name to stand beside: {names}",
    )
    by_name = {metric.name: metric for metric in metrics}
    for metric in baselines:
        mine = by_name[metric.name]
        require(
            (mine.unit, mine.better) == (metric.unit, metric.better),
            f"{where} baseline {metric.name!r} has unit and direction "
            f"{(metric.unit, metric.better)}, the metric {(mine.unit, mine.better)}",
        )
    require(
        _numbers(metrics) == _numbers(again),
        f"{where} metrics differ from call to call: seed the bootstrap",
    )
    return {metric.name: metric.value for metric in metrics}


def _metric(metric: Metric, where: str) -> None:
    require(isinstance(metric, Metric), f"{where}: {metric!r} is no Metric")
    require(metric.name.strip(), f"{where}: a metric has no name")
    for part in ("value", "error"):
        number = getattr(metric, part)
        require(
            isinstance(number, float | int | np.floating) and not math.isinf(number),
            f"{where} metric {metric.name!r}: {part} is {number!r}; give a finite number, or "
            "NaN where it is unknown",
        )
    require(not metric.error < 0, f"{where} metric {metric.name!r}: the error {metric.error} < 0")
    require(
        metric.better in {"higher", "lower"},
        f"{where} metric {metric.name!r}: better is {metric.better!r}",
    )


def draw(head: Head, evaluation: Evaluation, where: str, *, save: bool) -> None:
    """Require well-formed figures, none of which stays open.

    Args:
        head: The head.
        evaluation: What it is to draw.
        where: Which head on which events, for messages.
        save: Whether each figure is also drawn into a file in memory, which takes a while.

    Raises:
        AssertionError: Naming the figure and the reason.
    """
    import matplotlib.pyplot as plt  # noqa: PLC0415  heads without figures need none
    from matplotlib.figure import Figure  # noqa: PLC0415

    before = set(plt.get_fignums())
    try:
        drawings = judge_head(head, evaluation).figures()
    except Exception as problem:
        plt.close("all")
        raise AssertionError(
            f"{where} figures raise {type(problem).__name__} ({problem}): the report of the "
            "other heads would be lost"
        ) from problem
    try:
        names = [drawing.name for drawing in drawings]
        require(len(set(names)) == len(names), f"{where} two figures have one name: {names}")
        for drawing in drawings:
            require(isinstance(drawing, Drawing), f"{where}: {drawing!r} is no Drawing")
            require(
                re.fullmatch(r"[A-Za-z0-9_.\-]+", drawing.name),
                f"{where} figure {drawing.name!r}: the name becomes that of a file: letters, "
                "digits, '_', '-' and '.'",
            )
            require(drawing.title.strip(), f"{where} figure {drawing.name!r} has no title")
            require(drawing.caption.strip(), f"{where} figure {drawing.name!r} has no caption")
            if not save:
                continue
            try:
                figure = drawing.figure
                figure.savefig(io.BytesIO(), format="svg")
            except Exception as problem:
                raise AssertionError(
                    f"{where} figure {drawing.name!r} cannot be drawn: "
                    f"{type(problem).__name__} ({problem})"
                ) from problem
            require(
                isinstance(figure, Figure),
                f"{where} figure {drawing.name!r} is a {type(figure).__name__}",
            )
            plt.close(figure)
    finally:
        for drawing in drawings:
            if drawing.is_drawn:
                plt.close(drawing.figure)
        left = set(plt.get_fignums()) - before
        for number in left:
            plt.close(number)
    require(
        not left,
        f"{where} figures leaves {len(left)} figures open that it does not return: memory "
        "would grow with every report",
    )


def _numbers(metrics: list[Metric]) -> list[tuple[str, str, str]]:
    return [(metric.name, repr(metric.value), repr(metric.error)) for metric in metrics]
