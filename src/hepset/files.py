"""Files that appear whole or not at all, and the digest of a file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

import xxhash

__all__ = ["atomic_file", "digest_file", "remove_temporary", "temporary_path"]

DIGEST_BLOCK: Final = 2**22


def temporary_path(path: Path) -> Path:
    """Where this process writes what becomes `path`: ``.<name>.<pid>.tmp`` in the same folder."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


@contextmanager
def atomic_file(path: Path, *, durable: bool = True) -> Iterator[IO[bytes]]:
    """Write a file that appears under its name whole or not at all; an exception leaves nothing.

    Args:
        path: Name of the file.
        durable: Whether the file and its folder are synchronised, so that the file is whole even
            after a power cut, not only after the death of this process.
    """
    temporary = temporary_path(path)
    try:
        with temporary.open("wb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if durable:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_temporary(folder: Path) -> None:
    """Remove what interrupted writers left behind."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def digest_file(path: Path) -> str:
    """Return the xxh3-128 digest of a file's bytes, hexadecimal.

    Raises:
        OSError: If it cannot be read.
    """
    digest = xxhash.xxh3_128()
    block = bytearray(DIGEST_BLOCK)
    view = memoryview(block)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(view[:count])
    return digest.hexdigest()
