"""What the small examples draw: intervals that are proved, and what was sampled within them.

Run `python examples/intervals.py [--plot FILE]` for a picture of made-up numbers.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

COLORS = {  # of Okabe and Ito, made for colour-blind readers
    "CROWN": "#CC79A7",
    "Fast-Lip": "#D55E00",
    "RecurJac": "#0072B2",
    "RecurJac-Linear": "#009E73",
    "RecurJac-McCormick": "#56B4E9",
    "RecurJac+CROWN": "#E69F00",
}
Interval = tuple[Tensor, Tensor]


def picture_file(script: str, description: str) -> Path:
    """The file that `--plot` names; a PNG of the script's name in the working directory if it is not given."""
    default = Path(f"{Path(script).stem}.png")
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--plot", type=Path, default=default, help=f"picture to write ({default})")
    return parser.parse_args().plot


def draw_intervals(axes: Axes, names: Sequence[str], proved: dict[str, Interval], sampled: Interval) -> None:
    """Bars for every quantity, one beside the other by method, and what was sampled in black; all of shape (n,)."""
    places, width = torch.arange(len(names)), 0.7 / len(proved)
    for i, (method, (lower, upper)) in enumerate(proved.items()):
        where = places + (i - (len(proved) - 1) / 2) * width
        lower, upper = lower.detach(), upper.detach()
        axes.bar(where, upper - lower, 0.9 * width, bottom=lower, color=COLORS[method], label=f"{method} (proved)")
    low, high = (end.detach() for end in sampled)
    error = torch.stack([torch.zeros_like(low), high - low])
    axes.errorbar(places, low, error, fmt="none", ecolor="black", capsize=4, linewidth=1.5, label="sampled")
    axes.set_xticks(places, names)
    axes.axhline(0, color="grey", linewidth=0.6)
    axes.use_sticky_edges = False  # bars may end at the frame otherwise
    axes.margins(y=0.08)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)


def saved(figure: Figure, path: Path) -> None:
    """Write the picture, with one legend below all panels."""
    shown = {label: part for axes in figure.axes for part, label in zip(*axes.get_legend_handles_labels())}
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=len(shown), frameon=False)
    figure.savefig(path, dpi=110)
    print(f"wrote {path}")


def main() -> None:
    """Draw made-up numbers."""
    path = picture_file(__file__, "A picture of intervals.")
    points = torch.tensor([0.3, -0.2, 0.1]) + 0.1 * torch.rand(50, 3)
    sampled = points.amin(0), points.amax(0)
    proved = {"Fast-Lip": (sampled[0] - 0.2, sampled[1] + 0.2), "RecurJac": (sampled[0] - 0.05, sampled[1] + 0.05)}
    assert all(bool((low <= points).all() and (points <= high).all()) for low, high in proved.values())
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot()
    draw_intervals(axes, ["a", "b", "c"], proved, sampled)
    axes.set(title="Made-up intervals", ylabel="value")
    saved(figure, path)


if __name__ == "__main__":
    main()
