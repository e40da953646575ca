from .layouts import ExportLayout as ExportLayout
from .onnx import ExportCheck as ExportCheck
from .onnx import export_onnx as export_onnx
