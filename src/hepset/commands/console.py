"""What the commands share on the terminal: log lines and progress of a conversion."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich import progress
from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from hepset.plugins import registry

if TYPE_CHECKING:
    from hepset.convert.convert import Progress, ProgressCallback

_LOG = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 30.0

_PHASES = {"count": "counting objects", "read": "reading events", "write": "writing events"}


@contextmanager
def keep_log() -> Iterator[list[logging.LogRecord]]:
    """Keep log lines for `stage_log`, while it is not known yet where a run is."""
    handler = _Keeping()
    with _listening([handler]):
        yield handler.kept


class _Keeping(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.kept: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append(record)


@contextmanager
def stage_log(
    console: Console, directory: Path, earlier: Sequence[logging.LogRecord] = ()
) -> Iterator[None]:
    """Show log lines of hepset and of plugins on the terminal, and keep them in ``log.txt``.

    Args:
        console: The terminal.
        directory: The directory of the run.
        earlier: What `keep_log` has kept.
    """
    directory.mkdir(parents=True, exist_ok=True)
    handlers: list[logging.Handler] = [
        RichHandler(console=console, show_path=False, show_level=False, log_time_format="%H:%M:%S"),
        logging.FileHandler(directory / "log.txt", encoding="utf-8"),
    ]
    handlers[1].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    for record in earlier:
        for handler in handlers:
            handler.handle(record)
    try:
        with _listening(handlers):
            yield
    finally:
        for handler in handlers:
            handler.close()


@contextmanager
def _listening(handlers: Sequence[logging.Handler]) -> Iterator[None]:
    """Let handlers have the log lines of hepset and of all plugins."""
    packages = {"hepset"}
    for plugin in registry().loaded:
        for component in plugin.components:
            each = component.reference
            module = each if isinstance(each, str) else getattr(each, "__module__", "")
            packages.add(module.partition(":")[0].partition(".")[0])
    loggers = [logging.getLogger(name) for name in sorted(packages - {""})]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.INFO)
        for handler in handlers:
            logger.addHandler(handler)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
            for handler in handlers:
                logger.removeHandler(handler)


@contextmanager
def show_progress(console: Console) -> Iterator[ProgressCallback]:
    """Show bars with the time left, one per step; log lines where the output is no terminal."""
    bars = progress.Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    tasks: dict[str, progress.TaskID] = {}
    told = time.monotonic()

    def update(state: Progress) -> None:
        nonlocal told
        what = _PHASES.get(state.phase, state.phase)
        if bars.disable:
            if time.monotonic() - told >= SECONDS_BETWEEN_LINES and state.done < state.total:
                told = time.monotonic()
                _LOG.info("%s: %d of %d", what, state.done, state.total)
            return
        if not bars.live.is_started:
            bars.start()
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=state.total)
        bars.update(tasks[what], completed=state.done, total=state.total)
        if all(task.finished for task in bars.tasks):
            bars.stop()

    try:
        yield update
    finally:
        bars.stop()
