"""What can be wrong with a configuration and its files, found before any work is done."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hepset.convert.plan import Range
from hepset.convert.reading import UNUSABLE, read_chunk
from hepset.errors import DatasetError, HepsetError
from hepset.interfaces import Chunk, Reader
from hepset.plugins import registry
from hepset.run.config import engine_of
from hepset.schema.contract import Contract
from hepset.schema.report import Report

if TYPE_CHECKING:
    from hepset.batch import EventBatch
    from hepset.run.run import Run
    from hepset.schema.event import EventInfo

FIRST_EVENTS = 1000
"""Events of each source that the quick check looks at."""


@dataclass(frozen=True)
class SourceCheck:
    """What a check has seen of one source.

    Attributes:
        key: The file or generator.
        sample: Label of its sample.
        entries: How many it holds.
        checked: How many were looked at.
        selected: How many of those pass the selection.
    """

    key: str
    sample: str
    entries: int
    checked: int
    selected: int


@dataclass(frozen=True)
class RunCheck:
    """The result of a check.

    Attributes:
        contract: What the arrays have to obey.
        report: Every violation in the events that were looked at.
        sources: What was looked at.
        full: Whether that was everything.
    """

    contract: Contract
    report: Report
    sources: tuple[SourceCheck, ...]
    full: bool


def check_run(run: Run, *, full: bool = False) -> RunCheck:
    """Check a run: the options of all components, the headers, and events of every source.

    Generators are asked for a handful of events only, because making them is the work itself.

    Args:
        run: The run; nothing is written.
        full: Look at every event instead of the first ones of each source.

    Raises:
        ConfigurationError: If the configuration does not fit together.
        ReadError: If a file cannot be read.
        DatasetError: If the configuration names a dataset that is not whole.
    """
    contract = run.contract
    engine_of(run.config)
    if run.config.model.heads:
        _check_model(run)
        run.need_training_split()
        _check_later_stages(run)
        run.need_start()
    if run.config.dataset is not None:
        return _check_dataset(run, contract, full=full)
    plan = run.plan()
    reports: list[Report] = []
    seen: list[SourceCheck] = []
    skipped = [record.key for record in plan.skipped]
    problem: HepsetError | None = None
    for number, (reader, offset) in enumerate(zip(plan.readers, plan.offsets, strict=True)):
        for index, source in enumerate(reader.sources()):
            record = plan.sources[offset + index]
            found: list[Report] = []
            checked = selected = 0
            try:
                for chunk in _chunks(reader, index, is_file=source.is_file, full=full):
                    batch = read_chunk(plan, Range(number, offset + index, (chunk,)), chunk)
                    passing = plan.pipeline.select(batch)
                    _check_evaluation(run, passing.batch, plan.event)
                    found.append(plan.pipeline.check(passing).report)
                    checked += len(batch)
                    selected += len(passing)
            except UNUSABLE as error:
                if run.config.prepare.on_error == "stop":
                    raise
                problem = error
                skipped.append(record.key)
                continue
            reports += found
            label = reader.config.sample.label or "–"
            seen.append(SourceCheck(record.key, label, source.entries, checked, selected))
    if problem is not None and not seen:
        raise problem
    _require_events(seen, full=full)
    seen += [SourceCheck(f"{key} (skipped)", "–", 0, 0, 0) for key in skipped]
    return RunCheck(plan.contract, Report.collect(reports), tuple(seen), full)


def _require_events(seen: Sequence[SourceCheck], *, full: bool) -> None:
    if not any(source.entries for source in seen):
        raise DatasetError(f"there are no events in {', '.join(s.key for s in seen[:3])}")
    checked = sum(source.checked for source in seen)
    if full and not any(source.selected for source in seen):
        raise DatasetError(f"none of {checked} events passes prepare.select")


def _chunks(reader: Reader, source: int, *, is_file: bool, full: bool) -> Iterator[Chunk]:
    own = [chunk for chunk in reader.chunks() if chunk.source == source]
    if full or not own:
        yield from own
        return
    first = own[0]
    limit = FIRST_EVENTS if is_file else FIRST_EVENTS // 10
    yield Chunk(source, first.start, min(first.stop, first.start + limit))


def _check_evaluation(run: Run, batch: EventBatch, event: EventInfo) -> None:
    """Try what `evaluate` asks for on events as they are read."""
    asked = run.config.evaluate
    if not len(batch) or not (asked.variations or asked.sculpting or asked.displays):
        return
    from hepset.evaluate.columns import kept_columns  # noqa: PLC0415  imports torch
    from hepset.evaluate.evaluate import require_drawings  # noqa: PLC0415  imports torch
    from hepset.evaluate.variations import vary  # noqa: PLC0415  imports torch

    require_drawings(asked, event, run.config.model.heads, kept_columns(batch))
    derived = run.config.prepare.derive
    for name, expressions in run.config.evaluate.variations.items():
        vary(batch, event, expressions, derive=derived, where=f"evaluate.variations.{name}")


def _check_later_stages(run: Run) -> None:
    """Check the requests of evaluation and export against what is known without events."""
    from hepset.evaluate.evaluate import require_split  # noqa: PLC0415  imports torch
    from hepset.export.onnx import parse_layout  # noqa: PLC0415  imports torch

    if run.config.dataset is None:
        require_split(run.config.evaluate.split, run.config.prepare.split.names)
    else:
        require_split(run.config.evaluate.split, run.dataset.manifest.split_rule.config.names)
    if run.config.export.onnx:
        parse_layout(run.config.export.layout)


def _check_model(run: Run) -> None:
    """Check the backbone's options and the training's names; the contracts checked the heads'."""
    from hepset.interfaces.head import create_head  # noqa: PLC0415  imports torch
    from hepset.training.combinations import create_combination  # noqa: PLC0415  imports torch
    from hepset.training.stages import BACKBONE, check_stages  # noqa: PLC0415  imports torch

    model, train = run.config.model, run.config.train
    registry().configure("backbones", model.backbone, "model.backbone")
    heads = {
        name: create_head(name, options).config.stages for name, options in model.heads.items()
    }
    check_stages(heads, train)
    create_combination(train.loss_combination, (*heads, BACKBONE))
    registry().choose("optimizers", train.optimizer, "train.optimizer")
    for number, options in enumerate(train.callbacks):
        registry().create("callbacks", options, f"train.callbacks.{number}")


def _check_dataset(run: Run, contract: Contract, *, full: bool) -> RunCheck:
    dataset = run.dataset
    contract.require_same_inputs(
        dataset.contract, here="the configuration", there=str(dataset.path)
    )
    if run.config.model.heads:
        from hepset.evaluate.columns import kept_in_dataset  # noqa: PLC0415  imports torch
        from hepset.evaluate.evaluate import (  # noqa: PLC0415  imports torch
            open_variations,
            require_drawings,
        )

        open_variations(dataset, run.config.evaluate)
        require_drawings(
            run.config.evaluate,
            dataset.event,
            run.config.model.heads,
            kept_in_dataset(dataset.layouts),
        )
    missing = [
        spec.name
        for spec in contract.of_kind("target", "index")
        if spec.required and spec.name not in dataset.layouts
    ]
    if missing:
        raise DatasetError(
            f"{dataset.path}: the heads need {', '.join(missing)}, which this dataset does not hold"
        )
    if full:
        dataset.verify()
    seen = tuple(
        SourceCheck(s.key, dataset.samples[s.sample].label or "–", s.entries, 0, 0)
        for s in dataset.manifest.sources
    )
    return RunCheck(dataset.contract, Report(events=len(dataset)), seen, full)
