"""From a run file to a complete `RunConfig`: overrides, paths, event, another system's options."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hepset.dialects import describe_event, find_dialect, load_yaml
from hepset.errors import ConfigurationError, EventInfoError
from hepset.events.derive import input_event
from hepset.events.select import plugin_functions
from hepset.expressions.named_files import absolute_files, may_name_files
from hepset.interfaces import Description, Engine, EngineConfig, Reader, named_group
from hepset.plugins import registry
from hepset.schema.config import EventConfig, RunConfig
from hepset.schema.event import EventInfo


@dataclass(frozen=True)
class Resolved:
    """A run configuration with everything filled in.

    Attributes:
        config: The configuration; paths are absolute but for `output`.
        event: What an event is, where the configuration says it.
        where: Name of the run file in messages.
    """

    config: RunConfig
    event: EventInfo | None
    where: str


def load_config(
    config: str | os.PathLike[str] | Mapping[str, Any], overrides: Sequence[str] = ()
) -> Resolved:
    """Load a run file and fill in what it leaves to others.

    Paths inside the file are relative to the file's folder; `output` is relative to the working
    directory. Precedence, weakest first: hepset's defaults, the event file's dialect, the
    options file, the run file, `overrides`.

    Args:
        config: Path of a YAML file, or its content (paths are then relative to the working
            directory).
        overrides: ``key=value`` with dots between keys; the value is read as YAML.

    Raises:
        ConfigurationError: Naming every key that does not fit.
    """
    if isinstance(config, Mapping):
        where, folder, document = "configuration", Path(), copy.deepcopy(dict(config))
    else:
        path = Path(config)
        where, folder = os.fspath(config), path.parent
        document = _load(path)
    for override in overrides:
        _set(document, override)
    _resolve_paths(document, folder)
    stated = RunConfig.parse(document, where)
    if stated.dataset is not None and stated.read:
        raise ConfigurationError(f"{where}: give either 'read' or 'dataset', not both")

    event, defaults = _describe(stated.event, where)
    if stated.options is not None:
        if event is None:
            raise ConfigurationError(f"{where}: 'options' needs an 'event' of the same system")
        described = Description(event, defaults, stated=document)
        defaults = _merge(defaults, _options(stated, described))
    if defaults:
        reading = defaults.pop("read", None)
        document = _merge(defaults, document)
        if reading is not None:
            document["read"] = _reading(reading, document.get("read"))
    document.pop("options", None)
    complete = RunConfig.parse(document, where)
    if event is not None:
        inline = EventConfig(inline=event.model_dump(mode="json", exclude_none=True))
        complete = complete.model_copy(update={"event": inline})
    return Resolved(complete, event, where)


def open_readers(resolved: Resolved) -> list[Reader]:
    """Build the readers of a run, one per entry of ``read``.

    Readers do not see the features that prepare derives. Where the configuration does not describe
    the event, the first reader's description holds for all of them.

    Raises:
        ConfigurationError: If no reader is named or its options do not fit.
        UnknownComponentError: If no installed plugin provides it.
    """
    readers: list[Reader] = []
    for index, options in enumerate(resolved.config.read):
        place = "read" if len(resolved.config.read) == 1 else f"read.{index}"
        cls, config = registry().configure(
            "readers", options, f"{resolved.where}: {place}", key="reader"
        )
        if resolved.event is not None:
            event = input_event(resolved.event, resolved.config.prepare.derive)
        else:
            event = readers[0].event_info() if readers else cls(config).event_info()
        readers.append(cls(config, event))
    return readers


def engine_of(config: RunConfig) -> tuple[type[Engine], EngineConfig]:
    """Return the engine of the conversion, as its class and its options.

    Raises:
        ConfigurationError: If an option does not fit.
        UnknownComponentError: If no installed plugin provides it.
    """
    options = config.execution.convert.model_dump()
    return registry().configure("engines", options, "execution.convert", key="engine")


def dump_config(config: RunConfig) -> str:
    """Return the complete configuration as YAML."""
    document = json.loads(config.model_dump_json())
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)


def _load(path: Path) -> dict[str, Any]:
    try:
        return load_yaml(path)
    except EventInfoError as problem:
        raise ConfigurationError(str(problem)) from None


def _set(document: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise ConfigurationError(f"--set {override!r}: expected key=value, such as train.epochs=5")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as problem:
        raise ConfigurationError(f"--set {override!r}: the value is not YAML: {problem}") from None
    *parents, last = key.strip().split(".")
    place: Any = document
    for part in parents:
        if isinstance(place, list):
            place = _item(place, part, override)
            continue
        nested = place.get(part)
        if not isinstance(nested, dict | list):
            nested = place[part] = {}
        place = nested
    if isinstance(place, list):
        _item(place, last, override)
        place[int(last)] = value
    else:
        place[last] = value


def _item(items: list[Any], index: str, override: str) -> Any:  # noqa: ANN401  YAML content
    if not index.isdigit() or int(index) >= len(items):
        raise ConfigurationError(
            f"--set {override!r}: {index!r} is not one of the {len(items)} items"
        )
    return items[int(index)]


def _resolve_paths(document: dict[str, Any], folder: Path) -> None:
    """Make the paths of a run file absolute; the file may then be used from anywhere."""

    def absolute(path: object) -> object:
        if not isinstance(path, str) or "://" in path:
            return path
        expanded = Path(path).expanduser()
        return str(expanded if expanded.is_absolute() else (folder / expanded).absolute())

    def pattern(path: object) -> object:
        """Make what a reader takes absolute, ``group:pattern`` too."""
        group, rest = named_group(path, folder) if isinstance(path, str) else ("", path)
        return f"{group}:{absolute(rest)}" if group else absolute(rest)

    event = document.get("event")
    if isinstance(event, str):
        document["event"] = absolute(event)
    elif isinstance(event, dict) and "file" in event:
        event["file"] = absolute(event["file"])
    for key in ("options", "dataset"):
        if key in document:
            document[key] = absolute(document[key])
    train = document.get("train")
    if isinstance(train, dict):
        start = train.get("start_from")
        if isinstance(start, dict) and "path" in start:
            start["path"] = absolute(start["path"])
        elif isinstance(start, str):
            train["start_from"] = absolute(start)
        if "sampling" in train:
            train["sampling"] = _with_absolute_files(train["sampling"], folder)
    for key in ("prepare", "evaluate"):
        if key in document:
            document[key] = _with_absolute_files(document[key], folder)
    reads = document.get("read")
    for read in reads if isinstance(reads, list) else [reads]:
        if not isinstance(read, dict) or "files" not in read:
            continue
        files = read["files"]
        if isinstance(files, dict):
            read["files"] = {
                group: [absolute(p) for p in paths] if isinstance(paths, list) else absolute(paths)
                for group, paths in files.items()
            }
        elif isinstance(files, list):
            read["files"] = [pattern(path) for path in files]
        else:
            read["files"] = pattern(files)


def _with_absolute_files(part: Any, folder: Path) -> Any:  # noqa: ANN401  YAML content
    """Make the paths of files that expressions name absolute, in all strings of a part."""
    if isinstance(part, dict):
        return {
            _with_absolute_files(key, folder): _with_absolute_files(value, folder)
            for key, value in part.items()
        }
    if isinstance(part, list):
        return [_with_absolute_files(item, folder) for item in part]
    if isinstance(part, str) and may_name_files(part):
        return absolute_files(part, plugin_functions(), folder)
    return part


def _describe(event: EventConfig | None, where: str) -> tuple[EventInfo | None, dict[str, Any]]:
    if event is None:
        return None, {}
    if event.file is not None and event.inline is not None:
        raise ConfigurationError(f"{where}: event: give either 'file' or 'inline', not both")
    source = event.file if event.file is not None else event.inline
    if source is None:
        raise ConfigurationError(f"{where}: event: 'file' or 'inline' is required")
    described = describe_event(source, dialect=event.dialect, parity=event.parity)
    return described.event, described.defaults


def _options(config: RunConfig, described: Description) -> dict[str, Any]:
    """Translate another system's training options by the dialect of the event file."""
    if config.options is None or config.event is None:
        return {}
    document = (
        load_yaml(Path(config.event.file)) if config.event.file else dict(config.event.inline or {})
    )
    name = config.event.file or "event"
    dialect = find_dialect(document, name, config.event.dialect)
    options = _load(Path(config.options))
    return dialect.options(options, described, where=config.options)


def _reading(defaults: Any, own: Any) -> Any:  # noqa: ANN401  YAML content
    """Complete the user's readers with what an event file says of its files.

    Only options that a reader has, and only where the user does not give them. What the user
    gives without naming a reader changes the options of the one that the options file names.
    """
    if isinstance(defaults, Mapping) and "reader" in defaults and isinstance(own, Mapping):
        return own if "reader" in own else {**defaults, **own}
    if own is None or not isinstance(defaults, Mapping) or "reader" in defaults:
        return defaults if own is None else own

    def completed(entry: Any) -> Any:  # noqa: ANN401  YAML content
        name = entry.get("reader") if isinstance(entry, Mapping) else None
        if not isinstance(name, str):
            return entry
        known = registry().load("readers", name).Config.model_fields
        return {**{key: value for key, value in defaults.items() if key in known}, **entry}

    return [completed(entry) for entry in own] if isinstance(own, list) else completed(own)


_REPLACED = {"heads", "read", "select", "derive", "split"}
"""Mappings that a user's own line replaces as a whole: to name heads is to choose them. Heads none
of which says its ``name`` are options of those that there are."""


def _merge(defaults: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(defaults)
    if own.get("name") != defaults.get("name") and "name" in own and "name" in defaults:
        # The options of another component are not defaults of this one.
        merged = {}
    for key, value in own.items():
        known = merged.get(key)
        completes = key not in _REPLACED or (key == "heads" and _only_options(value))
        if isinstance(known, Mapping) and isinstance(value, Mapping) and completes:
            merged[key] = _merge(known, value)
        else:
            merged[key] = value
    return merged


def _only_options(heads: object) -> bool:
    """Whether heads are given of which none says what it is."""
    return (
        isinstance(heads, Mapping)
        and bool(heads)
        and all(isinstance(head, Mapping) and "name" not in head for head in heads.values())
    )
