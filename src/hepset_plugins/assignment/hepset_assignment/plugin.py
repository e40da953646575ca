"""What hepset-assignment adds to hepset."""

from __future__ import annotations

from hepset import Component, hookimpl

hepset_interface = 2


@hookimpl
def hepset_components() -> list[Component]:
    """Name the components of this plugin."""
    return [
        Component(
            "heads",
            "assignment",
            "hepset_assignment.head:AssignmentHead",
            "Which objects are the products of which particle.",
        ),
        Component(
            "judges",
            "assignments",
            "hepset_assignment.evaluation.judge:AssignmentsJudge",
            "Purities, masses, detection and calibration of assignments.",
        ),
    ]
