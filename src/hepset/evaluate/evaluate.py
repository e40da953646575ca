"""Judge a trained model on a split: predictions, metrics beside baselines, figures, report."""

from __future__ import annotations

import json
import logging
import math
import os
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from hepset.arrays import Array
from hepset.batch import EventBatch
from hepset.dataset import Dataset
from hepset.errors import ConfigurationError, DatasetError, did_you_mean
from hepset.evaluate.columns import KeptColumn, kept_in_dataset
from hepset.evaluate.result import HeadResult, Judgement, drawn_shares, effective_events
from hepset.evaluate.split_columns import SplitColumns
from hepset.evaluate.variations import Shift, metrics_in_parts, shifts, vary
from hepset.files import atomic_file
from hepset.interfaces.judge import Evaluation, Metric
from hepset.judges import judge_head
from hepset.model.inputs import events_at_once
from hepset.model.load import load_checkpoint
from hepset.predict.predict import predict_split
from hepset.schema.config import EvaluateConfig
from hepset.schema.event import EventInfo

if TYPE_CHECKING:
    from hepset.model import Model

__all__ = [
    "choose_split",
    "evaluate_run",
    "judge",
    "metrics_document",
    "open_variations",
    "require_drawings",
    "require_split",
    "write_metrics",
]

_LOG = logging.getLogger(__name__)

Variation: TypeAlias = Callable[[EventBatch], EventBatch]

OVERLAY_EVENTS: Final = 20_000
"""Largest number of training events that are overlaid on the judged split, and that baselines are
chosen and calibrated on."""


def evaluate_run(
    checkpoint: str | os.PathLike[str],
    dataset: Dataset,
    config: EvaluateConfig,
    *,
    directory: str | os.PathLike[str],
    name: str,
    seed: int,
) -> dict[str, Any]:
    """Predict a split, judge it, and write predictions, ``metrics.json`` and ``report.html``.

    Args:
        checkpoint: The trained model.
        dataset: The data set it was trained on.
        config: Split, batch size, number of events.
        directory: Directory of the run.
        name: Name of the run, for the report.
        seed: Seed of the run, for the record.

    Returns:
        The content of ``metrics.json``.

    Raises:
        ContractError: If the inputs of the data set are not those of the model.
        DatasetError: If there is no event to judge.
    """
    from hepset.report.report import write_report  # noqa: PLC0415  imports matplotlib

    target = Path(directory)
    model = load_checkpoint(checkpoint)
    model.contract.require_same_inputs(
        dataset.contract, here=str(checkpoint), there=str(dataset.path)
    )
    split = choose_split(dataset, config.split)
    if split != config.split:
        _LOG.warning("evaluate: no events in the split %r, using %r", config.split, split)
    judgement = judge(model, dataset, split, config, predictions=target / "predictions")
    provenance = {
        "run": name,
        "seed": seed,
        "checkpoint": str(checkpoint),
        "dataset": str(dataset.path),
        "versions": model.record()["versions"],
    }
    content = metrics_document(judgement, provenance)
    write_metrics(target / "metrics.json", content)
    write_report(
        target / "report.html",
        judgement,
        model,
        dataset,
        directory=target,
        name=name,
        variations=config.variations,
    )
    _LOG.info("evaluate: %s events of %s, see %s", content["events"], split, target / "report.html")
    return content


def choose_split(dataset: Dataset, wanted: str) -> str:
    """Return the split to judge: the wanted one, or ``val`` where no event fell into that.

    Raises:
        ConfigurationError: If there never was a split of this name.
        DatasetError: If neither has events.
    """
    known = dataset.splits
    planned = dataset.manifest.split_rule.config.names
    require_split(wanted, [*planned, *known])
    for name in (wanted, "val") if wanted in planned else (wanted,):
        if name in known and len(known[name]):
            return name
    sizes = ", ".join(f"{name} ({len(split)} events)" for name, split in known.items())
    raise DatasetError(
        f"{dataset.path}: no events to judge: evaluate.split is {wanted!r}, there are {sizes}"
    )


def require_split(wanted: str, names: Collection[str]) -> None:
    """Refuse to judge a split that will not be there.

    Raises:
        ConfigurationError: If it is none of these names.
    """
    if wanted not in names:
        raise ConfigurationError(
            f"evaluate.split: there is no split {wanted!r}{did_you_mean(wanted, names)}; there are "
            f"{', '.join(dict.fromkeys(names))}"
        )


def judge(
    model: Model,
    dataset: Dataset,
    split: str,
    config: EvaluateConfig,
    *,
    predictions: Path | None = None,
) -> Judgement:
    """Predict a split and ask every head what it says of it.

    Args:
        model: The trained model.
        dataset: Where the events are.
        split: Name of the split.
        config: Batch size and number of events.
        predictions: Directory for ``<split>.parquet``; None writes no file.
    """
    path = None if predictions is None else predictions / f"{split}.parquet"
    at_once = events_at_once(model.contract, config.batch_size, config.max_objects)

    scratch = None if predictions is None else predictions.parent

    def predicted(variation: Variation | None = None, to: Path | None = None) -> SplitColumns:
        """Predict the split, with changed inputs or without."""
        columns = SplitColumns(scratch)

        def decide(batch: EventBatch) -> EventBatch:
            changed = batch if variation is None else variation(batch)
            found = model.diagnose(changed)
            columns.add(changed, found.decided, found.diagnosed)
            return replace(changed, predictions=found.decided)

        parts = predict_split(
            model,
            dataset,
            split,
            to,
            batch_size=at_once,
            max_events=config.max_events,
            decide=decide,
        )
        deque(parts, maxlen=0)
        return columns.finish()

    require_drawings(config, dataset.event, model.config.heads, kept_in_dataset(dataset.layouts))
    variations = open_variations(dataset, config)
    main = predicted(to=path)
    overlay = None
    if split != "train" and "train" in dataset.splits and len(dataset.split("train")):
        seen = SplitColumns(scratch)
        for batch in predict_split(
            model, dataset, "train", batch_size=at_once, max_events=OVERLAY_EVENTS
        ):
            seen.add(batch, batch.predictions)
        overlay = seen.finish()
    from hepset.evaluate.displays import display  # noqa: PLC0415  imports matplotlib
    from hepset.evaluate.sculpting import sculpting  # noqa: PLC0415  imports matplotlib

    heads = {}
    for head_name in model.heads:
        train = None if overlay is None else _evaluation(model, dataset, overlay, head_name)
        evaluation = _evaluation(model, dataset, main, head_name, train)
        judge = judge_head(model.head(head_name), evaluation)
        result = HeadResult(judge.metrics(), judge.baselines(), judge.figures())
        for asked in config.sculpting:
            if asked.score.partition("/")[0] == head_name:
                result.add(*sculpting(asked, judge, evaluation))
        heads[head_name] = result
    found: dict[str, dict[str, list[Shift]]] = {name: {} for name in variations}
    parts = {
        name: metrics_in_parts(model.head(name), _evaluation(model, dataset, main, name))
        for name in (heads if variations else ())
    }
    for number, (name, variation) in enumerate(variations.items()):
        _LOG.info("evaluate: variation %r (%d of %d)", name, number + 1, len(variations))
        changed = predicted(variation)
        for head_name, result in heads.items():
            evaluation = _evaluation(model, dataset, changed, head_name)
            head = model.head(head_name)
            after = metrics_in_parts(head, evaluation)
            varied = judge_head(head, evaluation).metrics()
            found[name][head_name] = shifts(result.metrics, varied, parts[head_name], after)
    train = None if overlay is None else _evaluation(model, dataset, overlay, None)
    evaluation = _evaluation(model, dataset, main, None, train)
    drawn = [drawing for asked in config.displays for drawing in display(asked, evaluation)]
    return Judgement(split, evaluation, heads, found, drawn)


def open_variations(dataset: Dataset, config: EvaluateConfig) -> dict[str, Variation]:
    """Return the variations of a configuration, each tried on the first event of a split.

    Raises:
        ExpressionError: If one of them names what the data set does not hold, or is no expression.
    """
    found: dict[str, Variation] = {}
    derive = dict(dataset.manifest.prepare.get("derive") or {})
    for name, expressions in config.variations.items():
        where = f"evaluate.variations.{name}"
        found[name] = partial(
            vary, event=dataset.event, expressions=expressions, derive=derive, where=where
        )
    if found:
        for split in dataset.splits:
            for batch in dataset.split(split).batches(1):
                for variation in found.values():
                    variation(batch)
                return found
    return found


def require_drawings(
    config: EvaluateConfig,
    event: EventInfo,
    heads: Mapping[str, Mapping[str, Any]],
    extras: Mapping[str, KeptColumn],
) -> None:
    """Refuse `evaluate.sculpting` and `evaluate.displays` of what is not there.

    Args:
        config: What is asked for.
        event: What an event is, derived features included.
        heads: ``model.heads``.
        extras: What the extra tensors hold.

    Raises:
        ConfigurationError: If a head, a score, a stream or a column does not exist, or the column
            has not one number per event or object where one is needed.
    """
    from hepset.evaluate.displays import require_display  # noqa: PLC0415  imports matplotlib
    from hepset.evaluate.sculpting import require_sculpting  # noqa: PLC0415  imports matplotlib

    for number, score in enumerate(config.sculpting):
        require_sculpting(score, event, heads, extras, f"evaluate.sculpting.{number}")
    for number, asked in enumerate(config.displays):
        require_display(asked, event, extras, f"evaluate.displays.{number}")


def metrics_document(judgement: Judgement, provenance: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of ``metrics.json``; what is not finite is null."""
    weight = judgement.evaluation.weight
    document = {
        "format": "hepset-metrics/1",
        "split": judgement.split,
        "events": len(judgement.evaluation),
        "effective_events": effective_events(weight),
        "negative_fraction": float(np.mean(weight < 0)) if len(weight) else 0.0,
        "heads": {
            name: {
                "metrics": [_plain(metric) for metric in result.metrics],
                "baselines": [_plain(metric) for metric in result.baselines],
            }
            for name, result in judgement.heads.items()
        },
        "provenance": dict(provenance),
    }
    if judgement.variations:
        document["variations"] = {
            name: {
                head: [
                    {
                        **_plain(found.varied),
                        "shift": _number(found.shift.value),
                        "shift_error": _number(found.shift.error),
                    }
                    for found in parts
                ]
                for head, parts in heads.items()
            }
            for name, heads in judgement.variations.items()
        }
    return document


def write_metrics(path: Path, content: Mapping[str, Any]) -> None:
    """Write ``metrics.json`` in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False).encode())
        file.write(b"\n")


def _plain(metric: Metric) -> dict[str, Any]:
    return {
        "name": metric.name,
        "value": _number(metric.value),
        "error": _number(metric.error),
        "unit": metric.unit,
        "better": metric.better,
        "of": metric.of,
        "limit": metric.limit,
        "bound": metric.bound,
        **({"note": metric.note} if metric.note else {}),
    }


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _evaluation(
    model: Model,
    dataset: Dataset,
    columns: SplitColumns,
    head: str | None,
    train: Evaluation | None = None,
) -> Evaluation:
    """What the judges of a head see; what belongs to no head where that is None."""
    inputs = dataset.contract.inputs()
    arrays, weight, ids = columns.arrays, columns.weight, columns.ids

    def of_head(fields: Mapping[str, Array]) -> dict[str, Array]:
        start = f"{head}/"
        return {
            name.removeprefix(start): array
            for name, array in fields.items()
            if head is not None and name.startswith(start)
        }

    return Evaluation(
        event=dataset.event,
        contract=model.contract,
        predictions=of_head(columns.decided),
        targets={
            name: array
            for name, array in arrays.items()
            if name.startswith("target/") or name == "process"
        },
        inputs={name: array for name, array in arrays.items() if name in inputs},
        weight=weight,
        weighted=bool(np.any(weight != 1)),
        train=train,
        statistics=dataset.statistics,
        extra={name: array for name, array in arrays.items() if name.startswith("extra/")},
        diagnoses=of_head(columns.diagnosed),
        ids=ids,
        sample=np.array([source.sample for source in dataset.manifest.sources])[ids["source"]],
        sample_names=tuple(
            sample.label or f"sample {index}" for index, sample in enumerate(dataset.samples)
        ),
        drawn=drawn_shares(model),
    )
