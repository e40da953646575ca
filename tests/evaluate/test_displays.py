from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hepset.errors import ConfigurationError
from hepset.evaluate.columns import KeptColumn
from hepset.evaluate.displays import display
from hepset.evaluate.evaluate import require_drawings
from hepset.interfaces.head import Evaluation
from hepset.schema.config import DisplayConfig, EvaluateConfig
from hepset.schema.contract import compile_contract
from hepset.schema.event import EventInfo

EVENT = EventInfo.parse(
    {
        "streams": {
            "parts": {
                "slots": 3,
                "features": {
                    "pt": {"unit": "GeV"}, "eta": {}, "phi": {}, "mass": {"unit": "GeV"},
                    "is_a": {}, "is_b": {}, "dx": {"unit": "mm"},
                },
            },
            "points": {"slots": 3, "features": {"x": {}, "y": {}}},
        },
        "globals": {"jet": {"features": {"pt": {"unit": "GeV", "input": False}}}},
        "targets": {"label": {"kind": "classification", "classes": ["one", "two", "none"]}},
    },
    "event",
)  # fmt: skip


def evaluation() -> Evaluation:
    """Three events of class two, one and two; the second has one object, the last none."""
    parts = np.zeros((3, 3, 7))
    parts[0] = [[10, 0.5, 1, 0, 1, 0, 4], [30, -0.5, 2, 0, 0, 1, 5], [60, 0, 3, 0, 0, 0, 6]]
    parts[1, 0] = [7, 1.5, -1, 0, 0, 1, 2]
    mask = np.array([[True] * 3, [True, False, False], [False] * 3])
    return Evaluation(
        EVENT,
        compile_contract(EVENT),
        {},
        {"target/label": np.array([1, 0, 1])},
        {
            "parts": parts, "parts.mask": mask,
            "points": np.ones((3, 3, 2)), "points.mask": mask,
            "jet": np.array([[512.25], [7.0], [0.0]]),
        },
        np.ones(3),
        extra={"extra/m": np.array([80.0, 1.0, 0.0])},
    )  # fmt: skip


def points(axes: Any) -> dict[str, NDArray[Any]]:
    """Rows of x, y and area by colour."""
    found = {}
    for collection in axes.collections:
        offsets = np.asarray(collection.get_offsets())
        if len(offsets):
            colour = str(collection.get_facecolor()[0, :3].round(2).tolist())
            found[colour] = np.column_stack([offsets, collection.get_sizes()])
    return found


def test_one_panel_per_class_shows_every_object() -> None:
    asked = DisplayConfig(
        stream="parts", kinds={"A": "is_a", "B": "is_b"}, values=("jet.pt", "extra.m")
    )
    [drawing] = display(asked, evaluation())
    panels = [axes for axes in drawing.figure.axes if axes.axison]
    assert [axes.get_title(loc="left") for axes in panels] == ["one", "two"]
    [only] = points(panels[0]).values()
    np.testing.assert_allclose(only[0, :2], [1.5, -1.0], atol=1e-6)
    by_colour = points(panels[1])
    assert len(by_colour) == 3
    rows = np.concatenate(list(by_colour.values()))
    rows = rows[np.argsort(rows[:, 1])]
    np.testing.assert_allclose(rows[:, :2], [[0.5, 1], [-0.5, 2], [0, 3]], atol=1e-6)
    # Areas grow with the share of pT: 10, 30 and 60 %.
    np.testing.assert_allclose(np.diff(rows[:, 2]) / np.diff(rows[:, 2])[0], [1, 1.5])
    assert panels[1].texts[0].get_text() == "jet.pt = 512 GeV\nm = 80\n3 parts"
    assert drawing._repr_png_().startswith(b"\x89PNG")
    labels = [text.get_text() for text in drawing.figure.legends[0].get_texts()]
    assert labels == ["A", "B", "other"]


def test_coordinates_may_be_named_and_events_without_objects_are_empty_panels() -> None:
    asked = DisplayConfig(stream="parts", x="dx", y="pt", size="eta", per_class=2)
    [drawing] = display(asked, evaluation())
    panels = [axes for axes in drawing.figure.axes if axes.axison]
    assert [axes.get_title(loc="left") for axes in panels] == ["one", "two", "two"]
    assert panels[2].texts[0].get_text() == "0 parts"
    assert not points(panels[2])
    assert not drawing.figure.legends
    assert panels[0].get_xlabel() == "dx [mm]"
    [shown] = points(panels[1]).values()
    assert sorted(shown[:, 0]) == [4, 5, 6]
    # A negative size is as small as none.
    assert sorted(shown[:, 2])[:2] == [9.0, 9.0]


KEPT = {
    "extra/d0": KeptColumn("parts", True, "float32"),
    "extra/file": KeptColumn(None, False, "<U4"),
    "extra/pdf": KeptColumn(None, False, "float32"),
}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"stream": "part"}, "no stream 'part'; did you mean 'parts'"),
        ({"stream": "parts", "x": "ete"}, r"displays.0.x: .*no feature 'ete'; did you mean 'eta'"),
        ({"stream": "parts", "kinds": {"A": "a"}}, r"displays.0.kinds.A: .*no feature 'a'"),
        ({"stream": "points", "x": "x"}, "no four-momentum; say which"),
        ({"stream": "parts", "values": ["jet.m"]}, "no column 'jet.m'"),
        ({"stream": "parts", "values": ["parts.pt"]}, "'parts.pt' has no single value per event"),
        ({"stream": "parts", "values": ["extra.d0"]}, "'extra.d0' .*one per object of 'parts'"),
        ({"stream": "parts", "values": ["extra.file"]}, "'extra.file' has dtype <U4 and is no col"),
        ({"stream": "parts", "values": ["extra.pdf"]}, "'extra.pdf' has dtype float32 and is no"),
    ],
)
def test_what_is_not_there_is_refused(asked: dict[str, Any], message: str) -> None:
    config = EvaluateConfig.model_validate({"displays": asked})
    with pytest.raises(ConfigurationError, match=message):
        require_drawings(config, EVENT, {}, KEPT)
    fine = EvaluateConfig.model_validate({"displays": {"stream": "points", "x": "x", "y": "y"}})
    require_drawings(fine, EVENT, {}, KEPT)
