"""What hepset-pythia adds to hepset."""

from __future__ import annotations

from hepset import hookimpl

hepset_interface = 1


@hookimpl
def hepset_readers() -> dict[str, str]:
    """Name the readers of this plugin."""
    return {
        "pythia": "hepset_pythia.reader:PythiaReader",
        "pythia-jets": "hepset_pythia.large_jets.reader:PythiaJetsReader",
    }
