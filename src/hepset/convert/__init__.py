"""From files to a dataset: plan, read, shuffle, write.

The names are imported when they are first used: a worker process imports this package before it has
capped the threads of numerical libraries.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
