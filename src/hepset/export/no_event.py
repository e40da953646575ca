"""A graph that answers no event with no event, whatever the network inside does with none.

Many operators, and more of the ways in which a runtime carries them out, need at least one event.
So one event without any object is put in where there is none, and its answer is cut off again.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

__all__ = ["accept_no_event"]

_PREFIX = "events of hepset: "
"""Start of the names of what is added: the exporter's and the layouts' names are others."""


def accept_no_event(proto: Any, per_event: Collection[str]) -> None:  # noqa: ANN401  onnx.ModelProto
    """Put one event of zeros into an empty batch, and cut it off every output, in place.

    Args:
        proto: An ``onnx.ModelProto``; the first axis of all outputs is the event.
        per_event: Inputs whose first axis is the event.
    """
    import onnx  # noqa: PLC0415  only for an export
    from onnx import helper, numpy_helper  # noqa: PLC0415

    graph = proto.graph
    inputs = [node for node in graph.input if node.name in per_event]
    if not inputs:
        return
    import numpy as np  # noqa: PLC0415

    def constant(name: str, value: int) -> str:
        graph.initializer.append(
            numpy_helper.from_array(np.array([value], np.int64), f"{_PREFIX}{name}")
        )
        return f"{_PREFIX}{name}"

    zero, one = constant("zero", 0), constant("one", 1)
    events, rows = f"{_PREFIX}events", f"{_PREFIX}rows"
    before = [
        helper.make_node("Shape", [inputs[0].name], [events], start=0, end=1),
        helper.make_node("Max", [events, one], [rows]),
    ]
    renamed = {}
    for node in inputs:
        own = f"{_PREFIX}{node.name}"
        renamed[node.name] = f"{own}, at least one"
        nothing = helper.make_tensor("", node.type.tensor_type.elem_type, [1], [0])
        before += [
            helper.make_node("Shape", [node.name], [f"{own}, axes"], start=1),
            helper.make_node("Concat", [one, f"{own}, axes"], [f"{own}, shape"], axis=0),
            helper.make_node("ConstantOfShape", [f"{own}, shape"], [f"{own}, none"], value=nothing),
            helper.make_node("Concat", [node.name, f"{own}, none"], [f"{own}, one more"], axis=0),
            helper.make_node("Slice", [f"{own}, one more", zero, rows, zero], [renamed[node.name]]),
        ]
    outputs = {node.name: f"{_PREFIX}{node.name}, all" for node in graph.output}
    for node in graph.node:
        node.input[:] = [renamed.get(name, outputs.get(name, name)) for name in node.input]
        node.output[:] = [outputs.get(name, name) for name in node.output]
    after = [
        helper.make_node("Slice", [inside, zero, events, zero], [name])
        for name, inside in outputs.items()
    ]
    nodes: list[onnx.NodeProto] = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
