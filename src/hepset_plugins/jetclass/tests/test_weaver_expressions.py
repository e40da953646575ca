"""weaver's expressions in hepset's words: what they become, what they compute, what is refused."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import awkward as ak
import numpy as np
import pytest

from hepset.errors import EventInfoError, ExpressionError
from hepset.events.select import plugin_functions
from hepset.expressions.language import Scope, compile_expression
from hepset_jetclass.weaver.expressions import Translator

COUNTS = np.array([3, 0, 2, 1])
OFFSETS = np.concatenate([[0], np.cumsum(COUNTS)])
FLAT = {
    "x": np.array([0.5, -2.0, 3.0, 1.5, np.nan, 4.0], np.float32),
    "y": np.array([1.0, 2.0, -3.0, 0.25, 2.0, 5.0], np.float32),
    "z": np.array([2.0, -1.0, 0.5, 8.0, 3.0, 1.0], np.float32),
    "e": np.array([4.0, 5.0, 6.0, 9.0, 7.0, 8.0], np.float32),
    "q": np.array([1, -1, 0, 1, 0, -1], np.int32),
    "bits": np.array([True, False, False, True, True, False]),
}
ONCE = {
    "a": np.array([1.0, 2.0, 3.0, 4.0], np.float32),
    "b": np.array([4.0, 3.0, 2.0, 1.0], np.float32),
    "n": np.array([0, 1, 2, 1], np.int32),
}


class Columns:
    def event(self, name: str) -> Any:
        return ONCE[name.removeprefix("columns/")]

    def stream(self, stream: str, feature: str) -> Any:
        assert stream == "pf"
        return FLAT[feature.removeprefix("columns/")]

    def offsets(self, stream: str) -> Any:
        assert stream == "pf"
        return OFFSETS


SCOPE = Scope(
    streams={"pf": []},
    events=[f"columns/{name}" for name in ONCE],
    objects={f"columns/{name}": "pf" for name in FLAT},
)


def translate(text: str, **new_variables: str) -> str:
    return Translator("top.yaml", new_variables, longest=8).translate(text, "new_variables.v")


def computed(text: str) -> np.ndarray:
    expression = compile_expression(translate(text), SCOPE, plugin_functions())
    return expression.evaluate(Columns())


def evaluated(text: str) -> np.ndarray:
    """What Python makes of it with numpy and awkward, as weaver does it."""
    names: dict[str, Any] = {k: ak.unflatten(v, COUNTS) for k, v in FLAT.items()}
    names |= {k: ak.Array(v) for k, v in ONCE.items()}
    names["_clip"] = lambda x, low, high: ak.unflatten(
        np.clip(ak.to_numpy(ak.flatten(x)), low, high), COUNTS
    )
    with np.errstate(all="ignore"):
        found = eval(text, {"np": np, "ak": ak, "math": SimpleNamespace(pi=math.pi), **names})
    array = ak.flatten(found) if isinstance(found, ak.Array) and found.ndim > 1 else found
    return ak.to_numpy(ak.fill_none(array, np.nan)) if isinstance(array, ak.Array) else array


@pytest.mark.parametrize(
    "text",
    [
        "x / a * 500",
        "np.hypot(x, y)",
        "np.log(np.abs(x)) - ak.ones_like(x)",
        "_clip(x, -1, 2)",
        "np.where(x > 1, y, -y)",
        "np.arctan2(y, x) + math.pi",
        "(x > 0) & ~(y < 1) | (q == 1)",
        "np.logical_or(x > 0, np.logical_not(y < 1))",
        "np.logical_xor(x > 0, y > 0)",
        "np.power(x, 2) + np.square(y) - q**2",
        "np.add(np.multiply(x, 2), np.subtract(y, 1))",
        "np.divide(x, a)",
        "np.sign(x) * np.log1p(np.abs(x))",
        "np.log2(e) + np.log10(e)",
        "np.minimum(x, 1) * np.maximum(y, -1)",
        "np.nan_to_num(x)",
        "np.isnan(x)",
        "q * 2 + (x > 0)",
        "ak.sum(y, axis=1)",
        "ak.sum(y > 1, axis=-1)",
        "ak.max(y, axis=1)",
        "ak.any(y > 2, axis=1)",
        "ak.all(y > 0, axis=1)",
        "ak.num(y)",
        "ak.fill_none(ak.max(y, axis=1), -1)",
        "ak.values_astype(q, 'float32') / 3",
        "ak.to_numpy(a) + b",
        "np.argmax(np.stack([a, b, n], axis=1), axis=1)",
        "np.sum(np.stack([a, b], axis=1), axis=1)",
        "y / ak.sum(y, axis=1)",
        "(y > 1) + (z > 1)",
        "((a > 1) + (b > 1) + (n > 0)) * 2",
        "np.where(q, y, z)",
        "bits & (y > 0) & ~bits",
        "np.nan_to_num(x, nan=-3)",
        "np.nan_to_num(np.log(np.abs(q)), neginf=-5, posinf=3, copy=False)",
        "np.isinf(1 / q)",
        "np.cbrt(y) + np.exp2(y) + np.trunc(y * 2) + 1 / e",
        "np.degrees(y) + np.deg2rad(y)",
        "np.greater_equal(y, 1) | np.not_equal(q, 0)",
        "np.remainder(y, 2)",
        "np.isin(n, [1, 3])",
        "np.max(np.stack([a, b, n], axis=1), axis=1)",
        "np.min(np.stack([a, b, n], axis=1), axis=1)",
        "np.mean(np.stack([a, b, n], axis=1), axis=1)",
        "np.any(np.stack([a > 1, b > 3], axis=1), axis=1)",
        "np.all(np.stack([a > 1, b > 1], axis=1), axis=1)",
        "ak.count_nonzero(q, axis=1)",
        "ak.any(q, axis=1)",
        "ak.sum(y[q > 0], axis=1)",
        "ak.num(y[q > 0])",
        "ak.max(y[q >= 0], axis=1)",
        "ak.min(y[(q >= 0) & (z > 0)], axis=1)",
        "ak.any(y[q >= 0] > 1, axis=1)",
        "ak.all(q[y > 0], axis=1)",
        "ak.mean(y[q > 0], axis=1)",
        "ak.sum(y[q > 0] * z[q > 0], axis=1) / a",
        "ak.std(y, axis=1) + ak.var(y, axis=1)",
        "ak.sum(y, axis=1, keepdims=False)",
        "-np.pi < np.abs(a)",
        "ak.sum(e / ak.sum(y[q != 0], axis=1), axis=1)",
        "ak.sum(z * (ak.sum(y[q > 0], axis=1) > 1), axis=1)",
        "ak.sum(y[q > 0] / ak.sum(y[q > 0], axis=1), axis=1)",
        "ak.sum(y[z > ak.sum(z[q > 0], axis=1) / 3], axis=1)",
        "np.logical_xor(n, 1) & np.logical_xor(a, n)",
        "np.logical_not(n - 1)",
        "np.logical_and(n, 2)",
        "(a > 1) ^ (b > 1)",
        "np.bitwise_xor(a > 1, b > 1) | np.bitwise_and(a > 2, np.invert(b > 1))",
        "ak.max(y[q > 0], axis=1, mask_identity=False)",
        "ak.min(y[q > 0], axis=1, mask_identity=False)",
        "np.add(a > 1, b > 1) * 2",
        "np.add(np.add(a > 1, b > 1), n > 0) * 2",
        "np.add(a > 1, b > 1) + (n > 0)",
        "np.sum(np.stack([a > 1, b > 1], axis=1), axis=1)",
        "np.fmin(x, y)",
        "np.fmax(y, x)",
        "np.fmax(x, q)",
        "(a > 1) * (b > 1) + (n > 0)",
        "np.multiply(a > 1, b > 1) + (n > 0)",
        "x != 1",
        "np.not_equal(x, x)",
        "np.where(x, y, z)",
        "ak.any(x, axis=1)",
        "ak.all(x / x, axis=1)",
        "ak.max(x, axis=1)",
        "ak.min(x / q, axis=1)",
        "ak.max(x * np.nan, axis=1)",
        "ak.max(x[q >= 0], axis=1)",
        "ak.ptp(x, axis=1)",
        "ak.fill_none(x, 3)",
        "ak.fill_none(ak.firsts(x * np.nan), 3)",
        "ak.fill_none(ak.mean(y, axis=1), -1)",
        "ak.fill_none(ak.max(y[q > 0], axis=1) / ak.max(z, axis=1), -1)",
        "ak.fill_none(ak.pad_none(y, 2)[:, 1], 7)",
        "np.max(np.stack([a / (a - 1) * (a - 1), b], axis=1), axis=1)",
    ],
)
def test_the_same_numbers_as_python_gives(text: str) -> None:
    found, wanted = computed(text), evaluated(text)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(
        found.astype(float), np.asarray(wanted).astype(float), rtol=1e-6, equal_nan=True
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("_pad(x, 8, value=3)", "x"),
        ("_pad(x, 2, value=3)[:, 1]", "where(number(x) > 1, nth(x, 2), 3)"),
        ("ak.pad_none(x, 2)[:, 1]", "nth(x, 2)"),
        ("p.mass2 - p.mt - p.et - p.theta", None),
        ("ak.max(x, axis=1, mask_identity=False)", "where(number(x) > 0, nanmax(x), -inf)"),
        ("(x > 1) + (y > 1)", "(x > 1) | (y > 1)"),
        ("above + (y > 1)", "above | (y > 1)"),
        ("above * 1 + (y > 1)", "above * 1 + (y > 1)"),
        ("q & (x > 1)", "q & (x > 1)"),
        ("np.where(q, above, ~above)", "where(~(q == 0), above, ~above)"),
        ("_repeat_pad(x, 128)", "x"),
        ("x[:, 0]", "nth(x, 1)"),
        ("ak.firsts(x)", "first(x)"),
        ("np.float32(x)", "float32(x)"),
        ("ak.values_astype(x, np.int32)", "int64(x)"),
        ("ak.values_astype(x, 'float64')", "x"),
        ("ak.values_astype(x, 'bool')", "~(x == 0)"),
        ("ak.values_astype(x + 1, np.bool_)", "~(x + 1 == 0)"),
        ("np.full_like(x, 3)", "ones_like(x) * 3"),
        ("p.mass", "p4_mass(x, y, z, e)"),
        ("p.E - e", "e - e"),
        ("p.pt", "sqrt(x ** 2 + y ** 2)"),
        ("p.deltaphi(r)", "delta_phi(atan2(y, x), b)"),
        ("r.px", "a * cos(b)"),
        ("p.deltaeta(r)", "asinh(z / sqrt(x ** 2 + y ** 2)) - n"),
        ("r.deltaR(r)", "delta_r(n, b, n, b)"),
        ("_p4_from_ptetaphie(a, n, b, e).mass", "p4_mass(a * cosh(n), 0, 0, e)"),
    ],
)
def test_words_of_its_own(text: str, expected: str | None) -> None:
    variables = {
        "p": "_p4_from_pxpypze(x, y, z, e)",
        "r": "_p4_from_ptetaphim(a, n, b, x)",
        "above": "x > 0",
    }
    found = translate(text, **variables)
    assert found == expected or expected is None


def test_new_variables_are_named_or_written_out() -> None:
    translator = Translator("top.yaml", {"v": "w + 1", "w": "x * y", "x": "x"})
    assert translator.translate("v / x", "selection") == "v / x"
    assert translator.translate("v / x", "selection", inline=["v", "w"]) == "(x * y + 1) / x"
    assert list(translator.columns) == ["x", "y"]
    circle = Translator("top.yaml", {"v": "w", "w": "v"})
    with pytest.raises(EventInfoError, match="in a circle: v -> w -> v"):
        circle.translate("v", "selection", inline=["v", "w"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("np.log(x", r"top.yaml: new_variables.v: not an expression: 'np.log\(x'"),
        (
            "np.lgo(x)",
            r"'np.lgo\(x\)': the function lgo\(\) has no translation; did you mean 'log'",
        ),
        ("ak.sum(x)", "with axis=1 it gives one value per event"),
        ("ak.sum(x, axis=0)", "with axis=1"),
        ("np.percentile(x, 50)", "it mixes events"),
        ("len(x)", "ak.num"),
        ("_hash(a, b)", r"_hash\(\) has no translation"),
        ("_batch_permute_indices(x)", "no function of chance"),
        ("_knn(x, y, 3)", "neighbours"),
        ("ak.concatenate([x, y])", "several groups of inputs"),
        ("[v for v in x]", "ListComp is not part"),
        ("lambda: 1", "Lambda is not part"),
        ("x if y > 0 else z", "np.where"),
        ("x.tolist()", "only functions of np, ak, math"),
        ("x.mass", "four-momenta only"),
        ("_p4_from_pxpypze(x, y, z, e)", "take a number of this four-momentum"),
        ("_p4_from_pxpypze(x, y, z, e).charge", "of a four-momentum there are"),
        ("_pad(x, 3)", "cuts objects that inputs need"),
        ("np", "np is a module"),
        ("np.random.rand(3)", "only functions of np, ak, math"),
        ("np.c", "this is no number"),
        ("__import__('os').system('true')", "only functions of np, ak, math"),
        ("x[0]", "only x"),
        ("x is None", "compare with"),
        ("ak.max(x, axis=1, keepdims=True)", "'keepdims' has no translation"),
        ("np.log(*x)", "cannot unpack"),
        ("x << 2", "do not have this operator"),
        ("q & 4", "the bits of numbers"),
        ("q & ~3", "the bits of numbers"),
        ("q & np.int32(4)", "the bits of numbers"),
        ("np.bitwise_and(q, 4)", "the bits of numbers"),
        ("np.bitwise_or(4, q)", "the bits of numbers"),
        ("np.bitwise_xor(q, 4)", "the bits of numbers"),
        ("q ^ 2", "the bits of numbers"),
        ("q ^ n", "write np.logical_xor"),
        ("~(q + 1)", "the bits of numbers"),
        ("np.invert(q + 1)", "the bits of numbers"),
        ("np.bitwise_not(-q)", "the bits of numbers"),
        ("np.sign(q) | (x > 1)", "the bits of numbers"),
        ("ak.max(_pad(y, 8, value=9), axis=1)", "does not reduce padding"),
        ("ak.num(_pad(y, 8))", "does not reduce padding"),
        ("ak.sum(padded + 1, axis=1)", "does not reduce padding"),
        ("ak.sum(ak.pad_none(x, 8), axis=1)", "does not reduce padding"),
        ("np.max(np.stack([a, b]), axis=1)", "needs axis=1"),
        ("np.argmax(np.stack([a, b], axis=0), axis=1)", "needs axis=1"),
        ("np.exp(x > 1)", "half precision"),
        ("np.reciprocal(q)", "write 1 / x"),
        ("ak.values_astype(q, 'uint8')", "beyond its range numbers wrap around"),
        ("ak.max(x > 1, axis=1, mask_identity=False)", "write ak.any"),
        ("ak.ptp(x, axis=1, mask_identity=False)", "'mask_identity' has no translation"),
        ("ak.sum(y / y[q > 0][:, 0], axis=1)", r"x\[condition\] inside a sum"),
        ("'text'", "no place in an expression"),
    ],
)
def test_what_has_no_translation_is_named(text: str, message: str) -> None:
    with pytest.raises(EventInfoError, match=message):
        translate(text, padded="_pad(x, 8, value=9)")


@pytest.mark.parametrize("text", ["q & n", "n | (a > 1)", "~q", "q & (x > 1)"])
def test_the_bits_of_columns_are_refused_when_their_type_is_seen(text: str) -> None:
    with pytest.raises(ExpressionError, match="has dtype int32; compare it with something"):
        computed(text)


def test_what_numpy_keeps_true_or_false_is_not_added_as_numbers() -> None:
    with pytest.raises(ExpressionError, match="'&' needs true or false"):
        computed("np.maximum(a > 1, b > 1) * (n > 0) + (n > 1)")


def test_a_circle_of_four_momenta_is_named() -> None:
    with pytest.raises(EventInfoError, match="of four-momenta only"):
        Translator("top.yaml", {"a": "b", "b": "a"}).translate("a.mass", "new_variables.v")
