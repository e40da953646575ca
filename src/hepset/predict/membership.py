"""Which events of some files a model was trained on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hepset.arrays import Array
from hepset.batch import EventBatch
from hepset.dataset import Dataset
from hepset.events.split import EVENT_NUMBER, RUN_NUMBER, hash_rows
from hepset.files import digest_file
from hepset.interfaces.reader import Source

__all__ = ["TrainingMembership"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Known:
    """Hashes of the identities of training events, sorted."""

    hashes: Array

    def has(self, parts: Sequence[Array]) -> Array:
        found: Array = np.isin(hash_rows(0, parts), self.hashes)
        return found


class TrainingMembership:
    """Recognises the training events of a data set in files.

    A file of the data set is recognised by the digest of its bytes (a generator by its key), its
    events by their entry. Events of other files are recognised by run and event number, where the
    data set and the files have them.
    """

    def __init__(self, dataset: Dataset, sources: Sequence[Source]) -> None:
        """Compare the sources of a reader with those of a data set.

        Args:
            dataset: What the model was trained on; only its split ``train`` counts.
            sources: The sources of the reader; local files are digested.
        """
        known = dataset.manifest.sources
        by_digest = {source.digest: index for index, source in enumerate(known) if source.digest}
        by_key = {source.key: index for index, source in enumerate(known) if not source.digest}
        self._source = np.array(
            [_match(source, by_digest, by_key) for source in sources] or [-1], np.int64
        )
        self._entries = _Known(np.zeros(0, np.uint64))
        self._numbers: _Known | None = None
        self._has_run = RUN_NUMBER in dataset.layouts
        if "train" not in dataset.splits:
            _LOG.warning("%s has no split 'train': no event is marked as trained on", dataset.path)
            return
        train = dataset.split("train")
        if (self._source >= 0).any():
            ids = train.read("ids")["ids"]
            self._entries = _Known(hash_rows(0, [ids["source"], ids["entry"]]))
        if (self._source < 0).any() and EVENT_NUMBER in dataset.layouts:
            names = [RUN_NUMBER] * self._has_run + [EVENT_NUMBER]
            found = train.read(names)
            self._numbers = _Known(hash_rows(0, [found[name] for name in names]))

    def flags(self, batch: EventBatch) -> Array:
        """Return for every event whether it was trained on, shape ``(event,)``."""
        source = self._source[batch.ids["source"]]
        trained: Array = self._entries.has([source, batch.ids["entry"]]) & (source >= 0)
        if self._numbers is not None and EVENT_NUMBER in batch.arrays:
            numbers = [batch.arrays[EVENT_NUMBER]]
            if self._has_run:
                if RUN_NUMBER not in batch.arrays:
                    return trained
                numbers.insert(0, batch.arrays[RUN_NUMBER])
            trained |= self._numbers.has(numbers) & (source < 0)
        return trained


def _match(source: Source, by_digest: dict[str, int], by_key: dict[str, int]) -> int:
    """Return the index of a source in the data set, −1 = not there."""
    path = Path(source.key)
    if source.is_file and path.is_file():
        return by_digest.get(digest_file(path), -1) if by_digest else -1
    return by_key.get(source.key, -1)
