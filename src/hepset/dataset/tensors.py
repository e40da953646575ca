"""Batches of events as tensors: one function from `EventBatch` to what a network takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor

from hepset.arrays import Array
from hepset.batch import ID_DTYPE, EventBatch, concatenate
from hepset.errors import DatasetError
from hepset.schema.contract import Contract

if TYPE_CHECKING:
    from hepset.interfaces.reader import Reader

__all__ = ["ID_FIELDS", "Batch", "batch_tensors", "ids_of", "ids_tensor", "reader_loader"]

Batch = dict[str, Tensor]
"""Tensor name → tensor, first axis event."""

ID_FIELDS: Final = ("source", "entry", "sample")
"""Columns of the tensor ``ids``."""


def ids_of(tensor: Tensor) -> Array:
    """Return the structured ids (`hepset.batch.ID_DTYPE`) of a batch's ``ids``, (event, 3)."""
    numbers = tensor.cpu().numpy()
    ids = np.zeros(len(numbers), ID_DTYPE)
    for index, name in enumerate(ID_FIELDS):
        ids[name] = numbers[:, index]
    return ids


def ids_tensor(ids: Array) -> Tensor:
    """Return structured ids (`hepset.batch.ID_DTYPE`) as ``ids``, int64 (event, 3)."""
    return torch.from_numpy(np.stack([ids[name].astype(np.int64) for name in ID_FIELDS], -1))


def reader_loader(
    reader: Reader,
    contract: Contract,
    batch_size: int,
    *,
    conform: Callable[[EventBatch], EventBatch] | None = None,
) -> Iterator[Batch]:
    """Read batches of tensors straight from files, without a data set: for quick looks.

    Args:
        reader: What to read.
        contract: Tensors that are wanted; those that the files lack are left out where optional.
        batch_size: Events per batch; the last may be shorter.
        conform: What to do with each chunk before: derive features, cut to the slots.

    Yields:
        Name → tensor with the dtype of the contract, and ``ids``, int64 (event, 3).

    Raises:
        ContractError: If an event has more objects than slots.
        DatasetError: If a required input is missing.
    """
    waiting: list[EventBatch] = []
    count = 0
    for chunk in reader.chunks():
        events = reader.read(chunk)
        events = conform(events) if conform is not None else events
        waiting.append(events)
        count += len(events)
        if count < batch_size:
            continue
        joined = concatenate(waiting)
        whole = count - count % batch_size
        for start in range(0, whole, batch_size):
            yield batch_tensors(joined.take(np.arange(start, start + batch_size)), contract)
        waiting, count = [joined.take(np.arange(whole, count))], count - whole
    if count:
        yield batch_tensors(concatenate(waiting), contract)


def batch_tensors(events: EventBatch, contract: Contract) -> Batch:
    """Return the tensors of a contract that a batch of events has, and ``ids`` (event, 3).

    Columns come in the contract's order, streams in the contract's slots.

    Raises:
        ContractError: If an event has more objects than slots.
        DatasetError: If a required input is missing.
    """
    events = _in_order(events, contract)
    found: Batch = {}
    for spec in contract.tensors.values():
        array = events.get(spec.name)
        if array is not None:
            found[spec.name] = torch.from_numpy(np.array(array, dtype=spec.dtype, order="C"))
        elif spec.required and spec.kind in {"stream", "mask", "global", "pairs"}:
            raise DatasetError(f"the events lack the input {spec.describe()}")
    found["ids"] = ids_tensor(events.ids)
    return found


def _in_order(events: EventBatch, contract: Contract) -> EventBatch:
    """The events with streams in the contract's slots, their columns in its order."""
    streams = dict(events.streams)
    for spec in contract.of_kind("stream"):
        data = streams.get(spec.name)
        if data is None:
            continue
        lacking = [name for name in spec.columns if name not in data.columns]
        if lacking:
            raise DatasetError(
                f"{spec.name}: the events lack the features {', '.join(lacking)}; they have "
                f"{', '.join(data.columns)}"
            )
        columns = {name: data.columns[name] for name in spec.columns}
        streams[spec.name] = replace(data, columns=columns)
    slots = {name: size for name, size in contract.slots.items() if size is not None}
    return replace(events, streams=streams, slots=slots)
