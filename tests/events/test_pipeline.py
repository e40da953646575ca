"""The steps between a reader and a dataset or a model, in their order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hepset.batch import EventBatch, FlatStream, make_ids
from hepset.errors import ConfigurationError, ContractError
from hepset.events.pipeline import EventPipeline
from hepset.events.split import Splitter
from hepset.schema.config import SplitConfig
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo

EVENT = EventInfo.model_validate(
    {
        "streams": {"jets": {"slots": 2, "order": "-pt", "features": ["pt"]}},
        "targets": {"signal": {"kind": "classification", "classes": ["no", "yes"]}},
    }
)
DERIVE = {"extra.ht": "sum(jets.pt)", "twice": "2 * extra.ht", "target.signal": "label"}
CUTS = {"two": "count(jets) >= 2", "hard": "twice > 12"}


def batch(label: bool = True) -> EventBatch:
    """Events of 3, 1, 2 and 4 jets, pt 1 to 10, and a column that only expressions use."""
    arrays = {"extra/event": np.array([10, 11, 12, 13]), "extra/kept": np.arange(4)}
    if label:
        arrays["columns/label"] = np.array([0, 1, 1, 0])
    pt = np.arange(1, 11, dtype=np.float32)
    return EventBatch(
        make_ids(0, range(4)),
        {"jets": FlatStream(np.array([0, 3, 4, 6, 10]), {"pt": pt})},
        arrays,
        sources=["a.root"],
    )


def pipeline(**split: object) -> EventPipeline:
    event = EVENT.model_copy(update={"columns": {"label": None}})
    splitter = Splitter(SplitConfig.model_validate(split), 1, ["a.root"], [""]) if split else None
    return EventPipeline(event, compile_contract(EVENT), DERIVE, CUTS, splitter, tally=True)


def test_each_step_goes_on_from_the_one_before() -> None:
    steps = pipeline()
    found = steps.run(batch(), "select")
    # sum(pt): 6, 4, 11, 34; twice > 12 leaves the last two, both with two jets or more.
    assert found.batch.ids["entry"].tolist() == [2, 3]
    assert [tally.events for tally in found.tallies] == [4, 3, 2]
    assert found.batch["extra/ht"].tolist() == [11, 34]
    assert found.batch["target/signal"].tolist() == [1, 0]
    assert "twice" not in found.batch.arrays
    assert found.step == "select"
    checked = steps.run(batch(), "check")
    # The check sees the objects that will be cut.
    assert checked.report.ok
    assert any(v.rule == "slots" for v in checked.report.violations)
    assert checked.batch.flat("jets").counts.tolist() == [2, 4]
    whole = steps.run(batch())
    assert whole.step == "conform"
    assert whole.batch.flat("jets").columns["pt"].tolist() == [6, 5, 10, 9]
    assert (whole.truncated["jets"].events, whole.truncated["jets"].objects) == (1, 2)
    assert whole.report == checked.report


def test_what_breaks_the_contract_goes_no_further() -> None:
    broken = batch().with_arrays({"columns/label": np.array([0, 1, 7, 0])})
    found = pipeline().run(broken)
    assert not found.report.ok
    assert found.step == "check"
    assert replace(pipeline(), strict=False).run(broken).step == "conform"
    assert replace(pipeline(), cuts={"none": "count(jets) > 9"}).run(batch()).step == "check"


def test_a_prediction_keeps_all_events_and_needs_no_targets() -> None:
    steps = replace(pipeline(), purpose="predict")
    found = steps.mark(batch(label=False))
    assert found.selected is not None
    assert found.selected.tolist() == [False, False, True, True]
    assert found.batch["extra/ht"].tolist() == [6, 4, 11, 34]
    assert "target/signal" not in found.batch.arrays
    assert steps.check(found).report.ok
    chosen = steps.conform(found.take(found.selected))
    assert chosen.batch.flat("jets").columns["pt"].tolist() == [6, 5, 10, 9]
    # Of the events that are looked at alone: the first one has three jets too.
    assert chosen.truncated["jets"].events == 1


def test_one_split_alone_is_what_it_is_among_all() -> None:
    many = EventBatch(make_ids(0, range(500)), {}, {}, sources=["a.root"])
    steps = replace(pipeline(train=0.5, val=0.3, test=0.2), derivations={}, cuts={})
    whole = steps.run(many, "select")
    assert whole.split is not None
    for index, name in enumerate(("train", "val", "test")):
        part = steps.run(many, "select", only=name)
        wanted = np.flatnonzero(whole.split == index)
        assert part.batch.ids["entry"].tolist() == wanted.tolist()
        assert (part.split == index).all()


def test_splits_by_expressions_see_derived_columns_and_columns_of_the_files() -> None:
    steps = pipeline(train="extra.event % 2 == 0 and label == 1", test="twice > 60")
    found = steps.run(batch())
    assert steps.splitter is not None
    assert steps.splitter.names == ("train", "test")
    assert found.split is not None
    assert found.split.tolist() == [0, 1]
    assert steps.run(batch(), only="test").batch.ids["entry"].tolist() == [3]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"train": "extra.event < 13"}, "a.root, entry 3: in no split (1 of 2 events)"),
        (
            {"train": "extra.event > 0", "val": "extra.event == 12"},
            "a.root, entry 2: in train and val (1 of 2 events)",
        ),
        ({"train": "extra.evnt < 13"}, "prepare.split.train: unknown name 'extra.evnt'"),
    ],
)
def test_an_event_in_no_split_or_in_two_is_named(split: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        pipeline(**split).run(batch())
    assert message in str(caught.value)


def test_expressions_fractions_and_groups_do_not_mix() -> None:
    assert SplitConfig.model_validate({"train": "0.8"}).train == 0.8
    for mixed in (
        {"train": "extra.event > 1", "val": 0.1},
        {"train": "extra.event > 1", "val": {"groups": ["a"]}},
    ):
        with pytest.raises(ValueError, match="not a mix"):
            SplitConfig.model_validate(mixed)


def of_objects(kind: str, values: np.ndarray) -> tuple[EventPipeline, EventBatch]:
    """Events of 2 and 1 jets in three slots, with a target per jet."""
    event = EventInfo.model_validate(
        {
            "streams": {"jets": {"slots": 3, "order": "-pt", "features": ["pt"]}},
            "targets": {"t": {"kind": kind, "stream": "jets"}},
        }
    )
    stream = FlatStream(
        np.array([0, 2, 3]), {"pt": np.array([1, 2, 3], np.float32)}, {"target/t": values}
    )
    return EventPipeline(event, compile_contract(event)), EventBatch(
        make_ids(0, range(2)), {"jets": stream}
    )


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "int64", "float32"])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("mask", [[False, True, False], [True, False, False]]),
        ("index", [[0, 1, -1], [1, -1, -1]]),
        ("classification", [[0, 1, -1], [1, -1, -1]]),
    ],
)
def test_padding_of_targets_is_missing_whatever_the_files_hold(
    dtype: str, kind: str, expected: list[list[int]]
) -> None:
    steps, events = of_objects(kind, np.array([1, 0, 1], dtype))
    found = steps.run(events)
    assert found.report.ok, found.report.errors
    target = found.batch["target/t"]
    assert target.dtype == (bool if kind == "mask" else np.int64)
    np.testing.assert_array_equal(target, expected)


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        ("mask", 7, "booleans, or 0 and 1, found 7"),
        ("mask", np.nan, "booleans, or 0 and 1, found nan"),
        ("index", 1e30, "integers, found 1e\\+30"),
    ],
)
def test_targets_that_their_type_does_not_hold_are_refused(
    kind: str, value: float, text: str
) -> None:
    steps, events = of_objects(kind, np.array([0, value, 1]))
    found = steps.run(events)
    assert found.step == "check"
    with pytest.raises(ContractError, match=f"target/t: dtype in 1 of 2 events.*{text} .object 1"):
        found.report.raise_if_bad()


def test_no_event_has_targets_with_axes_too() -> None:
    event = EventInfo.model_validate(
        {
            "streams": {"jets": {"slots": 2, "order": "-pt", "features": ["pt"]}},
            "targets": {"near": {"kind": "mask", "pairs": "jets"}},
        }
    )
    empty = EventBatch(
        make_ids(0, []),
        {"jets": FlatStream(np.zeros(1, np.int64), {"pt": np.zeros(0, np.float32)})},
        {"target/near": np.zeros((0, 5, 5), bool)},
    )
    steps = EventPipeline(event, compile_contract(event))
    found = steps.conform(steps.select(empty)).batch
    assert found["target/near"].shape == (0, 2, 2)
