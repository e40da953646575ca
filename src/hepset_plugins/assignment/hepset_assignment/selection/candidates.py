"""`Candidates`: tuples of objects with scores, and how they are looked up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import torch
from torch import Tensor

__all__ = [
    "FORBIDDEN",
    "LEFT_OUT",
    "LOWEST",
    "Candidates",
    "alike",
    "at",
    "dense_candidates",
    "incidence",
    "objects_of",
    "occupancy",
    "rows_of",
    "touches",
    "usable",
]

FORBIDDEN: Final = -1e12
"""Score of a tuple that may not be chosen; −inf and NaN mean the same."""
LOWEST: Final = -1e5
"""Scores up to here count as forbidden."""
LEFT_OUT: Final = -1e7
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


def dense_candidates(scores: Tensor) -> Candidates:
    """Take every cell of a score tensor (B, N, …, N), one axis per product, as a tuple."""
    sizes = scores.shape[1:]
    axes = [torch.arange(size, device=scores.device) for size in sizes]
    grid = torch.meshgrid(*axes, indexing="ij")
    objects = torch.stack([axis.reshape(-1) for axis in grid], -1)
    return Candidates(scores.flatten(1), objects)


def usable(scores: Tensor) -> Tensor:
    """Put `FORBIDDEN` where a tuple does not exist."""
    return torch.where(scores > LOWEST, scores, FORBIDDEN)


def at(values: Tensor, place: Tensor) -> Tensor:
    """Return values (B, C) at one place per event (B,) or (B, 1), as (B, 1)."""
    return values.gather(1, place.reshape(-1, 1))


def objects_of(each: Candidates, cells: Tensor) -> Tensor:
    """Return the objects of tuples (B,) or (B, M): (B, k) or (B, M, k)."""
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


def touches(used: Tensor, each: Candidates) -> Tensor:
    """Tell which tuples (B, C) hold an object that is used (B, T)."""
    objects = each.objects
    if objects.dim() == 2:
        hit = used.index_select(1, objects.flatten()).reshape(used.shape[0], *objects.shape)
    else:
        hit = used.gather(1, objects.flatten(1)).reshape(objects.shape)
    return hit.any(-1)


def incidence(each: Candidates, objects: int) -> Tensor:
    """Return 1 where a tuple holds an object, (C, T) float32, of tuples that all events share."""
    slot = torch.arange(objects, device=each.objects.device)
    return (each.objects[..., None] == slot).any(-2).float()


def occupancy(each: Candidates, cells: Tensor, there: Tensor, objects: int) -> Tensor:
    """Return 1 where a tuple (B, M) holds an object, (B, M, T) float32; 0 for those not `there`."""
    if each.objects.dim() == 2:
        # A row of a small table per tuple: all events have the same tuples.
        known = cells.clamp(max=each.objects.shape[0] - 1).flatten()
        found = incidence(each, objects).index_select(0, known)
        return torch.unflatten(found, 0, cells.shape) * there[..., None]
    slot = torch.arange(objects, device=cells.device)
    held = (objects_of(each, cells)[..., None] == slot).any(2)
    return (held & there[..., None]).float()


def rows_of(each: Candidates, rows: Tensor) -> Candidates:
    """Return the candidates of some events."""
    objects = each.objects if each.objects.dim() == 2 else each.objects[rows]
    return Candidates(each.scores[rows], objects)


def alike(candidates: Sequence[Candidates], unassigned: Sequence[Tensor] | None) -> list[bool]:
    """Tell whether each particle has the very candidates of the one before.

    Then it need not be tried with a better tuple than that one's: swapping them is as good.
    """
    found = [False]
    for number in range(1, len(candidates)):
        same = candidates[number] is candidates[number - 1]
        if unassigned is not None:
            same = same and unassigned[number] is unassigned[number - 1]
        found.append(same)
    return found
