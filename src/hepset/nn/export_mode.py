"""Whether a module is being run, or turned into a graph."""

from __future__ import annotations

import torch

__all__ = ["is_exporting", "is_written"]


def is_exporting() -> bool:
    """Tell whether the model is being exported, traced or compiled instead of run.

    What depends on the data of one batch, such as trimming its padding, has to be left out then.
    """
    return is_written() or torch.compiler.is_compiling()


def is_written() -> bool:
    """Tell whether the model is turned into a graph that stays, and is not trained any more."""
    return (
        torch.onnx.is_in_onnx_export()
        or torch.compiler.is_exporting()
        or bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]
    )
