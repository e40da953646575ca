from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from torch import Tensor

from hepset.batch import make_ids
from hepset.errors import ConfigurationError
from hepset.interfaces.backbone import Encoded
from hepset.interfaces.head import EncoderHandle, Head, HeadConfig, LossTerm
from hepset.interfaces.judge import Drawing, Evaluation, Metric, Prediction, Separation
from hepset.judges import judge_head, separations_of
from hepset.numbers import metric_text
from hepset.schema.contract import Contract, compile_contract
from hepset.schema.event import EventInfo
from hepset.schema.statistics import Statistics
from hepset.uncertainty import weighted_mean

EVENT = EventInfo.parse(
    {
        "streams": {"jets": {"slots": 4, "features": {"pt": {"unit": "GeV"}, "eta": {}}}},
        "targets": {
            "signal": {"kind": "classification", "classes": ["background", "signal"]},
            "other": {"kind": "classification", "classes": ["no", "yes"]},
        },
    },
    "event",
)


class Bare(Head):
    """Learns nothing: only what is asked after the training counts here."""

    stated: tuple[Prediction, ...] = ()

    def contract(self, event: EventInfo) -> Contract:
        del event
        return Contract()

    def build(self, contract: Contract, statistics: Statistics, width: int) -> None:
        del contract, statistics, width

    def forward(self, encoded: Encoded, encoder: EncoderHandle) -> dict[str, Tensor]:
        del encoded, encoder
        return {}

    def loss(
        self, outputs: Mapping[str, Tensor], targets: Mapping[str, Tensor]
    ) -> dict[str, LossTerm]:
        del outputs, targets
        return {}

    def decode(self, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return dict(outputs)

    def predictions(self, event: EventInfo) -> tuple[Prediction, ...]:
        del event
        return self.stated


def head_of(*stated: Prediction) -> Head:
    head = Bare("h", HeadConfig())
    head.stated = stated
    return head


def evaluation_of(size: int = 400, **changes: Any) -> Evaluation:
    random = np.random.default_rng(0)
    truth = random.integers(0, 2, size)
    score = np.clip(0.3 + 0.4 * truth + random.normal(0, 0.2, size), 0, 1)
    values: dict[str, Any] = {
        "event": EVENT,
        "contract": compile_contract(EVENT),
        "predictions": {"p": np.stack([1 - score, score], -1)},
        "targets": {"target/signal": truth, "target/other": random.permutation(truth)},
        "inputs": {
            "jets": random.exponential(1.0, (size, 4, 2)).astype(np.float32),
            "jets.mask": np.ones((size, 4), bool),
        },
        "weight": np.ones(size),
    }
    return Evaluation(**{**values, **changes})


def test_a_head_of_a_known_kind_has_everything_for_free() -> None:
    judge = judge_head(
        head_of(Prediction("classes", "signal", {"probabilities": "p"})), evaluation_of()
    )
    names = [metric.name for metric in judge.metrics()]
    assert names[:3] == ["AUC", "accuracy", "log-loss"]
    assert {metric.name for metric in judge.baselines()} >= {"AUC"}
    drawings = {drawing.name: drawing for drawing in judge.figures()}
    assert set(drawings) == {"roc", "score-1", "confusion", "calibration"}
    assert isinstance(drawings["roc"].figure, Figure)
    assert separations_of(head_of(judge.judges[0].prediction), EVENT) == {
        "background": None,
        "signal": None,
    }
    assert isinstance(judge.separation("signal"), Separation)
    with pytest.raises(KeyError):
        judge.separation("nothing")


def test_predictions_of_one_kind_have_names_of_their_own() -> None:
    both = [Prediction("classes", name, {"probabilities": "p"}) for name in ("signal", "other")]
    judge = judge_head(head_of(*both), evaluation_of())
    names = [metric.name for metric in judge.metrics()]
    assert len(set(names)) == len(names)
    assert {"signal: AUC", "other: AUC"} <= set(names)
    drawn = [drawing.name for drawing in judge.figures()]
    assert len(set(drawn)) == len(drawn) == 8


@pytest.mark.parametrize(
    ("prediction", "message"),
    [
        (Prediction("clases", "signal"), "no judge of the kind 'clases'.*classes"),
        (Prediction("classes", "signal", {"probabilities": "q"}), r"probabilities \(q\).*gives p"),
        (Prediction("numbers", "signal"), r"value \(not named\)"),
    ],
)
def test_what_cannot_be_judged_is_refused(prediction: Prediction, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        judge_head(head_of(prediction), evaluation_of()).metrics()


def test_a_head_that_judges_itself_still_works() -> None:
    class Former(Bare):
        predictions = Head.predictions  # type: ignore[assignment]

        def metrics(self, evaluation: Evaluation) -> list[Metric]:
            return [Metric("events", float(len(evaluation)), 0.0)]

        def figures(self, evaluation: Evaluation) -> list[Drawing]:
            return [Drawing("a", "A", f"{len(evaluation)} events.", Figure())]

    head = Former("h", HeadConfig())
    with pytest.warns(DeprecationWarning, match="Former.metrics is deprecated: a head states"):
        judge = judge_head(head, evaluation_of(10))
    assert judge.metrics() == [Metric("events", 10.0, 0.0)]
    assert judge.baselines() == []
    assert [drawing.name for drawing in judge.figures()] == ["a"]


def test_copies_of_one_event_are_one_event_in_errors() -> None:
    """Every event four times: the numbers stay, their errors are those of the quarter."""
    few = evaluation_of(100)
    rows = np.repeat(np.arange(100), 4)
    ids = make_ids(0, rows, np.tile(np.arange(4), 100))
    many = Evaluation(
        few.event,
        few.contract,
        {"p": few.predictions["p"][rows]},
        {name: array[rows] for name, array in few.targets.items()},
        {name: array[rows] for name, array in few.inputs.items()},
        np.ones(400),
        ids=ids,
    )
    assert many.groups is not None
    np.testing.assert_array_equal(many.groups, rows)
    head = head_of(Prediction("classes", "signal", {"probabilities": "p"}))
    one, copied = ({m.name: m for m in judge_head(head, each).metrics()} for each in (few, many))
    for name in ("AUC", "accuracy", "log-loss"):
        assert copied[name].value == pytest.approx(one[name].value)
        # Wilson's and DeLong's errors against those of sums over events, and a bootstrap.
        assert copied[name].error == pytest.approx(one[name].error, rel=0.2)
    known = weighted_mean(np.arange(100.0))
    assert weighted_mean(np.arange(100.0)[rows], None, many.groups).error == pytest.approx(
        known.error
    )
    assert evaluation_of(10, ids=make_ids(0, range(10))).groups is None


def test_weights_that_sum_to_nothing_have_no_metrics_but_a_reason() -> None:
    """A negative sum over all entries, and over the signal alone, and none at all."""
    head = head_of(Prediction("classes", "signal", {"probabilities": "p"}))
    plain = evaluation_of(90)
    signal = plain.targets["target/signal"] == 1
    thirds = np.where(np.arange(90) % 3 == 0, 1.0, -1.0)
    for weight, reason in (
        (thirds, "the weights of 90 entries sum to -30"),
        (np.zeros(90), "sum to 0"),
        (np.where(signal, thirds, 5.0), f"signal: the weights of {signal.sum()} entries"),
    ):
        judge = judge_head(head, evaluation_of(90, weight=weight, weighted=True))
        metrics = judge.metrics()
        assert {metric.name for metric in metrics} >= {"AUC", "accuracy", "log-loss"}
        for metric in metrics:
            assert np.isnan(metric.value)
            assert reason in metric.note
            assert metric_text(metric) == f"no meaning: {metric.note}"
        assert judge.baselines() == judge.figures() == []
