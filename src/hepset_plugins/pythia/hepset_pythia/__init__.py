"""Simulated collisions for hepset, made on the fly with Pythia 8 and FastJet."""

from __future__ import annotations
