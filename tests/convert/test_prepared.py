"""Cuts before derived columns, plain names, columns of the files, files without targets."""

from __future__ import annotations

import numpy as np

from hepset.batch import EventBatch, FlatStream, make_ids
from hepset.events.pipeline import EventPipeline
from hepset.events.select import derive, possible, without_columns
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo

EVENT = EventInfo.parse(
    {
        "streams": {"pf": {"features": ["ratio", "charge"]}},
        "targets": {"label": {"kind": "classification", "classes": ["a", "b"]}},
        "columns": {"part_pt": "pf", "jet_pt": None, "jet_label": None},
    },
    "event",
)
DERIVE = {
    "pf.ratio": "fraction * 2",
    "fraction": "part_pt / jet_pt",
    "target.label": "where(jet_label < 2, jet_label, 0)",
    "extra.jet_pt": "jet_pt",
    "leading": "max(fraction)",
    "extra.leading": "leading",
}


def batch() -> EventBatch:
    jet_pt = np.array([10, 20, 40], np.float32)
    return EventBatch(
        make_ids(0, range(3)),
        {
            "pf": FlatStream(
                np.array([0, 2, 2, 3]),
                {"charge": np.array([1, -1, 0], np.int32)},
                {"columns/part_pt": np.array([5, 2, 30], np.float32)},
            )
        },
        {"columns/jet_pt": jet_pt, "columns/jet_label": np.array([1, 7, 0], np.int32)},
        sources=["a.root"],
    )


def test_only_what_was_declared_is_left() -> None:
    found = EventPipeline(EVENT, compile_contract(EVENT), DERIVE).select(batch()).batch
    assert set(found.arrays) == {"target/label", "extra/jet_pt", "extra/leading"}
    assert found.flat("pf").attached == {}
    assert list(found.flat("pf").columns) == ["charge", "ratio"]
    assert found.flat("pf").columns["ratio"].tolist() == [1.0, np.float32(0.4), 1.5]
    assert found.flat("pf").columns["ratio"].dtype == np.float32
    assert found.arrays["target/label"].tolist() == [1, 0, 0]


def test_cuts_use_derived_columns_and_are_counted() -> None:
    cuts = {"some": "count(pf) > 0", "leading": "extra.leading > 0.6", "label": "jet_label < 7"}
    pipeline = EventPipeline(EVENT, compile_contract(EVENT), DERIVE, cuts, tally=True)
    result = pipeline.select(batch())
    found = result.batch
    assert [tally.events for tally in result.tallies] == [3, 2, 1, 1]
    assert found.ids["entry"].tolist() == [2]
    assert found.flat("pf").columns["ratio"].tolist() == [1.5]
    whole = without_columns(derive(batch(), EVENT, DERIVE), DERIVE).take(np.array([2]))
    assert found.arrays.keys() == whole.arrays.keys()
    for name, array in whole.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)


def test_files_without_labels_lack_only_what_needs_them() -> None:
    full = batch()
    without = full.arrays.copy()
    del without["columns/jet_label"]
    unlabelled = EventBatch(full.ids, full.streams, without, sources=full.sources)
    left = possible(unlabelled, EVENT, DERIVE)
    assert set(DERIVE) - set(left) == {"target.label"}
    assert set(derive(unlabelled, EVENT, left).arrays) >= {"extra/jet_pt"}
    assert possible(full, EVENT, DERIVE) == DERIVE
