from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

harness = pytest.importorskip("benchmarks.harness", reason="the benchmarks are not here")


def test_every_turn_has_every_name_once_in_changing_order() -> None:
    names = list("abcde")
    found = harness.turns(names, 20, seed=3)
    assert len(found) == 20
    assert all(sorted(turn) == names for turn in found)
    assert len({tuple(turn) for turn in found}) > 10
    assert found == harness.turns(names, 20, seed=3)
    assert found != harness.turns(names, 20, seed=4)
    firsts = Counter(turn[0] for turn in harness.turns(names, 500))
    assert set(firsts) == set(names)
    # 100 expected; five standard deviations are 45.
    assert max(abs(n - 100) for n in firsts.values()) < 45


def test_contenders_run_interleaved() -> None:
    ran: list[str] = []
    names = ("a", "b", "c")
    harness.interleave({n: (lambda n=n: ran.append(n)) for n in names}, 4, warm_up=True, seed=1)
    assert ran[:3] == ["a", "b", "c"]
    assert ran[3:] == [name for turn in harness.turns(names, 4, seed=1) for name in turn]


def test_the_least_of_each_figure_is_kept() -> None:
    costs = iter(harness.Cost(*pair) for pair in [(9.0, 9.0), (3.0, 5.0), (2.0, 8.0), (4.0, 6.0)])
    found = harness.interleave({"a": lambda: next(costs)}, 3, warm_up=True)
    assert found == {"a": harness.Cost(2.0, 5.0)}


def test_ratios() -> None:
    one, other = harness.Cost(6.0, 8.0), harness.Cost(2.0, 16.0)
    assert one.per(4) == harness.Cost(1.5, 2.0)
    assert one.over(other) == harness.Cost(3.0, 0.5)


def test_a_table_shows_costs_and_ratios_to_the_base() -> None:
    costs = {"base": harness.Cost(2e-6, 4e-6), "slow": harness.Cost(6e-6, 6e-6)}
    table = harness.cost_table("read", costs, "base", more={"size": {"slow": 0.5}})
    assert table.columns == ("CPU µs/event", "ratio", "wall µs/event", "ratio", "size")
    assert table.rows["base"] == pytest.approx((2, 1, 4, 1, None))
    assert table.rows["slow"] == pytest.approx((6, 3, 6, 1.5, 0.5))
    assert harness.cost_table("", costs, "base", unit="ms").rows["slow"][0] == pytest.approx(6e-3)


def test_cpu_is_not_wall() -> None:
    asleep = harness.measure(lambda: time.sleep(0.2))
    assert asleep.wall >= 0.2
    assert asleep.cpu < 0.1

    def work() -> None:
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass

    busy = harness.measure(work)
    assert 0.19 < busy.cpu < 0.3
    assert busy.wall > 0.19


def test_finished_children_count() -> None:
    work = "import time\nwhile time.process_time() < 0.3: pass"
    found = harness.measure(lambda: subprocess.run([sys.executable, "-c", work], check=True))
    assert 0.28 < found.cpu <= found.wall * 1.1


@pytest.mark.parametrize(
    ("measured", "limit", "at_least", "met"),
    [
        (3.0, 3.0, True, True),
        (2.9, 3.0, True, False),
        (2.5, 2.5, False, True),
        (2.6, 2.5, False, False),
    ],
)
def test_floors(measured: float, limit: float, at_least: bool, met: bool) -> None:
    floor = harness.Floor("a / b", measured, limit, at_least=at_least)
    assert floor.met is met
    assert ("NOT MET" not in floor.describe()) is met


def test_a_report_is_json() -> None:
    table = harness.Table("read", ("ratio",), {"a": (1.5,), "b": (None,)})
    report = harness.Report(1, "x", [table], [harness.Floor("a / b", 1.0, 3.0)])
    found = json.loads(json.dumps(report.as_json()))
    assert found["tables"][0]["rows"] == {"a": [1.5], "b": [None]}
    assert found["floors"] == [
        {"what": "a / b", "measured": 1.0, "limit": 3.0, "at_least": True, "met": False}
    ]


def test_a_page_says_where_the_figures_come_from() -> None:
    table = harness.Table("read", ("ratio", "size"), {"a": (1.54321, None), "b": (20000.0, "x")})
    floor = harness.Floor("a / b", 1.0, 3.0)
    report = harness.Report(4, "what is read", [table], [floor], ["a note"])
    found = harness.as_markdown("reading", [report], harness.machine()).splitlines()
    assert found[0] == "# Benchmark `reading`"
    assert re.match(r"20\d\d-\d\d-\d\d · .+ cores, load .* Python 3.*hepset .*torch", found[2])
    assert found[4:] == [
        "## 4. what is read",
        "",
        "read",
        "",
        "| | ratio | size |",
        "| --- | ---: | ---: |",
        "| a | 1.54 | – |",
        "| b | 20000 | x |",
        "",
        "- a / b: 1 (floor ≥ 3, NOT MET)",
        "",
        "- a note",
    ]


def test_the_processor_is_named_with_its_vectors(tmp_path: Path) -> None:
    told = tmp_path / "cpuinfo"
    told.write_text("model name\t: Great 7\nflags\t\t: fpu avx avx2\n\nmodel name\t: Great 7\n")
    assert harness.cpu_name(told) == "Great 7, AVX2"
    told.write_text("model name\t: Great 9\nflags\t\t: avx2 avx512f\n")
    assert harness.cpu_name(told) == "Great 9, AVX-512"
    told.write_text("Hardware : board\n")
    assert harness.cpu_name(told)


def test_peak_memory_is_that_of_the_call_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = """
imported = bytearray(b"x") * (80 << 20)
def hold(megabytes):
    return len(bytearray(b"x") * (megabytes << 20))
"""
    (tmp_path / "holding.py").write_text(module)
    known = os.environ.get("PYTHONPATH")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(tmp_path), known])))
    # Neither the 300 MB of this process nor the 80 MB of the import may count as added.
    ours = bytearray(b"x") * (300 << 20)
    found = harness.peak_memory("holding:hold", 40)
    assert found.value == 40 << 20
    assert 39 < found.added < 50
    assert 120 < found.total < 200
    assert len(ours) == 300 << 20


def test_a_failure_in_the_other_process_is_shown() -> None:
    with pytest.raises(RuntimeError, match="no attribute 'nothing'"):
        harness.peak_memory("json:nothing")


def test_events_are_scaled() -> None:
    options = harness.Options(Path(), scale=0.1)
    assert options.events(1000) == 100
    assert options.events(3) == 1
