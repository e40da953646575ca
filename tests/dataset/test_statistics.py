from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hepset.arrays import Ragged
from hepset.dataset.statistics import StatisticsCollector
from hepset.schema.contract import Contract, compile_contract
from hepset.schema.event import EventInfo
from hepset.schema.statistics import Statistics

ROWS, SLOTS = 2500, 4


@pytest.fixture(scope="module")
def contract() -> Contract:
    return compile_contract(
        EventInfo.model_validate(
            {
                "streams": {
                    "jets": {
                        "slots": SLOTS,
                        "features": {
                            "far": {"transform": "standardise"},
                            "flag": {},
                            "positive": {"transform": ["log", "standardise"]},
                            "phi": None,
                        },
                    }
                },
                "globals": {"met": {"features": {"x": {"transform": "asinh"}}}},
                "targets": {
                    "m": {"kind": "regression"},
                    "c": {"kind": "classification", "classes": ["a", "b", "c"]},
                    "j": {"kind": "classification", "classes": ["u", "v"], "stream": "jets"},
                },
            }
        )
    )


def arrays(rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    jets = np.stack(
        [
            rng.normal(1e4, 1, (rows, SLOTS)),
            rng.random((rows, SLOTS)) < 0.3,
            rng.exponential(1, (rows, SLOTS)) + 1e-3,
            rng.uniform(-3, 3, (rows, SLOTS)),
        ],
        axis=-1,
    ).astype(np.float32)
    mask = rng.random((rows, SLOTS)) < 0.5
    jets[~mask] = -77  # padding may hold anything
    return {
        "jets": jets,
        "jets.mask": mask,
        "met": rng.normal(0, 5, (rows, 1)).astype(np.float32),
        "met.mask": rng.random(rows) < 0.9,
        "target/m": np.where(rng.random(rows) < 0.3, np.nan, rng.random(rows)).astype(np.float32),
        "target/c": rng.integers(-1, 3, rows).astype(np.int8),
        "target/j": np.where(mask, rng.integers(0, 2, (rows, SLOTS)), -1).astype(np.int8),
        "weight": rng.normal(1, 0.5, rows),
    }


def collect(contract: Contract, data: dict[str, np.ndarray]) -> Statistics:
    collector = StatisticsCollector(contract, data)
    collector.add(data, len(data["weight"]))
    return collector.result()


def test_against_two_passes_in_float64(contract: Contract) -> None:
    data = arrays(ROWS)
    found = collect(contract, data)
    real = data["jets"][data["jets.mask"]].astype(np.float64)
    for index, name in enumerate(("far", "flag", "positive", "phi")):
        column = found.tensors["jets"].columns[name]
        mean = real[:, index].mean()
        assert column.count == len(real)
        assert column.mean == pytest.approx(mean, rel=1e-13, abs=1e-13)
        assert column.m2 == pytest.approx(((real[:, index] - mean) ** 2).sum(), rel=1e-9)
        assert (column.minimum, column.maximum) == (real[:, index].min(), real[:, index].max())
        assert column.non_finite == 0
    changed = found.tensors["jets"].transformed
    assert set(changed) == {"far", "flag", "positive"}
    assert changed["far"] == found.tensors["jets"].columns["far"]
    assert changed["positive"].mean == pytest.approx(np.log(real[:, 2]).mean(), rel=1e-12)
    met = data["met"][data["met.mask"], 0].astype(np.float64)
    assert found.tensors["met"].transformed["x"].std == pytest.approx(
        np.arcsinh(met / 2).std(), rel=1e-12
    )
    lengths = found.tensors["jets"].multiplicity
    assert lengths is not None
    assert lengths.mean == pytest.approx(data["jets.mask"].sum(1).mean(), rel=1e-13)
    m = found.tensors["target/m"].columns[""]
    assert (m.count, m.non_finite) == (
        np.isfinite(data["target/m"]).sum(),
        np.isnan(data["target/m"]).sum(),
    )
    assert m.mean == pytest.approx(np.nanmean(data["target/m"].astype(float)), rel=1e-12)
    c = found.labels["target/c"]
    assert c.events == [(data["target/c"] == i).sum() for i in range(3)]
    assert c.weights == pytest.approx(
        [data["weight"][data["target/c"] == i].sum() for i in range(3)], rel=1e-12
    )
    assert c.missing == (data["target/c"] == -1).sum()
    j = found.labels["target/j"]
    assert sum(j.events) == data["jets.mask"].sum()
    assert j.missing == 0


def test_no_values_and_one_value(contract: Contract) -> None:
    data = arrays(3)
    data["jets.mask"][:] = False
    data["target/m"][:] = [np.nan, 2.5, np.inf]
    data["target/c"][:] = -1
    found = collect(contract, data)
    empty = found.tensors["jets"].columns["far"]
    assert (empty.count, empty.mean, empty.m2, empty.minimum, empty.width) == (0, 0, 0, None, 1)
    one = found.tensors["target/m"].columns[""]
    assert (one.count, one.mean, one.m2, one.non_finite) == (1, 2.5, 0, 2)
    assert found.labels["target/c"].events == [0, 0, 0]
    nothing = collect(contract, arrays(0))
    assert nothing.events == 0
    assert nothing.merge(found) == found


def test_value_outside_a_logarithm_is_counted(contract: Contract) -> None:
    data = arrays(100)
    data["jets.mask"][0, 0] = True
    data["jets"][0, 0, 2] = -1
    found = collect(contract, data).tensors["jets"]
    assert found.transformed["positive"].non_finite == 1
    assert found.columns["positive"].non_finite == 0
    assert found.transformed["positive"].count == data["jets.mask"].sum() - 1


@given(st.lists(st.integers(0, 1200), min_size=1, max_size=4))
@settings(deadline=None, max_examples=20)
def test_parts_merge_to_the_whole(contract: Contract, cuts: list[int]) -> None:
    data = arrays(1200)
    whole = collect(contract, data)
    edges = [0, *sorted(cuts), 1200]
    merged = Statistics()
    for start, stop in itertools.pairwise(edges):
        merged = merged.merge(collect(contract, {k: v[start:stop] for k, v in data.items()}))
    assert merged.events == 1200
    for name, tensor in whole.tensors.items():
        for column, record in tensor.columns.items():
            other = merged.tensors[name].columns[column]
            assert other.count == record.count
            assert other.mean == pytest.approx(record.mean, rel=1e-12, abs=1e-12)
            assert other.m2 == pytest.approx(record.m2, rel=1e-9)
    assert merged.labels["target/c"].events == whole.labels["target/c"].events


def test_jagged_and_padded_agree(contract: Contract) -> None:
    data = arrays(500)
    mask = data["jets.mask"]
    offsets = np.concatenate([[0], np.cumsum(mask.sum(1))])
    jagged = {
        **data,
        "jets": Ragged.of(offsets, data["jets"][mask]),
        "target/j": Ragged.of(offsets, data["target/j"][mask]),
        "jets.mask": mask.sum(1).astype(np.int32),
    }
    collector = StatisticsCollector(contract, jagged)
    collector.add(jagged, 500)
    found, expected = collector.result(), collect(contract, data)
    assert found.tensors["jets"] == expected.tensors["jets"]
    assert found.labels["target/j"].events == expected.labels["target/j"].events


def test_fixed_steps_are_part_of_what_is_standardised() -> None:
    event = EventInfo.model_validate(
        {
            "globals": {
                "g": {
                    "features": {
                        "x": {
                            "transform": [
                                "log",
                                {"affine": {"subtract": 1.0, "multiply": 2.0}},
                                {"clip": [None, 1]},
                                "standardise",
                                {"clip": [-2, 2]},
                            ]
                        },
                        "y": {"transform": [{"clip": [0, 1]}], "input": False},
                        "z": {"transform": ["standardise", {"affine": {"subtract": 9}}]},
                    }
                }
            }
        }
    )
    collector = StatisticsCollector(compile_contract(event), ["g"])
    values = np.array([[1.0, -3.0, 4.0], [np.e**2, 0.5, 6.0]], np.float32)
    collector.add({"g": values}, 2)
    found = collector.result().tensors["g"]
    # ln x = 0 and 2, so (ln x - 1) * 2 = -2 and 2, of which the clip leaves -2 and 1.
    assert found.transformed["x"].mean == pytest.approx(-0.5)
    assert found.transformed["x"].std == pytest.approx(1.5)
    assert found.transformed["y"].mean == pytest.approx(0.25)
    assert found.transformed["z"] == found.columns["z"]
