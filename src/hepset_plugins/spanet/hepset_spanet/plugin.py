"""What hepset-spanet adds to hepset."""

from __future__ import annotations

from hepset import hookimpl

hepset_interface = 1


@hookimpl
def hepset_readers() -> dict[str, str]:
    """Name the readers of this plugin."""
    return {"spanet-hdf5": "hepset_spanet.reader:SpanetReader"}


@hookimpl
def hepset_writers() -> dict[str, str]:
    """Name the writers of this plugin."""
    return {"spanet-hdf5": "hepset_spanet.writer:SpanetWriter"}


@hookimpl
def hepset_dialects() -> dict[str, str]:
    """Name the event-file dialects of this plugin."""
    return {"spanet": "hepset_spanet.dialect:SpanetDialect"}


@hookimpl
def hepset_backbones() -> dict[str, str]:
    """Name the backbones of this plugin."""
    return {"spanet": "hepset_spanet.backbone:SpanetBackbone"}


@hookimpl
def hepset_heads() -> dict[str, str]:
    """Name the heads of this plugin."""
    return {
        "spanet-assignment": "hepset_spanet.network_assignment:SpanetAssignmentHead",
        "spanet-classification": "hepset_spanet.network_heads:SpanetClassificationHead",
        "spanet-regression": "hepset_spanet.network_heads:SpanetRegressionHead",
    }


@hookimpl
def hepset_export_layouts() -> dict[str, str]:
    """Name the layouts of exported graphs of this plugin."""
    return {"spanet": "hepset_spanet.export_layout:SpanetLayout"}


@hookimpl
def hepset_commands() -> dict[str, str]:
    """Name the commands of this plugin."""
    return {
        "import-spanet": "hepset_spanet.commands:import_spanet_run",
        "spanet-test": "hepset_spanet.commands:spanet_test",
    }
