"""Ticks of logarithmic axes: as many as have room, so that no label touches the next."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

_MOST = 12  # more ticks than that only make an axis grey
_FEWEST = 2
_GAP = 4.0  # least distance of two labels, in points


def set_ticks(figure: Figure) -> None:
    """Choose the ticks of all logarithmic axes of a figure that is drawn but for them."""
    # Twice: the labels of one axis leave more or less room for the other.
    for axes in [*figure.axes, *figure.axes]:
        for axis, sideways in ((axes.xaxis, True), (axes.yaxis, False)):
            if axis.get_scale() == "log":
                _set(figure, axis, sideways)


def _set(figure: Figure, axis: Axis, sideways: bool) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    low, high = sorted(axis.get_view_interval())
    axis.set_minor_locator(NullLocator())
    for places in candidates(low, high):
        axis.set_major_locator(FixedLocator(places))
        figure.draw_without_rendering()  # the layout depends on the labels, and they on the layout
        if not _touching(axis, figure.dpi, sideways):
            return


def candidates(low: float, high: float) -> Iterator[list[float]]:
    """Places of ticks, fewer and fewer: at 1 to 9, at 1, 2, 5, at powers of ten, at some of these."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for step, digits in ((1, range(1, 10)), (1, (1, 2, 5)), *((step, (1,)) for step in range(1, last - first + 1))):
        powers = [power for power in range(first, last + 1) if power % step == 0]
        places = [place for power in powers for digit in digits if low <= (place := digit * 10.0**power) <= high]
        if _FEWEST <= len(places) <= _MOST:
            yield places
    yield [low, high]
    yield [high]


def _touching(axis: Axis, dpi: float, sideways: bool) -> bool:
    """Whether two neighbouring labels of an axis come too close."""
    gap = _GAP / 72 * dpi
    boxes = [label.get_window_extent() for label in axis.get_majorticklabels() if label.get_text()]
    ends = sorted((box.x0, box.x1) if sideways else (box.y0, box.y1) for box in boxes)
    return any(next_one[0] - one[1] < gap for one, next_one in pairwise(ends))
