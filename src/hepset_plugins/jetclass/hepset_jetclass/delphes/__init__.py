"""Delphes files: large-R jets in the columns of JetClass-II, or whole events."""
