from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import hepset

ROOT = Path(__file__).parents[2]
PLUGINS = sorted(path.parent for path in ROOT.glob("src/hepset_plugins/*/pyproject.toml"))


def project(folder: Path) -> dict[str, object]:
    return tomllib.loads((folder / "pyproject.toml").read_text())["project"]


CORE = project(ROOT)


def test_all_distributions_share_one_version() -> None:
    """It stands in one file, which every project points at."""
    for folder in [ROOT, *PLUGINS]:
        document = tomllib.loads((folder / "pyproject.toml").read_text())
        assert document["project"]["dynamic"] == ["version"]
        assert (folder / document["tool"]["hatch"]["version"]["path"]).resolve() == ROOT / "VERSION"
    assert (ROOT / "VERSION").read_text() == f"{hepset.__version__}\n"
    citation = (ROOT / "CITATION.cff").read_text()
    assert re.search(r"^version: (.+)$", citation, re.MULTILINE)[1] == hepset.__version__


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda path: path.name)
def test_a_plugin_is_a_complete_project(folder: Path) -> None:
    short = folder.name
    metadata = project(folder)
    assert metadata["name"] == f"hepset-{short}"
    assert metadata["entry-points"] == {"hepset.plugins": {short: f"hepset_{short}.plugin"}}
    assert metadata["requires-python"] == CORE["requires-python"]
    major, minor, _ = hepset.__version__.split(".")
    bounds = f">={major}.{minor},<{major}.{int(minor) + 1}"
    assert f"hepset{bounds}" in metadata["dependencies"]
    assert CORE["optional-dependencies"][short] == [f"hepset-{short}{bounds}"]
    assert (folder / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    assert (folder / "README.md").read_text().startswith(f"# hepset-{short}\n")
    assert (folder / f"hepset_{short}" / "py.typed").exists()
    assert list((folder / "tests").glob("test_*.py"))


def test_the_extra_all_is_every_plugin() -> None:
    (everything,) = CORE["optional-dependencies"]["all"]
    assert everything == f"hepset[{','.join(CORE_EXTRAS)}]"


CORE_EXTRAS = [name for name in CORE["optional-dependencies"] if name != "all"]


def test_test_files_have_names_of_their_own() -> None:
    names = [
        path.name
        for folder in [ROOT / "tests", *(plugin / "tests" for plugin in PLUGINS)]
        for path in folder.rglob("test_*.py")
    ]
    assert sorted(names) == sorted(set(names))
