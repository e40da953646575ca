"""What holds for everything that is computed event by event: one harness for heads and backbones.

A `Trial` knows how to compute named outputs from named tensors, and which axes of the tensors count
objects. Each of its methods is one property: order, padding, independence of other events,
repeatability. How a component is asked, and what it claims, is for the check that makes the trial.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from hepset.testing.conditions import require
from hepset.testing.modules import check_export, require_close

__all__ = ["Tensors", "Trial", "reslot"]

Tensors = dict[str, Tensor]

GARBAGE = 300.0
"""What padding holds that nothing may read."""
_ADDED = 3
_SET = "objects are a set, their order means nothing; drop what depends on positions"
_PADDING = (
    "a prediction would depend on how long other events are; mask every sum, mean, maximum, "
    "softmax and normalisation over objects"
)
_ALONE = "an event may not depend on the others of its batch, nor on how it is cut"


def _unchanged(_: str, value: Tensor, *__: object) -> Tensor:
    return value


@dataclass(frozen=True)
class Trial:
    """One component, the events that it is tried on, and how to ask it.

    Attributes:
        what: The component, for messages.
        run: Tensors → outputs by label, the event first.
        tensors: The events.
        dims: Tensor → names of its axes; those that a stream's name stands for count objects.
        slots: Stream → number of its slots.
        fills: Tensor → what its padded slots hold; those that are not named hold garbage.
        empty: Row of the event without any object.
        tolerance: Largest difference, relative above 1.
        garbage: What else padding holds, one after the other.
        point: Moves indices that point at slots: name, tensor, stream, order, new slots.
        expect: The same for outputs.
        canonical: Brings outputs whose order is free into one order.
    """

    what: str
    run: Callable[[Tensors], Tensors]
    tensors: Tensors
    dims: Mapping[str, Sequence[str]]
    slots: Mapping[str, int]
    fills: Mapping[str, float]
    empty: int
    tolerance: float
    garbage: Sequence[float] = (GARBAGE,)
    point: Callable[[str, Tensor, str, Tensor, int], Tensor] = _unchanged
    expect: Callable[[str, Tensor, str, Tensor, int], Tensor] = _unchanged
    canonical: Callable[[Tensors], Tensors] = lambda outputs: outputs
    reference: Tensors = field(default_factory=dict)

    def started(self) -> Trial:
        """Return the trial with the outputs that all others are compared with."""
        return replace(self, reference=self.outputs(self.tensors))

    @property
    def events(self) -> int:
        """Number of events."""
        return len(next(iter(self.tensors.values())))

    def outputs(self, tensors: Tensors) -> Tensors:
        """Compute without gradients; nothing that was given may be changed."""
        before = {name: value.clone() for name, value in tensors.items()}
        with torch.no_grad():
            found = self.run(tensors)
        for name, value in tensors.items():
            same = torch.equal(value.nan_to_num(nan=-9.0), before[name].nan_to_num(nan=-9.0))
            require(same, f"{self.what}: it changes the tensor {name} that it is given")
        return found

    def compare(self, found: Tensors, message: str, expected: Tensors | None = None) -> None:
        """Fail where outputs differ from the reference, or from others."""
        wanted = self.canonical(self.reference if expected is None else expected)
        found = self.canonical(found)
        require(
            list(found) == list(wanted), f"{self.what}: {message}: {list(found)} are given then"
        )
        for label, value in wanted.items():
            text = f"{self.what}: {label} {message}"
            require_close(found[label], value, text, tolerance=self.tolerance)

    # --- the properties -----------------------------------------------------------------------

    def finite(self) -> None:
        """Every output has the event first and is finite, without objects too."""
        for label, value in self.reference.items():
            kind: type = type(value)
            require(
                issubclass(kind, Tensor),
                f"{self.what}: {label} is a {kind.__name__}, not a tensor",
            )
            require(
                value.ndim > 0 and value.shape[0] == self.events,
                f"{self.what}: {label} has the shape {tuple(value.shape)}: the first axis is the "
                f"event ({self.events} of them)",
            )
            bad = ~torch.isfinite(value).reshape(self.events, -1).all(1)
            empty = " (an event without objects)" if bad[self.empty] else ""
            require(
                not bad.any(),
                f"{self.what}: {label} is not finite in {int(bad.sum())} events{empty}: the loss "
                "of the whole batch would be lost",
            )

    def repeatable(self, when: str = "asked twice") -> None:
        """The same events give the same, whatever was computed in between."""
        self.compare(
            self.outputs(self.tensors),
            f"differs when {when}: nothing may be drawn, and nothing kept from other events",
        )

    def independent(self, rows: Sequence[int]) -> None:
        """An event gives alone what it gives among others."""
        for row in rows:
            event = "the event without objects" if row == self.empty else f"event {row}"
            self.compare(
                self.outputs({name: value[row : row + 1] for name, value in self.tensors.items()}),
                f"differs for {event} alone: {_ALONE}",
                {label: value[row : row + 1] for label, value in self.reference.items()},
            )

    def padding(self) -> dict[str, dict[str, list[int]]]:
        """More slots, whatever they hold, change nothing.

        Returns:
            Output → stream → its axes that count objects.
        """
        axes: dict[str, dict[str, list[int]]] = {label: {} for label in self.reference}
        for stream, slots in self.slots.items():
            order, longer = torch.arange(slots), slots + _ADDED
            for garbage in self.garbage:
                found = self.outputs(self.rearranged(stream, order, longer, garbage))
                why = f"depends on padded slots of {stream} that hold {garbage:g}: {_PADDING}"
                expected = {}
                for label, value in self.reference.items():
                    axes[label][stream], found[label] = self._trimmed(label, found[label], stream)
                    expected[label] = self.expect(label, value, stream, order, longer)
                self.compare(found, why, expected)
        return axes

    def _trimmed(self, label: str, found: Tensor, stream: str) -> tuple[list[int], Tensor]:
        """Axes that count the objects of a stream, and an output without the added slots."""
        value, slots = self.reference[label], self.slots[stream]
        require(
            found.ndim == value.ndim,
            f"{self.what}: {label} has {found.ndim} axes with padding, {value.ndim} without",
        )
        axes = [axis for axis in range(value.ndim) if found.shape[axis] != value.shape[axis]]
        for axis in axes:
            require(
                (value.shape[axis], found.shape[axis]) == (slots, slots + _ADDED),
                f"{self.what}: {label}: axis {axis} has {found.shape[axis]} entries with {_ADDED} "
                f"more slots of {stream}, {value.shape[axis]} without",
            )
            found = found.narrow(axis, 0, slots)
        return axes, found

    def order(self, axes: Mapping[str, Mapping[str, Sequence[int]]], seed: int) -> None:
        """Permuting objects permutes what belongs to them and changes nothing else."""
        for stream, order in self.orders(seed):
            slots = self.slots[stream]
            expected = {}
            for label, value in self.reference.items():
                moved = self.expect(label, value, stream, order, slots)
                for axis in axes[label][stream]:
                    moved = moved.index_select(axis, order)
                expected[label] = moved
            found = self.outputs(self.rearranged(stream, order, slots))
            self.compare(found, f"depends on the order of {stream}: {_SET}", expected)

    def orders(self, seed: int) -> Iterator[tuple[str, Tensor]]:
        """Yield a random order of the slots of every stream."""
        generator = torch.Generator().manual_seed(seed)
        for stream, slots in self.slots.items():
            yield stream, torch.randperm(slots, generator=generator).flip(0)

    def export(self, module: nn.Module, inputs: Sequence[str]) -> None:
        """The graph of what `run` computes gives the same for other numbers of events and slots.

        Args:
            module: What `run` computes with.
            inputs: Tensors that the graph takes.
        """

        def sized(rows: slice, more: int) -> tuple[Tensor, ...]:
            trial = replace(self, tensors={name: self.tensors[name][rows] for name in inputs})
            for stream, slots in self.slots.items():
                longer = trial.rearranged(stream, torch.arange(slots), slots + more)
                trial = replace(trial, tensors=longer)
            return tuple(trial.tensors[name] for name in inputs)

        streams = {*self.slots, "event"}
        axes = [(n, tuple(d if d in streams else "=" for d in self.dims[n])) for n in inputs]
        check_export(
            _Graph(module, self.run, inputs),
            axes,
            sized(slice(3), 0),
            [sized(slice(1), 1), sized(slice(-min(self.events, 7), None), 3)],
            list(self.reference),
            self.what,
            tolerance=10 * self.tolerance,
        )

    def rearranged(
        self, stream: str, order: Tensor, slots: int, garbage: float = GARBAGE
    ) -> Tensors:
        """Return the events with the slots of a stream in another order, and more of them."""
        found = {}
        for name, value in self.tensors.items():
            moved = value
            for axis in (axis for axis, dim in enumerate(self.dims[name]) if dim == stream):
                fill = self.fills.get(name, garbage)
                moved = reslot(moved, axis, order, slots, fill)
            found[name] = self.point(name, moved, stream, order, slots)
        return found


def reslot(value: Tensor, axis: int, order: Tensor, slots: int, fill: float) -> Tensor:
    """Permute an axis and lengthen it."""
    moved = value.index_select(axis, order)
    shape = list(value.shape)
    shape[axis] = slots - len(order)
    return torch.cat([moved, value.new_full(shape, fill)], axis)


class _Graph(nn.Module):
    """What is exported: tensors one by one to outputs one by one."""

    def __init__(
        self, module: nn.Module, run: Callable[[Tensors], Tensors], names: Sequence[str]
    ) -> None:
        super().__init__()
        self.module, self.run, self.names = module, run, list(names)

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.run(dict(zip(self.names, values, strict=True))).values())
