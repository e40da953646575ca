from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hepset.dataset import Dataset
from hepset.errors import TrainingError
from hepset.interfaces.head import LossTerm
from hepset.schema.config import ModelConfig, TrainConfig, TrainExecution
from hepset.training.finite import STEPS_BETWEEN_QUESTIONS, FiniteCheck, Moment
from hepset.training.fit import fit
from hepset.training.module import TrainingModule

IDS = torch.tensor([[0, 10, 0], [0, 11, 0], [1, 12, 0]])


def terms(*values: float, valid: tuple[bool, ...] = (True, True, True)) -> dict[str, LossTerm]:
    good = LossTerm(torch.ones(3), torch.ones(3, dtype=torch.bool))
    return {"a/x": good, "b/y": LossTerm(torch.tensor(values), torch.tensor(valid))}


def moment(step: int) -> Moment:
    return Moment("training", step // 10, step % 10, step)


def test_asked_at_once_it_names_step_head_and_event() -> None:
    check = FiniteCheck(["one.root", "two.root"], lambda: "\nmore")
    inf = float("inf")
    good = terms(1.0, inf, 2.0, valid=(True, False, True))
    check(torch.tensor(1.0), good, IDS, moment(3), wait=True)
    with pytest.raises(TrainingError) as caught:
        check(torch.tensor(inf), terms(1.0, inf, inf), IDS, moment(13), wait=True)
    message = str(caught.value)
    assert "the training loss is not finite in epoch 2, batch 4 (step 13)" in message
    assert "head 'b', term 'y': 2 of 3 events, first one.root, entry 11: inf" in message
    assert "head 'a'" not in message
    assert message.endswith("more")


def test_asked_later_it_names_the_first_step() -> None:
    check = FiniteCheck(["one.root", "two.root"])
    nan = float("nan")
    check(torch.tensor(1.0), terms(1.0, 2.0, 3.0), IDS, moment(11), wait=False)
    check(torch.tensor(nan), terms(1.0, 2.0, nan), IDS, moment(12), wait=False)
    check(torch.tensor(nan), terms(nan, nan, nan), IDS, moment(13), wait=False)
    with pytest.raises(TrainingError) as caught:
        check.settle()
    assert "epoch 2, batch 3 (step 12)" in str(caught.value)
    assert "1 of 3 events, first two.root, entry 12: nan" in str(caught.value)
    check.settle()  # What was told is not told again.


def test_it_is_asked_now_and_then_and_when_the_terms_change() -> None:
    check = FiniteCheck([])
    bad = torch.tensor(float("nan"))
    check(bad, terms(1.0, 2.0, 3.0), IDS, moment(0), wait=False)
    good, given = torch.tensor(1.0), terms(1.0, 2.0, 3.0)
    for step in range(1, STEPS_BETWEEN_QUESTIONS - 1):
        check(good, given, IDS, moment(step), wait=False)
    with pytest.raises(TrainingError, match="every term is finite, but their weighted sum is not"):
        check(good, given, IDS, moment(STEPS_BETWEEN_QUESTIONS - 1), wait=False)
    check(bad, terms(1.0, 2.0, 3.0), IDS, moment(0), wait=False)
    with pytest.raises(TrainingError, match="step 0"):
        check(good, {"c/z": given["a/x"]}, IDS, moment(1), wait=False)


class Questions(TorchDispatchMode):
    """Counts the operations whose results a computer has to wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if str(func) in {"aten._local_scalar_dense.default", "aten.nonzero.default"}:
            self.asked.append(str(func))
        return func(*args, **(kwargs or {}))


def test_nothing_is_asked_in_between() -> None:
    check, bad = FiniteCheck([]), torch.tensor(float("nan"))
    given = terms(1.0, 2.0, 3.0)
    with Questions() as questions:
        for step in range(5):
            check(bad, given, IDS, moment(step), wait=False)
        assert questions.asked == []
        with pytest.raises(TrainingError):
            check.settle()
    assert questions.asked


def test_no_step_waits_for_the_device(
    dataset: Dataset,
    model_config: ModelConfig,
    config: TrainConfig,
    execution: TrainExecution,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Forward pass, losses, weights and sums of whole steps, as a GPU would run them."""
    heads = {"neutrino": model_config.heads["neutrino"]}
    backbone = {**model_config.backbone, "skip_padding": False}
    chosen = model_config.model_copy(update={"heads": heads, "backbone": backbone})
    ask = FiniteCheck.__call__

    def later(self: FiniteCheck, *args: Any) -> None:
        ask(self, *args, wait=False)

    step = TrainingModule._loss
    asked: list[str] = []

    def watched(self: TrainingModule, *args: Any) -> Any:
        with Questions() as questions:
            loss = step(self, *args)
        asked.extend(questions.asked)
        return loss

    monkeypatch.setattr(FiniteCheck, "__call__", later)
    monkeypatch.setattr(TrainingModule, "_loss", watched)
    once = config.model_copy(update={"epochs": 1})
    fit(chosen, dataset, once, execution=execution, seed=1, directory=tmp_path)
    assert asked == []
