"""From files to a dataset: select, derive, split, resample, write."""

from __future__ import annotations
