"""The heads that come with hepset, and what their figures and baselines share."""

from __future__ import annotations
