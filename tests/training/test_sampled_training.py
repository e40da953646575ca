from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hepset.dataset import Dataset
from hepset.schema.config import ModelConfig, TrainConfig, TrainExecution
from hepset.training import checkpoints
from hepset.training.fit import fit
from hepset.training.module import TrainingModule


@pytest.fixture
def sampled(config: TrainConfig) -> TrainConfig:
    """A quarter of what is shown is signal, whatever the sample."""
    sampling = {
        "variables": {"met.pt": [0, 20, 40, 80]},
        "classes": "signal",
        "class_weights": {"no": 3},
        "threshold": 50,
        "events": 200,
    }
    return TrainConfig.model_validate({**config.model_dump(), "sampling": sampling})


def test_the_prior_that_was_shown_is_stored(
    dataset: Dataset,
    model_config: ModelConfig,
    sampled: TrainConfig,
    execution: TrainExecution,
    tmp_path: Path,
) -> None:
    prior = {"target/signal": (0.5, 0.5)}
    dataset.manifest = dataset.manifest.model_copy(update={"prior": prior})
    best = fit(model_config, dataset, sampled, execution=execution, seed=1, directory=tmp_path)
    stored = torch.load(best, weights_only=True)
    assert stored["model"]["provenance"]["prior"]["target/signal"] == pytest.approx([0.75, 0.25])


def test_an_interrupted_sampled_training_continues_exactly(
    dataset: Dataset,
    model_config: ModelConfig,
    sampled: TrainConfig,
    execution: TrainExecution,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN", 0.0)

    def train(name: str) -> dict[str, torch.Tensor]:
        (tmp_path / name).mkdir(exist_ok=True)
        best = fit(
            model_config, dataset, sampled, execution=execution, seed=1, directory=tmp_path / name
        )
        weights: dict[str, torch.Tensor] = torch.load(
            best.with_name("last.ckpt"), weights_only=True
        )["state_dict"]
        return weights

    whole = train("whole")
    step = TrainingModule.training_step
    seen = 0

    def killed(self: TrainingModule, *args: object) -> object:
        nonlocal seen
        seen += 1
        if seen == 6:
            raise KeyboardInterrupt
        return step(self, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", killed)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            train("killed")
    continued = train("killed")
    for name, tensor in whole.items():
        assert torch.equal(continued[name], tensor), name
