"""What conforming means: checks that every component passes, and that a plugin author runs.

Each check takes a component and raises `AssertionError` with the property that does not hold, the
tensor, and why it matters. They need no test framework::

    def test_conforms() -> None:
        check_head(SegmentationHead, {"stream": "jets"})

`make_batch` makes random events for any description, with every awkward case in them. The names
are imported when they are first used, so that checking a reader or a writer loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hepset.testing.backbones import check_backbone as check_backbone
    from hepset.testing.batches import make_batch as make_batch
    from hepset.testing.batches import make_event_info as make_event_info
    from hepset.testing.batches import make_statistics as make_statistics
    from hepset.testing.dialects import check_dialect as check_dialect
    from hepset.testing.heads import check_head as check_head
    from hepset.testing.readers import check_reader as check_reader
    from hepset.testing.writers import check_writer as check_writer

_MODULE_OF = {
    "check_backbone": "hepset.testing.backbones",
    "check_dialect": "hepset.testing.dialects",
    "check_head": "hepset.testing.heads",
    "check_reader": "hepset.testing.readers",
    "check_writer": "hepset.testing.writers",
    "make_batch": "hepset.testing.batches",
    "make_event_info": "hepset.testing.batches",
    "make_statistics": "hepset.testing.batches",
}

__all__ = sorted(_MODULE_OF)  # noqa: PLE0605 - the table holds text only


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    module = _MODULE_OF.get(name)
    if module is None:
        msg = f"module 'hepset.testing' has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
