from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from hepset.convert.exact_sums import exact_sum, rounded

FLOATS = st.floats(allow_nan=False, allow_infinity=False, width=64).filter(lambda x: abs(x) < 1e300)


@given(st.lists(FLOATS, max_size=20), st.integers(0, 20))
def test_sum_is_exact_in_any_order(values: list[float], cut: int) -> None:
    array = np.array(values, float)
    whole = exact_sum(array)
    assert rounded(whole) == math.fsum(values)
    assert exact_sum(array[::-1]) == whole == exact_sum(array[:cut]) + exact_sum(array[cut:])


def test_what_is_not_finite_is_left_out() -> None:
    assert rounded(exact_sum(np.array([np.nan, 1.5, np.inf, -0.25]))) == 1.25
    smallest = 5e-324
    assert exact_sum(np.array([smallest, smallest])) == 2
    assert exact_sum(np.array([-smallest])) == -1
    assert exact_sum(np.zeros(0)) == 0
