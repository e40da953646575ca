"""What conforming means: checks that every component passes, and that a plugin author runs.

Each check takes a component and raises `AssertionError` with the property that does not hold, the
tensor, and why it matters. They need no test framework::

    def test_conforms() -> None:
        check_head(SegmentationHead, {"stream": "jets"})

`make_batch` makes random events for any description, with every awkward case in them. The names
are imported when they are first used, so that checking a reader or a writer loads no torch.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
