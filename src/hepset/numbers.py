"""Numbers as people read them: few digits, errors with two."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hepset.interfaces.judge import Metric

__all__ = ["metric_text", "number", "with_error"]


def number(value: float | None, digits: int = 4) -> str:
    """Return a number in few digits; a dash where it is not known."""
    if value is None or not math.isfinite(value):
        return "–"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}".replace(",", " ").replace("-", "−")
    return f"{value:.{digits}g}".replace("-", "−")


def with_error(
    value: float | None, error: float | None, unit: str = "", *, bound: bool = False
) -> str:
    """Return value ± error with two digits of the error, and the unit.

    A lower bound is ``> value`` with its confidence.
    """
    if value is None or not math.isfinite(value):
        return "not defined"
    suffix = f" {unit}" if unit else ""
    if bound:
        return f"> {value:.3g}{suffix} (95 % CL)".replace("-", "−")
    if error is None or not math.isfinite(error) or error <= 0:
        return f"{value:.4g}{suffix}".replace("-", "−")
    places = max(0, 1 - math.floor(math.log10(error)))
    if places > 8:
        return f"{value:.4g} ± {error:.1e}{suffix}".replace("-", "−")
    return f"{value:.{places}f} ± {error:.{places}f}{suffix}".replace("-", "−")


def metric_text(metric: Metric) -> str:
    """Return a metric with its error and unit, or as the bound that it is, or why it is none."""
    if metric.note:
        return f"no meaning: {metric.note}"
    return with_error(metric.value, metric.error, metric.unit, bound=metric.bound)
