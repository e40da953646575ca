"""Benchmarks of hepset: speed and memory, as ratios between contenders of one run."""

from __future__ import annotations

import sys
from pathlib import Path

# The synthetic events of the tests are no part of the package.
sys.path.append(str(Path(__file__).parents[1] / "tests"))
