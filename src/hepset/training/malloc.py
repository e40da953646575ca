"""Memory that a training frees is needed again in its next step."""

from __future__ import annotations

import ctypes

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of options in glibc's ``malloc.h``."""
_LARGEST = (1 << 30, 1 << 25)
"""Blocks that need not come from the system by themselves; before its version 2.35 glibc takes no
more than 32 MB for them."""
_MOST_KEPT = (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, up to 2 GB, instead of giving it back to the system.

    glibc takes every large block from the system and returns it when it is freed, and the system
    clears each page once more: up to a tenth of a training step on a CPU. It cannot be undone, so
    only a process that trains should do it.

    Returns:
        Whether the process's memory comes from glibc and it has agreed.
    """
    try:
        library = ctypes.CDLL(None)
        if not hasattr(library, "gnu_get_libc_version"):
            return False
        option = library.mallopt
    except (OSError, TypeError, AttributeError):
        return False
    # Either option alone would end glibc's own adjustment, and leave the other at 128 kB.
    if not any(option(_MMAP_THRESHOLD, size) for size in _LARGEST):
        return False
    return bool(option(_TRIM_THRESHOLD, _MOST_KEPT))
