"""The two public example files, against numbers that SPANet itself gives for them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hepset.batch import EventBatch, concatenate
from hepset.dialects import load_event
from hepset.schema.contract import compile_contract
from hepset_spanet.reader import SpanetReader, SpanetReaderConfig

SHARED = Path(__file__).parents[5] / "shared"
DATA, FIXTURES = SHARED / "data/spanet", SHARED / "fixtures/spanet"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the public files are not here")
needs_numbers = pytest.mark.skipif(not FIXTURES.is_dir(), reason="SPANet's numbers are not here")


def open_reader(name: str) -> SpanetReader:
    event = load_event(DATA / f"{name}.yaml")
    config = SpanetReaderConfig(files=[str(DATA / f"{name}.h5")], chunk_size=3000)
    return SpanetReader(config, event)


@pytest.fixture(scope="module")
def ttbar() -> EventBatch:
    return concatenate(open_reader("full_hadronic_ttbar"))


@pytest.fixture(scope="module")
def tth() -> EventBatch:
    return concatenate(open_reader("semi_leptonic_ttH"))


@pytest.mark.parametrize("name", ["full_hadronic_ttbar", "semi_leptonic_ttH"])
def test_both_obey_their_contract(name: str) -> None:
    reader = open_reader(name)
    contract = compile_contract(reader.event_info())
    for batch in reader:
        contract.check(batch, strict=True)


def test_ttbar_numbers(ttbar: EventBatch) -> None:
    assert len(ttbar) == 10_000
    assert ttbar["Source"].shape == (10_000, 10, 5)
    counts = np.bincount(ttbar["Source.mask"].sum(axis=1), minlength=11) / len(ttbar)
    np.testing.assert_allclose(counts[6:], [0.31, 0.34, 0.21, 0.10, 0.03], atol=0.01)
    assert counts[:6].sum() == 0
    complete = [(ttbar[f"target/assignment/{t}"] >= 0).all(axis=1) for t in ("t1", "t2")]
    assert complete[0].mean() == pytest.approx(0.5, abs=0.01)
    assert complete[1].mean() == pytest.approx(0.5, abs=0.01)
    assert (complete[0] & complete[1]).mean() == pytest.approx(0.23, abs=0.01)
    assert (~complete[0] & ~complete[1]).mean() == pytest.approx(0.23, abs=0.01)


def test_tth_numbers(tth: EventBatch) -> None:
    assert len(tth) == 1000
    assert tth["Momenta"].shape == (1000, 19, 9)
    assert tth["Met"].shape == (1000, 3)
    assert set(np.unique(tth["target/signal"])) == {0, 1}


@needs_numbers
def test_ttbar_statistics(ttbar: EventBatch) -> None:
    """Mean and unbiased width of the whole file, after ln(1 + x) of mass and pt."""
    expected = json.loads((FIXTURES / "statistics_full_hadronic_ttbar.json").read_text())
    real = ttbar["Source"][ttbar["Source.mask"]].astype(np.float64)
    real[:, :2] = np.log1p(real[:, :2])
    np.testing.assert_allclose(real.mean(axis=0)[:4], expected["mean"]["Source"][:4], atol=2e-5)
    np.testing.assert_allclose(
        real.std(axis=0, ddof=1)[:4], expected["std"]["Source"][:4], rtol=2e-5
    )


@needs_numbers
def test_training_split_statistics(ttbar: EventBatch) -> None:
    """The first 95 % of the events, with the numbers that SPANet keeps in its checkpoint."""
    cut = ttbar.take(np.arange(9500))
    real = cut["Source"][cut["Source.mask"]].astype(np.float64)
    real[:, :2] = np.log1p(real[:, :2])
    np.testing.assert_allclose(real.mean(axis=0)[:4], [2.0822, 4.0768, -0.0034, -0.0044], atol=6e-5)
    np.testing.assert_allclose(
        real.std(axis=0, ddof=1)[:4], [0.5403, 0.5602, 1.4015, 1.8097], atol=6e-5
    )


@needs_numbers
@pytest.mark.parametrize(("case", "logs"), [("tiny_ttbar", [0, 1]), ("tiny_ttH", [0, 1])])
def test_inputs_and_targets_are_spanets(
    case: str, logs: list[int], ttbar: EventBatch, tth: EventBatch
) -> None:
    batch = (ttbar if case == "tiny_ttbar" else tth).take(np.arange(32))
    expected = np.load(FIXTURES / case / "io.npz")
    for name in batch.streams:
        mask = batch[f"{name}.mask"]
        values = batch[name].copy()
        values[..., logs] = np.log1p(values[..., logs])
        np.testing.assert_array_equal(mask, expected[f"source/{name}/mask"])
        np.testing.assert_allclose(
            values[mask], expected[f"source/{name}/data"][mask], rtol=1e-6, atol=1e-6
        )
    for name in [n for n in batch.names() if n.startswith("target/assignment/")]:
        particle = name.removeprefix("target/assignment/")
        present = expected[f"target/{particle}/mask"]
        np.testing.assert_array_equal((batch[name] >= 0).all(axis=1), present)
        np.testing.assert_array_equal(
            batch[name][present], expected[f"target/{particle}/indices"][present]
        )
    if case == "tiny_ttH":
        met = batch["Met"].copy()
        met[:, 0] = np.log1p(met[:, 0])
        np.testing.assert_allclose(met, expected["source/Met/data"][:, 0], rtol=1e-6)
        for key in [k for k in expected if k.startswith("regression_target/EVENT/")]:
            target = f"target/{key.rpartition('/')[2]}"
            np.testing.assert_array_equal(batch[target], expected[key])
        signal = expected["classification_target/EVENT/signal"]
        np.testing.assert_array_equal(batch["target/signal"], signal)
