"""`Dialect`: a way to write an event file, hepset's own or another system's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from hepset.errors import ConfigurationError
from hepset.schema.event import EventInfo


@dataclass(frozen=True)
class Description:
    """What an event file says.

    Attributes:
        event: What an event is.
        defaults: Defaults for the run configuration, as the mapping that a run file holds
            (``{"model": {"heads": {…}}, "train": {…}}``); the user's own lines override them.
        stated: What the run file itself says, for defaults that depend on it.
    """

    event: EventInfo
    defaults: dict[str, Any] = field(default_factory=dict)
    stated: Mapping[str, Any] = field(default_factory=dict)


class Dialect(ABC):
    """Translates an event file, and a training-options file where the system has one."""

    name: ClassVar[str]
    """Short name, as the plugin gives it."""

    @abstractmethod
    def recognises(self, document: Mapping[str, Any]) -> bool:
        """Whether a YAML document is written in this dialect, decided from its content."""

    @abstractmethod
    def describe(
        self, document: Mapping[str, Any], *, where: str, parity: bool = False
    ) -> Description:
        """Translate an event document.

        Args:
            document: The loaded YAML.
            where: Name of the document in messages.
            parity: Keep the original system's choices where hepset's defaults differ (a plain
                instead of a circular φ).

        Raises:
            EventInfoError: If the document does not follow the dialect's grammar.
        """

    def options(
        self, document: Mapping[str, Any], described: Description, *, where: str
    ) -> dict[str, Any]:
        """Translate the system's training options into defaults for the run configuration.

        They win over the event file's defaults; heads with a ``name`` replace its heads as a whole.

        Args:
            document: The loaded options.
            described: What the event file said, the heads it wants included, and the run file.
            where: Name of the document in messages.

        Raises:
            ConfigurationError: If the system has no such file, or an option is unknown.
        """
        del document, described
        raise ConfigurationError(f"{where}: the dialect {self.name!r} has no options file")
