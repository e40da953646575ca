from .evaluate import evaluate_run as evaluate_run
from .evaluate import judge as judge
