"""Named scores and the most probable classes of a classification."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from hepset.errors import ConfigurationError
from hepset.interfaces.head import Evaluation, Head
from hepset.judges import judge_head

Build = Callable[..., Head]
Evaluate = Callable[..., Evaluation]
Arrays = Callable[..., dict[str, Any]]

SCORES = {
    "b_vs_a": {"signal": ["b"], "background": ["a"]},
    "c_vs_rest": {"signal": ["c"], "background": ["[ab]"]},
}


def test_a_score_is_the_share_of_the_signal_in_the_summed_probabilities(build: Build) -> None:
    head = build(name="classification", target="kind", scores=SCORES, top=2)
    logits = torch.tensor([[1.0, 2.0, -1.0], [40.0, -40.0, 0.0]])
    found = head.decode({"logits": logits})
    p = found["probabilities"].double()
    torch.testing.assert_close(
        found["b_vs_a"][:1].double(), p[:1, 1] / (p[:1, 1] + p[:1, 0]), rtol=1e-6, atol=0
    )
    torch.testing.assert_close(found["c_vs_rest"][:1].double(), p[:1, 2], rtol=1e-6, atol=0)
    # Where the probability itself has rounded to 0 the score still tells.
    assert found["b_vs_a"][1].item() == pytest.approx(np.exp(-80.0), rel=1e-4)
    assert found["top"].tolist() == [[1, 0], [0, 2]]
    torch.testing.assert_close(found["top_probabilities"][0], found["probabilities"][0, [1, 0]])


def test_objects_have_scores_too_and_padding_none(build: Build) -> None:
    scores = {"b": {"signal": ["b"], "background": ["light"]}}
    head = build(name="classification", target="flavour", scores=scores, top=1)
    mask = torch.tensor([[True, False]])
    found = head.decode({"logits": torch.tensor([[[0.0, 3.0], [1.0, 2.0]]]), "mask": mask})
    assert found["b"][0].tolist() == [pytest.approx(1 / (1 + np.exp(-3.0))), 0.0]
    assert found["top"].tolist() == [[[1], [-1]]]
    assert found["top_probabilities"][0, 1].tolist() == [0.0]


def test_what_does_not_fit_is_named(build: Build) -> None:
    def fails(message: str, score: dict[str, Any], name: str = "s", **more: Any) -> None:
        with pytest.raises(ConfigurationError, match=message):
            build(name="classification", target="kind", scores={name: score}, **more)

    fails(r"heads.h.scores.s.signal: no class 'X_\*'", {"signal": ["X_*"], "background": ["a"]})
    fails(r"s: b cannot be signal and background", {"signal": ["b"], "background": ["*"]})
    fails(r"scores.top: a score is named", {"signal": ["b"], "background": ["a"]}, "top")
    with pytest.raises(ConfigurationError, match="top: 4 of 3 classes"):
        build(name="classification", target="kind", top=4)


def test_scores_are_judged_on_their_own_classes(
    build: Build, arrays: Arrays, evaluate: Evaluate
) -> None:
    rng = np.random.default_rng(4)
    data = arrays(6000, 5)
    truth = data["target/kind"] = rng.integers(-1, 3, 6000)
    # b against a: two normals one width apart; c is anywhere.
    x = rng.normal(np.where(truth == 1, 1.0, 0.0), 1.0)
    p_b = 1 / (1 + np.exp(-x))
    predictions = {
        "probabilities": np.stack([0.5 * (1 - p_b), 0.5 * p_b, np.full(6000, 0.5)], -1),
        "b_vs_a": p_b,
        "c_vs_rest": rng.random(6000),
        "top": np.stack([np.full(6000, 2), np.where(p_b > 0.5, 1, 0)], -1),
    }
    head = build(name="classification", target="kind", scores=SCORES, top=2)
    found = {m.name: m for m in judge_head(head, evaluate(data, predictions)).metrics()}
    # Background left at the signal's median and its 70 % quantile: Phi(-1), Phi(-1.5244).
    for share, left in (("50", 0.158655), ("30", 0.063706)):
        metric = found[f"b_vs_a: background rejection at {share} % signal efficiency"]
        assert metric.error > 0
        assert abs(metric.value - 1 / left) < 5 * metric.error
        nothing = found[f"c_vs_rest: background rejection at {share} % signal efficiency"]
        assert abs(nothing.value - 100 / int(share)) < 5 * nothing.error
    area = found["b_vs_a: AUC"]
    assert abs(area.value - 0.76025) < 4 * area.error
    known = truth >= 0
    within = (truth == 2) | (truth == predictions["top"][:, 1])
    assert found["top-2 accuracy"].value == pytest.approx(within[known].mean())
    drawings = {d.name for d in judge_head(head, evaluate(data, predictions)).figures()}
    assert "score-roc" in drawings


def test_many_classes_have_a_matrix_of_bounded_size(arrays: Arrays, evaluate: Evaluate) -> None:
    from hepset.judges.classes_figures import confusion_figure
    from hepset.judges.labelled import with_label

    rng = np.random.default_rng(4)
    data = arrays(300, 5)
    data["target/kind"] = rng.integers(0, 150, 300)
    entries = with_label(evaluate(data, {}), "kind")
    names = [f"class {c}" for c in range(188)]
    figure = confusion_figure(names, entries, rng.integers(0, 188, len(entries)))
    assert max(figure.get_size_inches()) < 12
    shares = np.asarray(figure.axes[0].images[0].get_array())
    assert shares.shape == (188, 188)
    known = np.isin(np.arange(188), data["target/kind"])
    np.testing.assert_allclose(np.nansum(shares, axis=1), known)
