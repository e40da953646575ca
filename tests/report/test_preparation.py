"""What a model says about the preparation of its events."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from hepset.predict.predict import preparation
from hepset.schema.config import PrepareConfig


@pytest.mark.parametrize(
    ("config", "cuts"),
    [
        ({}, {}),
        ({"select": "x > 1"}, {"cut": "x > 1"}),
        ({"select": "x > 1", "predict_select": "x > 0"}, {"cut": "x > 0"}),
        ({"select": "x > 1", "predict_select": {}}, {}),
    ],
)
def test_predictions_may_have_cuts_of_their_own(config: Any, cuts: dict[str, str]) -> None:
    stored = PrepareConfig.model_validate({"derive": {"ht": "sum(jets.pt)"}, **config})
    model = SimpleNamespace(provenance={"prepare": stored.model_dump(mode="json")})
    assert preparation(cast("Any", model)) == ({"ht": "sum(jets.pt)"}, cuts)
