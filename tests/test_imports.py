from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import hepset

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "hepset"
PLUGINS = sorted(path.parent for path in ROOT.glob("src/hepset_plugins/*/pyproject.toml"))

FLOORS = {
    "errors": 0,
    "arrays": 0,
    "moved": 0,
    "files": 0,
    "tables": 0,
    "hashes": 0,
    "plugins": 1,
    "schema": 1,
    "kinematics": 1,
    "uncertainty": 1,
    "figures": 1,
    "nn": 1,
    "expressions": 1,
    "batch": 2,
    "check": 3,
    "dialects": 3,
    "interfaces": 3,
    "numbers": 3,
    "dataset": 3,
    "readers": 4,
    "events": 4,
    "convert": 4,
    "sampling": 4,
    "backbones": 4,
    "heads": 4,
    "judges": 4,
    "model": 4,
    "predict": 5,
    "evaluate": 5,
    "report": 5,
    "export": 5,
    "stream": 5,
    "training": 5,
    "run": 6,
    "testing": 6,
    "commands": 7,
    "cli": 7,
}
"""Part of hepset to its floor; imports go to the same floor or down."""

DELIBERATE = {
    # `contract.check(batch)` is the public way to check arrays: it starts at the contract, and
    # imports the rules inside the call, so that the schemas load without numpy.
    "schema/contract.py imports hepset.batch",
    "schema/contract.py imports hepset.check",
}


def told() -> dict[str, str]:
    """Public names of hepset to the modules that hold them."""
    found = {}
    for line in ast.parse((SOURCE / "__init__.pyi").read_text()).body:
        if isinstance(line, ast.ImportFrom):
            for alias in line.names:
                assert alias.asname == alias.name
                found[alias.name] = f"hepset.{line.module}"
    return found


def imported(path: Path) -> Iterator[str]:
    """Yield the full names of the modules that a file imports anywhere, also lazily."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "hepset":
                for alias in node.names:
                    yield told().get(alias.name, f"hepset.{alias.name}")
            else:
                yield node.module


def test_imports_point_down() -> None:
    wrong = set()
    for path in sorted(SOURCE.rglob("*.py")):
        part = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        assert part in FLOORS, f"{path.name}: give {part!r} a floor in this test"
        for module in imported(path):
            if not module.startswith("hepset.") or module == "hepset.__version__":
                continue
            other = module.split(".")[1]
            if other in FLOORS and FLOORS[other] > FLOORS[part]:
                wrong.add(f"{path.relative_to(SOURCE)} imports {module}")
    assert wrong == DELIBERATE


SYSTEMS = {"evenet", "jetclass", "pythia", "salt", "spanet", "umami", "weaver"}
"""Programs whose names no code of the core may know; comments may say where a formula is from."""
GENERAL = {"assignment", "assignments"}
"""Names of plugins and components that the core knows as something else: a decay's topology."""


def strings(tree: ast.AST) -> Iterator[str]:
    """Yield the names and the strings of a file, but not its docstrings."""
    documented = set()
    for node in ast.walk(tree):
        for body in (getattr(node, part, []) for part in ("body", "orelse")):
            if isinstance(body, list):
                documented |= {id(each.value) for each in body if isinstance(each, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in documented:
                yield node.value
        elif isinstance(node, ast.Name | ast.arg | ast.Attribute | ast.alias | ast.keyword):
            yield (
                getattr(node, "id", None)
                or getattr(node, "attr", None)
                or (getattr(node, "arg", None) or getattr(node, "name", None) or "")
            )


def test_the_core_knows_no_plugin() -> None:
    """Names and tensors of plugins are in the plugins; what to install, in a data file."""
    names = (SYSTEMS | {project.name for project in PLUGINS}) - GENERAL
    listed = json.loads((SOURCE / "plugins" / "first_party.json").read_text())
    provided = {name for kinds in listed.values() for found in kinds.values() for name in found}
    words = re.compile(rf"\b({'|'.join(sorted(names))})", re.IGNORECASE)
    found = set()
    for path in sorted(SOURCE.rglob("*.py")):
        text = path.read_text()
        for string in strings(ast.parse(text)):
            if words.search(string) or string in provided - GENERAL - names - {"part"}:
                found.add(f"{path.relative_to(SOURCE)}: {string!r}")
        for name in sorted(names - {"salt", "weaver"}):
            if name in text:
                found.add(f"{path.relative_to(SOURCE)}: {name}")
        if "target/assignment/" in text.replace("``target/assignment/", ""):
            found.add(f"{path.relative_to(SOURCE)}: target/assignment/")
    assert found == {"schema/event.py: target/assignment/"}


@pytest.mark.parametrize("project", PLUGINS, ids=lambda path: path.name)
def test_a_plugin_imports_public_names_and_only_plugins_that_it_declares(project: Path) -> None:
    declared = tomllib.loads((project / "pyproject.toml").read_text())["project"]["dependencies"]
    allowed = {f"hepset_{project.name}"} | {
        re.split("[<>=]", d)[0].replace("-", "_") for d in declared
    }
    wrong = []
    for path in sorted(project.rglob("*.py")):
        for module in imported(path):
            top = module.split(".")[0]
            foreign = top.startswith("hepset_") and top not in allowed
            private = top == "hepset" and any(part.startswith("_") for part in module.split("."))
            if foreign or private:
                wrong.append(f"{path.relative_to(project)} imports {module}")
    assert wrong == []


def test_every_public_name_can_be_imported() -> None:
    assert set(hepset.__all__) == set(told())
    for name in hepset.__all__:
        assert getattr(hepset, name) is not None
    assert set(hepset.__all__) <= set(dir(hepset))
    with pytest.raises(AttributeError, match="nonsense"):
        hepset.nonsense  # type: ignore[attr-defined]  # noqa: B018 - the access is the test


LIGHT = """
import sys, importlib
for module in {modules!r}:
    importlib.import_module(module)
    loaded = {{"torch", "lightning", "matplotlib", "onnxruntime"}} & set(sys.modules)
    assert not loaded, f"importing {{module}} loads {{sorted(loaded)}}"
"""


def test_light_modules_load_no_torch() -> None:
    modules = [
        "hepset",
        "hepset.plugins",
        "hepset.cli",
        "hepset.schema",
        "hepset.schema.config",
        "hepset.schema.contract",
        "hepset.dialects",
        "hepset.batch",
        "hepset.readers",
        "hepset.dataset",
        "hepset.convert",
        *(f"hepset_{project.name}.plugin" for project in PLUGINS),
    ]
    result = subprocess.run(
        [sys.executable, "-c", LIGHT.format(modules=modules)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_listing_plugins_is_light() -> None:
    code = (
        "import sys; from hepset.cli import main; main(['plugins'], standalone_mode=False); "
        "heavy = {'torch', 'awkward', 'uproot', 'pyarrow', 'h5py', 'numpy', 'pydantic'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    for project in PLUGINS:
        assert f"hepset-{project.name}" in result.stdout
