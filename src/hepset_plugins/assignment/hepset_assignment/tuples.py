"""All tuples of objects that a particle may be assigned to, each of them once.

Interchangeable products are taken in ascending order only, so that {q1, q2} of 18 jets are 153
pairs instead of 324. The number of objects may be symbolic: everything is computed from
``arange`` by comparisons, so that exported graphs work for any number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hepset_assignment.topology import Kind

__all__ = ["Block", "blocks_of", "candidate_limits", "canonical", "combine_blocks", "unordered"]


@dataclass(frozen=True)
class Block:
    """Products that are taken as one unordered set, from one stream.

    Attributes:
        products: Positions of the products.
        stream: Where their objects are; None = any stream.
        orbit: Number of the orbit they belong to.
    """

    products: tuple[int, ...]
    stream: str | None
    orbit: int


def blocks_of(kind: Kind) -> tuple[Block, ...]:
    """Split products into sets whose order does not matter.

    Where the group is not every reordering inside each orbit, each product stands alone, and
    `canonical` has to pick one of the equivalent tuples.
    """
    if kind.free_orbits:
        return tuple(
            Block(orbit, kind.streams[orbit[0]], number)
            for number, orbit in enumerate(kind.group.orbits)
        )
    return tuple(
        Block((product,), kind.streams[product], kind.orbit_of[product])
        for product in range(len(kind.products))
    )


def unordered(size: int, members: int, device: torch.device | None = None) -> Tensor:
    """Return all sets of `members` of the numbers below `size`, ascending, shape (n, members)."""
    number = torch.arange(size, device=device)
    sets = number[:, None]
    for _ in range(members - 1):
        # By the largest member first; no arithmetic on the size, which may be unknown.
        found = (number[:, None] > sets[:, -1]).nonzero()
        sets = torch.cat([sets.index_select(0, found[:, 1]), found[:, :1]], 1)
    return sets


def combine_blocks(blocks: Sequence[Block], sizes: Sequence[int], device: torch.device) -> Tensor:
    """Return places (C, k) of every product: all combinations of the blocks' sets.

    One more tuple of zeros is appended, so that there always is one: it never exists.
    """
    sets = [
        unordered(size, len(block.products), device)
        for block, size in zip(blocks, sizes, strict=True)
    ]
    counts = [part.shape[0] for part in sets]
    columns: dict[int, Tensor] = {}
    for axis, (block, part) in enumerate(zip(blocks, sets, strict=True)):
        shape = [1] * len(counts)
        shape[axis] = counts[axis]
        for place, product in enumerate(block.products):
            columns[product] = part[:, place].reshape(shape).expand(counts).reshape(-1)
    places = torch.stack([columns[product] for product in sorted(columns)], -1)
    return torch.cat([places, places.new_zeros((1, len(columns)))])


def canonical(objects: Tensor, kind: Kind, count: int) -> Tensor | None:
    """Tell which tuples stand for all that are equivalent; None where all do.

    Args:
        objects: Positions, shape (..., k), below `count`.
        kind: What may be interchanged.
        count: Number of positions.
    """
    if kind.free_orbits:
        return None
    own = _code(objects, count)
    keep = torch.ones_like(own, dtype=torch.bool)
    for element in kind.group.elements[1:]:
        keep = keep & (own <= _code(objects[..., list(element)], count))
    return keep


def candidate_limits(
    blocks: Sequence[Block], slots: Mapping[str | None, int], most: int
) -> list[int] | None:
    """Return how many objects each block tries; None where all tuples fit into `most`."""

    def count(limit: int) -> int:
        sizes = [min(limit, slots[block.stream]) for block in blocks]
        return math.prod(
            math.comb(size, len(block.products)) for block, size in zip(blocks, sizes, strict=True)
        )

    longest = max(slots[block.stream] for block in blocks)
    if count(longest) <= most:
        return None
    limit = sum(len(block.products) for block in blocks)
    while count(limit + 1) <= most:
        limit += 1
    return [min(limit, slots[block.stream]) for block in blocks]


def _code(objects: Tensor, count: int) -> Tensor:
    code = torch.zeros_like(objects[..., 0])
    for place in range(objects.shape[-1]):
        code = code * count + objects[..., place]
    return code
