from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from hepset.cli import main
from hepset.dataset import Dataset
from hepset.model import Model, OnnxModel
from hepset.predict import predict_split
from hepset.predict.predictions import read_predictions


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner()


def test_export_and_inspect_what_it_wrote(
    runner: CliRunner, checkpoint: Path, tmp_path: Path
) -> None:
    target = tmp_path / "model.onnx"
    result = runner.invoke(main, ["export", str(checkpoint.parent.parent), "-o", str(target)])
    assert result.exit_code == 0, result.output
    assert "agrees with torch on batches of 1, 3, 256 events" in result.output
    assert "toy/probabilities" in OnnxModel(target).contract
    result = runner.invoke(main, ["inspect", str(target)])
    assert result.exit_code == 0, result.output
    for words in ("met.pt > 5", "toy/scores", "guessed from names", "background, signal"):
        assert words in result.output
    result = runner.invoke(main, ["export", str(target), "-o", str(tmp_path / "x.onnx")])
    assert result.exit_code == 2
    assert "already an ONNX file" in result.output
    # Nothing says how to read files for a model without its run.
    result = runner.invoke(main, ["predict", str(target), "x.h5", "-o", str(tmp_path / "p")])
    assert result.exit_code == 2
    assert "--reader" in result.output


def test_inspect_datasets_checkpoints_and_predictions(
    runner: CliRunner, model: Model, dataset: Dataset, checkpoint: Path, tmp_path: Path
) -> None:
    list(predict_split(model, dataset, "test", tmp_path / "p.parquet"))
    expected = {
        dataset.path: ("430 events", "made.h5", "jets.pt", "GeV", "four-momenta"),
        checkpoint: ("transformer", "head toy", "target/signal"),
        tmp_path / "p.parquet": ("90 rows", "toy/probabilities", "split"),
    }
    for path, words in expected.items():
        result = runner.invoke(main, ["inspect", str(path)])
        assert result.exit_code == 0, result.output
        # The title of a table names the file, and is wrapped where its folder has a long name.
        shown = " ".join(result.output.split())
        for word in words:
            assert word in shown, (path, word)


def test_inspect_says_what_it_cannot_show(runner: CliRunner, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("?")
    (tmp_path / "broken.parquet").write_text("?")
    (tmp_path / "broken.root").write_text("?")
    for name, words in {
        ".": "neither a data set",
        "notes.txt": "neither a directory nor a file",
        "broken.parquet": "not a Parquet file",
        "broken.root": "not a ROOT file",
    }.items():
        result = runner.invoke(main, ["inspect", str(tmp_path / name)])
        assert result.exit_code == 2, result.output
        assert words in result.output


def test_a_dataset_is_written_through_any_writer(
    runner: CliRunner, dataset: Dataset, tmp_path: Path
) -> None:
    target = tmp_path / "train.parquet"
    arguments = ["write", str(dataset.path), "--writer", "parquet", "-o", str(target)]
    result = runner.invoke(main, arguments)
    assert result.exit_code == 0, result.output
    table, _ = read_predictions(target)
    whole = dataset.split("train").read(["ids", "target/signal"])
    np.testing.assert_array_equal(table["entry"].to_numpy(), whole["ids"]["entry"])
    np.testing.assert_array_equal(table["target/signal"].to_numpy(), whole["target/signal"])
    for extra, message in (
        (["--option", "colour=red"], "colour"),
        (["--option", "colour"], "expected KEY=VALUE"),
        (["--split", "nonsense"], "nonsense"),
    ):
        result = runner.invoke(main, [*arguments, *extra])
        assert result.exit_code == 2, result.output
        assert message in result.output
