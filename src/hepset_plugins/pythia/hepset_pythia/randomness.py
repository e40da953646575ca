"""Seeds that depend on what is made, and on nothing else.

A block of events has its own key, hashed from (process settings, user seed, block number). The
Pythia seed comes from this key; the detector's random numbers come from a counter-based
generator addressed by (key, purpose, event), so that the numbers of one event depend neither on
the other events nor on those drawn for another purpose.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum

import numpy as np

PYTHIA_SEEDS = 900_000_000
"""Pythia accepts the seeds 1 to 900 000 000."""

_WORD = 2**64


class Purpose(IntEnum):
    """What random numbers are drawn for."""

    JETS = 1
    LEPTONS = 2
    TAGS = 3
    TRACKS = 4


def block_key(identity: str, seed: int, block: int) -> int:
    """Return the 64-bit key of a block of events.

    Args:
        identity: All generator settings as one text (`Process.identity`).
        seed: The user's seed.
        block: Number of the block, from 0.
    """
    text = f"hepset-pythia/1\n{identity}\n{seed}\n{block}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def pythia_seed(key: int) -> int:
    """Return a seed for Pythia, between 1 and 900 000 000."""
    return key % PYTHIA_SEEDS + 1


def event_generator(key: int, purpose: Purpose, event: int) -> np.random.Generator:
    """Return the random numbers of one event for one purpose.

    Args:
        key: Key of the block, from `block_key`.
        purpose: What the numbers are for.
        event: Number of the event within its block.
    """
    philox_key = np.array([key % _WORD, int(purpose)], dtype=np.uint64)
    counter = np.array([0, 0, event, 0], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=philox_key, counter=counter))
