"""What every epoch gave, as numbers for the log, the table and the report."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from hepset.files import atomic_file

__all__ = ["Clock", "History", "summary"]

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


class Clock:
    """Time of training without validation, and how much of it was waiting for batches."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.events = 0
        self._waited = 0.0
        self._began: float | None = None
        self._waited_before = 0.0

    def start(self, waited: float) -> None:
        """Go on; `waited` is how long batches were waited for so far."""
        self._began, self._waited_before = time.perf_counter(), waited

    def stop(self, waited: float) -> None:
        """Stop, as for a validation."""
        if self._began is not None:
            self.seconds += time.perf_counter() - self._began
            self._waited += waited - self._waited_before
            self._began = None

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.events / self.seconds if self.seconds else 0.0

    @property
    def waiting(self) -> float:
        """Fraction of the time that was spent waiting for batches."""
        return self._waited / self.seconds if self.seconds else 0.0


def summary(record: Mapping[str, float]) -> str:
    """Return what the log says of an epoch."""
    losses = [f"{k} {v:.4g}" for k, v in record.items() if k in {"train/loss", "val/loss"}]
    terms = [f"{k} {v:.4g}" for k, v in record.items() if k.startswith("val/") and k != "val/loss"]
    return (
        f"{', '.join(losses)}{' (' + ', '.join(terms) + ')' if len(terms) > 1 else ''}; "
        f"{record['events_per_second']:.0f} events/s, loader wait {record['loader_wait']:.1%}"
    )
