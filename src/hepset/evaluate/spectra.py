"""Histograms of the inputs per class, the evaluated split against the training split."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from hepset.arrays import Array
from hepset.figures import COLOURS, histogram, styled
from hepset.interfaces.judge import Evaluation
from hepset.schema.event import EventInfo
from hepset.schema.feature import Feature
from hepset.schema.steps import transform_domain
from hepset.schema.units import axis_label

__all__ = ["Compatibility", "Spectrum", "class_labels", "compare", "draw_spectra", "spectra"]

BINS: Final = 30
COLUMNS: Final = 3
LARGEST_CLASSES: Final = 4
"""Classes that are drawn: the largest ones."""


@dataclass(frozen=True)
class Spectrum:
    """One input quantity of the judged split and of the training split.

    Attributes:
        name: ``jets.pt``, or ``jets: number of objects``.
        axis: Label of the axis, with the unit.
        edges: Shape ``(bin + 1,)``; the outermost bins take what lies beyond.
        values: Of the judged split, all objects one after the other.
        rows: Event of each value.
        train_values: The same of the training split; empty where there is none.
        train_rows: The same of the training split.
        logarithmic: Whether the content is shown on a logarithmic scale.
    """

    name: str
    axis: str
    edges: Array
    values: Array
    rows: Array
    train_values: Array
    train_rows: Array
    logarithmic: bool = False


@dataclass(frozen=True)
class Compatibility:
    """How well two histograms agree in shape.

    Attributes:
        name: The quantity.
        group: The class, empty for all events.
        chi2: Sum over the bins that either fills.
        ndf: Number of those bins, less one for the normalisation.
        p_value: Probability of a larger χ² if both are drawn from one distribution.
    """

    name: str
    group: str
    chi2: float
    ndf: int
    p_value: float


def class_labels(evaluation: Evaluation) -> tuple[list[str], Array]:
    """Return class names and each event's class (−1 = none), by the first target of classes.

    Without one, the processes are the classes; without those, the samples; else all events are
    one class ``""``.
    """
    event = evaluation.event
    for name, target in event.targets.items():
        labels = evaluation.targets.get(f"target/{name}")
        if target.kind != "classification" or target.stream is not None or labels is None:
            continue
        known = int(labels.max(initial=-1)) + 1
        classes = target.classes or tuple(str(i) for i in range(known))
        names = [f"{name} = {label}" if label.isdigit() else label for label in classes]
        if (labels >= 0).any() and names:
            return names, labels.astype(np.int64)
    process = evaluation.targets.get("process")
    if process is not None and len(event.process_names) > 1 and (process >= 0).any():
        return event.process_names, process.astype(np.int64)
    if evaluation.sample is not None and len(evaluation.sample_names) > 1:
        return list(evaluation.sample_names), evaluation.sample.astype(np.int64)
    return [""], np.zeros(len(evaluation), np.int64)


def spectra(evaluation: Evaluation) -> dict[str, list[Spectrum]]:
    """Return the spectra by stream, features in order and the number of objects; then globals."""
    found: dict[str, list[Spectrum]] = {}
    for spec in evaluation.contract.of_kind("stream", "global"):
        block = [
            _spectrum(evaluation, spec.name, index, name, feature)
            for index, (name, feature) in enumerate(spec.features.items())
        ]
        if spec.kind == "stream":
            block.append(_multiplicity(evaluation, spec.name))
        place = spec.name if spec.kind == "stream" else "globals"
        found.setdefault(place, []).extend(each for each in block if each is not None)
    return {name: block for name, block in found.items() if block}


@styled
def draw_spectra(block: Sequence[Spectrum], evaluation: Evaluation, split: str) -> Figure:
    """Draw spectra of one stream or global, one panel each, normalised per class."""
    names, labels = class_labels(evaluation)
    train = evaluation.train
    train_labels = class_labels(train)[1] if train is not None else None
    shown = list(zip(COLOURS, _largest(labels, len(names)), strict=False))
    rows, columns = math.ceil(len(block) / COLUMNS), min(COLUMNS, len(block))
    figure = Figure(figsize=(3.7 * columns + 0.2, 2.9 * rows + 0.5), dpi=72)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, spectrum in zip(grid.flat, block, strict=False):
        lowest = 0.0
        for colour, index in shown:
            content, error = _content(spectrum, labels == index, evaluation.weight)
            lowest = min(lowest, float(content.min()))
            axes.stairs(content, spectrum.edges, fill=True, color=colour, alpha=0.13)
            axes.stairs(content, spectrum.edges, color=colour, linewidth=1.3)
            if train is not None and train_labels is not None:
                content, error = _content(spectrum, train_labels == index, train.weight, train=True)
                lowest = min(lowest, float(content.min()))
                centres = (spectrum.edges[1:] + spectrum.edges[:-1]) / 2
                axes.errorbar(
                    centres, content, error, fmt="o", color=colour, markersize=3, linewidth=1
                )
        axes.set_xlabel(spectrum.axis, fontsize=11)
        axes.set_ylabel("Arbitrary units", fontsize=11)
        axes.tick_params(labelsize=10)
        axes.set_xlim(spectrum.edges[0], spectrum.edges[-1])
        # Plain tick labels: formulas take most of the time of drawing.
        axes.ticklabel_format(useMathText=False)
        if spectrum.logarithmic:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=lowest)
    for axes in list(grid.flat)[len(block) :]:
        axes.set_axis_off()
    handles: list[Patch | Line2D] = []
    for colour, index in shown:
        label = names[index] or "all events"
        handles.append(Patch(facecolor=(colour, 0.13), edgecolor=colour, label=f"{label}, {split}"))
        if train is not None:
            handles.append(Line2D([], [], color=colour, marker="o", ls="", label=f"{label}, train"))
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=2 * columns,
        fontsize=10,
        handlelength=1.6,
        columnspacing=1.4,
    )
    return figure


def _content(
    spectrum: Spectrum, chosen: Array, weight: Array, *, train: bool = False
) -> tuple[Array, Array]:
    """Content and error of every bin for the chosen events, scaled to unit area."""
    values = spectrum.train_values if train else spectrum.values
    rows = spectrum.train_rows if train else spectrum.rows
    keep = chosen[rows]
    inside = _inside(values[keep], spectrum.edges)
    return histogram(inside, spectrum.edges, weight[rows[keep]], density=True)


def compare(block: Sequence[Spectrum], evaluation: Evaluation) -> Iterator[Compatibility]:
    """Compare the shapes of the judged split and of the training split, class by class.

    χ² of two weighted histograms of unit area (Gagunashvili, Nucl. Instrum. Meth. A 614 (2010)
    287); objects of one event are taken as independent.
    """
    train = evaluation.train
    if train is None:
        return
    names, labels = class_labels(evaluation)
    train_labels = class_labels(train)[1]
    for spectrum in block:
        for index in _largest(labels, len(names)):
            keep = labels[spectrum.rows] == index
            keep_train = train_labels[spectrum.train_rows] == index
            chi2, ndf = shape_chi2(
                histogram(
                    _inside(spectrum.values[keep], spectrum.edges),
                    spectrum.edges,
                    evaluation.weight[spectrum.rows[keep]],
                ),
                histogram(
                    _inside(spectrum.train_values[keep_train], spectrum.edges),
                    spectrum.edges,
                    train.weight[spectrum.train_rows[keep_train]],
                ),
            )
            yield Compatibility(spectrum.name, names[index], chi2, ndf, survival(chi2, ndf))


def shape_chi2(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[float, int]:
    """Return χ² and degrees of freedom of two histograms (content, error) scaled to unit area."""
    totals = [float(content.sum()) for content, _ in (first, second)]
    if min(totals) <= 0:
        return math.nan, 0
    difference = first[0] / totals[0] - second[0] / totals[1]
    variance = (first[1] / totals[0]) ** 2 + (second[1] / totals[1]) ** 2
    filled = variance > 0
    if filled.sum() < 2:
        return math.nan, 0
    return float((difference[filled] ** 2 / variance[filled]).sum()), int(filled.sum()) - 1


def survival(chi2: float, ndf: int) -> float:
    """Return the probability of a larger χ² with so many degrees of freedom."""
    if ndf < 1 or not math.isfinite(chi2):
        return math.nan
    import torch  # noqa: PLC0415  has the incomplete gamma function

    half = torch.tensor([ndf / 2, chi2 / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def binning(values: Array) -> Array:
    """Return edges for a quantity: one bin per integer where it is one, else 30 equal bins.

    The range leaves half a percent out on either side.
    """
    finite = values[np.isfinite(values)]
    if not len(finite):
        return np.linspace(0, 1, 2)
    low, high = (float(x) for x in np.quantile(finite, [0.005, 0.995]))
    whole = np.array_equal(finite[:10_000], np.round(finite[:10_000]))
    if whole and high - low <= 40:
        return np.arange(math.floor(low), math.ceil(high) + 2) - 0.5
    if high <= low:
        low, high = low - 0.5, low + 0.5
    if 0 <= low < 0.1 * high:
        low = 0.0
    return np.linspace(low, high, BINS + 1)


def _inside(values: Array, edges: Array) -> Array:
    """Move values beyond the edges into the outermost bins."""
    margin = 1e-6 * (edges[1] - edges[0])
    return np.clip(values, edges[0], edges[-1] - margin)


def _largest(labels: Array, count: int) -> list[int]:
    """The classes that occur, the largest few, in their own order."""
    sizes = np.bincount(labels[labels >= 0], minlength=count)
    order = sorted(range(count), key=lambda index: -int(sizes[index]))[:LARGEST_CLASSES]
    return sorted(index for index in order if sizes[index])


def _column(inputs: Mapping[str, Array], tensor: str, index: int) -> tuple[Array, Array]:
    """Real values of one column, and the event of each."""
    array, mask = inputs[tensor], inputs.get(f"{tensor}.mask")
    values = array[..., index].astype(np.float64)
    if mask is None:
        mask = np.ones(values.shape, bool)
    return values[mask], np.nonzero(mask)[0]


def _spectrum(
    evaluation: Evaluation, tensor: str, index: int, name: str, feature: Feature
) -> Spectrum | None:
    if tensor not in evaluation.inputs:
        return None
    values, rows = _column(evaluation.inputs, tensor, index)
    if evaluation.train is not None and tensor in evaluation.train.inputs:
        train_values, train_rows = _column(evaluation.train.inputs, tensor, index)
    else:
        train_values, train_rows = np.zeros(0), np.zeros(0, np.int64)
    edges = binning(np.concatenate([values, train_values]))
    label = axis_label(f"{tensor} {name}", name, feature)
    steep = transform_domain(feature.transform) is not None
    return Spectrum(f"{tensor}.{name}", label, edges, values, rows, train_values, train_rows, steep)


def _multiplicity(evaluation: Evaluation, stream: str) -> Spectrum | None:
    mask = evaluation.inputs.get(f"{stream}.mask")
    if mask is None:
        return None
    train = None if evaluation.train is None else evaluation.train.inputs.get(f"{stream}.mask")
    counts = mask.sum(axis=1).astype(np.float64)
    train_counts = np.zeros(0) if train is None else train.sum(axis=1).astype(np.float64)
    return Spectrum(
        f"{stream}: number of objects",
        f"number of {stream}",
        binning(np.concatenate([counts, train_counts])),
        counts,
        np.arange(len(counts)),
        train_counts,
        np.arange(len(train_counts)),
    )


def momentum_guess(event: EventInfo, stream: str) -> str:
    """Say which features make the four-momentum of a stream, and whether that was declared."""
    block = event.streams[stream]
    if block.momentum is None:
        return "none"
    text = ", ".join(f"{role} = {feature}" for role, feature in block.momentum.items())
    return text if block.p4 is not None else f"{text} (guessed from the names)"
