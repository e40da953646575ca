"""SPANet files, event descriptions and trained networks for hepset."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hepset_spanet.checkpoint import (
        SpanetModel,
        import_spanet,
        load_spanet,
        load_spanet_run,
    )

__all__ = ["SpanetModel", "import_spanet", "load_spanet", "load_spanet_run"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from hepset_spanet import checkpoint  # noqa: PLC0415  imports torch

    found: object = getattr(checkpoint, name)
    return found
