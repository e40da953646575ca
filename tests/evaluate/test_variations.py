from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from hepset.batch import EventBatch
from hepset.dataset import Dataset, open_dataset
from hepset.errors import ExpressionError
from hepset.evaluate import evaluate_run
from hepset.evaluate.evaluate import judge, open_variations
from hepset.evaluate.spectra import class_labels
from hepset.evaluate.variations import metrics_in_parts, shifts, vary
from hepset.events.select import derive
from hepset.interfaces.judge import Evaluation, Judge, Metric, Prediction
from hepset.judges import HeadJudge
from hepset.model import Model
from hepset.run import Run
from hepset.run.preflight import check_run
from hepset.schema.config import EvaluateConfig
from hepset.schema.event import EventInfo


def test_features_are_replaced_by_expressions_of_the_unchanged_ones(
    event: EventInfo, batch_of: Callable[..., EventBatch]
) -> None:
    batch = batch_of(50)
    changed = vary(
        batch,
        event,
        {"jets.pt": "1.02 * jets.pt", "jets.mass": "jets.mass + jets.pt", "met.pt": "sum(jets.pt)"},
    )
    before, after = batch["jets"], changed["jets"]
    assert after.dtype == np.float32
    np.testing.assert_allclose(after[..., 0], 1.02 * before[..., 0], rtol=1e-6)
    np.testing.assert_array_equal(after[..., 1:3], before[..., 1:3])
    # Not of the changed transverse momentum.
    np.testing.assert_allclose(after[..., 3], before[..., 3] + before[..., 0], rtol=1e-6)
    np.testing.assert_allclose(changed["met"][:, 0], before[..., 0].sum(1), rtol=1e-5)
    np.testing.assert_array_equal(changed["jets.mask"], batch["jets.mask"])
    np.testing.assert_array_equal(batch["met"], batch_of(50)["met"])
    padded = EventBatch(
        batch.ids, {"jets": batch.padded("jets")}, batch.arrays, batch.slots, batch.sources
    )
    np.testing.assert_array_equal(vary(padded, event, {"jets.pt": "2 * jets.pt"})["jets"][..., 0],
                                  2 * before[..., 0])  # fmt: skip


def test_weights_can_be_varied_where_there_are_none(
    event: EventInfo, batch_of: Callable[..., EventBatch]
) -> None:
    batch = batch_of(20, targets=False)
    weight = vary(batch, event, {"weight": "weight * where(count(jets) > 2, 1.5, 1)"})["weight"]
    np.testing.assert_array_equal(weight, np.where(batch["jets.mask"].sum(1) > 2, 1.5, 1.0))


def test_what_was_derived_of_a_changed_feature_follows(
    event: EventInfo, batch_of: Callable[..., EventBatch]
) -> None:
    expressions = {
        "jets.share": "jets.pt / extra.ht",
        "extra.ht": "sum(jets.pt)",
        "met.log_pt": "log1p(met.pt)",
    }
    from hepset.events.derive import derived_event

    full = derived_event(event, expressions)
    batch = derive(batch_of(40), full, expressions)
    assert {"share"} <= set(batch.flat("jets").columns)
    changed = vary(batch, full, {"jets.pt": "jets.pt + 10"}, derive=expressions)
    pt, found = changed.flat("jets").columns["pt"], changed.flat("jets").columns["share"]
    ht = changed["extra/ht"]
    np.testing.assert_allclose(ht, batch["extra/ht"] + 10 * batch["jets.mask"].sum(1), rtol=1e-5)
    np.testing.assert_allclose(found, pt / np.repeat(ht, changed.flat("jets").counts), rtol=1e-5)
    np.testing.assert_array_equal(changed["met"], batch["met"])
    # One that is varied itself is not derived again.
    own = vary(batch, full, {"jets.pt": "2 * jets.pt", "jets.share": "0.5"
                             " + 0 * jets.pt"}, derive=expressions)  # fmt: skip
    assert set(own.flat("jets").columns["share"]) == {0.5}


@pytest.mark.parametrize(
    ("expressions", "message"),
    [
        ({"jets.ptt": "jets.pt"}, r"'jets\.ptt' is no input that can be varied; did you mean"),
        ({"target.signal": "0 * met.pt"}, "there are jets.pt, jets.eta"),
        ({"jets": "jets.pt"}, "no input that can be varied"),
        ({"met.pt": "2 * jets.pt"}, "one value per event, its expression one per object"),
        ({"jets.pt": "jets.pz"}, r"variations\.jets\.pt: the stream 'jets' has no feature 'pz'"),
    ],
)
def test_what_cannot_be_varied_is_refused(
    event: EventInfo,
    batch_of: Callable[..., EventBatch],
    expressions: dict[str, str],
    message: str,
) -> None:
    with pytest.raises(ExpressionError, match=message):
        vary(batch_of(5), event, expressions)


def test_the_error_of_a_shift_comes_from_parts_of_the_events() -> None:
    """Parts with shifts of 1 and 3 in turn: a mean of 2, and an error of 1.054 / √10."""
    nominal = [Metric("a", 10.0, 2.0), Metric("b", 1.0, 0.1), Metric("c", 1.0, 0.1)]
    varied = [Metric("a", 12.0, 2.0), Metric("b", 2.0, 0.1), Metric("d", 2.0, 0.1)]
    before = [{"a": float(part), "b": math.nan} for part in range(10)]
    after = [{"a": part + (1.0 if part % 2 else 3.0), "b": 2.0} for part in range(10)]
    found = {shift.nominal.name: shift for shift in shifts(nominal, varied, before, after)}
    assert set(found) == {"a", "b"}
    assert found["a"].shift.value == 2.0
    assert found["a"].shift.error == pytest.approx(math.sqrt(10 / 9) / math.sqrt(10))
    assert math.isnan(found["b"].shift.error)


def test_parts_are_disjoint_and_complete(event: EventInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    class Counts(Judge):
        def metrics(self) -> list[Metric]:
            return [Metric("rows", float(self.evaluation.targets["target/x"].sum()), 0.0)]

    monkeypatch.setattr(
        "hepset.evaluate.variations.judge_head",
        lambda _, evaluation: HeadJudge([Counts(Prediction("counts"), evaluation)]),
    )

    rows = np.arange(37)
    evaluation = Evaluation(
        event,
        None,  # type: ignore[arg-type]
        {},
        {"target/x": rows},
        {},
        np.ones(37),
        extra={"extra/y": rows},
        sample=rows,
    )
    parts = metrics_in_parts(None, evaluation)  # type: ignore[arg-type]
    assert len(parts) == 10
    assert sum(part["rows"] for part in parts) == rows.sum()
    some = evaluation.take(rows % 2 == 1)
    assert len(some) == 18
    assert some.sample is not None
    assert (some.sample == some.extra["extra/y"]).all()


def test_a_run_is_judged_under_variations(
    checkpoint: Path, dataset: Dataset, model: Model, batch_of: Callable[..., EventBatch]
) -> None:
    run = checkpoint.parent.parent
    config = EvaluateConfig.model_validate(
        {
            "batch_size": 32,
            "variations": {
                "same": {"jets.pt": "1 * jets.pt"},
                "<odd>": {"jets.eta": "4 - jets.eta", "met.pt": "0.01 * met.pt"},
            },
        }
    )
    content = evaluate_run(checkpoint, dataset, config, directory=run, name="n", seed=7)
    assert json.loads((run / "metrics.json").read_text()) == content
    same, odd = (content["variations"][name]["toy"][0] for name in ("same", "<odd>"))
    assert same["name"] == "accuracy"
    assert same["shift"] == same["shift_error"] == 0
    nominal = content["heads"]["toy"]["metrics"][0]["value"]
    batch = batch_of(90, 2)
    changed = vary(batch, model.event, dict(config.variations["<odd>"]))
    right = model.predict(changed)["toy/decision"] == batch["target/signal"]
    assert odd["value"] == pytest.approx(right.mean())
    assert odd["shift"] == pytest.approx(right.mean() - nominal)
    assert odd["shift_error"] > 0
    text = (run / "report.html").read_text()
    assert "Robustness" in text
    assert "4 - jets.eta" in text
    assert "&lt;odd&gt;" in text


def test_a_wrong_variation_stops_a_run_before_it_trains(
    dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config: dict[str, Any] = {
        "dataset": str(dataset.path),
        "model": {"heads": {"signal": {"name": "classification", "target": "signal"}}},
        "evaluate": {"variations": {"up": {"jets.energy": "jets.pt"}}},
        "output": str(tmp_path / "run"),
    }
    run = Run.from_yaml(config)

    monkeypatch.delattr(Run, "train")
    with pytest.raises(ExpressionError, match=r"evaluate\.variations\.up\.jets\.energy"):
        run.run()
    with pytest.raises(ExpressionError, match=r"evaluate\.variations\.up\.jets\.energy"):
        check_run(run)
    assert open_variations(open_dataset(dataset.path), EvaluateConfig()) == {}


def test_diagnoses_stand_beside_the_predictions(
    model: Model,
    dataset: Dataset,
    batch_of: Callable[..., EventBatch],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    batch = batch_of(20)
    predictions, diagnoses = model.diagnose(batch, batch_size=7)
    assert diagnoses == {}
    for name, array in model.predict(batch).items():
        np.testing.assert_allclose(predictions[name], array, rtol=1e-4, atol=1e-6)
    head = model.head("toy")
    monkeypatch.setattr(head, "diagnose", lambda outputs: {"other": outputs["logits"].argmin(-1)})
    predictions, diagnoses = model.diagnose(batch, batch_size=7)
    assert set(diagnoses) == {"toy/other"}
    np.testing.assert_array_equal(diagnoses["toy/other"], 1 - predictions["toy/decision"])
    # Heads see them; files do not hold them.
    seen: list[Evaluation] = []

    def metrics(judge: Judge) -> list[Metric]:
        seen.append(judge.evaluation)
        return []

    monkeypatch.setattr("toy_model.ToyJudge.metrics", metrics)
    judge(model, dataset, "test", EvaluateConfig(), predictions=tmp_path)
    assert set(seen[0].diagnoses) == {"other"}
    assert not any("other" in name for name in pq.read_schema(tmp_path / "test.parquet").names)


def test_samples_are_the_classes_where_nothing_else_is(model: Model, dataset: Dataset) -> None:
    evaluation = judge(model, dataset, "test", EvaluateConfig()).evaluation
    assert evaluation.sample_names == ("made",)
    assert evaluation.sample is not None
    assert not evaluation.sample.any()
    sample = np.arange(len(evaluation)) % 2
    two = replace(evaluation, targets={}, sample=sample, sample_names=("a", "b"))
    names, labels = class_labels(two)
    assert names == ["a", "b"]
    np.testing.assert_array_equal(labels, sample)
    assert class_labels(replace(two, sample=None))[0] == [""]
