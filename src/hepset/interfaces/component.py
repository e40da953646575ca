"""What every component shares: a name, and options checked by a pydantic model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from hepset.errors import ConfigurationError
from hepset.schema.base import Model


class ComponentConfig(Model):
    """Options of a component; they stand flat beside its ``name`` in the run configuration."""


C = TypeVar("C", bound=ComponentConfig)


def parse_options(config: type[C], options: Mapping[str, Any], where: str) -> C:
    """Check the options of a component against its own model.

    Raises:
        ConfigurationError: Naming every option that does not fit, under the path `where`.
    """
    plain = {key: value for key, value in options.items() if key not in {"name", "reader"}}
    return config.parse(plain, where, ConfigurationError)
