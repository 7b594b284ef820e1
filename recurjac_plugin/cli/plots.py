"""Pictures of what `lipschitz`, `radius`, `landscape` and `compare` print as tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recurjac_plugin.extras import need
from recurjac_plugin.jacobian.methods import GLOBAL_METHODS
from recurjac_plugin.plots import encoded, new_figure

from .options import refuse

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FORMATS = ("png", "pdf", "svg")
_MARKERS = "osD^vPX"
_COLOURS = {"unsat": "tab:green", "sat": "tab:red", "unknown": "tab:gray", "timeout": "tab:gray"}


def check_format(plot: Path | None) -> None:
    """Refuse, before a long computation, a picture in a format that is not drawn; None where none was asked for.

    Raises:
        ExtraError: matplotlib is not installed.
        typer.BadParameter: the format is none that is drawn.
    """
    if plot is not None:
        picture_format(plot)


def picture_format(path: Path) -> str:
    """The format that a file's name asks for: png, pdf or svg."""
    name = path.suffix.removeprefix(".").lower()
    if name not in _FORMATS:
        refuse("--plot", f"must end in {', '.join(f'.{known}' for known in _FORMATS)}; got `{path}`.")
    need("matplotlib")
    return name


def lipschitz_curves(
    radii: Sequence[float],
    constants: Mapping[str, Sequence[float]],
    norms: tuple[str, str],
    title: str,
    file_format: str,
) -> bytes:
    """Constants against the radius, one curve per method; what was sampled is dashed, what holds everywhere dotted.

    Args:
        radii: along the horizontal axis.
        constants: by method, one for each radius.
        norms: how those of the radius and of the constants are written, see `options.norm_name`.
        title: of the picture.
        file_format: png, pdf or svg.
    """
    from matplotlib.ticker import LogFormatter

    figure = new_figure(6.4, 4.8)
    axes = figure.subplots()
    for i, (name, values) in enumerate(constants.items()):
        if name == "sampled":
            axes.plot(radii, values, "k--", label="sampled (lower bound)")
        elif name in GLOBAL_METHODS:
            axes.plot(radii, values, "k:", label=name)
        else:
            axes.plot(radii, values, marker=_MARKERS[i % len(_MARKERS)], markersize=4, label=name)
    if all(eps > 0 for eps in radii):
        axes.set_xscale("log")
    if all(value > 0 for values in constants.values() for value in values):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(LogFormatter())
        axes.yaxis.set_minor_formatter(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.8)))
    axes.set_xlabel(f"radius ({norms[0]})")
    axes.set_ylabel(f"Lipschitz constant ({norms[1]})")
    axes.set_title(title)
    axes.grid(True, which="both", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3)
    return encoded(figure, file_format)


def closing_gap(ends: Sequence[tuple[float, float, float]], norm: str, title: str, file_format: str) -> bytes:
    """Both bounds of a constant against the time that a search took.

    Args:
        ends: seconds, lower and upper bound, in their order.
        norm: how the norm is written, see `options.norm_name`.
        title: of the picture.
        file_format: png, pdf or svg.
    """
    figure = new_figure(6.4, 4.8)
    axes = figure.subplots()
    seconds, lower, upper = zip(*ends)
    axes.plot(seconds, upper, drawstyle="steps-post", label="upper bound")
    axes.plot(seconds, lower, drawstyle="steps-post", label="attained at a point")
    axes.fill_between(seconds, lower, upper, step="post", alpha=0.15)
    axes.set_xlabel("seconds")
    axes.set_ylabel(f"Lipschitz constant ({norm})")
    axes.set_title(title)
    axes.grid(True, alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2)
    return encoded(figure, file_format)


def certified_fractions(radii: Mapping[str, Sequence[float]], norm: str, title: str, file_format: str) -> bytes:
    """Which part of the inputs is certified on a radius, one curve per method.

    Args:
        radii: by method, the certified radius of each input; 0 where nothing is certified.
        norm: how the norm is written, see `options.norm_name`.
        title: of the picture.
        file_format: png, pdf or svg.
    """
    figure = new_figure(6.4, 4.4)
    axes = figure.subplots()
    for name, certified_radii in radii.items():
        ends = sorted(radius for radius in certified_radii if radius > 0)
        certified = [(len(ends) - i) / len(certified_radii) for i in range(len(ends))]
        axes.step([0.0, *ends, *ends[-1:]], [*(certified[:1] or [0.0]), *certified, *[0.0] * bool(ends)], label=name)
    axes.set_ylim(0, 1.03)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"radius ({norm})")
    axes.set_ylabel("part of the inputs certified")
    axes.set_title(title)
    axes.grid(True, alpha=0.3)
    axes.legend()
    return encoded(figure, file_format)


def landscape_curves(
    radii: Sequence[float],
    undetermined: Mapping[str, Sequence[float]],
    constants: Mapping[str, Sequence[float]],
    inputs: int,
    norm: str,
    title: str,
    file_format: str,
) -> bytes:
    """Undetermined entries of the gradient, and Lipschitz constants, against the radius; one curve per method.

    Args:
        radii: along the horizontal axes.
        undetermined: by method, how many entries of the gradient have no known sign, one number for each radius.
        constants: by method, one for each radius.
        inputs: how many entries the gradient has.
        norm: how the norm is written, see `options.norm_name`.
        title: of the picture.
        file_format: png, pdf or svg.
    """
    figure = new_figure(9.6, 4.2)
    left, right = figure.subplots(1, 2)
    for i, name in enumerate(undetermined):
        style = {"marker": _MARKERS[i % len(_MARKERS)], "markersize": 4, "label": name}
        left.plot(radii, undetermined[name], **style)
        right.plot(radii, constants[name], **style)
    left.axhline(inputs, color="black", linewidth=0.8, linestyle="--", label="all of them")
    left.set_ylabel("entries of undetermined sign")
    right.set_ylabel("Lipschitz constant of the output")
    for axes in (left, right):
        axes.set_xlabel(f"radius ({norm})")
        axes.set_ylim(bottom=0)
        axes.locator_params(axis="x", nbins=5)  # small radii have long numbers
        axes.grid(True, alpha=0.3)
        axes.legend()
    figure.suptitle(title)
    return encoded(figure, file_format)


def comparison(rows: Sequence[Mapping[str, Any]], title: str, file_format: str) -> bytes:
    """One bar per method: lower bounds coloured by verdict, Lipschitz constants, times.

    Args:
        rows: what `recurjac compare` says about each method.
        title: of the picture.
        file_format: png, pdf or svg.
    """
    from matplotlib.ticker import NullFormatter

    rows = [row for row in rows if row["unsupported"] is None]
    figure = new_figure(12, 1.8 + 0.4 * max(len(rows), 1))
    left, middle, right = figure.subplots(1, 3, sharey=True)
    names = [row["method"] for row in rows]
    _bars(middle, names, [row["lipschitz"] for row in rows], "tab:blue", "Lipschitz constant of the rows (l_inf)")
    _bars(right, names, [row["seconds"] for row in rows], "tab:orange", "seconds for the lower bound", 2)
    if rows:  # there is no logarithm of nothing
        right.set_xscale("log")
    right.xaxis.set_minor_formatter(NullFormatter())
    _bounds(left, rows)
    figure.legend(loc="outside upper right", ncols=len(_COLOURS))
    figure.suptitle(title, x=0.02, ha="left")
    return encoded(figure, file_format)


def _bounds(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Bars of lower bounds to both sides of 0; each value is written on the side that its bar leaves free."""
    values = [row["lower_bound"] for row in rows]
    finite = [abs(value) for value in values if math.isfinite(value) and value != 0]
    smallest, largest = min(finite, default=1.0), max(finite, default=1.0)
    axes.set_xscale("symlog", linthresh=smallest)
    axes.set_xlim(*(1.3 * sign * (largest if any(sign * v > 0 for v in values) else smallest) for sign in (-1, 1)))
    axes.axvline(0, color="black", linewidth=0.8)
    for verdict in dict.fromkeys(row["verdict"] for row in rows):
        chosen = [row for row in rows if row["verdict"] == verdict]
        widths = [row["lower_bound"] if math.isfinite(row["lower_bound"]) else 0.0 for row in chosen]
        axes.barh([row["method"] for row in chosen], widths, color=_COLOURS[verdict], label=verdict)
    for row in rows:
        value = row["lower_bound"]
        text = f"  {value:.4g}  "
        axes.text(0, row["method"], text, fontsize=8, va="center", ha="right" if value > 0 else "left")
    axes.set_yticks(range(len(rows)), [row["method"] for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlabel("lower bound of the distance from a violation")
    axes.grid(True, axis="x", alpha=0.3)


def _bars(axes: Axes, names: list[str], values: list[float | None], colour: str, label: str, digits: int = 4) -> None:
    """Horizontal bars with their values; methods without one have none."""
    bars = axes.barh(names, [0.0 if value is None else value for value in values], color=colour)
    axes.bar_label(bars, [" –" if value is None else f" {value:.{digits}g}" for value in values], fontsize=8)
    axes.set_xlabel(label)
    axes.grid(True, axis="x", alpha=0.3)
    axes.margins(x=0.2)
