"""`Report`: every violation of a contract that was found, with its place and the way out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import Field

from hepset.errors import ContractError
from hepset.schema.base import Model
from hepset.tables import Table

Severity = Literal["error", "warning", "note"]


class Violation(Model):
    """One rule that some events of one tensor break."""

    rule: str
    """Short name of the rule: ``finite``, ``labels``, ``mask-inverted``, …"""
    severity: Severity = "error"
    """``error`` refuses the data, ``warning`` and ``note`` are shown."""
    tensor: str
    """Name of the tensor, with ``.feature`` where one column is meant."""
    events: int = 0
    """How many events break it; 0 where it is about the whole tensor."""
    of_events: int = 0
    """How many events were looked at."""
    source: str = ""
    """File (or generator) of the first bad event."""
    entry: int = -1
    """Entry of the first bad event in its source; −1 where it is about the whole tensor."""
    expected: str
    """What the contract asks for."""
    found: str
    """What the first bad event holds."""
    advice: str
    """What to change."""

    def merge(self, other: Violation) -> Violation:
        """Add the counts of the same violation in other events; the earlier event stays first."""
        first = min(self, other, key=lambda v: (v.source, v.entry))
        return first.model_copy(
            update={
                "events": self.events + other.events,
                "of_events": self.of_events + other.of_events,
            }
        )

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What makes two violations the same kind."""
        return (self.severity, self.tensor, self.rule, self.expected)

    def __str__(self) -> str:
        """Return the violation as the sentence that a user reads."""
        place = f"{self.source}: " if self.source else ""
        count = f" in {self.events} of {self.of_events} events" if self.events else ""
        where = f" (first: entry {self.entry})" if self.entry >= 0 else ""
        return (
            f"{place}{self.tensor}: {self.rule}{count}{where}: expected {self.expected}, "
            f"found {self.found}; {self.advice}"
        )


class Report(Model):
    """All violations of one check; empty when everything holds."""

    violations: tuple[Violation, ...] = Field(default=())
    """In the order of the contract's tensors."""
    events: int = 0
    """Number of events that were checked."""

    @property
    def errors(self) -> list[Violation]:
        """The violations that refuse the data."""
        return [v for v in self.violations if v.severity == "error"]

    @property
    def ok(self) -> bool:
        """Whether no violation refuses the data."""
        return not self.errors

    @property
    def ok_as_part(self) -> bool:
        """Whether nothing refuses these events if they are a part of a larger sample.

        A part may have no object at all (``mask-empty``); a whole sample may not.
        """
        return all(violation.rule == "mask-empty" for violation in self.errors)

    def merge(self, other: Report) -> Report:
        """Return the report on both parts; violations of one kind are counted together."""
        return Report.collect([self, other])

    @classmethod
    def collect(cls, reports: Iterable[Report]) -> Report:
        """Merge the reports on many parts."""
        merged: dict[tuple[str, str, str, str], Violation] = {}
        events = 0
        for report in reports:
            events += report.events
            for violation in report.violations:
                known = merged.get(violation.key)
                merged[violation.key] = known.merge(violation) if known else violation
        return cls(violations=tuple(merged.values()), events=events)

    def raise_if_bad(self, what: str = "the data do not obey the contract") -> None:
        """Raise where a violation refuses the data.

        Raises:
            ContractError: Listing every violation.
        """
        if self.ok:
            return
        lines = "\n".join(f"  {violation}" for violation in self.errors)
        count = len(self.errors)
        raise ContractError(f"{what} ({count} violation{'s' if count > 1 else ''}):\n{lines}")

    def table(self) -> Table:
        """Return a table of the violations; no rows where every rule holds."""
        return Table(
            "",
            ("severity", "tensor", "rule", "events", "first", "expected", "found", "what to do"),
            tuple(
                (
                    v.severity,
                    v.tensor,
                    v.rule,
                    v.events or "–",
                    f"{v.source}: {v.entry}" if v.entry >= 0 else v.source or "–",
                    v.expected,
                    v.found,
                    v.advice,
                )
                for v in self.violations
            ),
            numbers=(3,),
        )

    def _repr_html_(self) -> str:
        """Return a table for a notebook."""
        if not self.violations:
            return f"<p>{self.events} events checked: every rule holds.</p>"
        return self.table().to_html()
