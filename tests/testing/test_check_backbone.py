from __future__ import annotations

import threading
from typing import ClassVar

import pytest
import torch
from pydantic import BaseModel
from torch import Tensor, nn

from hepset.interfaces.backbone import Backbone, BackboneConfig, Encoded, InputLayout, Inputs
from hepset.testing import check_backbone


class SumConfig(BackboneConfig):
    """Options of the toy."""

    width_of_sum: int = 8
    """Width of the embeddings."""


class SumBackbone(Backbone):
    """Sums objects; conforms unless it has a flaw."""

    Config: ClassVar[type[BackboneConfig]] = SumConfig
    config: SumConfig
    capabilities = frozenset({"condition", "extra_tokens"})
    flaw: ClassVar[str] = ""

    @property
    def width(self) -> int:
        return 0 if self.flaw == "no width" else self.config.width_of_sum

    def build(self, layout: InputLayout) -> None:
        width = self.config.width_of_sum
        if self.flaw == "unused":
            self.idle = nn.Linear(2, 2)
        self.embed = nn.ModuleDict(
            {
                f"{name}_": nn.Linear(n, width)
                for name, n in (*layout.streams.items(), *layout.globals.items())
            }
        )
        self.out = nn.Linear(width, width + (self.flaw == "too wide"))
        if self.flaw == "forgets":
            self.learnt = torch.randn(width)
        if self.flaw == "lock":
            self.lock = threading.Lock()
        self.seen = torch.zeros(width)

    def encode(
        self,
        x: Inputs,
        *,
        condition: Tensor | None = None,
        extra_tokens: Tensor | None = None,
    ) -> Encoded:
        hidden: dict[str, Tensor] = {}
        some = next(iter(x.masks.values()))
        event = torch.zeros(some.shape[0], self.config.width_of_sum)
        for name, mask in x.masks.items():
            y = torch.tanh(self.embed[f"{name}_"](x.streams[name]))
            if self.flaw == "position":
                y = y + 0.1 * torch.arange(mask.shape[1])[:, None]
            if self.flaw == "dropout":
                y = nn.functional.dropout(y, 0.5)
            if self.flaw != "sums padding":
                y = torch.where(mask[..., None], y, 0.0)
            total = y.sum(1)
            if self.flaw == "reads padding":
                total = total + 0.01 * x.streams[name].sum((1, 2))[:, None]
            if self.flaw == "mean over slots":
                total = total / mask.shape[1]
            if self.flaw == "nothing over nothing":
                total = total / mask.sum(1, keepdim=True)
            if self.flaw == "gradient of a root":
                length = ((y * self.out.weight[0]) ** 2).sum((1, 2)).sqrt()[:, None]
                total = torch.where(mask.any(1, keepdim=True), total / length, 0.0)
            event = event + total
            hidden[name] = y
        for name, present in x.global_masks.items():
            y = self.embed[f"{name}_"](x.globals[name])
            if self.flaw != "absent global":
                y = torch.where(present[:, None], y, 0.0)
            event = event + (0.0 if self.flaw == "no global" else y)
        if self.flaw == "batch mean":
            event = event - event.mean(0)
        if self.flaw == "forgets":
            event = event + self.learnt
        if condition is not None and self.flaw != "no condition":
            event = event + condition
        if self.flaw == "remembers":
            event = event + self.seen
            self.seen = self.seen + event.detach().mean(0)
        event = self.out(event)
        objects = {}
        for name, y in hidden.items():
            each = y[..., :1] + event[:, None]
            keep = x.masks[name][..., None] | (self.flaw == "filled padding")
            objects[name] = torch.where(keep, each, 0.0)
        extra = None
        if extra_tokens is not None and self.flaw != "no tokens":
            extra = extra_tokens + (0.0 if self.flaw == "blind tokens" else event[:, None])
        p4 = {} if self.flaw == "no momenta" else x.p4
        return Encoded(objects, x.masks, event, p4, extra)


def test_a_conforming_backbone_passes() -> None:
    check_backbone(SumBackbone, {"width_of_sum": 5})


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        ("no width", "width is 0; it has to be known before build"),
        ("too wide", r"has the shape \(5, 6, 9\) instead of \(5, 6, 8\)"),
        ("nothing over nothing", r"not finite in 1 events \(an event without objects\)"),
        ("filled padding", r"objects\['jets'\] is not 0 in padded slots"),
        ("no momenta", r"p4\['jets'\] of the inputs is not handed on"),
        ("dropout", "event differs when asked twice"),
        ("remembers", "event differs when asked twice"),
        ("position", "event depends on the order of jets: objects are a set"),
        ("sums padding", "event depends on padded slots of jets that hold 0"),
        ("reads padding", "event depends on padded slots of jets that hold 300"),
        ("mean over slots", "event depends on padded slots of jets that hold 0"),
        ("absent global", "depends on what the absent global 'met' holds"),
        ("no global", "does not depend on the global 'met'"),
        ("batch mean", "event differs for event 0 alone"),
        ("no condition", "the condition changes nothing"),
        ("no tokens", "extra_tokens do not come back"),
        ("blind tokens", "extra does not depend on jets"),
        ("unused", "no gradient reaches idle.weight, idle.bias"),
        ("gradient of a root", "events without objects: the gradient of .* is not finite"),
        ("forgets", "event differs when loaded again"),
        ("lock", "cannot be pickled .* keep open files"),
        ("promises", "capabilities holds 'memory'; there are condition and extra_tokens"),
    ],
)
def test_a_flaw_is_named(flaw: str, message: str) -> None:
    claims = {"memory"} if flaw == "promises" else SumBackbone.capabilities
    broken = type("Broken", (SumBackbone,), {"flaw": flaw, "capabilities": frozenset(claims)})
    with pytest.raises(AssertionError, match=message):
        check_backbone(broken)


@pytest.mark.parametrize("flaw", ["no condition", "no tokens", "blind tokens"])
def test_what_is_not_claimed_is_not_asked(flaw: str) -> None:
    claims = {"condition", "extra_tokens"} - {
        "condition" if "condition" in flaw else "extra_tokens"
    }
    cls = type("Claiming", (SumBackbone,), {"flaw": flaw, "capabilities": frozenset(claims)})
    check_backbone(cls)


def test_options_that_take_anything_are_refused() -> None:
    class Loose(BaseModel):
        width: int = 4

    broken = type("Broken", (SumBackbone,), {"Config": Loose})
    with pytest.raises(AssertionError, match="is no subclass of BackboneConfig"):
        check_backbone(broken)

    class Bare(BackboneConfig):
        width_of_sum: int = 4

    broken = type("Broken", (SumBackbone,), {"Config": Bare})
    with pytest.raises(AssertionError, match="not described: width_of_sum"):
        check_backbone(broken)


class Branching(SumBackbone):
    """Asks for the number of objects, which a graph cannot."""

    def encode(
        self,
        x: Inputs,
        *,
        condition: Tensor | None = None,
        extra_tokens: Tensor | None = None,
    ) -> Encoded:
        encoded = super().encode(x, condition=condition, extra_tokens=extra_tokens)
        if bool(x.masks["jets"].any()):
            return encoded
        return Encoded(encoded.objects, encoded.masks, encoded.event, encoded.p4, encoded.extra)


@pytest.mark.slow
def test_export() -> None:
    layouts = [InputLayout(streams={"jets": 3}, globals={"met": 2})]
    check_backbone(SumBackbone, layouts=layouts, onnx=True)
    with pytest.raises(AssertionError, match="cannot be exported to ONNX"):
        check_backbone(Branching, layouts=layouts, onnx=True)
