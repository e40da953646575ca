"""What hepset-jetclass adds to hepset."""

from __future__ import annotations

from hepset import hookimpl

hepset_interface = 1


@hookimpl
def hepset_readers() -> dict[str, str]:
    """Name the readers of this plugin."""
    return {
        "delphes": "hepset_jetclass.delphes.reader:DelphesReader",
        "jetclass": "hepset_jetclass.reader:JetClassReader",
    }


@hookimpl
def hepset_writers() -> dict[str, str]:
    """Name the writers of this plugin."""
    return {"jetclass-root": "hepset_jetclass.writer:JetClassRootWriter"}


@hookimpl
def hepset_backbones() -> dict[str, str]:
    """Name the backbones of this plugin."""
    return {"part": "hepset_jetclass.part.backbone:PartBackbone"}


@hookimpl
def hepset_dialects() -> dict[str, str]:
    """Name the dialects of this plugin."""
    return {"weaver": "hepset_jetclass.weaver.dialect:WeaverDialect"}


@hookimpl
def hepset_functions() -> dict[str, str]:
    """Name the functions that expressions may call."""
    place = "hepset_jetclass.weaver.functions"
    return {
        "argmax_of": f"{place}:ARGMAX_OF",
        "finite": f"{place}:FINITE",
        "float32": f"{place}:FLOAT32",
        "int64": f"{place}:INT64",
        "log2": f"{place}:LOG2",
        "nan_to_num": f"{place}:NAN_TO_NUM",
        "nanmax": f"{place}:NAN_MAX",
        "nanmax_of": f"{place}:NAN_MAX_OF",
        "nanmin": f"{place}:NAN_MIN",
        "nanmin_of": f"{place}:NAN_MIN_OF",
        "number": f"{place}:NUMBER",
        "ones_like": f"{place}:ONES_LIKE",
        "p4_mass": f"{place}:MASS",
        "sign": f"{place}:SIGN",
        "zeros_like": f"{place}:ZEROS_LIKE",
    }


@hookimpl
def hepset_commands() -> dict[str, str]:
    """Name the commands of this plugin."""
    return {
        "convert-weaver": "hepset_jetclass.weaver.commands:convert_weaver",
        "import-weaver": "hepset_jetclass.part.commands:import_weaver_run",
    }


@hookimpl
def hepset_optimizers() -> dict[str, str]:
    """Name the optimizers of this plugin."""
    return {"ranger": "hepset_jetclass.ranger:Ranger"}


@hookimpl
def hepset_export_layouts() -> dict[str, str]:
    """Name the layouts of exported graphs of this plugin."""
    return {"weaver": "hepset_jetclass.part.layout:WeaverLayout"}
