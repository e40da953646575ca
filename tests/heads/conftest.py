"""A small event with every kind of target, and batches of it made from a seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from hepset.interfaces.backbone import Encoded, Inputs
from hepset.interfaces.head import EncoderHandle, Evaluation, Head, create_head
from hepset.schema.contract import Contract, compile_contract
from hepset.schema.event import EventInfo
from hepset.schema.statistics import ColumnStatistics, LabelCounts, Statistics, TensorStatistics

Array = NDArray[Any]
WIDTH, SLOTS = 8, 5

EVENT = EventInfo.parse(
    {
        "streams": {
            "jets": {
                "slots": SLOTS,
                "features": {
                    "pt": {"unit": "GeV", "transform": ["log1p", "standardise"]},
                    "eta": {"transform": "standardise"},
                    "phi": {"transform": "circular"},
                    "mass": {"unit": "GeV", "transform": ["log1p", "standardise"]},
                    "btag": {},
                },
            }
        },
        "globals": {"met": {"features": {"pt": {"unit": "GeV"}, "phi": {}}}},
        "targets": {
            "signal": {"kind": "classification", "classes": ["background", "signal"]},
            "kind": {"kind": "classification", "classes": ["a", "b", "c"]},
            "flavour": {"kind": "classification", "classes": ["light", "b"], "stream": "jets"},
            "m_tt": {"kind": "regression", "unit": "GeV", "transform": ["log1p", "standardise"]},
            "t1/pz": {"kind": "regression", "unit": "GeV"},
            "angle": {"kind": "regression", "unit": "rad", "transform": "circular"},
            "jet_pt": {"kind": "regression", "unit": "GeV", "stream": "jets"},
        },
    },
    "event",
)


def column(values: Array) -> ColumnStatistics:
    values = values[np.isfinite(values)].astype(float)
    return ColumnStatistics(
        count=len(values), mean=values.mean(), m2=((values - values.mean()) ** 2).sum()
    )


def make_arrays(n: int, seed: int = 0) -> dict[str, Array]:
    """Inputs and targets: signal has more and harder jets, m_tt is 1.5 times the sum of pt."""
    random = np.random.default_rng(seed)
    signal = random.integers(0, 2, n)
    counts = random.integers(0, SLOTS, n) + signal
    mask = np.arange(SLOTS) < counts[:, None]
    pt = random.exponential(30 + 20 * signal[:, None], (n, SLOTS)) + 25
    eta, phi = random.normal(0, 1.2, (n, SLOTS)), random.uniform(-np.pi, np.pi, (n, SLOTS))
    btag = (random.random((n, SLOTS)) < 0.3 + 0.3 * signal[:, None]).astype(float)
    jets = np.stack([pt, eta, phi, random.exponential(8, pt.shape), btag], -1) * mask[..., None]
    met = np.stack([random.exponential(40, n), random.uniform(-np.pi, np.pi, n)], -1)
    ht = jets[..., 0].sum(1)
    m_tt = 1.5 * ht * np.exp(random.normal(0, 0.1, n)) + 100
    m_tt[signal == 0] = np.nan
    flavour = np.where(mask, (btag + (random.random((n, SLOTS)) < 0.1)).astype(int) % 2, -1)
    jet_pt = np.where(mask, pt * random.normal(1.1, 0.1, (n, SLOTS)), np.nan)
    return {
        "jets": jets.astype(np.float32),
        "jets.mask": mask,
        "met": met.astype(np.float32),
        "target/signal": signal,
        "target/kind": random.integers(-1, 3, n),
        "target/flavour": flavour,
        "target/m_tt": m_tt.astype(np.float32),
        "target/t1/pz": random.normal(50, 200, n).astype(np.float32),
        "target/angle": random.uniform(-np.pi, np.pi, n).astype(np.float32),
        "target/jet_pt": jet_pt.astype(np.float32),
    }


def make_statistics(arrays: Mapping[str, Array]) -> Statistics:
    tensors: dict[str, TensorStatistics] = {}
    logs = {"pt", "mass"}
    for name, features in (("jets", EVENT.streams["jets"].features), ("met", {})):
        real = arrays[name][arrays[f"{name}.mask"]] if name == "jets" else arrays[name]
        columns = {f: column(real[:, i]) for i, f in enumerate(features)}
        logged = {f: column(np.log1p(real[:, i])) for i, f in enumerate(features) if f in logs}
        tensors[name] = TensorStatistics(columns=columns, transformed=logged)
    for name in ("m_tt", "t1/pz", "angle", "jet_pt"):
        values = arrays[f"target/{name}"]
        logged = {"": column(np.log1p(values))} if name == "m_tt" else {}
        tensors[f"target/{name}"] = TensorStatistics(
            columns={"": column(values)}, transformed=logged
        )
    labels = {}
    for name in ("signal", "kind", "flavour"):
        values = arrays[f"target/{name}"]
        events = [int((values == c).sum()) for c in range(int(values.max()) + 1)]
        labels[f"target/{name}"] = LabelCounts(events=events, weights=[float(e) for e in events])
    return Statistics(events=len(arrays["met"]), tensors=tensors, labels=labels)


@pytest.fixture
def event() -> EventInfo:
    return EVENT


@pytest.fixture
def arrays() -> Callable[..., dict[str, Array]]:
    return make_arrays


@pytest.fixture
def contract() -> Contract:
    return compile_contract(EVENT)


@pytest.fixture
def statistics() -> Statistics:
    return make_statistics(make_arrays(1000, 1))


@pytest.fixture
def build(contract: Contract, statistics: Statistics) -> Callable[..., Head]:
    """Make a head from its options, as a run configuration gives them."""

    def make(**options: Any) -> Head:
        torch.manual_seed(0)
        head = create_head("h", options)
        merged = contract.merge(head.contract(EVENT))
        head.build(merged, statistics, WIDTH)
        return head.eval()

    return make


@pytest.fixture
def encoded() -> Encoded:
    generator = torch.Generator().manual_seed(0)
    mask = torch.tensor([[True] * SLOTS, [True, True, False, False, False], [False] * SLOTS])
    objects = torch.randn(3, SLOTS, WIDTH, generator=generator) * mask[..., None]
    return Encoded({"jets": objects}, {"jets": mask}, torch.randn(3, WIDTH, generator=generator))


@pytest.fixture
def handle() -> EncoderHandle:
    """What these heads never use."""
    nothing = torch.nn.Identity()
    return EncoderHandle(nothing, nothing, Inputs({}, {}))


@pytest.fixture
def evaluate(contract: Contract, statistics: Statistics) -> Callable[..., Evaluation]:
    """Make an evaluation from arrays and predictions."""

    def make(
        arrays: Mapping[str, Array],
        predictions: Mapping[str, Array],
        weight: Array | None = None,
        train: Evaluation | None = None,
    ) -> Evaluation:
        n = len(arrays["met"])
        return Evaluation(
            event=EVENT,
            contract=contract,
            predictions=predictions,
            targets={k: v for k, v in arrays.items() if k.startswith("target/")},
            inputs={k: v for k, v in arrays.items() if not k.startswith("target/")},
            weight=np.ones(n) if weight is None else weight,
            weighted=weight is not None,
            train=train,
            statistics=statistics,
        )

    return make


@pytest.fixture
def as_tensors() -> Callable[[Mapping[str, Array]], dict[str, Tensor]]:
    return lambda arrays: {
        name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in arrays.items()
    }
