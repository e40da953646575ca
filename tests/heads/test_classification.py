"""The classification head: losses, balance, decoding, metrics, baselines, figures."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch

from hepset.errors import ConfigurationError
from hepset.figures import save
from hepset.interfaces.backbone import Encoded
from hepset.interfaces.head import EncoderHandle, Evaluation, Head, Metric, create_head
from hepset.judges import judge_head
from hepset.schema.contract import Contract
from hepset.schema.event import EventInfo
from hepset.schema.statistics import LabelCounts, Statistics

Build = Callable[..., Head]
Evaluate = Callable[..., Evaluation]
Arrays = Callable[..., dict[str, Any]]


def by_name(metrics: list[Metric], of: str | None = None) -> dict[str, Metric]:
    return {m.name: m for m in metrics if of is None or of in m.of}


def test_the_target_is_required_and_a_wrong_one_is_named(event: EventInfo, build: Build) -> None:
    spec = build(name="classification", target="signal").contract(event)["target/signal"]
    assert spec.required
    with pytest.raises(ConfigurationError, match=r"'sgnal'; did you mean 'signal'\?"):
        build(name="classification", target="sgnal")
    with pytest.raises(ConfigurationError, match="'m_tt' is a regression"):
        build(name="classification", target="m_tt")
    with pytest.raises(ConfigurationError, match=r"model\.heads\.h: hiden: unknown key; did you"):
        build(name="classification", target="signal", hiden=[3])


def test_loss_is_cross_entropy_and_missing_labels_leave_it(
    build: Build, encoded: Encoded, handle: EncoderHandle
) -> None:
    head = build(name="classification", target="kind")
    outputs = head(encoded, handle)
    labels = torch.tensor([2, -1, 0])
    term = head.loss(outputs, {"target/kind": labels})["cross_entropy"]
    expected = -torch.log_softmax(outputs["logits"], -1)
    assert term.valid.tolist() == [True, False, True]
    torch.testing.assert_close(term.value[0], expected[0, 2])
    torch.testing.assert_close(term.value[2], expected[2, 0])
    absent = head.loss(outputs, {})["cross_entropy"]
    assert not absent.valid.any()
    assert absent.value.tolist() == [0, 0, 0]


def test_object_targets_are_averaged_over_the_objects_of_an_event(
    build: Build, encoded: Encoded, handle: EncoderHandle
) -> None:
    head = build(name="classification", target="flavour")
    outputs = head(encoded, handle)
    labels = torch.tensor([[0, 1, 1, -1, 0], [1, -1, -1, -1, -1], [-1] * 5])
    term = head.loss(outputs, {"target/flavour": labels})["cross_entropy"]
    logs = -torch.log_softmax(outputs["logits"], -1)
    expected = (logs[0, 0, 0] + logs[0, 1, 1] + logs[0, 2, 1] + logs[0, 4, 0]) / 4
    torch.testing.assert_close(term.value[0], expected)
    assert term.valid.tolist() == [True, True, False]
    probabilities = head.decode(outputs)["probabilities"]
    assert probabilities.shape == (3, 5, 2)
    real = encoded.masks["jets"]
    torch.testing.assert_close(probabilities.sum(-1), real.float())


def test_class_balance(build: Build, encoded: Encoded, handle: EncoderHandle) -> None:
    plain = build(name="classification", target="kind")
    events = plain.prior.double().numpy()
    assert events.sum() == pytest.approx(1)
    balanced = build(name="classification", target="kind", class_balance="inverse")
    factors = balanced.class_weights.double().numpy()
    np.testing.assert_allclose(events * factors, (events * factors).mean(), rtol=1e-5)
    assert (events * factors).sum() == pytest.approx(1)
    labels = {"target/kind": torch.tensor([2, 1, 0])}
    outputs = plain(encoded, handle)
    ratio = (
        balanced.loss(outputs, labels)["cross_entropy"].value
        / plain.loss(outputs, labels)["cross_entropy"].value
    )
    np.testing.assert_allclose(ratio.detach().numpy(), factors[[2, 1, 0]], rtol=1e-5)
    few = build(name="classification", target="kind", class_balance="effective",
                effective_beta=0.001)  # fmt: skip
    np.testing.assert_allclose(few.class_weights.numpy(), 1, rtol=1e-5)


def test_the_balance_counts_weights_where_events_have_them(
    contract: Contract, event: EventInfo
) -> None:
    def factors(**options: Any) -> Any:
        head = create_head("h", {"name": "classification", "target": "kind", **options})
        counts = LabelCounts(events=[10, 1000, 0], weights=[30.0, 10.0, 0.0])
        labels = Statistics(events=1010, labels={"target/kind": counts})
        head.build(contract.merge(head.contract(event)), labels, 4)
        np.testing.assert_allclose(head.prior.numpy(), [0.75, 0.25, 0.0])
        return head.class_weights.numpy()

    # 30 w0 = 10 w1 and (30 w0 + 10 w1) / 40 = 1; the class without events keeps 1.
    np.testing.assert_allclose(factors(class_balance="inverse"), [2 / 3, 2.0, 1.0], rtol=1e-6)
    # (1 - b) / (1 - b^n) for n = 10 and 1000, scaled alike.
    raw = [0.1 / (1 - 0.9**10), 0.1]
    scale = 40 / (30 * raw[0] + 10 * raw[1])
    found = factors(class_balance="effective", effective_beta=0.9)
    np.testing.assert_allclose(found, [raw[0] * scale, raw[1] * scale, 1.0], rtol=1e-6)
    np.testing.assert_allclose(factors(), 1.0)


def perfect(truth: np.ndarray, strength: float, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    logit = random.normal(strength * (truth * 2 - 1), 1.0)
    p = 1 / (1 + np.exp(-2 * strength * logit))
    return np.stack([1 - p, p], -1)


def test_metrics_of_a_known_distribution(build: Build, arrays: Arrays, evaluate: Evaluate) -> None:
    data = arrays(4000, 5)
    truth = data["target/signal"]
    p = perfect(truth, 0.5)
    metrics = by_name(
        judge_head(
            build(name="classification", target="signal"), evaluate(data, {"probabilities": p})
        ).metrics()
    )
    # Two normals one width apart: AUC = Phi(1 / sqrt 2), accuracy = Phi(1 / 2).
    for name, expected in (("AUC", 0.76025), ("accuracy", 0.69146)):
        assert abs(metrics[name].value - expected) < 4 * metrics[name].error, name
        assert 0 < metrics[name].error < 0.02
    # At 50 % of the signal the background efficiency is Phi(-1).
    half = metrics["background rejection at 50 % signal efficiency"]
    assert abs(half.value - 1 / 0.158655) < 5 * half.error
    exact = -np.log(p[np.arange(len(p)), truth]).mean()
    assert metrics["log-loss"].value == pytest.approx(exact)
    assert metrics["log-loss"].better == "lower"


def test_weights_enter_every_metric(build: Build, arrays: Arrays, evaluate: Evaluate) -> None:
    data = arrays(2000, 6)
    p = perfect(data["target/signal"], 0.5)
    p[:500] = p[:500, ::-1]
    weight = np.where(np.arange(2000) < 500, 0.0, 2.0)
    head = build(name="classification", target="signal")
    weighted = by_name(judge_head(head, evaluate(data, {"probabilities": p}, weight)).metrics())
    rest = {k: v[500:] for k, v in data.items()}
    plain = by_name(judge_head(head, evaluate(rest, {"probabilities": p[500:]})).metrics())
    for name, metric in plain.items():
        assert weighted[name].value == pytest.approx(metric.value), name
        assert weighted[name].error == pytest.approx(metric.error, rel=0.3), name


def test_the_baseline_is_chosen_on_training_events(
    build: Build, arrays: Arrays, evaluate: Evaluate
) -> None:
    data, seen = arrays(1500, 7), arrays(1500, 8)
    # On the evaluated events alone, the missing momentum gives the class away.
    data["met"][:, 0] = 1000.0 * data["target/signal"]
    head = build(name="classification", target="signal")
    p = perfect(data["target/signal"], 0.5)
    train = evaluate(seen, {"probabilities": perfect(seen["target/signal"], 0.5)})
    found = by_name(
        judge_head(head, evaluate(data, {"probabilities": p}, train=train)).baselines(), "jets"
    )
    assert 0.7 < found["AUC"].value < 0.99
    assert "met" not in found["AUC"].of
    alone = by_name(judge_head(head, evaluate(data, {"probabilities": p})).baselines(), "met.pt")
    assert alone["AUC"].value == 1.0
    assert "chosen on these events" in alone["AUC"].of
    trivial = by_name(
        judge_head(head, evaluate(data, {"probabilities": p}, train=train)).baselines(), "trivial"
    )
    assert trivial["log-loss"].value == pytest.approx(math.log(2), abs=0.01)


def test_a_class_that_is_absent_gives_nan_not_an_error(
    build: Build, arrays: Arrays, evaluate: Evaluate
) -> None:
    data = arrays(50, 9)
    data["target/signal"][:] = 0
    head = build(name="classification", target="signal")
    evaluation = evaluate(data, {"probabilities": perfect(data["target/signal"], 0.5)})
    assert math.isnan(by_name(judge_head(head, evaluation).metrics())["AUC"].value)
    judge_head(head, evaluation).baselines()
    assert judge_head(head, evaluation).figures()
    data["target/signal"][:] = -1
    nothing = evaluate(data, {"probabilities": np.full((50, 2), 0.5)})
    assert (
        judge_head(head, nothing).metrics()
        == judge_head(head, nothing).baselines()
        == judge_head(head, nothing).figures()
        == []
    )


@pytest.mark.parametrize(
    ("target", "weighted"), [("signal", True), ("kind", False), ("flavour", False)]
)
def test_figures_are_drawn(
    build: Build, arrays: Arrays, evaluate: Evaluate, target: str, weighted: bool
) -> None:
    head = build(name="classification", target=target)
    classes = len(head.prior)

    def evaluation(seed: int, train: Evaluation | None = None) -> Evaluation:
        data = arrays(400, seed)
        random = np.random.default_rng(seed)
        raw = random.random((*data[f"target/{target}"].shape, classes)) + 0.1
        weight = random.normal(1, 0.3, 400) if weighted else None
        return evaluate(data, {"probabilities": raw / raw.sum(-1, keepdims=True)}, weight, train)

    judged = evaluation(1, evaluation(2))
    drawings = judge_head(head, judged).figures()
    names = [drawing.name for drawing in drawings]
    assert {"roc", "confusion", "calibration"} < set(names)
    assert len(set(names)) == len(names)
    for drawing in drawings:
        target_file = BytesIO()
        save(drawing.figure, target_file, dpi=40)
        assert target_file.tell() > 1000
        assert "400" in drawing.caption or "objects" in drawing.caption or target == "kind"
    roc = drawings[names.index("roc")].figure
    roc.draw_without_rendering()
    for legend in roc.legends:
        assert legend.get_window_extent().y0 >= roc.axes[0].get_window_extent().y1
    assert bool(roc.legends) == (classes > 2)
    assert all(
        math.isfinite(m.error) for m in judge_head(head, judged).metrics() if math.isfinite(m.value)
    )
    assert judge_head(head, judged).baselines()


def test_the_calibration_says_which_prior_a_sampled_training_gives(
    build: Build, arrays: Arrays, evaluate: Evaluate
) -> None:
    data = arrays(400, 1)
    data["target/signal"] = np.where(np.arange(400) < 100, 1, 0)
    plain = evaluate(data, {"probabilities": perfect(data["target/signal"], 0.2)})
    head = build(name="classification", target="signal")

    def caption(drawn: dict[str, list[float]]) -> str:
        drawings = judge_head(head, replace(plain, drawn=drawn)).figures()
        return next(d.caption for d in drawings if d.name == "calibration")

    assert "sampled" not in caption({})
    assert "sampled" not in caption({"target/kind": [0.1, 0.9]})
    assert "prior, signal 0.600 (here 0.250); where they differ it need not lie" in caption(
        {"target/signal": [0.4, 0.6]}
    )
    assert "sampled event by event" in caption({"target/signal": [math.nan, math.nan]})


def test_no_baseline_depends_on_the_orientation_of_the_event(
    build: Build, arrays: Arrays, evaluate: Evaluate
) -> None:
    data = arrays(300, 3)
    data["met"][:, 1] = np.where(data["target/signal"] == 1, 0.1, 3.0)
    head = build(name="classification", target="signal")
    evaluation = evaluate(data, {"probabilities": perfect(data["target/signal"], 0.5)})
    found = by_name(judge_head(head, evaluation).baselines())["AUC"]
    assert "jets" in found.of
    assert found.value < 0.95
