"""Snippets of the pages: YAML says what hepset understands, Python at least compiles."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from hepset.dialects import load_event
from hepset.expressions.functions import FUNCTIONS
from hepset.interfaces.component import parse_options
from hepset.plugins import KINDS, registry
from hepset.plugins.builtin import COMMANDS
from hepset.schema.config import RunConfig
from hepset.schema.event import EventInfo

from .conftest import ROOT, Snippet, pages, snippets

YAML = [s for s in snippets("yaml") if "no-check" not in s.classes]
PYTHON = snippets("python")


def is_event(document: dict[str, Any]) -> bool:
    own = set(EventInfo.model_fields) | {"particles", "symmetries"}
    return set(document) <= own and bool(set(document) - set(RunConfig.model_fields))


def needs(name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")


@pytest.mark.parametrize("snippet", YAML, ids=str)
def test_yaml_is_understood(snippet: Snippet) -> None:
    document = yaml.safe_load(snippet.text)
    if is_event(document):
        load_event(document)
        return
    config = RunConfig.parse(document, str(snippet))
    for options in config.read:
        if options["reader"] == "pythia":
            needs("hepset_pythia")
        if options["reader"] == "spanet-hdf5":
            needs("hepset_spanet")
        if options["reader"] in {"jetclass", "delphes"}:
            needs("hepset_jetclass")
        reader = registry().load("readers", options["reader"])
        parse_options(reader.Config, options, str(snippet))
    backbone = registry().load("backbones", config.model.backbone["name"])
    parse_options(backbone.Config, config.model.backbone, str(snippet))
    for options in config.model.heads.values():
        head = registry().load("heads", options["name"])
        parse_options(head.Config, options, str(snippet))


@pytest.mark.parametrize("snippet", PYTHON, ids=str)
def test_python_compiles(snippet: Snippet) -> None:
    ast.parse(snippet.text)


@pytest.mark.parametrize("snippet", PYTHON, ids=str)
def test_imported_names_exist(snippet: Snippet) -> None:
    for node in ast.walk(ast.parse(snippet.text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "hepset":
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "hepset"
            and node.attr not in {"interfaces", "testing", "prepare", "dataset"}
        ):
            assert hasattr(importlib.import_module("hepset"), node.attr), node.attr


def test_every_command_is_documented() -> None:
    text = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    for name, entry in COMMANDS.items():
        assert f"{{command}} {entry.reference} hepset {name}" in text


def test_every_function_of_expressions_is_documented() -> None:
    text = (ROOT / "docs" / "reference" / "expressions.md").read_text(encoding="utf-8")
    same = {f"arc{name}" for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")}
    for name in set(FUNCTIONS) - same:
        assert f"`{name}`" in text or f"`{name}(" in text, name


def test_every_rule_of_the_contract_is_documented() -> None:
    text = (ROOT / "docs" / "reference" / "contract-rules.md").read_text(encoding="utf-8")
    rules = set()
    for path in (ROOT / "src" / "hepset" / "check").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in {"tensor", "events"}
                and node.args
            ):
                first = node.args[0]
                parts = [first.body, first.orelse] if isinstance(first, ast.IfExp) else [first]
                rules |= {part.value for part in parts if isinstance(part, ast.Constant)}
    assert {"missing", "misspelt", "finite", "mask-inverted"} <= rules
    for rule in rules:
        assert f"| `{rule}` |" in text, rule


def test_the_tutorial_lists_every_kind_of_component() -> None:
    text = (ROOT / "docs" / "tutorials" / "write-a-plugin.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    for kind in KINDS:
        assert any(f"`{kind}`" in row for row in rows), kind


def test_every_component_is_documented() -> None:
    text = (ROOT / "docs" / "reference" / "components.md").read_text(encoding="utf-8")
    for kind in set(KINDS) - {"commands", "functions"}:
        for name in registry().names(kind):
            assert f"`{name}`" in text, f"{kind}: {name}"


def test_paths_of_the_repository_exist() -> None:
    for page in pages():
        for folder in ("examples", "benchmarks"):
            for word in page.read_text(encoding="utf-8").replace("`", " ").split():
                path = word.strip(".,;:()")
                if path.startswith(f"{folder}/") and "*" not in path and "<" not in path:
                    assert (ROOT / path).exists(), f"{page.name}: {path}"


def test_relative_links_exist() -> None:
    for page in pages():
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists() or Path(target).suffix == "", (page, target)
