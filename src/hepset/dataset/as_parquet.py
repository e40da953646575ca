"""Shards as ordinary Parquet: lists and numbers that any reader understands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hepset.arrays import Array, offsets_of
from hepset.dataset.batches import stream_of
from hepset.dataset.columns import ID_COLUMNS, Column, ColumnLayout, lengths_of, widen
from hepset.dataset.shards import ShardFile
from hepset.files import atomic_file


def export_shard(shard: ShardFile, layouts: Mapping[str, ColumnLayout], directory: Path) -> Path:
    """Write one shard with list columns into another directory; the shard is closed.

    Returns:
        The file.
    """
    target = directory / shard.path.name
    writer: pq.ParquetWriter | None = None
    with shard, atomic_file(target) as file:
        for group in range(len(shard.record.row_groups)):
            ids, columns = shard.read_group(group)
            table = _plain_table(ids, columns, layouts)
            if writer is None:
                writer = pq.ParquetWriter(file, table.schema, compression="zstd")
            writer.write_table(table)
        if writer is not None:
            writer.close()
    return target


def _plain_table(
    ids: Array, columns: Mapping[str, Column], layouts: Mapping[str, ColumnLayout]
) -> pa.Table:
    plain: dict[str, pa.Array] = {
        column: pa.array(np.ascontiguousarray(ids[name])) for column, name in ID_COLUMNS.items()
    }
    lengths: dict[str, Array] = {}
    for name, layout in layouts.items():
        stream = stream_of(layout)
        if stream is not None and name == f"{stream}.mask":
            lengths[stream] = lengths_of(layout, columns[name])
    for name, layout in layouts.items():
        values = widen(layout, columns[name])
        stream = stream_of(layout)
        if layout.features and name != "" and not name.startswith("target/"):
            separate = {f"{name}.{f}": values[..., i] for i, f in enumerate(layout.features)}
        else:
            separate = {name: values}
        for column, array in separate.items():
            plain[column] = _lists(array, None if stream is None else lengths.get(stream))
    return pa.table(plain)


def _lists(values: Array, lengths: Array | None) -> pa.Array:
    """Nest lists by the axes of an array; the first list has the given lengths."""
    if values.ndim == 1:
        return pa.array(values)
    rows, size = values.shape[:2]
    if lengths is None:
        lengths = np.full(rows, size)
    inside = values[np.arange(size) < lengths[:, None]]
    return pa.LargeListArray.from_arrays(pa.array(offsets_of(lengths)), _lists(inside, None))
