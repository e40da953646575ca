from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hepset import compile_contract, open_reader
from hepset.arrays import Ragged, offsets_of
from hepset.convert import prepare_dataset
from hepset.convert.lengths import added_lengths, count_lengths, slots_for
from hepset.dataset import Dataset
from hepset.schema.config import PrepareConfig
from hepset.schema.event import EventInfo

LENGTHS = [1, 1, 2, 2, 2, 3, 3, 4, 7, 40]


@pytest.mark.parametrize(
    ("quantile", "slots"), [(1.0, 40), (0.9, 7), (0.89, 7), (0.8, 4), (0.5, 2), (0.01, 1)]
)
def test_fewest_slots_that_hold_a_fraction_of_the_events(quantile: float, slots: int) -> None:
    assert slots_for(Counter(LENGTHS), quantile) == slots


def test_there_is_always_one_slot() -> None:
    assert slots_for(Counter()) == slots_for(Counter({0: 5})) == 1


@given(st.lists(st.integers(0, 9), max_size=20), st.integers(0, 20), st.sampled_from([0.3, 0.99]))
def test_the_cut_of_the_work_does_not_matter(counts: list[int], cut: int, quantile: float) -> None:
    def counted(part: list[int]) -> dict[str, Counter[int]]:
        stream = Ragged(offsets_of(part), {"pt": np.zeros(sum(part))})
        return count_lengths({"jets": stream})

    whole = counted(counts)["jets"]
    assert added_lengths([counted(counts[:cut]), counted(counts[cut:])])["jets"] == whole
    if counts:
        slots = slots_for(whole, quantile)
        assert np.mean(np.array(counts) <= slots) >= quantile
        assert slots == 1 or np.mean(np.array(counts) <= slots - 1) < quantile


def convert(folder: Path, **stream: Any) -> Dataset:
    folder.mkdir()
    lengths = LENGTHS * 3
    offsets = offsets_of(lengths)
    pt = np.arange(offsets[-1], dtype=np.float32)
    lists = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(pt))
    pq.write_table(pa.table({"cells_pt": lists}), folder / "a.parquet")
    event = EventInfo.model_validate({"streams": {"cells": {"features": ["pt"], **stream}}})
    reader = open_reader("parquet", files=folder / "a.parquet", event=event)
    return prepare_dataset(
        [reader],
        event=event,
        contract=compile_contract(event),
        config=PrepareConfig.model_validate({"split": {"train": 1.0, "val": 0.0, "test": 0.0}}),
        seed=1,
        output=folder / "dataset",
    )


def test_slots_from_a_quantile_cut_and_count_the_rest(tmp_path: Path) -> None:
    dataset = convert(tmp_path / "q", slots={"quantile": 0.9})
    assert dataset.contract.slots == {"cells": 7}
    cut = dataset.manifest.truncated["cells"]
    assert (cut.events, cut.objects, cut.longest) == (3, 3 * 33, 40)
    assert dataset.event.streams["cells"].slots == 7


@pytest.mark.parametrize(
    ("stream", "layout"),
    [
        ({"slots": 40}, "fixed"),
        ({"slots": 40, "storage": "jagged"}, "jagged"),
        ({"slots": "auto"}, "jagged"),  # 195 of 1200 slots are real
        ({"slots": "auto", "storage": "fixed"}, "fixed"),
        ({"slots": {"quantile": 0.9}}, "fixed"),  # 96 of 210
        ({"slots": {"quantile": 0.9}, "storage": "jagged"}, "jagged"),
    ],
)
def test_storage_is_as_asked_for(tmp_path: Path, stream: Any, layout: str) -> None:
    dataset = convert(tmp_path / "s", **stream)
    assert dataset.layouts["cells"].layout == layout
    split = dataset.split("train")
    found = next(iter(split.batches(len(split))))
    expected = convert(tmp_path / "t", **{**stream, "storage": "fixed"}).split("train")
    other = next(iter(expected.batches(len(expected))))
    np.testing.assert_array_equal(found["cells"], other["cells"])
    np.testing.assert_array_equal(found["cells.mask"], other["cells.mask"])
