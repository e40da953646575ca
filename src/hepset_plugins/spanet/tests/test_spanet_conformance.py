"""hepset's own definition of a reader, a writer and a dialect, applied to SPANet's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hepset.batch import EventBatch
from hepset.dialects import load_yaml
from hepset.interfaces.reader import Chunk
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo
from hepset.testing import check_dialect, check_reader, check_writer
from hepset_spanet.dialect import SpanetDialect
from hepset_spanet.reader import SpanetReader, SpanetReaderConfig
from hepset_spanet.writer import SpanetWriter

Datasets = dict[str, Any]
WriteFile = Callable[[Datasets], str]


PUBLIC = sorted((Path(__file__).parents[5] / "shared/data/spanet").glob("*.yaml"))

DOCUMENTS: list[dict[str, Any]] = [
    {
        "INPUTS": {"SEQUENTIAL": {"Jets": {"pt": "log_normalize", "phi": "normalize"}}},
        "EVENT": {},
    },
    {
        "INPUTS": {
            "SEQUENTIAL": {"Jets": {"pt": "log", "eta": "none"}, "Leptons": {"pt": "log"}},
            "GLOBAL": {"Met": {"met": "log_normalize", "phi": "normalize"}},
        },
        "EVENT": {"t1": [{"b": "Jets"}, {"l": "Leptons"}], "t2": ["q1", "q2"]},
        "PERMUTATIONS": {"t2": [["q1", "q2"]]},
        "REGRESSIONS": {"EVENT": ["mass", ["scale", "laplacian"]], "t1": {"PARTICLE": ["pt"]}},
        "CLASSIFICATIONS": {"EVENT": ["signal"]},
    },
]


def test_reader_conforms(event: EventInfo, datasets: Datasets, write_file: WriteFile) -> None:
    other = dict(datasets)
    del other["CLASSIFICATIONS/EVENT/signal"]
    other["REGRESSIONS/EVENT/mass"] = datasets["REGRESSIONS/EVENT/mass"].astype(np.float64)
    other["INPUTS/Jets/pt"] = datasets["INPUTS/Jets/pt"].astype(np.float64)
    other["INPUTS/Met/met"] = datasets["INPUTS/Met/met"].astype(np.float64)
    files = [write_file(datasets), write_file(other)]
    check_reader(SpanetReader(SpanetReaderConfig(files=files, chunk_size=3), event))


def test_writer_conforms(event: EventInfo, datasets: Datasets, write_file: WriteFile) -> None:
    def read(path: Path | str) -> EventBatch:
        reader = SpanetReader(SpanetReaderConfig(files=[str(path)]), event)
        return reader.read(Chunk(0, 0, reader.sources()[0].entries))

    batch = read(write_file(datasets))
    check_writer(SpanetWriter, batch, compile_contract(event), read_back=read, name="events.h5")


def test_dialect_conforms() -> None:
    check_dialect(SpanetDialect(), DOCUMENTS)


@pytest.mark.skipif(not PUBLIC, reason="the public SPANet examples are not here")
def test_dialect_conforms_on_the_public_examples() -> None:
    check_dialect(SpanetDialect(), [load_yaml(path) for path in PUBLIC])
