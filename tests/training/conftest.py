from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hepset.dataset import Dataset
from hepset.schema.config import ModelConfig, TrainConfig, TrainExecution
from hepset.schema.event import EventInfo

EVENT = EventInfo.model_validate(
    {
        "streams": {
            "jets": {
                "slots": 4,
                "features": {
                    "pt": {"unit": "GeV", "transform": ["log1p", "standardise"]},
                    "eta": {"transform": "standardise"},
                    "phi": {"unit": "rad"},
                    "mass": {"unit": "GeV", "transform": "log1p"},
                },
            }
        },
        "globals": {"met": {"features": {"pt": {"unit": "GeV", "transform": "log1p"}, "phi": {}}}},
        "targets": {
            "signal": {"kind": "classification", "classes": ["no", "yes"]},
            "nu_px": {"kind": "regression", "unit": "GeV", "transform": "standardise"},
            "nu_py": {"kind": "regression", "unit": "GeV", "transform": "standardise"},
        },
    }
)


def make_tensors(rows: int, seed: int) -> dict[str, np.ndarray]:
    """Signal has hard leading jets; the neutrino is the missing momentum."""
    rng = np.random.default_rng(seed)
    signal = rng.integers(0, 2, rows)
    mask = np.arange(4) < rng.integers(0, 5, rows)[:, None]
    jets = np.stack(
        [
            rng.exponential(30, (rows, 4)) * (1 + 2 * signal[:, None]),
            rng.normal(0, 1.5, (rows, 4)),
            rng.uniform(-np.pi, np.pi, (rows, 4)),
            rng.exponential(5, (rows, 4)),
        ],
        -1,
    ).astype(np.float32)
    jets[~mask] = 0
    met, phi = rng.exponential(40, rows), rng.uniform(-np.pi, np.pi, rows)
    label = np.where(rng.random(rows) < 0.1, -1, signal)
    nu_px = (met * np.cos(phi)).astype(np.float32)
    nu_px[rng.random(rows) < 0.1] = np.nan
    return {
        "jets": jets,
        "jets.mask": mask,
        "met": np.stack([met, phi], -1).astype(np.float32),
        "target/signal": label,
        "target/nu_px": nu_px,
        "target/nu_py": (met * np.sin(phi)).astype(np.float32),
        "weight": np.where(rng.random(rows) < 0.02, -1.0, 1.0) * rng.uniform(0.5, 2, rows),
    }


MODEL = ModelConfig.model_validate(
    {
        "backbone": {
            "name": "transformer", "width": 16, "depth": 1, "attention_heads": 2, "dropout": 0.1,
        },
        "heads": {
            "signal": {"name": "classification", "target": "signal", "dropout": 0.1},
            "neutrino": {
                "name": "regression", "targets": ["nu_px", "nu_py"], "loss_weight": 0.5,
            },
        },
    }
)  # fmt: skip


@pytest.fixture
def dataset(write_dataset: Any) -> Dataset:
    splits = {"train": make_tensors(260, 0), "val": make_tensors(90, 1)}
    found: Dataset = write_dataset(EVENT, splits, shards=2, group=50)
    return found


@pytest.fixture
def event() -> EventInfo:
    return EVENT


@pytest.fixture
def tensors() -> Any:
    return make_tensors


@pytest.fixture
def model_config() -> ModelConfig:
    return MODEL


@pytest.fixture
def config() -> TrainConfig:
    return TrainConfig(epochs=3, batch_size=50, learning_rate=3e-3, progress=False)


@pytest.fixture
def execution() -> TrainExecution:
    return TrainExecution(accelerator="cpu", devices=1, threads=1)
