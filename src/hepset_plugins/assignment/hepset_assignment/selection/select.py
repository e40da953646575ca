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
from hepset.nn.export_mode import is_exporting
from hepset_assignment.selection.beam import Combined, combine, improve
from hepset_assignment.selection.branch_and_bound import Search
from hepset_assignment.selection.candidates import (
    FORBIDDEN,
    LEFT_OUT,
    LOWEST,
    Candidates,
    alike,
    at,
    dense_candidates,
    objects_of,
    touches,
    usable,
)
from hepset_assignment.selection.problem import Problem

__all__ = ["FORBIDDEN", "Candidates", "Selection", "dense_candidates", "exact", "greedy"]

_FEW_ROUNDS: Final = 8
_ROUNDS: Final = 24
"""Changes of the prices where three particles or more compete: with few products, with many."""
_MANY_PRODUCTS: Final = 8
"""Products from which there are many."""
_PORTION: Final = 8
"""Events of which everything that could be better is listed at a time: each takes the memory, and
the time, of the one among them that needs most."""


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
    Three particles or more compete for objects at prices (`selection.lagrangian`), which makes the
    bounds nearly tight. Of the other events, everything that could be better is listed
    (`selection.beam.improve`), in exported models too. Should that be too much, the `certified` of
    an exported model is False; in torch such events are searched by branch and bound, so that the
    result always is the maximum.

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
    # Few tuples first: that leaves the fewest partial assignments.
    order = sorted(range(len(candidates)), key=lambda n: candidates[n].objects.shape[-1])
    problem = Problem(
        [candidates[n] for n in order],
        [values[n] for n in order],
        [none[n] for n in order],
        alike([candidates[n] for n in order], unassigned and [unassigned[n] for n in order]),
        objects,
        scarce=unassigned is None,
    )
    products = sum(each.objects.shape[-1] for each in candidates)
    rounds = _ROUNDS if products >= _MANY_PRODUCTS else _FEW_ROUNDS
    found = combine(problem, width, rounds if len(candidates) > 2 else 0)
    settled, certified = _settle(problem, found)
    chosen = [settled[order.index(n)] for n in range(len(candidates))]
    return _finish(candidates, chosen, unassigned)._replace(certified=certified)


def _settle(problem: Problem, found: Combined) -> tuple[list[Tensor], Tensor]:
    """Find the maximum of the events that were not certified.

    Returns:
        Per particle (B,) the tuple; whether it is certified, (B,).
    """
    open_ = ~found.certified
    rows = open_.nonzero()[:, 0]
    if is_exporting():
        # There always is one.
        rows = torch.cat([rows, torch.zeros_like(open_[:1], dtype=torch.int64)])
        portions = [rows]
    elif len(rows):
        portions = list(rows.split(_PORTION))
    else:
        return list(found.chosen), found.certified
    better: list[list[Tensor]] = []
    proved: list[Tensor] = []
    for portion in portions:
        part = problem.of_rows(portion)
        listed = improve(part, found.of_rows(portion))
        if not is_exporting():
            listed = _searched(part, listed)
        better.append(listed.chosen)
        proved.append(listed.certified)
    place = (open_.cumsum(0) - 1).clamp(min=0)
    chosen = [
        torch.where(open_, torch.cat(new).index_select(0, place), old)
        for new, old in zip(zip(*better, strict=True), found.chosen, strict=True)
    ]
    return chosen, found.certified | torch.cat(proved).index_select(0, place)


def _searched(problem: Problem, found: Combined) -> Combined:
    """Search the events that are not certified yet, one by one."""
    rows = (~found.certified).nonzero()[:, 0]
    picks = [_search(problem, found, row) for row in rows.tolist()]
    if not picks:
        return found
    table = torch.tensor(picks, dtype=torch.int64, device=rows.device)
    chosen = []
    for number, old in enumerate(found.chosen):
        new = torch.where(table[:, 0] > -2, table[:, number], old[rows])
        chosen.append(old.index_copy(0, rows, new))
    return found._replace(chosen=chosen, certified=torch.ones_like(found.certified))


def _search(problem: Problem, found: Combined, row: int) -> list[int]:
    """Search one event among the tuples that could be better than what was found."""
    score = float(found.score[row])
    values, ranks, objects, cells = [], [], [], []
    limits = found.limits.of_rows(torch.tensor([row], device=found.score.device))
    for number, each in enumerate(problem.candidates):
        rank = found.ranks[number][row : row + 1].double()
        value = problem.values[number][row]
        bound = limits.with_one(number, rank)[0]
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
        base=float(limits.base[0, 0]),
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
    chosen = _in_one_order(candidates, chosen, unassigned)
    for number, (each, cell) in enumerate(zip(candidates, chosen, strict=True)):
        assigned = cell >= 0
        known = cell.clamp(min=0)
        indices.append(torch.where(assigned[:, None], objects_of(each, known), -1))
        left_out = 0.0 if unassigned is None else unassigned[number]
        score = score + torch.where(assigned, at(each.scores, known)[:, 0], left_out)
    certified = torch.ones_like(score, dtype=torch.bool)
    return Selection(tuple(indices), tuple(chosen), score, certified)


def _in_one_order(
    candidates: Sequence[Candidates],
    chosen: Sequence[Tensor],
    unassigned: Sequence[Tensor] | None,
) -> list[Tensor]:
    """Give particles with the very same candidates their tuples by score, the best first.

    Which of them has which changes no score, and would otherwise be a matter of rounding. Who
    is left out comes last.
    """
    found = list(chosen)
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, each in enumerate(candidates):
        key = (id(each),) if unassigned is None else (id(each), id(unassigned[number]))
        groups.setdefault(key, []).append(number)
    for members in groups.values():
        if len(members) > 1:
            cells = torch.stack([found[number] for number in members], 1)
            last = candidates[members[0]].scores.shape[1]
            cells = torch.where(cells < 0, last, cells).sort(1).values
            there = cells < last
            own = candidates[members[0]].scores.gather(1, torch.where(there, cells, 0))
            order = torch.where(there, own, LOWEST).sort(1, descending=True).indices
            cells = torch.where(there, cells, -1).gather(1, order)
            for place, number in enumerate(members):
                found[number] = cells[:, place]
    return found


def _require_particles(candidates: Sequence[Candidates]) -> None:
    if not candidates:
        raise ConfigurationError("selection: there is no particle to assign; give at least one")
