"""A data configuration of weaver as the two files that somebody would have written for hepset."""

from __future__ import annotations

import ast
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from hepset.dialects import load_yaml
from hepset.errors import ConfigurationError
from hepset.events.derivations import names_of
from hepset.plugins import registry
from hepset_jetclass.weaver.grammar import parse_weaver
from hepset_jetclass.weaver.translation import Translation, translate

_WIDTH = 120


class _Line(dict[Any, Any]):
    """A mapping that is written on one line."""


class _Items(list[Any]):
    """A list that is written on one line."""


class _Dumper(yaml.SafeDumper):
    """Writes `_Line` and `_Items` on one line, and nothing by reference."""

    def ignore_aliases(self, data: object) -> bool:
        del data
        return True


_Dumper.add_representer(
    _Line,
    lambda dumper, data: dumper.represent_mapping(
        "tag:yaml.org,2002:map", data.items(), flow_style=True
    ),
)
_Dumper.add_representer(
    _Items,
    lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True),
)


def write_configuration(
    config: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    files: Sequence[str] = ("data/*.root",),
    reader: str = "jetclass",
    parity: bool = False,
) -> tuple[Path, Path]:
    """Write ``event.yaml`` and ``config.yaml`` for a data configuration of weaver.

    Args:
        config: Path of the data configuration.
        output: Folder; made where it does not exist.
        files: What the run is to read, relative to `output`.
        reader: Short name of the reader.
        parity: Take NaN and infinities, and draw events, as weaver does.

    Returns:
        The paths of both files.

    Raises:
        EventInfoError: If the configuration has no translation.
        ConfigurationError: If a file of that name is there already.
    """
    source, folder = Path(config), Path(output)
    paths = folder / "event.yaml", folder / "config.yaml"
    for path in paths:
        if path.exists():
            raise ConfigurationError(f"{path} exists already; choose another folder")
    found = translate(parse_weaver(load_yaml(source), str(source)), str(source), parity=parity)
    event, run = event_document(found), run_document(found, source.stem, files, reader)
    folder.mkdir(parents=True, exist_ok=True)
    paths[0].write_text(_comment([f"From {source.name}."]) + _dump(event), encoding="utf-8")
    notes = [f"From {source.name}.", *found.notes]
    paths[1].write_text(_comment(notes) + _dump(run), encoding="utf-8")
    return paths


def event_document(found: Translation) -> dict[str, Any]:
    """Return hepset's event file of a translation."""
    whole = found.event.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    document: dict[str, Any] = {"format": found.event.format}
    for kind in ("streams", "globals"):
        blocks = {}
        for name, block in getattr(found.event, kind).items():
            own = dict(whole[kind][name])
            own["features"] = {
                feature: _Line(_feature(feature, stated))
                for feature, stated in own["features"].items()
            }
            if block.__dict__.get("p4"):
                own["p4"] = _Line(own["p4"])
            features = own.pop("features")
            blocks[name] = {**own, "features": features}
        if blocks:
            document[kind] = blocks
    document["targets"] = {
        name: {
            "kind": target.kind,
            **({"classes": _Items(target.classes)} if target.classes else {}),
        }
        for name, target in found.event.targets.items()
    }
    columns = found.event.columns
    if columns:
        document["columns"] = (
            _Items(columns) if not any(columns.values()) else _Line(_sorted(columns))
        )
    return document


def _sorted(columns: Mapping[str, str | None]) -> dict[str, str | None]:
    """Return columns of events first, then those of each stream."""
    return dict(sorted(columns.items(), key=lambda item: item[1] or ""))


def _feature(name: str, stated: Mapping[str, Any]) -> dict[str, Any]:
    """Write a feature; a φ that is not circular has to say so."""
    own = {key: value for key, value in stated.items() if value is not None}
    steps = own.get("transform", [])
    if not steps:
        own.pop("transform", None)
        if name == "phi" or name.endswith("_phi"):
            own = {"transform": [], **own}
    elif len(steps) == 1:
        own["transform"] = steps[0]
    return own


def run_document(
    found: Translation, name: str, files: Sequence[str], reader: str
) -> dict[str, Any]:
    """Return hepset's run configuration of a translation."""
    defaults = found.defaults
    prepare = dict(defaults["prepare"])
    select = {key: dict(prepare[key]) for key in ("select", "predict_select") if key in prepare}
    derive = tidy(prepare.pop("derive"), select)
    known = registry().load("readers", reader).Config.model_fields
    reading = {key: value for key, value in defaults.get("read", {}).items() if key in known}
    momenta = any(stream.momentum is not None for stream in found.event.streams.values())
    one = len(found.event.streams) == 1 and not found.event.globals
    run: dict[str, Any] = {
        "name": name,
        "event": "event.yaml",
        "read": {"reader": reader, **reading, "files": _Items(files)},
        "prepare": {**{k: v for k, v in prepare.items() if k not in select}, **select},
        "model": {
            "backbone": _Line(name="part" if momenta and one else "transformer"),
            "heads": {k: _Line(v) for k, v in defaults["model"]["heads"].items()},
        },
    }
    if derive:
        run["prepare"]["derive"] = derive
    if not run["prepare"]:
        del run["prepare"]
    sampling = dict(defaults.get("train", {}).get("sampling", {}))
    if sampling:
        if "variables" in sampling:
            sampling["variables"] = {k: _Items(v) for k, v in sampling["variables"].items()}
        if "class_weights" in sampling:
            sampling["class_weights"] = _Line(sampling["class_weights"])
        run["train"] = {"sampling": sampling}
    run["output"] = f"runs/{name}"
    return run


def tidy(derive: Mapping[str, str], select: Mapping[str, dict[str, str]]) -> dict[str, str]:
    """Let a new variable that is kept anyway be defined where it is kept.

    ``x: …`` with ``pf.x: x`` becomes ``pf.x: …``, and others that name it name ``pf.x``.

    Args:
        derive: Plain names and what is kept.
        select: Cuts; names in them are changed too, in place.

    Returns:
        The derivations, in a sensible order.
    """
    found = dict(derive)
    for name in [key for key in derive if "." not in key]:
        homes = [key for key, text in found.items() if text == name and key.endswith(f".{name}")]
        users = [key for key, text in found.items() if name in names_of(text) and key not in homes]
        cut = any(name in names_of(text) for cuts in select.values() for text in cuts.values())
        if len(homes) != 1:
            continue
        home = homes[0]
        block = home.partition(".")[0]
        if block == "target" or (block != "extra" and (cut or not _only(block, users, found))):
            continue
        text = found.pop(name)
        found = {key: text if key == home else _named(t, name, home) for key, t in found.items()}
        for cuts in select.values():
            cuts.update({key: _named(t, name, home) for key, t in cuts.items()})
    rank = {"": 0, "target": 2, "extra": 3}
    return dict(
        sorted(
            found.items(),
            key=lambda item: rank.get(item[0].partition(".")[0] if "." in item[0] else "", 1),
        )
    )


def _only(block: str, users: Sequence[str], derive: Mapping[str, str]) -> bool:
    """Whether everything that uses a name ends in one stream."""
    open_, seen = list(users), set()
    while open_:
        user = open_.pop()
        if user in seen:
            continue
        seen.add(user)
        if "." in user:
            if user.partition(".")[0] != block:
                return False
            continue
        open_ += [key for key, text in derive.items() if user in names_of(text)]
    return True


class _Namer(ast.NodeTransformer):
    def __init__(self, name: str, other: ast.expr) -> None:
        self.name = name
        self.other = other

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Leave the function's name alone."""
        node.args = [self.visit(argument) for argument in node.args]
        return node

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """Put the other name in the place of one."""
        return self.other if node.id == self.name else node


def _named(text: str, name: str, other: str) -> str:
    if name not in names_of(text):
        return text
    tree = ast.parse(text, mode="eval")
    return ast.unparse(_Namer(name, ast.parse(other, mode="eval").body).visit(tree))


def _comment(lines: Sequence[str]) -> str:
    wrapped = [part for line in lines for part in textwrap.wrap(line, _WIDTH - 2)]
    return "".join(f"# {line}\n" for line in wrapped)


def _plain(value: Any) -> Any:  # noqa: ANN401  YAML content
    """Write 200.0 as 200, at any depth."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return int(value)
    if isinstance(value, dict):
        return type(value)({key: _plain(part) for key, part in value.items()})
    if isinstance(value, list):
        return type(value)(_plain(part) for part in value)
    return value


def _dump(document: Mapping[str, Any]) -> str:
    return yaml.dump(
        _plain(dict(document)), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=_WIDTH
    )
