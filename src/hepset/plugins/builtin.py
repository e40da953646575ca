"""What the core itself provides, in the same form as any plugin."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from hepset.plugins.hookspecs import Component, hookimpl

hepset_interface = 2

_COMMANDS = "hepset.commands"

COMPONENTS = (
    Component(
        "readers",
        "parquet",
        "hepset.readers.parquet:ParquetReader",
        "Flat or nested Parquet, through pyarrow.",
    ),
    Component(
        "readers",
        "root",
        "hepset.readers.root:RootReader",
        "TTree or RNTuple of a ROOT file, through uproot.",
    ),
    Component(
        "writers",
        "parquet",
        "hepset.predict.predictions:ParquetWriter",
        "Predictions as Parquet.",
    ),
    Component(
        "backbones",
        "transformer",
        "hepset.backbones.transformer:TransformerBackbone",
        "Transformer over all objects, with features of pairs.",
    ),
    Component(
        "heads",
        "classification",
        "hepset.heads.classification:ClassificationHead",
        "Class of an event or of each object.",
    ),
    Component(
        "heads",
        "regression",
        "hepset.heads.regression:RegressionHead",
        "Numbers of an event or of each object, with widths or quantiles.",
    ),
    Component(
        "transform_steps",
        "asinh",
        "hepset.schema.steps:Asinh",
        "The logarithm with a sign, asinh(x / 2).",
    ),
    Component(
        "transform_steps", "log", "hepset.schema.steps:Log", "The logarithm ln x, for x > 0."
    ),
    Component(
        "transform_steps",
        "log1p",
        "hepset.schema.steps:Log1p",
        "The logarithm ln(1 + x), for x > −1.",
    ),
    Component(
        "judges",
        "classes",
        "hepset.judges.classes:ClassesJudge",
        "AUC, accuracy, rejection, calibration of classes.",
    ),
    Component(
        "judges",
        "numbers",
        "hepset.judges.numbers:NumbersJudge",
        "Bias and resolution of numbers, pulls, coverage.",
    ),
    Component(
        "judges",
        "partitions",
        "hepset.judges.partitions:PartitionsJudge",
        "Pair efficiency and purity, adjusted Rand index.",
    ),
    Component(
        "judges",
        "samples",
        "hepset.judges.samples:SamplesJudge",
        "Coverage, bias, width and CRPS of K samples per event.",
    ),
    Component(
        "judges",
        "sets",
        "hepset.judges.sets:SetsJudge",
        "Efficiency and purity of matched sets.",
    ),
    Component("dialects", "hepset", "hepset.dialects:HepsetDialect", "hepset's own event file."),
    Component(
        "commands",
        "run",
        f"{_COMMANDS}.run:run",
        "Prepare, train, evaluate and export, as a configuration says.",
    ),
    Component(
        "commands",
        "check",
        f"{_COMMANDS}.check:check",
        "Say what can be wrong with a configuration and its files.",
    ),
    Component(
        "commands",
        "convert",
        f"{_COMMANDS}.run:convert",
        "Make the dataset of a configuration: prepare alone.",
    ),
    Component(
        "commands",
        "inspect",
        f"{_COMMANDS}.inspect:inspect",
        "Show a dataset, a run, an ONNX file or an input file.",
    ),
    Component(
        "commands",
        "predict",
        f"{_COMMANDS}.predict:predict",
        "Apply a trained model to files.",
    ),
    Component(
        "commands",
        "write",
        f"{_COMMANDS}.write:write",
        "Write a dataset in another format.",
    ),
    Component("commands", "export", f"{_COMMANDS}.export:export", "Write a trained model as ONNX."),
    Component(
        "commands",
        "plugins",
        f"{_COMMANDS}.plugins:plugins",
        "Show what is installed, what failed and why.",
    ),
    Component(
        "commands",
        "new-plugin",
        f"{_COMMANDS}.new_plugin:new_plugin",
        "Write the project of a new plugin, whose tests pass.",
    ),
    Component(
        "commands",
        "schema",
        f"{_COMMANDS}.schema:schema",
        "Print the JSON Schema of the configuration, for editors.",
    ),
    Component(
        "engines",
        "local",
        "hepset.convert.engines:LocalEngine",
        "Worker processes of this machine.",
    ),
    Component("optimizers", "adam", "torch.optim:Adam", "Adam."),
    Component("optimizers", "adamw", "torch.optim:AdamW", "Adam with decoupled weight decay."),
    Component("optimizers", "nadam", "torch.optim:NAdam", "Adam with Nesterov momentum."),
    Component("optimizers", "radam", "torch.optim:RAdam", "Rectified Adam."),
    Component("optimizers", "sgd", "torch.optim:SGD", "Stochastic gradient descent."),
    Component(
        "loss_combinations",
        "fixed",
        "hepset.training.combinations:Fixed",
        "The sum of the losses times their factors.",
    ),
    Component(
        "loss_combinations",
        "uncertainty",
        "hepset.training.combinations:Uncertainty",
        "Losses weighed by log-variances that are learnt with the model.",
    ),
    Component(
        "loss_combinations",
        "famo",
        "hepset.training.combinations:Famo",
        "All losses fall at the same relative rate.",
    ),
    Component(
        "callbacks", "ema", "hepset.training.ema:Ema", "Exponential moving average of the weights."
    ),
    Component(
        "export_layouts",
        "hepset",
        "hepset.export.onnx:HepsetLayout",
        "Physical inputs, and every prediction.",
    ),
)
"""The core's components; its commands are in the order of the help page."""

COMMANDS: Mapping[str, Component] = MappingProxyType(
    {component.name: component for component in COMPONENTS if component.kind == "commands"}
)
"""The core's commands, found without loading any plugin."""


@hookimpl
def hepset_components() -> tuple[Component, ...]:
    """Name the core's components."""
    return COMPONENTS
