"""JetClass files, weaver configurations and the Particle Transformer for hepset."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hepset_jetclass.weaver.inputs import weaver_batches as weaver_batches
    from hepset_jetclass.weaver.inputs import weaver_inputs as weaver_inputs

_MODULE_OF = {
    "weaver_batches": "hepset_jetclass.weaver.inputs",
    "weaver_inputs": "hepset_jetclass.weaver.inputs",
}

__all__ = list(_MODULE_OF)


def __getattr__(name: str) -> object:
    """Import a public name when it is first used: the plugin itself is to load quickly."""
    module = _MODULE_OF.get(name)
    if module is None:
        message = f"module 'hepset_jetclass' has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(importlib.import_module(module), name)
