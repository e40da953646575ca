"""What a backbone may offer beside embeddings, and what the handle gives a head."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hepset.errors import ConfigurationError
from hepset.interfaces.backbone import Backbone, Encoded, InputLayout, Inputs, LossTerm
from hepset.interfaces.head import EncoderHandle, Head, head_losses
from hepset.model import Model, build_model
from hepset.plugins import registry
from hepset.schema.config import ModelConfig, TrainConfig, TrainExecution
from hepset.schema.contract import Contract, compile_contract
from hepset.schema.event import EventInfo
from hepset.schema.statistics import Statistics
from hepset.training.fit import fit

EVENT = EventInfo.model_validate(
    {
        "streams": {"jets": {"slots": 3, "features": {"pt": {"transform": "log1p"}}}},
        "targets": {
            "signal": {"kind": "classification", "classes": ["no", "yes"]},
            "tag": {"kind": "classification", "stream": "jets", "classes": ["no", "yes"]},
        },
    }
)


class Wide(Backbone):
    """Objects of width 4, an event of width 6, and a loss of its own."""

    width = 4
    event_width = 6

    def build(self, layout: InputLayout) -> None:
        self.each = nn.Linear(layout.streams["jets"], 4)
        self.all = nn.Linear(layout.streams["jets"], 6)

    def encode(self, x: Inputs, **_: object) -> Encoded:
        jets, mask = x.streams["jets"], x.masks["jets"]
        size = self.all.weight.square().sum()
        return Encoded(
            objects={"jets": self.each(jets) * mask[..., None]},
            masks=x.masks,
            event=self.all(jets.sum(1)),
            losses={"size": LossTerm(size.expand(len(jets)), torch.ones(len(jets)) > 0)},
        )


class Narrow(Head):
    """Believes that events are as wide as objects."""

    def contract(self, event: EventInfo) -> Contract:
        del event
        return Contract(tensors={})

    def build(self, contract: Contract, statistics: Statistics, width: int) -> None:
        del contract, statistics
        self.network = nn.Linear(width, 1)

    def forward(self, encoded: Encoded, encoder: EncoderHandle) -> dict[str, Tensor]:
        return {"x": self.network(encoded.event)[:, 0], "pt": encoder.physical["jets"].sum((1, 2))}

    def loss(  # type: ignore[override]  # a loss with the encoder
        self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor], encoder: EncoderHandle
    ) -> dict[str, LossTerm]:
        del targets
        twice = encoder(encoder.inputs.repeat(2)).event
        value = self.network(twice)[::2, 0] - outputs["x"] + outputs["pt"]
        return {"same": LossTerm(value, torch.ones(len(value)) > 0)}

    def decode(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"x": outputs["x"]}


@pytest.fixture
def components(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {("backbones", "wide"): Wide, ("heads", "narrow"): Narrow}
    choose = type(registry()).choose

    def with_ours(self: Any, kind: str, options: Any, *args: Any, **kwargs: Any) -> Any:
        component = known.get((kind, options["name"] if isinstance(options, Mapping) else options))
        if component is None:
            return choose(self, kind, options, *args, **kwargs)
        return component, {k: v for k, v in options.items() if k != "name"}

    monkeypatch.setattr(type(registry()), "choose", with_ours)
    monkeypatch.setattr(Model, "_versions", lambda _: {})


HEADS = {
    "signal": {"name": "classification", "target": "signal"},
    "tag": {"name": "classification", "target": "tag"},
}


def make(backbone: Mapping[str, Any], **heads: Mapping[str, Any]) -> Model:
    config = ModelConfig.model_validate({"backbone": backbone, "heads": heads})
    return build_model(config, EVENT, compile_contract(EVENT), Statistics())


def make_batch(events: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    mask = torch.rand(events, 3, generator=generator) < 0.7
    return {
        "jets": torch.rand(events, 3, 1, generator=generator) * 50 * mask[..., None],
        "jets.mask": mask,
        "target/signal": torch.arange(events) % 2,
        "target/tag": torch.where(mask, 1, -1),
    }


@pytest.mark.usefixtures("components")
def test_heads_are_told_both_widths_and_the_backbone_s_losses_are_shown() -> None:
    model = make({"name": "wide"}, **HEADS)
    batch = make_batch()
    terms = model.losses_of(batch)
    assert list(terms) == ["signal/cross_entropy", "tag/cross_entropy", "backbone/size"]
    size = model.backbone.get_parameter("all.weight").square().sum()
    torch.testing.assert_close(terms["backbone/size"].value, size.expand(5))
    outputs = model(batch)
    for name, term in model.losses(batch, outputs).items():
        torch.testing.assert_close(term.value, terms[name].value)


@pytest.mark.usefixtures("components")
def test_a_head_that_knows_one_width_is_refused_with_a_reason() -> None:
    with pytest.raises(ConfigurationError, match=r"model\.heads\.x: Narrow .* \(4\), .* gives 6"):
        make({"name": "wide"}, x={"name": "narrow"})


@pytest.mark.usefixtures("components")
def test_a_loss_may_encode_again_and_sees_physical_values() -> None:
    small = {"name": "transformer", "width": 8, "depth": 1, "attention_heads": 2}
    model = make(small, x={"name": "narrow"}).eval()
    batch = make_batch()
    (term,) = model.losses_of(batch).values()
    torch.testing.assert_close(term.value, batch["jets"].sum((1, 2)), rtol=1e-4, atol=1e-4)
    with pytest.raises(ConfigurationError, match="'x' encodes again"):
        head_losses(model.head("x"), model(batch)["x"], batch, None)


def test_inputs_are_taken_and_repeated_as_a_whole() -> None:
    batch = make_batch()
    x = Inputs(
        {"jets": batch["jets"]},
        {"jets": batch["jets.mask"]},
        p4={"jets": batch["jets"].expand(-1, -1, 4)},
    )
    twice = x.repeat(2)
    assert torch.equal(twice.streams["jets"], batch["jets"][[0, 0, 1, 1, 2, 2, 3, 3, 4, 4]])
    taken = x.take(torch.tensor([3, 0]))
    assert torch.equal(taken.masks["jets"], batch["jets.mask"][[3, 0]])
    assert taken.p4["jets"].shape == (2, 3, 4)
    assert taken.globals == {}


@pytest.mark.usefixtures("components")
def test_losses_of_the_backbone_are_weighted_and_in_the_history(
    write_dataset: Any, tmp_path: Path
) -> None:
    def arrays(events: int) -> dict[str, np.ndarray]:
        return {name: tensor.numpy() for name, tensor in make_batch(events).items()}

    dataset = write_dataset(EVENT, {"train": arrays(40), "val": arrays(20)})
    config = TrainConfig.model_validate(
        {
            "epochs": 1, "batch_size": 20, "progress": False,
            "stages": [{"name": "all", "epochs": 1, "loss_weights": {"backbone": 0.25}}],
        }
    )  # fmt: skip
    model = ModelConfig.model_validate({"backbone": {"name": "wide"}, "heads": HEADS})
    execution = TrainExecution(accelerator="cpu", devices=1, threads=1)
    fit(model, dataset, config, execution=execution, seed=1, directory=tmp_path)
    (record,) = json.loads((tmp_path / "logs" / "history.json").read_text())
    heads = record["val/signal/cross_entropy"] + record["val/tag/cross_entropy"]
    assert record["val/loss"] == pytest.approx(heads + 0.25 * record["val/backbone/size"])


@pytest.fixture(autouse=True)
def _generator() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
