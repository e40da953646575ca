from __future__ import annotations

import pytest
import torch
from torch import nn

from hepset.errors import ConfigurationError, UnknownComponentError
from hepset.schema.config import TrainConfig
from hepset.training.schedule import (
    create_optimizer,
    learning_rate_factor,
    learning_rate_factors,
    parameter_groups,
)


def test_linear_warm_up_then_half_a_cosine() -> None:
    def factor(step: int, schedule: str = "cosine") -> float:
        return learning_rate_factor(step, warmup=4, total=24, schedule=schedule)

    assert [factor(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert factor(4) == 1
    assert factor(14) == pytest.approx(0.5)
    assert factor(9) == pytest.approx(0.5 + 0.5**1.5)
    assert factor(24) == pytest.approx(0)
    assert factor(14, "constant") == 1
    assert learning_rate_factor(0, warmup=0, total=10, schedule="cosine") == 1
    assert learning_rate_factor(9, warmup=10, total=10, schedule="cosine") == 1
    assert learning_rate_factor(0, warmup=2.5, total=10, schedule="cosine") == 0.4


def test_equal_steps_down() -> None:
    """A third every two and a half epochs of four steps, counted from the first step."""
    factors = [
        learning_rate_factor(step, warmup=2, total=100, schedule="step", fall=(10, 1 / 3))
        for step in (0, 1, 9, 10, 19, 20, 35)
    ]
    assert factors == pytest.approx([0.5, 1, 1, 1 / 3, 1 / 3, 1 / 9, 1 / 27])
    config = TrainConfig.model_validate(
        {"schedule": "step", "steps": {"epochs": 2.5, "factor": 0.5}, "warmup_epochs": 0}
    )
    (factor,) = learning_rate_factors(config, [{}], steps=4)
    assert [factor(step) for step in (9, 10, 20)] == [1, 0.5, 0.25]


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.norm = nn.LayerNorm(2)
        self.embedding = nn.Embedding(4, 2)
        self.attention = nn.MultiheadAttention(2, 1)
        self.token = nn.Parameter(torch.zeros(1, 2))
        self.frozen = nn.Linear(2, 2).requires_grad_(False)


def test_only_matrices_decay() -> None:
    net = Net()
    decaying, others = parameter_groups(net, 0.1)
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    expected = [
        net.linear.weight, net.attention.in_proj_weight, net.attention.out_proj.weight,
    ]  # fmt: skip
    assert {id(p) for p in decaying["params"]} == {id(p) for p in expected}
    assert id(net.frozen.weight) not in {id(p) for g in (decaying, others) for p in g["params"]}
    assert len(others["params"]) == 7


def test_optimizers_by_name_with_options() -> None:
    def make(**options: object) -> torch.optim.Optimizer:
        return create_optimizer(Net(), TrainConfig.model_validate(options), fused=False)

    assert isinstance(make(), torch.optim.AdamW)
    sgd = make(optimizer={"name": "sgd", "momentum": 0.9}, learning_rate=0.1)
    assert isinstance(sgd, torch.optim.SGD)
    assert sgd.param_groups[0]["momentum"] == 0.9
    assert sgd.param_groups[0]["lr"] == 0.1
    with pytest.raises(UnknownComponentError, match="adamw"):
        make(optimizer="adamv")
    with pytest.raises(ConfigurationError, match="momentun"):
        make(optimizer={"name": "sgd", "momentun": 0.9})
    with pytest.raises(ConfigurationError, match=r"set train\.learning_rate"):
        make(optimizer={"name": "sgd", "lr": 0.9})
    with pytest.raises(ConfigurationError, match="'name' is missing"):
        make(optimizer={"momentum": 0.9})
    with pytest.raises(ConfigurationError, match="every parameter is frozen"):
        create_optimizer(Net().requires_grad_(False), TrainConfig(), fused=False)
