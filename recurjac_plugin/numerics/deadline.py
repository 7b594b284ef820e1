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

import torch
from torch import Tensor

_WORK = 1 << 32  # multiplications between two looks at the clock: about a second

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


def product(A: Tensor, B: Tensor) -> Tensor:
    """``A B``, (..., m, u) and (..., u, v), a large one in parts of the rows, between which it is asked for the time.

    Raises:
        OverTime: the time is over.
    """
    parts = A.numel() * B.shape[-1] // _WORK + 1
    if parts == 1:
        require_time()
        return A @ B
    found = []
    for rows in A.chunk(parts, -2):
        require_time()
        found.append(rows @ B)
    return torch.cat(found, -2)
