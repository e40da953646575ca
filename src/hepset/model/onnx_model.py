"""`OnnxModel`: an exported graph that is used like the model it was made from, without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hepset.arrays import Array
from hepset.batch import EventBatch
from hepset.errors import ExportError
from hepset.model.inputs import as_batch, input_arrays
from hepset.model.onnx_metadata import GraphMetadata
from hepset.schema.contract import Contract
from hepset.schema.event import EventInfo

__all__ = ["OnnxModel", "open_session"]

HEPSET_LAYOUT = "hepset"
"""The layout that hepset itself opens."""


def open_session(graph: str | bytes, *, threads: int | None = None) -> Any:  # noqa: ANN401  untyped
    """Open an ONNX Runtime session on the CPU.

    Args:
        graph: Path of a file, or its content.
        threads: Threads of one operator; None leaves the choice to ONNX Runtime.

    Raises:
        ExportError: If ONNX Runtime refuses the graph.
    """
    import onnxruntime  # noqa: PLC0415  only where a graph is run

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    try:
        return onnxruntime.InferenceSession(
            graph, sess_options=options, providers=["CPUExecutionProvider"]
        )
    except Exception as problem:  # its exceptions share no public base
        name = graph if isinstance(graph, str) else "the exported graph"
        raise ExportError(f"{name}: ONNX Runtime cannot open it: {problem}") from problem


class OnnxModel:
    """An ONNX file that hepset wrote.

    Attributes:
        path: The file.
        metadata: What the file says about itself.
    """

    def __init__(self, path: str | os.PathLike[str], *, threads: int | None = None) -> None:
        """Open the file.

        Args:
            path: The file.
            threads: Threads of one operator; None leaves the choice to ONNX Runtime.

        Raises:
            ExportError: If it is no ONNX file, or not one that hepset can read.
        """
        self.path = Path(path)
        if not self.path.is_file():
            raise ExportError(f"{self.path}: there is no such file")
        self._session = open_session(str(self.path), threads=threads)
        properties: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        self.metadata = GraphMetadata.load(properties, str(self.path))
        if self.metadata.layout != HEPSET_LAYOUT:
            raise ExportError(
                f"{self.path}: exported with the layout {self.metadata.layout!r} for another "
                f"program; hepset opens the layout {HEPSET_LAYOUT!r}"
            )
        self._inputs = [node.name for node in self._session.get_inputs()]
        self._outputs = [node.name for node in self._session.get_outputs()]

    @property
    def contract(self) -> Contract:
        """Inputs and outputs of the graph."""
        return self.metadata.contract

    @property
    def event(self) -> EventInfo:
        """What an event is."""
        return self.metadata.event

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Versions, configuration, seed, digest of the dataset."""
        return self.metadata.provenance

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """What the axes of the predicted fields are, ``<head>/<field>`` → ``("event", "jets")``."""
        return {name: tuple(named) for name, named in (self.provenance.get("axes") or {}).items()}

    def predict(
        self, batch: EventBatch | Mapping[str, Array], batch_size: int = 1024
    ) -> dict[str, Array]:
        """Decide for some events, as the torch model does; the number of slots is free.

        Args:
            batch: Events, or physical input arrays by contract name: ``jets`` (event, jets,
                feature), ``jets.mask`` (event, jets), ``met`` (event, feature) and, where some are
                absent, ``met.mask`` (event,).
            batch_size: Events that are computed at a time.

        Returns:
            ``<head>/<field>`` → array, first axis event.

        Raises:
            ContractError: Naming every rule that the inputs break.
        """
        arrays = input_arrays(self.contract, as_batch(batch), what=str(self.path))
        events = len(next(iter(arrays.values())))
        if not events:
            # One event without objects, and its row dropped: shapes and dtypes are as ever.
            one = {name: np.zeros((1, *a.shape[1:]), a.dtype) for name, a in arrays.items()}
            return {name: array[:0] for name, array in self._run(one).items()}
        parts = [
            self._run({name: a[start : start + batch_size] for name, a in arrays.items()})
            for start in range(0, events, batch_size)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in self._outputs}

    def _run(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        results = self._session.run(self._outputs, {name: arrays[name] for name in self._inputs})
        return {
            name: np.asarray(result) for name, result in zip(self._outputs, results, strict=True)
        }

    def _repr_html_(self) -> str:
        """Return the contract for a notebook."""
        return f"<p>ONNX {self.path.name}</p>{self.contract._repr_html_()}"
