from __future__ import annotations

import runpy
import shutil
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / ".ci" / "release.py"

pytestmark = pytest.mark.skipif(not SCRIPT.is_file(), reason="the release script is not here")


@pytest.fixture
def release() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


@pytest.fixture
def copy(tmp_path: Path, release: dict[str, Any]) -> Path:
    """What the release changes, in another folder."""
    for folder in release["projects"](ROOT):
        target = tmp_path / folder.relative_to(ROOT)
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "pyproject.toml", target)
    for name in ("VERSION", "CITATION.cff", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def test_a_version_is_set_wherever_it_stands(release: dict[str, Any], copy: Path) -> None:
    release["set_version"](copy, "7.3.1")
    assert (copy / "VERSION").read_text() == "7.3.1\n"
    assert "\nversion: 7.3.1\n" in (copy / "CITATION.cff").read_text()
    core, *plugins = [
        tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        for folder in release["projects"](copy)
    ]
    assert len(plugins) >= 3
    for plugin in plugins:
        assert "hepset>=7.3,<7.4" in plugin["dependencies"]
        short = plugin["name"].removeprefix("hepset-")
        assert core["optional-dependencies"][short] == [f"hepset-{short}>=7.3,<7.4"]
        assert not [d for d in plugin["dependencies"] if d.startswith("hepset") and "7.3" not in d]
    before = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert core["dependencies"] == before["dependencies"], "those of others stay"


def test_the_changelog_gets_a_section(release: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "CHANGELOG.md"
    path.write_text(
        "# Changelog\n\n## Unreleased\n\n### Added\n\n- A thing.\n\n## 0.1.0 (2026-01-01)\n"
    )
    release["close_changelog"](path, "0.2.0", "2026-02-03")
    assert path.read_text().splitlines()[2:8] == [
        "## Unreleased",
        "",
        "## 0.2.0 (2026-02-03)",
        "",
        "### Added",
        "",
    ]
    with pytest.raises(SystemExit, match="nothing stands under"):
        release["close_changelog"](path, "0.3.0", "2026-02-04")


@pytest.mark.parametrize(
    ("metadata", "more", "expected"),
    [
        ("Version: 0.2.0\nRequires-Dist: hepset<0.3,>=0.2\nRequires-Dist: numpy>=1.26", [], None),
        ("Version: 0.1.0", [], "says that it is 0.1.0"),
        ("Version: 0.2.0", ["tests/x.py"], "holds more than its own package"),
        ("Version: 0.2.0\nRequires-Dist: hepset<0.2,>=0.1", [], "asks for hepset<0.2,>=0.1"),
    ],
)
def test_wheels_are_looked_at(
    release: dict[str, Any], tmp_path: Path, metadata: str, more: list[str], expected: str | None
) -> None:
    wheel = tmp_path / "hepset_x-0.2.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("hepset_x-0.2.0.dist-info/METADATA", metadata + "\n")
        for name in ("hepset_x/__init__.py", *more):
            archive.writestr(name, "")
    found = release["wrong_with"](wheel, "0.2.0")
    assert found is None if expected is None else expected in found
