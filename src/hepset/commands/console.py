"""What the commands share on the terminal: log lines and progress of a conversion."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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

from hepset.prepare.convert import Progress, ProgressCallback

_LOG = logging.getLogger(__name__)
SECONDS_BETWEEN_LINES = 30.0

_PHASES = {"count": "counting objects", "read": "reading events", "write": "writing events"}


@contextmanager
def stage_log(console: Console, directory: Path) -> Iterator[None]:
    """Show hepset's log lines on the terminal and keep them in ``log.txt`` of a run."""
    directory.mkdir(parents=True, exist_ok=True)
    logger = logging.getLogger("hepset")
    handlers: list[logging.Handler] = [
        RichHandler(console=console, show_path=False, show_level=False, log_time_format="%H:%M:%S"),
        logging.FileHandler(directory / "log.txt", encoding="utf-8"),
    ]
    handlers[1].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    before = logger.level
    logger.setLevel(logging.INFO)
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        logger.setLevel(before)
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()


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
