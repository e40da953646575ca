"""Benchmarks of hepset: speed and memory, as ratios between contenders of one run."""

from __future__ import annotations
