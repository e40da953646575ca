"""Export SPANet's network with its own code, in an interpreter that has SPANet.

    python spanet_graph.py DATA EVENT OPTIONS OUTPUT

OPTIONS is SPANet's JSON. The weights are random: only time is measured. It takes SPANet's module
and names for the export, but torch's older exporter, as the newer one fails on it. It prints the
number of parameters, and imports nothing of hepset.
"""

from __future__ import annotations

import contextlib
import json
import sys
import warnings
from pathlib import Path


def main() -> None:
    warnings.simplefilter("ignore")
    import torch
    from spanet import JetReconstructionModel, Options
    from spanet.dataset.types import Source
    from spanet.export import WrappedModel, onnx_specification
    from torch.utils.data import default_collate

    data, event, chosen, output = sys.argv[1:]
    torch.set_num_threads(1)
    options = Options(event, data)
    options.update_options(json.loads(Path(chosen).read_text()))
    with contextlib.redirect_stdout(sys.stderr):
        model = JetReconstructionModel(options).eval()
    wrapped = WrappedModel(model).eval()
    inputs, outputs, axes = onnx_specification(model)

    class Flat(torch.nn.Module):
        """Tensors one after the other instead of pairs."""

        def __init__(self) -> None:
            super().__init__()
            self.wrapped = wrapped

        def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
            pairs = zip(tensors[::2], tensors[1::2], strict=True)
            found: tuple[torch.Tensor, ...] = self.wrapped([Source(*pair) for pair in pairs])
            return found

    batch = default_collate([model.training_dataset[number] for number in range(2)])
    example = tuple(tensor for source in batch[0] for tensor in source)
    with contextlib.redirect_stdout(sys.stderr), torch.no_grad():
        torch.onnx.export(
            Flat(),
            example,
            output,
            input_names=inputs,
            output_names=outputs,
            dynamic_axes=axes,
            opset_version=15,
            dynamo=False,
        )
    print(sum(parameter.numel() for parameter in model.parameters()))


if __name__ == "__main__":
    main()
