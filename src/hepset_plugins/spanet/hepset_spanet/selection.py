"""From scores of tuples of objects to one assignment: greedily, or provably the joint maximum.

A particle is given as `Candidates`: tuples of objects, each with a score. Both functions work on
all events at once with plain tensor operations (no scatter, no loop over data; loops over
particles are unrolled), so that they can be exported inside a model (ONNX opset 18) with any
number of events and objects.

A particle stays unassigned where no tuple is left for it. More assigned particles are better than
fewer; among as many, the larger sum of scores wins. Where `unassigned` gives the score of leaving
a particle out (``log(1 - p)`` of a detection probability), the sum alone decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hepset.errors import ConfigurationError
from hepset.nn.exporting import is_exporting

__all__ = ["FORBIDDEN", "Candidates", "Selection", "dense_candidates", "exact", "greedy"]

Array = NDArray[Any]

FORBIDDEN: Final = -1e12
"""Score of a tuple that may not be chosen; −inf and NaN mean the same."""
_LOWEST: Final = -1e5
"""Scores up to here count as forbidden."""
_LEFT_OUT: Final = -1e7
"""Score of leaving a particle out: below every sum of scores, above what is forbidden."""


class Candidates(NamedTuple):
    """The tuples that one particle may be assigned to.

    Attributes:
        scores: (B, C), larger is better, magnitudes below 1e5; −inf, NaN and `FORBIDDEN` mark
            tuples that do not exist in the event.
        objects: Positions of the k objects of each tuple among all objects, (C, k) or, where
            events have tuples of their own, (B, C, k).
    """

    scores: Tensor
    objects: Tensor


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


def dense_candidates(scores: Tensor) -> Candidates:
    """Take every cell of a score tensor (B, N, …, N), one axis per product, as a tuple."""
    sizes = scores.shape[1:]
    axes = [torch.arange(size, device=scores.device) for size in sizes]
    grid = torch.meshgrid(*axes, indexing="ij")
    objects = torch.stack([axis.reshape(-1) for axis in grid], -1)
    return Candidates(scores.flatten(1), objects)


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
    values = [_usable(each.scores) for each in candidates]
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
        best = torch.cat([_at(v, c) for v, c in zip(values, cells, strict=True)], 1)
        winner = best.argmax(1)
        found = _at(best, winner)[:, 0] > _LOWEST
        used = torch.zeros_like(found)[:, None] & (slot >= 0)
        for number, (each, cell) in enumerate(zip(candidates, cells, strict=True)):
            here = found & (winner == number)
            chosen[number] = torch.where(here, cell, chosen[number])
            taken = (_objects_of(each, cell)[:, :, None] == slot).any(1)
            used = used | (taken & here[:, None])
        values = [
            torch.where(
                _touches(used, each) | (number_chosen >= 0)[:, None],
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
    In torch the other events are searched by branch and bound, so that the result always is the
    maximum; an exported model has no search, and its `certified` can be False.

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
    values = [_usable(each.scores) for each in candidates]
    if shared or len(candidates) == 1:
        return _apart(candidates, values, unassigned)
    if unassigned is None:
        none = [torch.full_like(v[:, :1], _LEFT_OUT, dtype=torch.float64) for v in values]
    else:
        none = [score.double()[:, None] for score in unassigned]
    tops = [
        _top(each, value, left_out, objects, width)
        for each, value, left_out in zip(candidates, values, none, strict=True)
    ]
    alike = _alike(candidates, unassigned)
    limits = _Limits(candidates, values, tops, objects)
    picks, score, missed = _beam(tops, limits, width, alike)
    for number, top in enumerate(tops):
        if top.cut is not None:
            missed.append(limits.with_one(number, top.cut))
    certified = torch.ones_like(score, dtype=torch.bool)
    for bound in missed:
        certified = certified & (score >= bound)
    chosen = [_at(top.cells, pick)[:, 0] for top, pick in zip(tops, picks, strict=True)]
    if not is_exporting() and not bool(certified.all()):
        rows = (~certified).nonzero()[:, 0]
        better = _search_rows(candidates, values, none, objects, rows, score, alike)
        for number, found in enumerate(better):
            chosen[number] = chosen[number].index_copy(
                0, rows, torch.where(better[0] > -2, found, chosen[number][rows])
            )
        certified = torch.ones_like(certified)
    return _finish(candidates, chosen, unassigned)._replace(certified=certified)


class _Top(NamedTuple):
    """The best tuples of a particle, and leaving it out as the last of them."""

    values: Tensor
    """(B, K + 1) float64."""
    cells: Tensor
    """(B, K + 1), number of the tuple, −1 = left out."""
    occupied: Tensor
    """(B, K + 1, T) float32, 1 where an object is used."""
    none: Tensor
    """(B, 1) float64, the score of leaving it out."""
    cut: Tensor | None
    """(B, 1): no other tuple is better; None where there is no other."""


def _top(each: Candidates, value: Tensor, none: Tensor, objects: int, width: int) -> _Top:
    if is_exporting():
        # The number of tuples may be smaller than `width`, and is not known.
        value = torch.cat([value, torch.full_like(value[:, :1], FORBIDDEN).expand(-1, width)], 1)
        size, cut = width, True
    else:
        size = min(width, value.shape[1])
        cut = size < value.shape[1]
    found, cells = value.topk(size, 1)
    if not is_exporting():
        # Of equal scores the first tuple comes first, as in ONNX.
        cells = cells.sort(1).values
        found, order = value.gather(1, cells).sort(dim=1, descending=True, stable=True)
        cells = cells.gather(1, order)
    allowed = found > _LOWEST
    slot = torch.arange(objects, device=value.device)
    known = torch.where(allowed, cells, 0)
    used = (_objects_of(each, known)[..., None] == slot).any(2) & allowed[..., None]
    nothing = torch.zeros_like(used[:, :1])
    return _Top(
        torch.cat([found.double(), none], 1),
        torch.cat([cells, torch.full_like(cells[:, :1], -1)], 1),
        torch.cat([used, nothing], 1).float(),
        none,
        found[:, -1:].double() if cut else None,
    )


class _Limits:
    """How much particles can still add, by their best scores and the number of free objects."""

    def __init__(
        self,
        candidates: Sequence[Candidates],
        values: Sequence[Tensor],
        tops: Sequence[_Top],
        objects: int,
    ) -> None:
        self.none = torch.cat([top.none for top in tops], 1)
        best = torch.cat([top.values.amax(1, keepdim=True) for top in tops], 1)
        self.gains = (best - self.none).clamp(min=0)
        self.sizes = [each.objects.shape[-1] for each in candidates]
        slot = torch.arange(objects, device=self.none.device)
        present = torch.zeros_like(values[0][:, :1], dtype=torch.bool) & (slot >= 0)
        for each, value in zip(candidates, values, strict=True):
            if each.objects.dim() == 3:
                present = present | (slot >= 0)
            else:
                holds = (each.objects[:, :, None] == slot).any(1).float()
                present = present | ((value > _LOWEST).float() @ holds > 0.5)
        self.objects = present.sum(1, keepdim=True)

    def rest(self, first: int, used: Tensor) -> Tensor:
        """Most that the particles from `first` on can add where (B, M) objects are used."""
        return self._most(list(range(first, len(self.sizes))), self.objects - used)

    def with_one(self, number: int, value: Tensor) -> Tensor:
        """Upper bound (B,) of every assignment in which one particle has at most `value` (B, 1)."""
        others = [p for p in range(len(self.sizes)) if p != number]
        free = self.objects - self.sizes[number]
        return (value + self._most(others, free))[:, 0]

    def _most(self, particles: list[int], free: Tensor) -> Tensor:
        none = self.none[:, particles].sum(1, keepdim=True)
        # Without a stable order of equal numbers: only their sums matter.
        gains = self.gains[:, particles].sort(dim=1, descending=True).values
        smallest = min(self.sizes[p] for p in particles)
        count = torch.div(free.clamp(min=0), smallest, rounding_mode="floor")
        total = none
        for place in range(len(particles)):
            total = total + torch.where(count > place, gains[:, place : place + 1], 0.0)
        return total


def _alike(candidates: Sequence[Candidates], unassigned: Sequence[Tensor] | None) -> list[bool]:
    """Whether each particle has the very candidates of the one before.

    Then it need not be tried with a better tuple than that one's: swapping them is as good.
    """
    found = [False]
    for number in range(1, len(candidates)):
        same = candidates[number] is candidates[number - 1]
        if unassigned is not None:
            same = same and unassigned[number] is unassigned[number - 1]
        found.append(same)
    return found


def _beam(
    tops: Sequence[_Top], limits: _Limits, width: int, alike: Sequence[bool]
) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """Combine the particles' tuples.

    Returns:
        Per particle (B, 1) the place of the pick among its top; the score (B,); bounds (B,) of
        everything that was dropped on the way.
    """
    score, used = tops[0].values, tops[0].occupied
    picks = [torch.arange(score.shape[1], device=score.device).expand(score.shape)]
    missed: list[Tensor] = []
    for number, top in enumerate(tops[1:], start=1):
        clash = torch.matmul(used, top.occupied.transpose(1, 2)) > 0.5
        total = torch.where(clash, 2 * FORBIDDEN, score[:, :, None] + top.values[:, None, :])
        options = top.values.shape[1]
        if alike[number]:
            rank = torch.arange(options, device=score.device)
            later = (rank > picks[-1][:, :, None]) | (rank == options - 1)
            total = torch.where(later, total, 2 * FORBIDDEN)
        flat = total.flatten(1)
        if number == len(tops) - 1:
            place = flat.argmax(1, keepdim=True)
            score = flat.gather(1, place)
        else:
            taken = used.sum(2)[:, :, None] + top.occupied.sum(2)[:, None, :]
            bound = flat + limits.rest(number + 1, taken.flatten(1))
            kept = min(width, score.shape[1] * options)
            highest, place = bound.topk(kept, 1)
            if kept < score.shape[1] * options:
                missed.append(highest[:, -1])
            score = flat.gather(1, place)
        before = torch.div(place, options, rounding_mode="floor")
        now = place - before * options
        picks = [pick.gather(1, before) for pick in picks] + [now]
        if number < len(tops) - 1:
            axis = used.shape[2]
            used = used.gather(1, before[:, :, None].expand(-1, -1, axis)) + top.occupied.gather(
                1, now[:, :, None].expand(-1, -1, axis)
            )
    return picks, score[:, 0], missed


def _search_rows(
    candidates: Sequence[Candidates],
    values: Sequence[Tensor],
    none: Sequence[Tensor],
    objects: int,
    rows: Tensor,
    score: Tensor,
    alike: Sequence[bool],
) -> list[Tensor]:
    """Search some events one by one; −2 for all particles where nothing is better than `score`."""
    found = []
    for row in rows.tolist():
        search = _Search(
            [value[row].detach().double().cpu().numpy() for value in values],
            [
                (each.objects[row] if each.objects.dim() == 3 else each.objects).cpu().numpy()
                for each in candidates
            ],
            [float(left_out[row, 0]) for left_out in none],
            objects,
            float(score[row]),
            alike,
        )
        found.append(search.run())
    picks = torch.tensor(found, dtype=torch.int64, device=rows.device)
    return list(picks.unbind(1))


class _Search:
    """Branch and bound on one event: particle by particle, best tuples first."""

    def __init__(
        self,
        values: list[Array],
        objects: list[Array],
        none: list[float],
        slots: int,
        score: float,
        alike: Sequence[bool],
    ) -> None:
        self.none = none
        self.alike = [*alike, False]
        self.sizes = [cells.shape[1] for cells in objects]
        self.values, self.cells, self.used = [], [], []
        for value, cells in zip(values, objects, strict=True):
            order = np.argsort(-value, kind="stable")
            order = order[value[order] > _LOWEST]
            occupied = np.zeros((len(order), slots), bool)
            occupied[np.arange(len(order))[:, None], cells[order]] = True
            self.cells.append(order)
            self.values.append(value[order])
            self.used.append(occupied)
        self.best = score
        self.picks = [-2] * len(values)

    def run(self) -> list[int]:
        everything = [np.arange(len(cells)) for cells in self.cells]
        self._visit(0, everything, 0.0, [])
        return self.picks

    def _visit(self, number: int, left: list[Array], score: float, picks: list[int]) -> None:
        if number == len(self.values):
            if score > self.best:
                self.best, self.picks = score, list(picks)
            return
        rest = left[number + 1 :]
        follows = self.alike[number + 1]
        for place in left[number]:
            value = score + float(self.values[number][place])
            if value + self._bound(number + 1, rest) <= self.best:
                break
            mine = self.used[number][place]
            later_places = [cells[cells > place] for cells in rest[:1]] if follows else rest[:1]
            free = [
                cells[~(self.used[number + 1 + later][cells] & mine).any(1)]
                for later, cells in enumerate([*later_places, *rest[1:]])
            ]
            if value + self._bound(number + 1, free) > self.best:
                cell = int(self.cells[number][place])
                self._visit(number + 1, [*left[: number + 1], *free], value, [*picks, cell])
        if follows:
            # The next one is left out too.
            rest = [rest[0][:0], *rest[1:]]
            left = [*left[: number + 1], *rest]
        value = score + self.none[number]
        if value + self._bound(number + 1, rest) > self.best:
            self._visit(number + 1, left, value, [*picks, -1])

    def _bound(self, first: int, left: Sequence[Array]) -> float:
        """Most that the particles from `first` on can add with the tuples that are left."""
        total, gains = 0.0, []
        free = np.zeros(self.used[0].shape[1], bool)
        for number, cells in enumerate(left, start=first):
            total += self.none[number]
            if len(cells):
                gain = float(self.values[number][cells[0]]) - self.none[number]
                gains.append(max(gain, 0.0))
                free |= self.used[number][cells].any(0)
        if not gains:
            return total
        count = int(free.sum()) // min(self.sizes[first:])
        return total + sum(sorted(gains, reverse=True)[:count])


def _apart(
    candidates: Sequence[Candidates],
    values: Sequence[Tensor],
    unassigned: Sequence[Tensor] | None,
) -> Selection:
    """Every particle for itself."""
    chosen = []
    for number, value in enumerate(values):
        cell = value.argmax(1)
        best = _at(value, cell)[:, 0]
        good = best > _LOWEST
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
        indices.append(torch.where(assigned[:, None], _objects_of(each, known), -1))
        left_out = 0.0 if unassigned is None else unassigned[number]
        score = score + torch.where(assigned, _at(each.scores, known)[:, 0], left_out)
    certified = torch.ones_like(score, dtype=torch.bool)
    return Selection(tuple(indices), tuple(chosen), score, certified)


def _usable(scores: Tensor) -> Tensor:
    return torch.where(scores > _LOWEST, scores, FORBIDDEN)


def _at(values: Tensor, place: Tensor) -> Tensor:
    """Values (B, C) at one place per event (B,) or (B, 1), as (B, 1)."""
    return values.gather(1, place.reshape(-1, 1))


def _objects_of(each: Candidates, cells: Tensor) -> Tensor:
    """Objects of tuples (B,) or (B, M): (B, k) or (B, M, k)."""
    objects = each.objects
    width = objects.shape[-1]
    if objects.dim() == 2:
        # Tuples that only pad the exported list have no objects; their scores are forbidden.
        known = cells.clamp(max=objects.shape[0] - 1)
        found = objects.index_select(0, known.flatten())
        return found.reshape(*cells.shape, width)
    known = cells.clamp(max=objects.shape[1] - 1)
    flat = known.reshape(known.shape[0], -1, 1).expand(-1, -1, width)
    return objects.gather(1, flat).reshape(*cells.shape, width)


def _touches(used: Tensor, each: Candidates) -> Tensor:
    """Whether tuples (B, C) hold an object that is used (B, T)."""
    objects = each.objects
    if objects.dim() == 2:
        hit = used.index_select(1, objects.flatten()).reshape(used.shape[0], *objects.shape)
    else:
        hit = used.gather(1, objects.flatten(1)).reshape(objects.shape)
    return hit.any(-1)


def _require_particles(candidates: Sequence[Candidates]) -> None:
    if not candidates:
        raise ConfigurationError("selection: there is no particle to assign; give at least one")
