"""From scores of tuples of objects to one assignment: greedily, or provably the joint maximum.

A particle is given as `Candidates`: tuples of objects, each with a score. Both functions work on
all events at once with plain tensor operations (loops over particles are unrolled), so that they
can be exported inside a model (ONNX opset 18) with any number of events and objects.

A particle stays unassigned where no tuple is left for it. More assigned particles are better than
fewer; among as many, the larger sum of scores wins. Where `unassigned` gives the score of leaving
a particle out (``log(1 - p)`` of a detection probability), the sum alone decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

from hepset.errors import ConfigurationError
from hepset.nn.exporting import is_exporting
from hepset_spanet.choice.bounds import Limits, Top, find_top
from hepset_spanet.choice.candidates import (
    FORBIDDEN,
    LEFT_OUT,
    LOWEST,
    Candidates,
    alike,
    at,
    dense_candidates,
    incidence,
    objects_of,
    rows_of,
    touches,
    usable,
)
from hepset_spanet.choice.prices import find_prices, priced
from hepset_spanet.choice.search import Search

__all__ = ["FORBIDDEN", "Candidates", "Selection", "dense_candidates", "exact", "greedy"]

_FEW_ROUNDS: Final = 8
_ROUNDS: Final = 24
"""Changes of the prices where three particles or more compete: with few products, with many."""
_MANY_PRODUCTS: Final = 8
"""Products from which there are many."""
_MORE_ROUNDS: Final = 96
"""The same for events that were not certified."""
_VERY_BEST: Final = 16
"""Tuples of either of two particles that are tried beside all tuples of the other."""
_WIDER: Final = 4
"""Factor of the width for them."""


class Selection(NamedTuple):
    """One assignment per event.

    Attributes:
        indices: Per particle (B, k) int64, positions of the objects; −1 = unassigned.
        chosen: Per particle (B,) int64, number of the tuple; −1 = unassigned.
        score: (B,), sum of the chosen tuples' scores, and of `unassigned` where that was given.
        certified: (B,) bool, whether no assignment has a larger score.
    """

    indices: tuple[Tensor, ...]
    chosen: tuple[Tensor, ...]
    score: Tensor
    certified: Tensor


def greedy(
    candidates: Sequence[Candidates],
    objects: int,
    *,
    unassigned: Sequence[Tensor] | None = None,
    shared: bool = False,
) -> Selection:
    """Assign the best tuple of any particle, take its objects away, and so on.

    SPANet's algorithm (arXiv:2106.03898), ties included: the first particle and its first tuple
    win. Unlike there, a particle without tuples is left out instead of getting some, and objects
    are taken away whatever the number of products.

    Args:
        candidates: One per particle.
        objects: Number of positions.
        unassigned: Per particle (B,), its score when left out: tuples below are not taken.
        shared: Whether particles may share objects.

    Raises:
        ConfigurationError: If there is no particle.
    """
    _require_particles(candidates)
    values = [usable(each.scores) for each in candidates]
    if unassigned is not None:
        values = [
            torch.where(value >= score[:, None], value, FORBIDDEN)
            for value, score in zip(values, unassigned, strict=True)
        ]
    if shared:
        return _apart(candidates, values, unassigned)
    chosen = [torch.full_like(value[:, 0], -1, dtype=torch.int64) for value in values]
    slot = torch.arange(objects, device=values[0].device)
    for _ in candidates:
        cells = [value.argmax(1) for value in values]
        best = torch.cat([at(v, c) for v, c in zip(values, cells, strict=True)], 1)
        winner = best.argmax(1)
        found = at(best, winner)[:, 0] > LOWEST
        used = torch.zeros_like(found)[:, None] & (slot >= 0)
        for number, (each, cell) in enumerate(zip(candidates, cells, strict=True)):
            here = found & (winner == number)
            chosen[number] = torch.where(here, cell, chosen[number])
            taken = (objects_of(each, cell)[:, :, None] == slot).any(1)
            used = used | (taken & here[:, None])
        values = [
            torch.where(
                touches(used, each) | (number_chosen >= 0)[:, None],
                FORBIDDEN,
                value,
            )
            for each, number_chosen, value in zip(candidates, chosen, values, strict=True)
        ]
    selection = _finish(candidates, chosen, unassigned)
    # One particle is no compromise.
    certified = torch.full_like(selection.certified, len(candidates) == 1)
    return selection._replace(certified=certified)


def exact(
    candidates: Sequence[Candidates],
    objects: int,
    *,
    unassigned: Sequence[Tensor] | None = None,
    shared: bool = False,
    width: int = 64,
) -> Selection:
    """Find the assignment with the largest sum of scores.

    The best `width` tuples of every particle are combined, one particle after the other; at most
    `width` partial assignments are kept, those that could still become the best. What was left
    out is bounded: where no bound exceeds the result, it is the maximum, and `certified` says so.
    Three particles or more compete for objects at prices (`hepset_spanet.choice.prices`), which
    makes the bounds nearly tight. In torch the other events are tried again with more tuples, and
    what is left is searched by branch and bound, so that the result always is the maximum; an
    exported model has no search, and its `certified` can be False.

    Args:
        candidates: One per particle.
        objects: Number of positions.
        unassigned: Per particle (B,), its score when left out.
        shared: Whether particles may share objects.
        width: Tuples per particle, and partial assignments, that are looked at.

    Raises:
        ConfigurationError: If there is no particle, or `width` is below 1.
    """
    _require_particles(candidates)
    if width < 1:
        raise ConfigurationError(f"selection: width must be at least 1, got {width}")
    values = [usable(each.scores) for each in candidates]
    if shared or len(candidates) == 1:
        return _apart(candidates, values, unassigned)
    if unassigned is None:
        none = [torch.full_like(v[:, :1], LEFT_OUT, dtype=torch.float64) for v in values]
    else:
        none = [score.double()[:, None] for score in unassigned]
    problem = _Problem(
        candidates,
        values,
        none,
        alike(candidates, unassigned),
        objects,
        scarce=unassigned is None,
    )
    products = sum(each.objects.shape[-1] for each in candidates)
    rounds = _ROUNDS if products >= _MANY_PRODUCTS else _FEW_ROUNDS
    found = _combine(problem, width, rounds if len(candidates) > 2 else 0)
    chosen, certified = list(found.chosen), found.certified
    if not is_exporting() and not bool(certified.all()):
        rows = (~certified).nonzero()[:, 0]
        better = _settle(problem.of_rows(rows), width)
        chosen = [old.index_copy(0, rows, new) for old, new in zip(chosen, better, strict=True)]
        certified = torch.ones_like(certified)
    return _finish(candidates, chosen, unassigned)._replace(certified=certified)


class _Problem:
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

    def of_rows(self, rows: Tensor) -> _Problem:
        """Return some of the events."""
        return _Problem(
            [rows_of(each, rows) for each in self.candidates],
            [value[rows] for value in self.values],
            [score[rows] for score in self.none],
            self.same,
            self.objects,
            scarce=self.scarce,
        )

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


class _Combined(NamedTuple):
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


def _combine(problem: _Problem, width: int, rounds: int) -> _Combined:
    """Combine the best tuples of every particle, with prices if `rounds` is not 0."""
    prices = problem.prices(rounds) if rounds else None
    ranks = problem.ranks(prices)
    tops: list[Top] = []
    for number, each in enumerate(problem.candidates):
        if problem.same[number]:
            tops.append(tops[-1])
        else:
            value, none = problem.values[number], problem.none[number]
            tops.append(find_top(each, value, ranks[number], none, problem.objects, width))
    best = [top.ranks.amax(1, keepdim=True) for top in tops]
    limits = Limits(problem.candidates, problem.values, problem.none, best, prices, problem.objects)
    missed: list[Tensor] = []
    if prices is None and len(tops) == 2:
        picks, score = _pair(tops[0], tops[1])
    else:
        picks, score, missed = _beam(tops, limits, width, problem.same)
    chosen = [at(top.cells, pick)[:, 0] for top, pick in zip(tops, picks, strict=True)]
    if prices is None and len(tops) == 2:
        chosen, score, missed = _beside_all(problem, tops, chosen, score)
    else:
        for number, top in enumerate(tops):
            if top.cut is not None:
                missed.append(limits.with_one(number, top.cut)[:, 0])
    certified = torch.ones_like(score, dtype=torch.bool)
    for bound in missed:
        certified = certified & (score >= bound)
    return _Combined(chosen, score, certified, ranks, limits)


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
    tops: Sequence[Top], limits: Limits, width: int, same: Sequence[bool]
) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """Combine the particles' tuples.

    Returns:
        Per particle (B, 1) the place of the pick among its top; the score (B,); bounds (B,) of
        everything that was dropped on the way.
    """
    score, rank, used = tops[0].values, tops[0].ranks, tops[0].occupied
    picks = [torch.arange(score.shape[1], device=score.device).expand(score.shape)]
    missed: list[Tensor] = []
    for number, top in enumerate(tops[1:], start=1):
        impossible = torch.matmul(used, top.occupied.transpose(1, 2)) > 0.5
        options = top.values.shape[1]
        if same[number]:
            place = torch.arange(options, device=score.device)
            later = (place > picks[-1][:, :, None]) | (place == options - 1)
            impossible = impossible | ~later
        kept = min(width, score.shape[1] * options)
        if number == len(tops) - 1:
            total = torch.where(
                impossible, 2 * FORBIDDEN, score[:, :, None] + top.values[:, None, :]
            )
            flat = total.flatten(1)
            place = flat.argmax(1, keepdim=True)
            score = flat.gather(1, place)
        else:
            total = rank[:, :, None] + top.ranks[:, None, :]
            taken = used.sum(2)[:, :, None] + top.occupied.sum(2)[:, None, :]
            bound = total.flatten(1) + limits.rest(number + 1, taken.flatten(1))
            bound = torch.where(impossible.flatten(1), 2 * FORBIDDEN, bound)
            highest, place = bound.topk(kept, 1)
            if kept < score.shape[1] * options:
                missed.append(highest[:, -1])
            # In one order, whatever the runtime does with equal bounds.
            place = place.sort(1).values
        before = torch.div(place, options, rounding_mode="floor")
        now = place - before * options
        picks = [pick.gather(1, before) for pick in picks] + [now]
        if number < len(tops) - 1:
            lost = impossible.flatten(1).gather(1, place)
            score = score.gather(1, before) + top.values.gather(1, now)
            score = torch.where(lost, 2 * FORBIDDEN, score)
            rank = rank.gather(1, before) + top.ranks.gather(1, now)
            rank = torch.where(lost, 2 * FORBIDDEN, rank)
            axis = used.shape[2]
            used = used.gather(1, before[:, :, None].expand(-1, -1, axis)) + top.occupied.gather(
                1, now[:, :, None].expand(-1, -1, axis)
            )
    return picks, score[:, 0], missed


def _beside_all(
    problem: _Problem, tops: Sequence[Top], chosen: list[Tensor], score: Tensor
) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """Try the very best tuples of either of two particles beside all tuples of the other.

    Then only pairs are left aside in which neither tuple is among the very best, and one is not
    even among the top: a bound that hardly any event exceeds.

    Returns:
        Per particle (B,) the tuple, the score (B,), and bounds (B,) of what was not tried.
    """
    missed = []
    for first, second in ((0, 1), (1, 0)):
        top, cut = tops[first], tops[second].cut
        if cut is None:
            continue  # all tuples of the other were among its top
        few = min(_VERY_BEST, top.values.shape[1] - 1)
        missed += [top.ranks[:, few - 1] + cut[:, 0], problem.none[first][:, 0] + cut[:, 0]]
        if first and problem.same[1]:
            continue  # the same pairs the other way round
        other, value = problem.candidates[second], problem.values[second]
        held = _incidence(other, problem.objects).transpose(-2, -1)
        free, rows = _first_free(held, top.occupied[:, :few])
        total = top.values.gather(1, rows) + value.double()
        best, cell = torch.where(free, total, 2 * FORBIDDEN).max(1, keepdim=True)
        better = best[:, 0] > score
        score = torch.where(better, best[:, 0], score)
        place = rows.gather(1, cell)
        found = {first: at(top.cells, place)[:, 0], second: cell[:, 0]}
        chosen = [torch.where(better, found[n], chosen[n]) for n in range(2)]
    return chosen, score, missed


def _incidence(each: Candidates, objects: int) -> Tensor:
    """Return 1 where an object is in a tuple, (T, C) or (B, T, C) float32."""
    if each.objects.dim() == 2:
        return incidence(each, objects).T
    slot = torch.arange(objects, device=each.objects.device)
    return (each.objects[..., None] == slot).any(-2).float().transpose(1, 2)


def _settle(problem: _Problem, width: int) -> list[Tensor]:
    """Find the maximum of events that were not certified: with more tuples, then by search."""
    found = _combine(problem, _WIDER * width, _MORE_ROUNDS)
    chosen = list(found.chosen)
    rows = (~found.certified).nonzero()[:, 0]
    picks = [_search(problem, found, row) for row in rows.tolist()]
    if picks:
        table = torch.tensor(picks, dtype=torch.int64, device=rows.device)
        for number, old in enumerate(chosen):
            new = torch.where(table[:, 0] > -2, table[:, number], old[rows])
            chosen[number] = old.index_copy(0, rows, new)
    return chosen


def _search(problem: _Problem, found: _Combined, row: int) -> list[int]:
    """Search one event among the tuples that could be better than what was found."""
    score = float(found.score[row])
    values, ranks, objects, cells = [], [], [], []
    for number, each in enumerate(problem.candidates):
        rank = found.ranks[number][row : row + 1].double()
        value = problem.values[number][row]
        bound = found.limits.of_row(row).with_one(number, rank)[0]
        kept = ((bound > score) & (value > LOWEST)).nonzero()[:, 0]
        held = each.objects if each.objects.dim() == 2 else each.objects[row]
        values.append(value[kept].double().cpu().numpy())
        ranks.append(rank[0, kept].cpu().numpy())
        objects.append(held[kept].cpu().numpy())
        cells.append(kept.cpu().numpy())
    search = Search(
        values,
        ranks,
        objects,
        cells,
        none=[float(score[row, 0]) for score in problem.none],
        base=float(found.limits.base[row, 0]),
        slots=problem.objects,
        score=score,
        alike=problem.same,
    )
    return search.run()


def _apart(
    candidates: Sequence[Candidates],
    values: Sequence[Tensor],
    unassigned: Sequence[Tensor] | None,
) -> Selection:
    """Every particle for itself."""
    chosen = []
    for number, value in enumerate(values):
        cell = value.argmax(1)
        best = at(value, cell)[:, 0]
        good = best > LOWEST
        if unassigned is not None:
            good = good & (best >= unassigned[number])
        chosen.append(torch.where(good, cell, -1))
    return _finish(candidates, chosen, unassigned)


def _finish(
    candidates: Sequence[Candidates],
    chosen: Sequence[Tensor],
    unassigned: Sequence[Tensor] | None,
) -> Selection:
    indices, score = [], torch.zeros_like(candidates[0].scores[:, 0])
    for number, (each, cell) in enumerate(zip(candidates, chosen, strict=True)):
        assigned = cell >= 0
        known = cell.clamp(min=0)
        indices.append(torch.where(assigned[:, None], objects_of(each, known), -1))
        left_out = 0.0 if unassigned is None else unassigned[number]
        score = score + torch.where(assigned, at(each.scores, known)[:, 0], left_out)
    certified = torch.ones_like(score, dtype=torch.bool)
    return Selection(tuple(indices), tuple(chosen), score, certified)


def _require_particles(candidates: Sequence[Candidates]) -> None:
    if not candidates:
        raise ConfigurationError("selection: there is no particle to assign; give at least one")
