from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from hepset.dataset import Dataset
from hepset.errors import ConfigurationError, TrainingError, UnknownComponentError
from hepset.schema.config import ModelConfig, TrainConfig, TrainExecution
from hepset.training import checkpoints
from hepset.training.combinations import Famo, Fixed, Uncertainty, create_combination
from hepset.training.fit import fit
from hepset.training.module import TrainingModule


def losses(**values: float) -> dict[str, torch.Tensor]:
    return {
        name.replace("_", "/", 1): torch.tensor(value, requires_grad=True)
        for name, value in values.items()
    }


def gradients(terms: dict[str, torch.Tensor]) -> list[float]:
    return [0.0 if t.grad is None else t.grad.item() for t in terms.values()]


def test_fixed_is_the_sum_times_the_factors() -> None:
    combine = create_combination("fixed", ("a", "b"))
    assert isinstance(combine, Fixed)
    terms = losses(a_x=2.0, b_y=3.0, b_z=5.0)
    loss = combine(terms, {"a": 1.0, "b": 0.5})
    loss.backward()
    assert loss.item() == pytest.approx(2 + 0.5 * 8)
    assert gradients(terms) == [1, 0.5, 0.5]
    assert combine(terms, {"a": 0.0, "b": 1.0}).item() == pytest.approx(8)


def test_uncertainty_weighs_by_log_variances() -> None:
    combine = create_combination({"name": "uncertainty", "start": 0.7}, ("a", "b"))
    assert isinstance(combine, Uncertainty)
    terms = losses(a_x=2.0, b_y=3.0, b_z=5.0)
    loss = combine(terms, {"a": 1.0, "b": 0.5})
    loss.backward()
    inverse = math.exp(-0.7)
    assert loss.item() == pytest.approx(inverse * 2 + 0.35 + 0.5 * (inverse * 8 + 0.35))
    assert gradients(terms) == pytest.approx([inverse, 0.5 * inverse, 0.5 * inverse])
    slopes = [p.grad.item() for p in combine.parameters() if p.grad is not None]
    assert slopes == pytest.approx([0.5 - 2 * inverse, 0.5 * (0.5 - 8 * inverse)])
    assert combine.shares() == pytest.approx({"a": inverse, "b": inverse})


def test_uncertainty_ends_where_every_task_counts_alike() -> None:
    combine = create_combination("uncertainty", ("a", "b"))
    optimizer = torch.optim.SGD(combine.parameters(), lr=0.2)
    for _ in range(400):
        optimizer.zero_grad()
        combine(losses(a_x=0.01, b_x=7.0), {}).backward()
        optimizer.step()
    assert combine.shares() == pytest.approx({"a": 1 / 0.02, "b": 1 / 14}, rel=1e-3)


def test_uncertainty_does_not_learn_from_a_batch_without_targets() -> None:
    combine = create_combination("uncertainty", ("a", "b", "c"))
    loss = combine(losses(a_x=2.0, b_x=0.0, c_x=4.0), {"c": 0.0})
    loss.backward()
    assert loss.item() == pytest.approx(2)
    found = {name: p.grad for name, p in combine.named_parameters()}
    assert found["log_variances.b_s"] == 0
    assert found["log_variances.c_s"] is None


def test_famo_by_pencil() -> None:
    """Equal weights at first; then a step of Adam of the size of the learning rate."""
    combine = create_combination({"name": "famo", "weight_decay": 0.0}, ("a", "b"))
    assert isinstance(combine, Famo)
    terms = losses(a_x=2.0, b_x=3.0, b_y=5.0)
    loss = combine(terms, {})
    loss.backward()
    c = 1 / (0.5 / 2 + 0.5 / 8)
    assert loss.item() == pytest.approx(c * 0.5 * (math.log(2) + math.log(8)), rel=1e-6)
    assert gradients(terms) == pytest.approx([0.8, 0.2, 0.2])  # c z / D: they add up to 1.
    combine.after_step(losses(a_x=1.0, b_x=3.0, b_y=4.0), {})
    # a fell more than b, so b counts more: the first step of Adam goes by 0.025 whatever the slope.
    assert combine.logits.tolist() == pytest.approx([-0.025, 0.025], rel=1e-3)
    z = 1 / (1 + math.exp(0.05))
    assert combine.shares() == pytest.approx({"a": z, "b": 1 - z}, rel=1e-4)


def test_famo_follows_the_algorithm_of_the_paper() -> None:
    """ξ ← Adam(ξ, Jᵀ (ln ℓ − ln ℓ′) + γ ξ), with the Jacobian of the softmax by autograd."""
    generator = torch.Generator().manual_seed(3)
    combine = create_combination({"name": "famo", "weight_decay": 0.1}, ("a", "b", "c"))
    xi = torch.zeros(3, requires_grad=True)
    adam = torch.optim.Adam([xi], lr=0.025, weight_decay=0.1)
    for _ in range(5):
        before, after = torch.rand(2, 3, generator=generator) + 0.1
        z = torch.softmax(xi, 0)
        constant = 1 / (z / before).sum().detach()
        loss = combine(dict(zip(("a/x", "b/x", "c/x"), before, strict=True)), {})
        assert loss.item() == pytest.approx((constant * (z * before.log()).sum()).item(), rel=1e-5)
        combine.after_step(dict(zip(("a/x", "b/x", "c/x"), after, strict=True)), {})
        (xi.grad,) = torch.autograd.grad(z, xi, before.log() - after.log())
        adam.step()
    torch.testing.assert_close(combine.logits, xi.detach(), rtol=1e-4, atol=1e-6)


def test_famo_leaves_out_what_is_not_there_and_shifts_by_lower_bounds() -> None:
    combine = create_combination({"name": "famo", "lower": {"b": -4}}, ("a", "b", "c"))
    terms = losses(a_x=0.0, b_x=-2.0, c_x=6.0)
    combine(terms, {}).backward()
    assert gradients(terms) == pytest.approx([0, 0.75, 0.25])
    assert torch.isnan(combine(losses(a_x=1.0, b_x=-5.0), {}))
    terms = losses(a_x=2.0, b_x=0.0, c_x=6.0)  # No event has b: its bound is no distance.
    combine(terms, {}).backward()
    assert gradients(terms) == pytest.approx([0.75, 0, 0.25])
    with pytest.raises(ConfigurationError, match=r"loss_combination\.lower: .*'d'"):
        create_combination({"name": "famo", "lower": {"d": 1}}, ("a", "b"))
    with pytest.raises(UnknownComponentError, match="famo"):
        create_combination("fano", ("a",))


def test_a_loss_below_its_bound_stops_the_training(
    dataset: Dataset,
    model_config: ModelConfig,
    config: TrainConfig,
    execution: TrainExecution,
    tmp_path: Path,
) -> None:
    options = {"name": "famo", "lower": {"signal": 9.0}}
    config = config.model_copy(update={"loss_combination": options})
    with pytest.raises(TrainingError, match="famo needs positive losses"):
        fit(model_config, dataset, config, execution=execution, seed=1, directory=tmp_path)


class Killed(Exception):
    pass


@pytest.mark.parametrize("name", ["uncertainty", "famo"])
@pytest.mark.parametrize("step", [3, 5])
def test_an_interrupted_training_continues_exactly(
    dataset: Dataset,
    model_config: ModelConfig,
    config: TrainConfig,
    execution: TrainExecution,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    step: int,
) -> None:
    """Five steps per epoch, killed within the first and after it; an average goes along."""
    config = config.model_copy(
        update={
            "epochs": 2, "loss_combination": name, "callbacks": ({"name": "ema", "decay": 0.9},),
        }
    )  # fmt: skip
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
    whole, parts = (
        torch.load(tmp_path / which / "checkpoints" / "last.ckpt", weights_only=True)
        for which in ("whole", "parts")
    )
    for part in ("state_dict", "trained_state_dict"):
        for key, value in whole[part].items():
            assert torch.equal(value, parts[part][key]), key
    for key, value in whole["training"]["combination"].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, parts["training"]["combination"][key]), key
    history = json.loads((tmp_path / "whole" / "logs" / "history.json").read_text())
    shares = [record["combination/signal"] for record in history]
    assert shares[0] != shares[1]
