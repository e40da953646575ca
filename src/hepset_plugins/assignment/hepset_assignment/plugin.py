"""What hepset-assignment adds to hepset."""

from __future__ import annotations

from hepset import hookimpl

hepset_interface = 1


@hookimpl
def hepset_heads() -> dict[str, str]:
    """Name the heads of this plugin."""
    return {"assignment": "hepset_assignment.head:AssignmentHead"}
