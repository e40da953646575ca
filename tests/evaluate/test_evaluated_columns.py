"""What kept columns hold, seen in events and in a dataset."""

from __future__ import annotations

import numpy as np

from hepset.batch import EventBatch, FlatStream, make_ids
from hepset.dataset.columns import extra_layout
from hepset.evaluate.columns import KeptColumn, kept_columns, kept_in_dataset

EXPECTED = {
    "extra/ht": KeptColumn(None, True, "float32"),
    "extra/file": KeptColumn(None, False, "<U4"),
    "extra/pdf": KeptColumn(None, False, "float64"),
    "extra/d0": KeptColumn("jets", True, "float32"),
    "extra/hits": KeptColumn("jets", False, "int32"),
}


def events() -> EventBatch:
    attached = {"extra/d0": np.zeros(3, np.float32), "extra/hits": np.zeros((3, 4), np.int32)}
    arrays = {
        "extra/ht": np.zeros(2, np.float32),
        "extra/file": np.array(["a", "abcd"]),
        "extra/pdf": np.zeros((2, 5)),
        "target/signal": np.zeros(2, np.int64),
    }
    columns = {"pt": np.ones(3, np.float32)}
    stream = FlatStream(np.array([0, 1, 3]), columns, attached)
    return EventBatch(make_ids(0, range(2)), {"jets": stream}, arrays, {"jets": 2}, ("a.h5",))


def test_in_events_flat_and_padded() -> None:
    batch = events()
    assert kept_columns(batch) == EXPECTED
    padded = EventBatch(
        batch.ids, {"jets": batch.padded("jets")}, batch.arrays, batch.slots, batch.sources
    )
    assert kept_columns(padded) == EXPECTED


def test_in_a_dataset() -> None:
    layouts = {
        name: extra_layout(name, values.dtype, values.shape[1:])
        for name, values in events().arrays.items()
    }
    for name, values in events().streams["jets"].attached.items():
        shape = (2, *values.shape[1:])
        layouts[name] = extra_layout(name, values.dtype, shape, stream="jets")
    assert kept_in_dataset(layouts) == EXPECTED
