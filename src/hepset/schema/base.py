"""What all of hepset's pydantic models share."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler, ValidationError
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from hepset.errors import ConfigurationError, did_you_mean

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


class Model(BaseModel):
    """A frozen model that refuses unknown keys and says what was meant."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        # YAML gives tuples as lists and 1e-4 as text: pydantic's lax mode reads both.
        strict=False,
    )

    @classmethod
    def descriptions(cls) -> dict[str, str]:
        """Field → the docstring below it, read from the source when somebody asks.

        Pydantic can do the same (``use_attribute_docstrings``), at every start of every program.
        """
        found: dict[str, str] = {}
        for owner in reversed(cls.__mro__):
            if issubclass(owner, Model) and owner is not Model:
                found |= _docstrings(owner)
        stated = {n: f.description for n, f in cls.model_fields.items() if f.description}
        return {name: text for name, text in (found | stated).items() if name in cls.model_fields}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe the fields by their docstrings."""
        schema = handler.resolve_ref_schema(handler(core_schema))
        for name, text in cls.descriptions().items():
            part = schema.get("properties", {}).get(cls.model_fields[name].alias or name)
            if part is not None:
                part.setdefault("description", text)
        return schema

    @classmethod
    def parse(
        cls,
        document: object,
        where: str,
        error: type[ConfigurationError] = ConfigurationError,
    ) -> Self:
        """Validate a document; report every problem with its place in the document.

        Args:
            document: What a YAML file holds, usually a mapping.
            where: The name of the document in messages, usually its path.
            error: The class to raise.

        Raises:
            ConfigurationError: Listing every key that does not fit, in `error`'s class.
        """
        try:
            return cls.model_validate(document)
        except ValidationError as problem:
            raise error(describe(problem, where, cls)) from None


@lru_cache(maxsize=256)
def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Attribute → the text below it in the source of a class; none where there is no source."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    except (OSError, TypeError, SyntaxError):
        return {}
    if not isinstance(body, ast.ClassDef) or body.name != model.__name__:
        return {}  # The file was changed since it was imported.
    found: dict[str, str] = {}
    for statement, following in itertools.pairwise(body.body):
        match statement, following:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = inspect.cleandoc(text)
    return found


def accept_null(schema: dict[str, Any]) -> None:
    """Let the JSON Schema of a model take null for every key: an empty section of a YAML file."""
    for name, part in schema.get("properties", {}).items():
        apart = {key: part[key] for key in ("description", "default", "title") if key in part}
        inner = {key: value for key, value in part.items() if key not in apart}
        options = inner.pop("anyOf", None) or [inner]
        if {"type": "null"} not in options:
            schema["properties"][name] = {**apart, "anyOf": [*options, {"type": "null"}]}


def describe(problem: ValidationError, where: str, model: type[BaseModel]) -> str:
    """Put pydantic's findings into one message: place, complaint, what was found."""
    lines = []
    for finding in problem.errors(include_url=False):
        path = [str(part) for part in finding["loc"] if part != ""]
        place = ".".join(path) or "the document"
        if finding["type"] == "extra_forbidden":
            known = _known_fields(model, path[:-1])
            lines.append(f"{where}: {place}: unknown key{did_you_mean(path[-1], known)}")
            continue
        message = finding["msg"].removeprefix("Value error, ")
        found = _short(finding.get("input"))
        if finding["type"] == "missing":
            lines.append(f"{where}: {place}: this key is required")
        elif finding["type"] == "value_error":
            lines.append(f"{where}: {place}: {message}")
        elif finding["type"] in {"model_type", "dict_type"}:
            lines.append(f"{where}: {place}: expected a mapping (key: value), found {found}")
        else:
            lines.append(f"{where}: {place}: {message}, found {found}")
    return "\n".join(lines)


def _known_fields(model: type[BaseModel], path: list[str]) -> list[str]:
    """Names of the fields of the model that `path` leads to, as far as it can be followed."""
    current: Any = model
    for part in path:
        fields = getattr(current, "model_fields", {})
        if part not in fields:
            continue
        nested = _nested_models(fields[part].annotation)
        if not nested:
            return []
        current = nested[0]
    known = getattr(current, "model_fields", {})
    return [field.alias or name for name, field in known.items()]


def _nested_models(annotation: object) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in getattr(annotation, "__args__", ()) for model in _nested_models(part)]


def _short(value: object, width: int = 60) -> str:
    text = repr(dict(value) if isinstance(value, Mapping) else value)
    return text if len(text) <= width else text[: width - 1] + "…"
