"""hepset: neural networks on sets of particles, from files to a checked and exported model.

The names in ``__init__.pyi`` are the public interface. Each is imported when it is first used, so
that ``import hepset`` stays quick and loads no torch.
"""

from __future__ import annotations

from importlib.metadata import version

import lazy_loader

from hepset import moved

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = version("hepset")
moved.install()
