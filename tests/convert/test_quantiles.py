"""Percentiles by counting bits, against numpy's of all values at once; ``affine: auto``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hepset
from hepset.convert import prepare_dataset
from hepset.convert.engines import LocalEngine, LocalEngineConfig
from hepset.convert.quantiles import Quantiles, added, values_before
from hepset.errors import ConfigurationError, DatasetError
from hepset.nn.transforms import FeatureTransform
from hepset.schema.config import PrepareConfig
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo
from hepset.schema.feature import Feature

COLUMN = ("jets", "pt")


def constants(parts: list[np.ndarray]) -> tuple[float, float]:
    upper = added([{COLUMN: Quantiles().count(COLUMN, part)} for part in parts])
    second = Quantiles(upper)
    lower = added([{COLUMN: second.count(COLUMN, part)} for part in parts])
    found = second.affine(COLUMN, lower)
    return found.subtract, found.multiply


def expected(values: np.ndarray) -> tuple[float, float]:
    low, centre, high = np.percentile(values, [16, 50, 84])
    spread = max(high - centre, centre - low)
    return float(centre), 1.0 if spread == 0 else float(1 / spread)


@settings(deadline=None, max_examples=100)
@given(
    st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60),
    st.integers(1, 4),
)
def test_the_constants_are_those_of_all_values_at_once(values: list[float], parts: int) -> None:
    array = np.array(values, np.float32)
    found = constants(np.array_split(array, parts))
    assert found == pytest.approx(expected(array), rel=1e-12)


def test_values_that_share_their_upper_bits() -> None:
    rng = np.random.default_rng(1)
    array = (1 + rng.random(10_001).astype(np.float32) * 2**-8).astype(np.float32)
    assert constants([array]) == pytest.approx(expected(array), rel=1e-12)


def test_steps_before_are_applied_and_nan_counts_as_zero() -> None:
    steps = Feature.model_validate(
        {"transform": ["log", {"affine": {"subtract": 1, "multiply": 2}}, {"clip": [-3, None]}]}
    ).transform
    found = values_before(np.array([1, np.e, 0, -1], np.float32), steps)
    assert found.tolist() == [-2.0, 0.0, -3.0, 0.0]


def write(path: Path, seed: int, events: int = 300) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(3, events)
    values = rng.exponential(30, counts.sum()).astype(np.float32)
    lists = pa.ListArray.from_arrays(pa.array(np.r_[0, np.cumsum(counts)], pa.int32()), values)
    pq.write_table(pa.table({"pt": lists, "x": rng.normal(size=events).astype(np.float32)}), path)
    return np.split(values, np.cumsum(counts)[:-1])


EVENT = EventInfo.parse(
    {
        "streams": {
            "jets": {
                "slots": 2,
                "features": {"pt": {"transform": [{"affine": "auto"}, {"clip": [-5, 5]}]}},
            }
        },
        "globals": {"g": {"features": {"x": {"transform": {"affine": "auto"}}}}},
    },
    "event",
)


def prepare(tmp_path: Path, name: str, **config: object) -> hepset.Dataset:
    reader = hepset.open_reader(
        "parquet", files=[str(tmp_path / "*.parquet")], event=EVENT, chunk_size=77
    )
    contract = compile_contract(EVENT)
    settings_ = PrepareConfig.model_validate(config)
    engine = LocalEngine(LocalEngineConfig(workers=1))
    return prepare_dataset(
        [reader],
        event=EVENT,
        contract=contract,
        config=settings_,
        seed=1,
        output=tmp_path / name,
        engine=engine,
    )


def test_the_dataset_holds_constants_of_the_first_training_events(tmp_path: Path) -> None:
    parts = [write(tmp_path / "a.parquet", 1), write(tmp_path / "b.parquet", 2)]
    split = {"train": 1.0, "val": 0.0, "test": 0.0}
    dataset = prepare(tmp_path, "out", split=split, affine_fraction=0.35, select="count(jets) > 1")
    first = [jets for part in parts for jets in part[:105] if len(jets) > 1]
    # All jets count, also those beyond the two slots.
    centre, scale = expected(np.concatenate(first))
    step = dataset.event.streams["jets"].features["pt"].transform[0]
    assert step.affine.subtract == pytest.approx(centre, rel=1e-12)
    assert step.affine.multiply == pytest.approx(scale, rel=1e-12)
    assert dataset.contract["jets"].features == dataset.event.streams["jets"].features
    assert dataset.event.globals["g"].features["x"].transform[0].affine != "auto"
    FeatureTransform(dataset.contract["jets"].features, None, "jets")
    with pytest.raises(ConfigurationError, match="takes its constants from the training events"):
        FeatureTransform(EVENT.streams["jets"].features, None, "jets")


def test_only_training_events_count(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", 3)
    dataset = prepare(tmp_path, "out", split={"train": 0.5, "val": 0.5, "test": 0.0})
    trained = np.concatenate([b.arrays["g"][:, 0] for b in dataset.split("train").batches(100)])
    step = dataset.event.globals["g"].features["x"].transform[0]
    assert (step.affine.subtract, step.affine.multiply) == pytest.approx(expected(trained))


def test_no_value_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", 3)
    with pytest.raises(DatasetError, match=r"jets\.pt: affine: auto finds no value"):
        prepare(tmp_path, "out", select="count(jets) < 1")
