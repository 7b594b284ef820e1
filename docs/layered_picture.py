"""The picture in docs/architecture.md: folders as boxes on levels, every arrow downwards. See architecture.py."""

from __future__ import annotations

import itertools
import textwrap
from pathlib import Path
from random import Random
from statistics import fmean

from architecture import Folder
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path as Curve

PLACE_WIDTH, PLACE_HEIGHT, BOX_WIDTH, BOX_HEIGHT = 2.8, 1.08, 2.5, 0.68  # inches
LANE = 0.3  # what an arrow needs that goes by, in boxes
INK, SOFT, ARROW = "#1f2933", "#52606d", "#9aa5b1"
LOOSE, PLAIN, HOST, ABOVE_THE_HOST = "#eceff3", "#dbe8f8", "#f9d9a8", "#fdf1dc"

Rows = list[list[str]]
Edges = list[tuple[str, str]]


def levels_of(folders: dict[str, Folder]) -> dict[str, int]:
    """The level of each folder: the lowest one, or higher where that makes the arrows shorter on the whole."""
    arrows = {name: [other for other in each.stands_on if other in folders] for name, each in folders.items()}
    levels: dict[str, int] = {}
    for name in folders:
        levels[name] = max((levels[other] + 1 for other in arrows[name]), default=0)
    for name in reversed(folders):
        importers = [other for other in folders if name in arrows[other]]
        if len(importers) > len(arrows[name]):
            levels[name] = min(levels[other] for other in importers) - 1
    return levels


def rows_and_edges(folders: dict[str, Folder]) -> tuple[Rows, Edges]:
    """Names level by level, and edges from each level to the next; an arrow over several levels has a name on each."""
    levels = levels_of(folders)
    rows: Rows = [[] for _ in range(1 + max(levels.values()))]
    edges: Edges = []
    for name, level in levels.items():
        rows[level].append(name)
        for other in sorted(folders[name].stands_on & folders.keys()):
            passed = range(levels[other] + 1, level)
            points = [f"{name} to {other} on {each}" for each in passed]
            edges += itertools.pairwise([other, *points, name])
            for each, point in zip(passed, points, strict=True):
                rows[each].append(point)
    return rows, edges


def neighbours(name: str, edges: Edges) -> list[str]:
    """What a name is tied to, above and below."""
    return [a if b == name else b for a, b in edges if name in (a, b)]


def cost(rows: Rows, edges: Edges) -> tuple[int, float]:
    """How many edges cross, and how long they are together."""
    place = {name: i - (len(row) - 1) / 2 for row in rows for i, name in enumerate(row)}
    level = {name: i for i, row in enumerate(rows) for name in row}
    pairs = itertools.combinations([(level[a], place[a], place[b]) for a, b in edges], 2)
    crossed = sum(i == j and (a - c) * (b - d) < 0 for (i, a, b), (j, c, d) in pairs)
    return crossed, sum(abs(place[a] - place[b]) for a, b in edges)


def untangled(rows: Rows, edges: Edges) -> Rows:
    """The rows in the cheapest order found.

    Many orders are tried, each improved up and down by the mean place of what a name is tied to in the rows beside it
    (Sugiyama, Tagawa and Toda 1981).
    """
    near = {name: neighbours(name, edges) for row in rows for name in row}
    random, trials = Random(0), []
    for _ in range(60):
        trial = [random.sample(row, len(row)) for row in rows]
        place = {name: (i + 0.5) / len(row) for row in trial for i, name in enumerate(row)}
        for sweep in range(12):
            for row in trial if sweep % 2 else trial[::-1]:
                row.sort(key=lambda name: fmean([place[other] for other in near[name]] or [place[name]]))
                place |= {name: (i + 0.5) / len(row) for i, name in enumerate(row)}
        trials.append(trial)
    return min(trials, key=lambda trial: cost(trial, edges))


def places(rows: Rows, edges: Edges, folders: dict[str, Folder]) -> dict[str, float]:
    """Where each name stands from left to right, in boxes: near what it is tied to, the boxes of a row side by side."""
    x = {name: i - (len(row) - 1) / 2 for row in rows for i, name in enumerate(row)}
    near = {name: neighbours(name, edges) for name in x}

    def wish(name: str) -> float:
        # Long arrows are to be straight, and all is drawn a little to the middle.
        weights = [(1, 3, 12)[(name not in folders) + (other not in folders)] for other in near[name]]
        return sum(weight * x[other] for weight, other in zip(weights, near[name], strict=True)) / (0.05 + sum(weights))

    for sweep in range(400):
        for row in rows if sweep % 2 else rows[::-1]:
            widths = [1.0 if name in folders else LANE for name in row]
            packed = [sum(widths[:i]) + width / 2 for i, width in enumerate(widths)]
            # Names that would overlap are moved together, by the mean of what they want.
            groups: list[list[float]] = []
            for name, at in zip(row, packed, strict=True):
                groups.append([wish(name) - at])
                while len(groups) > 1 and fmean(groups[-2]) >= fmean(groups[-1]):
                    last = groups.pop()
                    groups[-1] = groups[-1] + last
            moves = [fmean(group) for group in groups for _ in group]
            x |= {name: at + move for name, at, move in zip(row, packed, moves, strict=True)}
    return x


def draw(everything: dict[str, Folder], path: Path, description: str) -> None:
    """Write the picture as PNG; the description says what it shows, in the file."""
    folders = {name: each for name, each in everything.items() if each.label.endswith("/")}
    floor = [each for each in everything.values() if each.name not in folders]
    rows, edges = rows_and_edges(folders)
    rows = untangled(rows, edges)
    x = {name: PLACE_WIDTH * at for name, at in places(rows, edges, folders).items()}
    y = {name: PLACE_HEIGHT * level for level, row in enumerate(rows) for name in row}
    middle = (min(x.values()) + max(x.values())) / 2
    width = max(max(x.values()) - min(x.values()) + PLACE_WIDTH, PLACE_WIDTH * len(floor)) + 0.1
    low, high = -PLACE_HEIGHT - 0.95, max(y.values()) + 0.55
    figure = Figure(figsize=(width, high - low))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(middle - width / 2, middle + width / 2), ylim=(low, high))
    axes.axis("off")
    below = {b: a for a, b in edges if b not in folders}  # the next point of an arrow over several levels
    for a, b in edges:
        if b in folders:
            points = [(x[b], y[b] - BOX_HEIGHT / 2)]
            while a not in folders:
                points += [(x[a], y[a] + BOX_HEIGHT / 2), (x[a], y[a] - BOX_HEIGHT / 2)]
                a = below[a]
            draw_arrow(axes, [*points, (x[a], y[a] + BOX_HEIGHT / 2)])
    for each in folders.values():
        draw_box(axes, each, x[each.name], y[each.name])
    for i, each in enumerate(floor):
        draw_box(axes, each, middle + PLACE_WIDTH * (i - (len(floor) - 1) / 2), -PLACE_HEIGHT)
    draw_legend(axes, middle, low + 0.3)
    figure.savefig(path, dpi=100, metadata={"Description": description})


def draw_arrow(axes: Axes, points: list[tuple[float, float]]) -> None:
    """From the first point down to the last: bends between levels, straight past a level."""
    vertices, codes = [points[0]], [Curve.MOVETO]
    for i, ((x, y), (to_x, to_y)) in enumerate(itertools.pairwise(points)):
        if i % 2:
            vertices, codes = [*vertices, (to_x, to_y)], [*codes, Curve.LINETO]
        else:
            middle = (y + to_y) / 2
            vertices, codes = [*vertices, (x, middle), (to_x, middle), (to_x, to_y)], [*codes, *[Curve.CURVE4] * 3]
    way = Curve(vertices, codes)
    axes.add_patch(FancyArrowPatch(path=way, arrowstyle="-|>", mutation_scale=9, color=ARROW, lw=1.1, zorder=1))


def draw_box(axes: Axes, folder: Folder, x: float, y: float) -> None:
    """Name, number of modules, and what the folder's docstring begins with."""
    colour = ABOVE_THE_HOST if folder.knows_the_host else PLAIN
    colour = HOST if folder.name == "host" else LOOSE if folder.label.endswith(".py") else colour
    draw_rectangle(axes, x, y, BOX_WIDTH, BOX_HEIGHT, colour)
    text = textwrap.wrap(folder.says.replace("`", ""), 46, max_lines=2, placeholder=" …")
    axes.text(x - BOX_WIDTH / 2 + 0.1, y + 0.19, folder.label, size=9.5, weight="bold", color=INK, va="center")
    if folder.label.endswith("/"):
        axes.text(x + BOX_WIDTH / 2 - 0.1, y + 0.19, str(folder.modules), size=7, color=SOFT, va="center", ha="right")
    axes.text(x - BOX_WIDTH / 2 + 0.1, y + 0.06, "\n".join(text), size=6.8, color=SOFT, va="top", linespacing=1.25)


def draw_rectangle(axes: Axes, x: float, y: float, width: float, height: float, colour: str) -> None:
    """With round corners, around its centre."""
    axes.add_patch(
        FancyBboxPatch(
            (x - width / 2 + 0.06, y - height / 2 + 0.06), width - 0.12, height - 0.12,
            boxstyle="round,pad=0.06", facecolor=colour, edgecolor=ARROW, lw=0.8, zorder=2,
        )
    )  # fmt: skip


def draw_legend(axes: Axes, x: float, y: float) -> None:
    """What the colours mean."""
    kinds = (
        (PLAIN, "knows no auto_LiRPA"),
        (HOST, "reads auto_LiRPA"),
        (ABOVE_THE_HOST, "may know auto_LiRPA"),
        (LOOSE, "outside of folders"),
    )
    for i, (colour, says) in enumerate(kinds):
        at = x + 2.1 * (i - 1.5) - 0.7
        draw_rectangle(axes, at, y, 0.26, 0.2, colour)
        axes.text(at + 0.2, y, says, size=7.5, color=SOFT, va="center")
