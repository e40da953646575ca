"""The regression head: several targets, transforms, widths, quantiles, metrics, baselines."""

from __future__ import annotations

import math
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from hepset.errors import ConfigurationError, ExpressionError
from hepset.figures import save
from hepset.heads.regression import quantile_field
from hepset.interfaces.backbone import Encoded
from hepset.interfaces.head import EncoderHandle, Evaluation, Head, Metric
from hepset.judges import judge_head
from hepset.judges.calibration import calibrate
from hepset.judges.variables import event_variables
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo

Build = Callable[..., Head]
Evaluate = Callable[..., Evaluation]
Arrays = Callable[..., dict[str, Any]]
EVERY = ["m_tt", "t1/pz", "angle", "jet_pt"]
LOSSES = ["huber", "mse", "gaussian", "laplace"]


def by_name(metrics: list[Metric], of: str | None = None) -> dict[str, Metric]:
    return {m.name: m for m in metrics if of is None or of in m.of}


def test_wrong_options_are_named(build: Build) -> None:
    with pytest.raises(ConfigurationError, match="give either 'target' or 'targets'"):
        build(name="regression")
    with pytest.raises(ConfigurationError, match=r"'m_t'; did you mean 'm_tt'"):
        build(name="regression", target="m_t")
    with pytest.raises(ConfigurationError, match="'signal' is a classification"):
        build(name="regression", target="signal")
    with pytest.raises(ConfigurationError, match=r"0\.5: the median is the value"):
        build(name="regression", target="m_tt", quantiles=[0.1, 0.9])
    with pytest.raises(ConfigurationError, match="the angle 'angle' has no quantiles"):
        build(name="regression", target="angle", loss="quantile")
    with pytest.raises(ExpressionError, match=r"model\.heads\.h\.baselines\.m_tt"):
        build(name="regression", target="m_tt", baselines={"m_tt": "sum(jets.pT)"})
    with pytest.raises(ConfigurationError, match="one value per object of 'jets'"):
        build(name="regression", target="m_tt", baselines={"m_tt": "2 * jets.pt"})


@pytest.mark.parametrize("loss", LOSSES)
def test_outputs_of_every_kind_of_target(
    build: Build, encoded: Encoded, handle: EncoderHandle, loss: str
) -> None:
    head = build(name="regression", targets=EVERY, loss=loss)
    outputs = head(encoded, handle)
    fields = head.decode(outputs)
    sigmas = [f"{name}.sigma" for name in EVERY] if loss in {"gaussian", "laplace"} else []
    assert set(fields) == {*EVERY, *sigmas}
    for name, values in fields.items():
        assert values.shape == ((3, 5) if name.startswith("jet_pt") else (3,)), name
        assert torch.isfinite(values).all()
    assert (fields["jet_pt"][~encoded.masks["jets"]] == 0).all()
    assert (fields["angle"].abs() <= math.pi).all()
    targets = {
        "target/m_tt": torch.tensor([400.0, math.nan, 500.0]),
        "target/t1/pz": torch.tensor([0.0, 1.0, math.nan]),
        "target/jet_pt": torch.full((3, 5), math.nan),
    }
    targets["target/jet_pt"][0, :2] = 50.0
    terms = head.loss(outputs, targets)
    assert list(terms) == EVERY
    assert terms["m_tt"].valid.tolist() == [True, False, True]
    assert terms["t1/pz"].valid.tolist() == [True, True, False]
    assert terms["angle"].valid.tolist() == [False] * 3
    assert terms["jet_pt"].valid.tolist() == [True, False, False]
    sum(term.value.sum() for term in terms.values()).backward()
    grads = [p.grad for p in head.parameters()]
    assert all(g is not None and torch.isfinite(g).all() for g in grads)


def test_decoding_inverts_what_the_loss_compares(
    build: Build, encoded: Encoded, handle: EncoderHandle
) -> None:
    head = build(name="regression", targets=["m_tt", "t1/pz", "angle"], loss="mse")
    raw = head(encoded, handle)["event"].detach()
    fields = head.decode({"event": raw})
    truth = {f"target/{name}": values for name, values in fields.items()}
    terms = head.loss({"event": raw}, truth)
    for name in ("m_tt", "t1/pz"):
        assert float(terms[name].value.abs().max()) < 1e-8
    # A predicted (cos, sin) need not have length one, but its direction is the decision.
    unit = raw.clone()
    unit[:, 2:, 0] /= unit[:, 2:, 0].norm(dim=-1, keepdim=True)
    assert float(head.loss({"event": unit}, truth)["angle"].value.abs().max()) < 1e-8


def test_objects_are_averaged_per_event(
    build: Build, encoded: Encoded, handle: EncoderHandle
) -> None:
    head = build(name="regression", target="jet_pt", loss="mse")
    outputs = head(encoded, handle)
    truth = torch.full((3, 5), math.nan)
    truth[0, 0], truth[0, 3] = 40.0, 90.0
    term = head.loss(outputs, {"target/jet_pt": truth})["jet_pt"]
    transform, raw = head.transforms["jets_objects"], outputs["jets_objects"][0, :, 0, 0]
    model_space = (truth[0] - transform.mean) / transform.width
    expected = ((raw[0] - model_space[0]) ** 2 + (raw[3] - model_space[3]) ** 2) / 2
    torch.testing.assert_close(term.value[0], expected)
    assert term.valid.tolist() == [True, False, False]


def test_sigma_is_half_of_the_central_68_percent(build: Build) -> None:
    level = stats.norm.cdf(1) - stats.norm.cdf(-1)
    half = {"gaussian": 1.0, "laplace": stats.laplace.ppf(0.5 + level / 2)}
    for loss, expected in half.items():
        head = build(name="regression", target="t1/pz", loss=loss)
        fields = head.decode({"event": torch.zeros(1, 1, 2)})
        width = head.transforms["event"].width.item()
        assert fields["t1/pz.sigma"].item() == pytest.approx(expected * width, rel=1e-5)


def test_quantiles_are_ordered_and_named(
    build: Build, encoded: Encoded, handle: EncoderHandle
) -> None:
    head = build(name="regression", target="m_tt", loss="quantile", quantiles=[0.05, 0.5, 0.975])
    fields = head.decode(head(encoded, handle))
    assert list(fields) == ["m_tt", "m_tt.q05", "m_tt.q50", "m_tt.q975"]
    assert torch.equal(fields["m_tt"], fields["m_tt.q50"])
    assert (fields["m_tt.q05"] < fields["m_tt"]).all()
    assert (fields["m_tt"] < fields["m_tt.q975"]).all()
    assert [quantile_field(q) for q in (0.5, 0.005, 0.16)] == [".q50", ".q005", ".q16"]


def test_metrics_of_a_known_distribution(build: Build, arrays: Arrays, evaluate: Evaluate) -> None:
    data = arrays(4000, 3)
    random = np.random.default_rng(4)
    shift = random.normal(5.0, 20.0, 4000)
    head = build(name="regression", targets=["t1/pz", "angle"])
    wrapped = data["target/angle"] + 2 * np.pi + 0.1
    predictions = {"t1/pz": data["target/t1/pz"] + shift, "angle": wrapped}
    metrics = by_name(judge_head(head, evaluate(data, predictions)).metrics())
    expected = {
        "bias (median residual)": 5.0,
        "half 68 % width": 20.0,
        "RMS": math.hypot(5, 20),
        "mean absolute error": stats.foldnorm.mean(5 / 20, scale=20),
    }
    for what, value in expected.items():
        metric = metrics[f"t1/pz: {what}"]
        assert abs(metric.value - value) < 4 * metric.error, what
        assert 0 < metric.error < 1
        assert metric.unit == "GeV"
    assert "t1/pz: relative half 68 % width" not in metrics
    assert metrics["angle: bias (median residual)"].value == pytest.approx(0.1, abs=1e-6)
    assert metrics["angle: RMS"].value == pytest.approx(0.1, abs=1e-6)


def test_missing_targets_are_not_judged(build: Build, arrays: Arrays, evaluate: Evaluate) -> None:
    data = arrays(500, 3)
    predicted = np.where(np.isnan(data["target/m_tt"]), 1e9, data["target/m_tt"] * 1.1)
    metrics = by_name(
        judge_head(
            build(name="regression", target="m_tt"), evaluate(data, {"m_tt": predicted})
        ).metrics()
    )
    assert metrics["m_tt: mean absolute error"].value < 1000
    assert metrics["m_tt: relative half 68 % width"].value == pytest.approx(0, abs=1e-5)


def test_baselines_find_the_variable_and_are_fitted_to_training_events(
    build: Build, arrays: Arrays, evaluate: Evaluate
) -> None:
    data, seen = arrays(1500, 7), arrays(3000, 8)
    zeros = {"m_tt": np.zeros(1500)}
    head = build(name="regression", target="m_tt", baselines={"m_tt": "sum(jets.pt) + met.pt"})
    judged = evaluate(data, zeros, train=evaluate(seen, {"m_tt": np.zeros(3000)}))
    metrics = judge_head(head, judged).baselines()
    whose = list(dict.fromkeys(metric.of for metric in metrics))
    assert len(whose) == 3
    assert whose[0].startswith("calibrated sum(jets.pt) + met.pt (")
    assert whose[1].startswith("calibrated sum of jets.pt (")
    assert whose[2] == "constant (trivial)"
    width = {m.of: m.value for m in metrics if m.name == "m_tt: relative half 68 % width"}
    # m_tt is 100 + 1.5 HT smeared by 10 %: no calibration of HT can be better.
    assert 0.05 < width[whose[1]] < 0.11
    assert width[whose[1]] < width[whose[0]] < width[whose[2]]
    bias = {m.of: m for m in metrics if m.name == "m_tt: bias (median residual)"}[whose[1]]
    assert abs(bias.value) < 5 * bias.error
    same = build(name="regression", target="m_tt", baselines={"m_tt": "sum(jets.pt)"})
    assert len({metric.of for metric in judge_head(same, judged).baselines()}) == 2
    named = build(name="regression", target="m_tt", baselines={"m_tt": {"HT": "sum(jets.pt)"}})
    assert judge_head(named, judged).baselines()[0].of.startswith("calibrated HT (")
    alone = judge_head(build(name="regression", target="m_tt"), evaluate(data, zeros)).baselines()
    assert "fitted to these events" in alone[0].of
    few = {name: values[:10] for name, values in data.items()}
    assert (
        judge_head(
            build(name="regression", target="m_tt"), evaluate(few, {"m_tt": np.zeros(10)})
        ).baselines()
        == []
    )


def test_an_angle_and_objects_have_baselines(
    build: Build, arrays: Arrays, evaluate: Evaluate
) -> None:
    data = arrays(600, 7)
    data["target/angle"] = data["met"][:, 1]
    head = build(name="regression", targets=["angle", "jet_pt"], baselines={"jet_pt": "jets.pt"})
    predictions = {"angle": np.zeros(600), "jet_pt": np.zeros((600, 5))}
    judged = evaluate(data, predictions, train=evaluate(arrays(600, 8), predictions))
    metrics = [
        m
        for m in judge_head(head, judged).baselines()
        if m.name == "jet_pt: relative half 68 % width"
    ]
    # The expression is the best variable: it is listed once.
    assert [m.of.split(" (")[0] for m in metrics] == ["calibrated jets.pt", "constant"]
    assert metrics[0].value == pytest.approx(0.1 / 1.1, rel=0.1)
    own = evaluate(data, predictions)
    assert by_name(judge_head(head, own).baselines(), "met.phi")["angle: RMS"].value == 0.0


@pytest.mark.parametrize(
    ("kind", "curve"),
    [
        ("linear", lambda x: 3 * x - 50),
        ("power law", lambda x: 2 * x**1.7),
        ("binned median", lambda x: np.abs(x - 100) + 10),
    ],
)
def test_calibration_takes_the_form_that_fits(kind: str, curve: Callable[[Any], Any]) -> None:
    random = np.random.default_rng(0)
    x = random.uniform(20, 200, 5000)
    y = curve(x) + random.normal(0, 1.0, 5000)
    y = np.abs(y) if kind == "power law" else y
    fitted = calibrate(x, y)
    assert fitted is not None
    assert fitted.kind == kind
    at = np.array([50.0, 150.0, np.nan])
    expected = [curve(50.0), curve(150.0), np.median(y)]
    np.testing.assert_allclose(fitted.apply(at), expected, rtol=0.05, atol=2.0)
    assert calibrate(np.ones(100), np.arange(100.0)) is None
    assert calibrate(x[:5], y[:5]) is None


@pytest.mark.parametrize(
    ("loss", "targets", "weighted"),
    [
        ("huber", ["angle"], False),
        ("gaussian", ["t1/pz"], True),
        ("quantile", ["jet_pt"], False),
    ],
)
def test_figures_are_drawn(
    build: Build,
    arrays: Arrays,
    evaluate: Evaluate,
    loss: str,
    targets: list[str],
    weighted: bool,
) -> None:
    head = build(name="regression", targets=targets, loss=loss)

    def evaluation(seed: int, train: Evaluation | None = None) -> Evaluation:
        data = arrays(400, seed)
        random = np.random.default_rng(seed)
        predictions = {}
        for name in targets:
            truth = data[f"target/{name}"]
            predictions[name] = np.nan_to_num(truth) + random.normal(0, 20, truth.shape)
            for suffix, delta in ((".q16", -20), (".q50", 0), (".q84", 20)):
                if loss == "quantile":
                    predictions[name + suffix] = predictions[name] + delta
            if loss == "gaussian":
                predictions[f"{name}.sigma"] = np.full(truth.shape, 20.0)
        weight = random.normal(1, 0.3, 400) if weighted else None
        return evaluate(data, predictions, weight, train)

    drawings = judge_head(head, evaluation(1, evaluation(2))).figures()
    extra = {"gaussian": "pull", "quantile": "coverage"}
    for name in targets:
        file = name.replace("/", "-")
        assert {f"truth-{file}", f"residual-{file}", f"resolution-{file}"} <= {
            d.name for d in drawings
        }
        if loss in extra:
            assert f"{extra[loss]}-{file}" in {d.name for d in drawings}
    for drawing in drawings:
        image = BytesIO()
        save(drawing.figure, image, dpi=40)
        assert image.tell() > 1000


def test_the_components_of_a_momentum_are_baselines(
    build: Build, arrays: Arrays, evaluate: Evaluate
) -> None:
    """A momentum along x is best guessed by pt cos φ, not by pt or by φ."""
    data, seen = arrays(400, 5), arrays(400, 6)
    for part in (data, seen):
        part["target/t1/pz"] = 2 * part["met"][:, 0] * np.cos(part["met"][:, 1]) + 1
    zeros = {"t1/pz": np.zeros(400)}
    judged = evaluate(data, zeros, train=evaluate(seen, zeros))
    found = judge_head(build(name="regression", target="t1/pz"), judged).baselines()
    best = by_name(found, "met.px")["t1/pz: mean absolute error"]
    assert best.of == "calibrated met.px (linear)"
    assert best.value < 1e-4
    jets = {v.name: v for v in event_variables(judged)}
    pt, eta = data["jets"][:, 0, 0], data["jets"][:, 0, 1]
    real = data["jets.mask"][:, 0]
    first = jets["jets.pz of object 1"].values
    np.testing.assert_allclose(first[real], (pt * np.sinh(eta))[real], rtol=1e-5)
    assert np.isnan(first[~real]).all()


def test_sine_and_cosine_make_an_angle() -> None:
    event = EventInfo.parse({"globals": {"met": {"features": ["met", "sin_phi", "cos_phi"]}}}, "e")
    phi = np.array([0.5, -3.0])
    met = np.stack([[2.0, 5.0], np.sin(phi), np.cos(phi)], -1)
    judged = Evaluation(event, compile_contract(event), {}, {}, {"met": met}, np.ones(2))
    found = {v.name: v for v in event_variables(judged)}
    np.testing.assert_allclose(found["met.phi"].values, phi)
    np.testing.assert_allclose(found["met.py"].values, [2.0, 5.0] * np.sin(phi))
    assert [name for name, v in found.items() if not v.oriented] == ["met.met"]


def test_numbers_that_weights_cancel_are_not_defined(
    build: Build, arrays: Arrays, evaluate: Evaluate
) -> None:
    data = arrays(100, 5)
    weight = np.where(np.arange(100) % 2, 1.0, -1.0)
    head = build(name="regression", target="t1/pz")
    metrics = by_name(judge_head(head, evaluate(data, {"t1/pz": np.zeros(100)}, weight)).metrics())
    assert math.isnan(metrics["t1/pz: RMS"].value)
    assert "sum to 0" in metrics["t1/pz: RMS"].note


def test_a_flexible_calibration_does_not_win_by_chance() -> None:
    random = np.random.default_rng(2)
    kinds = []
    for _ in range(10):
        x = random.normal(0, 1, 200)
        fitted = calibrate(x, x + random.normal(0, 1, 200))
        assert fitted is not None
        kinds.append(fitted.kind)
    assert kinds.count("linear") >= 8
