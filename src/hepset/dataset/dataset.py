"""`Dataset`: a directory of shards, opened."""

from __future__ import annotations

import html
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hepset.arrays import Array
from hepset.batch import ID_DTYPE, EventBatch
from hepset.dataset.as_parquet import export_shard
from hepset.dataset.batches import assemble, with_masks
from hepset.dataset.columns import Column, ColumnLayout, empty_column, join, lengths_of, part, widen
from hepset.dataset.manifest import MANIFEST, CutflowStep, Manifest, SampleRecord
from hepset.dataset.shards import ShardFile, ShardRecord, check_size
from hepset.dataset.tables import cutflow_table, samples_table, splits_table, tensors_table
from hepset.errors import DatasetError, did_you_mean
from hepset.files import digest_file
from hepset.schema.contract import Contract
from hepset.schema.event import EventInfo
from hepset.schema.statistics import Statistics

if TYPE_CHECKING:
    from hepset.dataset.loader import Loader


class Split:
    """One split of a data set.

    Attributes:
        name: ``train``, ``val``, ``test``, ``fold0``, …
        dataset: What it is part of.
        shards: Records of its files, in order.
    """

    def __init__(self, dataset: Dataset, name: str) -> None:
        """Look the split up in the manifest."""
        self.name = name
        self.dataset = dataset
        self.shards: tuple[ShardRecord, ...] = dataset.manifest.splits[name].shards

    def __len__(self) -> int:
        """Number of events."""
        return self.dataset.manifest.splits[self.name].rows

    @property
    def layouts(self) -> dict[str, ColumnLayout]:
        """Tensor → how it is stored."""
        return self.dataset.layouts

    @property
    def paths(self) -> list[Path]:
        """The files, in order."""
        return [self.dataset.path / shard.file for shard in self.shards]

    def open_shard(self, index: int) -> ShardFile:
        """Open one shard.

        Raises:
            DatasetError: If the file is missing or not the recorded one.
        """
        shard = self.shards[index]
        return ShardFile(self.dataset.path / shard.file, shard, self.layouts)

    def groups(
        self, columns: Sequence[str] | None = None
    ) -> Iterator[tuple[Array, dict[str, Column]]]:
        """Read row group after row group: ids, and tensors as they are stored.

        Args:
            columns: Names of tensors; null = all.

        Raises:
            KeyError: If there is no such tensor.
            DatasetError: If a file is missing or corrupt.
        """
        for index in range(len(self.shards)):
            with self.open_shard(index) as shard:
                for group in range(len(shard.record.row_groups)):
                    yield shard.read_group(group, columns)

    def batches(self, size: int, columns: Sequence[str] | None = None) -> Iterator[EventBatch]:
        """Read the split in the order of the files, `size` events at a time.

        The last batch may be shorter. Memory is bounded by a row group and a batch.

        Args:
            size: Events per batch.
            columns: Names of tensors; null = all. The mask of a stream comes with it.

        Raises:
            KeyError: If there is no such tensor.
            DatasetError: If a file is missing or corrupt.
        """
        if size < 1:
            raise ValueError(f"size {size}: a batch has at least one event")
        layouts = with_masks(self.layouts, columns)
        keys = self.dataset.source_keys
        waiting: list[tuple[Array, dict[str, Column]]] = []
        count = 0
        for ids, tensors in self.groups(list(layouts)):
            start = 0
            while start < len(ids):
                stop = min(len(ids), start + size - count)
                piece = {name: part(column, start, stop) for name, column in tensors.items()}
                waiting.append((ids[start:stop], piece))
                count += stop - start
                start = stop
                if count == size:
                    yield _joined(waiting, layouts, keys)
                    waiting, count = [], 0
        if waiting:
            yield _joined(waiting, layouts, keys)

    def read(self, names: Sequence[str] | str) -> dict[str, Array]:
        """Read some tensors of the whole split into memory, as batches have them.

        Args:
            names: Names of tensors; ``ids`` gives the structured ids.

        Raises:
            KeyError: If there is no such tensor.
            DatasetError: If a file is missing or corrupt.
        """
        wanted = [names] if isinstance(names, str) else list(names)
        tensors = [name for name in wanted if name != "ids"]
        parts: dict[str, list[Array]] = {
            name: [widen(layout, empty_column(layout))]
            for name, layout in with_masks(self.layouts, tensors).items()
            if name in tensors
        }
        parts["ids"] = [np.zeros(0, ID_DTYPE)]
        for ids, columns in self.groups(tensors):
            parts["ids"].append(ids)
            for name in tensors:
                parts[name].append(widen(self.layouts[name], columns[name]))
        return {name: np.concatenate(parts[name]) for name in wanted}

    def lengths(self, streams: Sequence[str]) -> dict[str, Array]:
        """Return the slots up to the last real one of each event, reading the masks alone.

        Args:
            streams: Names of the streams.

        Returns:
            Stream → shape ``(event,)``, int64, in the order of the files.
        """
        masks = {stream: f"{stream}.mask" for stream in streams}
        parts: dict[str, list[Array]] = {stream: [np.zeros(0, np.int64)] for stream in streams}
        for _, columns in self.groups(list(masks.values())):
            for stream, mask in masks.items():
                parts[stream].append(lengths_of(self.layouts[mask], columns[mask]))
        return {stream: np.concatenate(found) for stream, found in parts.items()}

    def __repr__(self) -> str:
        """Return the split's name and size."""
        return f"<Split {self.name!r}: {len(self)} events in {len(self.shards)} shards>"


class Dataset:
    """A data set: the content of ``dataset.json`` and the shards beside it.

    Attributes:
        path: The directory.
        manifest: Everything it says of itself.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        """Keep the description; files are opened when they are read."""
        self.path = path
        self.manifest = manifest

    @property
    def contract(self) -> Contract:
        """What every array obeys."""
        return self.manifest.contract

    @property
    def event(self) -> EventInfo:
        """What an event is."""
        return self.manifest.event

    @property
    def statistics(self) -> Statistics:
        """Statistics of the training split."""
        return self.manifest.statistics

    @property
    def samples(self) -> tuple[SampleRecord, ...]:
        """Bookkeeping of the physics samples."""
        return self.manifest.samples

    def entries(self, sample: int) -> int:
        """Number of entries in the sources of a sample, before the reader leaves any out."""
        return sum(source.entries for source in self.manifest.sources if source.sample == sample)

    @property
    def cutflow(self) -> tuple[CutflowStep, ...]:
        """Events before any cut and after each."""
        return self.manifest.cutflow

    @cached_property
    def digest(self) -> str:
        """Digest of ``dataset.json``, which holds the digests of all shards."""
        return digest_file(self.path / MANIFEST)

    @cached_property
    def layouts(self) -> dict[str, ColumnLayout]:
        """Tensor → how it is stored."""
        return self.manifest.layouts

    @cached_property
    def source_keys(self) -> tuple[str, ...]:
        """What ``ids["source"]`` counts through."""
        return tuple(source.key for source in self.manifest.sources)

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name."""
        return {name: Split(self, name) for name in self.manifest.splits}

    def __len__(self) -> int:
        """Number of events in all splits."""
        return sum(record.rows for record in self.manifest.splits.values())

    def split(self, name: str) -> Split:
        """Return one split.

        Raises:
            DatasetError: If there is none of this name.
        """
        if name not in self.manifest.splits:
            known = ", ".join(self.manifest.splits)
            raise DatasetError(
                f"{self.path}: no split {name!r}; there are {known}"
                f"{did_you_mean(name, self.manifest.splits)}"
            )
        return Split(self, name)

    def loader(self, split: str, **options: Any) -> Loader:  # noqa: ANN401  the loader's own
        """Return a loader of training batches of a split.

        Args:
            split: Name of the split.
            options: As `hepset.dataset.loader.Loader` takes them: ``batch_size``, ``seed``, …

        Raises:
            DatasetError: If there is no such split.
        """
        from hepset.dataset.loader import Loader  # noqa: PLC0415  imports torch

        return Loader(self.split(split), **options)

    def verify(self) -> int:
        """Digest every file again and compare with the record.

        Returns:
            Number of files that were verified.

        Raises:
            DatasetError: Naming every file that is missing or corrupt.
        """
        wrong: list[str] = []
        count = 0
        for record in self.manifest.splits.values():
            for shard in record.shards:
                count += 1
                path = self.path / shard.file
                try:
                    check_size(path, shard)
                    found = digest_file(path)
                except (DatasetError, OSError) as problem:
                    wrong.append(str(problem))
                    continue
                if found != shard.digest:
                    wrong.append(
                        f"{path}: the bytes have changed since the conversion (digest {found}, "
                        f"recorded {shard.digest})"
                    )
        if wrong:
            lines = "\n".join(f"  {line}" for line in wrong)
            raise DatasetError(
                f"{self.path}: {len(wrong)} of {count} files are not as they were written; copy "
                f"them again or convert again:\n{lines}"
            )
        return count

    def export(
        self, directory: str | os.PathLike[str], splits: Sequence[str] | None = None
    ) -> list[Path]:
        """Write ordinary Parquet for other readers: lists and numbers instead of bytes.

        Columns are ``id.source`` and the like, ``jets.pt`` (a list per event, up to the last real
        slot) with ``jets.mask``, ``met.pt``, and every other tensor under its own name. One file
        per shard, ``<split>-00000.parquet``.

        Args:
            directory: Where to write; made where it does not exist.
            splits: Names of splits; null = all.

        Returns:
            The files.

        Raises:
            DatasetError: If it is the data set's own directory, or a split does not exist.
        """
        target = Path(directory)
        if target.resolve() == self.path.resolve():
            raise DatasetError(f"{target}: the data set itself; export into another directory")
        names = list(self.manifest.splits) if splits is None else list(splits)
        target.mkdir(parents=True, exist_ok=True)
        return [
            export_shard(split.open_shard(index), split.layouts, target)
            for split in map(self.split, names)
            for index in range(len(split.shards))
        ]

    def __repr__(self) -> str:
        """Return the path and the size of the splits."""
        sizes = ", ".join(f"{n} {record.rows}" for n, record in self.manifest.splits.items())
        return f"<Dataset {str(self.path)!r}: {sizes}>"

    def _repr_html_(self) -> str:
        """Return tables of splits, tensors, samples and cuts for a notebook."""
        tables = (
            splits_table(self.manifest),
            tensors_table(self.manifest),
            samples_table(self),
            cutflow_table(self.manifest),
        )
        head = f"<p><b>{html.escape(str(self.path))}</b>: {len(self)} events</p>"
        return head + "".join(table.to_html() for table in tables)


def open_dataset(path: str | os.PathLike[str]) -> Dataset:
    """Open a data set.

    Only ``dataset.json`` is read; shards are checked against their records when opened, and
    digested by `Dataset.verify`.

    Args:
        path: The directory.

    Raises:
        DatasetError: If it is no data set, its conversion has not finished, it is of a newer
            format, or a shard is missing or has another size than recorded.
    """
    directory = Path(path)
    dataset = Dataset(directory, Manifest.read(directory))
    for record in dataset.manifest.splits.values():
        for shard in record.shards:
            check_size(directory / shard.file, shard)
    return dataset


def _joined(
    pieces: Sequence[tuple[Array, Mapping[str, Column]]],
    layouts: Mapping[str, ColumnLayout],
    sources: Sequence[str],
) -> EventBatch:
    ids = np.concatenate([ids for ids, _ in pieces])
    columns = {name: join([columns[name] for _, columns in pieces]) for name in layouts}
    return assemble(layouts, columns, ids, sources)
