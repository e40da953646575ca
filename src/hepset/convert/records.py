"""What the tasks of a conversion have found, taken together for the manifest and for the user.

Everything here is a function of the plan and of all results, so that it does not depend on which
task has seen what: the report of the check, the cutflow, class names, records of sources and
samples.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hepset.convert.exact_sums import rounded
from hepset.convert.plan import Plan
from hepset.convert.tasks import ChunkResult
from hepset.dataset.manifest import (
    CutCount,
    CutflowStep,
    SampleRecord,
    SkippedSource,
    SourceRecord,
    Truncation,
)
from hepset.errors import ContractError, DatasetError, HepsetError, ReadError
from hepset.events.select import Tally
from hepset.schema.contract import Contract
from hepset.schema.event import EventInfo
from hepset.schema.report import Report, Violation
from hepset.schema.statistics import Statistics
from hepset.schema.tensors import MOST_CLASSES, Labels

logger = logging.getLogger(__name__)


def merged_report(plan: Plan, results: Iterable[ChunkResult]) -> Report:
    """Merge the reports so that they say the same for any chunk size."""
    merged = Report.collect(result.report for result in results)
    order: dict[str, int] = {}
    for spec in plan.contract.tensors.values():
        for label in (spec.name, *(f"{spec.name}.{name}" for name in spec.columns)):
            order.setdefault(label, len(order))

    def place(violation: Violation) -> tuple[int, str, str, str]:
        position = order.get(violation.tensor, len(order))
        return position, violation.tensor, violation.rule, violation.expected

    kept = []
    for violation in sorted(merged.violations, key=place):
        if violation.rule == "slots" and violation.severity != "error":
            continue  # Counted exactly in `truncated`.
        if violation.rule == "mask-empty" and violation.events < 0.99 * merged.events:
            continue  # A stream may be empty in one chunk.
        update: dict[str, Any] = {"of_events": merged.events}
        if violation.rule == "unit":
            update["found"] = re.sub(
                r"a median of \S+, which", "values whose median", violation.found
            )
        kept.append(violation.model_copy(update=update))
    return Report(violations=tuple(kept), events=merged.events)


def _tallies(plan: Plan, results: Iterable[ChunkResult]) -> list[list[Tally]]:
    """Sample → step → what is left."""
    steps = 1 + len(plan.config.select)
    sums = [[Tally()] * steps for _ in plan.readers]
    for result in results:
        sample = plan.sources[result.source].sample
        for step, record in enumerate(result.tallies):
            sums[sample][step] = sums[sample][step] + record.tally
    return sums


def cutflow_of(plan: Plan, results: Iterable[ChunkResult]) -> tuple[CutflowStep, ...]:
    """Return what each cut leaves of each sample, with exact sums of weights."""
    sums = _tallies(plan, results)
    cuts = [("all events", ""), *plan.config.select.items()]
    return tuple(
        CutflowStep(
            name=name,
            expression=expression,
            samples=tuple(
                CutCount(
                    events=steps[index].events,
                    sum_of_weights=rounded(steps[index].weights),
                    sum_of_squares=rounded(steps[index].squares),
                )
                for steps in sums
            ),
        )
        for index, (name, expression) in enumerate(cuts)
    )


def nothing_left(
    plan: Plan, failed: Sequence[SkippedSource], cutflow: Sequence[CutflowStep]
) -> HepsetError:
    """Say why no event is left: no file could be read, there was none, or cuts took them."""
    read = cutflow[0].total.events
    if failed and not read:
        lines = "\n".join(f"  {each.key}: {each.reason}" for each in failed[:3])
        return ReadError(
            f"every file was skipped (prepare.on_error: skip), {len(failed)} of those that "
            f"could be opened:\n{lines}"
        )
    if not read:
        names = ", ".join(plan.paths[:3])
        return DatasetError(f"there are no events in {names or 'the sources'}")
    lines = "\n".join(
        f"  {step.total.events:>10}  {step.name}"
        + (f": {step.expression}" if step.expression else "")
        for step in cutflow
    )
    return DatasetError(
        f"none of {read} events passes prepare.select; events left after each cut:\n{lines}"
    )


def warn_of_unused_splits(plan: Plan, results: Sequence[ChunkResult]) -> None:
    """Warn where event numbers are no numbers of events: all the same, for example."""
    events = sum(sum(result.rows.values()) for result in results)
    config = plan.config.split
    fractions = {name: getattr(config, name, None) for name in plan.splitter.names}
    for name, fraction in fractions.items():
        rows = sum(result.rows.get(name, 0) for result in results)
        wanted = events * fraction if isinstance(fraction, float) else 0.0
        # 20 is out of reach of chance: exp(−20) for an empty split.
        if not rows and wanted > 20:
            logger.warning(
                "the split %r is empty although %.0f events were expected; extra/run, extra/event "
                "are not unique: set prepare.split.key: entry",
                name,
                wanted,
            )


def resolve_classes(
    plan: Plan, results: Iterable[ChunkResult]
) -> tuple[Contract, dict[str, tuple[str, ...]]]:
    """Take the number of classes from the labels where the event does not state it."""
    extremes = label_extremes(results)
    contract = plan.contract
    names: dict[str, tuple[str, ...]] = {}
    counts: dict[str, int] = {}
    for spec in contract.tensors.values():
        rule = next((rule for rule in spec.rules if isinstance(rule, Labels)), None)
        if rule is None or spec.name not in extremes:
            continue
        classes = rule.classes
        if classes is None and extremes[spec.name][1] >= MOST_CLASSES:
            low, high = extremes[spec.name]
            raise ContractError(
                f"{spec.name}: the labels reach from {low} to {high}, which would be {high + 1} "
                f"classes; more than {MOST_CLASSES} are taken for a mistake. Where these are "
                f"identifiers, write targets.{spec.name.removeprefix('target/')}: {{kind: index}} "
                "in the event file; else renumber the classes from 0, or name them (classes: […]) "
                "so that each event with another label is found"
            )
        if classes is None:
            classes = counts[spec.name] = max(2, extremes[spec.name][1] + 1)
        target = plan.event.targets.get(spec.name.removeprefix("target/"))
        if spec.kind == "process":
            names[spec.name] = tuple(plan.event.process_names)
        elif target is not None and target.classes:
            names[spec.name] = target.classes
        else:
            names[spec.name] = tuple(str(index) for index in range(classes))
    return contract.resolve(classes=counts), names


def source_records(plan: Plan, results: Iterable[ChunkResult]) -> tuple[SourceRecord, ...]:
    """Return the sources with the events that each has in each split."""
    rows: dict[int, dict[str, int]] = {}
    for result in results:
        counts = rows.setdefault(result.source, {})
        for split, count in result.rows.items():
            counts[split] = counts.get(split, 0) + count
    order = plan.splitter.names
    return tuple(
        source.model_copy(
            update={
                "rows": {name: rows[index][name] for name in order if name in rows.get(index, {})}
            }
        )
        for index, source in enumerate(plan.sources)
    )


def sample_records(plan: Plan, results: Sequence[ChunkResult]) -> tuple[SampleRecord, ...]:
    """Return what is known of each sample: cross-section, sum of weights, events."""
    tallies = _tallies(plan, results)
    records = []
    for reader, steps in zip(plan.readers, tallies, strict=True):
        sample = reader.config.sample
        total = sample.sum_of_weights
        if total == "auto":
            total = rounded(steps[0].weights)
        records.append(
            SampleRecord(
                label=sample.label,
                reader=type(reader).__name__,
                cross_section=sample.cross_section,
                unit=sample.unit,
                k_factor=sample.k_factor,
                sum_of_weights=total,
                events=steps[0].events,
                selected=steps[-1].events,
                provenance=dict(reader.provenance()),
            )
        )
    return tuple(records)


def label_extremes(results: Iterable[ChunkResult]) -> dict[str, tuple[int, int]]:
    """Return the smallest and the largest label of each tensor of labels."""
    found: dict[str, tuple[int, int]] = {}
    for result in results:
        for name, (low, high) in result.labels.items():
            known = found.get(name, (low, high))
            found[name] = (min(known[0], low), max(known[1], high))
    return found


def truncations(results: Iterable[ChunkResult]) -> dict[str, Truncation]:
    """Return what did not fit the slots of each stream, and log it."""
    found: dict[str, Truncation] = {}
    for result in results:
        for name, part in result.truncated.items():
            known = found.get(name, Truncation(events=0, objects=0, longest=0, targets=0))
            found[name] = Truncation(
                events=known.events + part.events,
                objects=known.objects + part.objects,
                longest=max(known.longest, part.longest),
                targets=known.targets + part.targets,
            )
    for name, part in found.items():
        if part.events:
            logger.info(
                "%s: %d objects of %d events did not fit the slots (longest event: %d); "
                "%d targets became missing",
                name,
                part.objects,
                part.events,
                part.longest,
                part.targets,
            )
    return found


def class_prior(statistics: Statistics) -> dict[str, tuple[float, ...]]:
    """Return the share of each class among the events that the statistics hold."""
    found: dict[str, tuple[float, ...]] = {}
    for name, labels in statistics.labels.items():
        total = sum(labels.events)
        if total:
            found[name] = tuple(count / total for count in labels.events)
    return found


def resolved_event(
    event: EventInfo, contract: Contract, names: Mapping[str, tuple[str, ...]]
) -> EventInfo:
    """Fill slots, scales and class names into the description of an event."""
    slots = contract.slots
    streams = {
        name: stream.model_copy(
            update={
                "slots": slots.get(name) or stream.slots,
                "features": dict(contract[name].features),
                "pairs": dict(contract[f"{name}.pairs"].features) if stream.pairs else {},
            }
        )
        for name, stream in event.streams.items()
    }
    globals_ = {
        name: block.model_copy(update={"features": dict(contract[name].features)})
        for name, block in event.globals.items()
    }
    targets = {
        name: target.model_copy(update={"classes": names[f"target/{name}"]})
        if target.kind == "classification" and f"target/{name}" in names
        else target
        for name, target in event.targets.items()
    }
    changed = {"streams": streams, "globals": globals_, "targets": targets}
    return event.model_copy(update=changed)
