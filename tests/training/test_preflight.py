from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest

from hepset.dataset import Dataset, open_dataset
from hepset.errors import TrainingError
from hepset.schema.config import ModelConfig
from hepset.schema.contract import Contract, compile_contract
from hepset.schema.event import EventInfo
from hepset.schema.statistics import LabelCounts
from hepset.training import preflight
from hepset.training.preflight import check_dataset

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


class Pairing:
    """A head that assigns objects, and asks for their indices."""

    def contract(self, event: EventInfo) -> Contract:
        specs = compile_contract(event)
        wanted = {assignment.tensor for assignment in event.assignments()}
        tensors = {n: specs[n].model_copy(update={"required": True}) for n in wanted}
        return Contract(tensors=tensors)


def test_an_assignment_without_any_truth_is_refused(
    write_dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = EventInfo.model_validate(
        {
            "streams": {"jets": {"slots": 4, "features": {"pt": {}}}},
            "particles": {"z": {"a": "jets", "b": "jets"}, "w": {"a": "jets", "b": "jets"}},
        }
    )
    train = {
        "jets": np.ones((9, 4, 1), np.float32),
        "jets.mask": np.ones((9, 4), bool),
        "target/assignment/z": np.full((9, 2), -1),
        "target/assignment/w": np.full((9, 2), -1),
    }
    dataset: Dataset = write_dataset(event, {"train": train})
    monkeypatch.setattr(preflight, "create_head", lambda *_: Pairing())
    heads = config(tops={"name": "assignment"}, other={"name": "assignment", "loss_weight": 0})
    with pytest.raises(TrainingError) as caught:
        check_dataset(heads, dataset)
    message = str(caught.value)
    for part in (str(dataset.path), "tops", "target/assignment/z", "read from", "Convert"):
        assert part in message
    assert "other" not in message
    assert "leave the head out" in message


def test_one_known_product_is_something_to_learn(
    write_dataset: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = EventInfo.model_validate(
        {
            "streams": {"jets": {"slots": 4, "features": {"pt": {}}}},
            "particles": {"z": {"a": "jets", "b": "jets"}},
        }
    )
    known = np.full((9, 2), -1)
    known[8, 1] = 0
    train = {
        "jets": np.ones((9, 4, 1), np.float32),
        "jets.mask": np.ones((9, 4), bool),
        "target/assignment/z": known,
    }
    dataset: Dataset = write_dataset(event, {"train": train})
    monkeypatch.setattr(preflight, "create_head", lambda *_: Pairing())
    check_dataset(config(tops={"name": "assignment"}), dataset)
