from __future__ import annotations

import json
from collections import OrderedDict
from types import ModuleType
from typing import Any

import pytest

import hepset
from hepset.errors import (
    ConfigurationError,
    ContractError,
    PluginConflictError,
    PluginError,
    UnknownComponentError,
)
from hepset.plugins import INTERFACE, KINDS, Component, Plugins, hookimpl, registry
from hepset.schema.base import Model

ONE_HEAD = """
@hookimpl
def hepset_components():
    return [Component("heads", "origin", "collections:OrderedDict")]
"""
OLD_HEAD = """
@hookimpl
def hepset_heads():
    return {"origin": "collections:OrderedDict"}
"""


def plugin(**kinds: dict[str, Any]) -> ModuleType:
    """A plugin module that provides the given names."""
    found = [Component(kind, *item) for kind, names in kinds.items() for item in names.items()]
    module = ModuleType("toy_plugin")
    vars(module)["hepset_components"] = hookimpl(lambda: found)
    return module


def returning(text: str) -> str:
    """Source of a plugin whose hook returns something."""
    return f"@hookimpl\ndef hepset_components():\n    return {text}"


def only(plugins: Plugins, name: str) -> str:
    """The reason of the one failed plugin of a name."""
    (reason,) = [failed.reason for failed in plugins.failed if failed.name == name]
    return reason


# --- what is found


def test_an_installed_plugin_is_found_with_its_distribution(install: Any) -> None:
    install("acme-heads", ONE_HEAD, plugin="acme", version="2.3")
    plugins = Plugins()
    assert plugins.load("heads", "origin") is OrderedDict
    found = plugins.provider("heads", "origin")
    assert (found.name, found.distribution, found.version) == ("acme", "acme-heads", "2.3")
    assert {"origin", "classification"} <= set(plugins.names("heads"))


def test_listing_and_asking_import_no_component(install: Any) -> None:
    install("acme", returning("[Component('readers', 'toy', 'module_that_is_absent:Toy')]"))
    plugins = Plugins()
    assert plugins.failed == ()
    assert "toy" in plugins.names("readers")
    with pytest.raises(PluginError, match="'toy', but 'module_that_is_absent:Toy' cannot be impor"):
        plugins.load("readers", "toy")


def test_a_missing_attribute_is_reported_with_its_plugin() -> None:
    plugins = Plugins(names=[])
    plugins.register(plugin(heads={"origin": "json:NoSuchHead"}), name="acme", version="4")
    with pytest.raises(PluginError, match=r"plugin 'acme' \(acme 4\).*'json:NoSuchHead'"):
        plugins.load("heads", "origin")


def test_attributes_may_be_nested_and_components_may_be_objects() -> None:
    plugins = Plugins(names=[])
    plugins.register(
        plugin(heads={"nested": "json:JSONDecoder.decode", "object": OrderedDict}), name="acme"
    )
    assert plugins.load("heads", "nested") is json.JSONDecoder.decode
    assert plugins.load("heads", "object") is OrderedDict


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_can_be_provided(kind: str) -> None:
    plugins = Plugins(names=[])
    plugins.register(plugin(**{kind: {"toy": OrderedDict}}), name="acme")
    assert plugins.load(kind, "toy") is OrderedDict


def test_an_unknown_kind_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="no kind of component 'reader'; did you mean 'readers'"):
        Plugins(names=[]).names("reader")


def test_the_registry_is_made_once() -> None:
    assert registry() is registry()


# --- what fails, alone


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("import module_that_is_absent", "ModuleNotFoundError: No module named"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("raise SystemExit('bye')", "SystemExit: bye"),
        ("def broken(", "SyntaxError"),
        ("@hookimpl\ndef hepset_components():\n    raise RuntimeError('no')", "RuntimeError: no"),
        (
            "@hookimpl\ndef hepset_component():\n    return []",
            "unknown hook 'hepset_component'; did you mean 'hepset_components'?",
        ),
        ("def hepset_components():\n    return []", "put @hookimpl above it"),
        ("@hookimpl\ndef hepset_components(event):\n    return []", "PluginValidationError"),
        (returning("1"), "returned int, not a list"),
        (returning("['origin']"), "lists 'origin', which is not a hepset.Component"),
        (returning("[Component('heads', 'a b', 'c:d')]"), "the name 'a b'"),
        (returning("[Component('heads', 'a', 'c.d')]"), "not 'module:attribute'"),
        (returning("[Component('heads', 'a', 'c:d', 'x\\ny')]"), "'a' (heads) is not one line"),
        (returning("[Component('haeds', 'a', 'c:d')]"), "'haeds'; did you mean 'heads'?"),
        (f"hepset_interface = {INTERFACE + 1}", f"plugin interface {INTERFACE + 1}"),
        ("hepset_interface = 'one'", "hepset_interface is 'one'"),
    ],
)
def test_a_broken_plugin_is_reported_and_stops_nothing(
    install: Any, source: str, reason: str
) -> None:
    install("acme-broken", source, plugin="a-broken", version="0.3")
    install("acme-heads", ONE_HEAD)
    plugins = Plugins()
    assert reason in only(plugins, "a-broken")
    (failed,) = plugins.failed
    assert (failed.distribution, failed.version) == ("acme-broken", "0.3")
    assert plugins.load("heads", "origin") is OrderedDict
    assert "a-broken" not in {plugin.name for plugin in plugins.loaded}


def test_nothing_of_a_plugin_that_fails_halfway_is_kept(install: Any) -> None:
    install(
        "acme-half",
        "@hookimpl\ndef hepset_components():\n"
        "    yield Component('heads', 'origin', 'a:b')\n    raise RuntimeError\n",
    )
    plugins = Plugins()
    assert "origin" not in plugins.names("heads")
    plugins.register(plugin(heads={"origin": OrderedDict}), name="acme-half")
    assert plugins.load("heads", "origin") is OrderedDict


def test_a_plugin_of_this_interface_version_or_none_is_taken(install: Any) -> None:
    install("acme-stated", f"hepset_interface = {INTERFACE}" + ONE_HEAD)
    install("acme-silent", "import json")
    assert {"acme-stated", "acme-silent"} <= {plugin.name for plugin in Plugins().loaded}


def test_two_plugins_of_one_name_are_not_both_taken(install: Any) -> None:
    install("acme-a", ONE_HEAD, plugin="acme", version="1.0")
    install("acme-b", "import json", plugin="acme", version="2.0")
    plugins = Plugins()
    (failed,) = plugins.failed
    assert failed.distribution == "acme-b"
    assert "two plugins named 'acme'; the first is plugin 'acme' (acme-a 1.0)" in failed.reason


# --- two claims on one name


def test_a_name_claimed_twice_names_both_distributions_when_it_is_used(install: Any) -> None:
    install("acme-one", ONE_HEAD, version="1.0")
    install("acme-two", ONE_HEAD, version="2.0")
    plugins = Plugins()
    assert plugins.failed == ()
    with pytest.raises(PluginConflictError) as caught:
        plugins.load("heads", "origin")
    assert "(acme-one 1.0) and plugin 'acme-two' (acme-two 2.0)" in str(caught.value)
    (conflict,) = plugins.conflicts()
    assert (conflict.kind, conflict.name) == ("heads", "origin")


def test_a_built_in_cannot_be_replaced_silently() -> None:
    plugins = Plugins(names=[])
    plugins.register(plugin(heads={"regression": OrderedDict}), name="acme")
    with pytest.raises(PluginConflictError, match=r"hepset .* and plugin 'acme'"):
        plugins.load("heads", "regression")


def test_one_name_may_be_of_two_kinds() -> None:
    plugins = Plugins(names=[])
    plugins.register(plugin(readers={"acme": OrderedDict}, writers={"acme": dict}), name="acme")
    assert plugins.load("readers", "acme") is OrderedDict
    assert plugins.load("writers", "acme") is dict
    assert plugins.conflicts() == ()


# --- names that nobody provides


def test_a_misspelt_name_gets_the_nearest_and_the_list() -> None:
    with pytest.raises(UnknownComponentError) as caught:
        Plugins(names=[]).load("heads", "clasification")
    assert str(caught.value).splitlines() == [
        "no installed plugin provides the head 'clasification'; did you mean 'classification'?",
        "  available heads: classification, regression",
    ]


@pytest.mark.parametrize(
    ("kind", "name", "distribution"),
    [
        ("readers", "spanet-hdf5", "hepset-spanet"),
        ("readers", "pythia", "hepset-pythia"),
        ("backbones", "part", "hepset-jetclass"),
        ("dialects", "weaver", "hepset-jetclass"),
    ],
)
def test_a_known_name_gets_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, kind: str, name: str, distribution: str
) -> None:
    monkeypatch.setattr("hepset.plugins.manager.entry_points", lambda **_: ())
    with pytest.raises(UnknownComponentError, match=f"pip install {distribution}\\n") as caught:
        Plugins().load(kind, name)
    assert "did you mean" not in str(caught.value)


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> None:
    """A family of distributions with one that is not of this repository."""
    provides = {"hepset-seg": {"heads": ["segmentation"]}}
    monkeypatch.setattr("hepset.plugins.manager.first_party", lambda: provides)


@pytest.mark.usefixtures("family")
def test_a_misspelt_known_name_gets_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hepset.plugins.manager.entry_points", lambda **_: ())
    with pytest.raises(UnknownComponentError) as caught:
        Plugins().load("heads", "segmentaton")
    first = str(caught.value).splitlines()[0]
    assert first.endswith(
        "did you mean 'segmentation'? hepset-seg provides it: pip install hepset-seg"
    )


@pytest.mark.usefixtures("family")
def test_an_installed_plugin_that_lacks_a_known_name_is_to_be_upgraded(install: Any) -> None:
    install("hepset-seg", "import json", plugin="seg", version="0.0.9")
    with pytest.raises(UnknownComponentError) as caught:
        Plugins().load("heads", "segmentation")
    text = str(caught.value)
    assert "not in the installed version 0.0.9: pip install --upgrade hepset-seg" in text


@pytest.mark.usefixtures("family")
def test_failed_plugins_are_named_when_a_component_is_missing(install: Any) -> None:
    install("hepset-seg", "import module_that_is_absent", plugin="seg", version="0.1.0")
    with pytest.raises(UnknownComponentError) as caught:
        Plugins().load("heads", "segmentation")
    text = str(caught.value)
    assert "hepset-seg should provide it, but could not be loaded" in text
    assert "pip install" not in text
    assert "plugin 'seg' (hepset-seg 0.1.0) could not be loaded: ModuleNotFoundError" in text


# --- a selection


@pytest.mark.usefixtures("family")
def test_the_environment_selects_plugins(install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    install("acme-one", ONE_HEAD)
    install("hepset-seg", "raise RuntimeError('must not be imported')", plugin="seg")
    monkeypatch.setenv("HEPSET_PLUGINS", " acme-one ,")
    plugins = Plugins()
    assert [plugin.name for plugin in plugins.loaded] == ["hepset", "acme-one"]
    assert plugins.failed == ()
    with pytest.raises(UnknownComponentError, match="installed, but HEPSET_PLUGINS leaves it out"):
        plugins.load("heads", "segmentation")
    monkeypatch.setenv("HEPSET_PLUGINS", "")
    assert [plugin.name for plugin in Plugins().loaded] == ["hepset"]


def test_the_argument_goes_before_the_environment(
    install: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("acme-one", ONE_HEAD)
    monkeypatch.setenv("HEPSET_PLUGINS", "")
    assert "acme-one" in {plugin.name for plugin in Plugins(names=["acme-one"]).loaded}


def test_a_selected_plugin_must_be_installed(install: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    install("acme-one", ONE_HEAD)
    monkeypatch.setenv("HEPSET_PLUGINS", "acme-on")
    with pytest.raises(ConfigurationError, match=r"'acme-on', .* did you mean 'acme-one'"):
        Plugins()


# --- registering by hand


def test_a_registered_plugin_can_be_forgotten() -> None:
    plugins = Plugins(names=[])
    plugins.register(plugin(heads={"origin": OrderedDict}), name="acme")
    plugins.unregister("acme")
    assert "origin" not in plugins.names("heads")
    with pytest.raises(PluginError, match="no plugin named 'hepse'; did you mean 'hepset'"):
        plugins.unregister("hepse")


def test_registering_a_broken_plugin_raises() -> None:
    broken = ModuleType("broken")
    broken.hepset_haeds = hookimpl(lambda: {})  # type: ignore[attr-defined]  # noqa: PIE807
    plugins = Plugins(names=[])
    with pytest.raises(PluginError, match="did you mean 'hepset_heads'"):
        plugins.register(broken, name="acme")


# --- components of a configuration


class Options(Model):
    """Options of a toy."""

    width: int = 3


class WithConfig:
    """Takes a name and its checked options."""

    Config = Options

    def __init__(self, name: str, config: Options) -> None:
        self.made = (name, config.width)


def keywords(name: str, *, width: int = 4) -> tuple[str, int]:
    """Take options as keywords."""
    if width < 0:
        raise ValueError("the width is negative")
    return name, width


@pytest.fixture
def toys() -> Plugins:
    plugins = Plugins(names=[])
    plugins.register(plugin(heads={"toy": WithConfig, "call": keywords}), name="acme")
    return plugins


def test_a_component_is_made_from_its_name_and_flat_options(toys: Plugins) -> None:
    made = toys.create("heads", {"name": "toy", "width": "7"}, "model.heads.a", "a")
    assert made.made == ("a", 7)
    assert toys.create("heads", "toy", "model.heads.a", "a").made == ("a", 3)
    assert toys.create("heads", {"name": "call", "width": 7}, "model.heads.a", "a") == ("a", 7)


def test_the_option_that_names_a_component_may_have_another_key(toys: Plugins) -> None:
    cls, config = toys.configure("heads", {"head": "toy", "width": 5}, "here", key="head")
    assert (cls, config) == (WithConfig, Options(width=5))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"width": 3},
            (
                "here: 'name' is missing or not a string; "
                "available heads: call, classification, regression"
            ),
        ),
        ({"name": 3}, "here: 'name' is missing or not a string; available"),
        ({"name": "toi"}, "here: no installed plugin provides the head 'toi'; did you mean 'toy'?"),
        ({"name": "toy", "widht": 3}, "here: widht: unknown key; did you mean 'width'?"),
        ({"name": "call", "width": -1}, "here: call: the width is negative"),
        ({"name": "call", "size": 1}, "here: call: keywords() got an unexpected keyword"),
    ],
)
def test_options_that_do_not_fit_are_named_with_their_place(
    toys: Plugins, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        toys.create("heads", options, "here", "a")
    assert str(caught.value).startswith(message)


def test_an_error_of_hepset_inside_a_component_keeps_its_message(toys: Plugins) -> None:
    def refuse() -> None:
        raise ContractError("two inputs of one name")

    toys.register(plugin(callbacks={"refuse": refuse}), name="more")
    with pytest.raises(ContractError, match=r"^two inputs of one name$"):
        toys.create("callbacks", "refuse", "here")


# --- the hooks of interface 1


def test_the_former_hooks_work_with_a_deprecation(install: Any) -> None:
    install("acme-old", OLD_HEAD + "\n@hookimpl\ndef hepset_readers():\n    return {'r': 'a:b'}")
    install("acme-new", ONE_HEAD.replace("origin", "other"))
    with pytest.warns(DeprecationWarning, match="acme-old") as caught:
        plugins = Plugins(names=["acme-new", "acme-old"])
    (warning,) = [str(each.message) for each in caught]
    assert "plugin 'acme-old' (acme-old 1.0) uses hepset_heads, hepset_readers; " in warning
    assert "hepset_components" in warning
    assert plugins.failed == ()
    assert plugins.load("heads", "origin") is OrderedDict
    assert plugins.names("readers") == ("parquet", "r", "root")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def hepset_heads():\n    return {}", "put @hookimpl above it"),
        ("@hookimpl\ndef hepset_heads():\n    return ['a']", "returned list, not a mapping"),
        ("@hookimpl\ndef hepset_heads():\n    return {'a b': 'c:d'}", "the name 'a b'"),
        ("@hookimpl\ndef hepset_haeds():\n    return {}", "did you mean 'hepset_heads'?"),
    ],
)
def test_a_mistake_in_a_former_hook_is_reported(install: Any, source: str, reason: str) -> None:
    install("acme-broken", source)
    assert reason in only(Plugins(names=["acme-broken"]), "acme-broken")


# --- the table


def test_the_table_is_plain_data(install: Any) -> None:
    install("acme-one", ONE_HEAD, version="1.0")
    install("acme-two", ONE_HEAD, version="2.0")
    install("acme-bad", "1 / 0", version="3.0")
    table = json.loads(json.dumps(Plugins(names=["acme-one", "acme-two", "acme-bad"]).table()))
    assert table["interface"] == INTERFACE
    assert table["plugins"][0]["version"] == hepset.__version__
    assert {
        "name": "acme-one",
        "distribution": "acme-one",
        "version": "1.0",
        "provides": {"heads": ["origin"]},
        "components": [{"kind": "heads", "name": "origin", "summary": ""}],
    } in table["plugins"]
    assert table["failed"] == [
        {
            "name": "acme-bad",
            "distribution": "acme-bad",
            "version": "3.0",
            "reason": "ZeroDivisionError: division by zero",
        }
    ]
    assert table["conflicts"] == [
        {"kind": "heads", "name": "origin", "distributions": ["acme-one", "acme-two"]}
    ]
    assert {"pythia", "spanet"} <= set(table["left_out"])
