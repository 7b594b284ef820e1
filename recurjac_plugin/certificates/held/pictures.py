"""What is known about the signs of a region, as a map."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recurjac_plugin.extras import need
from recurjac_plugin.plots.figures import FALLING, RISING, UNKNOWN, new_figure

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_REFUTED = "#e69f00"
_TICKS = 30  # names that can be read beside each other


def state_map(
    states: np.ndarray,  # shape: (k, n), numbers of names
    names: tuple[str, ...],
    rows: list[str],
    inputs: list[str],
    title: str,
) -> Figure:
    """What is known about every entry, as a map of rows by inputs: rising, falling, neither, or unknown."""
    need("matplotlib")
    from matplotlib.colors import ListedColormap
    from matplotlib.patches import Patch

    colours = (RISING, FALLING, _REFUTED, UNKNOWN)
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
    figure.legend(handles=handles, loc="outside lower right", ncols=4, fontsize="small", frameon=False)
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
