"""Particle Transformer (Qu, Li, Qian, arXiv:2202.03772): the network, its weights, its graphs."""

from __future__ import annotations
