"""A time at which bounds are of no use any more: long computations look at it between their chunks.

Whoever has a deadline says so around a computation (`until`); chunks of what may take long ask whether it is over
(`require_time`). Elsewhere, and without a deadline, nothing happens.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_deadline: ContextVar[float] = ContextVar("deadline", default=math.inf)


class OverTime(Exception):
    """The time is over; nothing is known of what was being bounded."""


@contextmanager
def until(deadline: float) -> Iterator[None]:
    """Let computations within end at `deadline`, a value of `time.monotonic`, in `OverTime`."""
    before = _deadline.set(min(deadline, _deadline.get()))
    try:
        yield
    finally:
        _deadline.reset(before)


def require_time() -> None:
    """Go on only before the deadline.

    Raises:
        OverTime: it is over.
    """
    if time.monotonic() >= _deadline.get():
        raise OverTime
