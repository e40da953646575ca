from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner

from hepset.cli import main
from hepset.commands.new_plugin import PARTS, write_project
from hepset.errors import ConfigurationError

SUBSETS = [list(parts) for number in range(1, 5) for parts in itertools.combinations(PARTS, number)]


def run(*command: str, cwd: Path, **environment: str) -> str:
    """Run a tool of this environment in a project, without a cache."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def install(project: Path) -> None:
    """Put beside the package what pip would write of it."""
    metadata = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    found = project / f"{metadata['name'].replace('-', '_')}-0.1.0.dist-info"
    found.mkdir()
    (found / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {metadata['name']}\nVersion: {metadata['version']}\n"
    )
    entries = metadata["entry-points"]["hepset.plugins"]
    lines = [f"{name} = {module}" for name, module in entries.items()]
    (found / "entry_points.txt").write_text("\n".join(["[hepset.plugins]", *lines, ""]))


def test_a_project_has_what_was_asked_for(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["new-plugin", "toy", "--head", "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    project = tmp_path / "hepset-toy"
    assert f"pip install -e '{project}[test]'" in result.output
    files = {str(path.relative_to(project)) for path in project.rglob("*") if path.is_file()}
    assert files == {
        "LICENSE",
        "README.md",
        "pyproject.toml",
        "hepset_toy/__init__.py",
        "hepset_toy/head.py",
        "hepset_toy/plugin.py",
        "hepset_toy/py.typed",
        "tests/test_toy_head.py",
    }


def test_without_a_choice_a_project_has_everything(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["new-plugin", "hepset-toy", "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    for part in PARTS:
        assert (tmp_path / "hepset-toy" / "hepset_toy" / f"{part}.py").is_file()


@pytest.mark.parametrize("parts", SUBSETS, ids="-".join)
def test_nothing_of_the_template_is_left(tmp_path: Path, parts: list[str]) -> None:
    project = write_project("x-ray", tmp_path, parts)
    for path in project.rglob("*"):
        if path.is_file():
            text = path.read_text()
            assert "$" not in text, path
            assert "#if" not in text, path
            assert "#end" not in text, path
    plugin = (project / "hepset_x_ray" / "plugin.py").read_text()
    assert plugin.count("        Component(") == len(parts)
    needs = tomllib.loads((project / "pyproject.toml").read_text())["project"]["dependencies"]
    assert any(each.startswith("torch") for each in needs) == bool({"head", "backbone"} & {*parts})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Toy", "'Toy' cannot be the name of a plugin"),
        ("a b", "cannot be the name"),
        ("../up", "cannot be the name"),
        ("toy-", "cannot be the name"),
        ("a" * 21, "at most 20 small letters"),
        ("hepset", "is taken by plugin 'hepset'"),
    ],
)
def test_a_name_that_cannot_be_used_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        write_project(name, tmp_path, ["head"])
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_there_is_kept(tmp_path: Path) -> None:
    (tmp_path / "hepset-toy").mkdir()
    with pytest.raises(ConfigurationError, match="is there already"):
        write_project("toy", tmp_path, ["head"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x", "a-name-of-20-letters"])
def test_a_project_is_typed_and_in_good_style(tmp_path: Path, name: str) -> None:
    project = write_project(name, tmp_path, list(PARTS))
    run("ruff", "check", "--no-cache", ".", cwd=project)
    run("ruff", "format", "--no-cache", "--check", ".", cwd=project)
    run("mypy", "--cache-dir", str(tmp_path / "cache"), cwd=project)


@pytest.mark.slow
def test_the_tests_of_a_project_pass(tmp_path: Path) -> None:
    project = write_project("x-ray", tmp_path, list(PARTS))
    install(project)
    code = "from hepset.cli import main; main(['plugins'])"
    listed = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(project)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "hepset-x-ray 0.1.0" in listed.stdout
    done = run("pytest", "-q", "-p", "no:cacheprovider", cwd=project, PYTHONPATH=str(project))
    assert "7 passed" in done
