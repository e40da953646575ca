"""Read a chunk of a plan: its ids count through the sources of all readers, its errors name it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import numpy as np

from hepset.batch import ID_DTYPE, EventBatch
from hepset.convert.plan import Plan, Range
from hepset.errors import HepsetError, MissingColumnError, ReadError
from hepset.interfaces import Chunk, Reader

__all__ = ["UNUSABLE", "read_chunk"]

UNUSABLE: Final = (ReadError, MissingColumnError)
"""What a file that ``on_error: skip`` leaves out fails with: it is damaged, or lacks a column."""


def read_chunk(
    plan: Plan,
    part: Range,
    chunk: Chunk,
    read: Callable[[Reader, Chunk], EventBatch] = lambda reader, chunk: reader.read(chunk),
) -> EventBatch:
    """Read a chunk.

    Args:
        plan: What the chunk is part of.
        part: The range it is part of.
        chunk: What to read.
        read: How; by default all of it.

    Raises:
        ReadError: Naming the file and the entries, if they cannot be read.
    """
    try:
        batch = read(plan.readers[part.reader], chunk)
    except HepsetError:
        raise
    except (ArithmeticError, AttributeError, NameError, TypeError):
        raise  # A defect of the reader, not of the file.
    except Exception as problem:  # libraries of file formats raise anything
        detail = f"{type(problem).__name__}: {problem}"
        where = f"{plan.paths[part.source]}: entries {chunk.start} to {chunk.stop}"
        raise ReadError(f"{where} cannot be read ({detail})") from problem
    ids = np.zeros(len(batch), ID_DTYPE)
    for name in ("source", "entry", "sample"):
        ids[name] = batch.ids[name]
    ids["source"] += np.uint32(plan.offsets[part.reader])
    arrays = dict(batch.arrays)
    group = plan.sources[part.source].group
    if group and "extra/group" not in arrays:
        arrays["extra/group"] = np.full(len(batch), group)
    return replace(batch, ids=ids, arrays=arrays, sources=plan.keys)
