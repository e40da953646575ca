from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hepset.errors import ConfigurationError
from hepset.model import Model, load_checkpoint, load_model


def test_a_run_and_its_checkpoint_open_alike(
    model: Model, checkpoint: Path, batch_of: object
) -> None:
    batch = batch_of(20, targets=False)  # type: ignore[operator]
    wanted = model.predict(batch)
    run = checkpoint.parent.parent
    for path in (run, str(run), checkpoint, str(checkpoint)):
        found = load_model(path)
        for name, array in found.predict(batch).items():
            np.testing.assert_array_equal(array, wanted[name])
    assert not load_checkpoint(run).training


def test_anything_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no such file or directory"):
        load_model(tmp_path / "absent")
    with pytest.raises(ConfigurationError, match=r"no checkpoints/best\.ckpt"):
        load_model(tmp_path)
    (tmp_path / "config.yaml").write_text("name: x")
    with pytest.raises(ConfigurationError, match="has not been trained"):
        load_model(tmp_path)
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(ConfigurationError, match="a data set, not a run"):
        load_model(tmp_path)
    (tmp_path / "notes.txt").write_text("no checkpoint")
    with pytest.raises(ConfigurationError, match="not a checkpoint that can be read safely"):
        load_model(tmp_path / "notes.txt")
    torch.save({"weights": torch.ones(2)}, tmp_path / "other.pt")
    with pytest.raises(ConfigurationError, match="not a checkpoint of hepset"):
        load_model(tmp_path / "other.pt")


class Dangerous:
    """Unpickling it would create a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    torch.save({"model": Dangerous(tmp_path / "ran")}, tmp_path / "evil.ckpt")
    with pytest.raises(ConfigurationError, match="read safely"):
        load_model(tmp_path / "evil.ckpt")
    assert not (tmp_path / "ran").exists()


def test_any_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    for number, content in enumerate([b"", b"text\n", b"\x80\x02}q\x00.", bytes(range(256)) * 8]):
        path = tmp_path / f"{number}.ckpt"
        path.write_bytes(content)
        with pytest.raises(ConfigurationError, match="checkpoint"):
            load_model(path)
