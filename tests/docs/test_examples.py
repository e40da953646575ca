"""The examples run, made small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import hepset

from .conftest import ROOT

FOLDER = ROOT / "examples" / "ttbar"


@pytest.mark.slow
def test_tops_are_reconstructed_from_simulated_collisions(tmp_path: Path) -> None:
    pytest.importorskip("hepset_pythia")
    pytest.importorskip("hepset_spanet")
    config: dict[str, Any] = yaml.safe_load((FOLDER / "config.yaml").read_text(encoding="utf-8"))
    config["event"] = str(FOLDER / config["event"])
    config["read"][0]["events"] = 1500
    config["read"][1]["events"] = 2000
    config["prepare"]["split"] = {"train": 0.4, "val": 0.1, "test": 0.5}
    config["train"] |= {"epochs": 1, "progress": False}
    config["execution"] = {
        "convert": {"engine": "local", "workers": 1},
        "train": {"threads": 1, "accelerator": "cpu"},
    }
    config["output"] = str(tmp_path / "run")
    run = hepset.Run.from_yaml(config)
    run.run(last="evaluate")
    document = run.metrics
    found = {m["name"]: m for m in document["heads"]["assignment"]["metrics"]}
    for name in (
        "ttbar: event purity",
        "ttbar: m(t): half 68 % width",
        "ttbar: m(t1 + t2): bias",
        "ttbar: greedy and exact selection differ",
        "qcd: m(t) in the signal's window",
        "qcd: m(t), distance to random",
    ):
        assert found[name]["value"] is not None, name
    assert set(document["variations"]) == set(config["evaluate"]["variations"])
    report = (run.output / "report.html").read_text(encoding="utf-8")
    for words in ("Robustness", "Mass of t in qcd", "Reconstructed mass of t (q1 q2)"):
        assert words in report, words
