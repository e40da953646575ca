"""Predictions as Parquet: what a model said of each event, beside the event's identity."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hepset.arrays import Array
from hepset.batch import EventBatch, make_ids
from hepset.errors import ContractError
from hepset.files import temporary_path
from hepset.interfaces.writer import Writer, WriterConfig
from hepset.schema.contract import Contract

__all__ = ["PREDICTIONS_FORMAT", "SELECTED", "TRAINED_ON", "ParquetWriter", "read_predictions"]

PREDICTIONS_FORMAT: Final = "hepset-predictions/1"
"""Format of the file, in its metadata."""
SELECTED: Final = "selected"
"""Column: whether the event passes the selection that the model was trained on."""
TRAINED_ON: Final = "trained_on"
"""Column: whether the model was trained on the event."""


class ParquetWriter(Writer):
    """Writes predictions for pandas, awkward, polars or ROOT.

    Columns: ``source`` (file), ``source_index``, ``entry``, ``sample``; ``extra/run`` and the like
    where the events have them; ``weight``, ``process``, ``selected``, ``trained_on``; targets;
    ``<head>/<field>``. What is a vector for each event is a list. The file's metadata holds the
    contract and the provenance. Events that were not selected have empty predictions (null).

    Attributes:
        provenance: Where the predictions come from, stored in the file; set it before `close`.
    """

    def __init__(self, config: WriterConfig | None = None) -> None:
        super().__init__(config)
        self.provenance: Mapping[str, Any] = {}
        self._target: Path | None = None
        self._temporary: Path | None = None
        self._contract = Contract()
        self._file: pq.ParquetWriter | None = None

    def open(self, target: Path, contract: Contract) -> None:
        """Start to write `target`."""
        target.parent.mkdir(parents=True, exist_ok=True)
        self._target = target
        self._temporary = temporary_path(target)
        self._contract = contract
        self._file = None

    def write(self, batch: EventBatch) -> None:
        """Add events with ``batch.predictions``; the first batch settles the columns.

        Raises:
            ContractError: If a later batch has other columns.
        """
        if self._temporary is None:
            raise ValueError("open the writer before writing")
        table = pa.table(_columns(batch))
        if self._file is None:
            self._file = pq.ParquetWriter(self._temporary, table.schema, compression="zstd")
        elif table.schema != self._file.schema:
            found, wanted = set(table.schema), set(self._file.schema)
            names = sorted({field.name for field in found ^ wanted})
            raise ContractError(
                f"{self._target}: columns differ from those of the first events: {', '.join(names)}"
            )
        self._file.write_table(table)

    def close(self) -> None:
        """Finish the file and make it visible under its name."""
        if self._temporary is None or self._target is None:
            return
        if self._file is None:
            self.write(EventBatch(make_ids(0, []), {}))
            assert self._file is not None
        self._file.add_key_value_metadata(
            {
                "hepset.format": PREDICTIONS_FORMAT,
                "hepset.contract": json.dumps(self._contract.dump()),
                "hepset.provenance": json.dumps(dict(self.provenance)),
            }
        )
        self._file.close()
        self._temporary.replace(self._target)
        self._temporary = self._file = None

    def abort(self) -> None:
        """Remove what was written so far; does nothing when the writer is closed."""
        if self._temporary is None:
            return
        if self._file is not None:
            self._file.close()
        self._temporary.unlink(missing_ok=True)
        self._temporary = self._file = None


def read_predictions(path: str | os.PathLike[str]) -> tuple[pa.Table, dict[str, Any]]:
    """Read a file of predictions: the table and its provenance.

    Raises:
        ContractError: If the file is not one of hepset's predictions.
    """
    table = pq.read_table(path)
    stored = pq.read_metadata(path).metadata or {}
    if b"hepset.provenance" not in stored:
        raise ContractError(f"{path}: a Parquet file without hepset's metadata, no predictions")
    provenance: dict[str, Any] = json.loads(stored[b"hepset.provenance"])
    return table, provenance


def _columns(batch: EventBatch) -> dict[str, pa.Array]:
    """Ids, bookkeeping, targets and predictions as Arrow columns."""
    ids = batch.ids
    keys = pa.array([*batch.sources, *_unnamed(batch)], pa.string())
    # Plain text: Parquet stores it as a dictionary anyway, and awkward cannot join dictionaries.
    columns: dict[str, pa.Array] = {
        "source": keys.take(pa.array(ids["source"])),
        "source_index": pa.array(ids["source"]),
        "entry": pa.array(ids["entry"]),
        "sample": pa.array(ids["sample"]),
    }
    for name, array in batch.arrays.items():
        if name.startswith("extra/") and array.ndim == 1:
            columns[name] = _column(array)
    for name in ("weight", "process", SELECTED, TRAINED_ON):
        if name in batch.arrays:
            columns[name] = _column(batch.arrays[name])
    for name, array in batch.arrays.items():
        if name.startswith("target/"):
            columns[name] = _column(array)
    selected = batch.arrays.get(SELECTED)
    missing = None if selected is None or selected.all() else ~selected
    for name, array in batch.predictions.items():
        columns[name] = _column(array, missing)
    return columns


def _unnamed(batch: EventBatch) -> list[str]:
    """Keys for sources that the batch has no name for."""
    largest = int(batch.ids["source"].max(initial=0)) if len(batch) else -1
    return [f"source {index}" for index in range(len(batch.sources), largest + 1)]


def _column(array: Array, missing: Array | None = None) -> pa.Array:
    """Return an array with first axis event as a column; further axes become nested lists."""
    if array.dtype.kind in "SU":
        return pa.array(array.astype(str).tolist(), pa.string(), mask=missing)
    if array.ndim == 1:
        return pa.array(np.ascontiguousarray(array), mask=missing)
    values = pa.array(np.ascontiguousarray(array).reshape(-1))
    for axis in range(array.ndim - 1, 0, -1):
        size = array.shape[axis]
        rows = int(np.prod(array.shape[:axis], dtype=np.int64))
        offsets = pa.array(np.arange(rows + 1, dtype=np.int32) * np.int32(size))
        if axis == 1 and missing is not None:
            # A missing list takes no values: its offset is null.
            values = pa.ListArray.from_arrays(offsets, values, mask=pa.array(missing))
        else:
            values = pa.ListArray.from_arrays(offsets, values)
    return values
