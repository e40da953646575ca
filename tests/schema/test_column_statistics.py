from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hepset.schema.statistics import ColumnStatistics, LabelCounts


def of(values: np.ndarray) -> ColumnStatistics:
    if not len(values):
        return ColumnStatistics()
    return ColumnStatistics(
        count=len(values),
        mean=float(values.mean()),
        m2=float(((values - values.mean()) ** 2).sum()),
        minimum=float(values.min()),
        maximum=float(values.max()),
    )


values = arrays(np.float64, st.integers(0, 30), elements=st.floats(-1e6, 1e6))


@given(values, values)
def test_merged_parts_equal_the_whole(a: np.ndarray, b: np.ndarray) -> None:
    merged, whole = of(a).merge(of(b)), of(np.concatenate([a, b]))
    assert merged.count == whole.count
    assert merged.mean == pytest.approx(whole.mean, rel=1e-9, abs=1e-6)
    assert merged.m2 == pytest.approx(whole.m2, rel=1e-9, abs=1e-3)
    assert (merged.minimum, merged.maximum) == (whole.minimum, whole.maximum)


def test_a_constant_column_has_unit_width() -> None:
    assert of(np.full(10, 3.0)).width == 1.0
    assert of(np.array([1.0, 3.0])).width == 1.0
    assert of(np.array([1.0, 5.0])).width == 2.0
    assert ColumnStatistics().width == 1.0


def test_label_counts_of_parts_that_saw_different_classes() -> None:
    merged = LabelCounts(events=[1, 2], weights=[1.0, 2.5], missing=1).merge(
        LabelCounts(events=[0, 0, 4], weights=[0.0, 0.0, 4.0])
    )
    assert merged == LabelCounts(events=[1, 2, 4], weights=[1.0, 2.5, 4.0], missing=1)
