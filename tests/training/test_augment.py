from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import vector
from hypothesis import given
from hypothesis import strategies as st

from hepset.errors import ConfigurationError
from hepset.schema.config import AugmentConfig
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo
from hepset.training.augment import Augmentation

EVENT = EventInfo.model_validate(
    {
        "streams": {
            "jets": {
                "slots": 3,
                "features": ["pt", "eta", "phi", "mass", "delta_phi"],
                "pairs": ["pair_eta", "pair_phi", "dr"],
            },
            "tracks": {"slots": 2, "features": ["px", "py", "pz", "energy"]},
        },
        "globals": {"met": {"features": ["met_sin_phi", "met_cos_phi", "pt"]}},
        "targets": {
            "nu_px": {"kind": "regression"},
            "nu_py": {"kind": "regression"},
            "nu_pz": {"kind": "regression"},
            "t1/phi": {"kind": "regression"},
            "t1/eta": {"kind": "regression"},
            "m_ttbar": {"kind": "regression"},
            "signal": {"kind": "classification", "classes": ["a", "b"]},
        },
    }
)
CONTRACT = compile_contract(EVENT)
BOTH = AugmentConfig(rotate_phi=True, flip_eta=True)


def batch(events: int = 50, seed: int = 0) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    made = {}
    for spec in CONTRACT.tensors.values():
        shape = (events, *spec.event_shape)
        if spec.dtype == "bool":
            made[spec.name] = torch.from_numpy(rng.random(shape) < 0.7)
        elif spec.dtype == "int64":
            made[spec.name] = torch.from_numpy(rng.integers(0, 2, shape))
        else:
            made[spec.name] = torch.from_numpy(rng.normal(0, 1, shape))
    phi = torch.from_numpy(rng.uniform(-np.pi, np.pi, events))
    made["met"][:, 0], made["met"][:, 1] = phi.sin(), phi.cos()
    made["jets"][..., 0].abs_()
    made["jets"][..., 3].abs_()
    return made


def make(config: AugmentConfig = BOTH) -> Augmentation:
    return Augmentation(EVENT, CONTRACT, config, CONTRACT.tensors)


def jets(tensors: dict[str, torch.Tensor]) -> Any:
    names = ("pt", "eta", "phi", "mass")
    return vector.array({n: tensors["jets"][..., i].numpy() for i, n in enumerate(names)})


def test_masses_and_angles_between_objects_stay_the_same() -> None:
    tensors = batch()
    tensors["jets.mask"][:] = tensors["tracks.mask"][:] = True
    turned = make()(tensors)
    old, new = jets(tensors), jets(turned)
    assert not np.allclose(old.phi, new.phi)
    for i, j in ((0, 1), (1, 2)):
        before, after = old[:, i] + old[:, j], new[:, i] + new[:, j]
        np.testing.assert_allclose(before.mass, after.mass, rtol=1e-9)
        np.testing.assert_allclose(
            old[:, i].deltaR(old[:, j]), new[:, i].deltaR(new[:, j]), rtol=1e-9
        )
    p, q = tensors["tracks"], turned["tracks"]
    norm = (p[..., :3] ** 2).sum(-1)
    torch.testing.assert_close((q[..., :3] ** 2).sum(-1), norm)
    torch.testing.assert_close(p[..., 3], q[..., 3])


def test_everything_turns_by_the_same_angle_and_sign() -> None:
    tensors = batch(4)
    for mask in ("jets.mask", "tracks.mask", "met.mask"):
        tensors[mask][:] = True
    angle = torch.full((4,), math.pi / 2, dtype=torch.float64)
    sign = torch.tensor([1, -1, 1, -1])
    turned = make().turn(tensors, angle, sign)
    s = sign.double()
    torch.testing.assert_close(turned["target/nu_px"], -tensors["target/nu_py"])
    torch.testing.assert_close(turned["target/nu_py"], tensors["target/nu_px"])
    torch.testing.assert_close(turned["target/nu_pz"], tensors["target/nu_pz"] * s)
    torch.testing.assert_close(turned["target/t1/eta"], tensors["target/t1/eta"] * s)
    torch.testing.assert_close(turned["tracks"][..., 0], -tensors["tracks"][..., 1])
    torch.testing.assert_close(turned["tracks"][..., 2], tensors["tracks"][..., 2] * s[:, None])
    # sin(φ + π/2) = cos φ, cos(φ + π/2) = −sin φ
    torch.testing.assert_close(turned["met"][:, 0], tensors["met"][:, 1])
    torch.testing.assert_close(turned["met"][:, 1], -tensors["met"][:, 0])
    shift = turned["jets"][..., 2] - tensors["jets"][..., 2] - math.pi / 2
    torch.testing.assert_close(torch.sin(shift / 2), torch.zeros_like(shift), atol=1e-9, rtol=0)
    shift = turned["target/t1/phi"] - tensors["target/t1/phi"] - math.pi / 2
    torch.testing.assert_close(torch.sin(shift / 2), torch.zeros_like(shift), atol=1e-9, rtol=0)
    assert turned["jets"][..., 2].abs().max() <= math.pi
    for name, column in (("jets", 4), ("jets", 0), ("jets.pairs", 1), ("jets.pairs", 2)):
        assert torch.equal(turned[name][..., column], tensors[name][..., column])
    both = tensors["jets.mask"][:, :, None] & tensors["jets.mask"][:, None, :]
    expected = torch.where(both, tensors["jets.pairs"][..., 0] * s[:, None, None], 0)
    torch.testing.assert_close(torch.where(both, turned["jets.pairs"][..., 0], 0), expected)
    for name in ("target/m_ttbar", "target/signal", "weight"):
        assert torch.equal(turned[name], tensors[name])


@given(st.integers(0, 1000))
def test_turning_back_gives_the_event_back(seed: int) -> None:
    tensors = batch(5, seed)
    tensors["target/nu_px"][2] = float("nan")
    generator = torch.Generator().manual_seed(seed)
    angle = torch.rand(5, generator=generator, dtype=torch.float64) * 6 - 3
    sign = torch.tensor([-1, 1, -1, 1, -1])
    tensors["jets"][..., 2].clamp_(-3.1, 3.1)
    tensors["target/t1/phi"].clamp_(-3.1, 3.1)
    original = {name: tensor.clone() for name, tensor in tensors.items()}
    augmentation = make()
    turned = augmentation.turn(tensors, angle, sign)
    back = augmentation.turn(turned, -angle, sign)
    for name, tensor in original.items():
        assert torch.equal(tensors[name], tensor) or bool(tensor.isnan().any()), "left as it was"
        if name == "target/nu_py":  # its partner is unknown, so it cannot be known either
            keep = torch.tensor([0, 1, 3, 4])
            torch.testing.assert_close(back[name][keep], tensor[keep])
            assert bool(back[name][2].isnan())
        else:
            torch.testing.assert_close(back[name], tensor, equal_nan=True)


def test_padding_stays_as_it_is() -> None:
    tensors = batch()
    turned = make()(tensors)
    for name in ("jets", "tracks"):
        mask = tensors[f"{name}.mask"]
        assert torch.equal(turned[name][~mask], tensors[name][~mask])
        assert not torch.equal(turned[name][mask], tensors[name][mask])


def test_only_what_is_asked_for() -> None:
    tensors = batch()
    rotated = make(AugmentConfig(rotate_phi=True))(tensors)
    assert torch.equal(rotated["target/nu_pz"], tensors["target/nu_pz"])
    assert not torch.equal(rotated["target/nu_px"], tensors["target/nu_px"])
    flipped = make(AugmentConfig(flip_eta=True))(tensors)
    assert torch.equal(flipped["target/nu_px"], tensors["target/nu_px"])
    signs = flipped["target/nu_pz"] / tensors["target/nu_pz"]
    assert set(signs.tolist()) == {-1.0, 1.0}


def test_a_partner_that_is_declared_is_asked_for_and_a_missing_one_is_an_error() -> None:
    names = [*CONTRACT.inputs().tensors, "target/nu_px"]
    assert Augmentation(EVENT, CONTRACT, BOTH, names).needed == {"target/nu_py"}
    alone = EventInfo.model_validate(
        {
            "streams": {"jets": {"slots": 2, "features": ["px", "pz"]}},
            "targets": {"nu_px": {"kind": "regression"}},
        }
    )
    contract = compile_contract(alone)
    with pytest.raises(ConfigurationError, match="jets has 'px' but no 'py'"):
        Augmentation(alone, contract, BOTH, ["jets"])
    with pytest.raises(ConfigurationError, match="target/nu_px has 'nu_px' but no 'nu_py'"):
        Augmentation(alone, contract, BOTH, ["target/nu_px"])
    Augmentation(alone, contract, AugmentConfig(flip_eta=True), ["jets", "target/nu_px"])


def describe_event(features: Any, targets: Any = None) -> EventInfo:
    return EventInfo.model_validate(
        {"streams": {"cells": {"slots": 1, "features": features}}, "targets": targets or {}}
    )


def turn(event: EventInfo, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A quarter turn, and a reflection."""
    contract = compile_contract(event)
    augmentation = Augmentation(event, contract, BOTH, contract.tensors)
    tensors = {"cells.mask": torch.ones(1, 1, dtype=torch.bool), **tensors}
    return augmentation.turn(tensors, torch.tensor([math.pi / 2]), torch.tensor([-1]))


def test_a_position_is_turned_as_a_vector() -> None:
    """(1, 2, 3) becomes (−2, 1, −3); its energy stays, and so does a rapidity beside it."""
    event = describe_event(["x", "y", "z", "e", "hit_x", "hit_y", "hit_z", "rapidity"])
    values = torch.tensor([[[1.0, 2, 3, 4, 5, 6, 7, 8]]])
    turned = turn(event, {"cells": values})
    expected = [-2, 1, -3, 4, -6, 5, -7, -8]
    torch.testing.assert_close(turned["cells"], torch.tensor([[expected]]).float())
    targets = {f"vertex/{name}": {"kind": "regression"} for name in "xyz"}
    event = describe_event(["pt"], targets)
    given = {
        f"target/vertex/{n}": torch.tensor([float(v)])
        for n, v in zip("xyz", (1.0, 2, 3), strict=True)
    }
    turned = turn(event, {"cells": torch.ones(1, 1, 1), **given})
    found = [turned[f"target/vertex/{name}"].item() for name in "xyz"]
    assert found == pytest.approx([-2, 1, -3], abs=1e-6)


def test_y_alone_is_a_rapidity_as_ever() -> None:
    turned = turn(describe_event(["pt", "y", "phi"]), {"cells": torch.tensor([[[1.0, 2, 0]]])})
    expected = torch.tensor([[[1, -2, math.pi / 2]]])
    torch.testing.assert_close(turned["cells"], expected)


@pytest.mark.parametrize("features", [["x", "y"], ["pt", "y", "z"]])
def test_a_y_that_may_be_either_is_refused_until_it_is_stated(features: list[str]) -> None:
    event = describe_event(features)
    contract = compile_contract(event)
    with pytest.raises(ConfigurationError, match=r"cells\.y may be a rapidity .* role: none"):
        Augmentation(event, contract, BOTH, contract.tensors)
    stated = describe_event(
        {name: {"role": "rapidity"} if name == "y" else {} for name in features}
    )
    values = torch.ones(1, 1, len(features))
    turned = turn(stated, {"cells": values})["cells"][0, 0]
    assert turned.tolist() == [-1 if name == "y" else 1 for name in features]
    none = describe_event({name: {"role": "none"} for name in features})
    assert torch.equal(turn(none, {"cells": values})["cells"], values)
    place = describe_event({n: {"role": n} if n in {"x", "y"} else {} for n in ("x", "y")})
    assert turn(place, {"cells": values[..., :2]})["cells"][0, 0].tolist() == pytest.approx([-1, 1])
