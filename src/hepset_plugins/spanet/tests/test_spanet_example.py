"""``examples/spanet``, on SPANet's files in the places where a clone of SPANet has them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import hepset
from hepset.cli import main
from hepset.run.config import load_config

ROOT = Path(__file__).parents[4]
DATA = ROOT.parent / "shared" / "data" / "spanet"
OPTIONS = {
    "hidden_dim": 64,
    "num_encoder_layers": 6,
    "training_file": "./data/full_hadronic_ttbar/example.h5",
    "event_info_file": "./event_files/full_hadronic_ttbar.yaml",
    "partial_events": True,
    "balance_particles": True,
    "batch_size": 32,
    "epochs": 500,
    "learning_rate": 0.0015,
    "learning_rate_cycles": 1,
    "l2_penalty": 0.0002,
}


@pytest.mark.slow
@pytest.mark.skipif(not DATA.is_dir(), reason="shared/data/spanet is not there")
def test_the_example_runs_on_a_clone_of_spanet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "example"
    clone = folder / "SPANet"
    for part in ("event_files", "options_files/full_hadronic_ttbar", "data/full_hadronic_ttbar"):
        (clone / part).mkdir(parents=True)
    shutil.copy(ROOT / "examples" / "spanet" / "config.yaml", folder)
    shutil.copy(DATA / "full_hadronic_ttbar.yaml", clone / "event_files")
    shutil.copy(
        DATA / "full_hadronic_ttbar.h5", clone / "data" / "full_hadronic_ttbar" / "example.h5"
    )
    options = clone / "options_files" / "full_hadronic_ttbar" / "example.json"
    options.write_text(json.dumps(OPTIONS))
    monkeypatch.chdir(tmp_path)
    config = str(folder / "config.yaml")
    few = ["train.epochs=1", "train.progress=false", "read.max_events=1500"]
    few += ["execution.convert.workers=1", "execution.train.accelerator=cpu"]
    arguments = [part for each in few for part in ("--set", each)]
    done = CliRunner().invoke(main, ["run", config, *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    run = hepset.Run.open("runs/spanet")
    # The example's own lines win over SPANet's options, which fill in the rest.
    assert run.config.train.batch_size == 256
    assert run.config.train.weight_decay == pytest.approx(0.0002)
    metrics = {m["name"] for m in run.metrics["heads"]["assignment"]["metrics"]}
    assert {"event purity", "t purity", "m(t): half 68 % width"} <= metrics
    out = ["predict", "runs/spanet", str(clone / "data" / "full_hadronic_ttbar" / "example.h5")]
    done = CliRunner().invoke(
        main, [*out, "-o", "out.h5", "--writer", "spanet-hdf5"], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    import h5py

    with h5py.File("out.h5") as file:
        assert file["TARGETS/t1/b"].shape == (10_000,)


def test_options_of_the_reader_can_be_changed_without_naming_it(tmp_path: Path) -> None:
    """``--set read.max_events=…`` where SPANet's options name the files."""
    event = {
        "INPUTS": {"SEQUENTIAL": {"Jets": {"pt": "log"}}},
        "EVENT": {"h": ["a", "b"]},
    }
    (tmp_path / "event.yaml").write_text(json.dumps(event))
    (tmp_path / "options.json").write_text(json.dumps({"training_file": "some.h5"}))
    config = {
        "event": str(tmp_path / "event.yaml"),
        "options": str(tmp_path / "options.json"),
        "read": {"max_events": 5},
    }
    (reading,) = load_config(config).config.read
    assert reading == {"reader": "spanet-hdf5", "files": ["some.h5"], "max_events": 5}
    (reading,) = load_config(
        {**config, "read": {"reader": "root", "files": ["/x.root"]}}
    ).config.read
    assert reading == {"reader": "root", "files": ["/x.root"]}
