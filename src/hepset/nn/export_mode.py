"""Whether a module is being run, or turned into a graph, and the forms that it has for that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

__all__ = ["export_forms", "is_exporting"]


def is_exporting() -> bool:
    """Tell whether the model is being exported, traced or compiled instead of run.

    What depends on the data of one batch, such as trimming its padding, has to be left out then.
    """
    return (
        torch.onnx.is_in_onnx_export()
        or torch.compiler.is_compiling()
        or bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]
    )


@contextmanager
def export_forms(model: nn.Module) -> Iterator[None]:
    """Meanwhile, replace all submodules that have a form of their own for graphs.

    Such a module has a method ``for_export`` that returns a module of the same signature with the
    same parameters, under the same names.

    Args:
        model: The module whose submodules are replaced, at any depth.
    """
    replaced: list[tuple[nn.Module, str, nn.Module]] = []
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            form = getattr(child, "for_export", None)
            if form is not None:
                replaced.append((module, name, child))
                setattr(module, name, form())
    try:
        yield
    finally:
        for module, name, child in replaced:
            setattr(module, name, child)
