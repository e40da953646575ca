"""SPANet files and event descriptions for hepset."""

from __future__ import annotations
