"""What all pictures share: figures without a display, colours, marks, grids, and the reading of what is drawn."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recurjac_plugin.errors import FileError, InputError
from recurjac_plugin.extras import need
from recurjac_plugin.files import write

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RISING, FALLING, UNKNOWN = "#d6604d", "#174a7e", "#d9d9d9"
"""Red for a positive, blue for a negative, grey for an unknown sign: in grey scale middle, dark and light."""

DIVERGING = "RdBu_r"
"""The map of colours of numbers around 0: the blue is below it."""

INK, FAINT = "#222222", "#8a8a8a"
"""Of text and of lines that are no data."""

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6f4e9c")
"""Of curves and bars, after Okabe and Ito: https://jfly.uni-koeln.de/color."""

VERDICTS = {
    "unsat": (COLOURS[0], ""),
    "sat": (COLOURS[5], "..."),
    "unknown": ("#d0d0d0", ""),
    "timeout": ("#ffffff", "////"),
    "error": ("#ffffff", "xxxx"),
    "missing": ("#ffffff", ""),
    "wrong": ("#c1121f", "++"),
}
"""Colour and hatch of the areas of a verdict, from dark to light; the one that is wrong is red."""

LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)))
"""Dashes of curves without marks."""

MARKS = "osD^vPX"
"""Of curves, which tell them apart where colours do not."""


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches.

    Raises:
        ExtraError: matplotlib is not installed.
    """
    need("matplotlib")
    # Without pyplot: no display is looked for, and no global state is left behind.
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def encoded(figure: Figure, file_format: str) -> bytes:
    """The content of a picture file in one of matplotlib's formats, such as png, pdf or svg."""
    content = io.BytesIO()
    figure.savefig(content, format=file_format, dpi=150)
    return content.getvalue()


def save(figure: Figure, path: str | PathLike[str]) -> None:
    """Write a picture whole or not at all.

    Raises:
        FileError: the path does not end in a format that matplotlib draws, or cannot be written to.
    """
    file = Path(path)
    known = sorted(figure.canvas.get_supported_filetypes())
    file_format = file.suffix.removeprefix(".").lower()
    if file_format not in known:
        raise FileError(f"`{path}` must end in the format of the picture, .{', .'.join(known)}; give such a name.")
    write(file, encoded(figure, file_format))


def array_of(name: str, values: Any, dimensions: int) -> np.ndarray:
    """Numbers to draw, from an array, a list or a tensor on any device, in float64.

    Raises:
        InputError: another number of dimensions, none at all, or NaN.
    """
    import numpy as np

    tensor = values.detach().cpu().double() if hasattr(values, "detach") else values  # numpy has no bfloat16
    found = np.asarray(tensor, dtype=np.float64)
    if found.ndim != dimensions or found.size == 0:
        raise InputError(f"`{name}` must have {dimensions} dimension(s) and elements to be drawn, got {found.shape}.")
    if np.isnan(found).any():
        raise InputError(f"`{name}` contains NaN, which cannot be drawn.")
    return found


def bounds_of(lower: Any, upper: Any, dimensions: int) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds to draw.

    Raises:
        InputError: shapes that differ, NaN or infinity, or a lower bound above an upper one.
    """
    import numpy as np

    low, high = array_of("lower", lower, dimensions), array_of("upper", upper, dimensions)
    if low.shape != high.shape:
        raise InputError(f"`lower` and `upper` must have the same shape, got {low.shape} and {high.shape}.")
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise InputError("The bounds contain NaN or infinite values, which cannot be drawn.")
    if (low > high).any():
        raise InputError("`lower` must not exceed `upper` anywhere; are they the other way round?")
    return low, high


def labels(names: Sequence[str] | None, count: int, argument: str) -> list[str]:
    """Names as they were given, one for each of so many rows or inputs; numbers from 0 where they were not.

    Raises:
        InputError: there are more or fewer of them.
    """
    if names is None:
        return [str(i) for i in range(count)]
    if isinstance(names, str) or len(names) != count:
        raise InputError(f"`{argument}` must be {count} names, one for each, got {names!r}.")
    return [str(name) for name in names]


def signs_of(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """The strict sign: 1 where ``lower > 0``, -1 where ``upper < 0``, else 0."""
    return (lower > 0).astype(int) - (upper < 0).astype(int)


def sign_legend(figure: Figure, sign: np.ndarray) -> None:
    """How many entries have which sign, below the panels."""
    from matplotlib.patches import Patch

    counts = ((RISING, "positive", 1), (FALLING, "negative", -1), (UNKNOWN, "unknown", 0))
    figure.legend(
        handles=[Patch(color=colour, label=f"{name}: {(sign == value).sum()}") for colour, name, value in counts],
        loc="outside lower right",
        ncols=3,
        frameon=False,
    )


def style_of(i: int) -> dict[str, Any]:
    """How the i-th curve is drawn: its colour and its marks."""
    return {"color": COLOURS[i % len(COLOURS)], "marker": MARKS[i % len(MARKS)], "markersize": 4.5, "linewidth": 1.4}


def tidy(axes: Axes, grid: str = "both") -> None:
    """A light grid behind the data, and no frame at the top and the right."""
    axes.grid(True, axis=grid, color="#dddddd", linewidth=0.6)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def legend_below(figure: Figure, ncols: int = 3) -> None:
    """The names of what is drawn, outside of the data."""
    figure.legend(loc="outside lower center", ncols=ncols, frameon=False, fontsize=9)


def log_scale(axes: Axes, which: str, values: Sequence[float]) -> None:
    """A logarithmic axis with plain numbers that do not collide; it stays linear where a value is not above 0."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    finite = [value for value in values if math.isfinite(value)]
    if not finite or min(finite) <= 0:
        return
    (axis, scale) = (axes.xaxis, axes.set_xscale) if which == "x" else (axes.yaxis, axes.set_yscale)
    scale("log")
    decades = math.log10(max(finite) / min(finite))
    if decades < 1:  # powers of ten would leave an axis without numbers
        axis.set_major_locator(MaxNLocator(5))
        axis.set_minor_locator(NullLocator())
    else:
        axis.set_major_locator(LogLocator(10.0, subs=(1.0, 2.0, 5.0) if decades < 2 else (1.0,), numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}" if 1e-4 <= value < 1e5 else f"{value:.0e}"))
    axis.set_minor_formatter(NullFormatter())
