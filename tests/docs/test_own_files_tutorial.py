"""The commands of the tutorial work, in order, on the files that it shows."""

from __future__ import annotations

import runpy
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from hepset.cli import main

from .conftest import snippets

PAGE = "docs/tutorials/your-own-files.md"


def commands() -> list[list[str]]:
    blocks = [s.text for s in snippets("console") if s.page == PAGE]
    lines = [line for block in blocks for line in block.splitlines()]
    return [line.split()[2:] for line in lines if line.startswith("$ hepset ")]


@pytest.mark.slow
def test_the_tutorial_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for snippet in snippets("python", "yaml"):
        if snippet.page == PAGE and snippet.caption:
            Path(snippet.caption).write_text(snippet.text, encoding="utf-8")
    runpy.run_path("make_ntuples.py")
    few = ["--set", "train.epochs=1", "--set", "execution.convert.workers=1"]
    few += ["--set", "execution.train.threads=1", "--set", "execution.train.accelerator=cpu"]
    for arguments in commands():
        changed = few if arguments[0] == "run" else []
        done = CliRunner().invoke(main, [*arguments, *changed], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    assert Path("runs/own/report.html").is_file()
    assert Path("runs/own/model.onnx").is_file()
    table = pq.read_table("predictions.parquet")
    assert len(table) == 500
    assert sum(table["selected"].to_pylist()) == 474
    assert not any(table["trained_on"].to_pylist())
