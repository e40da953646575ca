from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from hepset.dataset import Dataset
from hepset.model import Model
from hepset.schema.config import ModelConfig
from hepset.training.losses import WeightedLoss, summarise_weights

SCRIPT = """
import json, sys
from pathlib import Path

import torch
from lightning.pytorch import Callback

from hepset.dataset import open_dataset
from hepset.schema.config import ModelConfig, TrainConfig, TrainExecution
from hepset.training.fit import fit

fit_module = sys.modules["hepset.training.fit"]  # the function has the module's name


class SameWeights(Callback):
    def on_train_end(self, trainer, module):
        flat = torch.cat([p.detach().flatten() for p in module.parameters()])
        everyone = module.all_gather(flat)
        assert trainer.world_size == WORLD, trainer.world_size
        if WORLD > 1:
            assert torch.equal(everyone[0], everyone[1])
        if trainer.is_global_zero:
            (OUT / "same").write_text(str(flat.double().abs().sum().item()))


if __name__ == "__main__" or __name__ == "__mp_main__":
    WORLD, OUT = int(sys.argv[3]), Path(sys.argv[2])
if __name__ == "__main__":
    create = fit_module.create_trainer
    fit_module.create_trainer = lambda *args: create(*args, SameWeights())
    model = ModelConfig.model_validate(json.loads(Path(sys.argv[1], "model.json").read_text()))
    config = TrainConfig.model_validate({
        "epochs": 2, "batch_size": 100 // WORLD, "learning_rate": 3e-3, "progress": False,
        "warmup_epochs": 0, **json.loads(sys.argv[4]),
    })
    execution = TrainExecution(
        accelerator="cpu", devices=WORLD, strategy="ddp_spawn" if WORLD > 1 else "auto", threads=1
    )
    fit(model, open_dataset(sys.argv[1]), config, execution=execution, seed=1, directory=OUT)
"""


def train(model: ModelConfig, dataset: Dataset, directory: Path, **options: Any) -> Path:
    """Train in two processes."""
    (dataset.path / "model.json").write_text(model.model_dump_json())
    script = directory / "train.py"
    script.write_text(SCRIPT)
    out = directory / "run"
    result = subprocess.run(
        [sys.executable, str(script), str(dataset.path), str(out), "2", json.dumps(options)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert (out / "same").exists()
    return out


@pytest.mark.slow
@pytest.mark.parametrize("combination", ["uncertainty", "famo"])
def test_stages_combinations_and_averages_agree_in_all_processes(
    dataset: Dataset, model_config: ModelConfig, tmp_path: Path, combination: str
) -> None:
    stages = [
        {"name": "one", "epochs": 1, "loss_weights": {"neutrino": 0}, "freeze": ["backbone"]},
        {"name": "two", "epochs": 1},
    ]
    out = train(
        model_config, dataset, tmp_path, stages=stages, loss_combination=combination,
        callbacks=[{"name": "ema", "decay": 0.5}],
    )  # fmt: skip
    stored = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
    trained, averaged = stored["trained_state_dict"], stored["state_dict"]
    name = next(k for k in trained if k.startswith("heads.neutrino") and k.endswith("weight"))
    assert not torch.equal(trained[name], averaged[name])
    assert stored["training"]["combination"]


@pytest.mark.slow
def test_two_processes_keep_equal_weights_and_validate_all_events(
    dataset: Dataset, model_config: ModelConfig, tmp_path: Path
) -> None:
    heads = {"signal": {"name": "classification", "target": "signal"}}
    plain = model_config.model_copy(
        update={"heads": heads, "backbone": {**model_config.backbone, "dropout": 0.0}}
    )
    out = train(plain, dataset, tmp_path)
    history = json.loads((out / "logs" / "history.json").read_text())
    stored = torch.load(out / "checkpoints" / "last.ckpt", weights_only=True)
    assert stored["training"]["loader"]["world"] == 2
    assert len(history) == 2
    # The loss of two processes is that of all events, as one process finds it.
    model = Model.from_record(stored["model"], stored["state_dict"]).eval()
    summaries = summarise_weights(dataset.split("train"), ["weight"], "keep")
    combine = WeightedLoss(model, summaries, "keep")
    (batch,) = dataset.loader("val", batch_size=1000)
    with torch.no_grad():
        loss, _ = combine(model.losses(batch, model(batch)), batch)
    assert history[1]["val/loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert history[1]["val/loss"] < history[0]["val/loss"]
