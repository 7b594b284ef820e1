"""The pictures of the page, legible without colours: marks, hatches and dashes differ, lines have names beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from recurjac_plugin.plots import encoded, new_figure
from recurjac_plugin.plots.figures import COLOURS, FAINT, INK, LINES, VERDICTS, tidy

from .runs import Answer, Run
from .statistics import KINDS, SHORTEST, Pair, categories, charged, common, counts
from .ticks import set_ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def solved_bars(runs: Sequence[Run]) -> bytes:
    """Per category one bar for each run, divided by what became of its instances."""
    from matplotlib.patches import Patch

    names = categories(runs)
    rows = [(name, run) for name in names for run in runs if sum(counts(run, name).values())]
    figure = new_figure(9.0, 1.2 + 0.32 * len(rows) + 0.2 * len(names))
    axes = figure.subplots()
    present: set[str] = set()
    heights = _heights([name for name, _ in rows])
    for height, (name, run) in zip(heights, rows, strict=True):
        by_kind = counts(run, name)
        total, left = sum(by_kind.values()), 0.0
        for kind in (kind for kind in KINDS if by_kind[kind]):
            colour, hatch = VERDICTS[kind]
            axes.barh(height, by_kind[kind] / total, left=left, height=0.8, color=colour, hatch=hatch, edgecolor=INK,
                      linewidth=0.5)  # fmt: skip
            left += by_kind[kind] / total
            present.add(kind)
        axes.text(1.01, height, f"{by_kind['unsat'] + by_kind['sat']} of {total}", va="center", fontsize=8, color=INK)
    labels = [name if len(runs) == 1 else f"{name} · {run.name}" for name, run in rows]
    axes.set_yticks(heights, labels, fontsize=8)
    axes.set_ylim(max(heights) + 0.6, -0.6)
    axes.set_xlim(0, 1.0)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f} %")
    axes.set_xlabel("part of the instances; solved beside the bars")
    axes.spines[["top", "right"]].set_visible(False)
    handles = [
        Patch(facecolor=VERDICTS[kind][0], hatch=VERDICTS[kind][1], edgecolor=INK, linewidth=0.5, label=kind)
        for kind in KINDS
        if kind in present
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(KINDS), frameon=False, fontsize=9)
    return encoded(figure, "png")


def cactus(runs: Sequence[Run]) -> bytes:
    """How many instances are solved when each may take so many seconds, on those that all runs have."""
    from matplotlib.ticker import MaxNLocator

    places = common(runs)
    figure = new_figure(8.0, 4.6)
    axes = figure.subplots()
    ends: list[tuple[float, str, str]] = []
    for i, run in enumerate(runs):
        times = sorted(max(run.answers[p].seconds, SHORTEST) for p in places if run.answers[p].solved)
        ink = COLOURS[i % len(COLOURS)]
        if times:
            axes.step(range(1, len(times) + 1), times, where="pre", color=ink, linestyle=LINES[i % len(LINES)])
            axes.plot(len(times), times[-1], "o", color=ink, markersize=4)
        end = times[-1] if times else SHORTEST
        ends.append((end, f"{run.name}: {len(times)}", ink))
    _log_seconds(axes, "y", [end for end, *_ in ends])
    axes.set_xlim(0, 1.02 * len(places))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(f"instances solved, of {len(places)}" + (" that all runs have" if len(runs) > 1 else ""))
    axes.set_ylabel("seconds for each")
    tidy(axes)
    _label_ends(axes, ends)
    set_ticks(figure)
    return encoded(figure, "png")


def time_scatter(pair: Pair) -> bytes:
    """Seconds of the one run against those of the other, a mark per instance that either solved."""
    places = [
        p for p in common([pair.first, pair.second]) if any(r.answers[p].solved for r in (pair.first, pair.second))
    ]
    points = [
        (
            max(charged(pair.first, pair.second, place), SHORTEST),
            max(charged(pair.second, pair.first, place), SHORTEST),
            _mark(pair.first.answers[place], pair.second.answers[place]),
        )
        for place in places
    ]
    return _scatter(points, pair, lambda run: f"seconds, {run.name}", "less time")


def boxes_scatter(pair: Pair) -> bytes | None:
    """Boxes of the one run against those of the other; None where no instance has both numbers."""
    points = []
    for place in common([pair.first, pair.second]):
        a, b = pair.first.answers[place], pair.second.answers[place]
        if a.boxes and b.boxes and (a.solved or b.solved):
            points.append((float(a.boxes), float(b.boxes), _mark(a, b)))
    if all(x == y == 1 for x, y, _ in points):  # nobody split anything
        return None
    return _scatter(points, pair, lambda run: f"{run.boxes_name}, {run.name}", f"fewer {pair.first.boxes_name}")


def _mark(first: Answer, second: Answer) -> str:
    """How an instance that one of two runs solved is marked: by the verdict where both did."""
    if first.solved and second.solved:
        return first.result
    return "solved by one alone"


def _scatter(points: Sequence[tuple[float, float, str]], pair: Pair, label: Callable[[Run], str], better: str) -> bytes:
    """Marks at (first, second) on logarithmic axes; each run has the corner in which it is the `better` one."""
    figure = new_figure(5.6, 5.4)
    axes = figure.subplots()
    marks: dict[str, dict[str, Any]] = {
        "unsat": {"marker": "o", "facecolors": COLOURS[0], "edgecolors": "none", "alpha": 0.6},
        "sat": {"marker": "^", "facecolors": "none", "edgecolors": COLOURS[1]},
        "solved by one alone": {"marker": "x", "color": INK},
    }
    for name, style in marks.items():
        chosen = [(x, y) for x, y, mark in points if mark == name]
        if chosen:
            axes.scatter([x for x, _ in chosen], [y for _, y in chosen], s=26, label=f"{name}: {len(chosen)}", **style)
    values = [value for x, y, _ in points for value in (x, y)] or [1.0]
    low, high = min(values) / 1.5, max(values) * 1.5
    for factor, dashes in ((1.0, "-"), (10.0, "--"), (0.1, "--")):
        axes.plot([low, high], [low / factor, high / factor], color=FAINT, linestyle=dashes, linewidth=0.8, zorder=0)
    for which in ("x", "y"):
        _log_axis(axes, which, low, high)
    axes.set_xlabel(label(pair.first))
    axes.set_ylabel(label(pair.second))
    axes.set_aspect("equal")
    tidy(axes)
    corner: dict[str, Any] = {"fontsize": 8, "color": INK, "transform": axes.transAxes}
    axes.text(0.02, 0.97, f"{pair.first.name}: {better}", va="top", **corner)
    axes.text(0.98, 0.03, f"{pair.second.name}: {better}", ha="right", **corner)
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=9)
    set_ticks(figure)
    return encoded(figure, "png")


def _heights(names: Sequence[str]) -> list[float]:
    """Positions of bars: a gap between categories."""
    heights, at = [], 0.0
    for i, name in enumerate(names):
        at += 0.0 if i == 0 else 1.0 if name == names[i - 1] else 1.5
        heights.append(at)
    return heights


def _log_seconds(axes: Axes, which: str, highest: Sequence[float]) -> None:
    """A logarithmic axis of seconds, from the shortest that are told apart to the longest."""
    _log_axis(axes, which, SHORTEST / 1.2, 1.6 * max([*highest, 1.0]))


def _log_axis(axes: Axes, which: str, low: float, high: float) -> None:
    """A logarithmic axis with plain numbers; its ticks are set when all else is drawn, see `set_ticks`."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    axis.set_major_formatter(FuncFormatter(_plain))
    axis.set_minor_formatter(NullFormatter())


def _plain(value: float, _: int) -> str:
    """A number without an exponent, as long as it is short."""
    return f"{value:g}" if value < 1e5 else f"{value:.0f}" if value < 1e6 else f"{value:.0e}"


def _label_ends(axes: Axes, ends: Sequence[tuple[float, str, str]]) -> None:
    """Names at the right of the picture, with dots of their lines' colours; apart where lines end close together."""
    low, high = (math.log10(value) for value in axes.get_ylim())
    least, at = 0.05 * (high - low), -math.inf
    beside: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "va": "center", "annotation_clip": False}
    for end, text, ink in sorted(ends):
        at = max(math.log10(end), at + least)
        axes.annotate("●", (1.01, 10**at), fontsize=7, color=ink, **beside)
        axes.annotate(text, (1.03, 10**at), fontsize=9, color=INK, **beside)
