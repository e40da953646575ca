"""Assignments from the best tuples of every particle, and a proof where none can be better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from hepset.nn.export_mode import is_exporting
from hepset_assignment.selection.bounds import Limits, Top, find_top
from hepset_assignment.selection.candidates import FORBIDDEN, at
from hepset_assignment.selection.problem import Problem

__all__ = ["Combined", "combine", "improve"]

_MOST_TUPLES: Final = 512
"""Tuples of a particle that are listed where the best of them proved nothing."""
_MOST_PARTIAL: Final = 1024
"""Partial assignments of them."""


class Combined(NamedTuple):
    """Assignments from a limited number of tuples, and what bounds them.

    Attributes:
        chosen: Per particle (B,), number of the tuple, −1 = left out.
        score: (B,) float64.
        certified: (B,), whether it is the maximum.
        ranks: Per particle (B, C).
        limits: Bounds.
    """

    chosen: list[Tensor]
    score: Tensor
    certified: Tensor
    ranks: list[Tensor]
    limits: Limits

    def of_rows(self, rows: Tensor) -> Combined:
        """Return some of the events."""
        return Combined(
            [each.index_select(0, rows) for each in self.chosen],
            self.score.index_select(0, rows),
            self.certified.index_select(0, rows),
            [each.index_select(0, rows) for each in self.ranks],
            self.limits.of_rows(rows),
        )


def combine(problem: Problem, width: int, rounds: int) -> Combined:
    """Combine the best tuples of every particle.

    Args:
        problem: The events.
        width: Tuples per particle, and partial assignments that are kept.
        rounds: Changes of the prices; 0 = without prices.
    """
    prices = problem.prices(rounds) if rounds else None
    ranks = problem.ranks(prices)
    tops = _tops(problem, ranks, width)
    best = [top.ranks.amax(1, keepdim=True) for top in tops]
    limits = Limits(problem.candidates, problem.values, problem.none, best, prices, problem.objects)
    missed = _cut(tops, limits)
    if prices is None and len(tops) == 2:
        picks, score = _pair(tops[0], tops[1])
    else:
        picks, score, dropped = _beam(tops, limits, width, problem.same)
        missed += dropped
    chosen = [at(top.cells, pick)[:, 0] for top, pick in zip(tops, picks, strict=True)]
    return Combined(chosen, score, _exceeds(score, missed), ranks, limits)


def improve(problem: Problem, found: Combined) -> Combined:
    """List everything that could be better than what was found, which leaves nothing to prove.

    Tuples whose bound does not exceed the score are left out, and so is every partial assignment;
    few remain. Their number depends on the event, so that a graph with it has sizes that depend on
    the data. Only where there are very many is something cut, and the event not certified.
    """
    tops: list[Top] = []
    for number, top in enumerate(_tops(problem, found.ranks, _MOST_TUPLES)):
        if problem.same[number]:
            tops.append(tops[-1])
            continue
        better = found.limits.with_one(number, top.ranks[:, :-1]) > found.score[:, None]
        needed = functional.pad(better.sum(0), (0, 1), value=1).nonzero()[:, 0]
        tops.append(_columns(top, needed))
    missed = _cut(tops, found.limits)
    picks, score, dropped = _beam(
        tops, found.limits, _MOST_PARTIAL, problem.same, surpass=found.score
    )
    better = score > found.score
    chosen = [
        torch.where(better, at(top.cells, pick)[:, 0], old)
        for top, pick, old in zip(tops, picks, found.chosen, strict=True)
    ]
    score = torch.where(better, score, found.score)
    return found._replace(
        chosen=chosen, score=score, certified=_exceeds(score, [*missed, *dropped])
    )


def _tops(problem: Problem, ranks: Sequence[Tensor], width: int) -> list[Top]:
    tops: list[Top] = []
    for number, each in enumerate(problem.candidates):
        if problem.same[number]:
            tops.append(tops[-1])
        else:
            value, none = problem.values[number], problem.none[number]
            tops.append(find_top(each, value, ranks[number], none, problem.objects, width))
    return tops


def _columns(top: Top, columns: Tensor) -> Top:
    """Return some of the tuples."""
    return Top(
        top.values.index_select(1, columns),
        top.ranks.index_select(1, columns),
        top.cells.index_select(1, columns),
        top.occupied.index_select(1, columns),
        top.cut,
    )


def _cut(tops: Sequence[Top], limits: Limits) -> list[Tensor]:
    """Bounds (B,) of assignments with a tuple that is not among the top."""
    return [
        limits.with_one(number, top.cut)[:, 0]
        for number, top in enumerate(tops)
        if top.cut is not None
    ]


def _exceeds(score: Tensor, missed: Sequence[Tensor]) -> Tensor:
    """Tell where nothing that was left aside can be better than the score (B,)."""
    certified = torch.ones_like(score, dtype=torch.bool)
    for bound in missed:
        certified = certified & (score >= bound)
    return certified


def _pair(first: Top, second: Top) -> tuple[list[Tensor], Tensor]:
    """Combine the tuples of two particles, both in the order of their scores.

    The best partner of a tuple is the first that shares no object with it.

    Returns:
        Per particle (B, 1) the place of the pick among its top; the score (B,).
    """
    own, other = first.values[:, :-1], second.values[:, :-1]
    place, partner = torch.arange(own.shape[1], device=own.device), other.shape[1]
    free, best = _first_free(first.occupied[:, :-1], second.occupied[:, :-1])
    together = torch.where(free, own + other.gather(1, best), 2 * FORBIDDEN)
    nobody = [first.values[:, -1:], second.values[:, -1:]]
    alone = [own[:, :1] + nobody[1], nobody[0] + other[:, :1], nobody[0] + nobody[1]]
    score, pick = torch.cat([together, *alone], 1).max(1, keepdim=True)
    left_out = torch.full_like(best[:, :1], partner)
    leading = torch.zeros_like(left_out)
    last = torch.full_like(left_out, own.shape[1])
    places = [
        torch.cat([place.expand(best.shape), leading, last, last], 1),
        torch.cat([best, left_out, leading, left_out], 1),
    ]
    return [each.gather(1, pick) for each in places], score[:, 0]


def _first_free(own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Find for each tuple the first of others that shares no object with it.

    Args:
        own: 1 where an object is used, (B, M, T).
        other: The same of the others, (B, N, T).

    Returns:
        Whether there is one, and which, (B, M).
    """
    count = other.shape[1]
    # A place, and N more for each shared object: the smallest number is below N if one is free.
    place = torch.arange(count, device=own.device, dtype=own.dtype)
    lowest = (own @ (count * other).transpose(1, 2) + place).amin(2)
    return lowest < count, lowest.clamp(max=count - 1).to(torch.int64)


def _beam(
    tops: Sequence[Top],
    limits: Limits,
    width: int,
    same: Sequence[bool],
    surpass: Tensor | None = None,
) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """Combine the particles' tuples, one particle after the other.

    Args:
        tops: Per particle its tuples; two particles at least.
        limits: Bounds.
        width: Partial assignments that are kept.
        same: Whether each particle has the tuples of the one before.
        surpass: (B,), what cannot be better than this is dropped.

    Returns:
        Per particle (B, 1) the place of the pick among its top; the score (B,); bounds (B,) of
        everything else that was dropped on the way.
    """
    score, rank, used = tops[0].values, tops[0].ranks, tops[0].occupied
    picks = [torch.arange(score.shape[1], device=score.device).expand(score.shape)]
    missed: list[Tensor] = []
    for number, top in enumerate(tops[1:-1], start=1):
        impossible = _impossible(used, picks[-1], top, again=same[number])
        total = rank[:, :, None] + top.ranks[:, None, :]
        taken = used.sum(2)[:, :, None] + top.occupied.sum(2)[:, None, :]
        bound = total.flatten(1) + limits.rest(number + 1, taken.flatten(1))
        bound = torch.where(impossible.flatten(1), 2 * FORBIDDEN, bound)
        place, dropped = _keep(bound, width, surpass)
        if dropped is not None:
            missed.append(dropped)
        before, now = _split(place, top)
        lost = bound.gather(1, place) < FORBIDDEN / 2
        picks = [pick.gather(1, before) for pick in picks] + [now]
        score = score.gather(1, before) + top.values.gather(1, now)
        score = torch.where(lost, 2 * FORBIDDEN, score)
        rank = rank.gather(1, before) + top.ranks.gather(1, now)
        rank = torch.where(lost, 2 * FORBIDDEN, rank)
        axis = used.shape[2]
        used = used.gather(1, before[:, :, None].expand(-1, -1, axis)) + top.occupied.gather(
            1, now[:, :, None].expand(-1, -1, axis)
        )
    top = tops[-1]
    impossible = _impossible(used, picks[-1], top, again=same[-1])
    total = torch.where(impossible, 2 * FORBIDDEN, score[:, :, None] + top.values[:, None, :])
    best, place = total.flatten(1).max(1, keepdim=True)
    before, now = _split(place, top)
    return [pick.gather(1, before) for pick in picks] + [now], best[:, 0], missed


def _impossible(used: Tensor, last: Tensor, top: Top, *, again: bool) -> Tensor:
    """Tell which partial assignments (B, M) and tuples (B, N) do not go together, (B, M, N)."""
    found = torch.matmul(used, top.occupied.transpose(1, 2)) > 0.5
    if again:
        # The same tuples as those of the particle before: in order, since swapping is as good.
        options = top.values.shape[1]
        place = torch.arange(options, device=used.device)
        found = found | ~((place > last[:, :, None]) | (place == options - 1))
    return found


def _split(place: Tensor, top: Top) -> tuple[Tensor, Tensor]:
    """Return the partial assignment and the tuple that a place in the flat table stands for."""
    options = top.values.shape[1]
    before = torch.div(place, options, rounding_mode="floor")
    return before, place - before * options


def _keep(bound: Tensor, width: int, surpass: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Choose the places (B, M) of the highest bounds (B, N), and bound (B,) the others.

    Where there is something to surpass, there are as many places as one event needs.
    """
    count = bound.shape[1]
    if surpass is None:
        highest, place = bound.topk(min(width, count), 1)
        # In one order, whatever the runtime does with equal bounds.
        return place.sort(1).values, highest[:, -1] if width < count else None
    worth = torch.where(bound > surpass[:, None], bound, 2 * FORBIDDEN)
    if is_exporting():
        # The number of bounds is not known.
        worth = functional.pad(worth, (0, width), value=2 * FORBIDDEN)
        highest, place = worth.topk(width, 1)
        place = place.clamp(max=count - 1)
    else:
        highest, place = worth.topk(min(width, count), 1)
    needed = functional.pad((highest[:, 1:] > FORBIDDEN / 2).sum(0), (1, 0), value=1).nonzero()
    return place.index_select(1, needed[:, 0]).sort(1).values, highest[:, -1]
