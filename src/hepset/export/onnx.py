"""Export of a whole model as one ONNX graph, compared with torch before it is written.

Transforms, backbone, heads and decoding are inside: physical inputs go in, physics decisions come
out. The number of events and the slots of every stream stay free.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from hepset.arrays import Array
from hepset.errors import ConfigurationError, ExportError
from hepset.export.examples import random_inputs
from hepset.export.layouts import ExportLayout, HepsetLayout
from hepset.export.no_event import accept_no_event
from hepset.files import atomic_file
from hepset.interfaces.component import ComponentConfig
from hepset.model.onnx_metadata import GraphMetadata
from hepset.model.onnx_model import open_session
from hepset.plugins import registry
from hepset.schema.contract import Contract
from hepset.schema.tensors import TensorSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from hepset.model import Model

__all__ = [
    "ABSOLUTE_TOLERANCE",
    "RELATIVE_TOLERANCE",
    "ExportCheck",
    "ExportLayout",
    "HepsetLayout",
    "OutputCheck",
    "export_onnx",
]

_LOG = logging.getLogger(__name__)

RELATIVE_TOLERANCE: Final = 1e-3
"""Largest difference of an output, relative to its own size."""
ABSOLUTE_TOLERANCE: Final = 1e-4
"""The same in units of the largest finite value of the output in the comparison."""
DECISION_TOLERANCE: Final = 0.01
"""Largest fraction of events whose integers differ: a tie may be broken by rounding."""
"""Last part of the name of an output (event,) that says whether a decision is proved."""
COMPARED_EVENTS: Final = 256
"""Events of the large batch of the comparison."""
COMPARED_SLOTS: Final = 8192
"""Slots of all its events together: with more per event, it has fewer events."""
_GIBIBYTE: Final = 2**30
_OWN: Final = "output of hepset: "
"""Start of the outputs' names until the graph is made: the exporter names values inside freely."""


@dataclass(frozen=True)
class OutputCheck:
    """How one output of the graph compares with torch.

    Attributes:
        name: The output.
        events: Number of events of the batch.
        slots: Stream → number of slots of the batch.
        difference: Largest absolute difference.
        scale: Largest absolute value that torch gave.
        decisions: Number of events whose integers or booleans differ, of those that are compared.
        unproved: Number of events whose integers and booleans are not compared, because the graph
            says that it could not prove them.
    """

    name: str
    events: int
    slots: dict[str, int]
    difference: float
    scale: float
    decisions: int = 0
    unproved: int = 0


@dataclass(frozen=True)
class ExportCheck:
    """A graph that was written, and how well it agrees with torch.

    Attributes:
        path: The file.
        layout: Name of the layout.
        opset: Version of the ONNX operators.
        bytes: Size of the file.
        seconds: Time of the export and of the comparison.
        outputs: One comparison per output and batch.
    """

    path: Path
    layout: str
    opset: int
    bytes: int
    seconds: float
    outputs: tuple[OutputCheck, ...]

    @property
    def worst(self) -> OutputCheck | None:
        """The comparison with the largest difference relative to its scale."""
        return max(self.outputs, key=lambda c: c.difference / (c.scale or 1), default=None)


def export_onnx(
    model: Model,
    path: str | os.PathLike[str],
    *,
    layout: str | Mapping[str, Any] = "hepset",
    opset: int = 18,
    seed: int = 0,
) -> ExportCheck:
    """Write a model as one ONNX graph, after comparing it with torch.

    The comparison takes batches of 1 and 256 random events that obey the contract (fewer, down to
    16, where events have more than 32 slots), with the contract's number of slots and with another
    one; the last event of the large ones has no object at all. Where the graph says that it could
    not prove an event's decisions (`Head.proofs`), they may differ from torch, which can search
    further.

    Args:
        model: The model.
        path: The file to write; it appears complete or not at all.
        layout: Names and axes of inputs and outputs, a component of kind ``export_layouts``; its
            name, or ``{name: …, <options>}``.
        opset: Version of the ONNX operators, 18 or later.
        seed: Of the random events.

    Returns:
        What was written and how well it agrees.

    Raises:
        ExportError: If the graph cannot be made, or an output disagrees with torch; nothing is
            written.
        UnknownComponentError: If there is no such layout.
        ConfigurationError: If the operator set is too old, or an option does not fit.
    """
    if opset < 18:
        raise ConfigurationError(f"opset {opset}: the graph needs ONNX operators 18 or later")
    start = time.perf_counter()
    target = Path(path)
    plan = _layout(model, layout)
    was_training, device = model.training, model.device
    model.eval().to("cpu")
    try:
        graph, names = _graph(model, plan)
        proto = _export(graph, plan, _sample(model, 4, 0, seed), names, opset)
        content, checks = _finish(model, graph, plan, proto, names, seed)
    finally:
        model.to(device).train(was_training)
    target.parent.mkdir(parents=True, exist_ok=True)
    for name, beside in plan.files().items():
        with atomic_file(target.with_name(name)) as file:
            file.write(beside)
    with atomic_file(target) as file:
        file.write(content)
    check = ExportCheck(
        target, plan.name, opset, len(content), time.perf_counter() - start, tuple(checks)
    )
    worst = check.worst
    _LOG.info(
        "export: %s, %.1f MB, agrees with torch%s",
        target.name,
        len(content) / 1e6,
        f" (largest difference {worst.difference:.2g}, {worst.name})" if worst else "",
    )
    unproved = max(checks, key=lambda c: c.unproved / c.events, default=None)
    if unproved is not None and unproved.unproved:
        _LOG.warning(
            "export: in %d of %d random events the graph cannot prove its decision; %s says so of "
            "each event",
            unproved.unproved,
            unproved.events,
            " or ".join(sorted(_proofs(model, names))),
        )
    return check


def parse_layout(
    layout: str | Mapping[str, Any],
) -> tuple[type[ExportLayout], ComponentConfig]:
    """Return the class of a layout and its options.

    Raises:
        ConfigurationError: If it has no name, or an option is wrong.
        UnknownComponentError: If there is no such layout.
    """
    return registry().configure("export_layouts", layout, "export.layout")


def _layout(model: Model, layout: str | Mapping[str, Any]) -> ExportLayout:
    """Build the layout for a model."""
    cls, config = parse_layout(layout)
    plan = cls(model.contract.inputs(), model.event, config)
    plan.bind(model)
    return plan


def _graph(model: Model, layout: ExportLayout) -> tuple[torch.nn.Module, list[str]]:
    """The model as a module of positional tensors, and the names of its outputs."""
    import torch  # noqa: PLC0415  the layouts of this module load without torch

    class Graph(torch.nn.Module):
        """The layout's inputs to the layout's outputs, as tuples."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
            outputs = self.named(dict(zip(layout.axes(), tensors, strict=True)))
            # Each output needs a name, also where two are one tensor.
            seen: dict[int, Tensor] = {}
            found = []
            for tensor in outputs.values():
                found.append(tensor.clone() if id(tensor) in seen else tensor)
                seen[id(tensor)] = tensor
            return tuple(found)

        def named(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return layout.run(self.model, inputs)

    graph = Graph().eval()
    feed = layout.feed(_sample(model, 2, 0, 0))
    with torch.no_grad():
        outputs = graph.named({name: torch.from_numpy(feed[name]) for name in layout.axes()})
    if not outputs:
        raise ExportError("the model has no head, so there is nothing to export")
    return graph, list(outputs)


def _sample(model: Model, events: int, extra: int, seed: int) -> dict[str, Array]:
    """Random inputs with `extra` slots more (or fewer) than the contract says."""
    inputs = model.contract.inputs()
    slots = {name: max((size or 8) + extra, 2) for name, size in inputs.slots.items()}
    return random_inputs(
        inputs, model.event, model.statistics, events=events, slots=slots, seed=seed
    )


def _export(
    graph: torch.nn.Module,
    layout: ExportLayout,
    arrays: Mapping[str, Array],
    names: Sequence[str],
    opset: int,
) -> Any:  # noqa: ANN401  an onnx.ModelProto
    """Turn the module into an ONNX model with free events and slots."""
    import torch  # noqa: PLC0415

    from hepset.export.capture import capture  # noqa: PLC0415
    from hepset.export.simplify import simplify, translations  # noqa: PLC0415
    from hepset.nn.export_mode import export_forms  # noqa: PLC0415

    feed = layout.feed(arrays)
    axes = layout.axes()
    missing = [name for name in axes if name not in feed]
    if missing:
        raise ExportError(f"the layout {layout.name!r} does not feed its input {missing[0]!r}")
    examples = tuple(torch.from_numpy(feed[name]) for name in axes)
    dynamic = torch.export.Dim.DYNAMIC
    shapes = tuple(dict.fromkeys(positions, dynamic) for positions in axes.values())

    def written(captured: torch.export.ExportedProgram) -> Any:  # noqa: ANN401  untyped
        return torch.onnx.export(
            captured,
            dynamo=True,
            opset_version=opset,
            input_names=list(axes),
            output_names=[f"{_OWN}{name}" for name in names],
            custom_translation_table=translations(),
            optimize=False,
            verbose=False,
        )

    try:
        with _silence(), export_forms(graph), torch.no_grad():
            try:
                program = written(capture(graph, examples, shapes))
            except torch.onnx.errors.OnnxExporterError:
                # An operator that has no translation, which tracing again takes apart.
                program = written(capture(graph, examples, shapes, quick=False))
            if program is not None:
                simplify(program.model)
    except Exception as problem:  # the exporter raises whatever the model's code makes it raise
        raise ExportError(
            f"the model cannot be turned into a graph: {_first_line(problem)}; a head or backbone "
            "uses an operation that depends on the data, or one that ONNX does not have"
        ) from problem
    if program is None:
        raise ExportError("the exporter gave no graph")
    proto = program.model_proto
    _name_outputs(proto, names)
    return proto


def _name_outputs(proto: Any, names: Sequence[str]) -> None:  # noqa: ANN401  an onnx.ModelProto
    """Give the outputs their names; what the exporter called the same inside gets another."""
    inside = {value for node in proto.graph.node for value in node.output}
    renamed = {name: f"{name}_inside" for name in names if name in inside}
    renamed |= {f"{_OWN}{name}": name for name in names}
    for node in proto.graph.node:
        for values in (node.input, node.output):
            for index, value in enumerate(values):
                values[index] = renamed.get(value, value)
    for value in (*proto.graph.output, *proto.graph.value_info):
        value.name = renamed.get(value.name, value.name)


def _finish(
    model: Model,
    graph: torch.nn.Module,
    layout: ExportLayout,
    proto: Any,  # noqa: ANN401  an onnx.ModelProto
    names: Sequence[str],
    seed: int,
) -> tuple[bytes, list[OutputCheck]]:
    """Name the axes, compare with torch, add the metadata."""
    if proto.ByteSize() > 2 * _GIBIBYTE:
        raise ExportError(
            f"the graph takes {proto.ByteSize() / _GIBIBYTE:.1f} GiB; one ONNX file holds 2 GiB"
        )
    for node, positions in zip(proto.graph.input, layout.axes().values(), strict=True):
        for axis, name in positions.items():
            node.type.tensor_type.shape.dim[axis].dim_param = name
    first = next(iter(layout.axes().values()))[0]
    accept_no_event(proto, {name for name, axes in layout.axes().items() if axes.get(0) == first})
    session = open_session(proto.SerializeToString(), threads=1)
    _answer_none(session, layout, _sample(model, 2, 0, seed), names)
    checks: list[OutputCheck] = []
    shapes: list[tuple[dict[str, int], list[Array]]] = []
    slots = [size or 1 for size in model.contract.slots.values()]
    large = max(min(COMPARED_EVENTS, COMPARED_SLOTS // max(slots, default=1)), 16)
    for number, events in enumerate((1, large, 3)):
        for extra in (0, 3) if events > 1 else (0, -1):
            arrays = _sample(model, events, extra, seed + 1 + number)
            sizes = {name: int(arrays[name].shape[1]) for name in model.contract.slots}
            wanted, found = _both(graph, session, layout, arrays, names)
            proofs = _proofs(model, names)
            proved = _proved(names, proofs, found, events)
            agree = _same_decisions(names, proofs, wanted, found, events)
            checks += [
                _compare(name, a, b, events, sizes, agree[_head(name)], proved[_head(name)])
                for name, a, b in zip(names, wanted, found, strict=True)
            ]
            shapes.append(({"event": events, **sizes}, wanted))
    contract = model.contract.inputs().merge(
        Contract(tensors={name: _output(name, i, shapes) for i, name in enumerate(names)})
    )
    metadata = describe_graph(model, contract, layout.name)
    del proto.metadata_props[:]
    for key, value in metadata.dump().items():
        proto.metadata_props.add(key=key, value=value)
    proto.doc_string = f"hepset model: heads {', '.join(model.heads)}"
    return proto.SerializeToString(), checks


def _answer_none(
    session: Any,  # noqa: ANN401  untyped
    layout: ExportLayout,
    arrays: Mapping[str, Array],
    names: Sequence[str],
) -> None:
    """Check that no event gets no answer.

    Raises:
        ExportError: If it gets one, or the graph cannot be run.
    """
    feed = layout.feed({name: array[:0] for name, array in arrays.items()})
    for name, found in zip(names, _run(session, feed, names), strict=True):
        if found.shape[:1] != (0,):
            raise ExportError(
                f"output {name!r}: the graph gives {found.shape} for 0 events; the first axis of "
                "an output is the event"
            )


def describe_graph(model: Model, contract: Contract, layout: str) -> GraphMetadata:
    """Collect what a graph says about itself."""
    classes = {
        f"target/{name}": list(target.classes)
        for name, target in model.event.targets.items()
        if target.classes
    }
    if len(model.event.processes) > 1:
        classes["process"] = model.event.process_names
    classes |= model.provenance.get("class_names") or {}
    prepare = model.provenance.get("prepare") or {}
    record = model.record()
    return GraphMetadata(
        contract=contract,
        event=model.event,
        layout=layout,
        classes=classes,
        derive=prepare.get("derive") or {},
        select=prepare.get("select") or {},
        provenance={
            "model": record["config"],
            "versions": record["versions"],
            "axes": {field: list(named) for field, named in model.axes.items()},
            **model.provenance,
        },
    )


def _both(
    graph: torch.nn.Module,
    session: Any,  # noqa: ANN401  untyped
    layout: ExportLayout,
    arrays: Mapping[str, Array],
    names: Sequence[str],
) -> tuple[list[Array], list[Array]]:
    """Run torch and the graph on the same events."""
    import torch  # noqa: PLC0415

    feed = {name: layout.feed(arrays)[name] for name in layout.axes()}
    with torch.no_grad():
        wanted = [t.numpy() for t in graph(*(torch.from_numpy(a) for a in feed.values()))]
    return wanted, _run(session, feed, names)


def _run(
    session: Any,  # noqa: ANN401  untyped
    feed: Mapping[str, Array],
    names: Sequence[str],
) -> list[Array]:
    """Run the graph.

    Raises:
        ExportError: If the runtime cannot.
    """
    kept = {node.name for node in session.get_inputs()}
    try:
        found = session.run(list(names), {k: v for k, v in feed.items() if k in kept})
    except Exception as problem:  # its exceptions share no public base
        shapes = {name: array.shape for name, array in feed.items()}
        raise ExportError(
            f"ONNX Runtime cannot run the graph on inputs of shapes {shapes}: "
            f"{_first_line(problem)}"
        ) from problem
    return [np.asarray(array) for array in found]


def _head(output: str) -> str:
    """Return the head whose output it is."""
    return output.partition("/")[0]


def _proofs(model: Model, outputs: Iterable[str]) -> set[str]:
    """Return the outputs that say whether decisions are proved."""
    from hepset.interfaces.head import Head  # noqa: PLC0415  imports torch

    heads = dict(model.heads.items())
    found = set()
    for output in outputs:
        name, _, field = output.partition("/")
        head = heads.get(name)
        if isinstance(head, Head) and field.rpartition("/")[2] in head.proofs:
            found.add(output)
    return found


def _proved(
    names: Sequence[str], proofs: Set[str], found: Sequence[Array], events: int
) -> dict[str, Array]:
    """Tell per head for which events the graph does not say that it could not prove a decision."""
    proved = {_head(name): np.ones(events, bool) for name in names}
    for name, array in zip(names, found, strict=True):
        if name in proofs and array.shape == (events,):
            proved[_head(name)] &= array.astype(bool)
    return proved


def _same_decisions(
    names: Sequence[str],
    proofs: Set[str],
    wanted: Sequence[Array],
    found: Sequence[Array],
    events: int,
) -> dict[str, Array]:
    """Tell per head where all decisions are those of torch: elsewhere numbers are of others."""
    agree = {_head(name): np.ones(events, bool) for name in names}
    for name, ours, theirs in zip(names, wanted, found, strict=True):
        if ours.dtype.kind in "biu" and ours.shape == theirs.shape and name not in proofs:
            agree[_head(name)] &= (ours == theirs).reshape(events, -1).all(axis=1)
    return agree


def _compare(
    name: str,
    wanted: Array,
    found: Array,
    events: int,
    slots: dict[str, int],
    agree: Array,
    proved: Array,
) -> OutputCheck:
    """Compare one output with torch: decisions that are `proved`, numbers where they `agree`.

    Raises:
        ExportError: If they disagree.
    """
    where = f"output {name!r}, {events} events, slots {slots}"
    if wanted.shape != found.shape or wanted.dtype != found.dtype:
        raise ExportError(
            f"{where}: torch gives {wanted.dtype} {wanted.shape}, the graph {found.dtype} "
            f"{found.shape}"
        )
    if wanted.dtype.kind in "biu":
        differ = proved & (wanted != found).reshape(events, -1).any(axis=1)
        wrong = int(differ.sum())
        # Of few, none; of many, at least one.
        if wrong > (max(DECISION_TOLERANCE * events, 1) if events > 3 else 0):
            row = int(np.argmax(differ))
            raise ExportError(
                f"{where}: the decision differs in {wrong} events, first in event {row}: torch "
                f"{wanted[row].tolist()}, the graph {found[row].tolist()}"
            )
        return OutputCheck(name, events, slots, 0.0, 1.0, wrong, int((~proved).sum()))
    wanted = np.where(agree.reshape(-1, *[1] * (wanted.ndim - 1)), wanted, found)
    finite = wanted[np.isfinite(wanted)]
    scale = float(np.abs(finite).max(initial=0.0))
    close = np.isclose(
        found,
        wanted,
        rtol=RELATIVE_TOLERANCE,
        atol=ABSOLUTE_TOLERANCE * max(scale, 1e-6),
        equal_nan=True,
    )
    with np.errstate(invalid="ignore"):
        difference = np.abs(found.astype(np.float64) - wanted)
    if not close.all():
        row = int(np.argmax(~close.reshape(events, -1).all(axis=1)))
        at = np.unravel_index(int(np.argmax(~close)), close.shape)
        raise ExportError(
            f"{where}: differs from torch in {int((~close).sum())} of {close.size} values, first "
            f"in event {row}: torch {wanted[at]:g}, the graph {found[at]:g} (allowed: "
            f"{RELATIVE_TOLERANCE:g} relative, {ABSOLUTE_TOLERANCE:g} of the largest value)"
        )
    largest = float(np.nanmax(difference, initial=0.0)) if difference.size else 0.0
    return OutputCheck(name, events, slots, largest, scale)


def _output(
    name: str, index: int, shapes: Sequence[tuple[dict[str, int], list[Array]]]
) -> TensorSpec:
    """Describe an output; an axis whose size follows a stream's slots is that stream's."""
    first = shapes[0][1][index]
    dims: list[str] = ["event"]
    sizes: list[int | None] = [None]
    for axis in range(1, first.ndim):
        seen = [arrays[index].shape[axis] for _, arrays in shapes]
        stream = next(
            (
                dim
                for dim in shapes[0][0]
                if dim != "event"
                and len(set(seen)) > 1
                and seen == [known[dim] for known, _ in shapes]
            ),
            None,
        )
        dims.append(stream or f"axis{axis}")
        sizes.append(None if stream or len(set(seen)) > 1 else seen[0])
    kind = first.dtype.name
    dtype = kind if kind in {"float32", "float64", "int64", "int16", "bool"} else "float32"
    return TensorSpec.model_validate(
        {
            "name": name,
            "kind": "prediction",
            "dims": tuple(dims),
            "shape": tuple(sizes),
            "dtype": dtype,
            "wanted_by": (name.split("/", 1)[0],),
        }
    )


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporter's own messages and deprecations off the terminal."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            # What the exporter warns of are its own and onnxscript's deprecated calls.
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _first_line(problem: BaseException) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return f"{type(problem).__name__}: {lines[0] if lines else ''}"
