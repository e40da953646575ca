from .convert import Progress as Progress
from .convert import plan_inputs as plan_inputs
from .convert import prepare_dataset as prepare_dataset
