"""What the plugin logs reaches the user of the commands."""

from __future__ import annotations

import io
import logging
from pathlib import Path

from rich.console import Console

from hepset.commands.console import keep_log, stage_log


def test_lines_of_the_plugin_are_shown_and_kept(tmp_path: Path) -> None:
    logger, shown = logging.getLogger("hepset_spanet.options"), io.StringIO()
    with keep_log() as earlier:
        logger.info("option %r is left out", "first")
    with stage_log(Console(file=shown, width=200), tmp_path, earlier):
        logger.info("option %r is left out", "second")
    logger.info("option %r is left out", "third")
    for text in (shown.getvalue(), (tmp_path / "log.txt").read_text(encoding="utf-8")):
        assert text.count("option 'first' is left out") == 1
        assert text.count("option 'second' is left out") == 1
        assert "third" not in text
    assert not logging.getLogger("hepset_spanet").handlers
