"""The plugin of the tutorial, begun by ``hepset new-plugin``, passes its tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hepset.commands.new_plugin import write_project

from .conftest import snippets

PAGE = "docs/tutorials/write-a-plugin.md"


def write_package(folder: Path) -> list[str]:
    """Begin as the tutorial does, write what it shows, and install it."""
    project = write_project("counts", folder, ["reader", "head"])
    files = [s for s in snippets("python") if s.page == PAGE and s.caption]
    for snippet in files:
        path = project / snippet.caption
        assert path.exists(), f"{snippet.caption}: hepset new-plugin writes no such file"
        path.write_text(snippet.text, encoding="utf-8")
    metadata = project / "hepset_counts-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: hepset-counts\nVersion: 0.1.0\n"
    )
    (metadata / "entry_points.txt").write_text("[hepset.plugins]\ncounts = hepset_counts.plugin\n")
    return [snippet.caption for snippet in files]


@pytest.mark.slow
def test_the_plugin_of_the_tutorial_works(tmp_path: Path) -> None:
    written = write_package(tmp_path)
    assert "tests/test_counts_reader.py" in written
    project = tmp_path / "hepset-counts"
    environment = {**os.environ, "PYTHONPATH": str(project), "OMP_NUM_THREADS": "1"}
    listed = subprocess.run(
        [sys.executable, "-c", "from hepset.cli import main; main(['plugins'])"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Jets of events." in listed.stdout
    assert "How many there are." in listed.stdout
    for tool in (
        ("ruff", "check", "--no-cache", "."),
        ("mypy", "--cache-dir", str(tmp_path / "cache")),
        ("pytest", "-q", "-p", "no:cacheprovider"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", *tool],
            cwd=project,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
