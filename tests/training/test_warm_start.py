"""Trainings that begin with the backbone of another, and learning rates by part of the model."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from hepset.dataset import Dataset
from hepset.errors import ConfigurationError
from hepset.model import build_model
from hepset.run import Run
from hepset.schema.config import ModelConfig, StartFrom, TrainConfig, TrainExecution
from hepset.training.fit import fit, training_key
from hepset.training.schedule import create_optimizer, learning_rate_factor
from hepset.training.warm_start import start_from


def weights(path: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return found


@pytest.fixture
def short(config: TrainConfig) -> TrainConfig:
    return config.model_copy(update={"epochs": 1})


@pytest.fixture
def first(
    dataset: Dataset,
    model_config: ModelConfig,
    short: TrainConfig,
    execution: TrainExecution,
    tmp_path: Path,
) -> Path:
    directory = tmp_path / "first"
    fit(model_config, dataset, short, execution=execution, seed=5, directory=directory)
    return directory


def test_a_frozen_backbone_is_that_of_the_other_run_and_heads_are_new(
    dataset: Dataset,
    model_config: ModelConfig,
    short: TrainConfig,
    execution: TrainExecution,
    first: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    start = StartFrom(path=str(first), heads=("neutrino",), freeze=True)
    config = short.model_copy(update={"start_from": start})
    with caplog.at_level(logging.INFO):
        best = fit(
            model_config, dataset, config, execution=execution, seed=6, directory=tmp_path / "b"
        )
    assert "new heads: signal" in caplog.text
    before, after = weights(first / "checkpoints/best.ckpt"), weights(best)
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert {name for name in before if name.startswith("backbone.")} <= same
    assert not any(name.startswith("heads.") and name.endswith("weight") for name in same)


def test_a_continued_training_does_not_start_again(
    dataset: Dataset,
    model_config: ModelConfig,
    short: TrainConfig,
    execution: TrainExecution,
    first: Path,
    tmp_path: Path,
) -> None:
    config = short.model_copy(update={"start_from": StartFrom(path=str(first))})
    once = fit(model_config, dataset, config, execution=execution, seed=6, directory=tmp_path / "b")
    key = training_key(model_config, dataset, config, 6)
    assert key != training_key(model_config, dataset, short, 6)
    stored = weights(once)
    again = fit(
        model_config, dataset, config, execution=execution, seed=6, directory=tmp_path / "b"
    )
    assert all(torch.equal(value, stored[name]) for name, value in weights(again).items())
    # Other weights under the same path are another beginning.
    checkpoint = first / "checkpoints/best.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    content["epoch"] = 99
    torch.save(content, checkpoint)
    assert training_key(model_config, dataset, config, 6) != key


def test_what_does_not_fit_is_named(
    dataset: Dataset, model_config: ModelConfig, first: Path, tmp_path: Path
) -> None:
    def build(**backbone: Any) -> Any:
        changed = {**model_config.backbone, **backbone}
        config = model_config.model_copy(update={"backbone": changed})
        return build_model(config, dataset.event, dataset.contract, dataset.statistics)

    with pytest.raises(ConfigurationError, match=r"weights do not fit: .*there.*here"):
        start_from(build(width=32), StartFrom(path=str(first)))
    with pytest.raises(ConfigurationError, match=r"no head 'signl'; did you mean 'signal'"):
        start_from(build(), StartFrom(path=str(first), heads=("signl",)))
    with pytest.raises(ConfigurationError, match="nowhere"):
        start_from(build(), StartFrom(path=str(tmp_path / "nowhere")))
    model = build()
    spec = model.contract["jets"]
    features = {k: f.model_copy(update={"transform": ()}) for k, f in spec.features.items()}
    tensors = {**model.contract.tensors, "jets": spec.model_copy(update={"features": features})}
    model.contract = model.contract.model_copy(update={"tensors": tensors})
    with pytest.raises(ConfigurationError, match="the inputs and their transforms have to be"):
        start_from(model, StartFrom(path=str(first)))


def test_the_statistics_of_the_inputs_come_with_the_backbone(
    dataset: Dataset, model_config: ModelConfig, first: Path
) -> None:
    model = build_model(model_config, dataset.event, dataset.contract, dataset.statistics)
    stored = weights(first / "checkpoints/best.ckpt")
    trained = {k: v for k, v in stored.items() if k.startswith("transform.") and "mean" in k}
    assert trained
    for name in trained:
        model.get_buffer(name).add_(1.0)
    start_from(model, StartFrom(path=str(first)))
    for name, value in trained.items():
        assert torch.equal(model.get_buffer(name), value)


def test_paths_of_a_run_file_are_relative_to_it(tmp_path: Path) -> None:
    event = {"streams": {"jets": {"features": ["pt"]}}}
    file = tmp_path / "run.yaml"
    for written in ("start_from: base", "start_from: {path: base}"):
        file.write_text(f"event: {event}\ntrain: {{{written}}}\n")
        start = Run.from_yaml(file).config.train.start_from
        assert start is not None
        assert start.path == str(tmp_path / "base")


def test_learning_rates_by_part(dataset: Dataset, model_config: ModelConfig) -> None:
    model = build_model(model_config, dataset.event, dataset.contract, dataset.statistics)
    config = TrainConfig(
        learning_rate=1e-3,
        learning_rate_factors={"heads.signal": 50, "backbone": 0.5, "backbone.encoder": 0.25},
        scale_learning_rate="linear",
    )
    optimizer = create_optimizer(model, config, fused=False, devices=4)
    names = {id(p): name for name, p in model.named_parameters()}
    rates = {names[id(p)]: g["lr"] for g in optimizer.param_groups for p in g["params"]}
    decays = {names[id(p)]: g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    assert set(rates) == {name for name, _ in model.named_parameters()}
    for name, rate in rates.items():
        expected = 4e-3 * (
            50 if name.startswith("heads.signal.")
            else 0.25 if name.startswith("backbone.encoder.")
            else 0.5 if name.startswith("backbone.")
            else 1
        )  # fmt: skip
        assert rate == pytest.approx(expected), name
        if name.endswith("bias"):
            assert decays[name] == 0
    assert 0.01 in decays.values()
    root = create_optimizer(
        model, config.model_copy(update={"scale_learning_rate": "sqrt"}), fused=False, devices=4
    )
    assert {g["lr"] for g in root.param_groups} == {g["lr"] / 2 for g in optimizer.param_groups}
    wrong = config.model_copy(update={"learning_rate_factors": {"head.signal": 2.0}})
    with pytest.raises(ConfigurationError, match=r"'head.signal'; did you mean 'heads.signal'"):
        create_optimizer(model, wrong, fused=False)


def test_flat_decay_ends_at_one_percent() -> None:
    def factors(epochs: int, steps: int = 3) -> list[float]:
        return [
            learning_rate_factor(
                step, warmup=0, total=epochs * steps, schedule="flat_decay", epochs=epochs
            )
            for step in range(epochs * steps)
        ]

    found = factors(80)
    assert found[: 56 * 3] == [1.0] * 168
    # 24 epochs of 0.01^(1/24) = 0.825 each.
    assert found[168] == pytest.approx(0.825, abs=5e-4)
    assert found[168] == found[170]
    assert found[171] == pytest.approx(0.825**2, abs=1e-3)
    assert found[-1] == pytest.approx(0.01)
    assert factors(50)[35 * 3] == pytest.approx(0.736, abs=5e-4)
    assert factors(1, 2) == [pytest.approx(0.01)] * 2
