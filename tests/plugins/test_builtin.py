from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from hepset import Component, plugins
from hepset.plugins.manager import first_party

HERE = {
    f"hepset-{project.parent.name}"
    for project in Path(__file__).parents[2].glob("src/hepset_plugins/*/pyproject.toml")
}
INSTALLED = [
    (plugin.name, component)
    for plugin in plugins.registry().loaded
    for component in plugin.components
]


def test_the_core_and_its_plugins_all_load() -> None:
    assert plugins.registry().failed == ()
    assert plugins.registry().conflicts() == ()


@pytest.mark.parametrize(
    ("plugin", "component"), INSTALLED, ids=lambda one: getattr(one, "name", one)
)
def test_every_component_that_is_named_exists(plugin: str, component: Component) -> None:
    registry = plugins.registry()
    assert registry.provider(component.kind, component.name).name == plugin
    found = registry.load(component.kind, component.name)
    module, _, name = plugins.KINDS[component.kind].base.partition(":")
    base = getattr(importlib.import_module(module), name)
    assert isinstance(found, base) or issubclass(found, base)


@pytest.mark.parametrize("component", [c for _, c in INSTALLED], ids=lambda one: one.name)
def test_every_component_says_in_a_sentence_what_it_is(component: Component) -> None:
    assert component.summary[0].isupper() or component.summary.startswith(("hepset", "weaver"))
    assert component.summary.endswith(".")
    assert len(component.summary) <= 80


def test_the_list_of_first_party_names_is_what_the_plugins_here_provide() -> None:
    """A missing component is answered with the distribution to install."""
    looked_up = [kind for kind in plugins.KINDS if kind not in {"commands", "functions"}]
    provided = {
        plugin.distribution: {
            kind: sorted(found) for kind in looked_up if (found := plugin.of_kind(kind))
        }
        for plugin in plugins.registry().loaded
        if plugin.distribution in HERE
    }
    assert {name: found for name, found in first_party().items() if found} == provided


@pytest.mark.parametrize("kind", plugins.KINDS.values(), ids=lambda kind: kind.singular)
def test_the_class_that_a_kind_stands_for_exists(kind: plugins.Kind) -> None:
    module, _, name = kind.base.partition(":")
    assert isinstance(getattr(importlib.import_module(module), name), type)
