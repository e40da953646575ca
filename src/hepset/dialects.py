"""Loading event files: recognise the dialect, translate it into an `EventInfo`."""

from __future__ import annotations

import configparser
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from hepset.errors import EventInfoError, PluginError
from hepset.interfaces.dialect import Description, Dialect
from hepset.plugins import registry
from hepset.schema.event import EventInfo

_LOG = logging.getLogger(__name__)


class HepsetDialect(Dialect):
    """hepset's own event file, ``format: hepset-event/1``."""

    name = "hepset"

    def recognises(self, document: Mapping[str, Any]) -> bool:
        """Whether the document states hepset's format, or has its keys."""
        stated = str(document.get("format", "")).startswith("hepset-event/")
        return stated or "streams" in document or "globals" in document

    def describe(
        self, document: Mapping[str, Any], *, where: str, parity: bool = False
    ) -> Description:
        """Validate the document; hepset's own files have nothing to be at parity with."""
        del parity
        return Description(EventInfo.parse(document, where, EventInfoError))


def load_event(
    event: str | os.PathLike[str] | Mapping[str, Any] | EventInfo,
    *,
    dialect: str | None = None,
    parity: bool = False,
) -> EventInfo:
    """Load what an event is, from a file of any known dialect or from its content.

    Args:
        event: Path of a YAML file, or its content.
        dialect: Short name of the dialect; recognised by content where None.
        parity: Keep the other system's choices where hepset's defaults differ.

    Raises:
        EventInfoError: If the file cannot be read or does not follow its grammar.
    """
    return describe_event(event, dialect=dialect, parity=parity).event


def describe_event(
    event: str | os.PathLike[str] | Mapping[str, Any] | EventInfo,
    *,
    dialect: str | None = None,
    parity: bool = False,
) -> Description:
    """Load an event with the defaults for a run that its file states, see `load_event`.

    Raises:
        EventInfoError: If the file cannot be read or does not follow its grammar.
    """
    if isinstance(event, EventInfo):
        return Description(event)
    if isinstance(event, Mapping):
        document, where = event, "event"
    else:
        where = os.fspath(event)
        document = load_yaml(Path(where))
    return find_dialect(document, where, dialect).describe(document, where=where, parity=parity)


def find_dialect(document: Mapping[str, Any], where: str, name: str | None = None) -> Dialect:
    """Return the dialect of that name, or the one that recognises the document.

    Raises:
        EventInfoError: If none does, or more than one.
        UnknownComponentError: If no plugin provides the named dialect.
    """
    plugins = registry()
    if name is not None:
        chosen: Dialect = plugins.load("dialects", name)()
        return chosen
    known: list[Dialect] = []
    for each in plugins.names("dialects"):
        try:
            known.append(plugins.load("dialects", each)())
        except PluginError as problem:
            _LOG.warning("dialect %r is left out: %s", each, problem)
    fitting = [each for each in known if each.recognises(document)]
    if len(fitting) == 1:
        return fitting[0]
    names = ", ".join(each.name for each in (fitting or known))
    keys = ", ".join(sorted(map(str, document))[:8])
    if fitting:
        raise EventInfoError(f"{where}: several dialects fit ({names}); say which: dialect: …")
    raise EventInfoError(
        f"{where}: no dialect recognises this file (top-level keys: {keys}); known: {names}"
    )


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML (or JSON) file that holds one mapping, or an INI file: section → key → text.

    Raises:
        EventInfoError: If the file is missing, is not YAML, repeats a key or holds no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as problem:
        raise EventInfoError(f"{path}: cannot be read: {problem}") from None
    if path.suffix.lower() == ".ini":
        return _load_ini(text, path)
    try:
        document = yaml.load(text, Loader=_UniqueKeyLoader)
    except yaml.YAMLError as problem:
        raise EventInfoError(f"{path}: not valid YAML: {problem}") from None
    if not isinstance(document, dict):
        raise EventInfoError(f"{path}: expected a mapping, found {type(document).__name__}")
    return document


def _load_ini(text: str, path: Path) -> dict[str, Any]:
    parser = configparser.ConfigParser(interpolation=None, default_section="")
    parser.optionxform = str  # type: ignore[assignment, method-assign]  # keys keep their case
    try:
        parser.read_string(text, source=os.fspath(path))
    except configparser.Error as problem:
        raise EventInfoError(f"{path}: not a valid INI file: {problem}") from None
    return {name: dict(section) for name, section in parser.items() if name}


# libyaml's parser is ten times as fast; PyYAML is built without it on some systems.
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _UniqueKeyLoader(_Loader):  # type: ignore[misc]
    """Refuses a key that is given twice, where plain YAML lets the last one win in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping
