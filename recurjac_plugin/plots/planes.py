"""Boxes of two inputs, coloured by what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from recurjac_plugin.errors import InputError
from recurjac_plugin.extras import need

from .figures import COLOURS, INK, array_of, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KNOWN = {
    "unsat": (COLOURS[2], ""),
    "sat": (COLOURS[1], "xxx"),
    "unknown": ("#d0d0d0", ""),
    "timeout": ("white", "////"),
}
_OTHERS = ((COLOURS[0], ""), (COLOURS[3], "..."), (COLOURS[5], "\\\\\\\\"), (COLOURS[4], "+++"))


def boxes_2d(
    lower: Any,
    upper: Any,
    verdicts: Sequence[str],
    axes_names: tuple[str, str] = ("x_0", "x_1"),
    title: str | None = None,
    points: Any = None,
) -> Figure:
    """Boxes of two inputs, such as those that a search has cut, coloured and hatched by verdict.

    Args:
        lower: lower ends, shape (m, 2), an array or a tensor.
        upper: upper ends, shape (m, 2).
        verdicts: of each box, such as ``"unsat"``, ``"sat"`` and ``"unknown"``, or other words.
        axes_names: of the two inputs.
        title: shown above.
        points: some points to mark, counterexamples for instance, shape (p, 2); None for none.

    Raises:
        InputError: other shapes, another number of verdicts, or more than four other words.
    """
    need("matplotlib")
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Patch, Rectangle

    low, high = array_of("lower", lower, 2), array_of("upper", upper, 2)
    if low.shape != high.shape or low.shape[1] != 2 or len(verdicts) != len(low):
        raise InputError(
            f"`lower` and `upper` must have shape (m, 2), and `verdicts` m words, got {low.shape}, {high.shape} and "
            f"{len(verdicts)}."
        )
    others = [word for word in dict.fromkeys(verdicts) if word not in _KNOWN]
    if len(others) > len(_OTHERS):
        raise InputError(f"`verdicts` may have {len(_OTHERS)} words of its own, got {', '.join(others)}.")
    styles = _KNOWN | dict(zip(others, _OTHERS, strict=False))
    figure = new_figure(4.8, 4.8)
    axes = figure.subplots()
    handles: list[Any] = []
    for word in [word for word in styles if word in verdicts]:
        colour, hatch = styles[word]
        some = [i for i, verdict in enumerate(verdicts) if verdict == word]
        cells = [Rectangle((low[i, 0], low[i, 1]), *(high[i] - low[i])) for i in some]
        look: dict[str, Any] = {"facecolor": colour, "edgecolor": INK, "linewidth": 0.3, "hatch": hatch}
        axes.add_collection(PatchCollection(cells, **look))
        handles.append(Patch(label=f"{word}: {len(some)}", **look))
    if points is not None:
        marked = array_of("points", points, 2)
        star: dict[str, Any] = {"marker": "*", "s": 60, "color": "black", "edgecolor": "white"}
        handles.append(axes.scatter(marked[:, 0], marked[:, 1], label="points", **star))
    axes.set_xlim(low[:, 0].min(), high[:, 0].max())
    axes.set_ylim(low[:, 1].min(), high[:, 1].max())
    axes.set_xlabel(axes_names[0])
    axes.set_ylabel(axes_names[1])
    if title is not None:
        axes.set_title(title)
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
    return figure
