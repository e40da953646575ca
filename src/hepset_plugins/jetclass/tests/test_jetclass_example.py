"""The notebook of `examples/jetclass`: what it holds, and whether its cells still run."""

from __future__ import annotations

import ast
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from .conftest import ROOT

EXAMPLE = ROOT / "examples" / "jetclass"
NOTEBOOK = EXAMPLE / "quick-dive.ipynb"


@pytest.fixture(scope="module")
def cells() -> list[dict[str, Any]]:
    document = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert document["nbformat"] == 4
    found: list[dict[str, Any]] = document["cells"]
    return found


def test_the_notebook_was_executed_and_is_small(cells: list[dict[str, Any]]) -> None:
    assert NOTEBOOK.stat().st_size < 600_000
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 4
    for path in ("/work", "/tmp", "/home", "/root", "/Users"):
        assert path + "/" not in NOTEBOOK.read_text(encoding="utf-8")


@pytest.mark.slow
def test_its_cells_run_on_a_small_sample(
    cells: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Simulation, training, figures and graph, with a fortieth of the collisions."""
    pytest.importorskip("hepset_pythia")
    folder = tmp_path / "jetclass"
    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("data", "new", "runs"))
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    names: dict[str, Any] = {"__name__": "__main__"}
    sizes = "EVENTS, SHOWN, EPOCHS = "
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        text = "".join(cell["source"])
        if sizes in text:
            text = "\n".join(
                f"{sizes}150, 150, 1" if line.startswith(sizes) else line
                for line in text.splitlines()
            )
        tree = ast.parse(text)
        last = tree.body[-1]
        if isinstance(last, ast.Expr):
            # What a notebook shows is drawn too.
            shown = ast.parse("_shown = 0").body[0]
            assert isinstance(shown, ast.Assign)
            shown.value = last.value
            tree.body[-1] = ast.copy_location(shown, last)
            ast.fix_missing_locations(tree)
        exec(compile(tree, NOTEBOOK.name, "exec"), names)
        for picture in ("_repr_html_", "_repr_png_"):
            if hasattr(names.get("_shown"), picture):
                assert getattr(names["_shown"], picture)()
    assert (folder / "runs" / "jetclass" / "model.onnx").is_file()
    report = (folder / "runs" / "jetclass" / "report.html").read_text(encoding="utf-8")
    assert "an output has the shares drawn as its prior" in report
