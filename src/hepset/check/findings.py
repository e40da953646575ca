"""What a check has found so far, and where in the batch it is."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hepset.arrays import Array, Ragged
from hepset.batch import EventBatch
from hepset.schema.report import Severity, Violation


@dataclass
class Findings:
    """Collects violations of one batch."""

    batch: EventBatch
    violations: list[Violation] = field(default_factory=list)

    def tensor(
        self,
        rule: str,
        tensor: str,
        *,
        expected: str,
        found: str,
        advice: str,
        severity: Severity = "error",
    ) -> None:
        """Note a violation that is about a whole tensor."""
        self._add(rule, tensor, severity, np.zeros(0, np.int64), expected, found, advice)

    def events(
        self,
        rule: str,
        tensor: str,
        rows: Array,
        *,
        expected: str,
        found: str,
        advice: str,
        severity: Severity = "error",
    ) -> None:
        """Note a violation of some events.

        Args:
            rule: Short name of the rule.
            tensor: Name of the tensor, with ``.feature`` where one column is meant.
            rows: Rows of the bad events, increasing, at least one.
            expected: What the contract asks for; the same text for every batch.
            found: What the first of them holds.
            advice: What to change.
            severity: Whether the data are refused.
        """
        self._add(rule, tensor, severity, rows, expected, found, advice)

    def _add(
        self,
        rule: str,
        tensor: str,
        severity: Severity,
        rows: Array,
        expected: str,
        found: str,
        advice: str,
    ) -> None:
        source, entry = self._where(int(rows[0]) if len(rows) else 0)
        self.violations.append(
            Violation(
                rule=rule,
                severity=severity,
                tensor=tensor,
                events=len(rows),
                of_events=len(self.batch),
                source=source,
                entry=entry if len(rows) else -1,
                expected=expected,
                found=found,
                advice=advice,
            )
        )

    def _where(self, row: int) -> tuple[str, int]:
        if not len(self.batch) or not {"source", "entry"} <= set(self.batch.ids.dtype.names or ()):
            return "", -1
        return self.batch.where(row)


@dataclass(frozen=True)
class View:
    """One array of the batch together with what tells which of its entries are real.

    Attributes:
        values: First axes ``(event,)`` or ``(event, slot)``, or ``(object,)`` with `objects`.
        mask: True = real, the first axes of `values`; None where all are real.
        objects: The stream whose objects the values belong to, for values along objects.
    """

    values: Array
    mask: Array | None = None
    objects: Ragged | None = None

    def real(self, flags: Array) -> Array:
        """Clear the flags of entries that are not real; `flags` has the shape of `values`."""
        if self.mask is None:
            return flags
        mask = self.mask.reshape(self.mask.shape + (1,) * (flags.ndim - self.mask.ndim))
        cleared: Array = flags & mask
        return cleared

    def sample(self, size: int) -> Array:
        """Return up to `size` real values from the front, flat."""
        if self.mask is None:
            return self.values.ravel()[:size]
        rows = max(1, size // max(1, self.mask[:1].size))
        front: Array = self.values[:rows][self.mask[:rows]].ravel()
        return front

    def rows(self, flags: Array) -> Array:
        """Return the events with a flag, increasing."""
        flat = flags.reshape(len(flags), -1).any(axis=1)
        hits: Array = np.flatnonzero(flat)
        if self.objects is None:
            return hits
        rows: Array = np.unique(np.searchsorted(self.objects.offsets, hits, side="right") - 1)
        return rows

    def first(self, flags: Array) -> str:
        """Describe the value of the first flag: ``nan (slot 3)``."""
        where = np.unravel_index(int(np.argmax(flags)), flags.shape)
        value = self.values[where]
        text = f"{value:g}" if self.values.dtype.kind == "f" else str(value)
        if self.objects is not None:
            offsets, slot = self.objects.offsets, self.objects.origin_slot
            event = int(np.searchsorted(offsets, where[0], side="right")) - 1
            place = where[0] - offsets[event] if slot is None else slot[where[0]]
            kind = "object" if self.objects.slots is None else "slot"
            return f"{text} ({kind} {', '.join(str(int(i)) for i in (place, *where[1:]))})"
        if len(where) > 1:
            return f"{text} (slot {', '.join(str(int(i)) for i in where[1:])})"
        return text
