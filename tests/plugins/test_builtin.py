from __future__ import annotations

import pytest

from hepset import plugins
from hepset.expressions.functions import Function
from hepset.plugins import KINDS, Kind

INSTALLED = [
    (plugin.name, kind, name)
    for plugin in plugins.registry().loaded
    for kind in KINDS
    for name in plugin.components[kind]
]


def test_the_core_and_its_plugins_all_load() -> None:
    assert plugins.registry().failed == ()
    assert plugins.registry().conflicts() == ()


@pytest.mark.parametrize(("plugin", "kind", "name"), INSTALLED)
def test_every_component_that_is_named_exists(plugin: str, kind: Kind, name: str) -> None:
    assert plugins.registry().provider(kind, name).name == plugin
    found = plugins.load(kind, name)
    assert isinstance(found, Function) if kind == "functions" else callable(found)
