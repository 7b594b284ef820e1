"""A regression that is certified monotone in one feature on all of its data's range.

The disease progression of scikit-learn's diabetes data by ten features; it should not fall where the body mass index
rises. The trained loss is the squared error plus a hinge on RecurJac's lower bound of the derivative by that feature
over the whole box of the data; afterwards `monotonicity` certifies the sign on that box. Plain training of the same
network is refuted by two points whose derivatives have different signs.

Run `python examples/train_monotone.py [--plot FILE] [--quick]`; half a minute.
"""

from __future__ import annotations

import argparse
import math
import warnings
from pathlib import Path

import torch
from paper_networks import STYLES, panels, save
from sklearn.datasets import load_diabetes
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm

FEATURE = 2  # body mass index
WEIGHT = 10.0
MARGIN = 0.01  # the hinge wants the derivative at least this large


def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training features and targets, test features and targets; all with mean 0 and variance 1."""
    x, y = load_diabetes(return_X_y=True)
    split = train_test_split(x, y[:, None], test_size=0.25, random_state=0)
    train_x, test_x, train_y, test_y = (torch.tensor(part, dtype=torch.float32) for part in split)
    mean, spread = train_x.mean(0), train_x.std(0)
    center, scale = train_y.mean(), train_y.std()
    return (train_x - mean) / spread, (train_y - center) / scale, (test_x - mean) / spread, (test_y - center) / scale


def network() -> nn.Sequential:
    """The regression, untrained."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1))


def box(lower: Tensor, upper: Tensor) -> BoundedTensor:
    """Boxes as perturbed inputs, (b, 10) each."""
    return BoundedTensor((lower + upper) / 2, PerturbationLpNorm(norm=math.inf, x_L=lower, x_U=upper))


def train(net: nn.Sequential, x: Tensor, y: Tensor, steps: int, *, monotone: bool) -> list[float]:
    """Fit a network; returns the lower bound of the derivative over the whole box, along training."""
    model = BoundedModule(net, x[:1])
    whole = box(x.amin(0, keepdim=True), x.amax(0, keepdim=True))
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3, weight_decay=1.0)
    history = []
    for _ in range(steps):
        loss = nn.functional.mse_loss(net(x), y)
        with torch.set_grad_enabled(monotone):
            slope = rj.jacobian_bounds(model, whole, method="IBP+RecurJac-Linear").lower[0, 0, FEATURE]
        if monotone:
            loss = loss + WEIGHT * (MARGIN - slope).clamp(min=0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(slope.item())
    return history


@torch.no_grad()
def sign(net: nn.Sequential, x: Tensor) -> int:
    """+1 if the output is certified not to fall with the feature anywhere in the data's range, 0 if that is unknown."""
    whole = box(x.amin(0, keepdim=True), x.amax(0, keepdim=True))
    return int(rj.monotonicity(BoundedModule(net, x[:1]), whole)[0, 0, FEATURE])


def refuted(net: nn.Sequential, x: Tensor) -> bool:
    """Whether two points of the data's range have derivatives of different signs, by autograd."""
    generator = torch.Generator().manual_seed(0)
    points = x.amin(0) + torch.rand(5000, 10, generator=generator) * (x.amax(0) - x.amin(0))
    points.requires_grad_()
    slope = torch.autograd.grad(net(points).sum(), points)[0][:, FEATURE]
    return bool(slope.min() < 0 < slope.max())


@torch.no_grad()
def explained(net: nn.Sequential, x: Tensor, y: Tensor) -> float:
    """R^2: the part of the variance that is explained."""
    return float(1 - (net(x) - y).square().mean() / y.var(unbiased=False))


@torch.no_grad()
def draw(nets: dict[str, nn.Sequential], histories: dict[str, list[float]], x: Tensor, path: Path) -> None:
    """The output along the feature for some patients, and the certified lower bound along training."""
    drawn, axes = panels(1, 3, 10.0, 3.2)
    colors = {"plain": "#555555", "monotone": STYLES["RecurJac"]["color"]}
    sweep = torch.linspace(float(x[:, FEATURE].min()), float(x[:, FEATURE].max()), 100)
    for panel, (name, net) in zip(axes[0], nets.items(), strict=False):
        for patient in x[:25]:
            points = patient.repeat(100, 1)
            points[:, FEATURE] = sweep
            panel.plot(sweep, net(points), color=colors[name], alpha=0.5, linewidth=1)
        panel.set(title=f"{name}: 25 patients", xlabel="body mass index (standardised)", ylabel="prediction")
    for name, history in histories.items():
        axes[0][2].plot(history, color=colors[name], label=name)
    axes[0][2].axhline(0, color="black", linestyle=":", linewidth=1)
    axes[0][2].set(title="certified least derivative", xlabel="step")
    for panel in axes[0]:
        panel.grid(alpha=0.3)
    axes[0][0].plot([], [], color=colors["plain"], label="plain")
    axes[0][0].plot([], [], color=colors["monotone"], label="held monotone by RecurJac")
    save(drawn, path)


def main() -> None:
    """Train both, print, check, draw."""
    parser = argparse.ArgumentParser(description="Regression certified monotone in one feature.")
    parser.add_argument(
        "--plot", type=Path, default=Path("train_monotone.png"), help="picture to write: .png, .pdf or .svg"
    )
    parser.add_argument("--quick", action="store_true", help="few steps")
    options = parser.parse_args()
    torch.set_num_threads(1)  # sums in one order
    x, y, test_x, test_y = data()
    steps = 150 if options.quick else 200
    nets = {"plain": network(), "monotone": network()}
    histories = {name: train(net, x, y, steps, monotone=name == "monotone") for name, net in nets.items()}
    for name, net in nets.items():
        print(
            f"{name:9} R^2 {explained(net, x, y):.3f} (training), {explained(net, test_x, test_y):.3f} (test); "
            f"certified sign {sign(net, x):+d}, refuted {refuted(net, x)}; least derivative {histories[name][-1]:.4f}"
        )
    assert refuted(nets["plain"], x), "plain training is not monotone"
    assert sign(nets["monotone"], x) == 1, "the other one is certified to be"
    assert not refuted(nets["monotone"], x)
    test = {name: explained(net, test_x, test_y) for name, net in nets.items()}
    assert test["monotone"] > max(0.25, test["plain"]), "and says more about patients it has not seen"
    draw(nets, histories, x, options.plot)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module=r"torch\.onnx")
    main()
