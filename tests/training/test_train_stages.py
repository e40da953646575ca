from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hepset.dataset import Dataset
from hepset.errors import ConfigurationError
from hepset.model import build_model
from hepset.schema.config import ModelConfig, TrainConfig, TrainExecution
from hepset.training.fit import fit

STAGES = ({"name": "warm", "epochs": 1}, {"name": "both", "epochs": 2})


def with_stages(config: TrainConfig, *stages: dict[str, Any]) -> TrainConfig:
    document = {**config.model_dump(), "stages": stages, "weight_decay": 0.0}
    return TrainConfig.model_validate(document)


def head_stages(model: ModelConfig, **stages: list[str]) -> ModelConfig:
    heads = {
        name: {**options, "stages": stages.get(name, [])} for name, options in model.heads.items()
    }
    return model.model_copy(update={"heads": heads})


def test_epochs_belong_to_stages(config: TrainConfig) -> None:
    staged = with_stages(config, *STAGES)
    assert staged.total_epochs == 3
    assert [staged.stage_of(epoch) for epoch in range(4)] == [0, 1, 1, 1]
    assert config.total_epochs == 3
    assert config.stage_of(2) == 0


def test_a_head_learns_in_its_stages_alone(
    dataset: Dataset,
    model_config: ModelConfig,
    config: TrainConfig,
    execution: TrainExecution,
    tmp_path: Path,
) -> None:
    chosen = head_stages(model_config, neutrino=["both"])
    first = with_stages(config, *STAGES[:1], {"name": "both", "epochs": 1})
    fit(chosen, dataset, first, execution=execution, seed=1, directory=tmp_path)
    history = json.loads((tmp_path / "logs" / "history.json").read_text())
    for record, counts in zip(history, (0.0, 0.5), strict=True):
        signal = record["val/signal/cross_entropy"]
        neutrino = record["val/neutrino/nu_px"] + record["val/neutrino/nu_py"]
        assert record["val/loss"] == pytest.approx(signal + counts * neutrino, rel=1e-6)
    # The sum of the second stage is larger, and yet its model is the best of its stage.
    stored = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)
    assert stored["training"]["score"] == history[1]["val/loss"]


def test_a_waiting_head_stays_as_it_is(
    dataset: Dataset,
    model_config: ModelConfig,
    config: TrainConfig,
    execution: TrainExecution,
    tmp_path: Path,
) -> None:
    chosen = head_stages(model_config, neutrino=["later"])
    staged = with_stages(config, {"name": "now", "epochs": 2}, {"name": "later", "epochs": 1})
    torch.manual_seed(1)
    fresh = build_model(chosen, dataset.event, dataset.contract, dataset.statistics)
    start = {k: v.clone() for k, v in fresh.state_dict().items()}
    seen: dict[int, dict[str, torch.Tensor]] = {}

    from hepset.training import checkpoints

    save = checkpoints.Checkpoints._save

    def spy(self: Any, trainer: Any, name: str) -> None:
        seen[trainer.current_epoch] = {
            k: v.clone() for k, v in trainer.lightning_module.state_dict().items()
        }
        save(self, trainer, name)

    checkpoints.Checkpoints._save = spy  # type: ignore[method-assign]
    try:
        fit(chosen, dataset, staged, execution=execution, seed=1, directory=tmp_path)
    finally:
        checkpoints.Checkpoints._save = save  # type: ignore[method-assign]
    waiting = [k for k in start if k.startswith("heads.neutrino") and start[k].is_floating_point()]
    assert all(torch.equal(seen[1][k], start[k]) for k in waiting)
    assert any(not torch.equal(seen[2][k], start[k]) for k in waiting)


@pytest.mark.parametrize(
    ("head", "stages", "message"),
    [
        (["bth"], STAGES, r"model\.heads\.neutrino\.stages: there is no stage 'bth'.*'both'"),
        (["warm"], (), "which is empty"),
    ],
)
def test_names_of_stages_are_checked(
    dataset: Dataset,
    model_config: ModelConfig,
    config: TrainConfig,
    execution: TrainExecution,
    tmp_path: Path,
    head: list[str],
    stages: tuple[dict[str, Any], ...],
    message: str,
) -> None:
    chosen = head_stages(model_config, neutrino=head)
    with pytest.raises(ConfigurationError, match=message):
        fit(
            chosen, dataset, with_stages(config, *stages), execution=execution, seed=1,
            directory=tmp_path,
        )  # fmt: skip


def test_a_stage_without_a_head_is_refused(
    dataset: Dataset,
    model_config: ModelConfig,
    config: TrainConfig,
    execution: TrainExecution,
    tmp_path: Path,
) -> None:
    chosen = head_stages(model_config, neutrino=["both"], signal=["both"])
    with pytest.raises(ConfigurationError, match="no head learns in 'warm'"):
        fit(
            chosen, dataset, with_stages(config, *STAGES), execution=execution, seed=1,
            directory=tmp_path,
        )  # fmt: skip
