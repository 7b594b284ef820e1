"""Properties as data: what contains what, and in which numbers."""

from __future__ import annotations

import numpy as np
import pytest
from properties import box, polytope


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_boxes_rounded_outward_contain_the_box_and_little_more(dtype):
    random = np.random.default_rng(0)
    lower = np.concatenate([random.standard_normal(500) * 10.0 ** random.integers(-30, 30, 500), [0.1, -0.1, 0.0]])
    upper = lower + np.concatenate([np.abs(random.standard_normal(500)) * 1e-8, [0.0, 0.0, 0.0]])
    ends = box(lower, upper, polytope([[1.0]], [0.0])).rounded_outward(np.dtype(dtype))
    assert {end.dtype for end in ends} == {np.dtype(dtype)}
    low, high = (end.astype(np.float64) for end in ends)
    assert (low <= lower).all()
    assert (high >= upper).all()
    eps = np.finfo(dtype).eps
    assert (low >= lower - eps * np.abs(lower)).all()
    assert (high <= upper + eps * np.abs(upper)).all()


def test_rows_of_all_disjuncts_stand_below_each_other():
    A, b = box([0.0], [1.0], polytope([[1, 2], [3, 4]], [5, 6]), polytope([[7, 8]], [9])).rows()
    assert A.tolist() == [[1, 2], [3, 4], [7, 8]]
    assert b.tolist() == [5, 6, 9]
