"""From a batch to the arrays that a model takes, checked against the model's own contract."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from hepset.arrays import Array, Ragged
from hepset.batch import EventBatch, make_ids
from hepset.errors import ContractError
from hepset.schema.contract import Contract

__all__ = ["as_batch", "events_at_once", "input_arrays", "open_slots"]


def as_batch(batch: EventBatch | Mapping[str, Array]) -> EventBatch:
    """Return arrays by contract name as a batch; a batch stays as it is."""
    if isinstance(batch, EventBatch):
        return batch
    arrays = {name: np.asarray(array) for name, array in batch.items()}
    events = max((len(array) for array in arrays.values() if array.ndim), default=0)
    return EventBatch(make_ids(0, range(events)), {}, arrays, {}, ("the arrays given to predict",))


def open_slots(contract: Contract) -> Contract:
    """Return the contract with the slots of every stream left open: a model takes any number."""
    streams = set(contract.slots)
    return contract.model_copy(
        update={
            "tensors": {
                name: spec.model_copy(
                    update={
                        "shape": tuple(
                            None if dim in streams else size
                            for dim, size in zip(spec.dims, spec.shape, strict=True)
                        )
                    }
                )
                for name, spec in contract.tensors.items()
            }
        }
    )


def events_at_once(contract: Contract, batch_size: int, max_objects: int | None) -> int:
    """Return how many events are computed at a time.

    Args:
        contract: With all slots resolved; events are padded to them.
        batch_size: Most events.
        max_objects: Most objects of all streams, padding included; None = any number. One event is
            always computed.
    """
    slots = sum(size or 1 for size in contract.slots.values())
    if max_objects is None or not slots:
        return batch_size
    return max(1, min(batch_size, max_objects // slots))


def input_arrays(
    contract: Contract, batch: EventBatch, *, what: str = "the model"
) -> dict[str, Array]:
    """Return the input tensors of a batch as a model takes them.

    Features are picked by name and put in the contract's order; other tensors of the batch are
    left out. A global without a mask is there in every event.

    Args:
        contract: Contract of the model; padding to another number of slots is as good.
        batch: Events in physical values, after derive.
        what: Whose inputs these are, for messages.

    Returns:
        Tensor → array in C order: streams (event, slot, feature), globals (event, feature),
        masks bool.

    Raises:
        ContractError: Naming every rule that the inputs break, or events with more objects than
            the model was trained on.
    """
    wanted = open_slots(contract.inputs())
    picked = _picked(wanted, batch, contract.slots)
    wanted.check(picked, training=False).raise_if_bad(
        f"the events do not obey the contract of {what}"
    )
    arrays: dict[str, Array] = {}
    of_globals = {spec.mask for spec in wanted.of_kind("global")}
    for name, spec in wanted.tensors.items():
        if name in picked:
            dtype = np.dtype(spec.dtype)
            arrays[name] = np.ascontiguousarray(picked[name], dtype)
        elif name in of_globals:
            arrays[name] = np.ones(len(batch), bool)
        else:
            raise ContractError(
                f"{name}: {what} needs {spec.describe()}, the events have "
                f"{', '.join(batch.names()) or 'no tensor'}"
            )
    _refuse_long_events(contract, arrays, batch, what)
    return arrays


def _picked(contract: Contract, batch: EventBatch, usual: Mapping[str, int | None]) -> EventBatch:
    """Keep the input tensors and their features, in the contract's order."""
    streams: dict[str, Ragged] = {}
    for spec in contract.of_kind("stream"):
        data = batch.streams.get(spec.name)
        if data is None:
            continue
        columns = {name: data.columns[name] for name in spec.columns if name in data.columns}
        streams[spec.name] = replace(data, columns=columns, attached={})
    arrays = {
        name: array
        for name, array in batch.arrays.items()
        # Names with a slash are targets, weights and extras; others may be misspelt inputs.
        if "/" not in name and name.removesuffix(".mask") not in streams
    }
    slots = {
        name: _slots(data, batch.slots.get(name), usual.get(name)) for name, data in streams.items()
    }
    return EventBatch(batch.ids, streams, arrays, slots, batch.sources)


def _refuse_long_events(
    contract: Contract, arrays: Mapping[str, Array], batch: EventBatch, what: str
) -> None:
    for name, limit in contract.slots.items():
        if limit is None:
            continue
        counts = arrays[f"{name}.mask"].sum(axis=1)
        rows = np.flatnonzero(counts > limit)
        if not len(rows):
            continue
        source, entry = batch.where(int(rows[0]))
        raise ContractError(
            f"{source}: {name}: {what} was trained on at most {limit} objects, {len(rows)} of "
            f"{len(batch)} events have more (first: entry {entry}), the longest {counts.max()}; "
            "cut them as prepare does (hepset predict does so), or train again with "
            f"streams.{name}.slots: {counts.max()}"
        )


def _slots(data: Ragged, asked: int | None, usual: int | None) -> int:
    """Slots to pad to: as the batch says or has, else the contract's.

    There is always one: graphs are made for one slot or more.
    """
    if asked is not None:
        return max(asked, 1)
    if data.slots is not None:
        return max(data.slots, 1)
    return max(data.width, usual or 1)
