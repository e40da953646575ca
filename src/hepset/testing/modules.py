"""What the checks of torch modules share: random parameters, gradients, comparison with ONNX."""

from __future__ import annotations

import contextlib
import io
import logging
import pickle
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hepset.testing.conditions import require, require_same

__all__ = [
    "check_export",
    "differs",
    "pickled",
    "quiet",
    "reload",
    "require_close",
    "require_gradients",
    "seeded",
    "shake",
]

Array = NDArray[Any]


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch, and leave its generator as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def shake(module: nn.Module, size: float = 0.1) -> None:
    """Move every floating parameter from its start value.

    What starts at zero (a gate, a position encoding) would hide what it does.
    """
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.is_floating_point():
                parameter.add_(size * torch.randn_like(parameter))


def reload(source: nn.Module, fresh: nn.Module, what: str) -> None:
    """Store the weights of one module in a file and load them into another.

    Raises:
        AssertionError: If they cannot be stored, or do not fit a module that is built the same way.
    """
    file = io.BytesIO()
    try:
        torch.save(source.state_dict(), file)
        file.seek(0)
        fresh.load_state_dict(torch.load(file, weights_only=True))
    except Exception as problem:
        raise AssertionError(
            f"the weights of {what} do not go into one that is built the same way ({problem}): "
            "no checkpoint could be used; make all layers in __init__ or build"
        ) from problem


def pickled(module: nn.Module, what: str) -> nn.Module:
    """Return a copy of a module as another process gets it; its class may be a local one.

    Raises:
        AssertionError: If it cannot be pickled.
    """
    try:
        state = pickle.loads(pickle.dumps(module.__getstate__()))
    except Exception as problem:
        raise AssertionError(
            f"{what} cannot be pickled ({problem}), so that no other process can train it; keep "
            "open files, lambdas and locks out of its state"
        ) from problem
    copy = type(module).__new__(type(module))
    copy.__setstate__(state)
    return copy


def require_close(
    found: Tensor | Array,
    expected: Tensor | Array,
    message: str,
    *,
    tolerance: float,
) -> None:
    """Fail where two tensors differ by more than `tolerance`, relative to values above 1.

    Raises:
        AssertionError: Saying how many values differ, and the first of them.
    """
    have, want = _array(found), _array(expected)
    require_same(have, want, message, rtol=tolerance, atol=tolerance)


def require_gradients(
    named: Mapping[str, nn.Parameter], what: str, *, all_used: bool = True
) -> None:
    """Fail where a parameter is out of the reach of gradients, or has one that is not finite.

    Zero is a gradient as good as any: that of a bias in front of a softmax, or of a normalisation
    over a single feature, is zero but for rounding.

    Raises:
        AssertionError: Naming the parameters.
    """
    trained = {name: p for name, p in named.items() if p.requires_grad}
    broken = [
        name
        for name, p in trained.items()
        if p.grad is not None and not bool(torch.isfinite(p.grad).all())
    ]
    require(
        not broken,
        f"{what}: the gradient of {', '.join(broken)} is not finite: one step would destroy all "
        "weights; give `torch.where` finite values on both sides",
    )
    unused = [name for name, p in trained.items() if p.grad is None] if all_used else []
    require(
        not unused,
        f"{what}: no gradient reaches {', '.join(unused)}: they would never learn, and "
        "training on several devices would stop; use them, or do not make them",
    )


def differs(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors differ by more than rounding."""
    scale = float(second.abs().max()) if second.numel() else 0.0
    return bool(((first - second).abs() > 1e-5 * scale).any())


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's exporter from telling its progress and its own deprecations."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def check_export(
    module: nn.Module,
    inputs: Sequence[tuple[str, tuple[str, ...]]],
    example: tuple[Tensor, ...],
    others: Sequence[tuple[Tensor, ...]],
    outputs: Sequence[str],
    what: str,
    *,
    tolerance: float,
) -> None:
    """Export a module to ONNX (opset 18) and compare with torch, also for other sizes.

    Args:
        module: Takes the inputs in order, gives a tuple of tensors.
        inputs: Name and axes of every input; an axis named ``=`` has a fixed size, axes of one
            name have one size.
        example: What is exported with.
        others: What is compared on.
        outputs: Names of the outputs.
        what: For messages, which also say how many events were compared.
        tolerance: Largest difference, relative above 1.

    Raises:
        AssertionError: If the module cannot be exported or the graph gives something else.
    """
    import onnx  # noqa: PLC0415  only where graphs are made
    import onnxruntime  # noqa: PLC0415  only where graphs are run

    dims: dict[str, Any] = {}
    shapes = []
    for _, axes in inputs:
        shapes.append(
            {
                axis: dims.setdefault(dim, torch.export.Dim(f"{dim}_size"))
                for axis, dim in enumerate(axes)
                if dim != "="
            }
        )
    module.eval()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        with quiet():
            try:
                torch.onnx.export(
                    module,
                    example,
                    path,
                    dynamo=True,
                    opset_version=18,
                    verbose=False,
                    input_names=[name for name, _ in inputs],
                    output_names=list(outputs),
                    dynamic_shapes=(tuple(shapes),),
                )
                session = onnxruntime.InferenceSession(path)
            except Exception as problem:
                raise AssertionError(
                    f"{what} cannot be exported to ONNX with any number of events and objects: "
                    f"{type(problem).__name__}: {str(problem)[:1500]}"
                ) from problem
        adds = any(
            node.op_type == "ScatterND" and attribute.name == "reduction" and attribute.s != b"none"
            for node in onnx.load(path).graph.node
            for attribute in node.attribute
        )
        require(
            not adds,
            f"{what}: the graph adds by ScatterND; ONNX Runtime does that from several threads at "
            "once and loses some. Sum over an axis instead of index_add where it is exported",
        )
        known = {node.name for node in session.get_inputs()}
        fed = sum(len(values[0]) for values in (example, *others))
        for values in (example, *others):
            feed = {name: v.numpy() for (name, _), v in zip(inputs, values, strict=True)}
            feed = {name: v for name, v in feed.items() if name in known}
            sizes = ", ".join(f"{name} {tuple(v.shape)}" for name, v in feed.items())
            try:
                found = session.run(None, feed)
            except Exception as problem:
                raise AssertionError(
                    f"{what}: the ONNX graph fails on {sizes}: {problem}"
                ) from problem
            with torch.no_grad():
                expected = module(*values)
            for name, have, want in zip(outputs, found, expected, strict=True):
                require_close(
                    have,
                    want,
                    f"{what}: {name}: ONNX instead of torch, one of {fed} events, {sizes}",
                    tolerance=tolerance,
                )


def _array(values: Tensor | Array) -> Array:
    if isinstance(values, Tensor):
        array: Array = values.detach().cpu().numpy()
        return array
    return np.asarray(values)
