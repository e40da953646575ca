"""Judges of partitions, sets and samples, against a pencil and brute force."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from hepset.interfaces.judge import Evaluation, Metric, Prediction
from hepset.judges.partitions import PartitionsJudge
from hepset.judges.samples import SamplesJudge, crps
from hepset.judges.sets import SetsJudge
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo

EVENT = EventInfo.parse(
    {
        "streams": {"tracks": {"slots": 6, "features": {"pt": {"unit": "GeV"}}}},
        "targets": {"pz": {"kind": "regression", "unit": "GeV"}},
    },
    "event",
)


def evaluation_of(predictions: dict[str, Any], targets: dict[str, Any], **more: Any) -> Evaluation:
    size = len(next(iter(predictions.values())))
    contract = compile_contract(EVENT)
    values: dict[str, Any] = {"inputs": {}, "weight": np.ones(size), **more}
    return Evaluation(EVENT, contract, predictions, targets, **values)


def by_name(metrics: list[Metric], of: str = "") -> dict[str, float]:
    return {metric.name: metric.value for metric in metrics if of in metric.of}


def test_partitions_by_a_pencil() -> None:
    # Truth {0 1 2} {3 4}, and one object without truth; found {0 1} {2 3 4}.
    truth = np.array([[7, 7, 7, 2, 2, -1], [0, 0, 1, 1, -1, -1]])
    label = np.array([[0, 0, 5, 5, 5, 5], [3, 3, 8, 8, 0, 0]])
    judge = PartitionsJudge(
        Prediction("partitions", "vertex", {"label": "v"}, ("event", "tracks")),
        evaluation_of({"v": label}, {"target/vertex": truth}),
    )
    found = by_name(judge.metrics())
    # Pairs of the first event: 4 true, 2 of them found; 4 found, 2 of them true. Second: 2 of 2.
    assert found["pair efficiency"] == pytest.approx(4 / 6)
    assert found["pair purity"] == pytest.approx(4 / 6)
    assert found["events without a mistake"] == pytest.approx(0.5)
    # Hubert and Arabie: (2 − 4·4/10) / (4 − 4·4/10) = 1/6, and 1.
    assert found["adjusted Rand index"] == pytest.approx((1 / 6 + 1) / 2)
    together = by_name(judge.baselines(), "one group")
    assert together["pair efficiency"] == 1
    assert together["adjusted Rand index"] == pytest.approx(0)


def test_the_rand_index_of_random_partitions_by_brute_force() -> None:
    random = np.random.default_rng(1)
    truth, label = random.integers(0, 3, (50, 6)), random.integers(-1, 3, (50, 6))
    wanted = []
    for t, p in zip(truth, label, strict=True):
        counts = np.zeros((2, 2))
        for i, j in combinations(range(6), 2):
            counts[int(t[i] == t[j]), int(p[i] == p[j] and p[i] >= 0)] += 1
        index, total = counts[1, 1], counts.sum()
        one, other = counts[1].sum(), counts[:, 1].sum()
        expected, most = one * other / total, (one + other) / 2
        wanted.append(1.0 if most == expected else (index - expected) / (most - expected))
    judge = PartitionsJudge(
        Prediction("partitions", "vertex", {"label": "v"}, ("event", "tracks")),
        evaluation_of({"v": label}, {"target/vertex": truth}),
    )
    assert by_name(judge.metrics())["adjusted Rand index"] == pytest.approx(np.mean(wanted))


def test_sets_by_a_pencil() -> None:
    true = np.zeros((2, 2, 6), bool)
    true[0, 0, :3] = true[0, 1, 3:5] = true[1, 0, :2] = True
    members = np.zeros((2, 3, 6))
    members[0, 1, :2] = 0.9  # 2 of 3: overlap 2/3
    members[0, 2, 4:] = 0.8  # 1 of 3: overlap 1/3, not matched
    members[1, 0, :2] = 0.7  # equal
    members[1, 1, 5] = 0.6  # nothing
    judge = SetsJudge(
        Prediction("sets", "decays", {"members": "m"}),
        evaluation_of({"m": members}, {"target/decays": true}),
    )
    found = by_name(judge.metrics())
    assert found["set efficiency"] == pytest.approx(2 / 3)
    assert found["set purity"] == pytest.approx(2 / 4)
    assert found["mean overlap of the true sets"] == pytest.approx((2 / 3 + 1 / 3 + 1) / 3)
    whole = by_name(judge.baselines())
    assert whole["mean overlap of the true sets"] == pytest.approx((3 / 6 + 2 / 6 + 2 / 6) / 3)


def test_padding_is_in_no_set() -> None:
    mask = np.array([[True, True, False, False]])
    true = mask[:, None, :]
    judge = SetsJudge(
        Prediction("sets", "decays", {"members": "m"}, ("event", "set", "tracks")),
        evaluation_of(
            {"m": np.full((1, 1, 4), 0.9)}, {"target/decays": true}, inputs={"tracks.mask": mask}
        ),
    )
    for found in (judge.metrics(), judge.baselines()):
        assert by_name(found) == dict.fromkeys(by_name(found), 1.0)


def test_weights_that_sum_to_nothing_are_said() -> None:
    weights = {"weight": np.array([1.0, -2.0]), "weighted": True}
    label = np.array([[0, 0], [1, 1]])
    number = np.zeros((2, 40))
    for judge in (
        PartitionsJudge(
            Prediction("partitions", "vertex", {"label": "f"}, ("event", "tracks")),
            evaluation_of({"f": label}, {"target/vertex": label}, **weights),
        ),
        SetsJudge(
            Prediction("sets", "decays", {"members": "f"}),
            evaluation_of(
                {"f": np.ones((2, 1, 2))}, {"target/decays": np.ones((2, 1, 2))}, **weights
            ),
        ),
        SamplesJudge(
            Prediction("samples", "pz", {"samples": "f"}, ("event", "sample")),
            evaluation_of({"f": number}, {"target/pz": np.zeros(2)}, **weights),
        ),
    ):
        metrics = judge.metrics()
        assert metrics
        assert all(np.isnan(metric.value) for metric in metrics)
        assert all("sum to -1" in metric.note for metric in metrics)


def test_the_score_of_samples_by_brute_force() -> None:
    random = np.random.default_rng(2)
    samples, truth = np.sort(random.normal(size=(20, 7))), random.normal(size=20)
    pairs = [(i, j) for i in range(7) for j in range(7) if i != j]
    spread = np.mean([np.abs(samples[:, i] - samples[:, j]) for i, j in pairs], axis=0)
    wanted = np.abs(samples - truth[:, None]).mean(axis=1) - spread / 2
    np.testing.assert_allclose(crps(samples, truth), wanted, rtol=1e-10)


def test_samples_of_the_right_distribution_cover_what_they_should() -> None:
    random = np.random.default_rng(3)
    middle = random.normal(0, 5, 3000)
    truth = middle + random.normal(0, 1, 3000)

    def judged(width: float) -> dict[str, Metric]:
        samples = middle[:, None] + random.normal(0, width, (3000, 40))
        train = evaluation_of({"s": samples}, {"target/pz": random.permutation(truth)})
        judge = SamplesJudge(
            Prediction("samples", "pz", {"samples": "s"}, ("event", "sample")),
            evaluation_of({"s": samples}, {"target/pz": truth}, train=train),
        )
        assert isinstance(judge.figures()[0].figure, Figure)
        trivial = by_name(judge.baselines())["pz: CRPS"]
        # A normal distribution of width σ has σ / √π.
        assert trivial == pytest.approx(np.sqrt(26 / np.pi), rel=0.05)
        return {metric.name: metric for metric in judge.metrics()}

    right, narrow = judged(1.0), judged(0.5)
    coverage = next(name for name in right if "coverage" in name)
    assert abs(right[coverage].value) < 4 * right[coverage].error
    assert narrow[coverage].value < -0.2
    assert right["pz: CRPS"].value == pytest.approx(1 / np.sqrt(np.pi), rel=0.05)
    assert right["pz: CRPS"].value < narrow["pz: CRPS"].value
    assert right["pz: half 68 % width"].value == pytest.approx(1.0, rel=0.08)
    assert right["pz: CRPS"].unit == "GeV"
