"""Random events that obey a contract: what an exported graph is compared on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from hepset.arrays import Array
from hepset.kinematics import wrap_phi
from hepset.schema.contract import Contract
from hepset.schema.event import EventInfo
from hepset.schema.feature import Feature, Role
from hepset.schema.statistics import ColumnStatistics, Statistics
from hepset.schema.steps import transform_domain

__all__ = ["random_inputs"]

_POSITIVE = {"pt", "mass", "energy"}


def random_inputs(
    contract: Contract,
    event: EventInfo,
    statistics: Statistics,
    *,
    events: int,
    slots: Mapping[str, int],
    seed: int,
) -> dict[str, Array]:
    """Make input tensors with values like those of the training split.

    Numbers of objects lie anywhere between none and all slots; where there is more than one event,
    the last has no object and no global.

    Args:
        contract: The inputs of a model.
        event: Says which features make a four-momentum.
        statistics: Of the training split; numbers of order one where they lack a column.
        events: Number of events.
        slots: Number of slots by stream.
        seed: Of the random numbers.

    Returns:
        Tensor → array, as `input_arrays` gives it; padding is 0.
    """
    rng = np.random.default_rng(seed)
    arrays: dict[str, Array] = {}
    for spec in contract.of_kind("stream", "global"):
        streamy = spec.kind == "stream"
        shape: tuple[int, ...] = (events, slots[spec.name]) if streamy else (events,)
        if streamy:
            counts = rng.integers(0, slots[spec.name], events, endpoint=True)
            mask: Array = np.arange(slots[spec.name]) < counts[:, None]
        else:
            mask = np.ones(events, bool)
        if events > 1:
            mask[-1] = False
        known = statistics.tensors.get(spec.name)
        columns = {
            name: _values(rng, feature, known.columns.get(name) if known else None, name, shape)
            for name, feature in spec.features.items()
        }
        if streamy:
            _on_shell(
                rng,
                columns,
                event.streams[spec.name].momentum if spec.name in event.streams else None,
            )
        values = np.stack(list(columns.values()), axis=-1).astype(np.float32)
        values[~mask] = 0
        arrays[spec.name] = values
        arrays[f"{spec.name}.mask"] = mask
    for spec in contract.of_kind("pairs"):
        stream = spec.dims[1]
        mask = arrays[f"{stream}.mask"]
        known = statistics.tensors.get(spec.name)
        shape = (events, slots[stream], slots[stream])
        values = np.stack(
            [
                _values(rng, feature, known.columns.get(name) if known else None, name, shape)
                for name, feature in spec.features.items()
            ],
            axis=-1,
        ).astype(np.float32)
        values[~(mask[:, :, None] & mask[:, None, :])] = 0
        arrays[spec.name] = values
    return {name: arrays[name] for name in contract.tensors if name in arrays}


def _values(
    rng: np.random.Generator,
    feature: Feature,
    known: ColumnStatistics | None,
    name: str,
    shape: tuple[int, ...],
) -> Array:
    if known is not None and known.count and known.minimum is not None:
        values = known.mean + known.std * rng.standard_normal(shape)
        return np.clip(values, known.minimum, known.maximum)
    if feature.role == "phi" or name == "phi" or "circular" in feature.transform:
        return wrap_phi(rng.uniform(-np.pi, np.pi, shape))
    bounded = transform_domain(feature.transform) is not None
    positive = bounded or (feature.role or name) in _POSITIVE
    values = rng.standard_normal(shape)
    return np.exp(values) if positive else values


def _on_shell(
    rng: np.random.Generator, columns: dict[str, Array], momentum: Mapping[Role, str] | None
) -> None:
    """Give objects with Cartesian or energy components an energy above their momentum."""
    if momentum is None or "energy" not in momentum:
        return
    if "px" in momentum:
        squares = [columns[momentum[role]] ** 2 for role in ("px", "py", "pz")]
        size = np.sqrt(np.sum(squares, axis=0))
    else:
        size = columns[momentum["pt"]] * np.cosh(np.clip(columns[momentum["eta"]], -6, 6))
    columns[momentum["energy"]] = size * (1 + rng.exponential(0.1, size.shape)) + 1e-3
