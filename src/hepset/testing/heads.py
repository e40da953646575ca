"""`check_head`: what it means to be a head."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hepset.backbones.transformer import TransformerBackbone, TransformerConfig
from hepset.batch import EventBatch
from hepset.errors import ConfigurationError
from hepset.interfaces.backbone import Backbone, LossTerm
from hepset.interfaces.component import parse_options
from hepset.interfaces.head import (
    EncoderHandle,
    Evaluation,
    Head,
    HeadConfig,
    head_losses,
)
from hepset.model.input_transform import InputTransform
from hepset.schema.contract import Contract, compile_contract
from hepset.schema.event import ASSIGNMENT, EventInfo
from hepset.testing.batches import make_batch, make_event_info, make_statistics, resolved
from hepset.testing.conditions import check_options, require, require_subclass
from hepset.testing.judgement import draw, judge
from hepset.testing.modules import (
    pickled,
    reload,
    require_close,
    require_gradients,
    seeded,
    shake,
)
from hepset.testing.properties import Tensors, Trial
from hepset.testing.rearrangement import Rearrangement, in_order_of_rows, renumbered

__all__ = ["check_head", "small_backbone"]

Array = NDArray[Any]

_NAME = "tested_head"
_EVENTS = 24
_EMPTY = 1
_MISSING = (3, 6)


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
    * No event depends on the others of its batch, nor on what was computed before. Permuting
      objects changes no loss and no decision on the event, and permutes those on objects; padding
      changes nothing. Fields that the head calls ``partitions`` may number their groups in any
      order, those of ``sets`` may come in any order.
    * An event whose target is missing counts in no loss and moves no weight; where no event has
      one, no gradient is NaN.
    * A finite gradient reaches every parameter.
    * Weights that are stored and loaded again, and a pickled copy, decide the same.
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
        handle = EncoderHandle(self.transform, self.backbone, inputs, tensors)
        outputs: Tensors = self.head(self.backbone(inputs), handle)
        return outputs

    def losses(self, outputs: Tensors, tensors: Tensors) -> dict[str, LossTerm]:
        """Ask the head; a loss that encodes again gets a handle on these events."""
        handle = EncoderHandle(self.transform, self.backbone, self.transform(tensors), tensors)
        return head_losses(self.head, outputs, tensors, handle)


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
        batch = make_batch(self.contract, _EVENTS, seed, empty=(_EMPTY,))
        self.statistics = make_statistics(self.contract, batch)
        self.whole = self.build(seed)
        self.whole.eval()
        self.tensors = self.as_tensors(batch)
        slots = {name: self.tensors[f"{name}.mask"].shape[1] for name in self.contract.slots}
        self.rearrange = Rearrangement(event, self.contract, slots)
        self.targets = [name for name in self.wanted.tensors if name in self.tensors]
        self.trial = Trial(
            self.what,
            self.outputs,
            self.tensors,
            {name: self.contract[name].dims for name in self.tensors},
            slots,
            {
                name: self.contract[name].fill
                for name in self.tensors
                if self.contract[name].kind in {"mask", "target", "index"}
            },
            _EMPTY,
            tolerance,
            point=self.rearrange.point,
            expect=lambda label, *rest: self.rearrange.point(_assigned(label), *rest),
            canonical=self.canonical,
        )

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
            head.event_width = backbone.event_width
            head.build(self.contract, self.statistics, backbone.width)
            shake(backbone)
            shake(head)
        return _Whole(transform, backbone, head)

    def run(self, *, onnx: bool) -> None:
        self.check_terms()
        trial = self.trial.started()
        trial.finite()
        trial.repeatable()
        # Padding tells which axes of the decisions count objects; the permutation needs them.
        trial.order(trial.padding(), self.seed + 1)
        trial.independent((0, _EMPTY, 2, _MISSING[0]))
        trial.repeatable("other events were computed in between")
        self.check_missing()
        self.check_gradients()
        self.check_copies(trial)
        self.check_judgement()
        if onnx:
            graph = replace(trial, run=self.decisions)
            graph.started().export(self.whole, list(self.contract.inputs().tensors))

    # --- what is computed ---------------------------------------------------------------------

    def as_tensors(self, batch: EventBatch) -> Tensors:
        found = {}
        for name, spec in self.contract.tensors.items():
            array = batch.get(name)
            if array is not None:
                found[name] = torch.from_numpy(np.array(array, spec.dtype))
        return found

    def decisions(self, tensors: Tensors) -> Tensors:
        found = self.whole.head.decode(self.whole(tensors))
        return {f"decode {name!r}": value for name, value in found.items()}

    def outputs(self, tensors: Tensors, whole: _Whole | None = None) -> Tensors:
        """Losses where they count, and decisions."""
        whole = whole or self.whole
        outputs = whole(tensors)
        decided = whole.head.decode(outputs)
        found = {f"decode {name!r}": value for name, value in decided.items()}
        for name, term in whole.losses(outputs, tensors).items():
            found[f"loss {name!r}"] = torch.where(term.valid, term.value, 0.0)
            found[f"loss {name!r}: valid"] = term.valid
        return found

    def canonical(self, outputs: Tensors) -> Tensors:
        """Outputs with one order for what has none: products, groups, members of sets."""
        found = {
            label: self.rearrange.canonical(_assigned(label), value)
            for label, value in outputs.items()
        }
        for prediction in self.whole.head.predictions(self.event):
            labels = [f"decode {field!r}" for field in prediction.fields.values()]
            mine = {label: found[label] for label in labels if label in found}
            if prediction.kind == "sets" and mine:
                found |= in_order_of_rows(mine)
            elif prediction.kind == "partitions":
                whole = {n: v for n, v in mine.items() if not v.is_floating_point()}
                found |= {name: renumbered(value) for name, value in whole.items()}
        return found

    # --- the properties -----------------------------------------------------------------------

    def check_terms(self) -> None:
        """Outputs, losses and decisions are of the kinds that the interface states."""
        with torch.no_grad():
            outputs = self.whole(self.tensors)
            copies = {name: value.clone() for name, value in self.tensors.items()}
            losses = self.whole.losses(outputs, copies)
            decided = self.whole.head.decode(outputs)
        for kind, found in (("forward", outputs), ("decode", decided)):
            require(
                isinstance(found, dict) and found,
                f"{self.what}: {kind} gives {type(found).__name__} without tensors",
            )
            labelled = {f"{kind} {name!r}": value for name, value in found.items()}
            replace(self.trial, reference=labelled).finite()
        for name in decided:
            require(
                re.fullmatch(r"[^/\s][^\s]*", name),
                f"{self.what}: decode: {name!r} cannot be part of a column name <head>/{name}",
            )
        require(losses, f"{self.what}: loss gives no named term")
        for name, term in losses.items():
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

    def check_missing(self) -> None:
        # Truth values have none that means missing.
        if not any(self.contract[name].dtype != "bool" for name in self.targets):
            return
        why = "NaN, -1 and incomplete targets leave the loss; set valid = False"
        kinds = {self.wanted[name].kind for name in self.targets}
        nothing = self.without_targets(range(_EVENTS))
        self.whole.zero_grad()
        losses = self.whole.losses(self.whole(nothing), nothing)
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
                # Gradients are sums over events: rounding is relative to the largest.
                scale = max(float(expected.abs().max()), 1.0)
                require_close(
                    with_them[name] / scale,
                    expected / scale,
                    f"{self.what}: events without a target change the gradient of {name}: {why}",
                    tolerance=self.tolerance,
                )

    def gradient(self, tensors: Tensors) -> Tensors:
        self.whole.zero_grad()
        _total(self.whole.losses(self.whole(tensors), tensors)).backward()
        found = {
            name: p.grad.clone() for name, p in self.whole.named_parameters() if p.grad is not None
        }
        self.whole.zero_grad()
        return found

    def check_gradients(self) -> None:
        # Moments of a batch normalisation move in training mode.
        before = {name: value.clone() for name, value in self.whole.state_dict().items()}
        self.whole.train()
        self.whole.zero_grad()
        _total(self.whole.losses(self.whole(self.tensors), self.tensors)).backward()
        self.whole.eval()
        self.whole.load_state_dict(before)
        require_gradients(
            dict(self.whole.head.named_parameters()),
            f"{self.what}: a batch with targets",
        )
        backbone = dict(self.whole.backbone.named_parameters())
        require_gradients(backbone, f"{self.what}: backbone", all_used=False)
        require(
            any(p.grad is not None for p in backbone.values()),
            f"{self.what}: no gradient reaches the backbone: the head learns from constants",
        )
        self.whole.zero_grad()

    def check_copies(self, trial: Trial) -> None:
        fresh = self.build(self.seed + 5)
        reload(self.whole, fresh, self.what)
        parts = (self.whole.transform, self.whole.backbone, pickled(self.whole.head, self.what))
        copy = _Whole(*parts).eval()  # type: ignore[arg-type]
        for how, whole, why in (
            ("loaded again", fresh.eval(), "something that was learnt is no parameter or buffer"),
            ("pickled", copy, "its state is not complete"),
        ):
            with torch.no_grad():
                found = self.outputs(self.tensors, whole)
            trial.compare(found, f"differs when {how}: {why}")

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
            decided = self.whole.head.decode(self.whole(tensors))
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

    def without_targets(self, rows: Sequence[int]) -> Tensors:
        found = dict(self.tensors)
        for name in self.targets:
            spec = self.contract[name]
            if spec.kind in {"target", "index"} and spec.dtype != "bool":
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


def _assigned(label: str) -> str:
    """Tensor whose indices a decision would hold, if it is one of an assignment."""
    return ASSIGNMENT + label.removeprefix("decode ").strip("'")


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
