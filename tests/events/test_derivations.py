"""Derived columns: their order, their owners, and what they may not do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from numpy.typing import NDArray

from hepset.errors import ExpressionError
from hepset.events.derivations import (
    compile_derivations,
    evaluate_derivations,
    order_derivations,
)
from hepset.expressions.language import EVENT, Scope, compile_expression, compile_selection

SCOPE = Scope(streams={"jets": ["pt"], "leptons": ["pt"]}, events=["met.pt", "weight"])


class Columns:
    """Two events: jets of 30 and 10, one of 40; no leptons; met 20 and 80."""

    def event(self, name: str) -> NDArray[np.float32]:
        return {"met.pt": np.array([20, 80], np.float32)}[name]

    def stream(self, stream: str, feature: str) -> NDArray[np.float32]:
        return {("jets", "pt"): np.array([30, 10, 40], np.float32)}[stream, feature]

    def offsets(self, stream: str) -> NDArray[np.int64]:
        return np.array({"jets": [0, 2, 3], "leptons": [0, 0, 0]}[stream])


def test_columns_may_use_each_other_in_any_order() -> None:
    derivations, scope = compile_derivations(
        {
            "met.ratio": "met.pt / extra.ht",
            "jets.centred": "jets.fraction - mean(jets.fraction)",
            "jets.fraction": "jets.pt / extra.ht",
            "extra.ht": "sum(jets.pt)",
            "jets.met": "met.pt",
        },
        SCOPE,
    )
    assert [d.name for d in derivations] == [
        "extra/ht",
        "jets.met",
        "met.ratio",
        "jets.fraction",
        "jets.centred",
    ]
    assert [d.kind for d in derivations] == [EVENT, "jets", EVENT, "jets", "jets"]
    assert [d.feature for d in derivations][2:4] == ["met.ratio", "fraction"]
    values = evaluate_derivations(derivations, Columns())
    assert list(values) == [d.name for d in derivations]
    assert_array_equal(values["extra/ht"], [40, 40])
    assert_array_equal(values["jets.met"], [20, 20, 80])
    assert_array_equal(values["met.ratio"], [0.5, 2])
    assert_array_equal(values["jets.fraction"], [0.75, 0.25, 1])
    assert_array_equal(values["jets.centred"], [0.25, -0.25, 0])
    select = compile_selection("any(jets.fraction > 0.9) and extra.ht > 0", scope)
    assert select.names == ("extra/ht", "jets.fraction")
    assert not SCOPE.kind("jets.fraction")
    assert scope.kind("jets.fraction") == "jets"
    assert scope.kind("extra/ht") == EVENT


@settings(deadline=None)
@given(st.permutations(range(6)), st.data())
def test_every_column_comes_after_those_it_needs(order: list[int], data: st.DataObject) -> None:
    needs = {
        f"c{i}": [f"c{j}" for j in range(i) if data.draw(st.booleans())] + ["met.pt"]
        for i in range(6)
    }
    written = {f"c{i}": needs[f"c{i}"] for i in order}
    ordered = order_derivations(written)
    assert sorted(ordered) == sorted(written)
    for name, needed in needs.items():
        assert all(ordered.index(n) < ordered.index(name) for n in needed if n in needs)


def test_independent_columns_keep_their_order() -> None:
    assert order_derivations({"b": [], "a": [], "c": ["x"]}) == ["b", "a", "c"]


def test_a_circle_is_shown() -> None:
    with pytest.raises(ExpressionError, match=r"in a circle: .*jets.a -> jets.b|jets.b -> jets.a"):
        compile_derivations(
            {"jets.a": "jets.b + 1", "jets.b": "jets.a - 1", "jets.c": "jets.pt"}, SCOPE
        )
    with pytest.raises(ExpressionError, match="in a circle: x -> x"):
        order_derivations({"x": ["x"]})


def test_a_column_may_be_called_like_a_function_that_it_uses() -> None:
    derivations, _ = compile_derivations({"sum": "sum(jets.pt)", "extra.x": "sum + 1"}, SCOPE)
    assert_array_equal(evaluate_derivations(derivations, Columns())["extra/x"], [41, 41])


@pytest.mark.parametrize(
    ("derive", "message"),
    [
        ({"jets.pt": "jets.pt * 1000"}, "prepare.derive.jets.pt: .*exists already"),
        ({"weight": "met.pt"}, "exists already"),
        ({"extra.a": "met.pt", "extra/a": "met.pt"}, "'extra/a' exists already"),
        ({"met.a": "jets.pt"}, "belongs to the event, but .* one value per object of 'jets'"),
        ({"leptons.a": "jets.pt"}, "belongs to the stream 'leptons', but .* of 'jets'"),
        ({"jets": "met.pt"}, "'jets' is a stream; name a feature of it"),
        ({"jets.": "met.pt"}, "is no name for a column"),
        ({"a b": "met.pt"}, "is no name for a column"),
        ({"jets.a": "jets.ptt"}, "prepare.derive.jets.a: .*did you mean 'pt'"),
    ],
)
def test_errors_name_the_column(derive: dict[str, str], message: str) -> None:
    with pytest.raises(ExpressionError, match=message):
        compile_derivations(derive, SCOPE)


def test_a_plain_name_is_whatever_its_expression_gives() -> None:
    derivations, scope = compile_derivations(
        {
            "jets.log_x": "log(x)",
            "x": "fraction * ht",
            "fraction": "jets.pt / ht",
            "ht": "sum(jets.pt)",
            "extra.twice": "2 * ht",
        },
        SCOPE,
    )
    kinds = {d.name: (d.kind, d.plain) for d in derivations}
    assert kinds == {
        "ht": (EVENT, True),
        "extra/twice": (EVENT, False),
        "fraction": ("jets", True),
        "x": ("jets", True),
        "jets.log_x": ("jets", False),
    }
    values = evaluate_derivations(derivations, Columns())
    assert_array_equal(values["fraction"], [0.75, 0.25, 1])
    assert_array_equal(values["jets.log_x"], np.log([30.0, 10, 40]))
    assert compile_selection("all(x > 1) and ht > 10", scope).names == ("ht", "x")
    with pytest.raises(ExpressionError, match=r"in a circle: .*a -> b|b -> a"):
        compile_derivations({"a": "b + met.pt", "b": "a"}, SCOPE)


def test_columns_of_the_files_have_their_own_names() -> None:
    scope = Scope(
        streams={"jets": ["pt"]},
        events=["columns/met", "columns/weight", "weight"],
        objects={"columns/raw": "jets"},
        absent={"lost": "a.root"},
    )

    def names(text: str) -> tuple[str, ...]:
        return compile_expression(text, scope).names

    assert names("raw / met") == ("columns/met", "columns/raw")
    assert names("weight + columns.weight") == ("columns/weight", "weight")
    with pytest.raises(ExpressionError, match=r"there is no column 'lost' in a\.root"):
        names("raw / lost")
    with pytest.raises(ExpressionError, match="unknown name 'mett'; did you mean 'met'"):
        names("mett > 3")
