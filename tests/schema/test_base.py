"""What all models share: options are described by the docstrings below them."""

from __future__ import annotations

import inspect

import pytest
from pydantic import Field, create_model

from hepset.schema.base import Model, _docstrings


class Plain(Model):
    """A model."""

    width: int = 1
    """Numbers per object.

    More in a second paragraph."""
    depth: int = Field(default=1, description="Stated beside the field.")
    """Not this text."""
    bare: int = 0
    renamed: float = Field(default=0.0, alias="other")
    """Has another name in files."""


class Derived(Plain):
    """A model of a model."""

    width: int = 2
    """Numbers per jet."""
    depth: int = 3
    more: int = 0
    """Of its own."""


def test_fields_are_described_by_what_stands_below_them() -> None:
    assert Plain.descriptions() == {
        "width": "Numbers per object.\n\nMore in a second paragraph.",
        "depth": "Stated beside the field.",
        "renamed": "Has another name in files.",
    }


def test_a_model_that_is_derived_describes_what_it_changes() -> None:
    found = Derived.descriptions()
    assert found["width"] == "Numbers per jet."
    assert found["more"] == "Of its own."
    assert found["renamed"] == "Has another name in files."


def test_the_schema_has_the_descriptions() -> None:
    properties = Plain.model_json_schema()["properties"]
    assert properties["other"]["description"] == "Has another name in files."
    assert properties["depth"]["description"] == "Stated beside the field."
    assert "description" not in properties["bare"]


def test_models_without_source_are_not_described(monkeypatch: pytest.MonkeyPatch) -> None:
    made = create_model("Made", __base__=Plain, extra=(int, 1))
    assert "extra" not in made.descriptions()
    assert made.descriptions()["width"] == Plain.descriptions()["width"]
    for source in ("width = 1\n", "class Other(Model):\n    width: int\n    'No.'\n", "class ("):
        _docstrings.cache_clear()
        monkeypatch.setattr(inspect, "getsource", lambda _, source=source: source)
        assert Plain.descriptions() == {"depth": "Stated beside the field."}
    monkeypatch.undo()
    _docstrings.cache_clear()
    assert "width" in Plain.descriptions()
    assert Plain.model_json_schema()["properties"]["other"]["title"]
