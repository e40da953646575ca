"""`TupleSpace`: which tuples of objects a batch has, for every kind of particle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hepset.nn.export_mode import is_exporting
from hepset_assignment.object_axes import extents_of, row
from hepset_assignment.selection import FORBIDDEN
from hepset_assignment.topology import Topology
from hepset_assignment.tuples import (
    Block,
    blocks_of,
    candidate_limits,
    canonical,
    combine_blocks,
)

__all__ = ["EXISTS", "TupleSpace", "Tuples"]

EXISTS = FORBIDDEN / 2
"""Scores above are of tuples that exist."""
_MOST_SIZES = 64
"""Numbers of slots whose tuples are remembered."""


class Tuples(NamedTuple):
    """Tuples of objects: (C, k) for all events alike, (B, C, k) where candidates are limited.

    Attributes:
        objects: Positions among all objects.
        places: Places within the products' streams.
        known: (B, C), False where there are fewer objects than candidates; None where they are
            not limited.
    """

    objects: Tensor
    places: Tensor
    known: Tensor | None


class TupleSpace:
    """The tuples of every kind of particle.

    Attributes:
        blocks: Per kind the sets of products that are unordered.
        limits: Per kind how many objects each block tries; None = all.

    Args:
        topology: What is assigned.
        slots: Stream → slots of the data; None → of all streams together.
        most: Most tuples per particle.
    """

    def __init__(self, topology: Topology, slots: Mapping[str | None, int], most: int) -> None:
        self.topology = topology
        self.blocks = [blocks_of(kind) for kind in topology.kinds]
        self.limits = [candidate_limits(blocks, slots, most) for blocks in self.blocks]
        self._known: dict[tuple[int, torch.device, tuple[int, ...]], Tensor] = {}

    def of(self, number: int, outputs: Mapping[str, Tensor]) -> Tuples:
        """Return all tuples of a kind of particle, whether an event has them or not.

        Args:
            number: The kind.
            outputs: Holds ``mask.<stream>``, and ``places.<kind>.<block>`` where candidates are
                limited.
        """
        sizes, offsets = extents_of(self.topology, outputs)
        blocks, kind = self.blocks[number], self.topology.kinds[number]
        device = outputs[f"mask.{self.topology.streams[0]}"].device
        limits = self.limits[number]
        if limits is not None:
            local = self._combinations(number, tuple(limits), device)
            columns, known = [], []
            for product, block in enumerate(_block_of(blocks)):
                place = outputs[f"places.{number}.{block}"].index_select(1, local[:, product])
                last = sizes[blocks[block].stream] - 1
                known.append(place <= last)
                columns.append(place.clamp(max=last))
            places = torch.stack(columns, -1)
            objects = places + row([offsets[s] for s in kind.streams], places)
            return Tuples(objects, places, torch.stack(known, -1).all(-1))
        places = self._combinations(number, tuple(sizes[b.stream] for b in blocks), device)
        return Tuples(places + row([offsets[s] for s in kind.streams], places), places, None)

    def _combinations(self, number: int, sizes: tuple[int, ...], device: torch.device) -> Tensor:
        """All combinations of the sets of a kind's blocks of these sizes, (C, k)."""
        blocks = self.blocks[number]
        if is_exporting():
            return combine_blocks(blocks, sizes, device)
        key = (number, device, sizes)
        if key not in self._known:
            if len(self._known) >= _MOST_SIZES:
                self._known.clear()
            # A GPU would have to be waited for to list them.
            self._known[key] = combine_blocks(blocks, sizes, torch.device("cpu")).to(device)
        return self._known[key]

    def exist(self, number: int, tuples: Tuples, outputs: Mapping[str, Tensor]) -> Tensor:
        """Tell which tuples an event has, (B, C): objects real, distinct, of the right stream."""
        kind = self.topology.kinds[number]
        objects, places = tuples.objects, tuples.places
        masks: dict[str | None, Tensor] = {
            name: outputs[f"mask.{name}"] for name in self.topology.streams
        }
        masks[None] = torch.cat([masks[name] for name in self.topology.streams], 1)
        cells = places.shape[-2]
        # The last tuple is there so that there is one; it never exists.
        possible = torch.arange(cells, device=places.device) < cells - 1
        if tuples.known is not None:
            possible = possible & tuples.known
        count = len(kind.products)
        for a in range(count):
            for b in range(a + 1, count):
                possible = possible & (objects[..., a] != objects[..., b])
        chosen = canonical(objects, kind, masks[None].shape[1])
        if chosen is not None:
            possible = possible & chosen
        found = possible if possible.dim() == 2 else possible[None]
        for product, stream in enumerate(kind.streams):
            place = places[..., product]
            mask = masks[stream]
            real = mask.index_select(1, place) if place.dim() == 1 else mask.gather(1, place)
            found = found & real
        return found


def _block_of(blocks: Sequence[Block]) -> list[int]:
    """Number of the block of every product."""
    of = {product: n for n, block in enumerate(blocks) for product in block.products}
    return [of[product] for product in sorted(of)]
