from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

from hepset.errors import TrainingError
from hepset.interfaces.head import LossTerm
from hepset.training.losses import LossSums, WeightedLoss, summarise_weights


class FakeHead:
    weighs_targets = False

    def __init__(self, factor: float, targets: list[str]) -> None:
        self.config = type("Config", (), {"loss_weight": factor})()
        self._targets = targets

    def contract(self, event: object) -> Any:
        from hepset.schema.contract import Contract
        from hepset.schema.tensors import TensorSpec

        del event
        specs = [
            TensorSpec(
                name=f"target/{name}", kind="target", dims=("event",), shape=(None,),
                dtype="float32",
            )
            for name in self._targets
        ]  # fmt: skip
        return Contract(tensors={spec.name: spec for spec in specs})


class FakeModel:
    event = None

    def __init__(self, **heads: FakeHead) -> None:
        self._heads = heads
        self.config = type("Config", (), {"heads": dict.fromkeys(heads)})()

    def head(self, name: str) -> FakeHead:
        return self._heads[name]


def summaries(**means: float) -> dict[str, Any]:
    from hepset.training.losses import WeightSummary

    names = {key.replace("_", "/", 1): value for key, value in means.items()}
    return {name: WeightSummary(mean, 0.0, 10.0, 10) for name, mean in names.items()}


def combine(policy: Any = "keep", **means: float) -> WeightedLoss:
    model = FakeModel(a=FakeHead(1.0, ["x"]), b=FakeHead(0.5, ["y", "z"]))
    return WeightedLoss(model, summaries(**means), policy)  # type: ignore[arg-type]


def term(*values: float, valid: list[bool] | None = None) -> LossTerm:
    return LossTerm(
        torch.tensor(values), torch.tensor([True] * len(values) if valid is None else valid)
    )


def test_mean_over_valid_events_times_the_factor_of_the_head() -> None:
    nan = float("nan")
    terms = {
        "a/ce": term(1.0, 3.0, nan, valid=[True, True, False]),
        "b/y": term(2.0, 2.0, 5.0),
        "b/z": term(nan, nan, nan, valid=[False] * 3),
    }
    loss, sums = combine()(terms, {})
    assert loss.item() == pytest.approx(2 + 0.5 * 3)
    assert {name: (float(s), int(n)) for name, (s, n) in sums.items()} == {
        "a/ce": (4, 2), "b/y": (9, 3), "b/z": (0, 0),
    }  # fmt: skip


def test_a_batch_without_targets_gives_zero_with_zero_gradients() -> None:
    value = torch.tensor([float("nan"), 1.0], requires_grad=True)
    loss, _ = combine()({"a/ce": LossTerm(value * 2, torch.tensor([False, False]))}, {})
    loss.backward()
    assert loss.item() == 0
    assert value.grad is not None
    assert value.grad.tolist() == [0, 0]


def test_linear_in_the_weights_whatever_their_normalisation() -> None:
    values = {"a/ce": term(1.0, 2.0, 4.0)}

    def loss(weights: list[float], mean: float = 1.0) -> float:
        batch = {"weight": torch.tensor(weights, dtype=torch.float64)}
        return combine(weight=mean)(values, batch)[0].item()

    one, two = [1.0, 0.5, 2.0], [0.0, 3.0, -1.0]
    both = [x + y for x, y in zip(one, two, strict=True)]
    assert loss(both) == pytest.approx(loss(one) + loss(two))
    assert loss(one) == pytest.approx((1 + 1 + 8) / 3)
    assert loss([w * 1e-4 for w in one], 1e-4) == pytest.approx(loss(one))


@pytest.mark.parametrize(
    ("policy", "expected"),
    [("keep", (1 - 2 + 4) / 3), ("abs", (1 + 2 + 4) / 3), ("drop", (1 + 4) / 2)],
)
def test_negative_weights(policy: str, expected: float) -> None:
    batch = {"weight": torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)}
    loss, _ = combine(policy, weight=1.0)({"a/ce": term(1.0, 2.0, 4.0)}, batch)
    assert loss.item() == pytest.approx(expected)


def test_the_weight_of_a_target_acts_on_its_own_term() -> None:
    batch = {
        "weight": torch.tensor([2.0, 2.0]),
        "weight/y": torch.tensor([3.0, 3.0]),
        "weight/z": torch.tensor([5.0, 5.0]),
    }
    loss = combine(weight=1.0, weight_y=1.0, weight_z=1.0)
    ones = term(1.0, 1.0)
    found = loss({"a/ce": ones, "b/y": ones, "b/z": ones, "b/nll": ones}, batch)[1]
    assert {n: (s / c).item() for n, (s, c) in found.items()} == {
        "a/ce": 2, "b/y": 6, "b/z": 10, "b/nll": 30,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("policy", "expected"), [("keep", [2.0, -4.0]), ("abs", [2.0, 4.0]), ("drop", [2.0, 0.0])]
)
def test_a_head_may_weigh_its_targets_itself(policy: Any, expected: list[float]) -> None:
    """It is given the weights with mean magnitude one, and its terms are left alone."""
    head = FakeHead(1.0, ["x"])
    head.weighs_targets = True
    weights = summaries(weight=1.0, weight_x=0.5)
    combined = WeightedLoss(FakeModel(a=head), weights, policy)  # type: ignore[arg-type]
    batch = {"weight": torch.tensor([3.0, 1.0]), "weight/x": torch.tensor([1.0, -2.0])}
    prepared = combined.prepared(batch)
    assert prepared["weight/x"].tolist() == expected
    assert prepared["weight"].tolist() == [3.0, 1.0]
    loss, _ = combined({"a/ce": term(1.0, 5.0)}, batch)
    assert loss.item() == pytest.approx((3 * 1 + 1 * 5) / 2)


def test_processes_with_unequal_targets_give_the_gradient_of_one_large_batch() -> None:
    parts = [
        {"a/ce": term(1.0, 3.0, 5.0), "b/y": term(1.0, valid=[False])},
        {"a/ce": term(7.0, 0.0, 0.0, valid=[True, False, False]), "b/y": term(2.0)},
    ]
    counts = [torch.tensor([3.0, 0.0]), torch.tensor([1.0, 1.0])]
    mean = (counts[0] + counts[1]) / 2
    losses = [combine()(part, {}, lambda _: mean)[0].item() for part in parts]
    assert sum(losses) / 2 == pytest.approx((1 + 3 + 5 + 7) / 4 + 0.5 * 2)


def test_sums_of_batches_give_the_mean_over_events() -> None:
    sums, loss = LossSums(), combine()
    for part in ({"a/ce": term(1.0, 2.0, 6.0)}, {"a/ce": term(11.0)}):
        for name, (total, count) in loss(part, {})[1].items():
            sums.add(name, total, count)
    pairs = sums.stacked(sums.names, torch.device("cpu")).tolist()
    assert loss.mean({"a/ce": tuple(pairs[0])}) == {"loss": 5.0, "a/ce": 5.0}
    again = LossSums({"a/ce": pairs[0]})
    again.add("a/ce", torch.tensor(4.0), torch.tensor(1))
    assert again.stacked(["a/ce", "b/y"], torch.device("cpu")).tolist() == [[24, 5], [0, 0]]


def test_weights_of_the_training_split_are_summarised(
    write_dataset: Any, event: Any, tensors: Any, caplog: pytest.LogCaptureFixture
) -> None:
    train = tensors(40, 0)
    train["weight"] = np.array([1.0] * 30 + [-2.0] * 10)
    train["weight/signal"] = np.full(40, 0.5)
    split = write_dataset(event, {"train": train}).split("train")
    with caplog.at_level(logging.WARNING):
        found = summarise_weights(split, ["weight", "weight/signal", "weight/none"], "keep")
    assert set(found) == {"weight", "weight/signal"}
    assert found["weight"].mean == pytest.approx(50 / 40)
    assert found["weight"].negative == pytest.approx(0.25)
    assert found["weight"].effective == pytest.approx(10**2 / 70)
    assert found["weight/signal"].mean == pytest.approx(0.5)
    assert "25.0% of 40 training events have negative weights" in caplog.text
    with pytest.raises(TrainingError, match=r"negative_weights: keep, abs or drop"):
        summarise_weights(split, ["weight"], "error")
