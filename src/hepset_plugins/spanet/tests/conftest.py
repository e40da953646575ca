from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from hepset.schema.event import EventInfo
from hepset_spanet.event_file import parse_event_file

EVENT = """
INPUTS:
  SEQUENTIAL:
    Jets: {pt: log_normalize, eta: normalize, phi: normalize, btag: none}
    Leptons: {pt: log}
  GLOBAL:
    Met: {met: log_normalize, phi: normalize}
EVENT:
  t1: [b: Jets, l: Leptons]
  t2: [q1, q2]
PERMUTATIONS:
  t2: [[q1, q2]]
REGRESSIONS:
  EVENT: [mass, [scale, log_gaussian]]
  t1:
    PARTICLE: [[pt, laplacian]]
    b: [energy]
CLASSIFICATIONS:
  EVENT: [signal]
"""

Datasets = dict[str, NDArray[Any]]
WriteFile = Callable[[Mapping[str, Any]], str]


@pytest.fixture
def event() -> EventInfo:
    """Two streams, a global, two particles, targets at every level."""
    return parse_event_file(yaml.safe_load(EVENT), where="event.yaml")


@pytest.fixture
def datasets() -> Datasets:
    """Four events: 3 jet slots and 2 lepton slots; the third event is empty."""
    f, i = np.float32, np.int64
    jets = np.array([[1, 1, 0], [1, 1, 1], [0, 0, 0], [1, 0, 0]], bool)
    leptons = np.array([[1, 1], [1, 1], [0, 0], [0, 0]], bool)
    slot = np.arange(12, dtype=f).reshape(4, 3)
    return {
        "INPUTS/Jets/MASK": jets,
        "INPUTS/Jets/pt": slot + 20,
        "INPUTS/Jets/eta": slot / 10,
        "INPUTS/Jets/phi": slot / 5,
        "INPUTS/Jets/btag": (slot % 2).astype(np.int8),
        "INPUTS/Jets/unused": slot,
        "INPUTS/Leptons/MASK": leptons,
        "INPUTS/Leptons/pt": np.arange(8, dtype=f).reshape(4, 2) + 30,
        "INPUTS/Met/met": np.array([50, 60, 70, 80], f),
        "INPUTS/Met/phi": np.array([0.1, 0.2, 0.3, 0.4], f),
        "TARGETS/t1/b": np.array([1, 2, -1, 0], i),
        "TARGETS/t1/l": np.array([0, 1, -1, -1], i),
        "TARGETS/t2/q1": np.array([0, 0, -5, -1], i),
        "TARGETS/t2/q2": np.array([4, 1, -5, -1], i),
        "REGRESSIONS/EVENT/mass": np.array([170, np.nan, 172, 173], f),
        "REGRESSIONS/EVENT/scale": np.array([1, -2, 3, 4], f),
        "REGRESSIONS/t1/PARTICLE/pt": np.array([10, 20, np.nan, 40], f),
        "REGRESSIONS/t1/b/energy": np.array([11, 21, np.nan, 41], f),
        "CLASSIFICATIONS/EVENT/signal": np.array([1, 0, -1, 1], i),
    }


@pytest.fixture
def write_file(tmp_path: Path) -> WriteFile:
    """Write datasets to a new HDF5 file and return its path."""
    count = 0

    def write(content: Mapping[str, Any]) -> str:
        nonlocal count
        path = tmp_path / f"events{count}.h5"
        count += 1
        with h5py.File(path, "w") as file:
            for name, values in content.items():
                file[name] = values
        return str(path)

    return write
