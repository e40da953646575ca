"""Building blocks in torch that know nothing of files, contracts or heads."""

from __future__ import annotations
