from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from hepset.dataset import Dataset
from hepset.errors import ConfigurationError
from hepset.model.load import load_checkpoint
from hepset.schema.config import ModelConfig, TrainConfig, TrainExecution
from hepset.training import checkpoints
from hepset.training.ema import Ema, EmaConfig
from hepset.training.fit import fit
from hepset.training.losses import WeightedLoss, summarise_weights
from hepset.training.module import TrainingModule


class FakeTrainer:
    strategy = None

    def __init__(self) -> None:
        self.global_step = 0


class FakeModule(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("running", torch.zeros(1))
        self.register_buffer("limit", torch.tensor([float("inf"), 3.0]))
        self.register_buffer("count", torch.tensor(0))
        self.device = torch.device("cpu")


def run(config: EmaConfig, values: list[float]) -> tuple[Ema, FakeModule]:
    ema, trainer, module = Ema(config), FakeTrainer(), FakeModule()
    arguments: Any = (trainer, module)
    ema.on_fit_start(*arguments)
    ema.on_train_start(*arguments)
    for value in values:
        with torch.no_grad():
            module.weight.fill_(value)
            module.running.fill_(2 * value)
            module.count += 1
        trainer.global_step += 1
        ema.on_train_batch_end(*arguments, None, None, 0)
        ema.on_train_batch_end(*arguments, None, None, 0)  # No step was taken in between.
    return ema, module


def test_by_pencil() -> None:
    """0 → 0.25·1 = 0.25 → 0.75·0.25 + 0.25·2 = 0.6875; running averages likewise."""
    ema, module = run(EmaConfig(decay=0.75, warm_up=False), [1.0, 2.0])
    ema.on_validation_start(None, module)  # type: ignore[arg-type]
    assert module.weight.tolist() == pytest.approx([0.6875] * 2)
    assert module.running.tolist() == pytest.approx([1.375])
    assert module.limit.tolist() == [float("inf"), 3.0]
    assert module.count.item() == 2
    ema.on_validation_end(None, module)  # type: ignore[arg-type]
    assert module.weight.tolist() == [2.0] * 2
    assert module.running.tolist() == [4.0]


def test_every_few_steps_with_a_warm_up() -> None:
    """Steps 2 and 4 update, keeping 1/10 and 2/11."""
    ema, module = run(EmaConfig(decay=0.999, every=2), [1.0, 2.0, 3.0, 4.0])
    ema.on_validation_start(None, module)  # type: ignore[arg-type]
    first = 0.9 * 2
    assert module.weight.tolist() == pytest.approx([2 / 11 * first + 9 / 11 * 4] * 2)
    assert [ema.decay(n) for n in (0, 10_000)] == [0.1, 0.999]


def test_the_average_is_validated_and_stored(
    dataset: Dataset,
    model_config: ModelConfig,
    config: TrainConfig,
    execution: TrainExecution,
    tmp_path: Path,
) -> None:
    """An average computed beside the training is what the checkpoints hold and what was judged."""
    config = config.model_copy(update={"callbacks": ({"name": "ema", "decay": 0.6},), "epochs": 2})
    seen: list[dict[str, torch.Tensor]] = []
    original = TrainingModule.training_step

    def spy(self: TrainingModule, batch: Any, batch_idx: int) -> Any:
        seen.append({k: v.detach().clone() for k, v in self.state_dict().items()})
        return original(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", spy)
        fit(model_config, dataset, config, execution=execution, seed=1, directory=tmp_path)
    last = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    seen.append(last["trained_state_dict"])
    name = next(k for k in seen[0] if k.startswith("backbone") and k.endswith("weight"))
    average = seen[0][name].double()
    for update, weights in enumerate(seen[1:]):
        keep = min(0.6, (1 + update) / (10 + update))
        average = keep * average + (1 - keep) * weights[name].double()
    torch.testing.assert_close(last["state_dict"][name].double(), average, rtol=1e-4, atol=1e-6)
    assert not torch.equal(last["state_dict"][name], last["trained_state_dict"][name])

    model = load_checkpoint(tmp_path / "checkpoints" / "last.ckpt").eval()
    combine = WeightedLoss(
        model, summarise_weights(dataset.split("train"), ["weight"], "keep"), "keep"
    )
    (batch,) = dataset.loader("val", batch_size=1000)
    with torch.no_grad():
        loss, _ = combine(model.losses(batch, model(batch)), batch)
    history = json.loads((tmp_path / "logs" / "history.json").read_text())
    assert history[1]["val/loss"] == pytest.approx(loss.item(), rel=1e-5)


class Killed(Exception):
    pass


@pytest.mark.parametrize("step", [2, 5, 7])
def test_an_interrupted_training_continues_exactly(
    dataset: Dataset,
    model_config: ModelConfig,
    config: TrainConfig,
    execution: TrainExecution,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
) -> None:
    config = config.model_copy(
        update={"epochs": 2, "callbacks": ({"name": "ema", "decay": 0.9, "every": 2},)}
    )
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN", 0.0)
    options: dict[str, Any] = {"execution": execution, "seed": 3}
    fit(model_config, dataset, config, directory=tmp_path / "whole", **options)
    original = TrainingModule.training_step

    def dying(self: TrainingModule, batch: Any, batch_idx: int) -> Any:
        if self.global_step == step:
            raise Killed
        return original(self, batch, batch_idx)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingModule, "training_step", dying)
        with pytest.raises(Killed):
            fit(model_config, dataset, config, directory=tmp_path / "parts", **options)
    fit(model_config, dataset, config, directory=tmp_path / "parts", **options)
    for name in ("last.ckpt", "best.ckpt"):
        whole, parts = (
            torch.load(tmp_path / which / "checkpoints" / name, weights_only=True)
            for which in ("whole", "parts")
        )
        for part in ("state_dict", "trained_state_dict"):
            for key, value in whole[part].items():
                assert torch.equal(value, parts[part][key]), key
        for key in ("val/loss", "train/loss"):
            losses = [[r[key] for r in c["training"]["history"]] for c in (whole, parts)]
            assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_options_are_checked(
    dataset: Dataset,
    model_config: ModelConfig,
    config: TrainConfig,
    execution: TrainExecution,
    tmp_path: Path,
) -> None:
    config = config.model_copy(update={"callbacks": ({"name": "ema", "decoy": 0.9},)})
    with pytest.raises(ConfigurationError, match=r"train\.callbacks\.0: decoy.*decay"):
        fit(model_config, dataset, config, execution=execution, seed=1, directory=tmp_path)
