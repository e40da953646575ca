"""SPANet files, event descriptions and trained networks for hepset."""

from __future__ import annotations

import lazy_loader

from hepset import moved
from hepset_spanet.former import MODULES, PACKAGES

moved.add(
    {f"{__name__}.{former}": f"hepset_assignment.{now}" for former, now in MODULES.items()},
    {f"{__name__}.{former}": () for former in PACKAGES},
)

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
