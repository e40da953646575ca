"""The same events with the objects of a stream in other slots, and what that makes of decisions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from hepset.schema.contract import Contract
from hepset.schema.event import ASSIGNMENT, EventInfo
from hepset.schema.tensors import Index
from hepset.testing.conditions import require

__all__ = ["Rearrangement"]

Tensors = dict[str, Tensor]


class Rearrangement:
    """Moves the objects of events, and the indices that point at them.

    Args:
        event: What events have.
        contract: The tensors of a batch.
        tensors: The events, by name of the tensor.
    """

    def __init__(self, event: EventInfo, contract: Contract, tensors: Mapping[str, Tensor]) -> None:
        self.event, self.contract, self.tensors = event, contract, tensors

    def events(self, stream: str, order: Tensor, slots: int) -> Tensors:
        """The events with the slots of a stream in another order, and more of them, with garbage.

        Indices follow the objects that they point at.
        """
        found = dict(self.tensors)
        for name, value in self.tensors.items():
            spec = self.contract[name]
            for axis in [axis for axis, dim in enumerate(spec.dims) if dim == stream]:
                fill = spec.fill if spec.kind in {"mask", "target"} else 300.0
                found[name] = _reslot(found[name], axis, order, slots, fill)
            if spec.kind == "index":
                found[name] = self._point(name, value, stream, order, slots)
        return found

    def indices(
        self, field: str, value: Tensor, stream: str, order: Tensor | None, slots: int
    ) -> Tensor:
        """A decision that points at objects, as it has to be after the slots were rearranged."""
        name = f"{ASSIGNMENT}{field}"
        if name not in self.contract or value.is_floating_point():
            return value
        count = self.tensors[f"{stream}.mask"].shape[1]
        return self._point(
            name, value, stream, torch.arange(count) if order is None else order, slots
        )

    def _point(self, name: str, value: Tensor, stream: str, order: Tensor, slots: int) -> Tensor:
        rule = next(rule for rule in self.contract[name].rules if isinstance(rule, Index))
        old = {s: self.tensors[f"{s}.mask"].shape[1] for s in rule.order}
        places = {s: torch.arange(size) for s, size in old.items()}
        places[stream] = torch.argsort(order)
        new = {**old, stream: slots}
        through, start = [], 0
        for each in rule.order:
            through.append(places[each] + start)
            start += new[each]
        columns = []
        for column, own in enumerate(rule.streams):
            table = torch.cat(through) if own is None else places[own]
            index = value[:, column]
            moved = table[index.clamp(min=0)].to(index.dtype)
            columns.append(torch.where(index >= 0, moved, index))
        return torch.stack(columns, 1)

    def canonical(self, field: str, value: Tensor) -> Tensor:
        """Indices of interchangeable products in ascending order: any of their orders is right."""
        for assignment in self.event.assignments():
            if assignment.tensor != f"{ASSIGNMENT}{field}" or value.is_floating_point():
                continue
            names = list(assignment.products)
            group = self.event.processes[assignment.process].product_group(assignment.particle)
            given = value
            for element in group.elements:
                other = given[:, list(element)]
                smaller = _lexicographic(other, value)
                value = torch.where(smaller[:, None], other, value)
            require(value.shape[1] == len(names), f"decode {field!r}: wrong products")
        return value


def _reslot(value: Tensor, axis: int, order: Tensor, slots: int, fill: float) -> Tensor:
    moved = value.index_select(axis, order)
    shape = list(value.shape)
    shape[axis] = slots - len(order)
    return torch.cat([moved, value.new_full(shape, fill)], axis)


def _lexicographic(first: Tensor, second: Tensor) -> Tensor:
    """Whether each row of `first` comes before that of `second`."""
    before = torch.zeros(len(first), dtype=torch.bool)
    equal = torch.ones(len(first), dtype=torch.bool)
    for a, b in zip(first.T, second.T, strict=True):
        before |= equal & (a < b)
        equal &= a == b
    return before
