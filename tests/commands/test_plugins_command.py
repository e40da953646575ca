from __future__ import annotations

import json
from types import ModuleType

import pytest
from click.testing import CliRunner

import hepset
from hepset.cli import main
from hepset.commands import plugins as command
from hepset.plugins import FailedPlugin, Plugins, hookimpl


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Plugins:
    """A core, a plugin that claims one of its names, and one that failed."""
    monkeypatch.setattr("hepset.plugins.manager.entry_points", lambda **_: ())
    plugins = Plugins()
    acme = ModuleType("acme")
    acme.hepset_heads = hookimpl(lambda: {"regression": "acme:Head"})  # type: ignore[attr-defined]
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
    assert "classification, regression" in result.output
    assert "acme-heads 2.0" in result.output
    assert "nothing" in result.output
    assert (
        "plugin 'bad' (acme-bad 3.0) could not be loaded: ModuleNotFoundError: "
        "No module named '[x]'" in result.output
    )
    assert "the head 'regression' is claimed by plugin 'hepset'" in result.output


def test_json_is_the_table_of_the_registry(installed: Plugins) -> None:
    result = CliRunner().invoke(main, ["plugins", "--json"])
    assert json.loads(result.output) == installed.table()
