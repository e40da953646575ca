"""`SplitColumns`: all that judges look at of a split, in files that are mapped into memory.

Predictions come batch by batch and may be more than the memory holds. Each column is one flat file;
the files lose their names as soon as they are mapped, so that nothing stays behind.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from hepset.arrays import Array
from hepset.batch import ID_DTYPE, EventBatch

__all__ = ["SplitColumns"]

_IN_MEMORY: Final = 1 << 16
"""Bytes up to which a column is simply read: a map of so little is not worth its page."""


class SplitColumns:
    """Columns of a split; `add` the batches in order, then `finish`.

    Attributes:
        arrays: Inputs, targets, extras by tensor name.
        decided: ``<head>/<field>`` → what heads decide.
        diagnosed: ``<head>/<field>`` → what heads tell their judges only.
        ids: Identity of the events.
    """

    def __init__(self, directory: Path | None = None) -> None:
        """Begin, with files in a hidden folder of `directory`, or of the system's for such."""
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix=".columns-", dir=directory))
        self._files: dict[tuple[str, str], _Column] = {}
        self.arrays: dict[str, Array] = {}
        self.decided: dict[str, Array] = {}
        self.diagnosed: dict[str, Array] = {}
        self.ids: Array = np.zeros(0, ID_DTYPE)
        self.weight: Array = np.zeros(0)

    def add(
        self,
        batch: EventBatch,
        decided: Mapping[str, Array],
        diagnosed: Mapping[str, Array] | None = None,
    ) -> None:
        """Add events with what a model says of them."""
        names = batch.names()
        self._write("arrays", {name: batch[name] for name in names})
        self._write("decided", decided)
        self._write("diagnosed", diagnosed or {})
        weight = batch["weight"] if "weight" in names else np.ones(len(batch))
        self._write("own", {"ids": batch.ids, "weight": weight.astype(np.float64)})

    def finish(self) -> SplitColumns:
        """Map the files; they have no names after that."""
        found: dict[str, dict[str, Array]] = {"own": {}}
        for (group, name), column in self._files.items():
            found.setdefault(group, {})[name] = column.mapped(_fill(name, column.dtype))
        shutil.rmtree(self._folder, ignore_errors=True)
        self._files = {}
        self.arrays = found.get("arrays", {})
        self.decided = found.get("decided", {})
        self.diagnosed = found.get("diagnosed", {})
        self.ids = found["own"].get("ids", self.ids)
        self.weight = np.asarray(found["own"].get("weight", self.weight))
        return self

    def _write(self, group: str, arrays: Mapping[str, Array]) -> None:
        for name, array in arrays.items():
            key = (group, name)
            if key not in self._files:
                self._files[key] = _Column(self._folder / str(len(self._files)), array.dtype)
            self._files[key].add(array)


class _Column:
    """One file of a column, batch after batch."""

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self.path = path
        self.dtype = dtype
        self.shapes: list[tuple[int, ...]] = []
        self._objects: list[Array] = []

    def add(self, array: Array) -> None:
        if self._objects or array.dtype != self.dtype or array.dtype.kind == "O":
            # Text of any length: a flat file cannot know before which is the longest.
            self._objects = [*(self._objects or map(np.array, self._parts())), array]
            return
        self.shapes.append(array.shape)
        with self.path.open("ab") as file:
            file.write(np.ascontiguousarray(array).data)

    def mapped(self, fill: Any) -> Array:  # noqa: ANN401  a value of the column's type
        """Return the column; batches of fewer slots are filled up to the longest."""
        if self._objects:
            return np.concatenate(self._objects)
        rows = sum(shape[0] for shape in self.shapes)
        ends = {shape[1:] for shape in self.shapes}
        if len(ends) == 1:
            return _map(self.path, self.dtype, (rows, *ends.pop()))
        longest = (rows, *np.max([shape[1:] for shape in self.shapes], axis=0).tolist())
        path = self.path.with_suffix(".full")
        full = np.memmap(path, self.dtype, "w+", shape=longest)
        start = 0
        for part in self._parts():
            here = full[start : start + len(part)]
            here[...] = fill
            here[tuple(slice(size) for size in part.shape)] = part
            start += len(part)
        return full

    def _parts(self) -> list[Array]:
        """Return the batches, each a map."""
        found, start = [], 0
        for shape in self.shapes:
            found.append(_map(self.path, self.dtype, shape, start))
            start += int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        return found


def _map(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int = 0) -> Array:
    size = int(np.prod(shape, dtype=np.int64))
    if size * dtype.itemsize <= _IN_MEMORY:
        return (
            np.fromfile(path, dtype, size, offset=offset).reshape(shape)
            if size
            else np.zeros(shape, dtype)
        )
    found: Array = np.memmap(path, dtype, "r", offset, shape)
    return found


def _fill(name: str, dtype: np.dtype[Any]) -> Any:  # noqa: ANN401  a value of the column's type
    """What stands in slots that a batch did not have."""
    if name.startswith("target/"):
        return {"f": np.nan, "i": -1}.get(dtype.kind, 0)
    return np.zeros((), dtype)[()]
