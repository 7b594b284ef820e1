"""A digits classifier trained on RecurJac's lower bounds of its margins, beside plain training.

With C the rows "label minus another class", the mean value theorem gives ``C f(x) >= C f(x0) - eps L`` on the l_inf
ball of radius eps, L the local Lipschitz constants of the margins. The trained loss is the cross-entropy of these lower
bounds (Wong & Kolter, 2018, did so with other bounds), differentiated through RecurJac; the radius grows over the first
half.

Run `python examples/train_certified.py [--plot FILE] [--quick]`; a minute or two.
"""

from __future__ import annotations

import argparse
import math
import warnings
from pathlib import Path

import torch
from paper_networks import STYLES, panels, save
from torch import Tensor, nn
from train_digits import digits, train

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm

RADIUS = 0.05  # l_inf, of pixels in [0, 1]
RADII = (0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.08)
WIDTH = 48


def network() -> nn.Sequential:
    """The classifier, untrained."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 10))


def margins(labels: Tensor) -> Tensor:
    """C of shape (n, 9, 10): the label's output minus that of every other class."""
    unit = torch.eye(10)
    others = torch.stack([torch.arange(10)[torch.arange(10) != label] for label in labels.tolist()])
    return unit[labels].unsqueeze(1) - unit[others]


def lower_margins(model: BoundedModule, images: Tensor, labels: Tensor, radius: float, method: str) -> Tensor:
    """Lower bounds of the margins in balls around images: (n, 9), with gradients."""
    ball = BoundedTensor(images, PerturbationLpNorm(norm=math.inf, eps=radius))
    return rj.output_bounds(model, ball, method=method, C=margins(labels))[0]


def train_certified(net: nn.Sequential, images: Tensor, labels: Tensor, epochs: int) -> list[float]:
    """Fit a network to its certified margins; returns the mean loss of every epoch."""
    model = BoundedModule(net, images[:1])
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    history = []
    for epoch in range(epochs):
        radius = RADIUS * min(1.0, (epoch + 1) / (epochs / 2))
        losses = []
        for batch in torch.randperm(len(images)).split(64):
            lower = lower_margins(model, images[batch], labels[batch], radius, "IBP+RecurJac")
            against = torch.cat((lower.new_zeros(len(lower), 1), -lower), 1)  # the label's own margin is 0
            loss = nn.functional.cross_entropy(against, torch.zeros(len(lower), dtype=torch.long))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        schedule.step()
        history.append(sum(losses) / len(losses))
    return history


@torch.no_grad()
def certified_accuracy(net: nn.Sequential, images: Tensor, labels: Tensor, radius: float) -> float:
    """The part of the images for which no point of the ball gets another label, by CROWN and RecurJac together."""
    model = BoundedModule(net, images[:1])
    lower = lower_margins(model, images, labels, radius, "RecurJac-Linear+CROWN")
    return float((lower > 0).all(1).double().mean())


@torch.no_grad()
def largest_constant(net: nn.Sequential, images: Tensor) -> float:
    """Mean l_inf constant of the outputs in the balls of radius `RADIUS`."""
    ball = BoundedTensor(images, PerturbationLpNorm(norm=math.inf, eps=RADIUS))
    return float(rj.local_lipschitz(BoundedModule(net, images[:1]), ball, method="RecurJac").mean())


def draw(curves: dict[str, list[float]], history: list[float], path: Path) -> None:
    """Certified accuracy against the radius, and the loss along training."""
    drawn, axes = panels(1, 2, 9.0, 3.4)
    colors = {"plain": "#555555", "RecurJac margins": STYLES["RecurJac"]["color"]}
    for name, values in curves.items():
        axes[0][0].plot(RADII[: len(values)], values, color=colors[name], marker="o", label=name)
    axes[0][0].set(xlabel="l_inf radius", ylabel="certified accuracy", title="test images", ylim=(0, 1))
    axes[0][0].axvline(RADIUS, color="black", linestyle=":", linewidth=1)
    axes[0][1].plot(range(1, len(history) + 1), history, color=colors["RecurJac margins"])
    axes[0][1].set(xlabel="epoch", title="cross-entropy of the certified margins")
    for panel in axes[0]:
        panel.grid(alpha=0.3)
    save(drawn, path)


def main() -> None:
    """Train both, print, check, draw."""
    parser = argparse.ArgumentParser(description="Certified accuracy: plain training and training on RecurJac margins.")
    parser.add_argument(
        "--plot", type=Path, default=Path("train_certified.png"), help="picture to write: .png, .pdf or .svg"
    )
    parser.add_argument("--quick", action="store_true", help="few epochs, few images")
    options = parser.parse_args()
    torch.set_num_threads(1)  # sums in one order
    images, labels, test_images, test_labels = digits((64,))
    if options.quick:
        images, labels, test_images, test_labels = images[:500], labels[:500], test_images[:50], test_labels[:50]
    epochs = 12 if options.quick else 30
    radii = (0.0, RADIUS) if options.quick else RADII

    plain, robust = network(), network()
    train(plain, images, labels, epochs)
    history = train_certified(robust, images, labels, epochs)
    nets = {"plain": plain, "RecurJac margins": robust}
    curves = {name: [certified_accuracy(net, test_images, test_labels, r) for r in radii] for name, net in nets.items()}
    for name, values in curves.items():
        shown = ", ".join(f"{value:.1%} at {radius:g}" for radius, value in zip(radii, values))
        print(f"{name:17} certified {shown}; mean constant {largest_constant(nets[name], test_images):.1f}")
    at = radii.index(RADIUS)
    gain = curves["RecurJac margins"][at] - curves["plain"][at]
    assert gain > (0.0 if options.quick else 0.1), "more images are certified at the radius"
    assert curves["RecurJac margins"][0] > (0.7 if options.quick else 0.9), "and the network still classifies"
    draw(curves, history, options.plot)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module=r"torch\.onnx")
    main()
