from .weaver.inputs import weaver_batches as weaver_batches
from .weaver.inputs import weaver_inputs as weaver_inputs
