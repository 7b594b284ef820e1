"""How much to do at once where time is short: little at first, then more and more, and the last step ends in time."""

from __future__ import annotations


def next_count(count: int, most: int, seconds: float, left: float) -> int:
    """How many to take after a step of `count`: up to twice as many, for half of the time left; 0 at its end.

    Args:
        count: how many the last step took.
        most: more are never taken.
        seconds: how long each of them took.
        left: seconds until the deadline.

    Source: own.
    """
    if left < seconds:
        return 0
    affordable = min(left / 2 / max(seconds, 1e-9), float(most))
    return max(1, min(2 * count, most, int(affordable)))
