"""Memory of the batches that a loader gives out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hepset.arrays import Array
from hepset.dataset.columns import ColumnLayout
from hepset.dataset.tensors import ID_FIELDS, Batch


class Buffer:
    """Memory of one batch: tensors as they are given out, and stored types where narrower.

    Attributes:
        tensors: What is given out, in the sizes that `fit` was last asked for.
        arrays: The same memory as numpy arrays.
        stage: Where columns go first whose stored type is another one.
    """

    def __init__(self, layouts: Mapping[str, ColumnLayout], *, ids: bool, pinned: bool) -> None:
        self._layouts = layouts
        self._ids = ids
        self._pinned = pinned
        self._memory: dict[str, Tensor] = {}
        self._staged: dict[str, Array] = {}
        self._fitted: tuple[int, dict[str, int]] | None = None
        self.tensors: Batch = {}
        self.arrays: dict[str, Array] = {}
        self.stage: dict[str, Array] = {}

    def fit(self, size: int, widths: Mapping[str, int]) -> None:
        """Make room for a batch.

        Args:
            size: Number of events.
            widths: Stream → slots; those of the data set where absent.
        """
        asked = size, dict(widths)
        if asked == self._fitted:
            return
        self._fitted = asked
        for name, layout in self._layouts.items():
            shape = (size, *trimmed(layout, widths))
            dtype = _given_dtype(layout)
            self._room(name, shape, dtype)
            stored = np.dtype(layout.stored)
            if layout.layout == "fixed" and stored != dtype:
                count = int(np.prod(shape))
                if name not in self._staged or self._staged[name].size < count:
                    self._staged[name] = np.empty(count, stored)
                self.stage[name] = self._staged[name][:count].reshape(shape)
        if self._ids:
            self._room("ids", (size, len(ID_FIELDS)), np.dtype(np.int64))

    def _room(self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        count = int(np.prod(shape))
        if name not in self._memory or len(self._memory[name]) < count:
            kind = torch.from_numpy(np.empty(0, dtype)).dtype
            self._memory[name] = torch.empty(count, dtype=kind, pin_memory=self._pinned)
        self.tensors[name] = self._memory[name][:count].view(shape)
        self.arrays[name] = self.tensors[name].numpy()


def trimmed(layout: ColumnLayout, widths: Mapping[str, int]) -> tuple[int, ...]:
    """Return the shape of one event of a batch whose streams have so many slots."""
    return tuple(
        widths.get(dim, size) for dim, size in zip(layout.dims[1:], layout.shape, strict=True)
    )


def _given_dtype(layout: ColumnLayout) -> np.dtype[Any]:
    """Element type of a tensor; torch computes with no unsigned integer but bytes."""
    dtype = np.dtype(layout.dtype).newbyteorder("=")
    return np.dtype(np.int64) if dtype.kind == "u" and dtype.itemsize > 1 else dtype
