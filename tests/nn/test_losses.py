"""Losses against pencil numbers, torch's own and the promise that NaN targets cannot hurt."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor
from torch.nn import functional

from hepset.errors import ConfigurationError, ContractError
from hepset.nn import losses

NAN = math.nan
ONE_OUTPUT = {
    "mse": losses.mse,
    "huber": losses.huber,
    "binary": losses.binary_cross_entropy,
}
TWO_OUTPUTS = {"gaussian": losses.gaussian_nll, "laplace": losses.laplace_nll}


def _close(found: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-6, atol=1e-6)


def test_pencil_cross_entropy() -> None:
    logits = torch.tensor([[0.0, math.log(3.0)], [NAN, NAN], [0.0, 0.0]])
    found = losses.cross_entropy(logits, torch.tensor([1, -1, 0]))
    _close(found.value, [math.log(4 / 3), 0.0, math.log(2)])
    assert found.valid.tolist() == [True, False, True]
    weighted = losses.cross_entropy(
        logits, torch.tensor([1, -1, 0]), class_weights=torch.tensor([2.0, 10.0])
    )
    _close(weighted.value, [10 * math.log(4 / 3), 0.0, 2 * math.log(2)])
    smooth = losses.cross_entropy(logits, torch.tensor([1, -1, 0]), label_smoothing=0.5)
    _close(smooth.value, [0.75 * math.log(4 / 3) + 0.25 * math.log(4), 0.0, math.log(2)])


def test_pencil_regressions() -> None:
    prediction, target = torch.tensor([1.0, 1.0, 5.0]), torch.tensor([1.5, NAN, 1.0])
    _close(losses.mse(prediction, target).value, [0.25, 0, 16])
    _close(losses.huber(prediction, target, beta=2.0).value, [0.125, 0, 2 * (4 - 1)])
    half_log_two_pi = 0.5 * math.log(2 * math.pi)
    zero = torch.zeros(3)
    _close(
        losses.gaussian_nll(prediction, zero, target).value,
        [0.125 + half_log_two_pi, 0, 8 + half_log_two_pi],
    )
    _close(
        losses.laplace_nll(prediction, zero, target).value,
        [0.5 + math.log(2), 0, 4 + math.log(2)],
    )
    # softplus(0) = ln 2: quantiles 1 and 1 + ln 2 of a target 2, or missing.
    raw = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    found = losses.quantile_loss(raw, torch.tensor([2.0, NAN]), [0.25, 0.75])
    _close(found.value, [(0.25 * 1 + 0.75 * (1 - math.log(2))) / 2, 0])
    above = losses.quantile_loss(raw[:1], torch.tensor([0.0]), [0.25, 0.75])
    _close(above.value, [(0.75 * 1 + 0.25 * (1 + math.log(2))) / 2])


def test_likelihoods_are_those_of_torch_distributions() -> None:
    mean, raw, target = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    scale = losses.bounded_log_scale(raw)
    normal = torch.distributions.Normal(mean, torch.exp(scale / 2))
    torch.testing.assert_close(
        losses.gaussian_nll(mean, raw, target).value, -normal.log_prob(target)
    )
    laplace = torch.distributions.Laplace(mean, torch.exp(scale))
    torch.testing.assert_close(
        losses.laplace_nll(mean, raw, target).value, -laplace.log_prob(target)
    )


def test_cross_entropy_is_that_of_torch() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(5, 7, 4, generator=generator)
    target = torch.randint(0, 4, (5, 7), generator=generator)
    weights = torch.rand(4, generator=generator)
    found = losses.cross_entropy(logits, target, class_weights=weights, label_smoothing=0.1)
    expected = functional.cross_entropy(
        logits.movedim(-1, 1), target, weight=weights, label_smoothing=0.1, reduction="none"
    )
    torch.testing.assert_close(found.value, expected)


@pytest.mark.parametrize("loss", ONE_OUTPUT.values(), ids=ONE_OUTPUT)
def test_missing_targets_leave_no_trace_in_one_output(
    loss: Callable[[Tensor, Tensor], losses.EventLoss],
) -> None:
    prediction = torch.tensor([0.3, NAN, math.inf, 0.1, 0.5], requires_grad=True)
    target = torch.tensor([1.0, NAN, NAN, NAN, 0.0])
    found = loss(prediction, target)
    assert found.valid.tolist() == [True, False, False, False, True]
    found.value.sum().backward()
    assert prediction.grad is not None
    assert torch.isfinite(prediction.grad).all()
    assert prediction.grad[1:4].tolist() == [0, 0, 0]
    assert (prediction.grad[[0, 4]] != 0).all()


@pytest.mark.parametrize("loss", TWO_OUTPUTS.values(), ids=TWO_OUTPUTS)
def test_missing_targets_leave_no_trace_in_two_outputs(
    loss: Callable[[Tensor, Tensor, Tensor], losses.EventLoss],
) -> None:
    outputs = torch.tensor([[0.3, NAN, 2.0, 1e20], [1.0, 1.0, -math.inf, 0.0]], requires_grad=True)
    found = loss(outputs[0], outputs[1], torch.tensor([1.0, NAN, NAN, NAN]))
    found.value.sum().backward()
    assert outputs.grad is not None
    assert torch.isfinite(outputs.grad).all()
    assert not outputs.grad[:, 1:].any()
    assert outputs.grad[:, 0].all()


def test_missing_targets_leave_no_trace_in_quantiles_and_classes() -> None:
    raw = torch.tensor([[0.0, 1, 2], [NAN, NAN, NAN], [1, 1, 1]], requires_grad=True)
    losses.quantile_loss(raw, torch.tensor([1.5, NAN, NAN]), [0.1, 0.5, 0.9]).value.sum().backward()
    assert raw.grad is not None
    assert torch.isfinite(raw.grad).all()
    assert not raw.grad[1:].any()
    raw.grad = None
    losses.cross_entropy(raw, torch.tensor([2, -1, -1])).value.sum().backward()
    assert torch.isfinite(raw.grad).all()
    assert not raw.grad[1:].any()


@pytest.mark.parametrize("loss", TWO_OUTPUTS.values(), ids=TWO_OUTPUTS)
@pytest.mark.parametrize("raw", [-1e6, -50.0, 50.0, 1e6])
def test_extreme_widths_stay_finite(
    loss: Callable[[Tensor, Tensor, Tensor], losses.EventLoss], raw: float
) -> None:
    outputs = torch.tensor([[3.0], [raw]], requires_grad=True)
    value = loss(outputs[0], outputs[1], torch.tensor([0.0])).value
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(outputs.grad).all()


@pytest.mark.parametrize("name", [*ONE_OUTPUT, *TWO_OUTPUTS, "quantile"])
def test_gradients_agree_with_differences(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    target = torch.rand(6, dtype=torch.float64, generator=generator)
    target[2] = NAN
    outputs = torch.randn(6, 3, dtype=torch.float64, generator=generator, requires_grad=True)

    def value(x: Tensor) -> Tensor:
        if name in ONE_OUTPUT:
            return ONE_OUTPUT[name](x[:, 0], target).value
        if name in TWO_OUTPUTS:
            return TWO_OUTPUTS[name](x[:, 0], x[:, 1], target).value
        return losses.quantile_loss(x, target, [0.2, 0.5, 0.8]).value

    assert torch.autograd.gradcheck(value, (outputs,))


def test_gaussian_minimum_is_the_sample_mean_and_variance() -> None:
    target = torch.tensor([1.0, 3.0, 5.0, NAN], dtype=torch.float64)
    # Mean 3, variance 8/3: both gradients vanish there.
    raw_at_best = 10 * math.atanh(math.log(8 / 3) / 10)
    outputs = torch.tensor([3.0, raw_at_best], dtype=torch.float64, requires_grad=True)
    mean, raw = outputs[0].expand(4), outputs[1].expand(4)
    losses.gaussian_nll(mean, raw, target).value.sum().backward()
    torch.testing.assert_close(outputs.grad, torch.zeros(2, dtype=torch.float64))


@given(hnp.arrays(np.float64, (5, 4), elements=st.floats(-30, 30)))
def test_quantiles_never_cross(raw: np.ndarray) -> None:
    found = losses.ordered_quantiles(torch.as_tensor(raw))
    assert (found.diff(dim=-1) >= 0).all()
    torch.testing.assert_close(found[:, 0], torch.as_tensor(raw[:, 0]))


def test_pinball_minimum_is_the_quantile() -> None:
    target = torch.arange(101, dtype=torch.float64)
    scan = torch.arange(101, dtype=torch.float64)
    values = [losses.quantile_loss(q.expand(101, 1), target, [0.9]).value.sum() for q in scan]
    assert int(torch.stack(values).argmin()) == 90


def test_half_precision_is_computed_in_single() -> None:
    prediction = torch.tensor([300.0, 1.0], dtype=torch.float16)
    found = losses.mse(prediction, torch.tensor([0.0, 1.0]))
    assert found.value.dtype == torch.float32
    assert found.value.tolist() == [90000.0, 0.0]


def test_a_batch_without_events() -> None:
    nothing = torch.zeros(0)
    assert losses.mse(nothing, nothing).value.shape == (0,)
    assert losses.cross_entropy(torch.zeros(0, 3), nothing.long()).value.shape == (0,)
    assert losses.quantile_loss(torch.zeros(0, 2), nothing, [0.1, 0.9]).value.shape == (0,)


def test_mean_over_objects() -> None:
    prediction = torch.tensor([[1.0, 2.0, 9.0], [1.0, 1.0, 1.0]])
    target = torch.tensor([[0.0, 0.0, NAN], [NAN, NAN, NAN]])
    found = losses.mean_over_objects(losses.mse(prediction, target))
    assert found.value.tolist() == [2.5, 0.0]
    assert found.valid.tolist() == [True, False]


def test_infinite_target_is_not_hidden() -> None:
    found = losses.mse(torch.zeros(1), torch.tensor([math.inf]))
    assert found.valid.all()
    assert torch.isinf(found.value).all()


def test_wrong_input_is_refused() -> None:
    with pytest.raises(ContractError, match=r"mse: predictions \(3, 1\) do not fit .*\(3,\)"):
        losses.mse(torch.zeros(3, 1), torch.zeros(3))
    with pytest.raises(ContractError, match=r"from 0 to 5, but there are 2 classes, 0 to 1"):
        losses.cross_entropy(torch.zeros(2, 2), torch.tensor([5, -1]))
    with pytest.raises(ContractError, match=r"from -2 to 1"):
        losses.cross_entropy(torch.zeros(2, 2), torch.tensor([1, -2]))
    with pytest.raises(ContractError, match="cross_entropy"):
        losses.cross_entropy(torch.zeros(2, 3, 4), torch.zeros(2, dtype=torch.long))
    with pytest.raises(ConfigurationError, match="label_smoothing"):
        losses.cross_entropy(torch.zeros(2, 2), torch.tensor([1, 0]), label_smoothing=1.0)
    with pytest.raises(ConfigurationError, match="beta must be positive, got 0"):
        losses.huber(torch.zeros(2), torch.zeros(2), beta=0)
    for levels in ([], [0.5, 0.5], [0.0, 0.5], [0.9, 0.1]):
        with pytest.raises(ConfigurationError, match="strictly increasing"):
            losses.quantile_loss(torch.zeros(2, len(levels)), torch.zeros(2), levels)
