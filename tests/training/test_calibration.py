from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from hepset.heads.classification import ClassificationHead
from hepset.training import calibration


class Calibrated(ClassificationHead):
    seen: int = 0

    def calibrate(
        self, held_out: Iterable[tuple[Mapping[str, Tensor], Mapping[str, Tensor]]]
    ) -> None:
        self.seen = sum(len(outputs["logits"]) for outputs, _ in held_out)
        self.prior.fill_(float(self.seen))


class FakeModel:
    def __init__(self, head: torch.nn.Module) -> None:
        self.heads = {"x": head}

    def head(self, name: str) -> torch.nn.Module:
        return self.heads[name]

    def state_dict(self) -> dict[str, Tensor]:
        return {f"heads.x.{k}": v for k, v in self.heads["x"].state_dict().items()}


@pytest.mark.parametrize("prefix", ["", "model."])
def test_what_a_head_learns_of_held_out_events_is_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    from hepset.heads.classification import ClassificationConfig

    head = Calibrated("x", ClassificationConfig(target="t"))
    head.register_buffer("prior", torch.zeros(2))
    path = tmp_path / "best.ckpt"
    torch.save({"model": {}, "state_dict": {f"{prefix}heads.x.prior": torch.zeros(2)}}, path)
    batches: list[Any] = [({"logits": torch.zeros(3, 2)}, {}), ({"logits": torch.zeros(4, 2)}, {})]
    monkeypatch.setattr(calibration, "load_checkpoint", lambda _path: FakeModel(head))
    monkeypatch.setattr(calibration, "_held_out", lambda *_rest: iter(batches))
    dataset: Any = SimpleNamespace(splits={"val": 7}, split=lambda _name: range(7))
    calibration.calibrate_checkpoint(path, dataset)
    stored = torch.load(path, weights_only=True)["state_dict"]
    assert stored[f"{prefix}heads.x.prior"].tolist() == [7.0, 7.0]
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_touched_without_held_out_events_or_without_a_need(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hepset.heads.classification import ClassificationConfig

    path = tmp_path / "missing.ckpt"
    empty: Any = SimpleNamespace(splits={"val": 0}, split=lambda _name: range(0))
    calibration.calibrate_checkpoint(path, empty)
    plain = ClassificationHead("x", ClassificationConfig(target="t"))
    monkeypatch.setattr(calibration, "load_checkpoint", lambda _path: FakeModel(plain))
    full: Any = SimpleNamespace(splits={"val": 7}, split=lambda _name: range(7))
    calibration.calibrate_checkpoint(path, full)
    assert not path.exists()
