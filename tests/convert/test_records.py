"""What `test_convert` sees in whole conversions stands here number by number."""

from __future__ import annotations

import logging

import pytest

from hepset.convert.plan import Plan, make_plan
from hepset.convert.records import (
    class_prior,
    label_extremes,
    merged_report,
    nothing_left,
    resolve_classes,
    truncations,
    warn_of_unused_splits,
)
from hepset.convert.tasks import ChunkResult
from hepset.dataset.manifest import CutCount, CutflowStep, SkippedSource, Truncation
from hepset.schema.config import PrepareConfig
from hepset.schema.contract import compile_contract
from hepset.schema.report import Report, Violation
from hepset.schema.statistics import LabelCounts, Statistics
from synthetic_events import SyntheticConfig, SyntheticReader


@pytest.fixture(scope="module")
def plan() -> Plan:
    reader = SyntheticReader(SyntheticConfig(events=100, chunk_size=50))
    event = reader.event_info()
    return make_plan(
        [reader],
        event=event,
        contract=compile_contract(event),
        config=PrepareConfig.model_validate({"select": {"two": "count(jets) >= 2"}}),
        seed=1,
    )


def chunk(**found: object) -> ChunkResult:
    return ChunkResult.model_validate({"work": "w", "source": 0, "start": 0, **found})


def test_what_was_cut_adds_up(caplog: pytest.LogCaptureFixture) -> None:
    first = Truncation(events=1, objects=3, longest=12, targets=0)
    second = Truncation(events=2, objects=2, longest=11, targets=1)
    with caplog.at_level(logging.INFO):
        found = truncations([chunk(truncated={"jets": first}), chunk(truncated={"jets": second})])
    assert found == {"jets": Truncation(events=3, objects=5, longest=12, targets=1)}
    assert "5 objects of 3 events" in caplog.text


def test_extremes_of_labels_are_those_of_all_chunks() -> None:
    results = [chunk(labels={"target/x": (1, 2)}), chunk(), chunk(labels={"target/x": (-1, 1)})]
    assert label_extremes(results) == {"target/x": (-1, 2)}


def test_classes_that_no_file_states_are_counted_from_the_labels(plan: Plan) -> None:
    label = next(n for n, t in plan.event.targets.items() if t.kind == "classification")
    target = plan.event.targets[label].model_copy(update={"classes": None})
    event = plan.event.model_copy(update={"targets": {**plan.event.targets, label: target}})
    reader = plan.readers[0]
    open_plan = make_plan(
        [reader], event=event, contract=compile_contract(event), config=plan.config, seed=1
    )
    results = [chunk(labels={f"target/{label}": (-1, 3)})]
    _, names = resolve_classes(open_plan, results)
    assert names[f"target/{label}"] == ("0", "1", "2", "3")


def test_the_prior_is_the_share_of_each_class() -> None:
    labels = LabelCounts(events=[3, 1], weights=[1.0, 1.0])
    found = class_prior(Statistics(labels={"target/x": labels}))
    assert found == {"target/x": (0.75, 0.25)}


def test_nothing_left_names_the_cut_that_took_it(plan: Plan) -> None:
    def step(name: str, events: int) -> CutflowStep:
        count = CutCount(events=events, sum_of_weights=events, sum_of_squares=events)
        return CutflowStep(name=name, expression="", samples=(count,))

    text = str(nothing_left(plan, [], [step("all events", 7), step("two", 0)]))
    assert "none of 7 events" in text
    assert "0  two" in text
    unread = nothing_left(plan, [SkippedSource(key="a.root", reason="broken")], [step("all", 0)])
    assert "every file was skipped" in str(unread)
    assert "a.root: broken" in str(unread)
    assert "no events in" in str(nothing_left(plan, [], [step("all events", 0)]))


def test_a_stream_that_is_empty_in_one_chunk_is_no_finding(plan: Plan) -> None:
    empty = Violation(
        tensor="jets.mask",
        rule="mask-empty",
        severity="warning",
        events=50,
        of_events=50,
        expected="objects",
        found="none",
        advice="look",
    )
    full, other = Report(violations=(empty,), events=50), Report(events=50)
    assert not merged_report(plan, [chunk(report=full), chunk(report=other)]).violations
    both = merged_report(plan, [chunk(report=full), chunk(report=full)])
    assert [violation.of_events for violation in both.violations] == [100]


def test_a_split_that_should_have_events_and_has_none_is_said(
    plan: Plan, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_unused_splits(plan, [chunk(rows={"train": 1000})])
    assert "'val' is empty although 100 events were expected" in caplog.text
