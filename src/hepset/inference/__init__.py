"""What is done with a trained model: predict, judge, report, export.

The names are imported when they are first used: opening an ONNX file needs no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hepset.inference.evaluate import evaluate_run as evaluate_run
    from hepset.inference.evaluate import judge as judge
    from hepset.inference.layouts import ExportLayout as ExportLayout
    from hepset.inference.load import load_checkpoint as load_checkpoint
    from hepset.inference.load import load_model as load_model
    from hepset.inference.onnx import ExportCheck as ExportCheck
    from hepset.inference.onnx import export_onnx as export_onnx
    from hepset.inference.predict import predict_files as predict_files
    from hepset.inference.predict import predict_split as predict_split
    from hepset.inference.predictions import ParquetWriter as ParquetWriter
    from hepset.inference.report import write_report as write_report
    from hepset.inference.runtime import OnnxModel as OnnxModel

_MODULE_OF = {
    "ExportCheck": "onnx",
    "ExportLayout": "layouts",
    "OnnxModel": "runtime",
    "ParquetWriter": "predictions",
    "evaluate_run": "evaluate",
    "export_onnx": "onnx",
    "judge": "evaluate",
    "load_checkpoint": "load",
    "load_model": "load",
    "predict_files": "predict",
    "predict_split": "predict",
    "write_report": "report",
}

__all__ = sorted(_MODULE_OF)  # noqa: PLE0605 - the table holds text only


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    module = _MODULE_OF.get(name)
    if module is None:
        msg = f"module 'hepset.inference' has no attribute {name!r}"
        raise AttributeError(msg)
    value = getattr(importlib.import_module(f"hepset.inference.{module}"), name)
    globals()[name] = value
    return value
