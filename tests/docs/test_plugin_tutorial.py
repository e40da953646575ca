"""The package of the tutorial is found by its entry point and passes its own tests."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import snippets

PAGE = "docs/tutorials/write-a-plugin.md"


def write_package(folder: Path) -> list[str]:
    """Write what the tutorial shows, as an installed package would look."""
    files = [s for s in snippets("python", "toml") if s.page == PAGE and s.caption]
    for snippet in files:
        path = folder / snippet.caption
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(snippet.text, encoding="utf-8")
    (folder / "hepset_counts" / "__init__.py").touch()
    metadata = folder / "hepset_counts-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: hepset-counts\nVersion: 0.1.0\n"
    )
    project = (folder / "pyproject.toml").read_text(encoding="utf-8")
    section = project.split('[project.entry-points."hepset.plugins"]')[1].split("[")[0]
    entry_points = "[hepset.plugins]\n" + section.replace('"', "")
    (metadata / "entry_points.txt").write_text(entry_points)
    return [snippet.caption for snippet in files]


@pytest.mark.slow
def test_the_plugin_of_the_tutorial_works(tmp_path: Path) -> None:
    written = write_package(tmp_path)
    assert "tests/test_counts.py" in written
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    listed = subprocess.run(
        [sys.executable, "-c", "from hepset.cli import main; main(['plugins'])"],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "npz" in listed.stdout
    assert "count" in listed.stdout
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout
