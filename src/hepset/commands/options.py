"""Options of components on the command line, ``KEY=VALUE``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from hepset.errors import ConfigurationError

__all__ = ["named_options"]


def named_options(texts: Iterable[str], flag: str) -> dict[str, Any]:
    """Read options, whose values are YAML.

    Args:
        texts: Such as ``compression=lzf``.
        flag: The option of the command, for messages: ``--layout-option``.

    Raises:
        ConfigurationError: If one is not ``KEY=VALUE``, or the value is no YAML.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ConfigurationError(f"{flag} {text!r}: expected KEY=VALUE")
        try:
            found[key] = yaml.safe_load(value)
        except yaml.YAMLError as problem:
            raise ConfigurationError(f"{flag} {text!r}: not YAML: {problem}") from None
    return found
