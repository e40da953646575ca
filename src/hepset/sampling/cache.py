"""`Learnt`: what a pass over all events teaches about their acceptance, and the file it is kept in.

Streams decide about events that they have not seen before, again at every start. The pass is made
once; its result is kept in the folder of the run under a key, and counts as long as the key is the
same.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hepset.batch import EventBatch
from hepset.files import atomic_file
from hepset.sampling.reweighting import Histograms
from hepset.sampling.rule import SamplingRule

__all__ = ["Decision", "Learnt", "kept_or_learnt"]

Array = NDArray[Any]

_LOG = logging.getLogger(__name__)

_DAMAGED: Final = (
    *(OSError, EOFError, KeyError, TypeError, ValueError),
    *(RuntimeError, zipfile.BadZipFile),
)
"""What numpy raises of a file that cannot be opened, or is damaged anywhere."""


@dataclass(frozen=True)
class Learnt:
    """What a pass over all events teaches.

    Attributes:
        table: Acceptance of every cell of the histograms, float32 (cell,); the last is that of
            events outside.
        level: The factor of an event that counts as certain.
        events: Events of the pass.
        expected: Events of the pass that are accepted on average when each is tried once.
        complete: Whether all files could be read; what only some teach is not kept.
    """

    table: Array
    level: float
    events: int
    expected: float
    complete: bool = True


class Decision:
    """The acceptance of any events.

    Args:
        rule: The compiled configuration.
        learnt: What a pass taught.
    """

    def __init__(self, rule: SamplingRule, learnt: Learnt) -> None:
        self.config = rule.config
        self._rule = rule
        self._learnt = learnt
        self._histograms = Histograms(rule.config, rule.classes)

    def of(self, batch: EventBatch) -> Array:
        """Return the acceptance of events, float32 (event,)."""
        values, members, base = self._rule.evaluate(batch)
        factors = None if base is None else base.astype(np.float32)
        if self.config.method == "weights":
            assert factors is not None
            return factors
        acceptance: Array = self._learnt.table[self._histograms.find(values, members)]
        if factors is not None:
            acceptance = acceptance * factors
        return acceptance / np.float32(self._learnt.level)


def kept_or_learnt(path: Path | None, key: str, learn: Callable[[], Learnt]) -> Learnt:
    """Return what was learnt before under the same key, or learn it and keep it.

    Args:
        path: The file; null = nothing is kept. One that is damaged, or of another key, is written
            anew.
        key: Digest of everything that the result depends on.
        learn: Makes the pass.
    """
    if path is None:
        return learn()
    known = _read(path, key)
    if known is not None:
        _LOG.info("sampling: the spectra of %d events are those kept in %s", known.events, path)
        return known
    found = learn()
    if not found.complete:
        return found
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(path) as file:
            np.savez(
                file,
                key=np.array(key),
                table=found.table,
                numbers=np.array([found.level, found.events, found.expected], np.float64),
            )
    except OSError as problem:
        _LOG.warning("sampling: the spectra cannot be kept in %s: %s", path, problem)
    else:
        _LOG.info("sampling: learnt the spectra of %d events, kept in %s", found.events, path)
    return found


def _read(path: Path, key: str) -> Learnt | None:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            if str(kept["key"]) != key:
                _LOG.info("sampling: the files or the configuration changed since %s", path)
                return None
            level, events, expected = kept["numbers"].tolist()
            return Learnt(kept["table"], level, int(events), expected)
    except FileNotFoundError:
        return None
    except _DAMAGED as problem:
        _LOG.warning("sampling: %s cannot be read and is made again: %s", path, problem)
        return None
