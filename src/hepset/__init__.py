"""hepset: neural networks on sets of particles, from files to a checked and exported model.

The names below are the public interface. Each is imported when it is first used, so that
``import hepset`` stays quick and loads no torch.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hepset.batch import EventBatch as EventBatch
    from hepset.dataset import open_dataset as open_dataset
    from hepset.dialects import load_event as load_event
    from hepset.errors import ConfigurationError as ConfigurationError
    from hepset.errors import ContractError as ContractError
    from hepset.errors import DatasetError as DatasetError
    from hepset.errors import EventInfoError as EventInfoError
    from hepset.errors import ExportError as ExportError
    from hepset.errors import ExpressionError as ExpressionError
    from hepset.errors import HepsetError as HepsetError
    from hepset.errors import PluginConflictError as PluginConflictError
    from hepset.errors import PluginError as PluginError
    from hepset.errors import ReadError as ReadError
    from hepset.errors import TrainingError as TrainingError
    from hepset.errors import UnknownComponentError as UnknownComponentError
    from hepset.inference import load_model as load_model
    from hepset.interfaces import Chunk as Chunk
    from hepset.interfaces import Reader as Reader
    from hepset.interfaces import Writer as Writer
    from hepset.interfaces.backbone import Backbone as Backbone
    from hepset.interfaces.head import Head as Head
    from hepset.plugins.hookspecs import hookimpl as hookimpl
    from hepset.readers import open_reader as open_reader
    from hepset.run import Run as Run
    from hepset.schema.contract import Contract as Contract
    from hepset.schema.contract import compile_contract as compile_contract
    from hepset.schema.event import EventInfo as EventInfo
    from hepset.schema.tensors import TensorSpec as TensorSpec

__version__ = version("hepset")

_MODULE_OF = {
    "Backbone": "hepset.interfaces.backbone",
    "Chunk": "hepset.interfaces",
    "ConfigurationError": "hepset.errors",
    "Contract": "hepset.schema.contract",
    "ContractError": "hepset.errors",
    "DatasetError": "hepset.errors",
    "EventBatch": "hepset.batch",
    "EventInfo": "hepset.schema.event",
    "EventInfoError": "hepset.errors",
    "ExportError": "hepset.errors",
    "ExpressionError": "hepset.errors",
    "Head": "hepset.interfaces.head",
    "HepsetError": "hepset.errors",
    "PluginConflictError": "hepset.errors",
    "PluginError": "hepset.errors",
    "ReadError": "hepset.errors",
    "Reader": "hepset.interfaces",
    "Run": "hepset.run",
    "TensorSpec": "hepset.schema.tensors",
    "TrainingError": "hepset.errors",
    "UnknownComponentError": "hepset.errors",
    "Writer": "hepset.interfaces",
    "compile_contract": "hepset.schema.contract",
    "hookimpl": "hepset.plugins.hookspecs",
    "load_event": "hepset.dialects",
    "load_model": "hepset.inference",
    "open_dataset": "hepset.dataset",
    "open_reader": "hepset.readers",
}

__all__ = ["__version__", *sorted(_MODULE_OF)]  # noqa: PLE0604 - the table holds text only


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    module = _MODULE_OF.get(name)
    if module is None:
        msg = f"module 'hepset' has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(importlib.import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted({*globals(), *__all__})
