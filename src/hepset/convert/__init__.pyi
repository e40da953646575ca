from .convert import Progress as Progress
from .convert import prepare_dataset as prepare_dataset
from .convert import write_dataset as write_dataset
