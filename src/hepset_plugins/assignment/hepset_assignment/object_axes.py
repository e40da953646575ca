"""Where objects are: within their stream, and counted through all streams."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from hepset.interfaces.backbone import Encoded
from hepset_assignment.topology import Topology
from hepset_assignment.tuple_scorer import kinematics

__all__ = [
    "Axis",
    "Extents",
    "absolute",
    "axes_again",
    "axes_of",
    "extents_of",
    "kept",
    "row",
    "trimmed",
]


class Axis(NamedTuple):
    """Objects that products may be: those of a stream, or of all streams one after the other.

    Attributes:
        x: Embeddings (B, N, D).
        mask: (B, N), True = real.
        moving: Their `kinematics` (B, N, 8), where masses are asked for.
        offset: Position of the first among all objects.
    """

    x: Tensor
    mask: Tensor
    moving: Tensor | None
    offset: int


class Extents(NamedTuple):
    """Slots of every stream, and of all of them under the key None.

    Attributes:
        sizes: Number of slots.
        offsets: Position of the first slot among all.
    """

    sizes: dict[str | None, int]
    offsets: dict[str | None, int]


def extents_of(topology: Topology, outputs: Mapping[str, Tensor]) -> Extents:
    """Return the extents of a batch, from the outputs ``mask.<stream>``."""
    sizes: dict[str | None, int] = {}
    offsets: dict[str | None, int] = {None: 0}
    total = 0
    for name in topology.streams:
        offsets[name] = total
        sizes[name] = outputs[f"mask.{name}"].shape[1]
        total = total + sizes[name]
    sizes[None] = total
    return Extents(sizes, offsets)


def axes_of(topology: Topology, encoded: Encoded, *, needs_momenta: bool) -> dict[str | None, Axis]:
    """Return the objects of each stream, and of all streams under the key None."""
    found: dict[str | None, Axis] = {}
    offset = 0
    for name in topology.streams:
        x, mask = encoded.objects[name], encoded.masks[name]
        moving = None
        if needs_momenta:
            has_p4 = name in encoded.p4
            p4 = encoded.p4[name] if has_p4 else x.new_zeros((*mask.shape, 4))
            moving = kinematics(p4, mask if has_p4 else torch.zeros_like(mask))
        found[name] = Axis(x, mask, moving, offset)
        offset = offset + mask.shape[1]
    return _with_all(found)


def trimmed(encoded: Encoded, streams: Sequence[str]) -> Encoded:
    """Leave out the slots behind the last that any event of the batch uses, but not the first."""
    objects, masks, p4 = dict(encoded.objects), dict(encoded.masks), dict(encoded.p4)
    for name in streams:
        mask = masks[name]
        last = mask.any(0).flip(0).cumsum(0).flip(0) > 0
        slot = torch.arange(mask.shape[1], device=mask.device)
        used = (last | (slot == 0)).nonzero()[:, 0]
        masks[name] = mask.index_select(1, used)
        objects[name] = objects[name].index_select(1, used)
        if name in p4:
            p4[name] = p4[name].index_select(1, used)
    return replace(encoded, objects=objects, masks=masks, p4=p4)


def _with_all(found: dict[str | None, Axis]) -> dict[str | None, Axis]:
    """Add all streams one after the other."""
    parts = list(found.values())
    if len(parts) == 1:
        return {**found, None: parts[0]}
    moving = [part.moving for part in parts if part.moving is not None]
    everything = Axis(
        torch.cat([part.x for part in parts], 1),
        torch.cat([part.mask for part in parts], 1),
        torch.cat(moving, 1) if moving else None,
        0,
    )
    return {**found, None: everything}


def kept(axes: Mapping[str | None, Axis]) -> dict[str, Tensor]:
    """Return the streams' objects as outputs of a head, for `axes_again`."""
    found = {}
    for name, axis in axes.items():
        if name is not None:
            found[f"x.{name}"] = axis.x
            if axis.moving is not None:
                found[f"moving.{name}"] = axis.moving
    return found


def axes_again(topology: Topology, outputs: Mapping[str, Tensor]) -> dict[str | None, Axis]:
    """Return the axes that `kept` has put among the outputs."""
    offsets = extents_of(topology, outputs).offsets
    return _with_all(
        {
            name: Axis(
                outputs[f"x.{name}"],
                outputs[f"mask.{name}"],
                outputs.get(f"moving.{name}"),
                offsets[name],
            )
            for name in topology.streams
        }
    )


def absolute(streams: Sequence[str | None], target: Tensor, extents: Extents) -> Tensor:
    """Return positions among all objects (B, k), −1 = missing, of indices local to streams."""
    columns = []
    for product, stream in enumerate(streams):
        local = target[:, product].to(torch.int64)
        known = (local >= 0) & (local < extents.sizes[stream])
        columns.append(torch.where(known, local + extents.offsets[stream], -1))
    return torch.stack(columns, -1)


def row(numbers: Sequence[int], like: Tensor) -> Tensor:
    """Return a row of integers, which may be symbolic."""
    zero = torch.zeros(1, dtype=torch.int64, device=like.device)
    return torch.cat([zero + number for number in numbers])
