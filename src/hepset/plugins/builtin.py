"""What the core itself provides, in the same form as any plugin."""

from __future__ import annotations

from typing import NamedTuple

from hepset.plugins.hookspecs import hookimpl

hepset_interface = 1


class CommandEntry(NamedTuple):
    """Where a command is, and what the list of commands says about it."""

    reference: str
    """``"module:attribute"`` of the `click.Command`."""
    summary: str
    """One line for ``hepset --help``, shown without importing the command."""


COMMANDS: dict[str, CommandEntry] = {
    "run": CommandEntry(
        "hepset.commands.run:run", "Prepare, train, evaluate and export, as a configuration says."
    ),
    "check": CommandEntry(
        "hepset.commands.check:check", "Say what can be wrong with a configuration and its files."
    ),
    "convert": CommandEntry(
        "hepset.commands.run:convert", "Make the dataset of a configuration: prepare alone."
    ),
    "inspect": CommandEntry(
        "hepset.commands.inspect:inspect", "Show a dataset, a run, an ONNX file or an input file."
    ),
    "predict": CommandEntry("hepset.commands.predict:predict", "Apply a trained model to files."),
    "export": CommandEntry("hepset.commands.export:export", "Write a trained model as ONNX."),
    "plugins": CommandEntry(
        "hepset.commands.plugins:plugins", "Show what is installed, what failed and why."
    ),
    "schema": CommandEntry(
        "hepset.commands.schema:schema", "Print the JSON Schema of the configuration, for editors."
    ),
}
"""The core's commands, in the order of the help page."""


@hookimpl
def hepset_readers() -> dict[str, str]:
    """Name the core's readers."""
    return {
        "parquet": "hepset.readers.parquet:ParquetReader",
        "root": "hepset.readers.root:RootReader",
    }


@hookimpl
def hepset_writers() -> dict[str, str]:
    """Name the core's writers."""
    return {"parquet": "hepset.predict.predictions:ParquetWriter"}


@hookimpl
def hepset_backbones() -> dict[str, str]:
    """Name the core's backbones."""
    return {"transformer": "hepset.backbones.transformer:TransformerBackbone"}


@hookimpl
def hepset_heads() -> dict[str, str]:
    """Name the core's heads."""
    return {
        "classification": "hepset.heads.classification:ClassificationHead",
        "regression": "hepset.heads.regression:RegressionHead",
    }


@hookimpl
def hepset_dialects() -> dict[str, str]:
    """Name the core's own event format."""
    return {"hepset": "hepset.dialects:HepsetDialect"}


@hookimpl
def hepset_commands() -> dict[str, str]:
    """Name the core's commands, so that a plugin claiming one of them is a visible conflict."""
    return {name: command.reference for name, command in COMMANDS.items()}


@hookimpl
def hepset_engines() -> dict[str, str]:
    """Name the core's engines."""
    return {"local": "hepset.convert.engines:LocalEngine"}


@hookimpl
def hepset_optimizers() -> dict[str, str]:
    """Name the optimizers of torch that suit transformers and small networks."""
    return {
        "adam": "torch.optim:Adam",
        "adamw": "torch.optim:AdamW",
        "nadam": "torch.optim:NAdam",
        "radam": "torch.optim:RAdam",
        "sgd": "torch.optim:SGD",
    }


@hookimpl
def hepset_export_layouts() -> dict[str, str]:
    """Name the core's ONNX layout."""
    return {"hepset": "hepset.export.onnx:HepsetLayout"}
