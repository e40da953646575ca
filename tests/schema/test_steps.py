from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hepset.nn.transforms import FeatureTransform
from hepset.plugins import Component, hookimpl, registry
from hepset.schema.feature import Feature
from hepset.schema.steps import (
    CURVES,
    Curve,
    apply_steps,
    curve,
    steps_before_scaling,
    transform_domain,
)

VALUES = np.array([0.0, 0.3, 1.0, 25.0, 3000.0])
IN_MODEL_SPACE = {
    # ln(1 + x), ln x, asinh(x / 2) = ln(x/2 + √(x²/4 + 1)).
    "log1p": [0.0, 0.262364, 0.693147, 3.258097, 8.006701],
    "log": [-math.inf, -1.203973, 0.0, 3.218876, 8.006368],
    "asinh": [0.0, 0.149443, 0.481212, 3.220472, 8.006368],
}


@pytest.mark.parametrize("name", CURVES)
def test_a_curve_has_its_formula_in_numpy_and_torch(name: str) -> None:
    with np.errstate(divide="ignore"):
        found = curve(name).forward(VALUES, np)
    np.testing.assert_allclose(found, IN_MODEL_SPACE[name], atol=1e-6)
    np.testing.assert_allclose(curve(name).forward(torch.tensor(VALUES), torch).numpy(), found)


@pytest.mark.parametrize("name", CURVES)
@given(st.floats(1e-3, 1e6))
def test_the_inverse_undoes_a_curve_and_the_slope_is_its_derivative(name: str, x: float) -> None:
    step = curve(name)
    y = step.forward(np.array([x]), np)
    np.testing.assert_allclose(step.inverse(y, np), [x], rtol=1e-9)
    h = 1e-4
    difference = (step.inverse(y + h, np) - step.inverse(y - h, np)) / (2 * h)
    np.testing.assert_allclose(step.slope(y, np), difference, rtol=1e-6)


@pytest.mark.parametrize("name", CURVES)
def test_the_inverse_stays_finite_in_float32(name: str) -> None:
    far = torch.tensor([-1e4, 1e4])
    assert torch.isfinite(curve(name).inverse(far, torch)).all()
    assert torch.isfinite(curve(name).slope(far, torch)).all()


def test_a_floor_is_above_the_bound_and_finite() -> None:
    for step in CURVES.values():
        if step.above > -math.inf:
            assert step.floor > step.above
            assert math.isfinite(float(step.forward(np.float32(step.floor), np)))


def test_steps_act_in_order_and_keep_the_type() -> None:
    steps = Feature.model_validate(
        {"transform": [{"clip": [0, None]}, "log1p", {"affine": {"subtract": 1, "multiply": 2}}]}
    ).transform
    found = apply_steps(np.array([-5.0, math.e - 1], np.float32), steps, np)
    assert found.dtype == np.float32
    # ln(1 + 0) = 0 gives −2; ln(1 + e − 1) = 1 gives 0.
    np.testing.assert_allclose(found, [-2.0, 0.0], atol=1e-6)


def test_steps_before_the_scaling() -> None:
    def before(*transform: object) -> list[str]:
        steps = Feature.model_validate({"transform": list(transform)}).transform
        return [str(step) for step in steps_before_scaling(steps)]

    assert before("log1p", "standardise") == ["log1p"]
    assert before({"clip": [0, 5]}, "standardise") == ["clip(0, 5)"]
    assert before("standardise", {"clip": [-5, 5]}) == []
    assert before("circular") == []


class Sqrt(Curve):
    """√x, x > 0."""

    above = 0.0
    floor = 1e-30

    def forward(self, x: Any, xp: Any) -> Any:
        return xp.sqrt(x)

    def inverse(self, y: Any, xp: Any) -> Any:
        del xp
        return y**2

    def slope(self, y: Any, xp: Any) -> Any:
        del xp
        return 2 * y


class _Plugin:
    hepset_interface = 2

    @hookimpl
    def hepset_components(self) -> list[Component]:
        return [Component("transform_steps", "sqrt", Sqrt, "√x")]


def test_a_plugin_adds_a_curve() -> None:
    registry().register(_Plugin(), name="roots", distribution="hepset-roots")
    try:
        feature = Feature.model_validate({"transform": "sqrt"})
        assert transform_domain(feature.transform) == ("sqrt", 0.0)
        transform = FeatureTransform({"pt": feature}, None, "jets")
        x = torch.tensor([[4.0], [9.0]])
        torch.testing.assert_close(transform(x), torch.tensor([[2.0], [3.0]]))
        torch.testing.assert_close(transform.inverse(transform(x)), x)
        # Δx = 2 √x Δy.
        spread = transform.spread(torch.tensor([[2.0]]), torch.tensor([[0.5]]))
        torch.testing.assert_close(spread, torch.tensor([[2.0]]))
    finally:
        registry().unregister("roots")
    with pytest.raises(ValidationError, match="sqrt"):
        Feature.model_validate({"transform": "sqrt"})
