from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from hepset.dataset import Dataset
from hepset.dataset.loader import ids_of
from hepset.errors import ConfigurationError, ExpressionError
from hepset.sampling.split import SplitSampler
from hepset.schema.event import EventInfo
from hepset.schema.sampling import SamplingConfig

EVENT = EventInfo.model_validate(
    {
        "streams": {"jets": {"slots": 4, "features": ["pt"]}},
        "globals": {"met": {"features": {"pt": {"unit": "GeV"}}}},
        "targets": {
            "signal": {"kind": "classification", "classes": ["no", "yes"]},
            "open": {"kind": "classification"},
        },
    }
)
ROWS = 3000


def tensors(rows: int = ROWS, seed: int = 0) -> dict[str, np.ndarray]:
    """Signal is a tenth of the events, and its met is harder."""
    rng = np.random.default_rng(seed)
    signal = (rng.random(rows) < 0.1).astype(np.int64)
    counts = rng.integers(0, 5, rows)
    mask = np.arange(4) < counts[:, None]
    return {
        "jets": np.where(mask, rng.uniform(20, 200, (rows, 4)), 0)[:, :, None].astype(np.float32),
        "jets.mask": mask,
        "met": rng.exponential(np.where(signal, 60, 20))[:, None].astype(np.float32),
        "target/signal": signal,
        "target/open": np.where(rng.random(rows) < 0.2, -1, signal),
        "weight": rng.normal(1, 0.1, rows),
        "extra/factor": rng.uniform(0.5, 2, rows).astype(np.float32),
    }


@pytest.fixture
def dataset(write_dataset: Any) -> Dataset:
    splits = {"train": tensors(), "val": tensors(50, 1), "test": tensors(0, 2)}
    found: Dataset = write_dataset(EVENT, splits, shards=3, group=100)
    return found


def sampler(dataset: Dataset, seed: int = 5, **options: Any) -> SplitSampler:
    return SplitSampler(dataset.split("train"), SamplingConfig.model_validate(options), seed)


FLAT: dict[str, Any] = {
    "variables": {"met.pt": [0, 10, 20, 40, 80]},
    "classes": {"signal": "target.signal == 1", "background": "target.signal == 0"},
}


def spectra(counts: np.ndarray) -> np.ndarray:
    """Drawn events by class, signal first, and bin."""
    data = tensors()
    return np.stack(
        [
            np.histogram(data["met"][of, 0], [0, 10, 20, 40, 80], weights=counts[of])[0]
            for of in (data["target/signal"] == 1, data["target/signal"] == 0)
        ]
    )


def test_flat_spectra_and_exact_fractions(dataset: Dataset) -> None:
    draws = sampler(dataset, **FLAT, class_weights={"signal": 1, "background": 3}, threshold=0)
    counts = draws.counts(0)
    assert counts.sum() == draws.events
    assert not counts[tensors()["met"][:, 0] > 80].any()
    drawn = spectra(counts)
    by_class = drawn.sum(1)
    assert by_class[1] == pytest.approx(3 * by_class[0], abs=3)
    # Flat within the scatter of a systematic sample.
    assert_allclose(drawn / by_class[:, None], 0.25, atol=0.03)


@pytest.mark.parametrize("kind", ["exact", "accept_reject"])
def test_every_event_follows_its_acceptance(dataset: Dataset, kind: str) -> None:
    draws = sampler(dataset, **FLAT, sampler=kind)
    mean = np.mean([draws.counts(epoch) for epoch in range(200)], 0)
    expected = draws.acceptances.rows * (draws.events / draws.acceptances.rows.sum())
    assert np.abs(mean - expected).max() < 6 * np.sqrt(draws.repeats * 0.25 / 200)


def test_a_target_gives_the_classes(dataset: Dataset) -> None:
    draws = sampler(dataset, classes="signal")
    counts, labels = draws.counts(1), tensors()["target/signal"]
    assert abs(counts[labels == 1].sum() - counts[labels == 0].sum()) <= 1
    assert_allclose(draws.fractions(labels, 2), 0.5, rtol=1e-6)


def test_events_without_a_class_are_never_drawn(dataset: Dataset) -> None:
    counts = sampler(dataset, classes={"yes": "target.signal == 1"}).counts(0)
    signal = tensors()["target/signal"] == 1
    assert counts[signal].any()
    assert not counts[~signal].any()


def test_the_base_weight_is_a_further_factor(dataset: Dataset) -> None:
    factor = tensors()["extra/factor"]
    plain = sampler(dataset, method="weights", base_weight="extra.factor")
    assert_array_equal(plain.acceptances.rows, factor)
    both = sampler(dataset, **FLAT, base_weight="extra.factor", threshold=20)
    assert np.percentile(both.acceptances.rows, 80) == pytest.approx(1)


def test_the_loader_reads_what_is_drawn(dataset: Dataset) -> None:
    for cache in ("none", "mmap"):
        draws = sampler(dataset, **FLAT)
        loader = dataset.loader(
            "train", batch_size=64, shuffle=True, seed=5, ids=True, sampling=draws, cache=cache
        )
        for epoch in range(2):
            seen: Counter[int] = Counter()
            data = tensors()
            for batch in loader:
                entries = ids_of(batch["ids"])["entry"]
                seen.update(entries.tolist())
                assert_array_equal(batch["met"].numpy(), data["met"][entries])
                assert_array_equal(batch["jets.mask"].numpy(), data["jets.mask"][entries])
            expected = draws.counts(epoch)
            assert [seen[row] for row in range(ROWS)] == expected.tolist()
            assert loader.epoch == epoch + 1


def test_ranks_share_what_is_drawn(dataset: Dataset) -> None:
    draws = sampler(dataset, **FLAT, events=500)
    seen: Counter[int] = Counter()
    for rank in range(3):
        loader = dataset.loader(
            "train", batch_size=64, shuffle=True, ids=True, sampling=draws, rank=rank, world=3
        )
        assert len(loader) == 3
        for batch in loader:
            seen.update(ids_of(batch["ids"])["entry"].tolist())
    assert [seen[row] for row in range(ROWS)] == draws.counts(0).tolist()


def test_resuming_in_the_middle_gives_the_rest(dataset: Dataset) -> None:
    def make() -> Any:
        draws = sampler(dataset, **FLAT, sampler="accept_reject")
        return dataset.loader("train", batch_size=64, shuffle=True, ids=True, sampling=draws)

    whole = [batch["ids"][:, 1].tolist() for batch in make()]
    loader, other = make(), make()
    first = iter(loader)
    begun = [next(first)["ids"][:, 1].tolist() for _ in range(3)]
    other.load_state_dict(loader.state_dict())
    assert begun + [batch["ids"][:, 1].tolist() for batch in other] == whole


def test_per_object_expressions_and_unknown_names_are_refused(dataset: Dataset) -> None:
    with pytest.raises(ConfigurationError, match="one value for each of the jets"):
        sampler(dataset, variables={"jets.pt": [0, 100]})
    with pytest.raises(ExpressionError, match="met"):
        sampler(dataset, variables={"met.ptt": [0, 100]})
    with pytest.raises(ConfigurationError, match="no classification target"):
        sampler(dataset, classes="signl")
    with pytest.raises(ConfigurationError, match="no class 'yess'"):
        sampler(dataset, classes="signal", class_weights={"yess": 2})
    with pytest.raises(ConfigurationError, match=r"base_weight: \d+ of \d+ events"):
        sampler(dataset, method="weights", base_weight="extra.factor - 1")
    with pytest.raises(ConfigurationError, match="no training event in the class c"):
        sampler(dataset, variables={"met.pt": [0, 9]}, classes={"c": "met.pt > 10"})
    with pytest.raises(ConfigurationError, match="no event is in the split"):
        SplitSampler(dataset.split("test"), SamplingConfig(), 0)


def test_what_cannot_be_drawn_is_refused(dataset: Dataset) -> None:
    with pytest.raises(ConfigurationError, match=r"all 3000 training events .* base_weight: '0 \*"):
        sampler(dataset, method="weights", base_weight="0 * extra.factor")
    with pytest.raises(ConfigurationError, match=r"classes\.hard: 3000 of 3000 events .* neither"):
        sampler(dataset, classes={"hard": "met.pt", "all": "met.pt > 0"})
