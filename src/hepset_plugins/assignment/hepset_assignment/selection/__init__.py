"""From scores of tuples to the jointly best assignment.

`select` holds the entry points; `beam` keeps partial assignments, `bounds` limits what they can
become, `lagrangian` prices objects (the dual problem) and `branch_and_bound` settles what is left.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
