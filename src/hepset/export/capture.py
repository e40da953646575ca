"""From a module to a program of torch operators, in as few passes as the module allows.

torch's ONNX exporter traces a module and then traces the program again, twice, to replace operators
without a translation. With free sizes each pass takes milliseconds per operator, and most programs
hold no operator to be replaced, or a few that have another name: those are renamed here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch._dynamo
from torch import Tensor
from torch._ops import OpOverload
from torch.export import ExportedProgram

__all__ = ["capture"]

aten = torch.ops.aten

_SAME: dict[Any, Any] = {
    aten.__and__.Tensor: aten.bitwise_and.Tensor,
    aten.__or__.Tensor: aten.bitwise_or.Tensor,
    aten.__xor__.Tensor: aten.bitwise_xor.Tensor,
    aten.arccosh.default: aten.acosh.default,
    aten.arcsin.default: aten.asin.default,
    aten.arcsinh.default: aten.asinh.default,
    aten.arctan2.default: aten.atan2.default,
    aten.arctanh.default: aten.atanh.default,
}
"""Operator → the one that does the same with the same arguments, and has a translation."""

_CHECKS = (
    aten._assert_async.default,
    aten._assert_async.msg,
    aten._assert_scalar.default,
    aten._assert_tensor_metadata.default,
    aten.sym_constrain_range_for_size.default,
)
"""Operators without a result, which the exporter leaves out."""


def capture(
    module: torch.nn.Module,
    examples: tuple[Tensor, ...],
    shapes: Sequence[Mapping[int, Any]],
    *,
    quick: bool = True,
) -> ExportedProgram:
    """Trace a module whose inputs have free sizes.

    Args:
        module: Takes tensors by one variadic argument, gives a tuple of tensors.
        examples: Its inputs.
        shapes: Per input its free axes, as `torch.export.export` takes them.
        quick: Whether the exporter need not trace the program again if it seems ready.

    Returns:
        The program, for `torch.onnx.export`.
    """
    with _settings():
        program = torch.export.export(
            module, examples, dynamic_shapes=(tuple(shapes),), strict=False
        )
    for graph in program.graph_module.modules():
        if isinstance(graph, torch.fx.GraphModule):
            _rename(graph)
    if not quick:
        return program
    replace = program.run_decompositions

    def run_decompositions(
        table: dict[Any, Callable[..., Any]] | None = None, **options: bool
    ) -> ExportedProgram:
        """Do nothing where there is nothing to replace."""
        return program if _is_ready(program, table) else replace(table, **options)

    # The exporter asks the program itself.
    program.run_decompositions = run_decompositions
    return program


def _rename(graph: torch.fx.GraphModule) -> None:
    """Replace operators by others that have a translation, in place."""
    for node in list(graph.graph.nodes):
        if node.op != "call_function":
            continue
        if node.target in _SAME:
            node.target = _SAME[node.target]
        elif node.target in _CHECKS:
            graph.graph.erase_node(node)
        elif node.target is aten.to.dtype:
            node.target = aten._to_copy.default
            node.args, node.kwargs = node.args[:1], {"dtype": node.args[1]}
        else:
            _write_apart(node)
        _as_put(node)
    # What only checks looked at, among it bounds of sizes that are no 64-bit integers.
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _as_put(node: torch.fx.Node) -> None:
    """Write `index_copy` as what it is a special case of."""
    if node.target is aten.index_copy.default:
        x, axis, index, source = node.args
        if isinstance(axis, int) and axis >= 0:
            before: list[Any] = [None] * axis
            node.target = aten.index_put.default
            node.args = (x, [*before, index], source)


def _write_apart(node: torch.fx.Node) -> None:
    """Turn an operator that writes into a tensor of its own into the one that makes a new tensor.

    Nothing else may look at that memory: neither is it a view, nor are there views of it.
    """
    target, written = node.target, node.args[0] if node.args else None
    if not isinstance(target, OpOverload) or not isinstance(written, torch.fx.Node):
        return
    if not _writes(node) or not _is_fresh(written):
        return
    name = target._schema.name.removeprefix("aten::").removesuffix("_")
    other = getattr(getattr(aten, name, None), target._overloadname, None)
    if other is None or any(map(_may_view, written.users)):
        return
    node.target = other
    for user in list(written.users):
        if user is not node and user > node:
            user.replace_input_with(written, node)


def _writes(node: torch.fx.Node) -> bool:
    """Whether an operator of torch writes into its first argument."""
    target = node.target
    if not isinstance(target, OpOverload):
        return False
    name = target._schema.name
    return target._schema.is_mutable and name.startswith("aten::") and name.endswith("_")


def _is_fresh(node: torch.fx.Node) -> bool:
    """Whether an operator gives memory that is nobody else's."""
    target = node.target
    return isinstance(target, OpOverload) and all(
        given.alias_info is None for given in target._schema.returns
    )


def _may_view(node: torch.fx.Node) -> bool:
    """Whether the result of an operator may share memory with its input, without writing to it."""
    return not _writes(node) and not _is_fresh(node) and node.op != "output"


def _is_ready(program: ExportedProgram, table: Mapping[Any, Any] | None) -> bool:
    """Whether no operator is in the table of those to be replaced, or writes into a tensor."""
    targets = {
        node.target
        for graph in program.graph_module.modules()
        if isinstance(graph, torch.fx.GraphModule)
        for node in graph.graph.nodes
        if node.op == "call_function"
    }
    mutates = any(target._schema.is_mutable for target in targets if isinstance(target, OpOverload))
    return table is not None and not mutates and targets.isdisjoint(table)


@contextlib.contextmanager
def _settings() -> Iterator[None]:
    """Let a free size be 0 or 1 as well, and skip a cache that costs more than it saves."""
    wanted = {
        torch.fx.experimental._config: {"backed_size_oblivious": True},
        torch._dynamo.config: {"fake_tensor_cache_enabled": False},
    }
    with contextlib.ExitStack() as stack:
        for config, options in wanted.items():
            # Releases of torch know different ones.
            known = {name: value for name, value in options.items() if hasattr(config, name)}
            if known:
                stack.enter_context(config.patch(**known))
        yield
