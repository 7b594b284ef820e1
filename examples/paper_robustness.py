"""Table 1 of the RecurJac paper: the radius around an image on which its class is certified, and the time it takes.

For ReLU networks with two and three hidden layers, balls of norm 1, 2 and inf, and four targets: the runner-up, a
random and the least likely class, and all other classes at once (untargeted). RecurJac and Fast-Lip certify by the
paper's integral over nested balls, CROWN, the host's own method, by the lower bound of the margin.

Run `python examples/paper_robustness.py [--images N] [--steps N] [--out FILE] [--plot FILE] [--quick]`. The suffix of
`--out` is .csv or .md.
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from paper_networks import correct_images, norm_name, panels, points_in_ball, save, style, trained
from torch import Tensor, nn

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedModule

METHODS = ("CROWN", "Fast-Lip", "RecurJac", "RecurJac-Linear")
TARGETS = {"runner-up": "runner-up", "random": "random", "least-likely": "least likely", "all": "untargeted"}
SEARCH = {1.0: (0.3, 0.02), 2.0: (0.1, 0.005), math.inf: (0.01, 0.0005)}  # first radius and tolerance, by norm


@dataclass(frozen=True)
class Row:
    """One line of the table: the certified radius of every image and the CPU seconds per image, by method."""

    layers: int
    norm: float
    target: str
    radii: dict[str, Tensor]
    seconds: dict[str, float]

    def cells(self) -> list[str]:
        """The line as text."""
        means = [f"{self.radii[method].mean():.4f}" for method in METHODS]
        times = [f"{self.seconds[method]:.2f}" for method in METHODS]
        return [str(self.layers), f"{self.norm:g}", TARGETS[self.target], *means, *times]


HEADER = ["hidden layers", "norm", "target", *METHODS, *(f"{method} s" for method in METHODS)]


def row(net: nn.Module, layers: int, images: Tensor, norm: float, target: str, steps: int) -> Row:
    """Certify all images by all methods, and check what holds of every one of them."""
    model = BoundedModule(net, images)
    with torch.no_grad():
        C = rj.margin_rows(net(images), target=target)
    first, tolerance = SEARCH[norm]
    radii, seconds = {}, {}
    for method in METHODS:
        start = time.process_time()
        radii[method] = rj.certified_radius(
            model, images, norm=norm, C=C, method=method, steps=steps, initial=first, tolerance=tolerance
        )
        seconds[method] = (time.process_time() - start) / len(images)
    assert (radii["RecurJac"] >= radii["Fast-Lip"]).all(), "RecurJac certifies no smaller radius than Fast-Lip"
    assert (radii["RecurJac-Linear"] >= radii["RecurJac"]).all(), "RecurJac-Linear none smaller than RecurJac"
    for image, margins, *radius in zip(images, C, *radii.values(), strict=True):
        with torch.no_grad():
            outputs = net(points_in_ball(image, norm, float(max(radius)), 200))
        assert (outputs @ margins.T > 0).all(), "no point of the ball changes the class"
    return Row(layers, norm, target, radii, seconds)


def lines(rows: list[Row], suffix: str) -> list[str]:
    """The table as CSV (.csv), Markdown (.md) or aligned text."""
    table = [HEADER, *(each.cells() for each in rows)]
    if suffix == ".csv":
        return [",".join(cells) for cells in table]
    if suffix == ".md":
        return ["| " + " | ".join(cells) + " |" for cells in (HEADER, ["---"] * len(HEADER), *table[1:])]
    widths = [max(len(cells[i]) for cells in table) for i in range(len(HEADER))]
    return ["  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True)) for cells in table]


def draw(rows: list[Row], path: Path) -> None:
    """Bars of the mean radius: a panel per network and norm, a group of bars per target."""
    depths = sorted({each.layers for each in rows})
    drawn, axes = panels(len(depths), len(SEARCH), 9.0, 2.5 * len(depths) + 0.4)
    for line, layers in zip(axes, depths, strict=True):
        for panel, norm in zip(line, SEARCH, strict=True):
            chosen = [each for each in rows if (each.layers, each.norm) == (layers, norm)]
            for i, method in enumerate(METHODS):
                heights = [float(each.radii[method].mean()) for each in chosen]
                places = [place + (i - 1.5) * 0.2 for place in range(len(chosen))]
                panel.bar(places, heights, 0.2, color=style(method)["color"], label=method)
            panel.set_xticks(range(len(chosen)), [TARGETS[each.target].replace(" ", "\n") for each in chosen])
            panel.tick_params(axis="x", labelsize=8)
            panel.set_title(f"{norm_name(norm)} ball, {layers} hidden layers", fontsize=11)
            panel.grid(axis="y", alpha=0.3)
            panel.set_axisbelow(True)
        line[0].set_ylabel("certified radius (mean)")
    save(drawn, path)


def main() -> None:
    """Compute, print, write, draw."""
    parser = argparse.ArgumentParser(description="Certified radii by method, with times.")
    parser.add_argument("--images", type=int, default=3, help="number of test images (default 3)")
    parser.add_argument("--steps", type=int, default=6, help="nested balls of the integral (default 6; paper: 30)")
    parser.add_argument("--out", type=Path, help="table to write: .csv or .md")
    parser.add_argument(
        "--plot", type=Path, default=Path("paper_robustness.png"), help="picture to write: .png, .pdf or .svg"
    )
    parser.add_argument("--quick", action="store_true", help="one network and image, two targets")
    options = parser.parse_args()
    if options.out and options.out.suffix not in (".csv", ".md"):
        parser.error(f"--out must end in .csv or .md, got {options.out}")
    count, steps, epochs = (1, 2, 15) if options.quick else (options.images, options.steps, 40)
    targets = ("runner-up", "all") if options.quick else tuple(TARGETS)

    depths = (2,) if options.quick else (2, 3)
    nets = {layers: trained("relu", [64] * layers, epochs=epochs) for layers in depths}
    images = correct_images(list(nets.values()), count)
    rows = []
    for layers, net in nets.items():
        for norm in SEARCH:
            rows += [row(net, layers, images, norm, target, steps) for target in targets]

    print(f"mean certified radius of {len(images)} image(s), {steps} nested balls; CPU seconds per image")
    print("\n".join(lines(rows, ".txt")))
    for method in METHODS[2:]:
        for other in METHODS[:2]:
            ratios = [float(each.radii[method].mean() / each.radii[other].mean()) for each in rows]
            print(f"{method} / {other}: {min(ratios):.2f} to {max(ratios):.2f}")
    # Untargeted means every target at once, so it certifies no more than the mean over a single one.
    for every in (each for each in rows if each.target == "all"):
        for one in (each for each in rows if (each.layers, each.norm) == (every.layers, every.norm)):
            tolerance = SEARCH[every.norm][1]
            for method in METHODS:
                assert (every.radii[method] <= one.radii[method] + tolerance).all(), f"{method} {one.target}"
    if options.out:
        options.out.write_text("\n".join(lines(rows, options.out.suffix)) + "\n", encoding="utf-8")
        print(f"wrote {options.out}")
    draw(rows, options.plot)


if __name__ == "__main__":
    main()
