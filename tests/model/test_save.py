from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from hepset.errors import ConfigurationError
from hepset.model import Model, load_model
from hepset.model.save import save_run


def test_a_stored_model_opens_and_predicts_the_same(
    model: Model, batch_of: object, tmp_path: Path
) -> None:
    path = save_run(model, tmp_path / "run", {"name": "Zürich"})
    assert path == tmp_path / "run/checkpoints/best.ckpt"
    assert [each.name for each in path.parent.iterdir()] == ["best.ckpt"]
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text("utf-8")) == {"name": "Zürich"}
    batch = batch_of(9, targets=False)  # type: ignore[operator]
    wanted = model.predict(batch)
    found = load_model(tmp_path / "run").predict(batch)
    assert set(found) == set(wanted)
    for name, array in found.items():
        np.testing.assert_array_equal(array, wanted[name])
    with pytest.raises(ConfigurationError, match="there is a checkpoint already"):
        save_run(model, str(tmp_path / "run"))
    save_run(model, str(tmp_path / "other"))
    assert not (tmp_path / "other/config.yaml").exists()
