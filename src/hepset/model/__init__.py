"""A model: input transform, backbone and heads; made, saved and opened.

The names are imported when they are first used: opening an ONNX file needs no torch.
"""

from __future__ import annotations

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
