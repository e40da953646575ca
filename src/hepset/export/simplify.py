"""What the exporter's graph needs before it is written, and no more.

torch's exporter can optimise a graph itself, which takes as long as making it: nearly all of that
is a search for patterns that ONNX Runtime finds again, and better, when it opens the file. Here
constants are computed, and what nobody uses or computes twice goes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["simplify", "translations"]


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Say how operators of torch become nodes, where the exporter's way is slow to run.

    Returns:
        torch's operator → a function of ONNX Script, as `torch.onnx.export` takes it.
    """
    from onnxscript import opset18 as op  # noqa: PLC0415  only for an export

    def gelu(x: Any, approximate: str = "none") -> Any:  # noqa: ANN401  symbolic values
        """In the order of factors that ONNX Runtime makes one node of."""
        if approximate == "tanh":
            cubic = op.Add(x, op.Mul(op.Mul(op.Mul(x, x), x), 0.044715))
            inside = op.Tanh(op.Mul(cubic, 0.7978845608028654))
        else:
            inside = op.Erf(op.Div(x, 1.4142135623730951))
        return op.Mul(op.Mul(x, op.Add(inside, 1.0)), 0.5)

    return {torch.ops.aten.gelu.default: gelu}


def simplify(model: Any) -> None:  # noqa: ANN401  an onnx_ir.Model
    """Compute constants and remove what is unused or there twice, in place."""
    import onnx_ir  # noqa: PLC0415  only for an export
    from onnx_ir.passes import common  # noqa: PLC0415
    from onnxscript import optimizer  # noqa: PLC0415

    common.InlinePass()(model)
    optimizer.fold_constants(model)
    onnx_ir.passes.Sequential(
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )(model)
