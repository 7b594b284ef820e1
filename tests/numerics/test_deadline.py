"""Deadlines: computations within end at them, others do not notice, and inner ones do not put off outer ones."""

from __future__ import annotations

import math
import time

import pytest

from recurjac_plugin.numerics.deadline import OverTime, require_time, until


def test_only_what_is_within_ends():
    require_time()
    with until(time.monotonic() - 1), pytest.raises(OverTime):
        require_time()
    require_time()
    with until(time.monotonic() + 1000):
        require_time()


def test_the_nearest_deadline_counts():
    with until(time.monotonic() - 1), until(math.inf), pytest.raises(OverTime):
        require_time()
    with until(math.inf):
        require_time()
