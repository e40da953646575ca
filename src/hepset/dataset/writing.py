"""A split of a dataset in somebody else's format."""

from __future__ import annotations

from pathlib import Path

from hepset.dataset.dataset import Dataset
from hepset.interfaces.writer import Writer, open_writer

__all__ = ["write_split"]


def write_split(
    dataset: Dataset, split: str, target: Path, writer: Writer, *, batch_size: int = 8192
) -> int:
    """Write the events of a split, in the order in which the dataset holds them.

    Args:
        dataset: Where the events are.
        split: Name of the split.
        target: File, or folder, to write; it appears complete or not at all.
        writer: How to write; it is told the event, the statistics of the training split, the names
            of the classes and the number of events.
        batch_size: Events that are in memory at once.

    Returns:
        Number of events.

    Raises:
        DatasetError: If there is no such split.
    """
    events = dataset.split(split)
    classes = {f"target/{n}": t.classes for n, t in dataset.event.targets.items() if t.classes}
    with writer:
        open_writer(
            writer,
            target,
            dataset.contract,
            event=dataset.event,
            statistics=dataset.statistics,
            classes={**classes, **dataset.manifest.class_names},
            events=len(events),
            axes={},
        )
        for batch in events.batches(batch_size):
            writer.write(batch)
    return len(events)
