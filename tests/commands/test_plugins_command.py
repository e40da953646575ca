from __future__ import annotations

import json
from types import ModuleType

import pytest
from click.testing import CliRunner

import hepset
from hepset.cli import main
from hepset.commands import plugins as command
from hepset.plugins import Component, FailedPlugin, Plugins, hookimpl


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Plugins:
    """A core, a plugin that claims one of its names, and one that failed."""
    monkeypatch.setattr("hepset.plugins.manager.entry_points", lambda **_: ())
    plugins = Plugins()
    acme = ModuleType("acme")
    head = Component("heads", "regression", "acme:Head", "Numbers [of acme].")
    acme.hepset_components = hookimpl(lambda: [head])  # type: ignore[attr-defined]
    plugins.register(acme, name="acme", distribution="acme-heads", version="2.0")
    plugins.register(ModuleType("idle"), name="idle", distribution="acme-idle", version="1.0")
    failed = FailedPlugin("bad", "acme-bad", "3.0", "ModuleNotFoundError: No module named '[x]'")
    plugins._failed.append(failed)
    monkeypatch.setattr(command, "registry", lambda: plugins)
    return plugins


@pytest.mark.usefixtures("installed")
def test_the_table_shows_plugins_failures_and_conflicts() -> None:
    result = CliRunner().invoke(main, ["plugins"])
    assert result.exit_code == 0
    assert f"hepset {hepset.__version__}" in result.output
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    assert "head classification Class of an event or of each object." in lines
    assert "acme-heads 2.0 plugin 'acme'" in lines
    assert "head regression Numbers [of acme]." in lines
    assert "acme-idle 1.0 plugin 'idle', which provides nothing" in lines
    assert (
        "plugin 'bad' (acme-bad 3.0) could not be loaded: ModuleNotFoundError: "
        "No module named '[x]'" in result.output
    )
    assert "the head 'regression' is claimed by plugin 'hepset'" in result.output


def test_json_is_the_table_of_the_registry(installed: Plugins) -> None:
    result = CliRunner().invoke(main, ["plugins", "--json"])
    assert json.loads(result.output) == installed.table()
