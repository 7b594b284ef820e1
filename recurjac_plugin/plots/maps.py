"""Bounds of a Jacobian as maps: over an image, or of rows by inputs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from recurjac_plugin.errors import InputError
from recurjac_plugin.extras import need

from .figures import COLOURS, DIVERGING, FALLING, RISING, UNKNOWN, bounds_of, labels, new_figure, sign_legend, signs_of

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_CHANNELS = 4
"""Most channels of an image that can be drawn: each takes a line of panels."""

_WRITTEN = 12  # columns whose numbers can be read in their cells
_NAMED = 30  # names that can be read beside each other
_LETTERS = 12  # of names that stand beside each other, for every inch of a figure


def sign_map(lower: Any, upper: Any, title: str | None = None) -> Figure:
    """Bounds of a Jacobian's row over an image: both in one scale of colours around 0, and the sign where it is known.

    An entry's sign is positive where ``lower > 0``, negative where ``upper < 0``, else unknown.

    Args:
        lower: shape (c, h, w), an array or a tensor.
        upper: shape (c, h, w).
        title: shown above.

    Raises:
        InputError: too many channels to draw, shapes that differ, or bounds that are not finite.
    """
    need("matplotlib")
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    lows, highs = bounds_of(lower, upper, 3)
    if len(lows) > MOST_CHANNELS:
        raise InputError(f"Images of up to {MOST_CHANNELS} channels can be drawn, got {len(lows)}.")
    channels, height, width = lows.shape
    panel = (2.5, min(max(2.5 * height / width, 1.0), 5.6))
    figure = new_figure(3 * panel[0] + 1.2, channels * (panel[1] + 0.3) + 0.8)
    axes = figure.subplots(channels, 3, squeeze=False)
    scale, sign = _scale(lows, highs), signs_of(lows, highs)
    for channel, (low, high, third) in enumerate(axes):
        low.imshow(lows[channel], cmap=DIVERGING, norm=scale)
        high.imshow(highs[channel], cmap=DIVERGING, norm=scale)
        third.imshow(sign[channel], cmap=ListedColormap([FALLING, UNKNOWN, RISING]), norm=Normalize(-1, 1))
        for panel_axes in (low, high, third):
            panel_axes.set_xticks([])
            panel_axes.set_yticks([])
        if channels > 1:
            low.set_ylabel(("red", "green", "blue")[channel] if channels == 3 else f"channel {channel}")
    for top, name in zip(axes[0], ("lower bound", "upper bound", "sign"), strict=True):
        top.set_title(name, fontsize=11)
    figure.colorbar(ScalarMappable(scale, DIVERGING), ax=list(axes[:, :2].flat), label="derivative")
    sign_legend(figure, sign)
    if title is not None:
        figure.suptitle(title)
    return figure


def heat_map(
    lower: Any,
    upper: Any,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """Bounds of all rows of a Jacobian, the middle of each interval as a colour; entries of unknown sign are hatched.

    Of up to 12 columns the middles are written in the cells, with half of the width of their interval below.

    Args:
        lower: shape (k, n), an array or a tensor.
        upper: shape (k, n).
        rows: names of the outputs; None numbers them from 0.
        columns: names of the inputs; None numbers them from 0.
        title: shown above.

    Raises:
        InputError: shapes that differ, bounds that are not finite or the other way round, or other numbers of names.
    """
    low, high = bounds_of(lower, upper, 2)
    outputs, inputs = labels(rows, len(low), "rows"), labels(columns, low.shape[1], "columns")
    middle, sign = low / 2 + high / 2, signs_of(low, high)
    written = len(inputs) <= _WRITTEN and len(outputs) <= _NAMED
    cell = 0.52 if written else 0.3
    figure = new_figure(min(max(cell * len(inputs) + 1.9, 4.2), 9.0), min(max(cell * len(outputs) + 1.4, 2.4), 9.0))
    axes = figure.subplots()
    shown = axes.imshow(middle, cmap=DIVERGING, norm=_scale(middle, middle), aspect="auto")
    figure.colorbar(shown, ax=axes, label="middle of the bounds")
    _hatch(axes, sign)
    if written:
        _write(axes, middle, (high - low) / 2)
    _name(axes, inputs, outputs, figure.get_figwidth())
    axes.set_xlabel("input")
    axes.set_ylabel("output")
    figure.legend(handles=_legend(sign), loc="outside lower right", ncols=2, frameon=False)
    if title is not None:
        figure.suptitle(title)
    return figure


def state_map(
    states: np.ndarray,  # shape: (k, n), numbers of names
    names: Sequence[str],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
) -> Figure:
    """What is known about the sign of every entry: rising, falling, neither, or unknown, in the order of `names`.

    Args:
        states: which of the names every entry has.
        names: of the four states.
        rows: names of the outputs.
        columns: names of the inputs.
        title: shown above.
    """
    figure = new_figure(min(max(0.35 * len(columns) + 1.8, 5.6), 12.0), min(max(0.35 * len(rows) + 1.8, 2.6), 8.0))
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    colours = (RISING, FALLING, COLOURS[4], UNKNOWN)
    axes = figure.subplots()
    axes.imshow(states, cmap=ListedColormap(colours), vmin=-0.5, vmax=3.5, aspect="auto")
    _name(axes, columns, rows, figure.get_figwidth())
    axes.set_xlabel("input")
    axes.set_ylabel("output")
    counts = [f"{name}: {int((states == i).sum())}" for i, name in enumerate(names)]
    handles = [Patch(color=colour, label=text) for colour, text in zip(colours, counts, strict=True)]
    figure.legend(handles=handles, loc="outside lower right", ncols=4, fontsize="small", frameon=False)
    figure.suptitle(title)
    return figure


def _scale(low: np.ndarray, high: np.ndarray) -> Any:
    """The scale of colours from minus to plus the largest number."""
    from matplotlib.colors import Normalize

    largest = max(float(abs(low).max()), float(abs(high).max())) or 1.0
    return Normalize(-largest, largest)


def _hatch(axes: Axes, sign: np.ndarray) -> None:
    """Lines over the cells of unknown sign."""
    import numpy as np
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    # One path, and cells beside each other as one: with a patch for each, a map of 500 x 500 takes minutes.
    steps = np.diff((sign == 0).astype(int), axis=1, prepend=0, append=0)
    (rows, starts), (_, ends) = (steps > 0).nonzero(), (steps < 0).nonzero()
    if not len(rows):
        return
    left, right, top, bottom = starts - 0.5, ends - 0.5, rows - 0.5, rows + 0.5
    corners = np.stack((left, top, right, top, right, bottom, left, bottom, left, top), 1).reshape(-1, 2)
    kinds = np.tile([Path.MOVETO, *[Path.LINETO] * 3, Path.CLOSEPOLY], len(rows))
    axes.add_patch(PathPatch(Path(corners, kinds), facecolor="none", edgecolor="#555555", hatch="////", linewidth=0))


def _write(axes: Axes, middle: np.ndarray, half: np.ndarray) -> None:
    """Middles and half widths in their cells, on a light ground that keeps them legible."""
    for (row, column), value in _cells(middle):
        text = f"{value:.2g}\n±{half[row, column]:.1g}"
        ground = {"boxstyle": "round,pad=0.15", "facecolor": "white", "alpha": 0.75, "linewidth": 0}
        axes.text(column, row, text, ha="center", va="center", fontsize=7, linespacing=0.95, bbox=ground)


def _cells(values: np.ndarray) -> Any:
    import numpy as np

    return np.ndenumerate(values)


def _name(axes: Axes, columns: Sequence[str], rows: Sequence[str], width: float) -> None:
    """Names along both axes of a figure so many inches wide: all that can be read, else a few; upright if long."""
    for put, names in ((axes.set_xticks, columns), (axes.set_yticks, rows)):
        step = -(-len(names) // _NAMED)
        shown = names[::step]
        room = _LETTERS * width / len(shown)
        close = any((len(one) + len(other)) / 2 + 1 > room for one, other in pairwise(shown))
        long = put == axes.set_xticks and close
        put(range(0, len(names), step), shown, fontsize=8, rotation=90 if long else 0)


def _legend(sign: np.ndarray) -> list[Any]:
    from matplotlib.patches import Patch

    known, unknown = int((sign != 0).sum()), int((sign == 0).sum())
    return [
        Patch(facecolor="white", edgecolor="#555555", label=f"sign known: {known}"),
        Patch(facecolor="white", edgecolor="#555555", hatch="////", label=f"unknown: {unknown}"),
    ]
