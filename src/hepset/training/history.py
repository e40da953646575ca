"""What every epoch gave, as numbers for the log, the table and the report."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Final

from hepset.files import atomic_file

__all__ = ["History"]

Record = dict[str, float]


class History:
    """One record per epoch: ``epoch`` (from 0), ``train/<loss>``, ``val/<loss>``, ``learning_rate``
    at its end, ``seconds`` of training without validation, ``events_per_second`` (all devices) and
    ``loader_wait``, the fraction of these seconds spent waiting for batches.
    """  # noqa: D205  the list of columns is the summary

    CSV: Final = "metrics.csv"
    JSON: Final = "history.json"

    def __init__(self, records: list[Record] | None = None) -> None:
        self.records: list[Record] = [dict(record) for record in records or []]

    def add(self, record: Record) -> None:
        """Add an epoch; one of the same number is replaced."""
        self.records = [old for old in self.records if old["epoch"] < record["epoch"]]
        self.records.append(record)

    def write(self, directory: Path) -> None:
        """Write ``metrics.csv`` and ``history.json``, each in one step."""
        directory.mkdir(parents=True, exist_ok=True)
        names = list(dict.fromkeys(name for record in self.records for name in record))
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, names, lineterminator="\n")
        table.writeheader()
        table.writerows(self.records)
        with atomic_file(directory / self.CSV) as file:
            file.write(text.getvalue().encode())
        with atomic_file(directory / self.JSON) as file:
            file.write(json.dumps(self.records, indent=1).encode() + b"\n")
