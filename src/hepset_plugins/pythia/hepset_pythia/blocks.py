"""How entries of a generator are cut into chunks of whole blocks."""

from __future__ import annotations

from hepset.interfaces.reader import Chunk
from hepset_pythia.generate import BLOCK_SIZE

__all__ = ["blocks_of", "chunks_of_blocks"]


def chunks_of_blocks(events: int, *, chunk_size: int, limit: int | None) -> list[Chunk]:
    """Cut a sequence of entries into chunks of whole blocks.

    Args:
        events: Number of entries.
        chunk_size: Entries per chunk, rounded up to whole blocks.
        limit: Most entries; null = all.
    """
    size = -(-chunk_size // BLOCK_SIZE) * BLOCK_SIZE
    entries = events if limit is None else min(events, limit)
    return [Chunk(0, start, min(start + size, entries)) for start in range(0, entries, size)]


def blocks_of(chunk: Chunk) -> range:
    """Return the numbers of the blocks that hold the entries of a chunk; one where it is empty."""
    return range(chunk.start // BLOCK_SIZE, max(chunk.start, chunk.stop - 1) // BLOCK_SIZE + 1)
