"""What readers share that generate their events in blocks."""

from __future__ import annotations

from abc import abstractmethod

from pydantic import NonNegativeInt, PositiveInt, field_validator

from hepset.batch import EventBatch, concatenate
from hepset.interfaces.reader import Chunk, Reader, ReaderConfig, Source
from hepset_pythia.generate import BLOCK_SIZE
from hepset_pythia.settings import check_free_setting

__all__ = ["GeneratedConfig", "GeneratedReader"]


class GeneratedConfig(ReaderConfig):
    """Options of a reader that generates."""

    events: PositiveInt = 10_000
    """Collisions to generate, before any cut; equal seeds give equal collisions, more append."""
    seed: NonNegativeInt = 1
    """Seed; samples of one process in one run need different ones."""
    chunk_size: PositiveInt = BLOCK_SIZE
    """Collisions per chunk, rounded up to whole blocks of 500; results do not depend on it."""
    settings: tuple[str, ...] = ()
    """Free Pythia settings, ``'Key:name = value'``, applied last."""

    @field_validator("settings")
    @classmethod
    def _free_settings(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for setting in value:
            check_free_setting(setting)
        return value


class GeneratedReader(Reader):
    """Reads from one generator, in chunks of whole blocks.

    Entry i is the i-th collision of the sequence that the process, its settings and the seed
    define, failed and rejected collisions counted; it keeps its id and its content for any chunk
    size, any number of collisions asked for, and on any worker.
    """

    config: GeneratedConfig

    @property
    @abstractmethod
    def generated(self) -> str:
        """What is generated, as the key of the source names it."""

    @abstractmethod
    def read_block(self, number: int, start: int, stop: int) -> EventBatch:
        """Generate what a block has of the entries from `start` to before `stop`.

        Args:
            number: The block; its first entry is `number` times `BLOCK_SIZE`.
            start: First entry that is wanted, of any block.
            stop: The entry after the last one.
        """

    def sources(self) -> list[Source]:
        """Return the one generator, keyed ``pythia:<what>:<seed>``."""
        key = f"pythia:{self.generated}:{self.config.seed}"
        return [Source(key=key, entries=self.config.events, is_file=False)]

    def chunks(self) -> list[Chunk]:
        """Cut the sequence into chunks of whole blocks; generates nothing."""
        size = -(-self.config.chunk_size // BLOCK_SIZE) * BLOCK_SIZE
        limit = self.config.max_events
        entries = self.config.events if limit is None else min(self.config.events, limit)
        return [Chunk(0, start, min(start + size, entries)) for start in range(0, entries, size)]

    def read(self, chunk: Chunk) -> EventBatch:
        """Generate the entries of a chunk; what fails the cuts is left out.

        Raises:
            ConfigurationError: If Pythia refuses the settings.
            ReadError: If an event has no weight or Pythia makes no event.
        """
        first = chunk.start // BLOCK_SIZE
        last = max(chunk.start, chunk.stop - 1) // BLOCK_SIZE
        return concatenate(
            self.read_block(number, chunk.start, chunk.stop) for number in range(first, last + 1)
        )
