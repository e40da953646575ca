"""Dialect `weaver`: a data configuration of weaver-core, unmodified."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from hepset.interfaces import Description, Dialect
from hepset_jetclass.weaver.grammar import parse_weaver
from hepset_jetclass.weaver.translation import translate


class WeaverDialect(Dialect):
    """Input groups with one prefix are one stream; everything else becomes defaults of the run."""

    name: ClassVar[str] = "weaver"

    def recognises(self, document: Mapping[str, Any]) -> bool:
        """Whether the document has weaver's inputs and labels."""
        inputs, labels = document.get("inputs"), document.get("labels")
        return (
            isinstance(inputs, Mapping)
            and any(isinstance(group, Mapping) and "vars" in group for group in inputs.values())
            and isinstance(labels, Mapping)
        )

    def describe(
        self, document: Mapping[str, Any], *, where: str, parity: bool = False
    ) -> Description:
        """Translate a data configuration.

        Args:
            document: The loaded YAML.
            where: Its name in messages.
            parity: Take NaN and infinite inputs as weaver does (0, or the largest number) instead
                of refusing them, and accept events by chance as weaver does.

        Raises:
            EventInfoError: If a key or an expression has no translation; the message names it.
        """
        found = translate(parse_weaver(document, where), where, parity=parity)
        return Description(found.event, found.defaults)
