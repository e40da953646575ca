"""Scores of unordered tuples as a distribution over all ordered tuples of slots."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hepset_assignment.object_axes import extents_of
from hepset_assignment.selection import FORBIDDEN
from hepset_assignment.topology import Particle
from hepset_assignment.tuple_space import EXISTS, TupleSpace

__all__ = ["as_spanet", "dense_log_probability"]


def dense_log_probability(
    particle: Particle, outputs: Mapping[str, Tensor], space: TupleSpace
) -> Tensor:
    """Return ln p of every ordered tuple of objects of all streams, as SPANet gives it.

    Equivalent tuples share the probability of their unordered one evenly.

    Args:
        particle: The particle.
        outputs: Raw outputs of the head ``assignment``.
        space: Its tuples.

    Returns:
        (B, N, …, N), one axis per product over all N slots; `FORBIDDEN` where there is no tuple.
    """
    scores = outputs[f"scores.{particle.kind}"][:, particle.query].float()
    exists = scores > EXISTS
    value = torch.log_softmax(scores, 1)
    value = torch.where(exists, value - _log(len(particle.group.elements)), FORBIDDEN)
    objects = space.of(particle.kind, outputs).objects
    slots = extents_of(space.topology, outputs).sizes[None]
    products = objects.shape[-1]
    cells = slots**products
    found = torch.full_like(value[:, :1], FORBIDDEN).expand(-1, cells + 1)
    for element in particle.group.elements:
        place = torch.zeros_like(objects[..., 0])
        for product in element:
            place = place * slots + objects[..., product]
        # What does not exist goes behind the last cell.
        found = found.scatter(1, torch.where(exists, place, cells), value)
    return found[:, :cells].reshape(-1, *[slots] * products)


def _log(count: int) -> Tensor:
    return torch.tensor(float(count)).log()


def as_spanet(table: Tensor) -> Tensor:
    """Return ln p (B, …), −inf for impossible tuples, NaN in an event without a possible one."""
    possible = table > EXISTS
    none = ~possible.flatten(1).any(1).reshape(-1, *[1] * (table.dim() - 1))
    found = torch.where(possible, table, -torch.inf)
    return torch.where(none, torch.nan, found)
