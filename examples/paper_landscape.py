"""Figure 2 of the RecurJac paper: how far around an image there is no stationary point, against the network's depth.

Networks of leaky ReLUs (slope 0.3) with 20 neurons per layer, as in the paper. In the ball of the radius found, some
entry of the gradient of the class's output keeps its sign, so the gradient is 0 nowhere in it. Every depth is trained
three times; medians and quartiles are over networks and test images. A mean would not do: around some images
RecurJac-Linear finds no stationary point at any radius, up to the limit of the search.

Run `python examples/paper_landscape.py [--plot FILE] [--quick]`.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch
from paper_networks import (
    class_rows,
    correct_images,
    norm_name,
    panels,
    points_in_ball,
    save,
    style,
    trained,
)
from torch import Tensor, nn

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm

METHODS = ("Fast-Lip", "RecurJac", "RecurJac-Linear")
TOLERANCES = {1.0: 1e-3, 2.0: 1e-3, math.inf: 1e-4}  # of the radii, by norm
LIMIT = 1e5  # no larger radius is looked at
WIDTH = 20


def radii(net: nn.Module, images: Tensor, norm: float) -> dict[str, Tensor]:
    """The radius without stationary points around every image, by method."""
    model, C = BoundedModule(net, images), class_rows(net, images)
    return {
        method: rj.stationary_free_radius(
            model, images, norm=norm, C=C, method=method, initial=0.1, limit=LIMIT, tolerance=TOLERANCES[norm]
        )
        for method in METHODS
    }


def check(net: nn.Module, images: Tensor, norm: float, found: dict[str, Tensor]) -> None:
    """What holds of every network and image."""
    assert (found["RecurJac"] >= found["Fast-Lip"]).all(), "RecurJac finds no smaller radius than Fast-Lip"
    assert (found["RecurJac-Linear"] >= found["RecurJac"]).all(), "RecurJac-Linear none smaller than RecurJac"
    model, C = BoundedModule(net, images), class_rows(net, images)
    for image, rows, radius in zip(images.split(1), C.split(1), found["RecurJac"].tolist(), strict=True):
        ball = BoundedTensor(image, PerturbationLpNorm(norm=norm, eps=radius))
        with torch.no_grad():
            lower, upper = rj.jacobian_bounds(model, ball, method="RecurJac", C=rows)
        assert ((lower > 0) | (upper < 0)).any(), "some entry of the gradient has a certain sign on the ball"
        points = points_in_ball(image[0], norm, radius, 200).requires_grad_()
        (gradients,) = torch.autograd.grad((net(points) @ rows[0].T).sum(), points)
        slack = 1e-9 * gradients.abs().max()
        assert ((lower[0] - slack <= gradients) & (gradients <= upper[0] + slack)).all(), "gradients obey the bounds"


def main() -> None:
    """Compute, print, draw, check."""
    parser = argparse.ArgumentParser(description="Radius without stationary points against depth.")
    parser.add_argument(
        "--plot", type=Path, default=Path("paper_landscape.png"), help="picture to write: .png, .pdf or .svg"
    )
    parser.add_argument("--quick", action="store_true", help="few networks and images, trained for a moment")
    options = parser.parse_args()
    depths = (2, 4) if options.quick else (2, 3, 4, 5, 6)
    seeds, count, epochs = (1, 2, 15) if options.quick else (3, 5, 80)

    # shape of an entry: (depths, networks * images)
    every = {norm: dict[str, list[Tensor]]({method: [] for method in METHODS}) for norm in TOLERANCES}
    for depth in depths:
        nets = [trained("leaky", [WIDTH] * depth, seed, epochs) for seed in range(1, seeds + 1)]
        images = correct_images(nets, count)
        for norm, curves in every.items():
            runs = [radii(net, images, norm) for net in nets]
            for net, found in zip(nets, runs, strict=True):
                check(net, images, norm, found)
            for method, curve in curves.items():
                curve.append(torch.cat([found[method] for found in runs]))

    print(f"{seeds} network(s) and {count} images per depth; median (mean) of the radius, * some at the limit")
    drawn, axes = panels(1, 3, 9.0, 3.7)
    quartiles = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    for panel, (norm, curves) in zip(axes[0], every.items(), strict=True):
        print(f"\nnorm {norm:g}\n{'layers':>8}" + "".join(f"{method:>24}" for method in METHODS))
        for i, depth in enumerate(depths):
            cells = (found[i] for found in curves.values())
            texts = (f"{v.quantile(0.5):.4g} ({v.mean():.4g})" + "*" * bool((v >= LIMIT).any()) for v in cells)
            print(f"{depth:8}" + "".join(f"{text:>24}" for text in texts))
        for method, curve in curves.items():
            low, middle, high = torch.stack(curve).quantile(quartiles, dim=1)
            panel.semilogy(depths, middle, **style(method))
            panel.fill_between(depths, low, high, color=style(method)["color"], alpha=0.15, linewidth=0)
            if method == "RecurJac":
                panel.set_ylim(top=5 * float(high.max()))  # not up to the limit of the search
        panel.set_title(f"{norm_name(norm)} ball")
        panel.set_xlabel("hidden layers")
        panel.set_xticks(depths)
        panel.grid(alpha=0.3)
    axes[0][0].set_ylabel("radius without stationary points")
    medians = {name: [values.quantile(0.5) for values in curve] for name, curve in every[2.0].items()}
    assert all(a > b for a, b in zip(medians["RecurJac"], medians["Fast-Lip"], strict=True)), "and a larger median"
    save(drawn, options.plot)


if __name__ == "__main__":
    main()
