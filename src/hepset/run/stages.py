"""Which stages of a run are up to date, and why one is not.

Each finished stage leaves a record of everything its result depends on: the relevant part of the
configuration and the digests of its inputs. A stage is skipped when the record says the same as
the present and its outputs are there; otherwise the first differences are named.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hepset.files import atomic_file
from hepset.schema.config import STAGES, Stage

RECORD = "stages.json"


class StageRecords:
    """The records of a run directory, one per finished stage."""

    def __init__(self, directory: Path) -> None:
        """Read the records of a directory, if there are any."""
        self._path = directory / RECORD
        self._records: dict[str, dict[str, Any]] = {}
        if self._path.is_file():
            try:
                self._records = json.loads(self._path.read_text(encoding="utf-8"))
            except ValueError:
                self._records = {}

    def why_not(
        self, stage: Stage, inputs: Mapping[str, Any], outputs: Iterable[Path]
    ) -> str | None:
        """Return why a stage has to run, or None where it is up to date."""
        record = self._records.get(stage)
        if record is None:
            return "running (first time)"
        missing = [path for path in outputs if not path.exists()]
        if missing:
            return f"{missing[0].name} is missing"
        differences = list(_differences(record, _plain(inputs)))
        if not differences:
            return None
        shown = "; ".join(differences[:3])
        more = len(differences) - 3
        return shown + (f"; and {more} more" if more > 0 else "")

    def has(self, stage: Stage) -> bool:
        """Whether a stage has finished since what it follows from last changed."""
        return stage in self._records

    def finished(self, stage: Stage, inputs: Mapping[str, Any]) -> None:
        """Record a finished stage; later stages have to show again that they fit."""
        self._records[stage] = _plain(inputs)
        self._write()

    def started(self, stage: Stage) -> None:
        """Forget a stage and all that follow from it, before its outputs change."""
        for later in STAGES[STAGES.index(stage) :]:
            # Evaluation and export both follow training, not each other.
            if stage == "evaluate" and later == "export":
                continue
            self._records.pop(later, None)
        self._write()

    def _write(self) -> None:
        with atomic_file(self._path, durable=False) as file:
            file.write(json.dumps(self._records, indent=1).encode())


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mapping as JSON would give it back, so that equal records compare equal."""
    plain: dict[str, Any] = json.loads(json.dumps(value))
    return plain


def _differences(before: object, now: object, path: str = "") -> Iterator[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in [*now, *(key for key in before if key not in now)]:
            place = f"{path}.{key}" if path else str(key)
            yield from _differences(before.get(key), now.get(key), place)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for index, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from _differences(old, new, f"{path}.{index}")
    elif before != now:
        yield f"{path} changed from {_short(before)} to {_short(now)}"


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:39] + "…"
