"""What hepset-jetclass adds to hepset."""

from __future__ import annotations

from hepset import Component, hookimpl

hepset_interface = 2

_FUNCTIONS = {
    "argmax_of": ("ARGMAX_OF", "Which of several values is the largest, from 0."),
    "finite": ("FINITE", "NaN replaced, an infinity the largest number."),
    "float32": ("FLOAT32", "Rounded to single precision."),
    "int64": ("INT64", "Integers, rounded towards 0."),
    "log2": ("LOG2", "Logarithm to base 2."),
    "nan_to_num": ("NAN_TO_NUM", "NaN is 0, an infinity the largest number of its sign."),
    "nanmax": ("NAN_MAX", "Largest number of each event, leaving out NaN."),
    "nanmax_of": ("NAN_MAX_OF", "Largest of several values, leaving out NaN."),
    "nanmin": ("NAN_MIN", "Smallest number of each event, leaving out NaN."),
    "nanmin_of": ("NAN_MIN_OF", "Smallest of several values, leaving out NaN."),
    "number": ("NUMBER", "Number of objects of each event."),
    "ones_like": ("ONES_LIKE", "One everywhere."),
    "p4_mass": ("MASS", "Mass of a four-momentum."),
    "sign": ("SIGN", "Sign of a number: -1, 0 or 1."),
    "zeros_like": ("ZEROS_LIKE", "Zero everywhere."),
}
"""Functions that expressions may call, which weaver's expressions need."""


@hookimpl
def hepset_components() -> list[Component]:
    """Name the components of this plugin."""
    return [
        Component(
            "readers",
            "delphes",
            "hepset_jetclass.delphes.reader:DelphesReader",
            "Delphes files: jets with their constituents, or events.",
        ),
        Component(
            "readers",
            "jetclass",
            "hepset_jetclass.reader:JetClassReader",
            "JetClass and JetClass-II, in ROOT and Parquet.",
        ),
        Component(
            "writers",
            "jetclass-root",
            "hepset_jetclass.writer:JetClassRootWriter",
            "Jets in the layout of JetClass-II.",
        ),
        Component(
            "backbones",
            "part",
            "hepset_jetclass.part.backbone:PartBackbone",
            "Particle Transformer.",
        ),
        Component(
            "dialects",
            "weaver",
            "hepset_jetclass.weaver.dialect:WeaverDialect",
            "weaver's data configurations.",
        ),
        Component(
            "commands",
            "convert-weaver",
            "hepset_jetclass.weaver.commands:convert_weaver",
            "Write hepset's configuration for a data configuration of weaver.",
        ),
        Component(
            "commands",
            "import-weaver",
            "hepset_jetclass.part.commands:import_weaver_run",
            "Make a run of a Particle Transformer that weaver trained.",
        ),
        Component(
            "optimizers",
            "ranger",
            "hepset_jetclass.ranger:Ranger",
            "Rectified Adam inside Lookahead.",
        ),
        Component(
            "export_layouts",
            "weaver",
            "hepset_jetclass.part.layout:WeaverLayout",
            "Inputs and output of the graphs that weaver exports.",
        ),
        *(
            Component("functions", name, f"hepset_jetclass.weaver.functions:{place}", summary)
            for name, (place, summary) in _FUNCTIONS.items()
        ),
    ]
