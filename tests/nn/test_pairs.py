"""Pair features against pencil numbers, vector, and weaver's own output."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
import vector

from hepset.errors import ConfigurationError, ContractError
from hepset.nn.pairs import PAIR_FEATURES, PairBias, pair_features

FIXTURES = Path(__file__).parents[3] / "shared" / "fixtures" / "weaver"


def _momenta(events: int = 3, objects: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    shape = (events, objects)
    p4 = vector.array(
        {
            "pt": rng.exponential(20, shape) + 0.5,
            "eta": rng.normal(0, 1, shape),
            "phi": rng.uniform(-np.pi, np.pi, shape),
            "mass": np.full(shape, 0.14),
        }
    )
    stacked = np.stack([p4.px, p4.py, p4.pz, p4.E], -1)
    counts = torch.arange(events) * objects // max(events - 1, 1)
    return torch.as_tensor(stacked), torch.arange(objects) < counts[:, None]


def test_pencil() -> None:
    # Massless, back to back in phi at rapidity 0: d = pi, pt 2 and 1, m^2 = 4 * 2 * 1.
    p4 = torch.tensor([[[2.0, 0, 0, 2], [-1, 0, 0, 1]]], dtype=torch.float64)
    found = pair_features(p4, torch.ones(1, 2, dtype=torch.bool))
    expected = [math.log(math.pi), math.log(1 / 3), math.log(math.pi), math.log(8)]
    np.testing.assert_allclose(found[0, :, 0, 1], expected, rtol=1e-12)
    np.testing.assert_array_equal(found, found.transpose(-1, -2))
    np.testing.assert_allclose(
        found[0, :, 0, 0], [math.log(1e-8), math.log(0.5), math.log(1e-8), math.log(1e-8)]
    )


def test_agrees_with_vector() -> None:
    p4, mask = _momenta()
    found = pair_features(p4, mask)
    objects = vector.array(dict(zip(("px", "py", "pz", "E"), p4.numpy()[-1].T, strict=True)))
    for i in range(6):
        for j in range(i):
            first, second = objects[i], objects[j]
            distance = first.deltaRapidityPhi(second)
            lower = min(first.pt, second.pt)
            expected = [
                math.log(lower * distance),
                math.log(lower / (first.pt + second.pt)),
                math.log(distance),
                math.log((first + second).mass2),
            ]
            np.testing.assert_allclose(found[-1, :, i, j], expected, rtol=1e-6)


def test_padding_is_zero_and_harmless() -> None:
    p4, mask = _momenta()
    clean = pair_features(p4, mask)
    dirty = pair_features(torch.where(mask[..., None], p4, torch.nan), mask)
    assert torch.equal(clean, dirty)
    pairs = mask[:, None, :, None] & mask[:, None, None, :]
    assert not clean[(~pairs).expand_as(clean)].any()
    assert torch.isfinite(clean).all()


def test_forward_particles_stay_finite() -> None:
    """In single precision E + pz is lost for a light particle that flies backwards."""
    p4 = torch.tensor([[[1e-3, 0.0, -4000, 4000], [0, 0, 5, 5], [0, 0, 0, 0]]])
    found = pair_features(p4, torch.ones(1, 3, dtype=torch.bool))
    assert torch.isfinite(found).all()


def test_selection_and_order() -> None:
    p4, mask = _momenta()
    everything = pair_features(p4, mask)
    for index, name in enumerate(PAIR_FEATURES):
        assert torch.equal(pair_features(p4, mask, [name])[:, 0], everything[:, index])
    assert torch.equal(pair_features(p4, mask, ["ln_m2", "ln_kt"]), everything[:, [3, 0]])


def test_wrong_input_is_refused() -> None:
    p4, mask = _momenta()
    with pytest.raises(ConfigurationError, match="did you mean 'ln_kt'"):
        pair_features(p4, mask, ["ln_kT"])
    with pytest.raises(ConfigurationError, match="no pair feature"):
        PairBias(2, features=[])
    with pytest.raises(ContractError, match=r"got \(3, 4, 6\)"):
        pair_features(p4.transpose(1, 2), mask)


def test_bias() -> None:
    p4, mask = _momenta()
    bias = PairBias(heads=3)
    found = bias(p4.float(), mask)
    assert found.shape == (3, 3, 6, 6)
    torch.testing.assert_close(found, found.transpose(-1, -2))
    pairs = (mask[:, None, :, None] & mask[:, None, None, :]).expand_as(found)
    assert not found[~pairs].any()
    found.sum().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.any() for p in bias.parameters())


def test_the_first_events_with_pairs_set_the_scale() -> None:
    """As the features of different objects have it, in whatever unit momenta are."""
    p4, mask = _momenta(40, 6)
    p4 = p4.float()
    features = pair_features(p4, mask)
    pairs = (mask[:, :, None] & mask[:, None, :]).triu(1)
    kt = features[:, PAIR_FEATURES.index("ln_kt")][pairs]
    bias, other = PairBias(heads=2), PairBias(heads=2)
    other.load_state_dict(bias.state_dict())
    before = bias(p4, mask)
    for few in (torch.zeros_like(mask), mask & (torch.arange(len(mask)) == 0)[:, None]):
        bias.fit(p4, few)
        assert torch.equal(bias(p4, mask), before)
    bias.fit(p4, mask)
    low, middle, high = np.quantile(kt, [0.16, 0.5, 0.84], method="lower")
    assert bias.centre[0] == pytest.approx(middle)
    assert bias.spread[0] == pytest.approx((high - low) / 2)
    assert not torch.allclose(bias(p4, mask), before)
    # The bias is the same for momenta in MeV, once each is fitted to its own.
    other.fit(1000 * p4, mask)
    apart = ~torch.eye(6, dtype=torch.bool)
    torch.testing.assert_close(
        other(1000 * p4, mask)[:, :, apart], bias(p4, mask)[:, :, apart], rtol=1e-3, atol=1e-3
    )


def test_the_scale_is_set_once() -> None:
    p4, mask = _momenta(20, 6)
    first = PairBias(heads=2)
    first.fit(p4.float(), mask)
    scale = first.centre.clone()
    loaded = PairBias(heads=2)
    loaded.load_state_dict(first.state_dict())
    for bias in (first, loaded):
        bias.fit(3 * p4.float(), mask)
        assert torch.equal(bias.centre, scale)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_onnx_gives_the_same(tmp_path: Path) -> None:
    p4, mask = _momenta()
    bias = PairBias(heads=2).eval()
    bias.fit(*_momenta(20))
    path = tmp_path / "pairs.onnx"
    dims = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    torch.onnx.export(
        bias, (p4.float(), mask), path, dynamo=True, opset_version=18, verbose=False,
        input_names=["p4", "mask"], dynamic_shapes={"p4": dims, "mask": dims},
    )  # fmt: skip
    session = onnxruntime.InferenceSession(path)
    for events, objects in ((3, 6), (5, 2), (1, 1), (2, 9)):
        p4, mask = _momenta(events, objects, seed=events)
        (found,) = session.run(None, {"p4": p4.float().numpy(), "mask": mask.numpy()})
        expected = bias(p4.float(), mask).detach()
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(not FIXTURES.exists(), reason=f"no weaver fixtures in {FIXTURES}")
def test_weaver_gives_the_same() -> None:
    inputs = np.load(FIXTURES / "inputs_selected.npz")
    expected = np.load(FIXTURES / "part_outputs.npz")["pair_features_4x16"]
    assert inputs["entry_index"][:4].tolist() == [0, 1, 2, 3]
    vectors = torch.as_tensor(inputs["pf_vectors"][:4, :, :16]).transpose(1, 2)
    mask = torch.as_tensor(inputs["pf_mask"][:4, 0, :16]) > 0
    np.testing.assert_allclose(pair_features(vectors, mask), expected, rtol=1e-5, atol=2e-5)
