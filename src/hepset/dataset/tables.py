"""What a dataset says of itself in tables: for the notebook, the report and ``inspect``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hepset.dataset.manifest import Manifest
from hepset.numbers import number, with_error
from hepset.schema.statistics import ColumnStatistics
from hepset.schema.units import unit_of
from hepset.tables import Table

if TYPE_CHECKING:
    from hepset.dataset.dataset import Dataset

__all__ = [
    "classes_table",
    "cutflow_table",
    "range_row",
    "ranges_table",
    "samples_table",
    "sources_table",
    "splits_table",
    "tensors_table",
    "training_ranges",
]


def splits_table(manifest: Manifest) -> Table:
    """Return events, shards and size of every split."""
    return Table(
        "Splits, by hash of the event's identity",
        ("split", "events", "shards", "size"),
        tuple(
            (k, number(r.rows), len(r.shards), f"{sum(s.bytes for s in r.shards) / 1e6:.1f} MB")
            for k, r in manifest.splits.items()
        ),
        numbers=(1, 2, 3),
    )


def tensors_table(manifest: Manifest) -> Table:
    """Return shape, type and layout of every stored tensor."""
    return Table(
        "Tensors",
        ("tensor", "axes", "dtype", "stored as", "layout"),
        tuple(
            (c.name, ", ".join(map(str, ("event", *c.shape))), c.dtype, c.stored, c.layout)
            for c in manifest.columns
        ),
    )


def samples_table(dataset: Dataset) -> Table:
    """Return the counts and the cross section of every sample."""
    return Table(
        "Samples: entries in the sources, events that the reader gives, and those selected",
        (
            *("sample", "reader", "entries", "events read", "selected"),
            *("cross section", "Σw before selection"),
        ),
        tuple(
            (
                sample.label or "–",
                sample.reader,
                number(dataset.entries(index)),
                number(sample.events),
                number(sample.selected),
                "–"
                if sample.cross_section is None
                else f"{sample.cross_section:g} {sample.unit}"
                + (f" × {sample.k_factor:g}" if sample.k_factor != 1 else ""),
                number(sample.sum_of_weights, 6),
            )
            for index, sample in enumerate(dataset.manifest.samples)
        ),
        numbers=(2, 3, 4, 5, 6),
    )


def sources_table(manifest: Manifest, largest: int) -> Table:
    """Return the first sources, no more than ``largest``."""
    more = len(manifest.sources) - largest
    return Table(
        "Sources",
        ("source", "entries", "in train", "group", "digest (xxh3-128)"),
        tuple(
            (
                source.key,
                number(source.entries),
                number(source.rows.get("train", 0)),
                source.group or "–",
                source.digest or "–",
            )
            for source in manifest.sources[:largest]
        ),
        notes=(f"… and {more} more sources, all in dataset.json.",) if more > 0 else (),
        numbers=(1, 2),
    )


def cutflow_table(manifest: Manifest) -> Table:
    """Return what every cut leaves of every sample; weights have the error √Σw²."""
    if not manifest.cutflow:
        return Table()
    first = manifest.cutflow[0]
    weighted = any(part.sum_of_weights != part.events for part in first.samples)
    head = ["cut", "expression"]
    for index, sample in enumerate(manifest.samples):
        head += [sample.label or f"sample {index}", "kept"] + (["weighted"] if weighted else [])
    rows = []
    for step in manifest.cutflow:
        row: list[object] = [step.name, step.expression or "–"]
        for start, part in zip(first.samples, step.samples, strict=True):
            share = part.events / start.events if start.events else math.nan
            row += [number(part.events), f"{100 * share:.1f} %" if start.events else "–"]
            if weighted:
                row.append(with_error(part.sum_of_weights, math.sqrt(part.sum_of_squares)))
        rows.append(tuple(row))
    return Table("Cutflow", tuple(head), tuple(rows), numbers=tuple(range(2, len(head))))


def range_row(name: str, unit: str, found: ColumnStatistics) -> tuple[str, ...]:
    """Return the line of one quantity in a table of ranges."""
    return (
        name,
        unit,
        number(found.count),
        number(found.minimum),
        number(found.mean if found.count else math.nan),
        number(found.std if found.count else math.nan),
        number(found.maximum),
        number(found.non_finite) if found.non_finite else "",
    )


def ranges_table(title: str, rows: Sequence[tuple[str, ...]]) -> Table:
    """Return a table of the lines from `range_row`."""
    head = ("quantity", "unit", "values", "minimum", "mean", "std. dev.", "maximum", "missing")
    return Table(title, head, tuple(rows), numbers=(2, 3, 4, 5, 6, 7))


def training_ranges(manifest: Manifest, between: str = ".") -> Table:
    """Return the range of every quantity in the training split.

    Args:
        manifest: Of the dataset.
        between: What stands between the name of a tensor and that of its column.
    """
    rows = []
    for tensor, stored in manifest.statistics.tensors.items():
        spec = manifest.contract.tensors.get(tensor)
        if stored.multiplicity is not None:
            rows.append(range_row(f"number of {tensor}", "", stored.multiplicity))
        for column, found in stored.columns.items():
            feature = spec.features.get(column) if spec is not None else None
            name = column or tensor.removeprefix("target/")
            unit = "" if feature is None else unit_of(name, feature)
            rows.append(range_row(f"{tensor}{between}{column}".rstrip(between), unit, found))
    return ranges_table("feature ranges (train)", rows)


def classes_table(manifest: Manifest, drawn: Mapping[str, Sequence[float]] | None = None) -> Table:
    """Return how many events each class has, with the share that sampling draws where given."""
    drawn = drawn or {}
    rows = [
        (
            tensor,
            label,
            number(events),
            number(weights, 6),
            "–" if math.isnan(share) else f"{share:.4f}",
        )
        for tensor, counts in manifest.statistics.labels.items()
        for label, events, weights, share in zip(
            _class_names(manifest, tensor, len(counts.events)),
            counts.events,
            counts.weights,
            drawn.get(tensor, [math.nan] * len(counts.events)),
            strict=False,
        )
    ]
    shown = 5 if drawn else 4
    return Table(
        "Classes in the training split; "
        + (
            "an output has the shares drawn as its prior"
            if drawn
            else "an output learnt from them has this prior"
        ),
        ("target", "class", "training events", "Σw", "share drawn")[:shown],
        tuple(row[:shown] for row in rows),
        numbers=tuple(range(2, shown)),
    )


def _class_names(manifest: Manifest, tensor: str, count: int) -> list[str]:
    names = list(manifest.class_names.get(tensor, ()))[:count]
    return names + [str(index) for index in range(len(names), count)]
