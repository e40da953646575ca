"""`check_head`: what it means to be a head."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hepset.backbones.transformer import TransformerBackbone, TransformerConfig
from hepset.batch import EventBatch
from hepset.errors import ConfigurationError
from hepset.interfaces.backbone import Backbone
from hepset.interfaces.component import parse_options
from hepset.interfaces.head import (
    EncoderHandle,
    Evaluation,
    Head,
    HeadConfig,
    LossTerm,
)
from hepset.model.input_transform import InputTransform
from hepset.schema.contract import Contract, compile_contract
from hepset.schema.event import EventInfo
from hepset.testing.batches import make_batch, make_event_info, make_statistics, resolved
from hepset.testing.conditions import check_options, require, require_subclass
from hepset.testing.judgement import draw, judge
from hepset.testing.modules import (
    check_export,
    reload,
    require_close,
    require_gradients,
    seeded,
    shake,
)
from hepset.testing.rearrangement import Rearrangement

__all__ = ["check_head", "small_backbone"]

Array = NDArray[Any]
Tensors = dict[str, Tensor]

_NAME = "tested_head"
_EVENTS = 24
_EMPTY = 1
_MISSING = (3, 6)
_ADDED = 3


def small_backbone() -> Backbone:
    """Return a small transformer, without layers yet."""
    return TransformerBackbone(TransformerConfig(width=16, depth=1, attention_heads=2))


def check_head(
    cls: type[Head],
    options: Mapping[str, Any] | None = None,
    *,
    event: EventInfo | None = None,
    backbone: Callable[[], Backbone] = small_backbone,
    onnx: bool = False,
    tolerance: float = 1e-4,
    seed: int = 1,
) -> None:
    """Check that a head conforms, on random events behind a small backbone.

    * Its contract requires targets in its own name; an event that does not declare them is
      refused by a `ConfigurationError`.
    * Outputs, losses and decisions have the batch axis first and are finite, for an event without
      objects too. A loss is one number per event, with where it counts.
    * No event depends on the others of its batch. Permuting objects changes no loss and no
      decision on the event, and permutes those on objects; padding changes nothing.
    * An event whose target is missing counts in no loss and moves no weight; where no event has
      one, no gradient is NaN.
    * A finite gradient reaches every parameter.
    * Weights that are stored and loaded again decide the same.
    * Metrics, baselines and figures are well-formed, the same whenever they are asked for and in
      whatever order the events are, with and without weights, targets and events.
    * With `onnx`, the exported graph decides the same for other numbers of events and slots.

    Everything is tried with parameters moved from their start values, in single precision.

    Args:
        cls: The head.
        options: Options of its `Config`.
        event: What events have; `make_event_info` without.
        backbone: Makes the backbone.
        onnx: Whether to export, which takes some seconds.
        tolerance: Largest difference of two numbers, relative above 1.
        seed: Of parameters and events.

    Raises:
        AssertionError: Naming the property, the tensor and the reason.
    """
    require_subclass(cls, Head)
    check_options(cls, cls.Config, HeadConfig)
    check = _Check(cls, options or {}, event or make_event_info(), backbone, tolerance, seed)
    check.run(onnx=onnx)


class _Whole(nn.Module):
    """Transform, backbone and head in a row, from physical tensors."""

    def __init__(self, transform: InputTransform, backbone: Backbone, head: Head) -> None:
        super().__init__()
        self.transform = transform
        self.backbone = backbone
        self.head = head

    def forward(self, tensors: Mapping[str, Tensor]) -> Tensors:
        inputs = self.transform(tensors)
        handle = EncoderHandle(self.transform, self.backbone, inputs)
        outputs: Tensors = self.head(self.backbone(inputs), handle)
        return outputs


class _Decisions(nn.Module):
    """What is exported: input tensors one by one to decisions."""

    def __init__(self, whole: _Whole, inputs: list[str]) -> None:
        super().__init__()
        self.whole = whole
        self.inputs = inputs

    def forward(self, *values: Tensor) -> tuple[Tensor, ...]:
        outputs = self.whole(dict(zip(self.inputs, values, strict=True)))
        return tuple(self.whole.head.decode(outputs).values())


class _Check:
    """The properties of one head on one kind of event."""

    def __init__(
        self,
        cls: type[Head],
        options: Mapping[str, Any],
        event: EventInfo,
        backbone: Callable[[], Backbone],
        tolerance: float,
        seed: int,
    ) -> None:
        self.cls, self.options, self.event = cls, options, event
        self.make_backbone, self.tolerance, self.seed = backbone, tolerance, seed
        self.what = f"{cls.__name__} {dict(options)}"
        self.wanted = self.check_contract()
        self.contract = resolved(compile_contract(event, [self.wanted]))
        self.batch = make_batch(self.contract, _EVENTS, seed, empty=(_EMPTY,))
        self.statistics = make_statistics(self.contract, self.batch)
        self.whole = self.build(seed)
        self.whole.eval()
        self.tensors = self.as_tensors(self.batch)
        self.rearrange = Rearrangement(self.event, self.contract, self.tensors)
        self.targets = [name for name in self.wanted.tensors if name in self.tensors]

    def head(self) -> Head:
        config = parse_options(self.cls.Config, self.options, "options")
        head = self.cls(_NAME, config)
        require(head.name == _NAME, f"{self.what}: name is {head.name!r} instead of {_NAME!r}")
        return head

    def check_contract(self) -> Contract:
        head = self.head()
        wanted = head.contract(self.event)
        require(isinstance(wanted, Contract), f"{self.what}: contract gives {type(wanted)}")
        require(
            head.contract(self.event) == wanted, f"{self.what}: contract differs from call to call"
        )
        for name, spec in wanted.tensors.items():
            require(
                _NAME in spec.wanted_by,
                f"{self.what}: {name} is wanted by {spec.wanted_by}, not by the head's name: "
                "messages would not say who needs it (target_spec(..., wanted_by=self.name))",
            )
            require(
                spec.required or spec.kind not in {"target", "index"},
                f"{self.what}: the target {name} is not required: training without it would learn "
                "nothing, in silence",
            )
        if any(spec.kind in {"target", "index"} for spec in wanted.tensors.values()):
            document = self.event.model_dump(mode="json")
            bare = EventInfo.model_validate({**document, "targets": {}, "processes": {}})
            why = "a wrong configuration has to be found before any data are read"
            try:
                self.head().contract(bare)
            except ConfigurationError:
                pass
            except Exception as problem:
                raise AssertionError(
                    f"{self.what}: an event without the target raises {type(problem).__name__} "
                    f"({problem}), not ConfigurationError; {why}"
                ) from problem
            else:
                raise AssertionError(
                    f"{self.what}: contract accepts an event that does not declare the target; "
                    f"{why}"
                )
        return wanted

    def build(self, seed: int) -> _Whole:
        with seeded(seed):
            transform = InputTransform(self.event, self.contract, self.statistics)
            backbone, head = self.make_backbone(), self.head()
            backbone.build(
                replace(
                    transform.layout,
                    event=self.event,
                    contract=self.contract,
                    statistics=self.statistics,
                )
            )
            head.contract(self.event)
            head.build(self.contract, self.statistics, backbone.width)
            shake(backbone)
            shake(head)
        return _Whole(transform, backbone, head)

    def run(self, *, onnx: bool) -> None:
        with torch.no_grad():
            self.outputs = self.whole(self.tensors)
        self.losses = self.loss(self.outputs, self.tensors)
        self.decided = self.decode(self.outputs)
        self.check_outputs()
        self.check_losses()
        self.check_independence()
        # Padding tells which axes of the decisions count objects; the permutation needs them.
        axes = self.check_padding()
        self.check_permutation(axes)
        self.check_missing()
        self.check_gradients()
        self.check_reload()
        self.check_judgement()
        if onnx:
            self.check_onnx()

    # --- what is computed ---------------------------------------------------------------------

    def as_tensors(self, batch: EventBatch) -> Tensors:
        found = {}
        for name, spec in self.contract.tensors.items():
            array = batch.get(name)
            if array is not None:
                found[name] = torch.from_numpy(np.array(array, spec.dtype))
        return found

    def loss(self, outputs: Mapping[str, Tensor], tensors: Tensors) -> dict[str, LossTerm]:
        before = {name: value.clone() for name, value in tensors.items()}
        found = self.whole.head.loss(outputs, tensors)
        for name, value in tensors.items():
            require(_identical(value, before[name]), f"{self.what}: loss changes the tensor {name}")
        return found

    def decode(self, outputs: Mapping[str, Tensor]) -> Tensors:
        with torch.no_grad():
            return self.whole.head.decode(outputs)

    def all_of(self, tensors: Tensors) -> tuple[dict[str, LossTerm], Tensors]:
        with torch.no_grad():
            outputs = self.whole(tensors)
            return self.loss(outputs, tensors), self.decode(outputs)

    def same(self, found: Tensor, expected: Tensor, message: str) -> None:
        require_close(found, expected, f"{self.what}: {message}", tolerance=self.tolerance)

    def same_losses(
        self, found: Mapping[str, LossTerm], expected: Mapping[str, LossTerm], message: str
    ) -> None:
        for name, term in expected.items():
            valid = term.valid
            self.same(found[name].valid, valid, f"{message}: loss {name!r}: valid")
            # Where not valid the value may be anything finite.
            zero = torch.zeros(())
            self.same(
                torch.where(valid, found[name].value, zero),
                torch.where(valid, term.value, zero),
                f"{message}: loss {name!r}",
            )

    # --- the properties -----------------------------------------------------------------------

    def check_outputs(self) -> None:
        for kind, found in (("forward", self.outputs), ("decode", self.decided)):
            require(
                isinstance(found, dict) and found,
                f"{self.what}: {kind} gives {type(found).__name__} without tensors",
            )
            for name, value in found.items():
                self._finite(value, f"{kind}: {name!r}")
        again = self.decode(self.outputs)
        for name, value in self.decided.items():
            require(
                re.fullmatch(r"[^/\s][^\s]*", name),
                f"{self.what}: decode: {name!r} cannot be part of a column name <head>/{name}",
            )
            require(_identical(again[name], value), f"{self.what}: decode changes its input")

    def _finite(self, value: object, label: str) -> None:
        if not isinstance(value, Tensor):
            found = type(value).__name__
            raise AssertionError(f"{self.what}: {label} is a {found}, not a tensor")  # noqa: TRY004
        require(
            value.ndim > 0 and value.shape[0] == _EVENTS,
            f"{self.what}: {label} has the shape {tuple(value.shape)}: the first axis is the event "
            f"({_EVENTS} of them)",
        )
        if value.is_floating_point():
            bad = ~torch.isfinite(value).reshape(_EVENTS, -1).all(1)
            empty = " (an event without objects)" if bad[_EMPTY] else ""
            require(
                not bad.any(),
                f"{self.what}: {label} is not finite in {int(bad.sum())} events{empty}",
            )

    def check_losses(self) -> None:
        require(self.losses, f"{self.what}: loss gives no named term")
        for name, term in self.losses.items():
            require(
                isinstance(term, LossTerm),
                f"{self.what}: loss {name!r} is a {type(term).__name__}, not a LossTerm",
            )
            for part, value in (("value", term.value), ("valid", term.valid)):
                require(
                    tuple(value.shape) == (_EVENTS,),
                    f"{self.what}: loss {name!r}: {part} has the shape {tuple(value.shape)} "
                    f"instead of ({_EVENTS},): losses come back per event, so that weights can be "
                    "applied",
                )
            require(term.valid.dtype == torch.bool, f"{self.what}: loss {name!r}: valid is no bool")
            require(
                bool(torch.isfinite(term.value).all()),
                f"{self.what}: loss {name!r} is not finite in "
                f"{int((~torch.isfinite(term.value)).sum())} events; where a target is missing "
                "give 0 and valid = False",
            )
            require(
                bool(term.valid.any()), f"{self.what}: loss {name!r} is valid for no event at all"
            )

    def check_independence(self) -> None:
        why = "an event may not depend on the others of its batch, nor on how it is cut"
        for row in (0, _EMPTY, 2, _MISSING[0]):
            label = "the event without objects" if row == _EMPTY else f"event {row}"
            alone = {name: value[row : row + 1] for name, value in self.tensors.items()}
            losses, decided = self.all_of(alone)
            for name, value in self.decided.items():
                self.same(
                    decided[name], value[row : row + 1], f"{label} alone: decode {name!r}: {why}"
                )
            expected = {
                name: LossTerm(term.value[row : row + 1], term.valid[row : row + 1])
                for name, term in self.losses.items()
            }
            self.same_losses(losses, expected, f"{label} alone differs: {why}")

    def check_padding(self) -> dict[str, dict[str, list[int]]]:
        """Return field → stream → axes that count its objects."""
        found: dict[str, dict[str, list[int]]] = {name: {} for name in self.decided}
        for stream in self.contract.slots:
            slots = self.tensors[f"{stream}.mask"].shape[1]
            moved = self.rearrange.events(stream, torch.arange(slots), slots + _ADDED)
            losses, decided = self.all_of(moved)
            why = (
                f"padded slots of {stream} change it: an event would be judged by how long others "
                "of its batch are; mask every sum, mean, maximum and softmax over objects"
            )
            self.same_losses(losses, self.losses, why)
            for name, value in self.decided.items():
                have = decided[name]
                require(
                    have.ndim == value.ndim,
                    f"{self.what}: decode {name!r} has {have.ndim} axes with padding, {value.ndim} "
                    "without",
                )
                axes = [a for a in range(value.ndim) if have.shape[a] != value.shape[a]]
                for axis in axes:
                    require(
                        (value.shape[axis], have.shape[axis]) == (slots, slots + _ADDED),
                        f"{self.what}: decode {name!r}: axis {axis} has {have.shape[axis]} entries "
                        f"with {_ADDED} more slots of {stream}, {value.shape[axis]} without",
                    )
                    have = have.narrow(axis, 0, slots)
                found[name][stream] = axes
                expected = self.rearrange.indices(name, value, stream, None, slots + _ADDED)
                self.same(have, expected, f"decode {name!r}: {why}")
        return found

    def check_permutation(self, axes: Mapping[str, Mapping[str, list[int]]]) -> None:
        generator = torch.Generator().manual_seed(self.seed + 1)
        for stream in self.contract.slots:
            slots = self.tensors[f"{stream}.mask"].shape[1]
            order = torch.randperm(slots, generator=generator).flip(0)
            losses, decided = self.all_of(self.rearrange.events(stream, order, slots))
            why = f"{stream} are a set: their order may not matter"
            self.same_losses(losses, self.losses, f"permuting {stream} changes the loss: {why}")
            for name, value in self.decided.items():
                expected = self.rearrange.indices(name, value, stream, order, slots)
                for axis in axes[name][stream]:
                    expected = expected.index_select(axis, order)
                self.same(
                    self.rearrange.canonical(name, decided[name]),
                    self.rearrange.canonical(name, expected),
                    f"permuting {stream} changes decode {name!r}: {why}",
                )

    def check_missing(self) -> None:
        if not self.targets:
            return
        why = "NaN, -1 and incomplete targets leave the loss; set valid = False"
        kinds = {self.wanted[name].kind for name in self.targets}
        nothing = self.without_targets(range(_EVENTS))
        self.whole.zero_grad()
        losses = self.loss(self.whole(nothing), nothing)
        for name, term in losses.items():
            require(
                bool(torch.isfinite(term.value).all()),
                f"{self.what}: loss {name!r} is not finite where no target exists: {why}",
            )
        counted = [name for name, term in losses.items() if term.valid.any()]
        # Of a topology it can be learnt that a particle is not there; the rest has nothing to say.
        require(
            not counted if kinds == {"target"} else len(counted) < len(losses),
            f"{self.what}: loss {counted} counts events without any target: {why}",
        )
        _total(losses).backward()
        require_gradients(
            dict(self.whole.named_parameters()),
            f"{self.what}: where no event has a target",
            all_used=False,
        )
        some = self.without_targets(_MISSING)
        others = torch.tensor([row for row in range(_EVENTS) if row not in _MISSING])
        rest = {name: value[others] for name, value in self.tensors.items()}
        with_them, without_them = self.gradient(some), self.gradient(rest)
        if kinds == {"target"}:
            for name, expected in without_them.items():
                self.same(
                    with_them[name],
                    expected,
                    f"events without a target change the gradient of {name}: {why}",
                )

    def gradient(self, tensors: Tensors) -> Tensors:
        self.whole.zero_grad()
        _total(self.loss(self.whole(tensors), tensors)).backward()
        found = {
            name: p.grad.clone() for name, p in self.whole.named_parameters() if p.grad is not None
        }
        self.whole.zero_grad()
        return found

    def check_gradients(self) -> None:
        # Moments of a batch normalisation move in training mode.
        before = {name: value.clone() for name, value in self.whole.state_dict().items()}
        self.whole.train()
        try:
            self.whole.zero_grad()
            _total(self.loss(self.whole(self.tensors), self.tensors)).backward()
            require_gradients(
                dict(self.whole.head.named_parameters()), f"{self.what}: a batch with targets"
            )
            backbone = dict(self.whole.backbone.named_parameters())
            require_gradients(backbone, f"{self.what}: backbone", all_used=False)
            require(
                any(p.grad is not None and bool((p.grad != 0).any()) for p in backbone.values()),
                f"{self.what}: no gradient reaches the backbone: the head learns from constants",
            )
        finally:
            self.whole.zero_grad()
            self.whole.eval()
            self.whole.load_state_dict(before)

    def check_reload(self) -> None:
        fresh = self.build(self.seed + 5)
        reload(self.whole, fresh, self.what)
        fresh.eval()
        with torch.no_grad():
            outputs = fresh(self.tensors)
            decided = fresh.head.decode(outputs)
            losses = fresh.head.loss(outputs, self.tensors)
        why = "something that was learnt is not among the parameters and buffers"
        for name, value in self.decided.items():
            self.same(decided[name], value, f"loaded again, decode {name!r} differs: {why}")
        self.same_losses(losses, self.losses, f"loaded again, the loss differs: {why}")

    def check_judgement(self) -> None:
        head, on = self.whole.head, f"{self.what}: on "
        plain = self.evaluation(weighted=False)
        order = np.random.default_rng(self.seed).permutation(len(plain))
        values = judge(head, plain, on + "events")
        moved = judge(head, _rows(plain, order), on + "the same events in another order")
        for key, value in values.items():
            have = moved.get(key, math.nan)
            require(
                math.isclose(value, have, rel_tol=1e-6, abs_tol=1e-9)
                or (math.isnan(value) and math.isnan(have)),
                f"{self.what}: metric {key!r} is {value} for events in one order, {have} in "
                "another",
            )
        train = self.evaluation(weighted=True, seed=self.seed + 8)
        both = replace(self.evaluation(weighted=True), train=train)
        weighted = on + "weighted events with others of the training split"
        judge(head, both, weighted)
        draw(head, both, weighted, save=True)
        nothing = {
            name: np.full_like(array, self.contract[name].fill) if name in self.targets else array
            for name, array in plain.targets.items()
        }
        for which, few in (
            ("events without targets", replace(plain, targets=nothing)),
            ("a single event", _rows(plain, order[:1])),
            ("no event", _rows(plain, order[:0])),
        ):
            judge(head, few, on + which)
            draw(head, few, on + which, save=False)

    def evaluation(self, *, weighted: bool, seed: int | None = None) -> Evaluation:
        batch = make_batch(self.contract, 3 * _EVENTS, self.seed + 7 if seed is None else seed)
        tensors = self.as_tensors(batch)
        with torch.no_grad():
            decided = self.decode(self.whole(tensors))
        arrays = {name: value.numpy() for name, value in tensors.items()}
        weight = np.asarray(batch["weight"], np.float64)
        weight[::7] *= -1
        learnt = {"target", "index", "process"}
        inputs = self.contract.inputs().tensors
        return Evaluation(
            event=self.event,
            contract=self.contract,
            predictions={name: value.numpy() for name, value in decided.items()},
            targets={n: a for n, a in arrays.items() if self.contract[n].kind in learnt},
            inputs={n: a for n, a in arrays.items() if n in inputs},
            weight=weight if weighted else np.ones(len(weight)),
            weighted=weighted,
            statistics=self.statistics,
        )

    def check_onnx(self) -> None:
        inputs = [
            (spec.name, tuple("=" if dim == "feature" else dim for dim in spec.dims))
            for spec in self.contract.inputs().tensors.values()
        ]
        names = [name for name, _ in inputs]

        def values(events: int, more: int) -> tuple[Tensor, ...]:
            slots = {name: int(size or 1) + more for name, size in self.contract.slots.items()}
            streams = set(slots)
            opened = {
                name: spec.model_copy(
                    update={
                        "shape": tuple(
                            slots[dim] if dim in streams else size
                            for dim, size in zip(spec.dims, spec.shape, strict=True)
                        )
                    }
                )
                for name, spec in self.contract.tensors.items()
            }
            contract = self.contract.model_copy(update={"tensors": opened})
            tensors = self.as_tensors(make_batch(contract, events, self.seed + events))
            return tuple(tensors[name] for name in names)

        check_export(
            _Decisions(self.whole, names),
            inputs,
            values(3, 0),
            [values(1, 1), values(7, 3)],
            list(self.decided),
            self.what,
            tolerance=10 * self.tolerance,
        )

    def without_targets(self, rows: Any) -> Tensors:  # noqa: ANN401  any index of events
        found = dict(self.tensors)
        for name in self.targets:
            spec = self.contract[name]
            if spec.kind in {"target", "index"}:
                value = found[name].clone()
                value[list(rows)] = spec.fill
                found[name] = value
        return found


def _total(losses: Mapping[str, LossTerm]) -> Tensor:
    """Sum of what counts; with a gradient even where nothing does."""
    total = torch.zeros((), requires_grad=True)
    for term in losses.values():
        total = total + torch.where(term.valid, term.value, 0.0).sum()
    return total


def _identical(first: Tensor, second: Tensor) -> bool:
    return torch.equal(torch.nan_to_num(first, nan=-9.0), torch.nan_to_num(second, nan=-9.0))


def _rows(evaluation: Evaluation, rows: Array) -> Evaluation:
    def take(arrays: Mapping[str, Array]) -> dict[str, Array]:
        return {name: array[rows] for name, array in arrays.items()}

    return replace(
        evaluation,
        predictions=take(evaluation.predictions),
        targets=take(evaluation.targets),
        inputs=take(evaluation.inputs),
        weight=evaluation.weight[rows],
        extra=take(evaluation.extra),
    )
