"""A small event, heads that are quick, and an untrained model of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hepset.batch import EventBatch, FlatStream, make_ids
from hepset.dataset import Dataset
from hepset.interfaces.backbone import Encoded
from hepset.interfaces.head import EncoderHandle, Head, LossTerm
from hepset.interfaces.judge import Drawing, Judge, Metric, Prediction
from hepset.model import Model, build_model
from hepset.plugins import Component, hookimpl, registry
from hepset.schema.config import ModelConfig
from hepset.schema.contract import Contract, compile_contract, target_spec
from hepset.schema.event import EventInfo
from hepset.schema.statistics import ColumnStatistics, LabelCounts, Statistics, TensorStatistics

EVENT = {
    "streams": {
        "jets": {
            "slots": 6,
            "features": {
                "pt": {"unit": "GeV", "transform": ["log1p", "standardise"]},
                "eta": {},
                "phi": {"unit": "rad", "transform": "circular"},
                "mass": {"unit": "GeV", "transform": "log1p"},
            },
        }
    },
    "globals": {"met": {"features": {"pt": {"unit": "GeV", "transform": "log1p"}}}},
    "targets": {
        "signal": {"kind": "classification", "classes": ["background", "signal"]},
        "m_top": {"kind": "regression", "unit": "GeV"},
    },
}


class ToyHead(Head):
    """Class probabilities of the event, a decision, and a number for every jet."""

    def contract(self, event: EventInfo) -> Contract:
        spec = target_spec(event, "signal", wanted_by=self.name)
        return Contract(tensors={spec.name: spec.model_copy(update={"required": True})})

    def build(self, contract: Contract, statistics: Statistics, width: int) -> None:
        del contract, statistics
        self.event_layer = nn.Linear(width, 2)
        self.jet_layer = nn.Linear(width, 1)

    def forward(self, encoded: Encoded, encoder: EncoderHandle) -> dict[str, Tensor]:
        del encoder
        scores = self.jet_layer(encoded.objects["jets"]).squeeze(-1)
        return {
            "logits": self.event_layer(encoded.event),
            "scores": scores * encoded.masks["jets"],
        }

    def loss(
        self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> dict[str, LossTerm]:
        label = targets["target/signal"]
        value = nn.functional.cross_entropy(outputs["logits"], label.clamp(min=0), reduction="none")
        return {"cross_entropy": LossTerm(value, label >= 0)}

    def decode(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        probabilities = outputs["logits"].softmax(-1)
        return {
            "probabilities": probabilities,
            "decision": probabilities.argmax(-1),
            "scores": outputs["scores"],
        }

    def predictions(self, event: EventInfo) -> list[Prediction]:
        del event
        fields = {name: name for name in ("probabilities", "decision")}
        return [
            Prediction("toys", "signal", fields),
            Prediction("toy-scores", fields={"scores": "scores"}, axes=("event", "jets")),
        ]


class ToyJudge(Judge):
    """One number that is defined, one that is not, and a figure."""

    fields = ("decision",)

    def metrics(self) -> list[Metric]:
        right = self.field("decision") == self.evaluation.targets["target/signal"]
        return [
            Metric("accuracy", float(right.mean()), float(right.std() / len(right) ** 0.5)),
            Metric("undefined", float("nan"), float("nan"), "GeV", "lower"),
        ]

    def baselines(self) -> list[Metric]:
        share = float((self.evaluation.targets["target/signal"] == 1).mean())
        return [Metric("accuracy", max(share, 1 - share), 0.01, of="the larger class")]

    def figures(self) -> list[Drawing]:
        from matplotlib.figure import Figure

        def draw() -> Figure:
            figure = Figure(figsize=(4, 3))
            axes = figure.subplots()
            axes.hist(self.field("probabilities")[:, 1])
            return figure

        return [Drawing("output", "Output <1>", f"{len(self.evaluation)} events.", draw)]


class SilentJudge(Judge):
    """Says nothing."""

    def metrics(self) -> list[Metric]:
        return []


class _Plugin:
    hepset_interface = 1

    @hookimpl
    def hepset_components(self) -> list[Component]:
        return [
            Component("heads", "toy", ToyHead),
            Component("judges", "toys", ToyJudge),
            Component("judges", "toy-scores", SilentJudge),
        ]


@pytest.fixture(autouse=True, scope="module")
def toy_plugin() -> Iterator[None]:
    torch.set_num_threads(1)
    registry().register(_Plugin(), name="toys", distribution="hepset", version="0")
    yield
    registry().unregister("toys")


@pytest.fixture(scope="module")
def event() -> EventInfo:
    return EventInfo.parse(EVENT, "event")


def make_batch(events: int, seed: int = 1, *, targets: bool = True) -> EventBatch:
    """Events of up to six jets, the first without any; label 1 has harder jets."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 6, events, endpoint=True)
    counts[:1] = 0
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    label = rng.integers(0, 2, events)
    total = int(offsets[-1])
    columns = {
        "pt": (rng.exponential(50, total) * (1 + np.repeat(label, counts))).astype(np.float32),
        "eta": rng.normal(0, 1, total).astype(np.float32),
        "phi": rng.uniform(-3.14, 3.14, total).astype(np.float32),
        "mass": rng.exponential(10, total).astype(np.float32),
    }
    arrays = {
        "met": rng.exponential(30, (events, 1)).astype(np.float32),
        "met.mask": np.ones(events, bool),
    }
    if targets:
        arrays["target/signal"] = label.astype(np.int64)
        arrays["target/m_top"] = rng.normal(172, 10, events).astype(np.float32)
        arrays["weight"] = np.where(rng.random(events) < 0.1, -1.0, 1.0)
    return EventBatch(
        make_ids(0, range(events)),
        {"jets": FlatStream(offsets, columns)},
        arrays,
        {"jets": 6},
        ("toy.h5",),
    )


def toy_statistics(batch: EventBatch) -> Statistics:
    """Statistics of the columns that need them, by numpy."""

    def column(values: np.ndarray) -> ColumnStatistics:
        values = values.astype(np.float64)
        return ColumnStatistics(
            count=values.size,
            mean=values.mean(),
            m2=((values - values.mean()) ** 2).sum(),
            minimum=values.min(),
            maximum=values.max(),
        )

    jets = batch.flat("jets").columns
    return Statistics(
        events=len(batch),
        tensors={
            "jets": TensorStatistics(
                columns={name: column(values) for name, values in jets.items()},
                transformed={"pt": column(np.log1p(jets["pt"]))},
            ),
            "met": TensorStatistics(columns={"pt": column(batch["met"][:, 0])}),
        },
        labels={"target/signal": LabelCounts(events=[1, 1], weights=[1, 1])},
    )


@pytest.fixture(scope="module")
def batch_of() -> Callable[..., EventBatch]:
    return make_batch


@pytest.fixture
def dataset(event: EventInfo, write_dataset: Any) -> Dataset:
    """Splits of 300, 40 and 90 events; every event has a weight."""
    splits = {}
    for seed, (name, events) in enumerate({"train": 300, "val": 40, "test": 90}.items()):
        batch = make_batch(events, seed)
        splits[name] = {tensor: batch[tensor] for tensor in batch.names()}
    found: Dataset = write_dataset(event, splits)
    return found


@pytest.fixture
def checkpoint(model: Model, tmp_path: Path) -> Path:
    """A checkpoint as Lightning's Trainer writes it."""
    path = tmp_path / "run" / "checkpoints" / "best.ckpt"
    path.parent.mkdir(parents=True)
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    torch.save({"model": model.record(), "state_dict": weights, "epoch": 3}, path)
    return path


@pytest.fixture(scope="module")
def model(event: EventInfo) -> Model:
    torch.manual_seed(7)
    config = ModelConfig.parse(
        {
            "backbone": {"name": "transformer", "width": 16, "depth": 1, "attention_heads": 2},
            "heads": {"toy": {"name": "toy"}},
        },
        "model",
    )
    provenance = {
        "run": "toys",
        "prepare": {"select": {"hard": "met.pt > 5"}, "derive": {}},
        "train": {"sampling": {"classes": "signal"}},
        "prior": {"target/signal": [0.25, 0.75]},
    }
    return build_model(
        config,
        event,
        compile_contract(event),
        toy_statistics(make_batch(500)),
        provenance=provenance,
    ).eval()
