"""What a cut makes of a background, by hand and against brute force."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from hepset.dataset import Dataset
from hepset.errors import ConfigurationError, HepsetError
from hepset.evaluate.columns import KeptColumn
from hepset.evaluate.evaluate import judge, require_drawings
from hepset.evaluate.sculpting import KOLMOGOROV_MEAN, KOLMOGOROV_SPREAD, sculpting
from hepset.interfaces.head import Evaluation, Separation
from hepset.model import Model, build_model
from hepset.run import Run
from hepset.run.preflight import check_run
from hepset.schema.config import EvaluateConfig, ModelConfig, SculptingConfig
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo
from hepset.schema.statistics import ColumnStatistics, LabelCounts, Statistics, TensorStatistics

Array = NDArray[Any]
ASKED = SculptingConfig(score="h/s", against="extra.mass", mistag=0.1)


class Given:
    """Stands for the judges of a head with one score."""

    def __init__(self, *parts: Any) -> None:
        self.parts = parts

    def separation(self, name: str) -> Separation:
        assert name == "s"
        return Separation(*self.parts)


def evaluation_of(event: EventInfo, mass: Array, weight: Array | None = None) -> Evaluation:
    ones = np.ones(len(mass)) if weight is None else weight
    return Evaluation(
        event,
        compile_contract(event),
        {},
        {},
        {},
        ones,
        weighted=weight is not None,
        extra={"extra/mass": mass},
    )


def found_by(
    event: EventInfo, mass: Array, *parts: Any, weight: Array | None = None
) -> dict[tuple[str, str], Any]:
    judge: Any = Given(*parts)
    found = sculpting(ASKED, judge, evaluation_of(event, mass, weight))
    return {
        (m.name.split(": ")[1].split(" of ")[0], m.of): m for m in found.metrics + found.baselines
    }


def sample(size: int = 4000) -> tuple[Array, Array, Array]:
    """Signal around 100, background anywhere; the score is the mass's distance from 100."""
    half = (np.arange(size // 2) + 0.5) / (size // 2)
    mass = np.r_[stats.norm.ppf(half, 100, 10), 200 * half]
    return np.arange(size) < size // 2, mass, -np.abs(mass - 100)


def test_a_score_that_is_a_mass_builds_a_peak(event: EventInfo) -> None:
    signal, mass, score = sample()
    rng = np.random.default_rng(1)
    keep = np.ones(len(mass), bool)
    found = found_by(event, mass, score, signal, keep, ("dice", rng.random(len(mass))))
    # One tenth of a uniform background lies within ten of the middle, where the signal is.
    share = found["share", ""]
    assert share.value == pytest.approx(1.0, abs=0.02)
    before = found["share", "without a cut"]
    assert abs(before.value - 0.1) < 4 * before.error
    # Distributions of widths 20 and 200 about one centre are 0.45 apart.
    apart = found["distance", ""]
    assert apart.value == pytest.approx(0.45, abs=0.03)
    assert 0 < apart.error < 0.05
    kept = found["signal efficiency", ""]
    assert abs(kept.value - 0.6827) < 0.05
    # A score of dice changes nothing but by the number of what is left.
    passing = round(0.1 * int((~signal).sum()) + 0.49)
    by_chance = found["distance", f"{passing} at random"]
    assert by_chance.limit
    dice = found["distance", "dice"]
    assert abs(dice.value - by_chance.value) < 4 * by_chance.error
    alone = found["share", "dice"]
    assert abs(alone.value - 0.1) < 4 * alone.error


def test_what_chance_gives_is_what_random_choices_give(event: EventInfo) -> None:
    rng = np.random.default_rng(8)
    everything, drawn = rng.normal(size=500), 50
    distances = [
        stats.ks_2samp(rng.choice(everything, drawn, replace=False), everything).statistic
        for _ in range(400)
    ]
    scale = math.sqrt(1 / 50 - 1 / 500)
    assert np.mean(distances) == pytest.approx(KOLMOGOROV_MEAN * scale, rel=0.1)
    assert np.std(distances) == pytest.approx(KOLMOGOROV_SPREAD * scale, rel=0.15)
    mass = np.r_[everything, everything]
    signal = np.arange(1000) >= 500
    score = np.r_[np.arange(500.0), np.arange(500.0)]
    found = found_by(event, mass, score, signal, np.ones(1000, bool))
    assert found["distance", "50 at random"].value == pytest.approx(KOLMOGOROV_MEAN * scale)


def test_weights_count(event: EventInfo) -> None:
    signal, mass, score = sample(2000)
    keep = np.ones(2000, bool)
    # Background above 100 does not count at all, so that the median is at 50.
    weight = np.where(~signal & (mass > 100), 0.0, 2.0)
    found = found_by(event, mass, score, signal, keep, weight=weight)
    # One tenth of what counts is within ten below 100.
    assert found["distance", ""].value == pytest.approx(0.9, abs=0.03)
    assert found["share", ""].value == pytest.approx(1.0, abs=0.03)
    low = (mass[~signal] <= 100).sum()
    assert any(0.08 * low < float(of.split()[0]) < 0.25 * low for _, of in found if "random" in of)


def test_objects_are_judged_by_columns_of_their_own(event: EventInfo) -> None:
    rng = np.random.default_rng(2)
    mask = np.arange(6) < rng.integers(1, 7, 300)[:, None]
    signal = rng.random(mask.sum()) < 0.5
    pt = np.where(mask, rng.uniform(0, 100, mask.shape), 0)
    jets = np.zeros((300, 6, 4))
    jets[..., 0] = pt
    evaluation = evaluation_of(event, np.zeros(300))
    evaluation = Evaluation(
        event, evaluation.contract, {}, {}, {"jets": jets, "jets.mask": mask}, np.ones(300),
        extra=evaluation.extra,
    )  # fmt: skip
    judge: Any = Given(pt[mask], signal, mask)
    asked = SculptingConfig(score="h/s", against="jets.pt", mistag=0.5)
    metrics = {m.name.split(": ")[1]: m for m in sculpting(asked, judge, evaluation).metrics}
    assert metrics["distance of jets.pt to all background"].value == pytest.approx(0.5, abs=0.01)
    # A column of the event is the same for all its objects.
    assert sculpting(ASKED, judge, evaluation).metrics[1].value == 0


def test_one_kind_alone_says_nothing(event: EventInfo) -> None:
    _, mass, score = sample(100)
    nothing = found_by(event, mass, score, np.ones(100, bool), np.ones(100, bool))
    assert nothing == {}


CLASSIFICATION = {
    "name": "classification",
    "target": "signal",
    "scores": {"s": {"signal": ["signal"], "background": ["background"]}},
}


@pytest.fixture(scope="module")
def classifier(event: EventInfo) -> Model:
    config = ModelConfig.parse(
        {
            "backbone": {"name": "transformer", "width": 8, "depth": 1, "attention_heads": 2},
            "heads": {"label": CLASSIFICATION},
        },
        "model",
    )
    columns = {"pt": ColumnStatistics(count=2, mean=4.0, m2=2.0)}
    statistics = Statistics(
        events=2,
        tensors={"jets": TensorStatistics(columns=columns, transformed=columns)},
        labels={"target/signal": LabelCounts(events=[1, 1], weights=[1, 1])},
    )
    return build_model(config, event, compile_contract(event), statistics).eval()


def test_a_run_has_it_in_metrics_and_report(classifier: Model, dataset: Dataset) -> None:
    config = EvaluateConfig.model_validate(
        {
            "sculpting": {"score": "label/s", "against": "met.pt", "mistag": 0.2},
            "displays": {"stream": "jets", "values": ["met.pt"], "per_class": 2},
        }
    )
    judgement = judge(classifier, dataset, "test", config)
    result = judgement.heads["label"]
    plain = judge(classifier, dataset, "test", EvaluateConfig()).heads["label"]
    added = [m.name for m in result.metrics if m.name not in {p.name for p in plain.metrics}]
    assert added == [
        "s at 20 % mistag: signal efficiency",
        "s at 20 % mistag: distance of met.pt to all background",
        "s at 20 % mistag: share of background in the signal's window of met.pt",
    ]
    drawn = {d.name for d in result.drawings} - {d.name for d in plain.drawings}
    assert drawn == {"sculpting-s-met.pt-0.2"}
    assert [d.name for d in judgement.displays] == ["display-jets"]
    # A class is a score too: of two classes the same one.
    of_class = SculptingConfig(score="label/signal", against="met.pt", mistag=0.2)
    again = judge(classifier, dataset, "test", EvaluateConfig(sculpting=(of_class,)))
    values = [m.value for m in again.heads["label"].metrics if "mistag" in m.name]
    np.testing.assert_allclose(values, [m.value for m in result.metrics if "mistag" in m.name])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"score": "lable/s", "against": "met.pt"}, r"sculpting.0.score: .*no head 'lable'; did"),
        ({"score": "label/t", "against": "met.pt"}, r"no score 't'.*it has s, background, signal"),
        ({"score": "label/s", "against": "met.pz"}, r"no column 'met.pz'; did you mean 'met.pt'"),
        ({"score": "label/s", "against": "extra.m"}, r"prepare.derive, as extra"),
        (
            {"score": "label/s", "against": "jets.pt"},
            r"one value per object of 'jets', but .*event",
        ),
    ],
)
def test_what_is_not_there_is_refused_before_training(
    asked: dict[str, Any],
    message: str,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = Run.from_yaml(
        {
            "dataset": str(dataset.path),
            "model": {"heads": {"label": CLASSIFICATION}},
            "evaluate": {"sculpting": [asked]},
            "output": str(tmp_path / "run"),
        }
    )
    monkeypatch.delattr(Run, "train")
    with pytest.raises(ConfigurationError, match=message):
        run.run()
    with pytest.raises(ConfigurationError, match=message):
        check_run(run)


def test_heads_without_scores_say_so(event: EventInfo) -> None:
    asked = EvaluateConfig.model_validate({"sculpting": {"score": "t/s", "against": "met.pt"}})
    with pytest.raises(ConfigurationError, match="the head 't' has no score 's'; it has none"):
        require_drawings(asked, event, {"t": {"name": "toy"}}, {})


@pytest.mark.parametrize(
    ("target", "against", "message"),
    [
        ("signal", "extra.d0", "one value per object of 'jets', but the score 'h/b' one per event"),
        ("signal", "extra.file", "'extra.file' has dtype <U4 and is no column of single numbers"),
        ("signal", "extra.pdf", "'extra.pdf' has dtype float32 and is no column of single"),
        ("flavour", "muons.pt", "of 'muons', but .* one per object of 'jets'; .*event or of jets"),
        ("flavour", "extra.d0", None),
        ("flavour", "jets.pt", None),
        ("flavour", "extra.ht", None),
    ],
)
def test_columns_and_scores_belong_to_the_same(
    target: str, against: str, message: str | None
) -> None:
    event = EventInfo.parse(
        {
            "streams": {name: {"slots": 2, "features": {"pt": {}}} for name in ("jets", "muons")},
            "targets": {
                "signal": {"kind": "classification", "classes": ["a", "b"]},
                "flavour": {"kind": "classification", "classes": ["a", "b"], "stream": "jets"},
            },
        },
        "event",
    )
    kept = {
        "extra/d0": KeptColumn("jets", True, "float32"),
        "extra/ht": KeptColumn(None, True, "float32"),
        "extra/file": KeptColumn(None, False, "<U4"),
        "extra/pdf": KeptColumn(None, False, "float32"),
    }
    asked = EvaluateConfig.model_validate({"sculpting": {"score": "h/b", "against": against}})
    heads = {"h": {"name": "classification", "target": target}}
    if message is None:
        require_drawings(asked, event, heads, kept)
        return
    with pytest.raises(ConfigurationError, match=f"evaluate.sculpting.0.against: .*{message}"):
        require_drawings(asked, event, heads, kept)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"evaluate": {"split": "tset"}}, "evaluate.split: there is no split 'tset'; did you mean"),
        ({"export": {"layout": "hepst"}}, "'hepst'; did you mean 'hepset'"),
        ({"export": {"layout": {"name": "hepset", "a": 1}}}, "export.layout: a: unknown key"),
        ({"export": {"layout": {"a": 1}}}, "'name' is missing .* available export layouts"),
    ],
)
def test_later_stages_are_looked_at_before_training(
    part: dict[str, Any],
    message: str,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heads = {"label": CLASSIFICATION}
    document = {"dataset": str(dataset.path), "model": {"heads": heads}, "output": str(tmp_path)}
    run = Run.from_yaml({**document, **part})
    monkeypatch.delattr(Run, "train")
    with pytest.raises(HepsetError, match=message):
        run.run()
    with pytest.raises(HepsetError, match=message):
        check_run(run)
