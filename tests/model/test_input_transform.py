"""The input transform: model space and back, four-momenta, absent globals, misfits."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import vector
from torch import Tensor

from hepset.errors import ContractError
from hepset.model.input_transform import InputTransform, four_momentum
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo
from hepset.schema.statistics import ColumnStatistics, Statistics, TensorStatistics

EVENT = EventInfo.parse(
    {
        "streams": {
            "jets": {
                "slots": 4,
                "features": {
                    "mass": {"transform": ["log1p", "standardise"]},
                    "pt": {"transform": ["log1p", "standardise"]},
                    "phi": {},
                    "eta": {"transform": "standardise"},
                },
                "pairs": {"ln_kt": {"transform": "standardise"}, "delta_phi": {"role": "phi"}},
            },
            "pairs": {"slots": 2, "features": {"d0": {"transform": "asinh"}}},
        },
        "globals": {"met": {"features": {"pt": {"transform": "log"}, "phi": {}}}},
    },
    "event",
)
CONTRACT = compile_contract(EVENT)


def column(mean: float, width: float) -> ColumnStatistics:
    return ColumnStatistics(count=10, mean=mean, m2=10 * width**2)


STATISTICS = Statistics(
    events=10,
    tensors={
        "jets": TensorStatistics(
            columns={"eta": column(0.1, 1.2)},
            transformed={"mass": column(2.0, 0.5), "pt": column(4.0, 0.7)},
        ),
        "jets.pairs": TensorStatistics(columns={"ln_kt": column(2.0, 3.0)}),
    },
)


def transform() -> InputTransform:
    return InputTransform(EVENT, CONTRACT, STATISTICS)


def tensors(n: int = 6, seed: int = 0) -> dict[str, Tensor]:
    random = np.random.default_rng(seed)
    mask = random.random((n, 4)) < 0.6
    jets = np.stack(
        [
            random.exponential(10, (n, 4)),
            random.exponential(50, (n, 4)) + 25,
            random.uniform(-3.1, 3.1, (n, 4)),
            random.normal(0, 1.2, (n, 4)),
        ],
        -1,
    )
    pairs = np.stack([random.normal(2, 3, (n, 4, 4)), random.uniform(-3, 3, (n, 4, 4))], -1)
    met = np.stack([random.exponential(40, n) + 1, random.uniform(-3, 3, n)], -1)
    both = mask[:, :, None] & mask[:, None, :]
    present = random.random(n) < 0.7
    found = {
        "jets": jets * mask[..., None],
        "jets.mask": mask,
        "jets.pairs": pairs * both[..., None],
        "pairs": random.normal(0, 5, (n, 2, 1)),
        "pairs.mask": np.ones((n, 2), bool),
        "met": met * present[:, None],
        "met.mask": present,
    }
    return {
        name: torch.from_numpy(v if v.dtype == bool else v.astype(np.float32))
        for name, v in found.items()
    }


def test_layout_counts_an_angle_twice() -> None:
    layout = transform().layout
    assert layout.streams == {"jets": 5, "pairs": 1}
    assert layout.globals == {"met": 3}
    assert layout.pairs == {"jets": 3}
    assert layout.p4 == ("jets",)


def test_there_and_back() -> None:
    given = tensors()
    back = transform().inverse(transform().inputs(given))
    assert set(back) == set(given)
    for name, values in given.items():
        np.testing.assert_allclose(
            back[name].numpy(), values.numpy(), rtol=1e-5, atol=1e-5, err_msg=name
        )


def test_four_momenta_are_those_of_vector() -> None:
    given = tensors()
    mass, pt, phi, eta = (given["jets"][..., i].double().numpy() for i in range(4))
    expected = vector.arr({"pt": pt, "eta": eta, "phi": phi, "mass": mass})
    found = transform()(given).p4["jets"].numpy()
    for i, name in enumerate(("px", "py", "pz", "E")):
        np.testing.assert_allclose(found[..., i], getattr(expected, name), rtol=1e-5, atol=1e-4)
    assert (found[~given["jets.mask"].numpy()] == 0).all()


@pytest.mark.parametrize(
    "roles",
    [
        ("pt", "eta", "phi", "energy"),
        ("px", "py", "pz", "energy"),
        ("pt", "eta", "sin_phi", "cos_phi", "mass"),
        ("pt", "eta", "sin_phi", "cos_phi", "energy"),
    ],
)
def test_every_system_of_four_momenta(roles: tuple[str, ...]) -> None:
    p4 = vector.obj(pt=50.0, eta=0.7, phi=-2.0, mass=12.0)
    numbers = {
        **{name: getattr(p4, name) for name in ("pt", "eta", "phi", "mass", "px", "py", "pz")},
        "energy": p4.E,
        "sin_phi": math.sin(-2.0),
        "cos_phi": math.cos(-2.0),
    }
    values = np.array([[[numbers[role] for role in roles]]])
    columns = {role: i for i, role in enumerate(roles)}
    found = four_momentum(values, columns, np.ones((1, 1), bool))  # type: ignore[arg-type]
    np.testing.assert_allclose(found[0, 0], [p4.px, p4.py, p4.pz, p4.E])


def test_padding_and_absent_globals_are_zero_whatever_they_hold() -> None:
    given = tensors()
    expected = transform()(given)
    jets_gone, met_gone = ~given["jets.mask"], ~given["met.mask"]
    given["jets"][jets_gone] = math.nan
    given["met"][met_gone] = -7.0
    found = transform()(given)
    assert torch.equal(found.streams["jets"], expected.streams["jets"])
    assert torch.equal(found.p4["jets"], expected.p4["jets"])
    assert torch.equal(found.globals["met"], expected.globals["met"])
    assert (found.streams["jets"][jets_gone] == 0).all()
    assert (found.globals["met"][met_gone] == 0).all()
    assert met_gone.any()
    del given["met.mask"]
    assert transform()(given).global_masks["met"].all()


def test_misfits_are_named() -> None:
    given = tensors()
    given["jet"] = given.pop("jets")
    with pytest.raises(ContractError, match=r"needs the input 'jets'.*did you mean"):
        transform()(given)
    given["jets"] = given.pop("jet")[..., :3]
    with pytest.raises(ContractError, match=r"expected 4 features \(mass, pt, phi, eta\), found 3"):
        transform()(given)


def test_features_that_are_no_inputs_still_make_the_four_momentum() -> None:
    components = {name: {"input": False} for name in ("px", "py", "pz", "energy")}
    event = EventInfo.parse(
        {"streams": {"pf": {"slots": 2, "features": {"d0": {}, **components, "charge": {}}}}}, "e"
    )
    transform = InputTransform(event, compile_contract(event), Statistics())
    assert transform.layout.streams == {"pf": 2}
    assert transform.layout.p4 == ("pf",)
    values = torch.tensor([[[0.5, 1.0, 2.0, 2.0, 4.0, -1.0], [9.0] * 6]])
    x = transform({"pf": values, "pf.mask": torch.tensor([[True, False]])})
    assert x.streams["pf"].tolist() == [[[0.5, -1.0], [0.0, 0.0]]]
    assert x.p4["pf"].tolist() == [[[1.0, 2.0, 2.0, 4.0], [0.0] * 4]]
    back = transform.inverse(x)["pf"][0, 0]
    assert torch.isnan(back).tolist() == [False, True, True, True, True, False]
