"""Read a chunk of a plan: its ids count through the sources of all readers, its errors name it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hepset.batch import ID_DTYPE, EventBatch
from hepset.convert.plan import Plan, Range
from hepset.errors import HepsetError, MissingColumnError, ReadError
from hepset.interfaces import Chunk, Reader

__all__ = ["UNUSABLE", "read_chunk", "read_chunk_rows", "read_chunk_scalars"]

Array = NDArray[Any]

UNUSABLE: Final = (ReadError, MissingColumnError)
"""What a file that ``on_error: skip`` leaves out fails with: it is damaged, or lacks a column."""


def read_chunk(plan: Plan, work: Range, chunk: Chunk) -> EventBatch:
    """Read all of a chunk.

    Args:
        plan: What the chunk is part of.
        work: The range it is part of.
        chunk: What to read.

    Raises:
        ReadError: Naming the file and the entries, if they cannot be read.
    """
    return _read(plan, work, chunk, lambda reader: reader.read(chunk))


def read_chunk_scalars(plan: Plan, work: Range, chunk: Chunk) -> EventBatch:
    """Read what the events of a chunk have once, as `read_chunk` does everything."""
    return _read(plan, work, chunk, lambda reader: reader.read_scalars(chunk))


def read_chunk_rows(plan: Plan, work: Range, chunk: Chunk, rows: Array) -> EventBatch:
    """Read some events of a chunk, given by number, as `read_chunk` does all."""
    return _read(plan, work, chunk, lambda reader: reader.read_rows(chunk, rows))


def _read(
    plan: Plan, work: Range, chunk: Chunk, read: Callable[[Reader], EventBatch]
) -> EventBatch:
    try:
        batch = read(plan.readers[work.reader])
    except HepsetError:
        raise
    except (ArithmeticError, AttributeError, NameError, TypeError):
        raise  # A defect of the reader, not of the file.
    except Exception as problem:  # libraries of file formats raise anything
        detail = f"{type(problem).__name__}: {problem}"
        where = f"{plan.paths[work.source]}: entries {chunk.start} to {chunk.stop}"
        raise ReadError(f"{where} cannot be read ({detail})") from problem
    ids = np.zeros(len(batch), ID_DTYPE)
    for name in ("source", "entry", "sample"):
        ids[name] = batch.ids[name]
    ids["source"] += np.uint32(plan.offsets[work.reader])
    arrays = dict(batch.arrays)
    group = plan.sources[work.source].group
    if group and "extra/group" not in arrays:
        arrays["extra/group"] = np.full(len(batch), group)
    return replace(batch, ids=ids, arrays=arrays, sources=plan.keys)
