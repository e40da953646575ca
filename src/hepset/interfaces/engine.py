"""`Engine`: where the tasks of a conversion run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

from hepset.interfaces.component import ComponentConfig


class EngineConfig(ComponentConfig):
    """Options of an engine."""


class Engine(ABC):
    """Runs independent, idempotent tasks and hands back their small results as they finish."""

    Config: ClassVar[type[EngineConfig]] = EngineConfig
    """Model of the options."""

    def __init__(self, config: EngineConfig | None = None) -> None:
        """Keep the options."""
        self.config = config if config is not None else self.Config()

    @abstractmethod
    def map(self, task: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """Run ``task(item)`` for every item; yield (index of the item, result) as they finish.

        `task` is importable; items and results are small and picklable. An engine may run a task
        more than once. The first exception of a task is raised here, after the rest is cancelled.
        """

    def close(self) -> None:  # noqa: B027  an engine without resources has nothing to close
        """Release workers; called once, also after an error."""
