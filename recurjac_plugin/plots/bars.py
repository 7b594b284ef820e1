"""Methods side by side: one bar for each, a panel for every quantity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from recurjac_plugin.errors import InputError

from .figures import COLOURS, INK, VERDICTS, new_figure, tidy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def method_bars(
    columns: Mapping[str, Mapping[str, float | None]],
    *,
    limits: Mapping[str, float] | None = None,
    log: Sequence[str] = (),
    title: str | None = None,
) -> Figure:
    """One bar per method, a panel for each quantity, and a line where no method can be beyond.

    Args:
        columns: by the name of a quantity, its value by method; None where there is none.
        limits: by the name of a quantity, what no bar can be below or above.
        log: quantities with a logarithmic axis.
        title: shown above.

    Raises:
        InputError: there is no quantity.
    """
    if not columns:
        raise InputError("`columns` must have at least one quantity to draw.")
    methods = list(dict.fromkeys(method for values in columns.values() for method in values))
    figure = new_figure(1.8 + 1.75 * len(columns), 1.5 + 0.32 * max(len(methods), 1))
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for i, (axes, (label, values)) in enumerate(zip(panels, columns.items(), strict=True)):
        shown = [values.get(method) for method in methods]
        _value_bars(axes, methods, shown, COLOURS[i % len(COLOURS)], label, label in log)
        if limits is not None and math.isfinite(limits.get(label, math.nan)):
            axes.axvline(limits[label], color=INK, linewidth=1.0, linestyle="--")
    panels[0].set_yticks(range(len(methods)), methods, fontsize=9)
    panels[0].set_ylim(len(methods) - 0.4, -0.6)
    if limits:
        _name_limits(figure)
    if title is not None:
        figure.suptitle(title)
    return figure


def comparison(rows: Sequence[Mapping[str, Any]], title: str | None = None) -> Figure:
    """Methods on one property: lower bounds coloured and hatched by verdict, Lipschitz constants, times.

    Args:
        rows: of each method `method`, `lower_bound`, `verdict`, `lipschitz`, `seconds` and `unsupported`, as
            ``recurjac compare --json`` has them; those that are not supported are left out.
        title: shown above.
    """
    rows = [row for row in rows if row["unsupported"] is None]
    figure = new_figure(9.6, 1.8 + 0.36 * max(len(rows), 1))
    left, middle, right = figure.subplots(1, 3, sharey=True)
    names = [row["method"] for row in rows]
    constants = [row["lipschitz"] for row in rows]
    _value_bars(middle, names, constants, COLOURS[2], "Lipschitz constant\nof the rows (l_inf)", False)
    _value_bars(right, names, [row["seconds"] for row in rows], COLOURS[4], "seconds\nfor the lower bound", bool(rows))
    _distances(left, rows)
    figure.legend(loc="outside upper right", ncols=4, frameon=False, fontsize=9)
    if title is not None:
        figure.suptitle(title, x=0.02, ha="left")
    return figure


def _distances(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """Bars of lower bounds to both sides of 0; each value is written on the side that its bar leaves free."""
    from matplotlib.ticker import NullFormatter, NullLocator

    values = [row["lower_bound"] for row in rows]
    finite = [abs(value) for value in values if math.isfinite(value) and value != 0]
    smallest, largest = min(finite, default=1.0), max(finite, default=1.0)
    axes.set_xscale("symlog", linthresh=smallest)
    axes.set_xlim(*(1.3 * sign * (largest if any(sign * v > 0 for v in values) else smallest) for sign in (-1, 1)))
    axes.axvline(0, color=INK, linewidth=0.8)
    for verdict in dict.fromkeys(row["verdict"] for row in rows):
        chosen = [row for row in rows if row["verdict"] == verdict]
        widths = [row["lower_bound"] if math.isfinite(row["lower_bound"]) else 0.0 for row in chosen]
        colour, hatch = VERDICTS[verdict]
        edge: dict[str, Any] = {"edgecolor": INK, "linewidth": 0.5}
        axes.barh([row["method"] for row in chosen], widths, color=colour, hatch=hatch, label=verdict, **edge)
    for row in rows:
        value = row["lower_bound"]
        text = f"  {value:.4g}  "
        axes.text(0, row["method"], text, fontsize=8, va="center", ha="right" if value > 0 else "left")
    axes.set_yticks(range(len(rows)), [row["method"] for row in rows], fontsize=9)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    _few_powers(axes, values, smallest, largest)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("lower bound of the\ndistance from a violation", fontsize=9)
    tidy(axes, "x")


def _few_powers(axes: Axes, values: Sequence[float], smallest: float, largest: float) -> None:
    """At most three powers of ten on each side that has bars: those of a symmetric logarithm come too close."""
    within = range(math.ceil(math.log10(smallest)), math.floor(math.log10(largest)) + 1)
    powers = [10.0**k for k in within][:: max(1, -(-len(within) // 3))] or [largest]
    sides = [sign for sign in (-1, 1) if any(sign * value > 0 for value in values)]
    ticks = sorted({0.0, *(sign * power for sign in sides for power in powers)})
    axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks], fontsize=8)


def _value_bars(
    axes: Axes, names: Sequence[str], values: Sequence[float | None], colour: str, label: str, log: bool
) -> None:
    """Horizontal bars with their values; methods without one have none."""
    from matplotlib.ticker import MaxNLocator, NullFormatter

    finite = [value for value in values if value is not None and math.isfinite(value)]
    bars = axes.barh(names, [value if value in finite else 0.0 for value in values], color=colour, height=0.7)
    axes.bar_label(bars, [" –" if value is None else f" {value:.3g}" for value in values], fontsize=8)
    if log and finite and min(finite) > 0:
        axes.set_xscale("log")
        axes.set_xlim(min(finite) / 2, max(finite) * (max(finite) / min(finite)) ** 0.35 * 2)
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_xlim(0, 1.35 * max([*finite, 0.0]) or 1.0)
        axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlabel(label, fontsize=9)
    tidy(axes, "x")


def _name_limits(figure: Figure) -> None:
    from matplotlib.lines import Line2D

    line = Line2D(
        [], [], color=INK, linewidth=1.0, linestyle="--", label="found at sampled points: no bound can be beyond"
    )
    figure.legend(handles=[line], loc="outside lower right", frameon=False, fontsize=9)
