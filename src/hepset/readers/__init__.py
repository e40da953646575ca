"""Readers that every installation has, and the way to any other one by its name."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

from hepset.dialects import load_event
from hepset.errors import ConfigurationError
from hepset.interfaces.reader import Purpose, Reader
from hepset.plugins import registry
from hepset.schema.event import EventInfo

Path = str | os.PathLike[str]

_LOG = logging.getLogger(__name__)


def open_reader(
    name: str,
    *,
    files: Path | Sequence[Path] | Mapping[str, Path | Sequence[Path]] | None = None,
    event: Path | Mapping[str, Any] | EventInfo | None = None,
    purpose: Purpose = "train",
    **options: Any,  # noqa: ANN401  each reader has its own
) -> Reader:
    """Build a reader by its short name.

    Args:
        name: Short name, ``root`` or ``parquet``; ``hepset plugins`` lists them.
        files: Paths or glob patterns, or group → patterns; None for a generator.
        event: What an event is: a file of any dialect, its content, or an `EventInfo`; None
            where the format itself says.
        purpose: ``predict`` where every event of the files is wanted: cuts and resampling of the
            reader itself then do nothing.
        options: The reader's own options, and ``sample``, ``max_events``, ``chunk_size``.

    Raises:
        UnknownComponentError: If no plugin provides the reader.
        ConfigurationError: If an option does not fit.
        EventInfoError: If the event file does not follow its grammar.

    Example:
        >>> reader = open_reader("root", files="*.root", event="event.yaml")  # doctest: +SKIP
        >>> batch = reader.read(reader.chunks()[0])  # doctest: +SKIP
    """
    if files is not None:
        options["files"] = files
    cls, config = registry().configure(
        "readers", {**options, "reader": name}, f"reader {name!r}", key="reader"
    )
    reader: Reader = cls(config, None if event is None else load_event(event))
    reader.purpose = purpose
    return reader


def guess_reader(path: str) -> str:
    """Ask the installed readers which of them reads a file, see `Reader.guess`.

    Args:
        path: Path or address of the file.

    Returns:
        The short name of the reader with the greatest answer.

    Raises:
        ConfigurationError: If no reader takes the file, or several take it equally.
    """
    plugins = registry()
    answers: dict[str, float] = {}
    for name in plugins.names("readers"):
        try:
            answers[name] = plugins.load("readers", name).guess(path)
        except Exception as problem:  # noqa: BLE001 - of any plugin; the others may know the file
            _LOG.warning("reader %r is not asked about %s: %s", name, path, problem)
    best = max(answers.values(), default=0.0)
    if best <= 0:
        raise ConfigurationError(
            f"{path}: no installed reader knows such a file; name one with --reader: "
            f"{', '.join(answers)}"
        )
    fitting = [name for name, answer in answers.items() if answer == best]
    if len(fitting) > 1:
        raise ConfigurationError(
            f"{path}: several readers could read it; name one with --reader: {', '.join(fitting)}"
        )
    return fitting[0]
