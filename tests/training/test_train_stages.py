from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from hepset.dataset import Dataset
from hepset.errors import ConfigurationError
from hepset.heads.regression import RegressionHead
from hepset.model import build_model
from hepset.schema.config import ModelConfig, TrainConfig, TrainExecution
from hepset.training import checkpoints
from hepset.training.combinations import Fixed
from hepset.training.fit import fit
from hepset.training.schedule import create_optimizer, learning_rate_factors
from hepset.training.stages import StagePlan

STAGES = ({"name": "warm", "epochs": 1}, {"name": "both", "epochs": 2})


def with_stages(config: TrainConfig, *stages: dict[str, Any]) -> TrainConfig:
    document = {**config.model_dump(), "stages": stages}
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
    assert history[0]["val/loss"] == history[0]["val/signal/cross_entropy"]
    assert not [name for name in history[0] if "neutrino" in name]
    neutrino = history[1]["val/neutrino/nu_px"] + history[1]["val/neutrino/nu_py"]
    total = history[1]["val/signal/cross_entropy"] + 0.5 * neutrino
    assert history[1]["val/loss"] == pytest.approx(total, rel=1e-6)
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
    start = initial(chosen, dataset)
    seen = weights_by_epoch(chosen, dataset, staged, execution, tmp_path)
    waiting = [k for k in start if k.startswith("heads.neutrino") and start[k].is_floating_point()]
    assert all(torch.equal(seen[1][k], start[k]) for k in waiting)
    assert any(not torch.equal(seen[2][k], start[k]) for k in waiting)


def initial(model: ModelConfig, dataset: Dataset) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        fresh = build_model(model, dataset.event, dataset.contract, dataset.statistics)
    return {k: v.clone() for k, v in fresh.state_dict().items()}


def weights_by_epoch(
    model: ModelConfig,
    dataset: Dataset,
    config: TrainConfig,
    execution: TrainExecution,
    directory: Path,
) -> dict[int, dict[str, torch.Tensor]]:
    seen: dict[int, dict[str, torch.Tensor]] = {}
    save = checkpoints.Checkpoints._save

    def spy(self: Any, trainer: Any, name: str) -> None:
        seen[trainer.current_epoch] = {
            k: v.clone() for k, v in trainer.lightning_module.state_dict().items()
        }
        save(self, trainer, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints.Checkpoints, "_save", spy)
        fit(model, dataset, config, execution=execution, seed=1, directory=directory)
    return seen


def test_what_a_stage_freezes_stays_and_the_rest_learns(
    dataset: Dataset,
    model_config: ModelConfig,
    config: TrainConfig,
    execution: TrainExecution,
    tmp_path: Path,
) -> None:
    """First the heads alone, then all but the embeddings of the inputs, named by a pattern."""
    staged = with_stages(
        config,
        {"name": "heads", "epochs": 1, "freeze": ["backbone"]},
        {"name": "all", "epochs": 1, "freeze": ["backbone.*mark", "heads.neutrino"]},
    )
    seen = {-1: initial(model_config, dataset)}
    seen |= weights_by_epoch(model_config, dataset, staged, execution, tmp_path)

    def changed(epoch: int) -> set[str]:
        return {k for k, v in seen[epoch].items() if not torch.equal(v, seen[epoch - 1][k])}

    assert {name.split(".")[0] for name in changed(0)} == {"heads"}
    assert {name.split(".")[1] for name in changed(0)} == {"signal", "neutrino"}
    assert not [name for name in changed(1) if name.endswith("mark")]
    assert not [name for name in changed(1) if name.startswith("heads.neutrino")]
    assert [name for name in changed(1) if name.startswith("backbone.encoder")]
    assert [name for name in changed(1) if name.startswith("heads.signal")]


def test_a_frozen_part_has_no_dropout(
    dataset: Dataset, model_config: ModelConfig, config: TrainConfig
) -> None:
    stages = [{"name": "a", "epochs": 1, "freeze": ["backbone"]}, {"name": "b", "epochs": 1}]
    model = build_model(model_config, dataset.event, dataset.contract, dataset.statistics)
    plan = StagePlan(model, with_stages(config, *stages))
    assert plan.quiet(0) == [model.backbone]
    assert plan.quiet(1) == []


def test_factors_ramp_over_their_stage(dataset: Dataset, model_config: ModelConfig) -> None:
    """Quarters of a stage of two epochs, a line from 0 to 2 and half a cosine from 1 to 0."""
    config = TrainConfig.model_validate(
        {
            "stages": [
                {"name": "plain", "epochs": 1},
                {"name": "line", "epochs": 2, "loss_weights": {"signal": [0, 2], "neutrino": 3}},
                {
                    "name": "wave", "epochs": 2, "loss_weights": {"signal": [1, 0]},
                    "ramp": "cosine",
                },
            ]
        }
    )  # fmt: skip
    model = build_model(model_config, dataset.event, dataset.contract, dataset.statistics)
    plan = StagePlan(model, config)
    assert plan.factors(0, 0.5) == {}
    found = [plan.factors(epoch, share)["signal"] for epoch in (1, 2) for share in (0, 0.5)]
    assert found == [0, 0.5, 1, 1.5]
    assert plan.factors(1, 0.5)["neutrino"] == 3
    assert plan.final_factors(1) == {"signal": 2, "neutrino": 3}
    found = [plan.factors(epoch, share)["signal"] for epoch in (3, 4) for share in (0, 0.5)]
    half = math.sqrt(0.5)
    assert found == pytest.approx([1, (1 + half) / 2, 0.5, (1 - half) / 2])


def test_the_ramped_losses_are_what_is_differentiated(
    dataset: Dataset,
    model_config: ModelConfig,
    config: TrainConfig,
    execution: TrainExecution,
    tmp_path: Path,
) -> None:
    """Signal counts less from step to step; epochs are compared by what it ends with."""
    heads = {"signal": model_config.heads["signal"]}
    plain = model_config.model_copy(update={"heads": heads})
    staged = with_stages(
        config, {"name": "down", "epochs": 1, "loss_weights": {"signal": [1, 0.5]}}
    )
    factors = []
    original = Fixed.forward

    def spy(self: Fixed, terms: Any, given: Any) -> Any:
        factors.append(dict(given))
        return original(self, terms, given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fixed, "forward", spy)
        fit(plain, dataset, staged, execution=execution, seed=1, directory=tmp_path)
    training = [f["signal"] for f in factors[:5]]
    assert training == pytest.approx([1, 0.9, 0.8, 0.7, 0.6])
    (record,) = json.loads((tmp_path / "logs" / "history.json").read_text())
    assert record["val/loss"] == pytest.approx(0.5 * record["val/signal/cross_entropy"], rel=1e-6)


def test_a_head_without_weight_in_a_stage_is_not_computed(
    dataset: Dataset,
    model_config: ModelConfig,
    config: TrainConfig,
    execution: TrainExecution,
    tmp_path: Path,
) -> None:
    staged = with_stages(
        config,
        {"name": "one", "epochs": 1, "loss_weights": {"neutrino": 0}},
        {"name": "two", "epochs": 1, "loss_weights": {"neutrino": [0, 1]}},
    )
    computed = []
    original = RegressionHead.forward

    def spy(self: Any, *args: Any) -> Any:
        computed.append(self.name)
        return original(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RegressionHead, "forward", spy)
        fit(model_config, dataset, staged, execution=execution, seed=1, directory=tmp_path)
    assert len(computed) == 5 + 2  # Batches of the second epoch: five of 50, and two of val.


def test_learning_rates_of_stages(dataset: Dataset, model_config: ModelConfig) -> None:
    """The backbone at a tenth in the first stage, and everything at half in the second."""
    config = TrainConfig.model_validate(
        {
            "learning_rate": 0.01, "schedule": "constant", "warmup_epochs": 0, "optimizer": "sgd",
            "learning_rate_factors": {"heads.neutrino": 3},
            "stages": [
                {"name": "a", "epochs": 2, "learning_rate_factors": {"backbone": 0.1}},
                {"name": "b", "epochs": 1, "learning_rate": 0.005},
            ],
        }
    )  # fmt: skip
    model = build_model(model_config, dataset.event, dataset.contract, dataset.statistics)
    optimizer = create_optimizer(model, config, fused=False)
    factors = learning_rate_factors(config, optimizer.param_groups, steps=5)
    rates: dict[str, tuple[float, float]] = {}
    for group, factor in zip(optimizer.param_groups, factors, strict=True):
        for name, parameter in model.named_parameters():
            if any(parameter is p for p in group["params"]):
                rates[name] = group["lr"] * factor(9), group["lr"] * factor(10)
    assert len(rates) == len(list(model.parameters()))
    for name, found in rates.items():
        expected = (0.001, 0.005) if name.startswith("backbone") else (0.01, 0.005)
        if name.startswith("heads.neutrino"):
            expected = (0.03, 0.015)
        assert found == pytest.approx(expected), name


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        ({"freeze": ["backbnoe"]}, "no parameter that is trained is called 'backbnoe'.*'backbone'"),
        ({"freeze": ["*"]}, "every parameter of what learns is frozen in 'a'"),
        (
            {"freeze": ["backbone", "heads.signal"], "loss_weights": {"neutrino": 0}},
            "every parameter of what learns is frozen in 'a'",
        ),
        ({"loss_weights": {"sginal": 1}}, r"stages\.0\.loss_weights: .*'sginal'.*'signal'"),
        ({"loss_weights": {"signal": 0, "neutrino": [0, 0]}}, "no head learns in 'a'"),
    ],
)
def test_options_of_stages_are_checked(
    dataset: Dataset,
    model_config: ModelConfig,
    config: TrainConfig,
    stage: dict[str, Any],
    message: str,
) -> None:
    model = build_model(model_config, dataset.event, dataset.contract, dataset.statistics)
    staged = with_stages(config, {"name": "a", "epochs": 1, **stage})
    with pytest.raises(ConfigurationError, match=message):
        StagePlan(model, staged)


def test_trainings_made_before_an_option_came_are_up_to_date() -> None:
    plain = TrainConfig.model_validate({"stages": [{"name": "a", "epochs": 2}]}).influences()
    assert plain["stages"] == [{"name": "a", "epochs": 2}]
    assert not {"callbacks", "loss_combination", "steps", "progress"} & set(plain)
    used = TrainConfig.model_validate(
        {
            "stages": [{"name": "a", "epochs": 2, "ramp": "cosine"}], "schedule": "step",
            "loss_combination": "famo", "callbacks": [{"name": "ema"}],
        }
    ).influences()  # fmt: skip
    assert used["stages"] == [{"name": "a", "epochs": 2, "ramp": "cosine"}]
    assert used["steps"] == {"epochs": 10.0, "factor": 0.1}
    assert used["loss_combination"] == "famo"
    assert used["callbacks"] == [{"name": "ema"}]


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
