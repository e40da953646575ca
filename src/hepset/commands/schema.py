"""``hepset schema``: JSON Schema of hepset's files, for editors."""

from __future__ import annotations

import json

import click
from pydantic import BaseModel

from hepset.errors import ConfigurationError
from hepset.plugins import KINDS, registry
from hepset.schema.config import RunConfig
from hepset.schema.contract import Contract
from hepset.schema.event import EventInfo

_FILES: dict[str, type[BaseModel]] = {"run": RunConfig, "event": EventInfo, "contract": Contract}
_WITH_OPTIONS = ("readers", "writers", "backbones", "heads", "engines", "export_layouts")
_COMPONENTS = {KINDS[kind].singular.replace(" ", "-"): kind for kind in _WITH_OPTIONS}


@click.command(short_help="Print the JSON Schema of the configuration, for editors.")
@click.argument("kind", default="run")
def schema(kind: str) -> None:
    """Print a JSON Schema.

    KIND is run (the default), event, contract, or one component's options, such as
    head:classification or reader:root.
    """
    sort, _, name = kind.partition(":")
    if kind in _FILES:
        document = _FILES[kind].model_json_schema()
        document["title"] = f"hepset {kind}"
    elif sort in _COMPONENTS and name:
        model: type[BaseModel] = registry().load(_COMPONENTS[sort], name).Config
        document = model.model_json_schema()
        document["title"] = f"hepset {sort} {name}"
    else:
        known = [*_FILES, *(f"{each}:<name>" for each in _COMPONENTS)]
        raise ConfigurationError(f"no schema {kind!r}; known: {', '.join(known)}")
    document["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    click.echo(json.dumps(document, indent=2))
