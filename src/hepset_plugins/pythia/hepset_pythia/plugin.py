"""What hepset-pythia adds to hepset."""

from __future__ import annotations

from hepset import Component, hookimpl

hepset_interface = 2


@hookimpl
def hepset_components() -> list[Component]:
    """Name the components of this plugin."""
    return [
        Component(
            "readers",
            "pythia",
            "hepset_pythia.reader:PythiaReader",
            "Simulated collisions, made while they are read.",
        ),
        Component(
            "readers",
            "pythia-jets",
            "hepset_pythia.large_jets.reader:PythiaJetsReader",
            "Simulated large-R jets, made while they are read.",
        ),
    ]
