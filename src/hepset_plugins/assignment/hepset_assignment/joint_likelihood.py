"""The probability of a whole assignment: a softmax over combinations that share no object.

Scores of tuples become probabilities in one of two ways: for each particle alone, by a softmax
over its tuples, or for all particles together, by a softmax over the combinations of one tuple
each that use no object twice. The second is what the selection maximises, so training by it wastes
nothing on excluding tuples that cannot stand beside a better one.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from hepset.nn.export_mode import is_exporting
from hepset_assignment.log_sum_exp import log_sum_exp, only
from hepset_assignment.selection import FORBIDDEN, Candidates
from hepset_assignment.selection.candidates import occupancy
from hepset_assignment.topology import ProcessPlan

__all__ = ["IMPOSSIBLE", "MOST_PARTICLES", "Joint", "has_joint", "touching"]

MOST_PARTICLES: Final = 4
"""Particles whose combinations are listed; of more, too few tuples each could be."""

_COMBINATIONS: Final = 4096
"""Combinations per event, from 64 tuples of each of two particles, 16 of three, 8 of four."""
_LEFT_OUT: Final = -1000.0
"""Score of leaving a particle out: it happens where there are too few objects."""
IMPOSSIBLE: Final = _LEFT_OUT / 2
"""ln of a probability below which a particle is left out without need, or nothing fits."""
_EXISTS: Final = FORBIDDEN / 2
_PREFERRED: Final = 1e6
_EDGE: Final = 0.005
"""Distance from the first score that is not listed, within which tuples count less and less."""
_FAINTEST: Final = 1e-6


def has_joint(plan: ProcessPlan, *, shared: bool) -> bool:
    """Whether the particles of a process hinder each other, and are few enough to combine."""
    return 2 <= len(plan.particles) <= MOST_PARTICLES and not shared


def touching(objects: Tensor, taken: Tensor) -> Tensor:
    """Tell which tuples have an object that is taken, (B, C).

    Args:
        objects: Positions of the tuples' objects, (C, k) or (B, C, k).
        taken: (B, T).
    """
    members = objects.expand(taken.shape[0], *objects.shape[-2:])
    found = torch.zeros_like(members[..., 0], dtype=torch.bool)
    for product in range(members.shape[-1]):
        found = found | taken.gather(1, members[..., product])
    return found


class Joint:
    """The best combinations of tuples of a batch that share no object.

    Args:
        plan: The particles.
        candidates: One per particle.
        objects: Number of positions.
        preferred: Sets of tuples, (B, C) per particle, each of whose best members are listed
            whatever their scores: the true ones in training, the chosen ones in a decision.
        fade: Whether the last listed tuples fade out. Which of two tuples of almost equal scores is
            the last one is a matter of rounding; the probabilities then do not depend on it.
    """

    def __init__(
        self,
        plan: ProcessPlan,
        candidates: Sequence[Candidates],
        objects: int,
        preferred: Sequence[Tensor],
        *,
        fade: bool = False,
    ) -> None:
        self.plan = plan
        width = round(_COMBINATIONS ** (1 / len(candidates)))
        listed: dict[tuple[int, ...], tuple[Tensor, Tensor, Tensor]] = {}
        self.cells: list[Tensor] = []
        for number, each in enumerate(candidates):
            orbit = next(orbit for orbit in plan.orbits if number in orbit)
            key = (id(each), *orbit)
            if key not in listed:
                wanted = [preferred[other] for other in orbit]
                listed[key] = _best(each, wanted, width, objects, fade=fade)
            value, cell, occupied = listed[key]
            self.cells.append(cell)
            if number == 0:
                total, used = value, occupied
                continue
            total = _together(total, value, used, occupied).flatten(1)
            if number < len(candidates) - 1:
                used = (used[:, :, None, :] + occupied[:, None, :, :]).flatten(1, 2)
        self.total = total

    def logarithm(self, allowed: Sequence[Tensor]) -> Tensor:
        """Return ln of the probability that all particles are among what is allowed for them.

        Particles that may be interchanged are: under some permutation of them.

        Args:
            allowed: Per particle (B, C), tuples; a particle for which all tuples are allowed may be
                left out too.

        Returns:
            (B,), at most 0; below −1e11 where no combination fits.
        """
        agrees = _any_order(self._orders(allowed))
        difference = log_sum_exp(only(self.total, agrees)) - self._everything
        return difference.clamp(max=0.0)

    def probability(self, allowed: Sequence[Tensor]) -> Tensor:
        """Return the probability itself, (B,), as sums: cheaper than the logarithm, to 1e-6.

        Args:
            allowed: As for `logarithm`.
        """
        orders = self._orders(allowed)
        if len(orders) > 2:
            found = torch.where(_any_order(orders), self._chances, 0.0).sum(1)
        else:
            found = self._sum(orders[0])
            if len(orders) == 2:
                both = [one & two for one, two in zip(*orders, strict=True)]
                found = found + self._sum(orders[1]) - self._sum(both)
        return found.clamp(min=0.0, max=1.0)

    def _orders(self, allowed: Sequence[Tensor]) -> list[list[Tensor]]:
        """Per permutation and particle, which of its listed tuples (B, K + 1) are allowed."""
        extended = [torch.cat([part, part.all(1, keepdim=True)], 1) for part in allowed]
        fits: dict[tuple[int, int], Tensor] = {}
        elements = self.plan.elements or (tuple(range(len(allowed))),)
        for order in elements:
            for own, true in enumerate(order):
                if (own, true) not in fits:
                    fits[own, true] = extended[true].gather(1, self.cells[own])
        return [[fits[place] for place in enumerate(order)] for order in elements]

    def _sum(self, fits: Sequence[Tensor]) -> Tensor:
        """Probability (B,) of the combinations of what fits each particle."""
        found = self._chances
        for fit in reversed(fits):
            table = torch.unflatten(found, 1, (-1, fit.shape[1]))
            found = (table @ fit[:, :, None].to(table.dtype))[..., 0]
        return found[:, 0]

    @cached_property
    def _chances(self) -> Tensor:
        return torch.softmax(self.total, 1)

    @cached_property
    def _everything(self) -> Tensor:
        return log_sum_exp(self.total)


def _together(total: Tensor, value: Tensor, used: Tensor, occupied: Tensor) -> Tensor:
    """Sum of scores (B, n) and (B, m), hugely negative where they share an object, (B, n, m).

    The objects that each occupies are given as ones, (B, n, T) and (B, m, T).
    """
    both = total[:, :, None] + value[:, None, :]
    shared = used @ occupied.transpose(1, 2)
    if is_exporting():
        return torch.where(shared < 0.5, both, FORBIDDEN)
    # A selection by a condition that changes often takes a CPU ten times longer than a sum.
    return torch.add(both, shared, alpha=FORBIDDEN)


def _any_order(orders: Sequence[Sequence[Tensor]]) -> Tensor:
    """Which combinations fit under some permutation, (B, combination)."""
    found: Tensor | None = None
    for fits in orders:
        same = fits[0]
        for fit in fits[1:]:
            same = (same[:, :, None] & fit[:, None, :]).flatten(1)
        found = same if found is None else found | same
    assert found is not None
    return found


def _best(
    each: Candidates, preferred: Sequence[Tensor], width: int, objects: int, *, fade: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores (B, K + 1), tuples and occupied objects (B, K + 1, T); the last leaves it out."""
    scores = each.scores
    count = scores.shape[1]
    order = scores.detach()
    share = max(1, width // (2 * len(preferred)))
    if is_exporting():
        # There may be fewer tuples than are listed, and their number is not known.
        more = torch.full_like(order[:, :1], FORBIDDEN).expand(-1, width)
        order, size = torch.cat([order, more], 1), width
        preferred = [torch.cat([part, more > 0], 1) for part in preferred]
    else:
        size, share = min(width, count), min(share, count)
    rank = order
    for part in preferred:
        value, best = torch.where(part, order, FORBIDDEN).topk(share, 1)
        raised = torch.where(value > _EXISTS, value + _PREFERRED, rank.gather(1, best))
        rank = rank.scatter(1, best, raised)
    fades = fade and (is_exporting() or count > size)
    ranks, cells = rank.topk(size + fades, 1)
    cells = cells[:, :size]
    known = cells.clamp(max=count - 1)
    value = torch.where(cells < count, scores.gather(1, known), FORBIDDEN)
    if fades:
        value = _faded(value, ranks[:, :size], ranks[:, size:])
    occupied = occupancy(each, known, torch.ones_like(known, dtype=torch.bool), objects)
    nothing = torch.full_like(value[:, :1], _LEFT_OUT)
    return (
        torch.cat([value, nothing], 1),
        torch.cat([known, torch.full_like(known[:, :1], count)], 1),
        functional.pad(occupied, (0, 0, 0, 1)),
    )


def _faded(value: Tensor, ranks: Tensor, first_out: Tensor) -> Tensor:
    """Let the last of the listed scores fade out, and share what they lose among all.

    Args:
        value: The scores, from the best one on, (B, K).
        ranks: By which they were chosen: the same, or far more where they are listed anyway.
        first_out: The rank of the first one that is not listed, (B, 1).
    """
    share = ((ranks - first_out) / _EDGE).clamp(min=_FAINTEST, max=1.0)
    others = ranks < _PREFERRED / 2
    faded = value + share.log()
    lost = log_sum_exp(only(value, others)) - log_sum_exp(only(faded, others))
    return torch.where(others, faded + lost[:, None], value)
