"""`check_backbone`: what it means to be a backbone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from hepset.errors import ConfigurationError
from hepset.interfaces.backbone import Backbone, BackboneConfig, Encoded, InputLayout, Inputs
from hepset.interfaces.component import parse_options
from hepset.testing.conditions import check_options, require, require_subclass
from hepset.testing.modules import (
    check_export,
    reload,
    require_close,
    require_gradients,
    seeded,
    shake,
)

__all__ = ["DEFAULT_LAYOUTS", "check_backbone", "make_inputs"]

DEFAULT_LAYOUTS: tuple[InputLayout, ...] = (
    InputLayout(streams={"jets": 4}),
    InputLayout(
        streams={"jets": 5, "leptons": 2},
        globals={"met": 3, "shape": 1},
        p4=("jets",),
        pairs={"jets": 2},
    ),
)
"""One stream; two streams with globals, four-momenta and pair inputs."""

_SLOTS = (6, 4, 3)
_EMPTY = 1


def check_backbone(
    cls: type[Backbone],
    options: Mapping[str, Any] | None = None,
    *,
    layouts: Sequence[InputLayout] = DEFAULT_LAYOUTS,
    onnx: bool = False,
    tolerance: float = 1e-4,
    seed: int = 1,
) -> None:
    """Check that a backbone conforms, for each layout of the inputs.

    * Embeddings have the declared width and are finite, those of padding are 0.
    * Permuting the slots of a stream permutes its embeddings and changes no other.
    * More padding, whatever it holds, and what an absent global holds, change nothing.
    * No event depends on the others of its batch; one without any object is finite.
    * A condition and extra tokens are used, and concern their own event alone.
    * A finite gradient reaches every parameter, in training mode, also beside empty events.
    * Weights that are stored and loaded again give the same embeddings.
    * With `onnx`, the exported graph gives the same for other numbers of events and slots.

    Everything is tried with parameters moved from their start values, in single precision.

    Args:
        cls: The backbone.
        options: Options of its `Config`; make it small.
        layouts: Widths of the inputs; a backbone that cannot take those of the default (it raises
            `ConfigurationError` in ``build``) is given its own.
        onnx: Whether to export, which takes some seconds.
        tolerance: Largest difference of two embeddings, relative above 1.
        seed: Of parameters and inputs.

    Raises:
        AssertionError: Naming the layout, the property and the reason.
    """
    require_subclass(cls, Backbone)
    check_options(cls, cls.Config, BackboneConfig)
    require(layouts, "check_backbone needs at least one layout")
    for layout in layouts:
        _Check(cls, options or {}, layout, tolerance, seed).run(onnx=onnx)


def make_inputs(
    layout: InputLayout, events: int = 5, seed: int = 1, *, slots: Sequence[int] = _SLOTS
) -> Inputs:
    """Make random model-space inputs, 0 in padding.

    The first event fills all slots, the second has no object and no global; masks have gaps.

    Args:
        layout: Widths of the inputs.
        events: Number of events.
        seed: Of the random numbers.
        slots: Number of slots of the streams, in turn.
    """
    generator = torch.Generator().manual_seed(seed)
    x = Inputs(streams={}, masks={})
    for index, (name, width) in enumerate(layout.streams.items()):
        count = slots[index % len(slots)]
        mask = torch.rand(events, count, generator=generator) < 0.7
        mask[:1] = True
        mask[_EMPTY : _EMPTY + 1] = False
        values = torch.randn(events, count, width, generator=generator)
        x.streams[name] = torch.where(mask[..., None], values, 0.0)
        x.masks[name] = mask
        if name in layout.p4:
            momentum = 30 * torch.randn(events, count, 3, generator=generator)
            mass = 1 + 9 * torch.rand(events, count, 1, generator=generator)
            energy = torch.sqrt((momentum**2).sum(-1, keepdim=True) + mass**2)
            x.p4[name] = torch.where(mask[..., None], torch.cat([momentum, energy], -1), 0.0)
        if name in layout.pairs:
            pairs = torch.randn(events, count, count, layout.pairs[name], generator=generator)
            both = mask[:, :, None] & mask[:, None, :]
            x.pairs[name] = torch.where(both[..., None], pairs, 0.0)
    for name, width in layout.globals.items():
        present = torch.rand(events, generator=generator) < 0.7
        present[:1] = True
        present[_EMPTY : _EMPTY + 1] = False
        values = torch.randn(events, width, generator=generator)
        x.globals[name] = torch.where(present[:, None], values, 0.0)
        x.global_masks[name] = present
    return x


class _Check:
    """The properties of one backbone on one layout."""

    def __init__(
        self,
        cls: type[Backbone],
        options: Mapping[str, Any],
        layout: InputLayout,
        tolerance: float,
        seed: int,
    ) -> None:
        self.cls, self.options, self.layout = cls, options, layout
        self.tolerance, self.seed = tolerance, seed
        self.what = f"{cls.__name__} on {layout}"
        self.backbone = self.build(seed)
        self.backbone.eval()
        self.x = make_inputs(layout, seed=seed)
        self.events = 5

    def build(self, seed: int) -> Backbone:
        config = parse_options(self.cls.Config, self.options, "options")
        with seeded(seed):
            backbone = self.cls(config)
            width: object = backbone.width
            require(
                isinstance(width, int) and width > 0,
                f"{self.what}: width is {width!r}; it has to be known before build, heads "
                "are made for it",
            )
            try:
                backbone.build(self.layout)
            except ConfigurationError as problem:
                raise AssertionError(
                    f"{self.what}: build refuses the inputs ({problem}); if that is meant, give "
                    "check_backbone the layouts that it takes"
                ) from problem
            shake(backbone)
        return backbone

    def run(self, *, onnx: bool) -> None:
        self.reference = self.encode(self.x)
        self.check_shapes()
        self.check_permutation()
        self.check_padding()
        self.check_absent_globals()
        self.check_independence()
        self.check_condition()
        self.check_tokens()
        self.check_gradients()
        self.check_reload()
        if onnx:
            self.check_onnx()

    def encode(self, x: Inputs, **extras: Tensor) -> Encoded:
        with torch.no_grad():
            return self.backbone(x, **extras)  # type: ignore[no-any-return]

    def same(self, found: Tensor, expected: Tensor, message: str) -> None:
        require_close(found, expected, f"{self.what}: {message}", tolerance=self.tolerance)

    def check_shapes(self) -> None:
        encoded, width = self.reference, self.backbone.width
        require(isinstance(encoded, Encoded), f"{self.what}: encode gives {type(encoded).__name__}")
        require(
            set(encoded.objects) == set(self.layout.streams),
            f"{self.what}: embeddings of {sorted(encoded.objects)}, inputs are "
            f"{sorted(self.layout.streams)}: heads of the missing streams would fail",
        )
        for name, mask in self.x.masks.items():
            objects = encoded.objects[name]
            self._shape(objects, (*mask.shape, width), f"objects[{name!r}]")
            require(
                not objects[~mask].any(),
                f"{self.what}: objects[{name!r}] is not 0 in padded slots: a head that sums over "
                "objects would see the padding",
            )
            require(
                name in encoded.masks and torch.equal(encoded.masks[name], mask),
                f"{self.what}: masks[{name!r}] is not the mask of the inputs",
            )
        for name in self.layout.p4:
            require(
                name in encoded.p4 and torch.equal(encoded.p4[name], self.x.p4[name]),
                f"{self.what}: p4[{name!r}] of the inputs is not handed on to the heads",
            )
        self._shape(encoded.event, (self.events, width), "event")
        require(encoded.extra is None, f"{self.what}: extra is given although no tokens were")
        again = self.encode(self.x)
        require(
            torch.equal(encoded.event, again.event),
            f"{self.what}: encoding twice in evaluation mode gives two results",
        )

    def _shape(self, found: Tensor, expected: tuple[int, ...], name: str) -> None:
        require(
            tuple(found.shape) == expected,
            f"{self.what}: {name} has the shape {tuple(found.shape)} instead of {expected}",
        )
        bad = ~torch.isfinite(found).flatten(1).all(1)
        empty = " (an event without objects)" if bad[_EMPTY] else ""
        require(
            not bad.any(),
            f"{self.what}: {name} is not finite in {int(bad.sum())} events{empty}: the loss of the "
            "whole batch would be lost",
        )

    def check_permutation(self) -> None:
        for name in self.layout.streams:
            order = torch.randperm(
                self.x.masks[name].shape[1], generator=torch.Generator().manual_seed(self.seed + 1)
            ).flip(0)
            moved = self.encode(_reordered(self.x, name, order))
            why = "objects are a set, their order means nothing; drop what depends on positions"
            self.same(
                moved.event, self.reference.event, f"event depends on the order of {name}: {why}"
            )
            for other, objects in self.reference.objects.items():
                expected = objects[:, order] if other == name else objects
                self.same(
                    moved.objects[other],
                    expected,
                    f"objects[{other!r}] do not follow when {name} are permuted: {why}",
                )

    def check_padding(self) -> None:
        for name in self.layout.streams:
            for what, garbage in (("of zeros", 0.0), ("that hold numbers", 300.0)):
                padded = self.encode(_padded(self.x, name, 3, garbage))
                slots = self.x.masks[name].shape[1]
                why = (
                    "an event would be judged by how long others of its batch are; mask every sum, "
                    "mean, maximum, softmax and normalisation over objects"
                )
                self.same(
                    padded.event,
                    self.reference.event,
                    f"event depends on padded slots {what} of {name}: {why}",
                )
                for other, objects in self.reference.objects.items():
                    found = padded.objects[other]
                    found = found[:, :slots] if other == name else found
                    self.same(
                        found,
                        objects,
                        f"objects[{other!r}] depend on padded slots {what} of {name}: {why}",
                    )
                require(
                    not padded.objects[name][:, slots:].any(),
                    f"{self.what}: objects[{name!r}] is not 0 in added slots",
                )

    def check_absent_globals(self) -> None:
        for name in self.layout.globals:
            present = self.x.global_masks[name]
            values = torch.where(present[:, None], self.x.globals[name], 300.0)
            other = replace(self.x, globals={**self.x.globals, name: values})
            self.same(
                self.encode(other).event,
                self.reference.event,
                f"event depends on what the absent global {name!r} holds: use global_masks",
            )
            absent = {**self.x.global_masks, name: torch.zeros_like(present)}
            found = self.encode(replace(self.x, global_masks=absent)).event
            require(
                not torch.allclose(found[present], self.reference.event[present]),
                f"{self.what}: event does not depend on the global {name!r}: it is not used",
            )

    def check_independence(self) -> None:
        why = "an event may not depend on the others of its batch, nor on how it is cut"
        for row in range(self.events):
            alone = self.encode(_take(self.x, torch.tensor([row])))
            label = "an event without objects" if row == _EMPTY else f"event {row}"
            self.same(
                alone.event, self.reference.event[row : row + 1], f"{label} alone differs: {why}"
            )
            for name, objects in self.reference.objects.items():
                self.same(
                    alone.objects[name],
                    objects[row : row + 1],
                    f"objects[{name!r}] of {label} alone differ: {why}",
                )

    def check_condition(self) -> None:
        generator = torch.Generator().manual_seed(self.seed + 2)
        condition = torch.randn(self.events, self.backbone.width, generator=generator)
        first = self.encode(self.x, condition=condition)
        changed = condition.clone()
        changed[0] = -changed[0]
        second = self.encode(self.x, condition=changed)
        used = not torch.allclose(first.event[0], second.event[0])
        for name in self.layout.streams:
            used &= not torch.allclose(first.objects[name][0], second.objects[name][0])
        require(
            used,
            f"{self.what}: the condition changes nothing: a head that encodes again (at a noise "
            "level) could not tell; add it to every token",
        )
        self.same(first.event[1:], second.event[1:], "the condition of one event changes others")
        for name, mask in self.x.masks.items():
            require(
                not first.objects[name][~mask].any(),
                f"{self.what}: with a condition objects[{name!r}] is not 0 in padded slots",
            )

    def check_tokens(self) -> None:
        generator = torch.Generator().manual_seed(self.seed + 3)
        tokens = torch.randn(self.events, 2, self.backbone.width, generator=generator)
        first = self.encode(self.x, extra_tokens=tokens)
        extra = self._extra(first, 2)
        other = self.encode(self.x, extra_tokens=tokens.flip(1))
        self.same(
            self._extra(other, 2), extra.flip(1), "extra does not come in the order of extra_tokens"
        )
        for name in self.layout.streams:
            slots = self.x.masks[name].shape[1]
            order = torch.arange(slots).flip(0)
            moved = self.encode(_reordered(self.x, name, order), extra_tokens=tokens)
            self.same(self._extra(moved, 2), extra, f"extra depends on the order of {name}")
            padded = self.encode(_padded(self.x, name, 3, 300.0), extra_tokens=tokens)
            self.same(self._extra(padded, 2), extra, f"extra depends on padded slots of {name}")
            values = dict(self.x.streams)
            values[name] = torch.where(self.x.masks[name][..., None], -values[name], 0.0)
            seen = self.encode(replace(self.x, streams=values), extra_tokens=tokens)
            require(
                not torch.allclose(self._extra(seen, 2)[0], extra[0]),
                f"{self.what}: extra does not depend on {name}: extra tokens attend to the objects",
            )

    def _extra(self, encoded: Encoded, count: int) -> Tensor:
        if encoded.extra is None:
            raise AssertionError(
                f"{self.what}: extra_tokens do not come back in Encoded.extra: a head that asks "
                "questions of the event would fail"
            )
        self._shape(encoded.extra, (self.events, count, self.backbone.width), "extra")
        return encoded.extra

    def check_gradients(self) -> None:
        """Plain encoding has to train everything; conditions and tokens are extras."""
        generator = torch.Generator().manual_seed(self.seed + 4)
        self.backbone.train()
        try:
            for with_objects in (False, True):
                self.backbone.zero_grad()
                rows = torch.arange(self.events) if with_objects else torch.tensor([_EMPTY] * 2)
                encoded = self.backbone(_take(self.x, rows))
                total = (encoded.event * _like(encoded.event, generator)).sum()
                for objects in encoded.objects.values():
                    total = total + (objects * _like(objects, generator)).sum()
                total.backward()
                which = "a batch" if with_objects else "events without objects"
                require_gradients(
                    dict(self.backbone.named_parameters()),
                    f"{self.what}: {which}",
                    all_used=with_objects,
                )
        finally:
            self.backbone.zero_grad()
            self.backbone.eval()

    def check_reload(self) -> None:
        fresh = self.build(self.seed + 5)
        reload(self.backbone, fresh, self.what)
        fresh.eval()
        # Running statistics may have moved in training mode, so that the reference is an old one.
        expected = self.encode(self.x)
        with torch.no_grad():
            encoded = fresh(self.x)
        why = "something that was learnt is not among the parameters and buffers"
        self.same(encoded.event, expected.event, f"loaded again, event differs: {why}")
        for name, objects in expected.objects.items():
            self.same(encoded.objects[name], objects, f"loaded again, objects differ: {why}")

    def check_onnx(self) -> None:
        inputs: list[tuple[str, tuple[str, ...]]] = []
        for name in self.layout.streams:
            inputs += [(name, ("event", name, "=")), (f"{name}.mask", ("event", name))]
            if name in self.layout.p4:
                inputs.append((f"{name}.p4", ("event", name, "=")))
            if name in self.layout.pairs:
                inputs.append((f"{name}.pairs", ("event", name, name, "=")))
        for name in self.layout.globals:
            inputs += [(name, ("event", "=")), (f"{name}.mask", ("event",))]
        names = [name for name, _ in inputs]

        def values(events: int, slots: Sequence[int]) -> tuple[Tensor, ...]:
            return _flat(make_inputs(self.layout, events, events, slots=slots), names)

        check_export(
            _FlatBackbone(self.backbone, names),
            inputs,
            values(3, (5, 4, 6)),
            [values(1, (2, 3, 2)), values(7, (9, 2, 3))],
            [*(f"objects.{name}" for name in self.layout.streams), "event"],
            self.what,
            tolerance=10 * self.tolerance,
        )


class _FlatBackbone(nn.Module):
    """A backbone that takes its tensors one by one."""

    def __init__(self, backbone: Backbone, names: Sequence[str]) -> None:
        super().__init__()
        self.backbone = backbone
        self.names = list(names)

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        x = Inputs(streams={}, masks={})
        given = dict(zip(self.names, values, strict=True))
        for name, value in given.items():
            stem, _, part = name.partition(".")
            stream = f"{stem}.mask" in given and given[f"{stem}.mask"].ndim > 1
            if part == "":
                (x.streams if stream else x.globals)[stem] = value
            elif part == "mask":
                (x.masks if stream else x.global_masks)[stem] = value
            elif part == "p4":
                x.p4[stem] = value
            else:
                x.pairs[stem] = value
        encoded = self.backbone(x)
        return (*(encoded.objects[name] for name in x.streams), encoded.event)


def _flat(x: Inputs, names: Sequence[str]) -> tuple[Tensor, ...]:
    found: dict[str, Tensor] = {**x.streams, **x.globals}
    found |= {f"{name}.mask": mask for name, mask in (*x.masks.items(), *x.global_masks.items())}
    found |= {f"{name}.p4": value for name, value in x.p4.items()}
    found |= {f"{name}.pairs": value for name, value in x.pairs.items()}
    return tuple(found[name] for name in names)


def _like(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(x.shape, generator=generator)


def _map(x: Inputs, name: str, change: Callable[[Tensor, int], Tensor]) -> Inputs:
    """Change the slot axes of one stream; `change` gets a tensor and its number of slot axes."""
    parts: dict[str, dict[str, Tensor]] = {}
    for field, axes in (("streams", 1), ("masks", 1), ("p4", 1), ("pairs", 2)):
        values: dict[str, Tensor] = dict(getattr(x, field))
        if name in values:
            values[name] = change(values[name], axes)
        parts[field] = values
    return replace(x, **parts)


def _reordered(x: Inputs, name: str, order: Tensor) -> Inputs:
    return _map(x, name, lambda v, axes: v[:, order] if axes == 1 else v[:, order][:, :, order])


def _padded(x: Inputs, name: str, count: int, garbage: float) -> Inputs:
    def longer(values: Tensor, axes: int) -> Tensor:
        shape = list(values.shape)
        for axis in range(1, 1 + axes):
            shape[axis] += count
        filled = values.new_zeros(shape) if values.dtype == torch.bool else None
        filled = values.new_full(shape, garbage) if filled is None else filled
        filled[tuple(slice(size) for size in values.shape)] = values
        return filled

    return _map(x, name, longer)


def _take(x: Inputs, rows: Tensor) -> Inputs:
    fields = ("streams", "masks", "globals", "global_masks", "p4", "pairs")
    return Inputs(**{f: {k: v[rows] for k, v in getattr(x, f).items()} for f in fields})
