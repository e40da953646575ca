"""Spend no time on padding: run a function on events of similar length at a time.

Attention over padded events mostly computes padding. Sorting the events of one batch by their
number of objects into a few sub-batches, each cut at its longest event, gives the same outputs and
the same gradient at about half the cost, with ordinary operations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hepset.errors import ConfigurationError
from hepset.nn.export_mode import is_exporting

__all__ = ["run_in_buckets"]


def run_in_buckets(
    function: Callable[..., tuple[Tensor, ...]],
    mask: Tensor,
    objects: Sequence[Tensor],
    *,
    pairs: Sequence[Tensor] = (),
    events: Sequence[Tensor] = (),
    buckets: int = 4,
    slots: int | None = None,
) -> tuple[Tensor, ...]:
    """Call a function on sub-batches of events of similar length and put the results together.

    The real objects of each event are packed to the front in their order, wherever they are in
    the mask, and put back where they were; so several streams may be concatenated along the object
    axis. The result is that of ``function(mask, *objects, *pairs, *events)``, to rounding, provided
    that the function treats every event alone (no batch statistics), does not depend on the
    position of an object, and lets padding influence nothing. While the model is exported, traced
    or compiled, exactly that one call is made.

    Args:
        function: Gets a mask ``(b, n)`` with at least one slot, then the tensors below, cut alike;
            returns a tensor per object ``(b, n, ...)`` and then any number of tensors per event
            ``(b, ...)``.
        mask: True where the object is real, shape ``(batch, object)``.
        objects: Tensors of shape ``(batch, object, ...)``.
        pairs: Tensors of shape ``(batch, object, object, ...)``.
        events: Tensors of shape ``(batch, ...)``.
        buckets: At most this many sub-batches of equal numbers of events. 1 only cuts the batch at
            its longest event; 0 calls the function on everything as it is.
        slots: Sub-batches of about this many objects instead of `buckets` of them, so that what is
            computed of each stays in a cache.

    Returns:
        What the function returns, for the whole batch; the tensor per object is exactly 0 in
        padded slots.

    Raises:
        ConfigurationError: If `buckets` is negative.
    """
    if buckets < 0:
        message = f"buckets must be 0 (off), 1 (trim) or more, got {buckets}"
        raise ConfigurationError(message)
    if (buckets == 0 and slots is None) or is_exporting() or mask.numel() == 0:
        first, *others = function(mask, *objects, *pairs, *events)
        padded = mask.reshape(*mask.shape, *[1] * (first.dim() - 2))
        return torch.where(padded, first, 0.0), *others
    plan = _plan(mask, buckets, slots)
    object_parts = [_gather_objects(tensor, plan) for tensor in objects]
    event_parts = [_split(tensor.index_select(0, plan.rows), plan.sizes) for tensor in events]
    results = []
    for number, part_mask in enumerate(plan.masks):
        here = slice(plan.starts[number], plan.starts[number] + plan.sizes[number])
        pair_parts = [_gather_pairs(tensor, plan, number, here) for tensor in pairs]
        results.append(
            function(
                part_mask,
                *(parts[number] for parts in object_parts),
                *pair_parts,
                *(parts[number] for parts in event_parts),
            )
        )
    first_parts, *other_parts = zip(*results, strict=True)
    back = torch.argsort(plan.rows)
    return (
        _scatter_objects(first_parts, plan, mask),
        *(torch.cat(parts).index_select(0, back) for parts in other_parts),
    )


class _Plan(NamedTuple):
    """Which events form a sub-batch, and which of their slots are kept."""

    rows: Tensor
    """Events in the order of the sub-batches, (batch,)."""
    starts: list[int]
    """First position in `rows` of each sub-batch."""
    sizes: list[int]
    """Events of each sub-batch."""
    masks: list[Tensor]
    """Mask of each sub-batch, (b, n): real objects first."""
    slots: list[Tensor]
    """Original slot of each kept slot, (b, n)."""
    flat: Tensor
    """The kept slots of all sub-batches as indices into (batch * object)."""


def _plan(mask: Tensor, buckets: int, slots: int | None) -> _Plan:
    batch, width = mask.shape
    lengths = mask.sum(1)
    positions = torch.arange(width, device=mask.device)
    sort = slots is not None or buckets > 1
    if not sort:
        rows = torch.arange(batch, device=mask.device)
    else:
        rows = torch.argsort(lengths, stable=True)
    ordered = lengths.index_select(0, rows)
    if slots is None:
        edges = [*range(0, batch, -(-batch // buckets)), batch]
    else:
        before = torch.cumsum(ordered.clamp(min=1), 0) - ordered.clamp(min=1)
        _, sizes = torch.unique_consecutive(before // slots, return_counts=True)
        edges = [0, *torch.cumsum(sizes, 0).tolist()]
    last = torch.tensor([edge - 1 for edge in edges[1:]], device=mask.device)
    longest = (ordered[last] if sort else ordered.amax(0, keepdim=True)).tolist()
    starts: list[int] = []
    stops: list[int] = []
    widths: list[int] = []
    for start, stop, length in zip(edges[:-1], edges[1:], longest, strict=True):
        kept = max(length, 1)
        if slots is None and widths and widths[-1] == kept:
            stops[-1] = stop
            continue
        starts.append(start)
        stops.append(stop)
        widths.append(kept)
    packed = bool((mask == (positions < lengths[:, None])).all())
    order = None if packed else torch.argsort((~mask).to(torch.uint8), dim=1, stable=True)
    masks, places, flat = [], [], []
    for start, stop, kept in zip(starts, stops, widths, strict=True):
        here = rows[start:stop]
        if order is None:
            slot = positions[:kept].expand(stop - start, kept)
        else:
            slot = order[:, :kept].index_select(0, here)
        masks.append(positions[:kept] < ordered[start:stop, None])
        places.append(slot)
        flat.append((here[:, None] * width + slot).flatten())
    sizes = [stop - start for start, stop in zip(starts, stops, strict=True)]
    return _Plan(rows, starts, sizes, masks, places, torch.cat(flat))


def _split(tensor: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
    parts: tuple[Tensor, ...] = torch.split_with_sizes(tensor, sizes)
    return parts


def _gather_objects(tensor: Tensor, plan: _Plan) -> list[Tensor]:
    """Cut a tensor (batch, object, ...) into the sub-batches."""
    kept = tensor.flatten(0, 1).index_select(0, plan.flat)
    parts = _split(kept, [mask.numel() for mask in plan.masks])
    return [
        torch.unflatten(part, 0, mask.shape) for part, mask in zip(parts, plan.masks, strict=True)
    ]


def _gather_pairs(tensor: Tensor, plan: _Plan, number: int, here: slice) -> Tensor:
    """Cut one sub-batch out of a tensor (batch, object, object, ...)."""
    width, slot = tensor.shape[1], plan.slots[number]
    rows = plan.rows[here, None, None]
    flat = (rows * width + slot[:, :, None]) * width + slot[:, None, :]
    kept = tensor.flatten(0, 2).index_select(0, flat.flatten())
    return torch.unflatten(kept, 0, flat.shape)


def _scatter_objects(parts: Sequence[Tensor], plan: _Plan, mask: Tensor) -> Tensor:
    """Put sub-batches of (b, n, ...) back into (batch, object, ...), 0 elsewhere."""
    kept = torch.cat([part.flatten(0, 1) for part in parts])
    real = torch.cat([part.flatten() for part in plan.masks])
    kept = torch.where(real.reshape(-1, *[1] * (kept.dim() - 1)), kept, 0.0)
    empty = kept.new_zeros((mask.numel(), *kept.shape[1:]))
    return torch.unflatten(empty.index_copy_(0, plan.flat, kept), 0, mask.shape)
