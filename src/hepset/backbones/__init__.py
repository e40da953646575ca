"""The backbones that come with hepset."""

from __future__ import annotations
