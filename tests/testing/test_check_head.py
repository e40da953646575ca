from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from typing import Any, ClassVar

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hepset.errors import ConfigurationError
from hepset.interfaces.backbone import Encoded
from hepset.interfaces.head import (
    Drawing,
    EncoderHandle,
    Evaluation,
    Head,
    HeadConfig,
    LossTerm,
    Metric,
)
from hepset.interfaces.judge import Prediction
from hepset.schema.contract import Contract, target_spec
from hepset.schema.event import EventInfo
from hepset.schema.statistics import Statistics
from hepset.testing import check_head, make_event_info
from hepset.testing.modules import require_gradients

# This head judges itself, as heads did before there were judges.
pytestmark = pytest.mark.filterwarnings("ignore:.*is deprecated. a head states:DeprecationWarning")


class MassConfig(HeadConfig):
    """Options of the toy."""

    target: str = "m_ttbar"
    """Target of kind regression, one number per event."""


class MassHead(Head):
    """Learns a number from the sum of the jets, and scores them; conforms unless it has a flaw."""

    Config: ClassVar[type[HeadConfig]] = MassConfig
    config: MassConfig
    flaw: ClassVar[str] = ""

    def contract(self, event: EventInfo) -> Contract:
        name = self.config.target
        if name not in event.targets:
            if self.flaw == "takes anything":
                return Contract()
            if self.flaw == "wrong error":
                raise KeyError(name)
            raise ConfigurationError(f"no target {name!r}")
        who = "somebody" if self.flaw == "anonymous" else self.name
        spec = target_spec(event, name, wanted_by=who)
        required = self.flaw != "optional"
        return Contract(tensors={spec.name: spec.model_copy(update={"required": required})})

    def build(self, contract: Contract, statistics: Statistics, width: int) -> None:
        del contract
        found = statistics.tensors[f"target/{self.config.target}"].columns[""]
        self.mean, self.spread = found.mean, found.width
        self.network = nn.Linear(2 * width, 1)
        self.score = nn.Linear(width, 1)
        if self.flaw == "unused":
            self.idle = nn.Linear(2, 2)
        if self.flaw == "forgets":
            self.learnt = torch.randn(1)
        if self.flaw == "lock":
            self.lock = threading.Lock()
        self.calls = 0

    def forward(self, encoded: Encoded, encoder: EncoderHandle) -> dict[str, Tensor]:
        del encoder
        jets, mask = encoded.objects["jets"], encoded.masks["jets"]
        if self.flaw == "leaks padding":
            total = jets.mean(1)
        elif self.flaw == "reads padding":
            total = jets.sum(1) + 1e-3 * (~mask).sum(1, keepdim=True)
        elif self.flaw == "first jet":
            total = jets[:, 0]
        elif self.flaw == "mean of nothing":
            total = jets.sum(1) / mask.sum(1, keepdim=True)
        else:
            total = jets.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)
        if self.flaw == "batch mean":
            total = total - total.mean(0)
        event = encoded.event
        if self.flaw == "constants":
            event, total, jets = event.detach(), total.detach(), jets.detach()
        out = self.network(torch.cat([event, total], 1))[:, 0]
        if self.flaw == "forgets":
            out = out + self.learnt
        if self.flaw == "remembers":
            self.calls += 1
            out = out + 0.1 * self.calls
        scores = torch.where(mask, self.score(jets)[..., 0], 0.0)
        if self.flaw == "order of scores":
            scores = torch.where(mask, scores.cumsum(1), 0.0)
        # The scores are learnt together with the mass: their sum is added.
        return {"mean": out + 0.1 * scores.sum(1), "scores": scores}

    def loss(
        self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> dict[str, LossTerm]:
        target = targets[f"target/{self.config.target}"]
        valid = ~torch.isnan(target)
        scaled = (target - self.mean) / self.spread
        if self.flaw == "missing is zero":
            scaled, valid = torch.where(valid, scaled, 0.0), torch.ones_like(valid)
        if self.flaw == "NaN value":
            return {"mse": LossTerm((outputs["mean"] - scaled) ** 2, valid)}
        if self.flaw == "NaN gradient":
            value = torch.where(valid, (outputs["mean"] - scaled) ** 2, 0.0)
            return {"mse": LossTerm(value, valid)}
        if self.flaw == "scalar":
            value = ((outputs["mean"] - scaled)[valid] ** 2).mean()
            return {"mse": LossTerm(value, valid)}
        if self.flaw == "overwrites":
            target.nan_to_num_(0.0)
        value = (outputs["mean"] - torch.where(valid, scaled, 0.0)) ** 2
        value = torch.where(valid, value, 0.0)
        if self.flaw == "divides by the batch":
            value = value / valid.sum()
        return {"mse": LossTerm(value, valid)}

    def decode(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        mass = outputs["mean"] * self.spread + self.mean
        if self.flaw == "list":
            return {"mass": mass.tolist()}  # type: ignore[dict-item]
        if self.flaw == "transposed":
            return {"mass": mass[None]}
        if self.flaw == "python":
            # torch's exporter cannot follow the number out and back.
            mass = mass + float(np.float64(mass.detach().sum().item()) * 0)
        return {"mass": mass, "score": torch.sigmoid(outputs["scores"]) * (outputs["scores"] != 0)}

    def metrics(self, evaluation: Evaluation) -> list[Metric]:
        truth = evaluation.targets[f"target/{self.config.target}"]
        good = np.isfinite(truth)
        if self.flaw == "metrics raise":
            np.quantile(truth[good], 0.5, method="nearest").item() / (0 if not good.any() else 1)
        if not good.any():
            return []
        difference = evaluation.predictions["mass"][good].astype(float) - truth[good]
        value = float(np.abs(difference).mean())
        if self.flaw == "depends on order":
            value = float(np.abs(difference[: len(difference) // 2]).mean())
        error = float(np.abs(difference).std() / math.sqrt(len(difference)))
        if self.flaw == "unseeded":
            error = float(np.random.default_rng().random())
        if self.flaw == "negative error":
            error = -1.0
        name = "mean distance"
        of = "me" if self.flaw == "claims" else ""
        return [Metric(name, value, error, "GeV", "lower", of)]

    def baselines(self, evaluation: Evaluation) -> list[Metric]:
        mine = self.metrics(evaluation)
        name = "other number" if self.flaw == "stray baseline" else "mean distance"
        better: Any = "higher" if self.flaw == "other way" else "lower"
        of = "" if self.flaw == "nobody's baseline" else "always the mean"
        return [Metric(name, m.value, m.error, "GeV", better, of) for m in mine]

    def figures(self, evaluation: Evaluation) -> list[Drawing]:
        figure, axes = plt.subplots()
        axes.hist(evaluation.predictions["mass"])
        if self.flaw == "leaves figures":
            plt.figure()
        caption = "" if self.flaw == "no caption" else "Predicted masses."
        name = "a/b" if self.flaw == "path" else "masses"
        drawing = Drawing(name, "Masses", caption, figure)
        return [drawing, drawing] if self.flaw == "twice" else [drawing]


def test_a_conforming_head_passes() -> None:
    check_head(MassHead)


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        ("anonymous", "target/m_ttbar is wanted by .*somebody"),
        ("optional", "the target target/m_ttbar is not required"),
        ("takes anything", "contract accepts an event that does not declare the target"),
        ("wrong error", "raises KeyError .* not ConfigurationError"),
        ("list", "decode 'mass' is a list, not a tensor"),
        ("transposed", "decode 'mass' has the shape .*: the first axis is the event"),
        ("mean of nothing", r"not finite in 1 events \(an event without objects\)"),
        ("scalar", r"value has the shape \(\) instead of \(24,\)"),
        ("overwrites", "changes the tensor target/m_ttbar"),
        ("NaN value", "loss 'mse' is not finite"),
        ("batch mean", "decode 'mass' differs for event 0 alone"),
        ("divides by the batch", "loss 'mse' differs for event 0 alone"),
        ("leaks padding", "depends on padded slots of jets"),
        ("reads padding", "depends on padded slots of jets"),
        ("first jet", "depends on the order of jets"),
        ("order of scores", "depends on the order of jets"),
        ("missing is zero", "counts events without any target"),
        ("NaN gradient", "where no event has a target: the gradient of .* is not finite"),
        ("lock", "cannot be pickled .* keep open files"),
        ("remembers", "decode 'mass' differs when asked twice"),
        ("unused", "no gradient reaches idle.weight, idle.bias"),
        ("constants", "no gradient reaches the backbone"),
        ("forgets", "decode 'mass' differs when loaded again"),
        ("metrics raise", "on events without targets metrics or baselines raise IndexError"),
        ("depends on order", "metric 'mean distance' is .* in another"),
        ("unseeded", "metrics differ from call to call: seed the bootstrap"),
        ("negative error", "the error -1.0 < 0"),
        ("claims", "is said to be of 'me'"),
        ("stray baseline", "baselines .'other number'. have no metric of the same name"),
        ("other way", "baseline 'mean distance' has unit and direction"),
        ("nobody's baseline", "does not say whose it is"),
        ("leaves figures", "leaves 1 figures open"),
        ("no caption", "figure 'masses' has no caption"),
        ("path", "figure 'a/b': the name becomes that of a file"),
        ("twice", "two figures have one name"),
    ],
)
def test_a_flaw_is_named(flaw: str, message: str) -> None:
    broken = type("Broken", (MassHead,), {"flaw": flaw})
    with pytest.raises(AssertionError, match=message):
        check_head(broken)
    assert not plt.get_fignums()


class NearestConfig(HeadConfig):
    """Options of the toy."""


class PairHead(Head):
    """Assigns by a linear score of every jet; conforms unless it has a flaw."""

    Config: ClassVar[type[HeadConfig]] = NearestConfig
    flaw: ClassVar[str] = ""

    def contract(self, event: EventInfo) -> Contract:
        from hepset.schema.contract import compile_contract

        specs = [s for s in compile_contract(event).of_kind("index") if s.name.endswith("/h1")]
        if not specs:
            raise ConfigurationError("no particle h1")
        update = {"required": True, "wanted_by": (self.name,)}
        return Contract(tensors={s.name: s.model_copy(update=update) for s in specs})

    def build(self, contract: Contract, statistics: Statistics, width: int) -> None:
        del statistics
        self.tensor = next(s.name for s in contract.of_kind("index") if s.name.endswith("/h1"))
        self.score = nn.Linear(width, 1)

    def forward(self, encoded: Encoded, encoder: EncoderHandle) -> dict[str, Tensor]:
        del encoder
        return {
            "scores": self.score(encoded.objects["jets"])[..., 0],
            "mask": encoded.masks["jets"],
        }

    def loss(
        self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> dict[str, LossTerm]:
        index, mask = targets[self.tensor], outputs["mask"]
        valid = (index >= 0).all(1)
        safe = torch.where(mask, outputs["scores"], -1e4)
        log = torch.log_softmax(safe, -1)
        picked = log.gather(1, index.clamp(min=0)).sum(1)
        return {"pair": LossTerm(torch.where(valid, -picked, 0.0), valid)}

    def decode(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        scores = torch.where(outputs["mask"], outputs["scores"], float("-inf"))
        best = scores.topk(2, 1)
        index = torch.where(torch.isinf(best.values), -1, best.indices)
        if self.flaw == "slots":
            index = torch.tensor([[0, 1]]).expand_as(index).clone()
        elif self.flaw != "by score":
            index = index.sort(1).values
        return {self.tensor.removeprefix("target/assignment/"): index}


PAIRS = make_event_info(processes=2)


def test_indices_follow_their_objects() -> None:
    """The order of two interchangeable products is free, what they point at is not."""
    check_head(PairHead, event=PAIRS)
    check_head(type("ByScore", (PairHead,), {"flaw": "by score"}), event=PAIRS)
    broken = type("Broken", (PairHead,), {"flaw": "slots"})
    with pytest.raises(AssertionError, match="decode 'process1/h1' depends on the order of jets"):
        check_head(broken, event=PAIRS)


class GroupHead(MassHead):
    """Groups of jets, numbered as they come, and two vectors in no order."""

    kinds: ClassVar[tuple[str, ...]] = ("partitions", "sets")

    def predictions(self, event: EventInfo) -> list[Any]:
        del event
        fields = {"partitions": {"label": "vertex"}, "sets": {"members": "vectors"}}
        return [
            Prediction(kind, fields=fields[kind], axes=("event", "jets")) for kind in self.kinds
        ]

    def forward(self, encoded: Encoded, encoder: EncoderHandle) -> dict[str, Tensor]:
        real = encoded.masks["jets"]
        return {**super().forward(encoded, encoder), "jets": encoded.objects["jets"], "real": real}

    def decode(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        real, first = outputs["real"], outputs["jets"][..., 0]
        mean = torch.where(real, first, 0.0).sum(1) / real.sum(1).clamp(min=1)
        positive = first > mean[:, None]
        if self.flaw == "slots":
            positive = torch.arange(real.shape[1]).expand_as(real) % 2 == 0
        # The group of the first real jet is 0.
        first = positive.gather(1, real.int().argmax(1, keepdim=True))
        groups = torch.where(real, (positive != first).long(), -1)
        best = torch.where(real, outputs["jets"][..., 1], float("-inf")).topk(2, 1).indices
        rows = best.sort(1).values[..., None].expand(-1, -1, outputs["jets"].shape[2])
        vectors = outputs["jets"].gather(1, rows)
        return {**super().decode(outputs), "vertex": groups, "vectors": vectors}


def test_partitions_and_sets_have_no_order() -> None:
    check_head(GroupHead)
    for flaw, kinds, message in (
        ("slots", ("partitions", "sets"), "decode 'vertex' depends on the order of jets"),
        ("", ("sets",), "decode 'vertex' depends on the order of jets"),
        ("", ("partitions",), "decode 'vectors' depends on the order of jets"),
    ):
        broken = type("Broken", (GroupHead,), {"flaw": flaw, "kinds": kinds})
        with pytest.raises(AssertionError, match=message):
            check_head(broken)


def test_a_gradient_that_is_zero_is_a_gradient() -> None:
    """That of a bias in front of a softmax is zero but for rounding: either has to pass."""
    bias, idle = nn.Parameter(torch.zeros(1)), nn.Parameter(torch.zeros(1))
    for gradient in (0.0, 1e-9):
        bias.grad = torch.tensor([gradient])
        require_gradients({"bias": bias}, "toy")
    with pytest.raises(AssertionError, match="no gradient reaches idle:"):
        require_gradients({"bias": bias, "idle": idle}, "toy")
    bias.grad = torch.tensor([math.nan])
    with pytest.raises(AssertionError, match="the gradient of bias is not finite"):
        require_gradients({"bias": bias}, "toy")


@pytest.mark.slow
def test_export() -> None:
    check_head(MassHead, onnx=True)
    broken = type("Broken", (MassHead,), {"flaw": "python"})
    with pytest.raises(AssertionError, match="cannot be exported to ONNX"):
        check_head(broken, onnx=True)
