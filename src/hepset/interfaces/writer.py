"""`Writer`: files in somebody's format, nothing visible until complete."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

from hepset.batch import EventBatch
from hepset.interfaces.component import ComponentConfig
from hepset.schema.contract import Contract


class WriterConfig(ComponentConfig):
    """Options of a writer."""


class Writer(ABC):
    """Writes batches, with or without predictions, in one format.

    ``open`` starts a hidden temporary file beside the target, ``close`` makes it visible in one
    step, ``abort`` removes it. As a context manager it closes on success and aborts on an error.
    """

    Config: ClassVar[type[WriterConfig]] = WriterConfig
    """Model of the options."""

    def __init__(self, config: WriterConfig | None = None) -> None:
        """Keep the options."""
        self.config = config if config is not None else self.Config()

    @abstractmethod
    def open(self, target: Path, contract: Contract) -> None:
        """Start to write `target`, whose batches will obey `contract`."""

    @abstractmethod
    def write(self, batch: EventBatch) -> None:
        """Add events; ``batch.predictions`` holds what a model said of them, if anything."""

    @abstractmethod
    def close(self) -> None:
        """Finish the file and make it visible under its name."""

    @abstractmethod
    def abort(self) -> None:
        """Remove what was written so far; does nothing when the writer is closed."""

    def __enter__(self) -> Self:
        """Return the writer."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close on success, abort on an error."""
        if kind is None:
            self.close()
        else:
            self.abort()
