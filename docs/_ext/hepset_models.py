"""Two directives: options of a pydantic model as a table, and the help page of a command."""

from __future__ import annotations

import importlib
import json
import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

import click
from docutils import nodes
from docutils.statemachine import StringList
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from hepset.schema.base import Model

_PLAIN: dict[object, str] = {
    str: "text",
    bool: "true or false",
    int: "whole number",
    float: "number",
    Any: "any",
}
_LIMITS = {"gt": "> {}", "ge": "≥ {}", "lt": "< {}", "le": "≤ {}"}


def find(path: str) -> Any:  # noqa: ANN401  whatever has that name
    """Import what ``module:name`` says."""
    module, _, name = path.rpartition(":")
    return getattr(importlib.import_module(module), name)


class ModelTable(SphinxDirective):
    """``{model} hepset.schema.config:TrainConfig``: key, type, default, meaning.

    ``:without: Base`` leaves out the fields that a base class (another path) has.
    """

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {"without": str}

    def run(self) -> list[nodes.Node]:
        """Build the table from the model's fields."""
        model: type[Model] = find(self.arguments[0])
        described = model.descriptions()
        left_out = set(find(self.options["without"]).model_fields) if self.options else set()
        table = nodes.table(classes=["model-table"])
        group = nodes.tgroup(cols=4)
        table += group
        for width in (16, 20, 14, 50):
            group += nodes.colspec(colwidth=width)
        head, body = nodes.thead(), nodes.tbody()
        group += head
        head += self._row(["key", "value", "default", "meaning"])
        for name, field in model.model_fields.items():
            if name not in left_out:
                shown = field.alias or name
                cells = [f"`{shown}`", value_of(field), default_of(field), described.get(name, "")]
                body += self._row(cells)
        group += body
        return [table]

    def _row(self, cells: list[str]) -> nodes.row:
        row = nodes.row()
        for cell in cells:
            entry = nodes.entry()
            text = StringList([" ".join(cell.split())], source="model")
            self.state.nested_parse(text, 0, entry)
            row += entry
        return row


class CommandHelp(SphinxDirective):
    """``{command} hepset.commands.run:run hepset run``: what ``--help`` prints."""

    required_arguments = 1
    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Render the help page as a literal block."""
        command: click.Command = find(self.arguments[0])
        name = self.arguments[1] if len(self.arguments) > 1 else command.name
        context = click.Context(command, info_name=name, max_content_width=88, terminal_width=88)
        text = command.get_help(context)
        block = nodes.literal_block(text, text)
        block["language"] = "text"
        return [block]


def value_of(field: FieldInfo) -> str:
    """Say in words what a field takes, with its limits."""
    return ", ".join([type_name(field.annotation), *_limits(field.metadata)])


def type_name(annotation: object) -> str:
    """Say in words what a type annotation allows in YAML."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is None or annotation is type(None):
        return "null"
    if annotation in _PLAIN:
        return _PLAIN[annotation]
    if origin is Annotated:
        return ", ".join([type_name(arguments[0]), *_limits(arguments[1:])])
    if origin in {Union, types.UnionType}:
        return " or ".join(dict.fromkeys(type_name(part) for part in arguments))
    if origin is Literal:
        return ", ".join(f"`{json.dumps(value).strip(chr(34))}`" for value in arguments)
    if origin in {tuple, list}:
        return f"list of {type_name(arguments[0])}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"mapping of {type_name(arguments[0])} to {type_name(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    return f"`{getattr(annotation, '__name__', str(annotation))}`"


def _limits(metadata: Iterable[object]) -> list[str]:
    found = []
    for part in metadata:
        for attribute, text in _LIMITS.items():
            if getattr(part, attribute, None) is not None:
                found.append(text.format(getattr(part, attribute)))
    return found


def default_of(field: FieldInfo) -> str:
    """Write the default of a field as YAML would have it."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        return "its defaults"
    if isinstance(value, str):
        return f"`{value}`" if value else '`""`'
    return f"`{json.dumps(list(value) if isinstance(value, tuple) else value, default=str)}`"


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives."""
    app.add_directive("model", ModelTable)
    app.add_directive("command", CommandHelp)
    return {"parallel_read_safe": True}
