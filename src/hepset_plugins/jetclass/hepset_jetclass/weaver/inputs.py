"""The arrays that weaver's loader gives its networks, from hepset's batches.

For comparisons, and for networks that were written for weaver. hepset's own models need none of
this: their transforms are layers, and padding is masked.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hepset.batch import EventBatch
from hepset.dialects import load_yaml
from hepset.errors import ConfigurationError
from hepset.events.derive import input_event
from hepset.events.pipeline import EventPipeline
from hepset.interfaces import parse_options
from hepset.plugins import registry
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo
from hepset.schema.feature import Feature
from hepset.schema.steps import AffineStep, apply_steps
from hepset_jetclass.weaver.grammar import WeaverConfig, parse_weaver
from hepset_jetclass.weaver.translation import LABEL, Block, Translation, blocks_of, translate

Array = NDArray[Any]
Configuration = str | os.PathLike[str] | Mapping[str, Any]


def weaver_batches(
    config: Configuration,
    files: Sequence[str | os.PathLike[str]],
    *,
    reader: str = "jetclass",
    parity: bool = False,
    **options: Any,  # noqa: ANN401  options of any reader
) -> Iterator[EventBatch]:
    """Read files as a data configuration of weaver says: its variables, its selection.

    Args:
        config: Path of the configuration, or its content.
        files: Paths or patterns.
        reader: Short name of the reader.
        parity: Take NaN and infinities as weaver does.
        **options: Further options of the reader.

    Yields:
        The selected events of each chunk with the physical inputs of the configuration, and with
        labels and observers as far as the files have them.

    Raises:
        EventInfoError: If the configuration has no translation.
        ReadError: If a file cannot be read.
    """
    _, found = _load(config, parity=parity)
    derive = found.defaults["prepare"]["derive"]
    select = found.defaults["prepare"].get("select", {})
    cls = registry().load("readers", reader)
    own = {**found.defaults.get("read", {}), "files": [os.fspath(path) for path in files]}
    known = {key: value for key, value in own.items() if key in cls.Config.model_fields}
    stated = parse_options(cls.Config, {**known, **options}, f"reader {reader!r}")
    pipeline = EventPipeline(
        found.event, compile_contract(found.event), derive, select, purpose="predict"
    )
    for batch in cls(stated, input_event(found.event, derive)):
        yield pipeline.select(batch).batch


def weaver_inputs(
    config: Configuration, batch: EventBatch, *, event: EventInfo | None = None
) -> dict[str, Array]:
    """Return what weaver's loader gives for these events, name by name.

    Args:
        config: Path of the data configuration, or its content.
        batch: Events with the physical inputs of the configuration: from a dataset, or from
            `weaver_batches`.
        event: What an event of the dataset is, where the scales were taken from its data
            (``method: auto``); null = as the configuration says.

    Returns:
        Input group → float32, ``(event, variable, length)``, or ``(event, variable)`` where the
        length is null (``(event,)`` for a single variable), padded as the configuration says;
        then label and observers by their names, as far as the batch has them.

    Raises:
        ConfigurationError: If the batch lacks a variable, or a scale is not known.
    """
    parsed, found = _load(config, parity=False)
    described = found.event if event is None else event
    owner = {name: block for block in blocks_of(parsed) for name in block.groups}
    arrays = {name: _group(parsed, owner[name], name, batch, described) for name in parsed.inputs}
    labels = parsed.labels.value
    names = {"_label_": LABEL} if isinstance(labels, list) else {name: name for name in labels}
    places = {name: f"target/{own}" for name, own in names.items()}
    places |= {name: f"extra/{name}" for name in (*parsed.observers, *parsed.monitor_variables)}
    return arrays | {n: batch.arrays[place] for n, place in places.items() if place in batch.arrays}


def _load(config: Configuration, *, parity: bool) -> tuple[WeaverConfig, Translation]:
    if isinstance(config, Mapping):
        document, where = dict(config), "configuration"
    else:
        document, where = load_yaml(Path(config)), os.fspath(config)
    parsed = parse_weaver(document, where)
    return parsed, translate(parsed, where, parity=parity)


def _group(
    config: WeaverConfig, block: Block, name: str, batch: EventBatch, event: EventInfo
) -> Array:
    names = [variable.name for variable in config.inputs[name].vars]
    if block.length is None:
        matrix = np.asarray(batch[block.name], np.float32)
        features = event.globals[block.name].features
        columns = [
            np.nan_to_num(_scaled(matrix[:, list(features).index(n)], features[n], n))
            for n in names
        ]
        return columns[0] if len(columns) == 1 else np.stack(columns, axis=1)
    flat = batch.flat(block.name)
    columns = []
    for variable in names:
        if name.endswith("_mask"):
            columns.append(np.ones(int(flat.offsets[-1]), np.float32))
        elif variable in flat.columns:
            feature = event.streams[block.name].features[variable]
            values = np.asarray(flat.columns[variable], np.float32)
            columns.append(_scaled(values, feature, variable))
        else:
            raise ConfigurationError(
                f"{name}: the batch has no {block.name}.{variable} (it has "
                f"{', '.join(flat.columns)}); derive it, as weaver_batches does"
            )
    wrap = config.scales[names[0]].pad_mode == "wrap"
    places, real = _places(flat.offsets, block.length, wrap=wrap)
    out = np.empty((len(batch), len(names), block.length), np.float32)
    for index, (variable, values) in enumerate(zip(names, columns, strict=True)):
        fill = np.float32(0 if wrap else config.scales[variable].pad_value)
        padded = np.append(values, fill)[np.where(real, places, len(values))]
        out[:, index] = np.where(np.isnan(padded), np.float32(0), padded)
    return out


def _scaled(values: Array, feature: Feature, name: str) -> Array:
    """Apply the fixed steps of a feature in float32."""
    for step in feature.transform:
        if isinstance(step, str) or (isinstance(step, AffineStep) and step.affine == "auto"):
            raise ConfigurationError(
                f"{name}: the step {step} has no constants here; give the event of the dataset "
                "(event=dataset.event)"
            )
    scaled: Array = apply_steps(values, feature.transform, np)
    return scaled


def _places(offsets: Array, length: int, *, wrap: bool) -> tuple[Array, Array]:
    """Which object stands in each slot, and where one does: again from the first one if wrapped."""
    counts = np.diff(offsets)[:, None]
    slots = np.arange(length)[None, :]
    places = offsets[:-1, None] + (slots % np.maximum(counts, 1) if wrap else slots)
    return places, (counts > 0) & (slots >= 0) if wrap else slots < counts
