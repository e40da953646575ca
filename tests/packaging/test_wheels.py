"""Builds every distribution, installs the wheels into an empty environment, runs them there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import hepset

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PROJECTS = [ROOT, *sorted(p.parent for p in ROOT.glob("src/hepset_plugins/*/pyproject.toml"))]
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if name not in {"PYTHONPATH", "HEPSET_PLUGINS"} and not name.startswith("COV")
}

THIRD_PARTY = {
    "pyproject.toml": """
        [build-system]
        requires = ["hatchling"]
        build-backend = "hatchling.build"
        [project]
        name = "acme-heads"
        version = "1.2"
        dependencies = ["hepset>=0.1"]
        [project.entry-points."hepset.plugins"]
        acme = "acme_heads.plugin"
        """,
    "acme_heads/__init__.py": "",
    "acme_heads/plugin.py": """
        from hepset import Component, hookimpl

        hepset_interface = 2

        @hookimpl
        def hepset_components():
            return [Component("heads", "acme", "acme_heads.head:AcmeHead", "A head.")]
        """,
    "acme_heads/head.py": """
        class AcmeHead:
            pass
        """,
}


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command that must succeed and return what it printed."""
    result = subprocess.run(
        command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution and the wheel of every project."""
    folder = tmp_path_factory.mktemp("dist")
    for project in PROJECTS:
        run(
            *(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, project),
            cwd=folder,
        )
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with our wheels, which borrows everything else from the one of the tests.

    The other environment's packages are put on the path as a plain folder. Its ``.pth`` files are
    not read there, so that the editable installs do not come along.
    """
    folder = tmp_path_factory.mktemp("venv")
    venv.create(folder, symlinks=True)
    purelib = Path(
        run(
            folder / "bin" / "python",
            *("-c", "import sysconfig; print(sysconfig.get_path('purelib'))"),
            cwd=folder,
        ).strip()
    )
    (purelib / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install(folder, *sorted(built.glob("*.whl")))
    return folder


def install(environment: Path, *what: Path) -> None:
    """Install into an environment without looking for dependencies."""
    python = environment / "bin" / "python"
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed", "--quiet")
    run(
        *(sys.executable, "-m", "pip", "--python", python, "install", *options, *what),
        cwd=environment,
    )


def test_each_wheel_holds_its_own_package_only(built: Path) -> None:
    wheels = sorted(built.glob("*.whl"))
    assert len(wheels) == len(PROJECTS)
    for wheel in wheels:
        name, version = wheel.name.split("-")[:2]
        assert version == hepset.__version__
        with zipfile.ZipFile(wheel) as archive:
            files = archive.namelist()
        assert {file.split("/")[0] for file in files} == {name, f"{name}-{version}.dist-info"}
        assert f"{name}/py.typed" in files
        assert f"{name}-{version}.dist-info/licenses/LICENSE" in files


def test_each_source_distribution_holds_one_project(built: Path) -> None:
    sources = sorted(built.glob("*.tar.gz"))
    assert len(sources) == len(PROJECTS)
    for source in sources:
        name = source.name.rsplit("-", 1)[0]
        with tarfile.open(source) as archive:
            files = [file.split("/", 1)[1] for file in archive.getnames()]
        assert not [file for file in files if "hepset_plugins" in file]
        assert not [file for file in files if file.startswith((".venv", "runs", "dist"))]
        assert {"pyproject.toml", "README.md", "LICENSE"} <= set(files), name


def test_hepset_plugins_runs_from_the_wheels(installed: Path) -> None:
    python = installed / "bin" / "python"
    where = run(python, "-c", "import hepset; print(hepset.__file__)", cwd=installed)
    assert Path(where).is_relative_to(installed)
    table = json.loads(run(installed / "bin" / "hepset", "plugins", "--json", cwd=installed))
    assert table["failed"] == []
    assert table["conflicts"] == []
    found = {plugin["distribution"]: plugin["version"] for plugin in table["plugins"]}
    names = {"hepset", *(f"hepset-{project.name}" for project in PROJECTS[1:])}
    assert found == dict.fromkeys(names, hepset.__version__)


def test_a_third_party_plugin_is_found_and_loaded(installed: Path, tmp_path: Path) -> None:
    for name, text in THIRD_PARTY.items():
        path = tmp_path / "third" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = text.splitlines()
        path.write_text("\n".join(line.removeprefix(" " * 8) for line in lines) + "\n")
    install(installed, tmp_path / "third")
    code = "from hepset import plugins; print(plugins.registry().load('heads', 'acme'))"
    printed = run(installed / "bin" / "python", "-c", code, cwd=installed)
    assert printed == "<class 'acme_heads.head.AcmeHead'>\n"
    assert "acme-heads 1.2" in run(installed / "bin" / "hepset", "plugins", cwd=installed)
