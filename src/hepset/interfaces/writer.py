"""`Writer`: files in somebody's format, nothing visible until complete."""

from __future__ import annotations

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self, TypedDict, Unpack

from hepset.batch import EventBatch
from hepset.interfaces.component import ComponentConfig
from hepset.schema.contract import Contract
from hepset.schema.event import EventInfo
from hepset.schema.statistics import Statistics

__all__ = ["Known", "Writer", "WriterConfig", "open_writer"]


class WriterConfig(ComponentConfig):
    """Options of a writer."""


class Known(TypedDict, total=False):
    """What is known of the events before the first of them is written."""

    event: EventInfo
    """What an event is."""
    statistics: Statistics | None
    """Statistics of the training split; None where an exported graph does not have them."""
    classes: Mapping[str, Sequence[str]]
    """Target tensor → names of its classes."""
    events: int | None
    """Number of events that will be written; None where nobody knows before they are read."""
    axes: Mapping[str, tuple[str, ...]]
    """``<head>/<field>`` → what its axes are: ``event``, then streams, ``sample``."""


class Writer(ABC):
    """Writes batches, with or without predictions, in one format.

    ``open`` starts a hidden temporary file beside the target, ``close`` makes it visible in one
    step, ``abort`` removes it. As a context manager it closes on success and aborts on an error.
    """

    Config: ClassVar[type[WriterConfig]] = WriterConfig
    """Model of the options."""
    wants_model_order: ClassVar[bool] = False
    """Whether the objects of predicted files come as the model saw them, ordered and cut, each with
    its place in the file in the attached array ``extra/<stream>.index``; else as in the file."""

    def __init__(self, config: WriterConfig | None = None) -> None:
        """Keep the options."""
        self.config = config if config is not None else self.Config()

    @abstractmethod
    def open(self, target: Path, contract: Contract, **known: Unpack[Known]) -> None:
        """Start to write `target`, whose batches will obey `contract`.

        Args:
            target: File, or folder, to write.
            contract: What the batches obey.
            **known: What is known before, see `Known`. A writer may name those that it needs, and
                take the others as ``**others``.
        """

    @abstractmethod
    def write(self, batch: EventBatch) -> None:
        """Add events; ``batch.predictions`` holds what a model said of them, if anything."""

    @abstractmethod
    def close(self) -> None:
        """Finish the file and make it visible under its name."""

    @abstractmethod
    def abort(self) -> None:
        """Remove what was written so far; no-op when the writer is closed."""

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


def open_writer(writer: Writer, target: Path, contract: Contract, **known: Unpack[Known]) -> None:
    """Open a writer with what it takes of what is known.

    Writers of former versions take the target and the contract only, with a deprecation.
    """
    method: Any = writer.open
    parameters = inspect.signature(method).parameters
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        method(target, contract, **known)
        return
    taken = {name: value for name, value in known.items() if name in parameters}
    if not taken:
        warnings.warn(
            f"{type(writer).__name__}.open takes no keywords, which is deprecated: add **known "
            "(hepset.interfaces.writer.Known)",
            DeprecationWarning,
            stacklevel=2,
        )
    method(target, contract, **taken)
