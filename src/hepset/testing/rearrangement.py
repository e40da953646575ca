"""What another order of the objects makes of indices, and which outputs have no order."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hepset.schema.contract import Contract
from hepset.schema.event import EventInfo
from hepset.schema.tensors import Index

__all__ = ["Rearrangement", "in_order_of_rows", "renumbered"]


class Rearrangement:
    """Moves indices with the objects that they point at.

    Args:
        event: What events have.
        contract: The tensors of a batch.
        slots: Stream → number of its slots before.
    """

    def __init__(self, event: EventInfo, contract: Contract, slots: Mapping[str, int]) -> None:
        self.contract, self.slots = contract, slots
        self.assignments = {each.tensor: each for each in event.assignments()}
        self.event = event

    def point(self, name: str, value: Tensor, stream: str, order: Tensor, slots: int) -> Tensor:
        """Indices of a tensor as they have to be after the slots of a stream were rearranged."""
        spec = self.contract.tensors.get(name)
        rules = [rule for rule in spec.rules if isinstance(rule, Index)] if spec else []
        if not rules or value.is_floating_point():
            return value
        (rule,) = rules
        places = {each: torch.arange(self.slots[each]) for each in rule.order}
        places[stream] = torch.argsort(order)
        sizes = {**self.slots, stream: slots}
        through, start = [], 0
        for each in rule.order:
            through.append(places[each] + start)
            start += sizes[each]
        columns = []
        for column, own in enumerate(rule.streams):
            table = torch.cat(through) if own is None else places[own]
            index = value[:, column]
            moved = table[index.clamp(min=0)].to(index.dtype)
            columns.append(torch.where(index >= 0, moved, index))
        return torch.stack(columns, 1)

    def canonical(self, name: str, value: Tensor) -> Tensor:
        """Indices of interchangeable products in ascending order: any of their orders is right."""
        assignment = self.assignments.get(name)
        if assignment is None or value.is_floating_point():
            return value
        group = self.event.processes[assignment.process].product_group(assignment.particle)
        given, base = value, int(value.max()) + 2 if value.numel() else 2
        powers = torch.tensor([base**n for n in reversed(range(value.shape[1]))])
        for element in group.elements:
            other = given[:, list(element)]
            smaller = ((other - value) * powers).sum(1) < 0
            value = torch.where(smaller[:, None], other, value)
        return value


def renumbered(groups: Tensor) -> Tensor:
    """Number the groups of every event in the order of their first objects; −1 stays."""
    found = torch.full_like(groups, -1)
    for event, row in enumerate(groups.flatten(1)):
        seen: dict[int, int] = {}
        numbers = [seen.setdefault(g, len(seen)) if g >= 0 else -1 for g in row.tolist()]
        found[event] = torch.tensor(numbers, dtype=groups.dtype).reshape(groups.shape[1:])
    return found


def in_order_of_rows(fields: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sort the rows of sets, the second axis that all fields share, by what they hold."""
    rows = torch.cat([value.double().nan_to_num().flatten(2) for value in (
        each if each.ndim > 2 else each[..., None] for each in fields.values())], -1)  # fmt: skip
    key = rows @ torch.linspace(1.0, 2.0, rows.shape[-1], dtype=torch.float64)
    order = torch.argsort(key, 1)
    return {
        name: value.gather(1, order.reshape(*order.shape, *[1] * (value.ndim - 2)).expand_as(value))
        for name, value in fields.items()
    }
