"""`check_backbone`: what it means to be a backbone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hepset.errors import ConfigurationError
from hepset.interfaces.backbone import Backbone, BackboneConfig, Encoded, InputLayout, Inputs
from hepset.interfaces.component import parse_options
from hepset.testing.conditions import check_options, require, require_subclass
from hepset.testing.modules import differs, pickled, reload, require_gradients, seeded, shake
from hepset.testing.properties import GARBAGE, Tensors, Trial

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
    * No event depends on the others of its batch, nor on what was encoded before; one without any
      object is finite.
    * A condition and extra tokens, where the backbone states them among its `capabilities`, are
      used, concern their own event alone, and obey all of the above.
    * A finite gradient reaches every parameter, in training mode, also beside empty events.
    * Weights that are stored and loaded again, and a pickled copy, give the same embeddings.
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

    def present(*shape: int) -> Tensor:
        mask = torch.rand(*shape, generator=generator) < 0.7
        mask[:1] = True
        mask[_EMPTY : _EMPTY + 1] = False
        return mask

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    x = Inputs(streams={}, masks={})
    for index, (name, width) in enumerate(layout.streams.items()):
        count = slots[index % len(slots)]
        mask = present(events, count)
        x.streams[name] = torch.where(mask[..., None], normal(events, count, width), 0.0)
        x.masks[name] = mask
        if name in layout.p4:
            momentum = 30 * normal(events, count, 3)
            mass = 1 + 9 * torch.rand(events, count, 1, generator=generator)
            energy = torch.sqrt((momentum**2).sum(-1, keepdim=True) + mass**2)
            x.p4[name] = torch.where(mask[..., None], torch.cat([momentum, energy], -1), 0.0)
        if name in layout.pairs:
            both = (mask[:, :, None] & mask[:, None, :])[..., None]
            pairs = normal(events, count, count, layout.pairs[name])
            x.pairs[name] = torch.where(both, pairs, 0.0)
    for name, width in layout.globals.items():
        mask = present(events)
        x.globals[name] = torch.where(mask[:, None], normal(events, width), 0.0)
        x.global_masks[name] = mask
    return x


_FIELDS = (
    # Field of `Inputs`, what follows the name of a stream or global, and the axes.
    ("streams", "", ("event", "object", "=")),
    ("masks", ".mask", ("event", "object")),
    ("p4", ".p4", ("event", "object", "=")),
    ("pairs", ".pairs", ("event", "object", "object", "=")),
    ("globals", "", ("event", "=")),
    ("global_masks", ".mask", ("event",)),
)


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
        self.dims: dict[str, tuple[str, ...]] = {}
        self.places: dict[str, tuple[str, str]] = {}
        for part, suffix, axes in _FIELDS:
            for name in getattr(self.x, part):
                self.dims[name + suffix] = tuple(name if a == "object" else a for a in axes)
                self.places[name + suffix] = (part, name)

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
        plain = self.trial({})
        self.check_shapes(plain)
        self.check_properties(plain)
        self.check_absent_globals(plain)
        for capability in sorted(self.backbone.capabilities):
            self.check_capability(capability, plain)
        self.check_gradients(plain)
        self.check_copies(plain)
        if onnx:
            plain.export(self.backbone, list(plain.tensors))

    def trial(self, extras: Tensors) -> Trial:
        """The backbone on its inputs, with a condition or extra tokens beside them."""
        given = {n: getattr(self.x, part)[name] for n, (part, name) in self.places.items()}
        dims = {name: ("event", *["="] * (value.ndim - 1)) for name, value in extras.items()}
        masks = {name for name, value in given.items() if value.dtype == torch.bool}
        return Trial(
            self.what + "".join(f" with {name}" for name in extras),
            self.outputs,
            {**given, **extras},
            {**self.dims, **dims},
            {name: mask.shape[1] for name, mask in self.x.masks.items()},
            dict.fromkeys(masks, 0.0),
            _EMPTY,
            self.tolerance,
            garbage=(0.0, GARBAGE),
        ).started()

    def outputs(self, tensors: Tensors, backbone: Backbone | None = None) -> Tensors:
        encoded = self.encode(tensors, backbone)
        objects = {f"objects[{name!r}]": value for name, value in encoded.objects.items()}
        found = {"event": encoded.event, **objects}
        return found if encoded.extra is None else {**found, "extra": encoded.extra}

    def encode(self, tensors: Tensors, backbone: Backbone | None = None) -> Encoded:
        x = Inputs(streams={}, masks={})
        extras = {}
        for name, value in tensors.items():
            if name in self.places:
                part, key = self.places[name]
                getattr(x, part)[key] = value
            else:
                extras[name] = value
        found: Encoded = (backbone or self.backbone)(x, **extras)
        return found

    # --- the properties -----------------------------------------------------------------------

    def check_properties(self, trial: Trial) -> None:
        """What holds for everything that is computed event by event, and padding that stays 0."""
        trial.finite()
        trial.repeatable()
        trial.order(trial.padding(), self.seed + 1)
        trial.independent(range(self.events))
        trial.repeatable("other events were encoded in between")
        for name, mask in self.x.masks.items():
            require(
                not trial.reference[f"objects[{name!r}]"][~mask].any(),
                f"{trial.what}: objects[{name!r}] is not 0 in padded slots: a head that sums over "
                "objects would see the padding",
            )

    def check_shapes(self, trial: Trial) -> None:
        with torch.no_grad():
            encoded, width = self.encode(trial.tensors), self.backbone.width
        require(isinstance(encoded, Encoded), f"{self.what}: encode gives {type(encoded).__name__}")
        require(
            set(encoded.objects) == set(self.layout.streams),
            f"{self.what}: embeddings of {sorted(encoded.objects)}, inputs are "
            f"{sorted(self.layout.streams)}: heads of the missing streams would fail",
        )
        for name, mask in self.x.masks.items():
            self._shape(encoded.objects[name], (*mask.shape, width), f"objects[{name!r}]")
            require(
                name in encoded.masks and torch.equal(encoded.masks[name], mask),
                f"{self.what}: masks[{name!r}] is not the mask of the inputs",
            )
        for name in self.layout.p4:
            require(
                name in encoded.p4 and torch.equal(encoded.p4[name], self.x.p4[name]),
                f"{self.what}: p4[{name!r}] of the inputs is not handed on to the heads",
            )
        self._shape(encoded.event, (self.events, self.backbone.event_width), "event")
        require(encoded.extra is None, f"{self.what}: extra is given although no tokens were")

    def _shape(self, found: Tensor, expected: tuple[int, ...], name: str) -> None:
        require(
            tuple(found.shape) == expected,
            f"{self.what}: {name} has the shape {tuple(found.shape)} instead of {expected}",
        )

    def check_absent_globals(self, trial: Trial) -> None:
        for name in self.layout.globals:
            present = self.x.global_masks[name]
            values = torch.where(present[:, None], self.x.globals[name], GARBAGE)
            why = f"depends on what the absent global {name!r} holds: use global_masks"
            trial.compare(trial.outputs({**trial.tensors, name: values}), why)
            absent = {**trial.tensors, f"{name}.mask": torch.zeros_like(present)}
            require(
                differs(trial.outputs(absent)["event"][present], trial.reference["event"][present]),
                f"{self.what}: event does not depend on the global {name!r}: it is not used",
            )

    def check_capability(self, name: str, plain: Trial) -> None:
        """A condition or extra tokens are used, and obey what holds without them."""
        shape = {"condition": (self.events,), "extra_tokens": (self.events, 2)}.get(name)
        if shape is None:
            raise AssertionError(
                f"{self.what}: capabilities holds {name!r}; there are condition and extra_tokens"
            )
        generator = torch.Generator().manual_seed(self.seed + 2)
        extra = torch.randn(*shape, self.backbone.width, generator=generator)
        trial = self.trial({name: extra})
        if name == "extra_tokens":
            require(
                "extra" in trial.reference,
                f"{self.what}: extra_tokens do not come back in Encoded.extra: a head that asks "
                "questions of the event would fail",
            )
            self._shape(trial.reference["extra"], tuple(extra.shape), "extra")
        self.check_properties(trial)
        if name == "condition":
            used = all(differs(trial.reference[label], v) for label, v in plain.reference.items())
            require(
                used,
                f"{self.what}: the condition changes nothing: a head that encodes again (at a "
                "noise level) could not tell; add it to every token",
            )
            return
        other = trial.outputs({**trial.tensors, name: extra.flip(1)})
        trial.compare(
            {"extra": other["extra"]},
            "does not come in the order of extra_tokens",
            {"extra": trial.reference["extra"].flip(1)},
        )
        for stream in self.layout.streams:
            seen = trial.outputs({**trial.tensors, stream: -trial.tensors[stream]})
            require(
                differs(seen["extra"][0], trial.reference["extra"][0]),
                f"{self.what}: extra does not depend on {stream}: extra tokens attend to the "
                "objects",
            )

    def check_gradients(self, trial: Trial) -> None:
        """Plain encoding has to train everything; conditions and tokens are extras."""
        generator = torch.Generator().manual_seed(self.seed + 4)
        for with_objects in (False, True):
            rows = torch.arange(self.events) if with_objects else torch.tensor([_EMPTY] * 2)
            self.backbone.train()
            self.backbone.zero_grad()
            total = torch.zeros(())
            for value in self.outputs({n: v[rows] for n, v in trial.tensors.items()}).values():
                total = total + (value * torch.randn(value.shape, generator=generator)).sum()
            total.backward()
            self.backbone.eval()
            require_gradients(
                dict(self.backbone.named_parameters()),
                f"{self.what}: {'a batch' if with_objects else 'events without objects'}",
                all_used=with_objects,
            )
        self.backbone.zero_grad()

    def check_copies(self, trial: Trial) -> None:
        fresh = self.build(self.seed + 5)
        reload(self.backbone, fresh, self.what)
        # Running statistics may have moved in training mode, so that the reference is an old one.
        expected = trial.outputs(trial.tensors)
        for how, copy, why in (
            ("loaded again", fresh.eval(), "something that was learnt is no parameter or buffer"),
            ("pickled", pickled(self.backbone, self.what), "its state is not complete"),
        ):
            with torch.no_grad():
                found = self.outputs(trial.tensors, copy)  # type: ignore[arg-type]
            trial.compare(found, f"differs when {how}: {why}", expected)
