"""Bounds of a Jacobian over inputs that are no images: bars of one row, heat maps of all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recurjac_plugin.errors import InputError
from recurjac_plugin.plots import new_figure, sign_map
from recurjac_plugin.written.markup import FALLING, RISING

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_UNKNOWN = "#7f7f7f"
_TICKS = 30  # names that can be read beside each other


def interval_bars(
    lower: np.ndarray,  # shape: (n,)
    upper: np.ndarray,  # shape: (n,)
    inputs: list[str],
    title: str,
) -> Figure:
    """Bounds of a row as signed bars: each to the middle of its interval, which is drawn over it, coloured by the sign.

    Raises:
        InputError: bounds that are not finite.
    """
    import numpy as np
    from matplotlib.patches import Patch

    if not (np.isfinite(lower).all() and np.isfinite(upper).all()):
        raise InputError("The bounds contain NaN or infinite values, which cannot be drawn.")
    figure = new_figure(min(max(0.35 * len(lower) + 1.6, 4.8), 12.0), 3.4)
    axes = figure.subplots()
    place, middle = np.arange(len(lower)), lower / 2 + upper / 2
    signs = (("positive", RISING, lower > 0), ("negative", FALLING, upper < 0))
    for name, colour, chosen in (*signs, ("unknown", _UNKNOWN, (lower <= 0) & (upper >= 0))):
        at = place[chosen]
        axes.bar(at, middle[chosen], color=colour, alpha=0.4, width=0.7)
        axes.vlines(at, lower[chosen], upper[chosen], colors=colour, linewidth=1.6, label=name)
        if len(lower) <= _TICKS:  # caps that show the ends of narrow intervals
            axes.hlines(lower[chosen], at - 0.2, at + 0.2, colors=colour, linewidth=1.2)
            axes.hlines(upper[chosen], at - 0.2, at + 0.2, colors=colour, linewidth=1.2)
    axes.axhline(0.0, color="black", linewidth=0.8)
    axes.set_xlim(-0.6, len(lower) - 0.4)
    _name(axes, inputs)
    axes.set_xlabel("input")
    axes.set_ylabel("derivative")
    counts = [(colour, f"{name}: {int(chosen.sum())}") for name, colour, chosen in signs]
    counts.append((_UNKNOWN, f"unknown: {int(((lower <= 0) & (upper >= 0)).sum())}"))
    figure.legend(handles=[Patch(color=c, label=text) for c, text in counts], loc="outside lower right", ncols=3)
    figure.suptitle(title)
    return figure


def heat_map(
    lower: np.ndarray,  # shape: (k, n)
    upper: np.ndarray,  # shape: (k, n)
    rows: list[str],
    inputs: list[str],
    title: str,
) -> Figure:
    """Bounds of all rows, and their signs, each a map of rows by inputs.

    Raises:
        InputError: bounds that are not finite.
    """
    figure = sign_map(lower[None], upper[None], title)
    for axes in figure.axes[:3]:
        axes.set_aspect("auto")
        _name(axes, inputs)
        axes.set_xlabel("input")
    first = figure.axes[0]
    if len(rows) <= _TICKS:
        first.set_yticks(range(len(rows)), rows)
    first.set_ylabel("row")
    return figure


def state_map(
    states: np.ndarray,  # shape: (k, n), numbers of names
    names: tuple[str, ...],
    rows: list[str],
    inputs: list[str],
    title: str,
) -> Figure:
    """What is known about every entry, as a map of rows by inputs: rising, falling, neither, or unknown."""
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    colours = (RISING, FALLING, "#fdb863", "#d9d9d9")
    height = min(max(0.35 * len(rows) + 1.8, 2.6), 8.0)
    figure = new_figure(min(max(0.35 * len(inputs) + 1.8, 5.6), 12.0), height)
    axes = figure.subplots()
    axes.imshow(states, cmap=ListedColormap(colours), vmin=-0.5, vmax=3.5, aspect="auto")
    _name(axes, inputs)
    if len(rows) <= _TICKS:
        axes.set_yticks(range(len(rows)), rows)
    axes.set_xlabel("input")
    axes.set_ylabel("row")
    counts = [f"{name}: {int((states == i).sum())}" for i, name in enumerate(names)]
    handles = [Patch(color=colour, label=text) for colour, text in zip(colours, counts, strict=True)]
    figure.legend(handles=handles, loc="outside lower right", ncols=4, fontsize="small")
    figure.suptitle(title)
    return figure


def _name(axes: Axes, inputs: list[str]) -> None:
    """The names of the inputs, or, of more than can be read, some numbers."""
    from matplotlib.ticker import MaxNLocator

    if len(inputs) > _TICKS:
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        return
    longest = max(map(len, inputs), default=0)
    axes.set_xticks(range(len(inputs)), inputs, rotation=0 if longest * len(inputs) < 60 else 90)
