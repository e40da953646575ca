from .input_transform import InputTransform as InputTransform
from .load import load_checkpoint as load_checkpoint
from .load import load_model as load_model
from .model import Model as Model
from .model import build_model as build_model
from .onnx_model import OnnxModel as OnnxModel
