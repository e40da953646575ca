from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from hepset.dataset import Dataset, open_dataset
from hepset.errors import TrainingError
from hepset.schema.config import ModelConfig
from hepset.schema.event import EventInfo
from hepset.schema.statistics import LabelCounts
from hepset.training.learnable import check_dataset

SIGNAL = {"name": "classification", "target": "signal"}
PX = {"name": "regression", "target": "nu_px"}


def config(**heads: dict[str, Any]) -> ModelConfig:
    return ModelConfig(heads=heads)


@pytest.fixture
def partial(write_dataset: Any, event: EventInfo, tensors: Any) -> Dataset:
    """No event has nu_px, and all are of the class ``no``."""
    train = tensors(30, 0)
    train["target/nu_px"][:] = np.nan
    train["target/signal"][:] = 0
    dataset: Dataset = write_dataset(event, {"train": train})
    counts = LabelCounts(events=[30], weights=[30.0])
    statistics = dataset.statistics.model_copy(update={"labels": {"target/signal": counts}})
    update = {"statistics": statistics, "class_names": {"target/signal": ("no", "yes")}}
    dataset.manifest.model_copy(update=update).write(dataset.path)
    return open_dataset(dataset.path)


def test_what_is_not_there_is_warned_about(
    partial: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        check_dataset(config(signal=SIGNAL, nu=PX), partial)
    assert "target/nu_px: no training event has this target" in caplog.text
    assert "target/signal: no training event is of the class 'yes'" in caplog.text
    assert "'no'" not in caplog.text


def test_nothing_to_learn_is_refused(partial: Dataset) -> None:
    with pytest.raises(TrainingError, match=r"nothing to learn: .* \(target/nu_px\)"):
        check_dataset(config(nu=PX), partial)
    idle = {**SIGNAL, "loss_weight": 0}
    with pytest.raises(TrainingError, match="every head has loss_weight 0"):
        check_dataset(config(nu=PX, signal=idle), partial)


def test_other_splits_are_named(write_dataset: Any, event: EventInfo, tensors: Any) -> None:
    dataset: Dataset = write_dataset(event, {"train": tensors(9, 0)})
    splits = {"fold0": dataset.manifest.splits["train"]}
    dataset.manifest.model_copy(update={"splits": splits}).write(dataset.path)
    with pytest.raises(TrainingError, match=r"no events; there are fold0 \(9\)"):
        check_dataset(config(signal=SIGNAL), open_dataset(dataset.path))
