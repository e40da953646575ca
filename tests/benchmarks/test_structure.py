from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

structure = pytest.importorskip("benchmarks.structure", reason="the benchmarks are not here")


def test_components_of_a_graph() -> None:
    graph = {"a": {"b"}, "b": {"c", "d"}, "c": {"a"}, "d": {"e"}, "e": {"d"}, "f": {"a", "e"}}
    found = sorted(structure.components(graph))
    assert found == [["a", "b", "c"], ["d", "e"], ["f"]]


def test_imports_are_told_apart_and_names_are_followed(tmp_path: Path) -> None:
    files = {
        "pack/__init__.py": "",
        "pack/one.py": "from pack.sub import Thing\n",
        "pack/two.py": "def f():\n    import pack.one\n",
        "pack/sub/__init__.py": "",
        "pack/sub/__init__.pyi": "from .deep import Thing as Thing\n",
        "pack/sub/deep.py": (
            "from typing import TYPE_CHECKING\n"
            "from ..two import f\n"
            "if TYPE_CHECKING:\n    from pack.one import x\n"
        ),
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = structure.imports(tmp_path, "pack")
    assert found.at_once == {
        "pack.one": {"pack.sub.deep"},
        "pack.two": set(),
        "pack.sub.deep": {"pack.two"},
    }
    assert found.inside["pack.two"] == {"pack.one"}
    assert found.types["pack.sub.deep"] == {"pack.one"}
    assert found.knots("at_once") == []
    assert found.knots("at_once", "inside") == [["pack.one", "pack.sub.deep", "pack.two"]]
    assert structure.lines(tmp_path) == 8


def test_a_trace_counts_functions_and_arrays() -> None:
    def double(values: list[float]) -> list[float]:
        return [2 * value for value in values]

    def through(values: np.ndarray) -> float:
        return float(values.sum())

    def inner(number: int) -> int:
        return number + 1

    with structure.Trace(Path(__file__).parent, arrays=True) as trace:
        for _ in range(3):
            inner(1)
        through(np.ones(3))
        double([1.0])
    assert trace.called("inner") == 3
    names = {name.rpartition(".")[2] for _, name in trace.functions}
    assert {"double", "through", "inner"} <= names
    assert {name.rpartition(".")[2] for _, name in trace.steps} == {"through"}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.ones(2), True),
        ({"a": [np.ones((2, 3))]}, True),
        (np.ones(1), False),
        (SimpleNamespace(x=np.ones(3)), False),
        ([1.0, 2.0, 3.0], False),
        ("text", False),
    ],
)
def test_what_holds_arrays(value: object, expected: bool) -> None:
    assert structure.holds_arrays(value) is expected
