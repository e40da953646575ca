"""hepset's own definition of a reader and of a writer, applied to SPANet's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hepset.batch import EventBatch
from hepset.interfaces.reader import Chunk
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo
from hepset.testing import check_reader, check_writer
from hepset_spanet.reader import SpanetReader, SpanetReaderConfig
from hepset_spanet.writer import SpanetWriter

Datasets = dict[str, Any]
WriteFile = Callable[[Datasets], str]


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
