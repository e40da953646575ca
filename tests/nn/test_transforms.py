"""Feature and target transforms: formulas, round trips, padding, missing values, spreads."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hepset.errors import ConfigurationError
from hepset.nn.transforms import FeatureTransform, TargetTransform
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo
from hepset.schema.feature import Feature
from hepset.schema.statistics import ColumnStatistics, Statistics, TensorStatistics

FEATURES = {
    "eta": Feature(transform=("standardise",)),
    "pt": Feature(transform=("log1p", "standardise")),
    "phi": Feature(transform=("circular",)),
    "mass": Feature(transform=("log",)),
    "btag": Feature(),
    "d0": Feature(transform=("asinh", "standardise")),
}


def column(mean: float, width: float) -> ColumnStatistics:
    return ColumnStatistics(count=100, mean=mean, m2=100 * width**2)


STATISTICS = TensorStatistics(
    columns={"eta": column(0.5, 2.0), "pt": column(80.0, 30.0), "d0": column(0.0, 1.0)},
    transformed={"pt": column(4.0, 0.5), "d0": column(0.1, 0.2)},
)


def transform() -> FeatureTransform:
    return FeatureTransform(FEATURES, STATISTICS, "jets")


def test_every_step_is_its_formula() -> None:
    x = torch.tensor([[1.5, 99.0, 0.3, 7.0, 1.0, -4.0]])
    expected = [
        (1.5 - 0.5) / 2.0,
        (math.log(100.0) - 4.0) / 0.5,
        math.cos(0.3),
        math.sin(0.3),
        math.log(7.0),
        1.0,
        (math.asinh(-2.0) - 0.1) / 0.2,
    ]
    found = transform()(x)
    np.testing.assert_allclose(found[0].numpy(), expected, rtol=2e-6)


VALUES = st.tuples(
    st.floats(-5, 5),
    st.floats(0, 5000),
    st.floats(-3.1, 3.1),
    st.floats(1e-3, 1000),
    st.floats(-1, 1),
    st.floats(-1000, 1000),
)


@settings(deadline=None, max_examples=50)
@given(st.lists(VALUES, min_size=1, max_size=5))
def test_there_and_back(rows: list[tuple[float, ...]]) -> None:
    x = torch.tensor(rows)
    back = transform().inverse(transform()(x))
    assert back.shape == x.shape
    np.testing.assert_allclose(back.numpy(), x.numpy(), rtol=1e-5, atol=2e-5)


def test_padding_gives_zero_whatever_it_holds_and_no_gradient() -> None:
    mask = torch.tensor([[True, False, False]])
    x = torch.ones(1, 3, 6)
    x[0, 1] = float("nan")
    x[0, 2] = -5.0
    x.requires_grad_()
    y = transform()(x, mask)
    assert (y[0, 1:] == 0).all()
    y.sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert (x.grad[0, 1:] == 0).all()
    assert (x.grad[0, 0] != 0).any()


def test_values_below_a_logarithm_stay_finite() -> None:
    x = torch.tensor([[0.0, -1.0, 0.0, 0.0, 0.0, 0.0], [0.0, -7.0, 0.0, -3.0, 0.0, 0.0]])
    y = transform()(x)
    assert torch.isfinite(y).all()
    assert torch.isfinite(transform().inverse(y)).all()


def test_nan_is_not_hidden() -> None:
    x = torch.ones(1, 6)
    x[0, 1] = float("nan")
    assert torch.isnan(transform()(x))[0].tolist() == [False, True] + [False] * 5


def test_standardise_without_statistics_is_an_error() -> None:
    features = {"pt": Feature(transform=("log1p", "standardise"))}
    raw_only = TensorStatistics(columns={"pt": column(80.0, 30.0)})
    for statistics in (None, raw_only):
        with pytest.raises(ConfigurationError, match=r"jets\.pt: standardise needs"):
            FeatureTransform(features, statistics, "jets")


def test_the_scale_is_saved_with_the_weights() -> None:
    other = FeatureTransform(
        FEATURES,
        TensorStatistics(
            columns={"eta": column(0, 1)}, transformed={"pt": column(0, 1), "d0": column(0, 1)}
        ),
        "jets",
    )
    other.load_state_dict(transform().state_dict())
    x = torch.rand(4, 6) + 0.1
    assert torch.equal(other(x), transform()(x))
    assert set(transform().state_dict()) == {"mean", "width"}


EVENT = EventInfo.parse(
    {
        "globals": {"met": {"features": ["pt"]}},
        "targets": {
            "m": {"kind": "regression", "transform": ["log1p", "standardise"]},
            "pz": {"kind": "regression", "unit": "GeV"},
            "angle": {"kind": "regression", "transform": "circular"},
        },
    },
    "event",
)
TARGETS = Statistics(
    events=10,
    tensors={
        "target/m": TensorStatistics(
            columns={"": column(400, 100)}, transformed={"": column(6.0, 0.25)}
        ),
        "target/pz": TensorStatistics(columns={"": column(10.0, 200.0)}),
        "target/angle": TensorStatistics(columns={"": column(0.0, 1.8)}),
    },
)


def targets() -> TargetTransform:
    return TargetTransform(compile_contract(EVENT), ["m", "pz", "angle"], TARGETS)


def test_targets_are_standardised_without_being_asked_and_missing_ones_stay_missing() -> None:
    x = torch.tensor([[math.exp(6.25) - 1, 210.0, 2.0], [math.nan, 10.0, math.nan]])
    y = targets()(x)
    np.testing.assert_allclose(y[0].numpy(), [1, 1, math.cos(2), math.sin(2)], rtol=1e-5)
    assert torch.isnan(y[1]).tolist() == [True, False, True, True]
    np.testing.assert_allclose(targets().inverse(y)[0].numpy(), x[0].numpy(), rtol=1e-5)


def test_spread_is_the_numerical_derivative() -> None:
    transform = targets()
    y = torch.tensor([[0.3, -0.7, 0.6, 0.8]], dtype=torch.float64)
    transform = transform.double()
    widths = torch.tensor([[0.1, 0.2, 0.03, 0.05]], dtype=torch.float64)
    expected2 = torch.zeros(1, 3, dtype=torch.float64)
    for i in range(4):
        step = torch.zeros_like(y)
        step[0, i] = 1e-6
        slope = (transform.inverse(y + step) - transform.inverse(y - step)) / 2e-6
        expected2 += (slope * widths[0, i]) ** 2
    torch.testing.assert_close(transform.spread(y, widths), expected2.sqrt(), rtol=1e-5, atol=0)


def test_the_spread_of_a_direction_that_is_not_known_is_bounded() -> None:
    y = torch.tensor([[0.0, 0.0, 1e-9, 0.0]])
    spread: Tensor = targets().spread(y, torch.full_like(y, 5.0))
    assert float(spread[0, 2]) == pytest.approx(math.pi)


def steps(*written: object, **more: object) -> Feature:
    return Feature.model_validate({"transform": list(written), **more})


FIXED = {
    "a": steps("log", {"affine": {"subtract": 1.7, "multiply": 0.7}}, {"clip": [-5, 5]}),
    "b": steps({"affine": {"subtract": -4.7, "multiply": 0.7}}),
    "c": Feature(),
    "d": steps({"clip": [0, None]}, {"affine": {"multiply": 3.0}}, "log1p", {"clip": [None, 2]}),
    "e": steps("standardise", {"clip": [-1, 1]}),
    "f": steps({"clip": [0, 1]}),
}
FIXED_STATISTICS = TensorStatistics(columns={"e": column(1.0, 2.0)})
SINGLES = st.floats(-1000, 1000, width=32)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.floats(0.0009765625, 1e6, width=32), *[SINGLES] * 5), min_size=1))
def test_fixed_steps_are_the_float32_formulas_to_the_bit(rows: list[tuple[float, ...]]) -> None:
    x = np.array(rows, np.float32)
    found = FeatureTransform(FIXED, FIXED_STATISTICS, "jets")(torch.from_numpy(x)).numpy()
    assert found.dtype == np.float32
    one = np.float32
    logarithm = torch.log(torch.from_numpy(x[:, 0])).numpy()
    expected = [
        np.clip((logarithm - one(1.7)) * one(0.7), one(-5), one(5)),
        (x[:, 1] - one(-4.7)) * one(0.7),
        x[:, 2],
    ]
    for index, values in enumerate(expected):
        assert (found[:, index] == values).all()
    tail = np.log1p(np.maximum(x[:, 3].astype(np.float64), 0) * 3)
    np.testing.assert_allclose(
        found[:, 3], np.minimum(tail, 2), rtol=1e-6, atol=np.finfo(np.float32).tiny
    )
    assert (found[:, 4] == np.clip((x[:, 4] - one(1)) / one(2), -1, 1)).all()
    assert (found[:, 5] == np.clip(x[:, 5], 0, 1)).all()


def test_fixed_steps_come_back_as_far_as_they_go() -> None:
    x = torch.tensor([[3.0, -9.0, 2.0, 0.5, 2.5, 0.25], [3.0, 9.0, 2.0, 1.0, 99.0, 7.0]])
    transform = FeatureTransform(FIXED, FIXED_STATISTICS, "jets")
    back = transform.inverse(transform(x))
    np.testing.assert_allclose(back[0].numpy(), x[0].numpy(), rtol=1e-5)
    # What a clip cut is at its bound: 1 + 2·1, and 1.
    np.testing.assert_allclose(back[1, 4:].numpy(), [3.0, 1.0], rtol=1e-6)


def test_constants_of_fixed_steps_are_no_weights() -> None:
    transform = FeatureTransform(FIXED, FIXED_STATISTICS, "jets")
    assert set(transform.state_dict()) == {"mean", "width"}


def test_nan_passes_fixed_steps() -> None:
    x = torch.full((1, 6), float("nan"))
    assert torch.isnan(FeatureTransform(FIXED, FIXED_STATISTICS, "jets")(x)).all()


def test_the_spread_goes_back_through_fixed_steps() -> None:
    features = {"x": steps({"affine": {"subtract": 1.0, "multiply": -4.0}}, {"clip": [-9, 9]})}
    transform = FeatureTransform(features, None, "jets")
    spread = transform.spread(torch.tensor([[0.5]]), torch.tensor([[2.0]]))
    assert spread.tolist() == [[0.5]]


def test_columns_that_are_no_inputs_are_left_out() -> None:
    features = {
        "px": Feature(input=False),
        "pt": Feature(transform=("log1p",)),
        "phi": Feature(transform=("circular",)),
        "energy": steps({"affine": {"multiply": 2.0}}, input=False),
        "eta": Feature(),
    }
    transform = FeatureTransform(features, None, "jets")
    assert (transform.width_in, transform.width_out) == (5, 4)
    assert transform.columns == ((), (0,), (1, 2), (), (3,))
    x = torch.tensor([[math.nan, 3.0, 0.4, math.inf, -1.5]])
    expected = [math.log(4), math.cos(0.4), math.sin(0.4), -1.5]
    np.testing.assert_allclose(transform(x)[0].numpy(), expected, rtol=1e-6)
    back = transform.inverse(transform(x))[0]
    assert torch.isnan(back).tolist() == [True, False, False, True, False]
    np.testing.assert_allclose(back[[1, 2, 4]].numpy(), [3.0, 0.4, -1.5], rtol=1e-6)
    masked = transform(x, torch.tensor([False]))
    assert masked.tolist() == [[0.0] * 4]


def test_a_tensor_without_any_input_has_no_width() -> None:
    features = {"px": Feature(input=False), "py": Feature(input=False)}
    transform = FeatureTransform(features, None, "jets")
    assert transform(torch.rand(3, 4, 2)).shape == (3, 4, 0)
    assert torch.isnan(transform.inverse(torch.zeros(3, 4, 0))).all()


def test_one_input_among_others_of_the_same_kind() -> None:
    features = {"px": Feature(input=False), "pt": Feature(), "py": Feature(input=False)}
    transform = FeatureTransform(features, None, "jets")
    assert transform(torch.tensor([[1.0, 2.0, 3.0]])).tolist() == [[2.0]]
    back = transform.inverse(torch.tensor([[2.0]]))
    assert torch.isnan(back)[0].tolist() == [True, False, True]
    assert float(back[0, 1]) == 2
