"""Expressions against a per-event loop in plain Python, and what they must refuse."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from hepset.errors import ExpressionError
from hepset.expressions.functions import FUNCTIONS, Function
from hepset.expressions.language import (
    EVENT,
    Expression,
    Scope,
    compile_expression,
    compile_selection,
)
from hepset.expressions.named_files import absolute_files, named_files

NAN = math.nan
SCOPE = Scope(
    streams={"jets": ["pt", "eta", "phi", "btag", "charge", "in"], "leptons": ["pt"]},
    events=[
        "met.pt",
        "met.phi",
        "weight",
        "process",
        "target/signal",
        "target/t1/mass",
        "extra/run",
        "extra/group",
    ],
    objects={"extra/origin": "jets"},
    labels={"process": ["ttbar", "ww"], "target/signal": ["background", "signal"]},
)


@dataclass
class Columns:
    """Columns in memory."""

    events: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    objects: dict[tuple[str, str], np.ndarray[Any, Any]] = field(default_factory=dict)
    borders: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)

    def event(self, name: str) -> np.ndarray[Any, Any]:
        return self.events[name]

    def stream(self, stream: str, feature: str) -> np.ndarray[Any, Any]:
        return self.objects[stream, feature]

    def offsets(self, stream: str) -> np.ndarray[Any, Any]:
        return self.borders[stream]


def jets(*events: Sequence[float], dtype: Any = np.float32, **more: Any) -> Columns:
    """Columns with jets.pt by event, a met.pt of 10 times the event number, and others."""
    offsets = np.cumsum([0, *map(len, events)])
    flat = np.array([value for event in events for value in event], dtype=dtype)
    return Columns(
        {
            "met.pt": 10 * np.arange(len(events), dtype=np.float32),
            "process": np.arange(len(events), dtype=np.int16) % 2,
            **{name: np.asarray(values) for name, values in more.items()},
        },
        {("jets", "pt"): flat},
        {"jets": offsets},
    )


def compute(text: str, columns: Columns) -> np.ndarray[Any, Any]:
    return compile_expression(text, SCOPE).evaluate(columns)


THREE = jets([50, 30, 20], [], [40])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("count(jets)", [3, 0, 1]),
        ("count(jets.pt > 25)", [2, 0, 1]),
        ("sum(jets.pt)", [100, 0, 40]),
        ("sum(jets.pt > 25)", [2, 0, 1]),
        ("mean(jets.pt)", [100 / 3, NAN, 40]),
        ("min(jets.pt)", [20, NAN, 40]),
        ("max(jets.pt)", [50, NAN, 40]),
        ("any(jets.pt > 45)", [True, False, False]),
        ("all(jets.pt > 25)", [False, True, True]),
        ("first(jets.pt)", [50, NAN, 40]),
        ("nth(jets.pt, 2)", [30, NAN, NAN]),
        ("leading(jets.pt, 3)", [20, NAN, NAN]),
        ("leading(-jets.pt, 1)", [-20, NAN, -40]),
        ("leading(jets.pt, 1, -jets.pt)", [20, NAN, 40]),
        ("jets.pt / sum(jets.pt)", [0.5, 0.3, 0.2, 1.0]),
        ("jets.pt + met.pt", [50, 30, 20, 60]),
        ("met.pt - jets.pt", [-50, -30, -20, -20]),
        ("where(jets.pt > met.pt, 1, 0)", [1, 1, 1, 1]),
        ("20 < jets.pt <= 40", [False, True, False, True]),
        ("jets.pt in [20, 40]", [False, False, True, True]),
        ("jets.pt not in (20, 40)", [True, True, False, False]),
        ("(jets.pt > 25) & ~(jets.pt > 45) | (jets.pt == 20)", [False, True, True, True]),
        ("jets.pt > 25 and not jets.pt > 45 or jets.pt == 20", [False, True, True, True]),
        ("count(jets) >= 1 and max(jets.pt) > 45", [True, False, False]),
        ("max(jets.pt) > 45 or met.pt >= 20", [True, False, True]),
        ("process == 'ttbar'", [True, False, True]),
        ("process != 'ttbar'", [False, True, False]),
        ("process in ['ww']", [False, True, False]),
        ("(2 + 3) * met.pt // 20", [0, 2, 5]),
        ("met.pt % 20", [0, 10, 0]),
        ("met.pt ** 2", [0, 100, 400]),
        ("-met.pt + +1", [1, -9, -19]),
        ("clip(met.pt, 5, 15)", [5, 10, 15]),
        ("minimum(met.pt, 12) + maximum(met.pt, 12)", [12, 22, 32]),
        ("abs(-met.pt) * sqrt(4)", [0, 20, 40]),
        ("hypot(3, 4) + 0 * met.pt", [5, 5, 5]),
        ("round(met.pt / 4)", [0, 2, 5]),
        ("1 / met.pt", [math.inf, 0.1, 0.05]),
        ("isfinite(1 / met.pt)", [False, True, True]),
        ("isnan(met.pt * nan)", [True, True, True]),
        ("met.pt < inf and true", [True, True, True]),
        ("sum(jets.pt - max(jets.pt))", [-50, 0, 0]),
    ],
)
def test_hand_made_numbers(text: str, expected: list[float]) -> None:
    result = compute(text, THREE)
    assert_array_equal(result, np.array(expected, result.dtype))


def test_names_of_every_kind() -> None:
    columns = jets(
        [1, 2],
        [3],
        **{
            "target/signal": [1, 0],
            "target/t1/mass": [172.5, NAN],
            "extra/run": np.array([7, 8], np.uint64),
            "extra/group": np.array(["ttbar", "data"], object),
            "weight": [1.0, -1.0],
        },
    )
    columns.objects["jets", "extra/origin"] = np.array([0, 1, 2], np.int8)
    columns.objects["jets", "in"] = np.array([4, 5, 6], np.float32)
    for text, expected in {
        "target.signal == 'signal'": [True, False],
        "target['signal'] == 1": [True, False],
        "target['t1/mass'] > 170": [True, False],
        "target.t1.mass > 170": [True, False],
        "extra.run * 2": [14, 16],
        "extra.run in [8, 9]": [False, True],
        "extra.group == 'data'": [False, True],
        "extra.group in ['ttbar', 'ww']": [True, False],
        "extra.group not in ['ttbar', 'ww']": [False, True],
        "extra.origin + 0": [0, 1, 2],
        "count(extra.origin == 1)": [1, 0],
        "jets['in']": [4, 5, 6],
        "weight > 0": [True, False],
        "count\n  (jets)\n": [2, 1],
    }.items():
        assert_array_equal(compute(text, columns), expected)
    expression = compile_expression("target.t1.mass * max(jets.pt) + count(leptons)", SCOPE)
    assert expression.names == ("jets.pt", "leptons", "target/t1/mass")
    assert expression.streams == ("jets", "leptons")
    assert expression.kind == EVENT
    assert compile_expression("jets.pt + met.pt", SCOPE).kind == "jets"


def test_flat_names_without_a_stream_prefix() -> None:
    scope = Scope(streams={"particles": []}, objects={"part_px": "particles"}, events=["jet_pt"])
    columns = Columns(
        {"jet_pt": np.array([10.0, 20.0])},
        {("particles", "part_px"): np.array([1.0, 2.0, 4.0])},
        {"particles": np.array([0, 2, 3])},
    )
    expression = compile_expression("part_px / jet_pt * 500", scope)
    assert_array_equal(expression.evaluate(columns), [50, 100, 100])
    assert expression.kind == "particles"


NAN_CUTS = ["> 0", "< 0", ">= 0", "<= 0", "== 0", "!= 0", "in [0]", "not in [0]"]


@pytest.mark.parametrize("cut", NAN_CUTS)
def test_nan_fails_every_cut(cut: str) -> None:
    assert_array_equal(compute(f"jets.pt {cut}", jets([NAN])), [False])


def test_nan_in_reductions() -> None:
    columns = jets([NAN, 1, 2], [NAN])
    for text, expected in {
        "sum(jets.pt)": [NAN, NAN],
        "mean(jets.pt)": [NAN, NAN],
        "min(jets.pt)": [NAN, NAN],
        "max(jets.pt)": [NAN, NAN],
        "leading(jets.pt, 1)": [2, NAN],
        "leading(jets.pt, 2)": [1, NAN],
        "leading(jets.pt, 3)": [NAN, NAN],
        "count(jets.pt > 0)": [2, 0],
        "first(jets.pt)": [NAN, NAN],
        "leading(met.pt + 0 * isnan(jets.pt), 2, jets.pt)": [0, NAN],
    }.items():
        assert_array_equal(compute(text, columns), expected)


def test_dtypes_follow_numpy_and_integers_do_not_wrap() -> None:
    columns = jets([1], [2])
    columns.objects["jets", "charge"] = np.array([100, -100], np.int8)
    columns.objects["jets", "btag"] = np.array([True, True])
    columns.events["extra/run"] = np.array([250, 3], np.uint8)
    for text, dtype, expected in [
        ("jets.pt * 0.5", np.float32, [0.5, 1]),
        ("where(jets.pt > 1, jets.pt, 0.25)", np.float32, [0.25, 2]),
        ("jets.pt * sqrt(4)", np.float32, [2, 4]),
        ("jets.pt * (7 / 2)", np.float32, [3.5, 7]),
        ("max(jets.pt)", np.float32, [1, 2]),
        ("sum(jets.pt)", np.float64, [1, 2]),
        ("jets.charge + jets.charge", np.int64, [200, -200]),
        ("jets.charge ** 40 / 1e80", np.float64, [1, 1]),
        ("extra.run - 5", np.int64, [245, -2]),
        ("extra.run + 300", np.int64, [550, 303]),
        ("extra.run / 2", np.float64, [125, 1.5]),
        ("jets.btag + jets.btag", np.int64, [2, 2]),
        ("jets.btag - jets.btag", np.int64, [0, 0]),
        ("sqrt(jets.btag)", np.float64, [1, 1]),
        ("max(jets.charge)", np.float64, [100, -100]),
        ("where(jets.pt > 1, jets.btag, false)", np.bool_, [False, True]),
        ("-jets.charge", np.int64, [-100, 100]),
    ]:
        result = compute(text, columns)
        assert result.dtype == dtype, text
        assert_array_equal(result, np.array(expected, dtype))


def test_float32_sums_accumulate_in_double_precision() -> None:
    columns = jets([1e8, 1, 1, 1, -1e8], [0.1] * 1000)
    assert compute("sum(jets.pt)", columns)[0] == 3.0
    assert compute("sum(jets.pt)", columns)[1] == pytest.approx(
        1000 * float(np.float32(0.1)), rel=1e-14
    )


def test_uniform_numbers_follow_from_the_value_and_the_seed() -> None:
    values = np.random.default_rng(1).exponential(50, 20_000)
    columns = jets(values.tolist(), dtype=np.float64)
    first, second = (compute(f"uniform(jets.pt, {seed})", columns) for seed in (1, 2))
    assert ((first >= 0) & (first < 1)).all()
    # Chi-square of 20 bins: 19 ± 6.2; correlation 0 ± 0.007.
    counts = np.histogram(first, 20, (0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 50
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03
    assert abs(np.corrcoef(first, np.roll(first, 1))[0, 1]) < 0.03
    # The same object has the same number, whatever stands beside it.
    alone = compute("uniform(jets.pt, 1)", jets(values[7:8].tolist(), dtype=np.float64))
    assert alone[0] == first[7]
    zeros = compute("uniform(jets.pt, 1)", jets([0.0, -0.0]))
    assert zeros[0] == zeros[1]
    with pytest.raises(ExpressionError, match="must be a whole constant"):
        compute("uniform(jets.pt, jets.pt)", THREE)


def test_angles_wrap() -> None:
    columns = jets([3.0, -3.0, math.pi, -math.pi, 9.5], [100.0], dtype=np.float64)
    wrapped = compute("wrap_phi(jets.pt)", columns)
    expected = [math.remainder(x, 2 * math.pi) for x in columns.objects["jets", "pt"]]
    expected[2] = -math.pi
    np.testing.assert_allclose(wrapped, expected, atol=1e-13)
    assert_array_equal(wrapped[:2], [3.0, -3.0])
    np.testing.assert_allclose(
        compute("delta_phi(3, -jets.pt)", jets([3.0])), 6 - 2 * math.pi, rtol=1e-6
    )
    np.testing.assert_allclose(
        compute("delta_r(jets.pt, 3.0, 0, -3.0)", jets([0.0, 1.0])),
        [2 * math.pi - 6, math.hypot(1, 2 * math.pi - 6)],
        rtol=1e-6,
    )


VALUES = st.one_of(
    st.floats(-1000, 1000, width=32), st.sampled_from([NAN, 0.0, 1.0, math.inf, -math.inf])
)


@st.composite
def event_lists(draw: st.DrawFn) -> list[list[float]]:
    return draw(st.lists(st.lists(VALUES, max_size=5), max_size=6))


def python_sum(values: Sequence[float]) -> float:
    total = 0.0
    for value in values:
        total += value
    return total


def ranked(values: Sequence[float], number: int) -> float:
    finite = sorted((v for v in values if not math.isnan(v)), reverse=True)
    return finite[number - 1] if len(finite) >= number else NAN


def extreme(values: Sequence[float], choose: Callable[..., float]) -> float:
    return NAN if not values or any(map(math.isnan, values)) else choose(values)


NAIVE: dict[str, Callable[[list[float], float], Any]] = {
    "count(jets)": lambda pt, _: len(pt),
    "count(jets.pt > met.pt)": lambda pt, met: sum(v > met for v in pt),
    "sum(jets.pt)": lambda pt, _: python_sum(pt),
    "sum(where(isfinite(jets.pt), jets.pt * jets.pt, 0))": lambda pt, _: python_sum(
        [float(np.float32(v) * np.float32(v)) for v in pt if math.isfinite(v)]
    ),
    "mean(jets.pt)": lambda pt, _: python_sum(pt) / len(pt) if pt else NAN,
    "min(jets.pt)": lambda pt, _: extreme(pt, min),
    "max(jets.pt)": lambda pt, _: extreme(pt, max),
    "any(jets.pt == met.pt)": lambda pt, met: any(v == met for v in pt),
    "all(0 <= jets.pt < 500)": lambda pt, _: all(0 <= v < 500 for v in pt),
    "all(jets.pt != 1)": lambda pt, _: all(v != 1 and not math.isnan(v) for v in pt),
    "first(jets.pt)": lambda pt, _: pt[0] if pt else NAN,
    "nth(jets.pt, 3)": lambda pt, _: pt[2] if len(pt) > 2 else NAN,
    "leading(jets.pt, 2)": lambda pt, _: ranked(pt, 2),
    "count(jets) >= 2 and max(jets.pt) > met.pt": lambda pt, met: (
        len(pt) >= 2 and extreme(pt, max) > met
    ),
    "count(jets) % 2 == 1 or met.pt in [10, 30]": lambda pt, met: (
        len(pt) % 2 == 1 or met in (10, 30)
    ),
    "max(abs(jets.pt - first(jets.pt)) > 1)": lambda pt, _: (
        float(max(abs(np.float32(v) - np.float32(pt[0])) > 1 for v in pt)) if pt else NAN
    ),
}


@pytest.mark.parametrize("text", NAIVE)
@settings(deadline=None, max_examples=60)
@given(events=event_lists())
def test_as_a_loop_over_events(text: str, events: list[list[float]]) -> None:
    with np.errstate(all="ignore"):
        expected = [NAIVE[text](event, 10.0 * i) for i, event in enumerate(events)]
    result = compute(text, jets(*events))
    assert result.shape == (len(events),)
    np.testing.assert_allclose(result, np.array(expected, result.dtype), rtol=1e-12, atol=1e-9)


def leading_by(values: list[tuple[float, float]], number: int) -> float:
    """The value at the number-th largest key, equal keys in their order, NaN keys in no place."""
    known = [pair for pair in values if not math.isnan(pair[1])]
    ordered = sorted(known, key=lambda pair: -pair[1])
    return ordered[number - 1][0] if len(ordered) >= number else NAN


KEYS = st.sampled_from([-2.0, 1.0, 3.0, math.inf, -math.inf, NAN])


@settings(deadline=None)
@given(
    events=st.lists(st.lists(st.tuples(st.integers(0, 99), KEYS), max_size=6), max_size=6),
    number=st.integers(1, 4),
)
def test_leading_follows_another_column(
    events: list[list[tuple[float, float]]], number: int
) -> None:
    columns = jets(*[[float(value) for value, _ in event] for event in events])
    columns.objects["jets", "key"] = np.array([key for event in events for _, key in event])
    scope = Scope(streams={"jets": ["pt", "key"]})
    text = f"leading(jets.pt, {number}, jets.key)"
    result = compile_expression(text, scope).evaluate(columns)
    expected = [leading_by(event, number) for event in events]
    np.testing.assert_array_equal(result, np.array(expected, result.dtype))


def test_leading_tells_large_whole_numbers_apart() -> None:
    near = 2**60
    columns = jets([1, 2, 3])
    columns.objects["jets", "key"] = np.array([near, near + 2, near + 1], np.int64)
    scope = Scope(streams={"jets": ["pt", "key"]})
    found = [
        compile_expression(f"leading(jets.pt, {n}, jets.key)", scope).evaluate(columns)[0]
        for n in (1, 2, 3)
    ]
    assert found == [2, 3, 1]


@settings(deadline=None)
@given(events=event_lists(), cut=st.integers(0, 6))
def test_results_do_not_depend_on_the_chunk(events: list[list[float]], cut: int) -> None:
    for text in ["sum(jets.pt)", "leading(jets.pt, 2)", "jets.pt / sum(jets.pt)", "mean(jets.pt)"]:
        whole = compute(text, jets(*events))
        parts = [compute(text, jets(*events[:cut])), compute(text, jets(*events[cut:]))]
        assert whole.tobytes() == np.concatenate(parts).tobytes()
        assert {part.dtype for part in parts} == {whole.dtype}


def test_no_events_at_all() -> None:
    for text in [*NAIVE, "jets.pt + met.pt", "leading(jets.pt, 1, -jets.pt)"]:
        assert compute(text, jets()).shape == (0,)


def failure(text: str, **options: Any) -> str:
    with pytest.raises(ExpressionError) as caught:
        compile_expression(text, SCOPE, **options)
    return str(caught.value)


def test_an_unfinished_expression_points_at_its_end() -> None:
    assert failure("met.pt >").splitlines()[1:] == ["  met.pt >", "          ^"]


def test_the_error_shows_the_expression_and_points_at_the_place() -> None:
    assert failure("count(jets) > 3 and max(jets.ptt) > 30", where="prepare.select.hard") == (
        "prepare.select.hard: the stream 'jets' has no feature 'ptt'; did you mean 'pt'? "
        "(features: pt, eta, phi, btag, charge, in)\n"
        "  count(jets) > 3 and max(jets.ptt) > 30\n"
        "                          ^"
    )
    assert failure("extra.group == 'é' and jetz.pt").splitlines()[-1] == " " * 25 + "^"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("jets.pt + leptons.pt", "'jets.pt' has one value per object of 'jets', 'leptons.pt' one"),
        ("sum(jets.pt * leptons.pt)", "different streams have no common objects"),
        ("max(jets.pt) + leptons.pt * jets.pt", "different streams"),
        ("mett.pt", "unknown name 'mett.pt'; did you mean 'met.pt'"),
        ("met.ptt", "unknown name 'met.ptt'; did you mean 'met.pt'.*available: met.pt, met.phi"),
        ("target.sginal", "did you mean 'target.signal'.*available: target/signal, target/t1/mass"),
        ("jets > 3", "'jets' is a stream; name a feature .jets.pt. or use count.jets."),
        ("jetz", "unknown name 'jetz'; did you mean 'jets'"),
        ("count", "'count' is a function; call it: count.condition."),
        ("leading + met.pt", r"call it: leading\(x, n\[, by\]\)"),
        ("cuont(jets)", "unknown function 'cuont'; did you mean 'count'"),
        ("any(jets.pt + 1)", r"any\(\) needs true or false, but 'jets.pt \+ 1' is a number"),
        ("sum(met.pt)", "'met.pt' has one value per event"),
        ("sum(3)", "'3' has no column"),
        ("sum()", r"wrong number of arguments \(0\); write sum\(x\)"),
        ("max(jets.pt, met.pt)", r"use maximum\(\) for the max of two values"),
        ("sum(x=jets.pt)", "takes no named arguments"),
        ("nth(jets.pt, 0)", "counts from 1"),
        ("nth(jets.pt, 1.5)", "whole constant"),
        ("leading(jets.pt, true)", "whole constant"),
        ("leading(jets.pt, count(jets))", "whole constant"),
        ("count(jets) and met.pt > 3", "'and' needs true or false, but 'count.jets.' is a number"),
        ("jets.pt > 30 & jets.eta < 2", "bind tighter than comparisons"),
        ("not 3", "'not' needs true or false"),
        ("~count(jets)", "'~' needs true or false"),
        ("where(met.pt + 1, 1, 2)", r"where\(\) needs true or false"),
        ("met.pt + 'a'", r"'\+' needs a number, but 'a' is a string"),
        ("sqrt('a') + met.pt", r"sqrt\(\) needs a number"),
        ("process == 'ttbr'", "'process' has no class 'ttbr'; did you mean 'ttbar'"),
        ("process in ['zz']", "has no class 'zz'"),
        ("process in 3", "'in' needs a list of constants"),
        ("process in []", "'in' needs a list of constants"),
        ("met.pt in [met.phi]", "only constants"),
        ("met.pt in [1, 'a']", "mixes strings and numbers"),
        ("met.pt is 3", "write =="),
        ("jets.pt[0]", r"values cannot be picked with \[...\]; use nth"),
        ("jets.pt[jets.btag > 1]", "cannot be picked"),
        ("met.pt if met.pt > 0 else 0", "write where"),
        ("[met.pt]", "a list may only follow 'in'"),
        ("met.pt, 3", "several values"),
        ("met.pt ^ 2", r"x\*\*2"),
        ("met.pt << 2", "not supported"),
        ("met.pt @ met.pt", "not supported"),
        ("3 + 4", "names no column"),
        ("", "the expression is empty"),
        ("met.pt >", "not an expression: invalid syntax"),
        ("met.pt = 3", "not an expression"),
        ("met.pt + (", "not an expression"),
        ("met.pt + 1j", "is not a number"),
        ("met.pt + None", "None is not a number"),
        ("met.pt == b'a'", "is not a number"),
        ("met.pt / (1 / 0)", "cannot compute this: division by zero"),
        ("met.pt\0", "not an expression"),
    ],
)
def test_errors_say_what_to_write(text: str, message: str) -> None:
    with pytest.raises(ExpressionError, match=message):
        compile_expression(text, SCOPE)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "().__class__.__bases__",
        "met.pt.__class__",
        "met.__class__",
        "jets.__class__.__mro__",
        "jets.pt.__array_interface__",
        "'a'.join(met.pt)",
        "(met.pt).tofile('x')",
        "count.__globals__",
        "sum.__call__(jets.pt)",
        "FUNCTIONS['sum']",
        "eval('1')",
        "getattr(met, 'pt')",
        "open('/etc/passwd')",
        "(lambda: 1)()",
        "lambda: met.pt",
        "[x for x in jets.pt]",
        "sum(x for x in jets.pt)",
        "{x: 1 for x in jets.pt}",
        "f'{met.pt}'",
        "f'{met.pt.__class__}' == 'a'",
        "(x := met.pt)",
        "{'a': met.pt}",
        "{met.pt}",
        "sum(*jets.pt)",
        "sum(**jets)",
        "met.pt + 10 ** 10 ** 10",
        "met.pt + 2 ** 99999999 ** 99",
        "met.pt + 9" + "9" * 5000,
        "met.pt * 99999999999999999999",
        "met.pt * (9223372036854775807 + 1)",
        "met.pt + 9**99**9**9",
        "met.pt + (-1) ** 0.5",
        "met.pt + ''.__len__()",
        "'%1000000000d' % met.pt",
        "'a' * 1000000000 == extra.group",
        "met.pt; import os",
        "await met.pt",
        "yield",
        "jets.pt[0:1]",
        "...",
        "met.pt" + " + 1" * 4000,
        "(" * 300 + "met.pt" + ")" * 300,
        "-" * 5000 + "met.pt",
        "not " * 2400 + "met.pt",
    ],
)
def test_python_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError):
        compile_expression(text, SCOPE)


def test_what_only_the_data_shows_is_an_error_too() -> None:
    columns = jets([1.0], [2.0])
    columns.events["extra/run"] = np.array([0, 4])
    columns.events["extra/group"] = np.array(["a", "b"])
    columns.events["weight"] = np.ones((2, 3))
    columns.events["target/signal"] = np.array([1, 2, 3])
    columns.events["target/t1/mass"] = np.array([2**64 - 1, 0], np.uint64)
    columns.objects["jets", "eta"] = np.zeros(3)
    for text, message in {
        "7 // extra.run": "integers divided by zero with '//'",
        "7 % extra.run": "integers divided by zero with '%'",
        "extra.group * 2": "not numbers",
        "extra.group == 3": "one side is a string",
        "met.pt == 'x'": "one side is a string",
        "met.pt in ['x']": "one side is a string",
        "not met.pt": "'not' needs true or false, but 'met.pt' has dtype float32",
        "any(jets.pt)": "has dtype float32",
        "count(jets.pt)": r"count\(\) needs true or false, but 'jets.pt' has dtype float32",
        "weight * 2": r"shape \(2, 3\), not one value per event",
        "target.signal + jets.pt": "this has 3 events, the stream 'jets' has 2",
        "jets.eta + 1": "offsets of 'jets' count 2 objects",
        "target.t1.mass - 1": "does not fit into a signed 64-bit",
    }.items():
        with pytest.raises(ExpressionError, match=message):
            compute(text, columns)


def test_a_selection_is_one_decision_per_event() -> None:
    select = compile_selection("count(jets) >= 2", SCOPE)
    assert_array_equal(select.evaluate(jets([1, 2], [])), [True, False])
    assert select.evaluate(jets([1, 2])).dtype == np.bool_
    with pytest.raises(ExpressionError, match=r"a selection needs true or false.*is a number"):
        compile_selection("count(jets)", SCOPE)
    with pytest.raises(ExpressionError, match=r"one value per object of 'jets'; use any\(\)"):
        compile_selection("jets.pt > 30", SCOPE)
    with pytest.raises(ExpressionError, match="names no column"):
        compile_selection("true", SCOPE)
    for text in ["met.pt", "where(met.pt > 0, 1, 0)"]:
        dynamic = compile_selection(text, SCOPE)
        with pytest.raises(ExpressionError, match="selection"):
            dynamic.evaluate(jets([1]))
    flags = jets([1], [1])
    flags.events["extra/run"] = np.array([True, False])
    assert_array_equal(compile_selection("extra.run", SCOPE).evaluate(flags), [True, False])


def _scaled(x: Any, y: Any) -> Any:
    return x * y


def _spread(offsets: Any, x: Any) -> Any:
    return np.array([np.ptp(x[a:b]) if b > a else 0.0 for a, b in pairwise(offsets)])


MORE = {
    "scaled": Function(_scaled, "elementwise", ("x", "y")),
    "spread": Function(_spread, "reduction", ("x",)),
}


def test_functions_of_plugins() -> None:
    expression = compile_expression("scaled(jets.pt, spread(jets.pt))", SCOPE, MORE)
    assert_array_equal(expression.evaluate(jets([5, 3], [], [4])), [10, 6, 0])
    assert expression.kind == "jets"
    with pytest.raises(ExpressionError, match="the function 'sum' is built in"):
        compile_expression("met.pt", SCOPE, {"sum": MORE["spread"]})
    wrong = {"wrong": Function(lambda x: x[:0], "elementwise", ("x",))}
    with pytest.raises(ExpressionError, match=r"wrong\(\) gave shape \(0,\) for 2 values"):
        compile_expression("wrong(jets.pt)", SCOPE, wrong).evaluate(jets([1, 2]))
    wrong = {"wrong": Function(lambda _, x: x, "reduction", ("x",))}
    with pytest.raises(ExpressionError, match=r"wrong\(\) gave shape \(2,\) for 1 events"):
        compile_expression("wrong(jets.pt)", SCOPE, wrong).evaluate(jets([1, 2]))


def _tabulated(x: Any, path: str) -> Any:
    return x * float(Path(path).read_text())


def _grouped(offsets: Any, x: Any, mode: str) -> Any:
    ends = {"last": offsets[1:] - 1, "first": offsets[:-1]}[mode]
    return x[ends]


NAMING = {
    "tabulated": Function(_tabulated, "elementwise", ("x", "file"), files=frozenset({1})),
    "grouped": Function(_grouped, "reduction", ("x", "mode"), strings=frozenset({1})),
}


def test_functions_take_strings_and_files(tmp_path: Path) -> None:
    path = tmp_path / "factor.txt"
    path.write_text("3")
    text = f"tabulated(grouped(jets.pt, 'last'), '{path}')"
    expression = compile_expression(text, SCOPE, NAMING)
    assert_array_equal(expression.evaluate(jets([5, 3], [4])), [9, 12])
    assert_array_equal(pickle.loads(pickle.dumps(expression)).evaluate(jets([5])), [15])
    assert named_files({"derive": {"a": text, "b": "sum(jets.pt)"}}, NAMING) == [str(path)]
    assert named_files(["no expression 'a", "other('a')"], NAMING) == []
    wrong = {
        "tabulated(met.pt, 'gone.txt')": "reads the file 'gone.txt', which does not exist",
        "tabulated(met.pt, met.pt)": "'file' of tabulated(x, file) must be a string in quotes",
        "tabulated('a', 'b')": "needs a number",
    }
    for expression_text, message in wrong.items():
        assert message in failure(expression_text, functions=NAMING)


def test_files_of_expressions_begin_at_a_folder() -> None:
    text = "tabulated(met.pt, 'é.txt') +\n tabulated(met.pt, '/b.txt') * (met.pt > 'é.txt')"
    assert absolute_files(text, NAMING, Path("/in")) == (
        "tabulated(met.pt, '/in/é.txt') + tabulated(met.pt, '/b.txt') * (met.pt > 'é.txt')"
    )
    assert absolute_files("a +\n b", NAMING, Path("/in")) == "a +\n b"
    assert absolute_files("a b (", NAMING, Path("/in")) == "a b ("


def test_expressions_travel_to_worker_processes() -> None:
    expression = compile_expression("scaled(jets.pt, spread(jets.pt))", SCOPE, MORE)
    again: Expression = pickle.loads(pickle.dumps(expression))
    assert again.text == expression.text
    assert_array_equal(again.evaluate(jets([5, 3])), [10, 6])
    selection = pickle.loads(pickle.dumps(compile_selection("met.pt", SCOPE)))
    with pytest.raises(ExpressionError, match="selection"):
        selection.evaluate(jets([1]))


def test_a_stream_called_event_is_refused() -> None:
    with pytest.raises(ExpressionError, match="cannot be called 'event'"):
        Scope(streams={"event": ["pt"]})


def test_every_function_has_a_signature_that_it_accepts() -> None:
    columns = jets([0.5, 0.25], [])
    for name, function in FUNCTIONS.items():
        arguments = [
            "jets.pt > 0.3"
            if i in function.conditions
            else "1"
            if i in function.ordinals
            else "jets.pt"
            for i in range(len(function.arguments))
        ]
        result = compute(f"{name}({', '.join(arguments)})", columns)
        assert result.shape == (2,), name
        assert function.signature(name).startswith(f"{name}(")


def test_the_language_needs_no_torch() -> None:
    code = (
        "import sys, hepset.expressions.language, hepset.events.derivations;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
