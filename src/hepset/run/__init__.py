"""One run: its configuration, its stages, what is up to date."""

from __future__ import annotations

from hepset.run.run import Run

__all__ = ["Run"]
