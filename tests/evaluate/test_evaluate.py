from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from hepset.batch import EventBatch
from hepset.dataset import Dataset
from hepset.errors import ConfigurationError, ContractError, DatasetError
from hepset.evaluate import evaluate_run
from hepset.evaluate.evaluate import choose_split, judge
from hepset.evaluate.result import effective_events
from hepset.evaluate.spectra import binning, class_labels, compare, shape_chi2, spectra, survival
from hepset.interfaces.head import Metric
from hepset.model import Model
from hepset.numbers import number, with_error
from hepset.report.history import read_history
from hepset.report.summary import compare_metric, headline, metric_of
from hepset.run.stages import StageRecords
from hepset.run.summary import print_summary
from hepset.schema.config import EvaluateConfig
from hepset.schema.event import EventInfo


class Page(HTMLParser):
    """Collects what a page would load from elsewhere, and whether its tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.external: list[str] = []
        self.open: list[str] = []
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.images = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in {"src", "href", "srcset", "data"} and value is not None:
                if tag == "img" and value.startswith("data:image/"):
                    self.images += 1
                elif value.startswith("#"):
                    self.links.add(value[1:])
                else:
                    self.external.append(value)
            if name == "id" and value:
                self.anchors.add(value)
        if tag in {"script", "link", "iframe"}:
            self.external.append(tag)
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag


@pytest.fixture
def evaluated(checkpoint: Path, dataset: Dataset) -> tuple[Path, dict[str, Any]]:
    run = checkpoint.parent.parent
    (run / "config.yaml").write_text("name: <toys>\n")
    (run / "logs").mkdir()
    (run / "logs" / "metrics.csv").write_text(
        "epoch,train/loss,val/loss,train/toy/cross_entropy,val/toy/cross_entropy,learning_rate\n"
        "0,0.7,0.72,0.7,0.72,0.001\n1,0.6,0.65,0.6,0.65,0.0005\n"
    )
    content = evaluate_run(
        checkpoint, dataset, EvaluateConfig(batch_size=32), directory=run, name="<toys>", seed=7
    )
    return run, content


def test_metrics_report_and_summary_of_a_run(
    evaluated: tuple[Path, dict[str, Any]],
    model: Model,
    batch_of: Callable[..., EventBatch],
    checkpoint: Path,
    dataset: Dataset,
) -> None:
    """One evaluation, looked at from all sides, because figures take their time."""
    _metrics_stand_beside_baselines(evaluated, model, batch_of)
    _the_report_needs_nothing_else(evaluated)
    _the_summary_shows_a_number_beside_its_baseline(evaluated)
    _equal_inputs_give_equal_reports(evaluated, checkpoint, dataset)


def _metrics_stand_beside_baselines(
    evaluated: tuple[Path, dict[str, Any]], model: Model, batch_of: Callable[..., EventBatch]
) -> None:
    run, content = evaluated
    assert json.loads((run / "metrics.json").read_text()) == content
    batch = batch_of(90, 2)
    right = model.predict(batch)["toy/decision"] == batch["target/signal"]
    metrics = content["heads"]["toy"]["metrics"]
    assert metrics[0]["name"] == "accuracy"
    assert metrics[0]["value"] == pytest.approx(right.mean())
    assert metrics[1]["value"] is None
    assert content["heads"]["toy"]["baselines"][0]["of"] == "the larger class"
    assert content["split"] == "test"
    assert content["events"] == 90
    weight = batch["weight"]
    assert content["negative_fraction"] == pytest.approx((weight < 0).mean())
    assert content["effective_events"] == pytest.approx(weight.sum() ** 2 / 90)
    assert content["provenance"]["seed"] == 7
    assert (run / "predictions" / "test.parquet").is_file()


def _the_report_needs_nothing_else(evaluated: tuple[Path, dict[str, Any]]) -> None:
    text = (evaluated[0] / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert page.external == []
    assert page.open == []
    assert page.links == page.anchors
    # Two figures of inputs, two losses, one of the head.
    assert page.images == 5
    assert "&lt;toys&gt;" in text
    assert "<toys>" not in text
    assert "Output &lt;1&gt;" in text
    assert not re.search(r"url\(|@import|https?://", re.sub(r"data:image/[^\"]+", "", text))
    for words in ("accuracy ↑", "the larger class", "negative weights", "not defined", "jets pt"):
        assert words in text, words
    assert "Training events are drawn by sampling, those of validation are not." in text


def _equal_inputs_give_equal_reports(
    evaluated: tuple[Path, dict[str, Any]], checkpoint: Path, dataset: Dataset
) -> None:
    run = evaluated[0]
    before = {name: (run / name).read_bytes() for name in ("report.html", "metrics.json")}
    evaluate_run(
        checkpoint, dataset, EvaluateConfig(batch_size=32), directory=run, name="<toys>", seed=7
    )
    assert before == {name: (run / name).read_bytes() for name in before}
    assert not list(run.rglob("*.tmp"))


def _the_summary_shows_a_number_beside_its_baseline(
    evaluated: tuple[Path, dict[str, Any]],
) -> None:
    run, content = evaluated
    StageRecords(run).finished("evaluate", {})

    console = Console(width=140, record=True, quiet=False, file=None, force_terminal=False)
    with console.capture() as captured:
        print_summary(console, "[toys]", run, run / "dataset", content)
    text = captured.get()
    assert "[toys]: 90 events of the split 'test'" in text
    assert "accuracy" in text
    assert "the larger class" in text
    assert "report.html" in text
    StageRecords(run).started("train")
    with console.capture() as captured:
        print_summary(console, "[toys]", run, run / "dataset", content)
    assert "accuracy" not in captured.get()
    assert "report" not in captured.get()


def test_the_judged_split_has_training_events_beside_it(model: Model, dataset: Dataset) -> None:
    judgement = judge(model, dataset, "test", EvaluateConfig(batch_size=50, max_events=60))
    assert len(judgement.evaluation) == 60
    assert judgement.evaluation.weighted
    assert judgement.evaluation.train is not None
    assert len(judgement.evaluation.train) == 300
    assert "toy" in judgement.heads
    assert judge(model, dataset, "train", EvaluateConfig()).evaluation.train is None


def test_a_split_without_events_is_replaced_by_val(
    event: EventInfo,
    write_dataset: Callable[..., Dataset],
    batch_of: Callable[..., EventBatch],
    checkpoint: Path,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    batch = batch_of(30)
    rows = {name: batch[name] for name in batch.names()}
    nothing = {name: array[:0] for name, array in rows.items()}
    dataset = write_dataset(event, {"train": rows, "val": rows, "test": nothing})
    assert choose_split(dataset, "test") == "val"
    assert choose_split(dataset, "train") == "train"
    with pytest.raises(ConfigurationError, match="no split 'tset'; did you mean 'test'"):
        choose_split(dataset, "tset")
    with caplog.at_level(logging.WARNING):
        content = evaluate_run(
            checkpoint, dataset, EvaluateConfig(), directory=tmp_path / "r", name="n", seed=0
        )
    assert content["split"] == "val"
    assert "using 'val'" in caplog.text
    assert "slightly optimistic" in (tmp_path / "r" / "report.html").read_text()


def test_a_dataset_without_events_or_with_other_inputs_is_refused(
    write_dataset: Callable[..., Dataset],
    batch_of: Callable[..., EventBatch],
    checkpoint: Path,
    tmp_path: Path,
    event: EventInfo,
) -> None:
    document = event.model_dump(mode="json", exclude_none=True)
    del document["globals"]
    batch = batch_of(30)
    rows = {name: batch[name] for name in batch.names() if not name.startswith("met")}
    nothing = {name: array[:0] for name, array in rows.items()}
    dataset = write_dataset(
        EventInfo.parse(document, "event"), {"train": rows, "val": nothing, "test": nothing}
    )
    with pytest.raises(ContractError, match="met: missing there"):
        evaluate_run(checkpoint, dataset, EvaluateConfig(), directory=tmp_path, name="n", seed=0)
    with pytest.raises(DatasetError, match="no events to judge"):
        choose_split(dataset, "test")


def test_the_effective_sample_size() -> None:
    assert effective_events(np.ones(7)) == 7
    # (1 + 1 + 1 − 1)² / 4 = 1
    assert effective_events(np.array([1.0, 1, 1, -1])) == 1
    assert effective_events(np.zeros(0)) == 0


def test_numbers_have_two_digits_of_their_error() -> None:
    assert with_error(0.87654, 0.0123) == "0.877 ± 0.012"
    assert with_error(-1234.5, 56.7, "GeV") == "−1234 ± 57 GeV"
    assert with_error(math.nan, 1) == "not defined"
    assert with_error(0.5, math.nan) == "0.5"
    assert with_error(3, 0) == "3"
    assert with_error(1e-12, 1e-13) == "1e−12 ± 1.0e−13"
    assert number(1234567) == "1 234 567"
    assert number(None) == "–"
    assert number(0.000123456) == "0.0001235"


def test_the_headline_prefers_numbers_with_a_baseline() -> None:
    def metric(name: str, value: float, better: Any = "higher", of: str = "") -> Metric:
        return Metric(name, value, 0.3, "", better, of)

    heads = {
        "a": ([metric("x", 1), metric("AUC", 2)], [metric("AUC", 1, of="b1"), metric("AUC", 1.5)]),
        "b": ([metric("bias", 0.1, "lower"), metric("width", 3, "lower")],
              [metric("bias", -2, "lower"), metric("width", 4, "lower")]),
        "c": ([metric("z", math.nan)], []),
    }  # fmt: skip
    found = headline(heads)
    assert [(head, m.name) for head, m, _ in found] == [
        ("a", "AUC"),
        ("b", "width"),
        ("b", "bias"),
    ]
    assert found[0][2] is not None
    assert found[0][2].value == 1.5
    assert headline({"a": heads["a"]})[1][2] is None
    # 1 / √(0.3² + 0.3²) = 2.357, smaller is better; a bias is better nearer to zero.
    assert compare_metric(metric("w", 3, "lower"), metric("w", 4, "lower")) == pytest.approx(
        2.357, abs=1e-3
    )
    assert compare_metric(metric("bias", 0, "lower"), metric("bias", -1, "lower")) > 0
    document = {"name": "w", "value": None, "error": 1.0}
    assert math.isnan(metric_of(document).value)


def test_chi2_of_shapes() -> None:
    rng = np.random.default_rng(3)
    edges = np.linspace(-2, 2, 9)
    p_values = []
    for _ in range(200):
        parts = []
        for size in (400, 900):
            weight = rng.choice([1.0, 2.0], size)
            values = rng.normal(size=size)
            content = np.histogram(values, edges, weights=weight)[0]
            error = np.sqrt(np.histogram(values, edges, weights=weight**2)[0])
            parts.append((content, error))
        chi2, ndf = shape_chi2(*parts)
        assert ndf == 7
        p_values.append(survival(chi2, ndf))
    # Both are drawn from one distribution, so p is uniform.
    assert stats.kstest(p_values, "uniform").pvalue > 1e-3
    assert survival(12.3, 7) == pytest.approx(stats.chi2.sf(12.3, 7))
    assert math.isnan(survival(math.nan, 0))
    empty = (np.zeros(8), np.zeros(8))
    assert shape_chi2(parts[0], empty)[1] == 0


def test_spectra_and_classes_of_the_inputs(model: Model, dataset: Dataset) -> None:
    evaluation = judge(model, dataset, "test", EvaluateConfig()).evaluation
    names, labels = class_labels(evaluation)
    assert names == ["background", "signal"]
    np.testing.assert_array_equal(labels, evaluation.targets["target/signal"])
    found = spectra(evaluation)
    assert list(found) == ["jets", "globals"]
    pt, eta, _, _, count = found["jets"]
    assert (pt.name, pt.axis) == ("jets.pt", "jets pt [GeV]")
    assert eta.axis == "jets eta"
    mask = evaluation.inputs["jets.mask"]
    np.testing.assert_array_equal(pt.values, evaluation.inputs["jets"][..., 0][mask])
    np.testing.assert_array_equal(count.values, mask.sum(1))
    np.testing.assert_array_equal(count.edges, np.arange(8) - 0.5)
    compared = list(compare(found["jets"], evaluation))
    assert len(compared) == 10
    assert all(0 <= part.p_value <= 1 for part in compared)


def test_bins() -> None:
    np.testing.assert_array_equal(binning(np.array([1.0, 2, 2, 3])), [0.5, 1.5, 2.5, 3.5])
    assert len(binning(np.linspace(0.01, 100, 1000))) == 31
    assert binning(np.linspace(0.01, 100, 1000))[0] == 0
    np.testing.assert_array_equal(binning(np.full(4, 0.25)), np.linspace(-0.25, 0.75, 31))
    assert len(binning(np.full(3, np.nan))) == 2


def test_the_newest_file_says_what_an_epoch_gave(tmp_path: Path) -> None:
    assert read_history(tmp_path) == {}
    folder = tmp_path / "logs" / "version_0"
    folder.mkdir(parents=True)
    (folder / "metrics.csv").write_text("epoch,train/loss,val/loss\n0,3,4\n1,2,\n1,,nan\n")
    assert read_history(tmp_path) == {"loss": {"train": [(0, 3), (1, 2)], "val": [(0, 4)]}}
