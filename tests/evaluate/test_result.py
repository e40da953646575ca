from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from hepset.evaluate.result import drawn_shares
from hepset.schema.event import EventInfo

EVENT = EventInfo.parse(
    {
        "streams": {"jets": {"slots": 3, "features": ["pt"]}},
        "targets": {
            "signal": {"kind": "classification", "classes": ["no", "yes"]},
            "flavour": {"kind": "classification", "stream": "jets", "classes": ["b", "light"]},
        },
    },
    "event.yaml",
)
PRIOR = {"target/signal": [0.4, 0.6], "target/flavour": [0.1, 0.9]}


@pytest.mark.parametrize(
    "train", [{}, {"train": None}, {"train": {"sampling": None}}, {"train": {"epochs": 3}}]
)
def test_a_training_without_sampling_draws_nothing(train: dict[str, Any]) -> None:
    model: Any = SimpleNamespace(provenance={**train, "prior": PRIOR}, event=EVENT)
    assert drawn_shares(model) == {}


def test_shares_of_objects_are_not_known() -> None:
    sampled = {"train": {"sampling": {"classes": "signal"}}, "prior": PRIOR}
    model: Any = SimpleNamespace(provenance=sampled, event=EVENT)
    found = drawn_shares(model)
    assert found["target/signal"] == [0.4, 0.6]
    assert [math.isnan(share) for share in found["target/flavour"]] == [True, True]
