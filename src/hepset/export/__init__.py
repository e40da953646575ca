"""A trained model as one ONNX graph, and such a graph used from Python.

The names are imported when they are first used: running a graph needs no torch.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
