"""What hepset-spanet adds to hepset."""

from __future__ import annotations

from hepset import Component, hookimpl

hepset_interface = 2


@hookimpl
def hepset_components() -> list[Component]:
    """Name the components of this plugin."""
    return [
        Component(
            "readers", "spanet-hdf5", "hepset_spanet.reader:SpanetReader", "SPANet's HDF5 files."
        ),
        Component(
            "writers",
            "spanet-hdf5",
            "hepset_spanet.writer:SpanetWriter",
            "Events and predictions as SPANet's HDF5 files.",
        ),
        Component(
            "dialects",
            "spanet",
            "hepset_spanet.dialect:SpanetDialect",
            "SPANet's event files and options.",
        ),
        Component(
            "backbones",
            "spanet",
            "hepset_spanet.backbone:SpanetBackbone",
            "SPANet's own network.",
        ),
        Component(
            "heads",
            "spanet-assignment",
            "hepset_spanet.network_assignment:SpanetAssignmentHead",
            "Assignments of SPANet's own network.",
        ),
        Component(
            "heads",
            "spanet-classification",
            "hepset_spanet.network_heads:SpanetClassificationHead",
            "Classes of SPANet's own network.",
        ),
        Component(
            "heads",
            "spanet-regression",
            "hepset_spanet.network_heads:SpanetRegressionHead",
            "Numbers of SPANet's own network.",
        ),
        Component(
            "export_layouts",
            "spanet",
            "hepset_spanet.export_layout:SpanetLayout",
            "Inputs and outputs of the graphs that SPANet exports.",
        ),
        Component(
            "commands",
            "import-spanet",
            "hepset_spanet.commands:import_spanet_run",
            "Import a network that SPANet trained.",
        ),
        Component(
            "commands",
            "spanet-test",
            "hepset_spanet.commands:spanet_test",
            "Print SPANet's purity table of a trained model.",
        ),
    ]
