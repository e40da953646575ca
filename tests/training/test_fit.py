from __future__ import annotations

import csv
import json
import logging
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from hepset.dataset import Dataset
from hepset.errors import ConfigurationError, TrainingError
from hepset.model import Model, build_model
from hepset.schema.config import ModelConfig, TrainConfig, TrainExecution
from hepset.training import checkpoints
from hepset.training.fit import fit
from hepset.training.module import TrainingModule


def content(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(path, weights_only=True)
    return found


def test_trains_and_leaves_everything_behind(
    dataset: Dataset,
    model_config: ModelConfig,
    config: TrainConfig,
    execution: TrainExecution,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO):
        best = fit(model_config, dataset, config, execution=execution, seed=1, directory=tmp_path)
    assert best == tmp_path / "checkpoints" / "best.ckpt"
    assert {path.name for path in best.parent.iterdir()} == {"best.ckpt", "last.ckpt"}
    stored = content(best)
    model = Model.from_record(stored["model"], stored["state_dict"])
    assert list(model.heads) == ["signal", "neutrino"]
    with (tmp_path / "logs" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["epoch"]) for row in rows] == [0, 1, 2]
    history = json.loads((tmp_path / "logs" / "history.json").read_text())
    assert {"train/loss", "val/loss", "learning_rate", "seconds", "loader_wait"} <= set(history[0])
    names = [n for n in history[0] if n.startswith("val/") and n != "val/loss"]
    assert {n.split("/")[1] for n in names} == {"signal", "neutrino"}
    for record in history:
        heads = {h: sum(record[n] for n in names if n.split("/")[1] == h) for h in model.heads}
        total = heads["signal"] + 0.5 * heads["neutrino"]
        assert record["val/loss"] == pytest.approx(total, rel=1e-6)
    assert history[2]["val/loss"] < history[0]["val/loss"]
    assert min(h["val/loss"] for h in history) == stored["training"]["score"]
    assert list((tmp_path / "logs").glob("events.out.tfevents.*"))
    text = caplog.text
    assert "parameters on 260 events, 90 for validation" in text
    assert "epoch 3/3: train/loss" in text
    assert not [t for t in threading.enumerate() if t.name.startswith("hepset-loader")]


class Killed(Exception):
    pass


@pytest.mark.parametrize("step", [2, 5, 7, 8, 13])
def test_an_interrupted_training_continues_exactly(
    dataset: Dataset,
    model_config: ModelConfig,
    config: TrainConfig,
    execution: TrainExecution,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: int,
) -> None:
    """Five steps per epoch, a checkpoint after each; killed before the step of that number."""
    config = config.model_copy(
        update={"augment": config.augment.model_copy(update={"rotate_phi": True})}
    )
    monkeypatch.setattr(checkpoints, "SECONDS_BETWEEN", 0.0)
    options: dict[str, Any] = {"execution": execution, "seed": 3}
    fit(model_config, dataset, config, directory=tmp_path / "whole", **options)
    original = TrainingModule.training_step
    steps = []

    def dying(self: TrainingModule, batch: Any, batch_idx: int) -> Any:
        if self.global_step == step:
            raise Killed
        return original(self, batch, batch_idx)

    monkeypatch.setattr(TrainingModule, "training_step", dying)
    with pytest.raises(Killed):
        fit(model_config, dataset, config, directory=tmp_path / "parts", **options)

    def counting(self: TrainingModule, batch: Any, batch_idx: int) -> Any:
        steps.append(self.global_step)
        return original(self, batch, batch_idx)

    monkeypatch.setattr(TrainingModule, "training_step", counting)
    fit(model_config, dataset, config, directory=tmp_path / "parts", **options)
    assert steps == list(range(step, 15))
    for name in ("last.ckpt", "best.ckpt"):
        whole = content(tmp_path / "whole" / "checkpoints" / name)
        parts = content(tmp_path / "parts" / "checkpoints" / name)
        for key, value in whole["state_dict"].items():
            assert torch.equal(value, parts["state_dict"][key]), key
        assert whole["training"]["loader"] == parts["training"]["loader"]
        for a, b in zip(whole["training"]["history"], parts["training"]["history"], strict=True):
            for key in a:
                if key.startswith(("train/", "val/", "learning", "epoch")):
                    assert a[key] == pytest.approx(b[key], rel=1e-12), key


def test_a_finished_training_is_left_alone_and_another_seed_starts_anew(
    dataset: Dataset,
    model_config: ModelConfig,
    config: TrainConfig,
    execution: TrainExecution,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    options: dict[str, Any] = {"execution": execution, "directory": tmp_path}
    config = config.model_copy(update={"epochs": 1})
    best = fit(model_config, dataset, config, seed=1, **options)
    before = best.read_bytes()
    with caplog.at_level(logging.INFO):
        fit(model_config, dataset, config, seed=1, **options)
    assert best.read_bytes() == before
    assert "; continues" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO):
        fit(model_config, dataset, config, seed=2, **options)
    assert "another model, data set, configuration or seed" in caplog.text
    assert (
        content(best)["training"]["key"]
        != torch.load(__import__("io").BytesIO(before), weights_only=True)["training"]["key"]
    )
    caplog.clear()
    with caplog.at_level(logging.INFO):
        fit(model_config, dataset, config, seed=2, restart=True, **options)
    assert "restarting from scratch (--restart)" in caplog.text


def test_early_stopping_and_no_validation_split(
    write_dataset: Any,
    event: Any,
    tensors: Any,
    model_config: ModelConfig,
    execution: TrainExecution,
    tmp_path: Path,
) -> None:
    dataset = write_dataset(event, {"train": tensors(60, 0), "val": tensors(0, 1)})
    config = TrainConfig.model_validate(
        {
            "epochs": 9, "batch_size": 100, "learning_rate": 1e-12, "progress": False,
            "early_stopping": {"patience": 2, "min_delta": 1.0},
        }
    )  # fmt: skip
    fit(model_config, dataset, config, execution=execution, seed=1, directory=tmp_path)
    history = json.loads((tmp_path / "logs" / "history.json").read_text())
    assert len(history) == 3
    assert not [name for name in history[0] if name.startswith("val/")]
    fit(model_config, dataset, config, execution=execution, seed=1, directory=tmp_path)
    assert len(json.loads((tmp_path / "logs" / "history.json").read_text())) == 3


def test_a_loss_that_is_not_finite_is_explained(
    dataset: Dataset,
    model_config: ModelConfig,
    config: TrainConfig,
    execution: TrainExecution,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from hepset.heads.classification import ClassificationHead

    original = ClassificationHead.loss

    def broken(self: Any, outputs: Any, targets: Any) -> Any:
        terms = original(self, outputs, targets)
        name, term = next(iter(terms.items()))
        at_17 = targets["ids"][:, 1] == 17
        value = torch.where(at_17, float("inf"), term.value)
        return {name: term._replace(value=value, valid=term.valid | at_17)}

    monkeypatch.setattr(ClassificationHead, "loss", broken)
    with pytest.raises(TrainingError) as caught:
        fit(model_config, dataset, config, execution=execution, seed=1, directory=tmp_path)
    message = str(caught.value)
    assert "head 'signal', term" in message
    assert "1 of 50 events, first made.h5, entry 17: inf" in message
    assert "learning_rate" in message


def test_missing_targets_and_events_are_named(
    write_dataset: Any,
    event: Any,
    tensors: Any,
    model_config: ModelConfig,
    config: TrainConfig,
    tmp_path: Path,
) -> None:
    train = tensors(30, 0)
    del train["target/nu_py"]
    dataset = write_dataset(event, {"train": train})
    with pytest.raises(TrainingError, match=r"lacks target/nu_py \(head neutrino\)"):
        fit(model_config, dataset, config, seed=1, directory=tmp_path)
    only = model_config.model_copy(
        update={"heads": {"nu": {"name": "regression", "targets": ["nu_px"]}}}
    )
    turning = TrainConfig.model_validate({"augment": {"rotate_phi": True}})
    with pytest.raises(TrainingError, match=r"lacks target/nu_py, without which"):
        fit(only, dataset, turning, seed=1, directory=tmp_path)


def test_an_empty_training_split_is_refused(
    write_dataset: Any,
    event: Any,
    tensors: Any,
    model_config: ModelConfig,
    config: TrainConfig,
    tmp_path: Path,
) -> None:
    dataset = write_dataset(event, {"train": tensors(0, 0), "val": tensors(9, 0)})
    heads = {"signal": {"name": "classification", "target": "signal"}}
    model = model_config.model_copy(update={"heads": heads})
    with pytest.raises(TrainingError, match="the training split has no events"):
        fit(model, dataset, config, seed=1, directory=tmp_path)


def test_the_progress_bar_runs_on_a_terminal(
    dataset: Dataset,
    model_config: ModelConfig,
    execution: TrainExecution,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    config = TrainConfig(epochs=1, batch_size=50)
    fit(model_config, dataset, config, execution=execution, seed=1, directory=tmp_path)
    shown = capsys.readouterr().out
    assert "Epoch" in shown
    assert "loss:" in shown


def test_half_precision_needs_a_gpu(
    dataset: Dataset, model_config: ModelConfig, execution: TrainExecution, tmp_path: Path
) -> None:
    config = TrainConfig(precision="16", progress=False)
    with pytest.raises(ConfigurationError, match="16 needs a GPU"):
        fit(model_config, dataset, config, execution=execution, seed=1, directory=tmp_path)


def test_a_frozen_head_keeps_its_weights(
    dataset: Dataset,
    model_config: ModelConfig,
    config: TrainConfig,
    execution: TrainExecution,
    tmp_path: Path,
) -> None:
    heads = {**model_config.heads, "signal": {**model_config.heads["signal"], "freeze": True}}
    frozen = model_config.model_copy(update={"heads": heads})
    config = config.model_copy(update={"epochs": 1})
    best = fit(frozen, dataset, config, execution=execution, seed=5, directory=tmp_path)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        start = build_model(frozen, dataset.event, dataset.contract, dataset.statistics)
    changed = {
        name.split(".")[0] + "." + name.split(".")[1]
        for name, value in content(best)["state_dict"].items()
        if not torch.equal(value, start.state_dict()[name])
    }
    assert "heads.neutrino" in changed
    assert "heads.signal" not in changed


def test_bf16_trains_with_clipped_gradients(
    dataset: Dataset, model_config: ModelConfig, execution: TrainExecution, tmp_path: Path
) -> None:
    config = TrainConfig(precision="bf16", epochs=2, batch_size=50, progress=False)
    best = fit(model_config, dataset, config, execution=execution, seed=1, directory=tmp_path)
    weights = content(best)["state_dict"]
    assert all(value.dtype != torch.bfloat16 for value in weights.values())
    history = json.loads((tmp_path / "logs" / "history.json").read_text())
    assert history[1]["train/loss"] < history[0]["train/loss"]


def test_bf16_clips_to_the_same_norm(
    dataset: Dataset, model_config: ModelConfig, execution: TrainExecution, tmp_path: Path
) -> None:
    """With plain gradient descent a step is as long as the clipped gradient allows."""
    lengths = []
    for clip in (1e-3, 2e-3):
        config = TrainConfig.model_validate(
            {
                "precision": "bf16", "epochs": 1, "batch_size": 500, "progress": False,
                "optimizer": "sgd", "learning_rate": 1.0, "weight_decay": 0, "schedule": "constant",
                "gradient_clip": clip,
            }
        )  # fmt: skip
        out = tmp_path / str(clip)
        best = fit(model_config, dataset, config, execution=execution, seed=1, directory=out)
        with torch.random.fork_rng():
            torch.manual_seed(1)
            start = build_model(
                model_config, dataset.event, dataset.contract, dataset.statistics
            ).state_dict()
        moved = [value - start[name] for name, value in content(best)["state_dict"].items()]
        lengths.append(float(torch.cat([part.flatten() for part in moved]).norm()))
    assert lengths == pytest.approx([1e-3, 2e-3], rel=1e-3)
