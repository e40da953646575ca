"""Four-momenta against the vector package, pencil numbers, and hostile padding."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
import vector
from hypothesis import given
from hypothesis import strategies as st

from hepset import kinematics as kin

Kind = Callable[[Any], Any]
KINDS: list[Kind] = [np.asarray, torch.as_tensor]


def _random(seed: int = 1, size: int = 200) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "pt": rng.exponential(50, size),
        "eta": rng.normal(0, 2.5, size),
        "phi": rng.uniform(-np.pi, np.pi, size),
        "mass": rng.exponential(10, size),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_conversions_agree_with_vector(kind: Kind) -> None:
    values = _random()
    expected = vector.array(values)
    pt, eta, phi, mass = (kind(values[name]) for name in ("pt", "eta", "phi", "mass"))
    p4 = kin.p4_from_pt_eta_phi_mass(pt, eta, phi, mass)
    assert type(p4) is type(pt)
    wanted = np.stack([expected.px, expected.py, expected.pz, expected.E], -1)
    np.testing.assert_allclose(p4, wanted, rtol=1e-12, atol=1e-12)
    energy = kind(expected.E)
    from_energy = kin.p4_from_pt_eta_phi_energy(pt, eta, phi, energy)
    sin_phi, cos_phi = kind(np.sin(values["phi"])), kind(np.cos(values["phi"]))
    for other in (
        from_energy,
        kin.p4_from_pt_eta_sin_cos_mass(pt, eta, sin_phi, cos_phi, mass),
        kin.p4_from_pt_eta_sin_cos_energy(pt, eta, sin_phi, cos_phi, energy),
        kin.p4_from_px_py_pz_energy(*(kind(wanted[:, i].copy()) for i in range(4))),
    ):
        np.testing.assert_allclose(other, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_components_agree_with_vector(kind: Kind) -> None:
    expected = vector.array(_random(2))
    p4 = kind(np.stack([expected.px, expected.py, expected.pz, expected.E], -1))
    np.testing.assert_allclose(kin.pt_of(p4), expected.pt, rtol=1e-12)
    np.testing.assert_allclose(kin.eta_of(p4), expected.eta, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(kin.phi_of(p4), expected.phi, rtol=1e-12)
    np.testing.assert_allclose(kin.rapidity_of(p4), expected.rapidity, rtol=1e-7, atol=1e-9)
    np.testing.assert_allclose(kin.mass_of(p4), expected.mass, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_single_precision_is_kept(kind: Kind) -> None:
    single = [kind(value.astype(np.float32)) for value in _random().values()]
    p4 = kin.p4_from_pt_eta_phi_mass(*single)
    for result in (
        p4,
        *(function(p4) for function in (kin.pt_of, kin.phi_of, kin.eta_of, kin.rapidity_of)),
        kin.mass_of(p4),
        kin.wrap_phi(single[2]),
    ):
        assert str(result.dtype).endswith("float32")


@pytest.mark.parametrize("kind", KINDS)
def test_pencil(kind: Kind) -> None:
    back_to_back = kind(np.array([[3.0, 4.0, 0.0, 5.0], [-3.0, -4.0, 0.0, 5.0]]))
    assert float(kin.invariant_mass(back_to_back)) == 10.0
    np.testing.assert_array_equal(kin.pt_of(back_to_back), [5, 5])
    only_first = kind(np.array([True, False]))
    assert float(kin.invariant_mass(back_to_back, only_first)) == 0.0
    np.testing.assert_array_equal(kin.sum_p4(back_to_back, only_first), [3, 4, 0, 5])
    # eta = asinh(pz / pt): pz = 3, pt = 4 gives ln 2; E = 5 makes it massless, so rapidity too.
    p4 = kind(np.array([[4.0, 0.0, 3.0, 5.0], [0.0, -4.0, -3.0, 5.0]]))
    np.testing.assert_allclose(kin.eta_of(p4), [math.log(2), -math.log(2)], rtol=1e-14)
    np.testing.assert_allclose(kin.rapidity_of(p4), [math.log(2), -math.log(2)], rtol=1e-14)
    np.testing.assert_allclose(kin.phi_of(p4), [0, -math.pi / 2], rtol=1e-14)
    distance = kin.delta_r(*(kind(np.array(v)) for v in (1.0, 3.0, -2.0, 3.0 + 4 - 2 * math.pi)))
    np.testing.assert_allclose(distance, math.hypot(3, 4 - 2 * math.pi))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_zero_and_hostile_vectors_stay_finite(kind: Kind, dtype: type) -> None:
    hostile = np.array(
        [[0, 0, 0, 0], [0, 0, 7, 7], [0, 0, -7, 7], [0, 0, 0, 5], [3, 4, 1e6, 1], [-1, 0, 0, 1]],
        dtype,
    )
    p4 = kind(hostile)
    for function in (kin.pt_of, kin.eta_of, kin.phi_of, kin.rapidity_of, kin.mass_of):
        assert np.isfinite(np.asarray(function(p4))).all(), function.__name__
    np.testing.assert_array_equal(
        np.asarray(kin.eta_of(p4))[:4], [0, kin.ETA_LIMIT, -kin.ETA_LIMIT, 0]
    )
    assert float(kin.phi_of(p4)[-1]) == dtype(-math.pi)
    junk = [kind(np.array([value, 1.0], dtype)) for value in (0.0, -999.0, -999.0, 0.0)]
    assert np.isfinite(np.asarray(kin.p4_from_pt_eta_phi_mass(*junk))).all()
    broken = [kind(np.array([np.nan, 0.5], dtype)) for _ in range(4)]
    mask = kind(np.array([False, True]))
    cleaned = np.asarray(kin.p4_from_pt_eta_phi_mass(*broken, mask=mask))
    np.testing.assert_array_equal(cleaned[0], [0, 0, 0, 0])
    assert np.isfinite(cleaned).all()
    assert np.isfinite(np.asarray(kin.p4_from_pt_eta_phi_energy(*broken, mask=mask))).all()


@pytest.mark.parametrize("function", ["pt_of", "eta_of", "phi_of", "rapidity_of", "mass_of"])
def test_gradients_at_zero_are_finite(function: str) -> None:
    p4 = torch.tensor(
        [[0.0, 0, 0, 0], [0, 0, 7, 7], [3, 4, 0, 5], [1, 2, 3, 4]], requires_grad=True
    )
    getattr(kin, function)(p4).sum().backward()
    assert p4.grad is not None
    assert torch.isfinite(p4.grad).all()
    assert torch.equal(p4.grad[0], torch.zeros(4))
    assert p4.grad[3].abs().sum() > 0


def test_negative_mass_is_space_like() -> None:
    one = np.array([1.0])
    p4 = kin.p4_from_pt_eta_phi_mass(5 * one, 0 * one, 0 * one, -3 * one)
    np.testing.assert_allclose(p4, [[5, 0, 0, 4]])
    assert kin.mass_of(p4)[0] == 0


@given(st.floats(-1e6, 1e6), st.sampled_from([np.float32, np.float64]))
def test_wrapping(value: float, dtype: type) -> None:
    phi = np.array([value], dtype)
    wrapped = kin.wrap_phi(phi)
    assert -dtype(math.pi) <= wrapped[0] < dtype(math.pi)
    np.testing.assert_array_equal(kin.wrap_phi(wrapped), wrapped)
    scale = float(np.finfo(dtype).eps) * max(abs(value), 1.0) * 4
    assert abs(math.sin((float(wrapped[0]) - float(phi[0])) / 2)) <= scale
    np.testing.assert_allclose(kin.wrap_phi(torch.as_tensor(phi)), wrapped, atol=scale * 4)


def test_wrapping_at_the_edges() -> None:
    edges = np.array([math.pi, -math.pi, np.nextafter(-math.pi, -4), 3 * math.pi, 0.0])
    np.testing.assert_allclose(
        kin.wrap_phi(edges), [-math.pi, -math.pi, -math.pi, -math.pi, 0], atol=1e-15
    )
    assert kin.delta_phi(np.array([3.0]), np.array([-3.0]))[0] == pytest.approx(6 - 2 * math.pi)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_onnx_gives_the_same(tmp_path: Path) -> None:
    class Graph(torch.nn.Module):
        def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            p4 = kin.p4_from_pt_eta_phi_mass(*x.unbind(-1), mask=mask)
            parts = [f(p4) for f in (kin.pt_of, kin.eta_of, kin.phi_of, kin.rapidity_of)]
            mass = kin.invariant_mass(p4, mask)[:, None].expand(mask.shape)
            return torch.stack([*parts, mass], -1)

    def inputs(events: int, objects: int) -> tuple[torch.Tensor, torch.Tensor]:
        values = np.stack(list(_random(events, events * objects).values()), -1)
        x = torch.as_tensor(values, dtype=torch.float32).reshape(events, objects, 4)
        mask = torch.arange(objects) < torch.arange(events)[:, None]
        return x.where(mask[..., None], torch.tensor(-999.0)), mask

    path = tmp_path / "kinematics.onnx"
    dims = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    torch.onnx.export(
        Graph().eval(), inputs(3, 4), path, dynamo=True, opset_version=18, verbose=False,
        input_names=["x", "mask"], dynamic_shapes={"x": dims, "mask": dims},
    )  # fmt: skip
    session = onnxruntime.InferenceSession(path)
    for x, mask in (inputs(5, 7), inputs(2, 1)):
        (found,) = session.run(None, {"x": x.numpy(), "mask": mask.numpy()})
        np.testing.assert_allclose(found, Graph()(x, mask), rtol=2e-5, atol=2e-5)


def test_torch_is_not_imported() -> None:
    code = "import sys, hepset.kinematics; raise SystemExit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
