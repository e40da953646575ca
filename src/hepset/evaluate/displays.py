"""Single events as a physicist draws them: the objects of a stream in η and φ."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from hepset.arrays import Array
from hepset.errors import ConfigurationError, did_you_mean
from hepset.evaluate.columns import KeptColumn, quantity, require_quantity
from hepset.evaluate.spectra import class_labels
from hepset.figures import COLOURS, styled
from hepset.interfaces.judge import Drawing, Evaluation
from hepset.kinematics import eta_of, phi_of, pt_of
from hepset.model.input_transform import four_momentum, momentum_columns
from hepset.numbers import number
from hepset.schema.config import DisplayConfig
from hepset.schema.event import EventInfo

__all__ = ["display", "require_display"]

COLUMNS: Final = 3
OUTSIDE: Final = 0.005
"""Share of the objects that may lie outside the frames on each side."""
LARGEST_CLASSES: Final = 12
"""Classes that are drawn: the first ones."""
MARKERS: Final = ("^", "v", "o", "s", "D", "P", "X")
SMALLEST: Final = 9.0
"""Area of the marker of the softest object, in square points."""
LARGEST: Final = 900.0
"""Area of the marker of an object that has all of the event's size."""


class _Objects(NamedTuple):
    """What is drawn of a stream, each of shape ``(event, slot)``.

    Attributes:
        x: Horizontal place.
        y: Vertical place.
        size: What the area of a marker stands for, not negative.
        mask: Which are real.
        kind: Index of each object's kind, −1 where it has none.
        labels: Of the two axes.
        size_label: Of the size; empty where all have the same.
    """

    x: Array
    y: Array
    size: Array
    mask: Array
    kind: Array
    labels: tuple[str, str]
    size_label: str


def require_display(
    asked: DisplayConfig, event: EventInfo, extras: Mapping[str, KeptColumn], where: str
) -> None:
    """Refuse a display of what is not there.

    Raises:
        ConfigurationError: If the stream or one of the columns does not exist, or the stream has
            neither a four-momentum nor coordinates are named.
    """
    if asked.stream not in event.streams:
        raise ConfigurationError(
            f"{where}.stream: there is no stream {asked.stream!r}"
            f"{did_you_mean(asked.stream, event.streams)}; there are {', '.join(event.streams)}"
        )
    stream = event.streams[asked.stream]
    named = {"x": asked.x, "y": asked.y, "size": asked.size}
    named |= {f"kinds.{kind}": feature for kind, feature in asked.kinds.items()}
    for option, feature in named.items():
        if feature is not None and feature not in stream.features:
            raise ConfigurationError(
                f"{where}.{option}: the stream {asked.stream!r} has no feature {feature!r}"
                f"{did_you_mean(feature, stream.features)}; it has {', '.join(stream.features)}"
            )
    if stream.momentum is None and (asked.x is None or asked.y is None):
        raise ConfigurationError(
            f"{where}: the stream {asked.stream!r} has no four-momentum; say which features are "
            "the coordinates 'x' and 'y'"
        )
    for name in asked.values:
        stream_of = require_quantity(name, event, extras, f"{where}.values")
        if stream_of is not None:
            raise ConfigurationError(
                f"{where}.values: {name!r} has no single value per event, but one per object of "
                f"{stream_of!r}; keep one with prepare.derive, such as extra.<name>: max(…)"
            )


def display(asked: DisplayConfig, evaluation: Evaluation) -> list[Drawing]:
    """Draw the first events of every class, one panel each."""
    names, labels = class_labels(evaluation)
    shown = [
        (name, int(row))
        for index, name in enumerate(names[:LARGEST_CLASSES])
        for row in np.flatnonzero(labels == index)[: asked.per_class]
    ]
    if not shown:
        return []
    objects = _objects(asked, evaluation)
    sized = f"The area of a marker grows with {objects.size_label}. " if objects.size_label else ""
    return [
        Drawing(
            "-".join(["display", asked.stream, *filter(None, (asked.x, asked.y))]),
            f"Displays of {asked.stream}",
            f"The first evaluated events of each class, not chosen by what they look like. {sized}"
            f"At most {200 * OUTSIDE:g} % of the objects lie outside the frames; those beyond the "
            "last slot are not shown.",
            lambda: _draw(asked, evaluation, objects, shown),
        )
    ]


def _objects(asked: DisplayConfig, evaluation: Evaluation) -> _Objects:
    spec = evaluation.contract[asked.stream]
    values = np.asarray(evaluation.inputs[asked.stream], np.float64)
    mask = np.asarray(evaluation.inputs[f"{asked.stream}.mask"], bool)

    def column(feature: str) -> Array:
        found: Array = values[..., spec.columns.index(feature)]
        return found

    roles = momentum_columns(evaluation.event, evaluation.contract).get(asked.stream)
    p4 = None if roles is None else four_momentum(values, roles, mask)

    def place(
        feature: str | None, default: str, made: Callable[[Array], Array]
    ) -> tuple[Array, str]:
        if feature is None:
            assert p4 is not None
            return made(p4), default
        label = quantity(evaluation, f"{asked.stream}.{feature}").label.split(".", 1)[1]
        return column(feature), label

    x, x_label = place(asked.x, "η", eta_of)
    y, y_label = place(asked.y, "φ [rad]", phi_of)
    size, size_label = np.ones(mask.shape), ""
    if asked.size is not None:
        size, size_label = column(asked.size), asked.size
    elif p4 is not None:
        size, size_label = np.asarray(pt_of(p4)), "pT"
    kind = np.full(mask.shape, -1)
    for index, feature in reversed(list(enumerate(asked.kinds.values()))):
        kind[column(feature) > 0.5] = index
    size = np.where(mask, np.maximum(size, 0), 0)
    return _Objects(x, y, size, mask, kind, (x_label, y_label), size_label)


@styled
def _draw(
    asked: DisplayConfig, evaluation: Evaluation, objects: _Objects, shown: list[tuple[str, int]]
) -> Figure:
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(3.4 * columns, 3.5 * rows + 0.5), dpi=72)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    kinds = [*asked.kinds, *(["other"] if asked.kinds else [])]
    for axes, (name, row) in zip(grid.flat, shown, strict=False):
        _panel(axes, objects, row, len(asked.kinds))
        axes.set_title(name, fontsize=12, loc="left")
        text = [quantity(evaluation, each) for each in asked.values]
        lines = [f"{q.name} = {number(float(q.values[row]), 3)} {q.unit}".strip() for q in text]
        lines.append(f"{int(objects.mask[row].sum())} {asked.stream}")
        axes.text(
            0.03, 0.97, "\n".join(lines), transform=axes.transAxes, va="top", fontsize=9,
            color="0.25",
        )  # fmt: skip
    reach = _reach(objects, [row for _, row in shown])
    for axes in grid.flat:
        axes.tick_params(labelsize=10)
        axes.set_xlim(*reach[0])
        axes.set_ylim(*reach[1])
    for axes in grid[:, 0]:
        axes.set_ylabel(objects.labels[1], fontsize=11)
    for axes in list(grid.flat)[max(0, len(shown) - columns) : len(shown)]:
        axes.set_xlabel(objects.labels[0], fontsize=11)
        axes.tick_params(labelbottom=True)
    for axes in list(grid.flat)[len(shown) :]:
        axes.set_axis_off()
    seen = {int(k) for _, row in shown for k in objects.kind[row][objects.mask[row]]}
    handles = [
        Line2D([], [], ls="", marker=_marker(k), color=_colour(k), alpha=0.8, label=kinds[k])
        for k in [*sorted(seen - {-1}), *sorted(seen & {-1})]
        if kinds
    ]
    if handles:
        figure.legend(handles=handles, loc="outside upper left", ncols=len(handles), fontsize=10)
    return figure


def _panel(axes: Axes, objects: _Objects, row: int, kinds: int) -> None:
    """Draw one event, softest objects last so that nothing hides them."""
    real = objects.mask[row]
    total = objects.size[row].sum()
    share = objects.size[row] / total if total > 0 else objects.size[row]
    area = SMALLEST + LARGEST * share
    for kind in range(-1, kinds):
        chosen = np.flatnonzero(real & (objects.kind[row] == kind))
        chosen = chosen[np.argsort(-area[chosen], kind="stable")]
        axes.scatter(
            objects.x[row, chosen], objects.y[row, chosen], s=area[chosen], marker=_marker(kind),
            color=_colour(kind), alpha=0.6, linewidths=0.4, edgecolors="white",
        )  # fmt: skip


def _colour(kind: int) -> str:
    return "0.5" if kind < 0 else COLOURS[kind % len(COLOURS)]


def _marker(kind: int) -> str:
    return "o" if kind < 0 else MARKERS[kind % len(MARKERS)]


def _reach(objects: _Objects, rows: list[int]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Range of both axes over all panels, with a margin; few objects far away do not widen it."""
    found = []
    for place in (objects.x, objects.y):
        values = place[rows][objects.mask[rows]]
        values = values[np.isfinite(values)]
        low, high = 0.0, 1.0
        if len(values):
            low, high = (float(edge) for edge in np.quantile(values, [OUTSIDE, 1 - OUTSIDE]))
        margin = 0.06 * (high - low) or 0.5
        found.append((low - margin, high + margin))
    return found[0], found[1]
