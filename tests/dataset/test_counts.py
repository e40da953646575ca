from __future__ import annotations

from functools import reduce

import numpy as np

from hepset.arrays import Ragged
from hepset.dataset.columns import Column
from hepset.dataset.counts import CountsCollector
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo
from hepset.schema.statistics import EventCounts

EVENT = EventInfo.model_validate(
    {
        "streams": {
            "jets": {"slots": 4, "features": ["pt"]},
            "leptons": {"slots": 2, "features": ["pt"]},
        },
        "processes": {
            "tt": {"particles": {"t1": ["b", "q"], "t2": ["b", "q"]}},
            "other": {"particles": {"h": ["a"]}},
        },
    }
)
ROWS = 4
COLUMNS: dict[str, Column] = {
    "jets": np.zeros((ROWS, 4, 1), np.float32),
    "jets.mask": np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0]], bool),
    "leptons": Ragged.of(np.array([0, 1, 1, 3, 4]), np.zeros((4, 1), np.float32)),
    "process": np.array([0, 0, 1, 0], np.int16),
    "target/assignment/tt/t1": np.array([[0, 1], [0, -1], [-1, -1], [2, 0]]),
    "target/assignment/tt/t2": np.array([[-1, -1], [1, 2], [-1, -1], [-1, 0]]),
    "target/assignment/other/h": np.array([[-1], [-1], [0], [-1]]),
}


def counted(rows: slice) -> EventCounts:
    collector = CountsCollector(compile_contract(EVENT), COLUMNS)
    events = np.arange(ROWS)[rows]
    chosen = {
        name: column.take(events) if isinstance(column, Ragged) else column[events]
        for name, column in COLUMNS.items()
    }
    collector.add(chosen, len(events))
    return collector.result()


def test_counts_by_objects_and_by_particles() -> None:
    found = counted(slice(None))
    assert found.objects == {2: 1, 3: 3}
    assert found.present["tt"] == {0: {"01": 1, "10": 2}, 1: {"00": 1}}
    assert found.present["other"] == {0: {"0": 3}, 1: {"1": 1}}


def test_counts_of_parts_merge_to_those_of_the_whole() -> None:
    parts = [counted(slice(0, 1)), counted(slice(1, 3)), counted(slice(3, 4))]
    assert reduce(EventCounts.merge, parts, EventCounts()) == counted(slice(None))
    again = EventCounts.model_validate_json(counted(slice(None)).model_dump_json())
    assert again == counted(slice(None))
