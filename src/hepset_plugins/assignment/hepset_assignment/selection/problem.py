"""`Problem`: events whose particles compete for objects."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hepset_assignment.selection.candidates import Candidates, rows_of
from hepset_assignment.selection.lagrangian import find_prices, priced

__all__ = ["Problem"]


class Problem:
    """Events whose particles are to be assigned jointly.

    Attributes:
        candidates: One per particle.
        values: Their scores (B, C).
        none: Per particle (B, 1) float64, the score of leaving it out.
        same: Whether each particle has the candidates of the one before.
        objects: Number of positions.
        scarce: Whether leaving out is the last resort.
    """

    def __init__(
        self,
        candidates: Sequence[Candidates],
        values: Sequence[Tensor],
        none: Sequence[Tensor],
        same: Sequence[bool],
        objects: int,
        *,
        scarce: bool,
    ) -> None:
        self.candidates, self.values, self.none = candidates, values, none
        self.same, self.objects, self.scarce = same, objects, scarce

    def of_rows(self, rows: Tensor) -> Problem:
        """Return some of the events."""
        candidates: list[Candidates] = []
        values: list[Tensor] = []
        none: list[Tensor] = []
        for number, again in enumerate(self.same):
            candidates.append(candidates[-1] if again else rows_of(self.candidates[number], rows))
            values.append(values[-1] if again else self.values[number].index_select(0, rows))
            none.append(none[-1] if again else self.none[number].index_select(0, rows))
        return Problem(candidates, values, none, self.same, self.objects, scarce=self.scarce)

    def prices(self, rounds: int) -> Tensor:
        """Return prices (B, T) of the objects."""
        return find_prices(
            self.candidates,
            self.values,
            self.none,
            self.same,
            self.objects,
            scarce=self.scarce,
            rounds=rounds,
        )

    def ranks(self, prices: Tensor | None) -> list[Tensor]:
        """Return scores (B, C) less prices, per particle."""
        if prices is None:
            return list(self.values)
        found: list[Tensor] = []
        for number, (each, value) in enumerate(zip(self.candidates, self.values, strict=True)):
            again = self.same[number]
            found.append(found[-1] if again else priced(value, each, prices, self.objects))
        return found
