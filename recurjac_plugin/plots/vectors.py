"""Bounds of one row of a Jacobian: an interval for every input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .figures import FAINT, FALLING, INK, RISING, UNKNOWN, bounds_of, labels, new_figure, sign_legend, signs_of, tidy

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMED = 40  # more entries than that stand beside each other without names


def intervals(lower: Any, upper: Any, names: Sequence[str] | None = None, title: str | None = None) -> Figure:
    """Bounds of the entries of one row as intervals, coloured by the sign where it is known.

    A thin bar leads from 0 to the end that is nearer: so large is the derivative everywhere in the region. Entries
    stand below each other with their names, or, more than 40 of them, beside each other.

    Args:
        lower: shape (n,), an array or a tensor.
        upper: shape (n,).
        names: of the inputs; None numbers them from 0.
        title: shown above.

    Raises:
        InputError: shapes that differ, bounds that are not finite or the other way round, or another number of names.
    """
    low, high = bounds_of(lower, upper, 1)
    known = labels(names, len(low), "names")
    sign = signs_of(low, high)
    if len(low) <= _NAMED:
        figure = new_figure(5.0, 1.4 + 0.24 * len(low))
        axes = figure.subplots()
        _bars(axes.barh, low, high, sign)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_yticks(range(len(low)), known, fontsize=9)
        axes.set_ylim(len(low) - 0.4, -0.6)
        axes.set_xlim(*_span(low, high))
        axes.set_xlabel("derivative")
        tidy(axes, "x")
    else:
        figure = new_figure(7.0, 3.2)
        axes = figure.subplots()
        _bars(axes.bar, low, high, sign)
        axes.axhline(0, color=INK, linewidth=0.8)
        axes.set_xlim(-0.6, len(low) - 0.4)
        _some_names(axes, known if names is not None else None)
        axes.set_ylim(*_span(low, high))
        axes.set_ylabel("derivative")
        tidy(axes, "y")
    sign_legend(figure, sign)
    if title is not None:
        figure.suptitle(title)
    return figure


def _bars(draw: Any, low: np.ndarray, high: np.ndarray, sign: np.ndarray) -> None:
    """Thick bars between the bounds, and thin ones from 0 to the nearer of them; `draw` is `bar` or `barh`."""
    import numpy as np

    across = draw.__name__ == "barh"
    thick, base = ("height", "left") if across else ("width", "bottom")
    at = np.arange(len(low))
    least = float(high.max() - low.min()) / 250 or 0.01  # as thin as a line, for bounds that are nearly equal
    for value, colour in ((1, RISING), (-1, FALLING), (0, UNKNOWN)):
        some = sign == value
        if not some.any():
            continue
        nearer = low[some] if value > 0 else high[some] if value < 0 else np.zeros(int(some.sum()))
        draw(at[some], nearer, color=colour, alpha=0.45, **{thick: 0.16})
        size = np.maximum(high - low, least)[some]
        middle = (low + high)[some] / 2
        edge = {"edgecolor": FAINT, "linewidth": 0.5} if value == 0 else {}
        draw(at[some], size, color=colour, **{thick: 0.66, base: middle - size / 2}, **edge)


def _span(low: np.ndarray, high: np.ndarray) -> tuple[float, float]:
    """Ends of the axis: 0 and all bounds, with some room."""
    least, most = min(float(low.min()), 0.0), max(float(high.max()), 0.0)
    room = 0.05 * (most - least) or 1.0
    return least - room, most + room


def _some_names(axes: Axes, names: Sequence[str] | None) -> None:
    """Names of a few of many entries, evenly spaced; numbers where there are none."""
    from matplotlib.ticker import MaxNLocator

    if names is None:
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.set_xlabel("input")
        return
    step = -(-len(names) // 20)
    axes.set_xticks(range(0, len(names), step), names[::step], rotation=90, fontsize=8)
