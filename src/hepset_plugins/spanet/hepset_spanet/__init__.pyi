from .checkpoint import SpanetModel as SpanetModel
from .checkpoint import import_spanet as import_spanet
from .checkpoint import load_spanet as load_spanet
from .checkpoint import load_spanet_run as load_spanet_run
