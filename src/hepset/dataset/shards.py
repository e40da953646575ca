"""Shard files: written in one step with a digest, read row group by row group.

A shard is a Parquet file of one column per tensor (`hepset.dataset.columns`). It is written under a
hidden temporary name, synchronised, and renamed, so that a file under its own name is complete. The
bytes depend on nothing but the rows and the codec.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from hepset.arrays import Array
from hepset.dataset.columns import (
    ID_COLUMNS,
    Column,
    ColumnLayout,
    arrow_schema,
    decode_ids,
    raw,
    record_batch,
)
from hepset.errors import DatasetError, did_you_mean
from hepset.files import atomic_file
from hepset.schema.base import Model

Codec = Literal["lz4", "zstd", "none"]

ROW_GROUP_BYTES: Final = 6 * 2**20
"""Decoded size that row groups aim at: between 4 and 8 MB the cost of reading is flat."""


class ShardRecord(Model):
    """What the data set knows of one shard without opening it."""

    file: str
    """Name of the file in the data set's directory."""
    rows: int
    """Number of events."""
    row_groups: tuple[int, ...]
    """Number of events of each row group."""
    bytes: int
    """Size of the file."""
    digest: str
    """xxh3-128 of the file, hexadecimal."""


class _Digesting:
    """A file for writing that digests what passes through."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = xxhash.xxh3_128()
        self.size = 0
        self.closed = False

    def write(self, data: Any) -> int:  # noqa: ANN401  anything with the buffer protocol
        self.digest.update(data)
        written = self._file.write(data)
        self.size += written
        return written

    def tell(self) -> int:
        return self.size

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self.closed = True

    def readable(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


def row_group_rows(rows: int, decoded_bytes: int) -> int:
    """Return the rows of a row group so that groups are alike and near `ROW_GROUP_BYTES`."""
    groups = max(1, round(decoded_bytes / ROW_GROUP_BYTES))
    return max(1, -(-rows // groups))


def write_shard(
    path: Path,
    layouts: Mapping[str, ColumnLayout],
    blocks: Iterable[tuple[Array, Mapping[str, Column]]],
    codec: Codec = "lz4",
) -> ShardRecord:
    """Write one shard; every block becomes a row group.

    Args:
        path: The file; its folder exists.
        layouts: How each tensor is stored, in the order of the columns.
        blocks: Ids and tensors (name → stored column) of consecutive events.
        codec: Compression.

    Returns:
        The record of the file, with the digest of the bytes as they were written.
    """
    schema = arrow_schema(layouts)
    groups: list[int] = []
    with atomic_file(path) as file:
        sink = _Digesting(file)
        with pq.ParquetWriter(
            pa.PythonFile(sink, mode="w"),
            schema,
            compression=codec.upper(),
            use_dictionary=False,
            write_statistics=list(ID_COLUMNS),
        ) as writer:
            for ids, columns in blocks:
                if len(ids):
                    batch = record_batch(schema, layouts, ids, columns)
                    writer.write_table(pa.Table.from_batches([batch]), row_group_size=len(ids))
                    groups.append(len(ids))
    return ShardRecord(
        file=path.name,
        rows=sum(groups),
        row_groups=tuple(groups),
        bytes=sink.size,
        digest=sink.digest.hexdigest(),
    )


class ShardFile:
    """An open shard: row groups as stored columns.

    One object serves one thread. `columns` names tensors; the ids are always read.
    """

    def __init__(
        self, path: Path, record: ShardRecord, layouts: Mapping[str, ColumnLayout]
    ) -> None:
        """Open the file and hold it against its record.

        Raises:
            DatasetError: If it is missing, has another size, or is no Parquet file.
        """
        self.path = path
        self.record = record
        self.layouts = layouts
        check_size(path, record)
        try:
            self._file = pq.ParquetFile(path, memory_map=False, pre_buffer=False)
        except (pa.ArrowException, OSError) as problem:
            raise DatasetError(f"{path}: cannot be read: {problem}; convert again") from None
        found = self._file.metadata.num_row_groups
        if found != len(record.row_groups):
            raise DatasetError(
                f"{path}: {found} row groups, but dataset.json records {len(record.row_groups)}; "
                "the file belongs to another data set"
            )
        # By index: pyarrow takes the name ``jets`` as a prefix of ``jets.mask`` too.
        self._index = {
            self._file.metadata.schema.column(i).path: i
            for i in range(self._file.metadata.num_columns)
        }

    def read_group(
        self, group: int, columns: Sequence[str] | None = None
    ) -> tuple[Array, dict[str, Column]]:
        """Read one row group.

        Args:
            group: Number of the row group.
            columns: Names of tensors; null = all.

        Returns:
            The ids, and each tensor as it is stored (`hepset.dataset.columns.widen` gives what a
            batch has). Arrays may share Arrow's memory and be read-only.

        Raises:
            KeyError: If there is no such tensor.
            DatasetError: If the bytes cannot be decoded.
        """
        names = list(self.layouts) if columns is None else list(columns)
        for name in names:
            if name not in self.layouts:
                raise KeyError(
                    f"no tensor {name!r} in {self.path.parent}{did_you_mean(name, self.layouts)}"
                )
        stored = [name for name in names if self.layouts[name].layout != "empty"]
        wanted = [self._index[name] for name in (*ID_COLUMNS, *stored)]
        try:
            table = self._file.reader.read_row_group(
                group, column_indices=wanted, use_threads=False
            )
        except (pa.ArrowException, OSError) as problem:
            raise DatasetError(
                f"{self.path}: row group {group} cannot be decoded: {problem}; the file is "
                "corrupt, convert again"
            ) from None
        found: dict[str, Column] = {}
        for name in names:
            layout = self.layouts[name]
            if layout.layout == "empty":
                found[name] = np.zeros((table.num_rows, *layout.shape), layout.stored)
            else:
                found[name] = raw(layout, table.column(name))
        return decode_ids(table), found

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> ShardFile:
        """Return the open shard."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()


def check_size(path: Path, record: ShardRecord) -> None:
    """Compare a file's size with its record.

    Raises:
        DatasetError: If the file is missing or has another size.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise DatasetError(
            f"{path}: this shard of {record.rows} events is missing; copy it again, or convert "
            "again"
        ) from None
    if size != record.bytes:
        raise DatasetError(
            f"{path}: {size} bytes, but dataset.json records {record.bytes}; the file was cut or "
            "replaced: copy it again, or convert again"
        )
