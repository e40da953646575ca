"""From files to a dataset: select, derive, split, resample, write.

The names are imported when they are first used: a worker process imports this package before it has
capped the threads of numerical libraries.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hepset.prepare.convert import Progress as Progress
    from hepset.prepare.convert import plan_inputs as plan_inputs
    from hepset.prepare.convert import plan_key as plan_key
    from hepset.prepare.convert import prepare_dataset as prepare_dataset
    from hepset.prepare.derive import derived_event as derived_event
    from hepset.prepare.derive import input_event as input_event
    from hepset.prepare.derive import restored_event as restored_event

_MODULE_OF = {
    "Progress": "hepset.prepare.convert",
    "derived_event": "hepset.prepare.derive",
    "input_event": "hepset.prepare.derive",
    "plan_inputs": "hepset.prepare.convert",
    "plan_key": "hepset.prepare.convert",
    "prepare_dataset": "hepset.prepare.convert",
    "restored_event": "hepset.prepare.derive",
}

__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    module = _MODULE_OF.get(name)
    if module is None:
        message = f"module 'hepset.prepare' has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(importlib.import_module(module), name)
