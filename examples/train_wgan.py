"""A Wasserstein GAN whose critic is held to Lipschitz constant 1 by RecurJac, beside gradient penalty and clipping.

The critic of a WGAN must be 1-Lipschitz. Weight clipping (Arjovsky et al., 2017) bounds the weights instead, the
gradient penalty (Gulrajani et al., 2017) looks at the gradient at single points. Here the penalty is on an upper bound
of the constant in the l_2 ball around those points, ``(max(0, L - 1))^2`` with L from `local_lipschitz`, differentiated
by the weights. Two data sets: a ring of eight Gaussians in the plane, and scikit-learn's digits.

Run `python examples/train_wgan.py [--plot FILE] [--quick]`; four minutes.
"""

from __future__ import annotations

import argparse
import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import torch
from paper_networks import STYLES, panels, save
from torch import Tensor, nn
from train_digits import digits

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm

CRITIC_STEPS = 3
BATCH = 64
WEIGHT = 10.0  # of the penalties
CLIP = 0.05
METHODS = {"clipping": "#E69F00", "gradient penalty": "#CC79A7", "RecurJac": str(STYLES["RecurJac"]["color"])}
Constants = list[tuple[int, float]]


@dataclass(frozen=True)
class Task:
    """Data, and the sizes and radius that go with it.

    Attributes:
        name: for prints and titles.
        data: (n, columns).
        width: of the hidden layers.
        noise: inputs of the generator.
        radius: of the l_2 balls in which the critic's constant is bounded.
        bounded: whether the data lie in [0, 1].
    """

    name: str
    data: Tensor
    width: int
    noise: int
    radius: float
    bounded: bool


@dataclass
class Run:
    """What happened in one training.

    Attributes:
        distance: the critic's estimate of the Wasserstein distance after every step of the generator.
        constants: (step, largest certified constant over balls around fresh points).
        before, after: energy distance of generated points to the data.
        samples: generated points.
    """

    distance: list[float] = field(default_factory=list)
    constants: Constants = field(default_factory=list)
    before: float = math.nan
    after: float = math.nan
    samples: Tensor = field(default_factory=lambda: torch.empty(0))


def tasks() -> list[Task]:
    """The two data sets."""
    angle = 2 * math.pi * torch.randint(8, (2000, 1)) / 8
    ring = torch.cat((angle.cos(), angle.sin()), 1) + 0.05 * torch.randn(2000, 2)
    images, _, _, _ = digits((64,))
    return [Task("eight Gaussians", ring, 32, 4, 0.05, False), Task("digits", images, 64, 16, 0.05, True)]


def networks(task: Task) -> tuple[nn.Sequential, nn.Sequential]:
    """Generator and critic."""
    columns, width = task.data.shape[1], task.width
    end: list[nn.Module] = [nn.Sigmoid()] if task.bounded else []
    generator = nn.Sequential(
        nn.Linear(task.noise, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, columns), *end
    )
    critic = nn.Sequential(
        nn.Linear(columns, width), nn.LeakyReLU(0.2), nn.Linear(width, width), nn.LeakyReLU(0.2), nn.Linear(width, 1)
    )
    return generator, critic


def constants(model: BoundedModule, points: Tensor, radius: float) -> Tensor:
    """Upper bounds of the critic's l_2 constants in balls around points: (n,), with gradients."""
    ball = BoundedTensor(points, PerturbationLpNorm(norm=2.0, eps=radius))
    return rj.local_lipschitz(model, ball, method="IBP+RecurJac")


def between(real: Tensor, fake: Tensor) -> Tensor:
    """Random points on the lines between real and generated ones."""
    part = torch.rand(len(real), 1)
    return part * real + (1 - part) * fake


def penalty(method: str, critic: nn.Module, model: BoundedModule, points: Tensor, radius: float) -> Tensor:
    """What is added to the critic's loss."""
    if method == "RecurJac":
        return WEIGHT * (constants(model, points, radius) - 1).clamp(min=0).square().mean()
    if method == "gradient penalty":
        x = points.clone().requires_grad_()
        gradient = torch.autograd.grad(critic(x).sum(), x, create_graph=True)[0]
        return WEIGHT * (gradient.norm(dim=1) - 1).square().mean()
    return torch.zeros(())


@torch.no_grad()
def energy_distance(a: Tensor, b: Tensor) -> float:
    """``2 E|a - b| - E|a - a'| - E|b - b'|``: 0 for equal distributions."""
    return float(2 * torch.cdist(a, b).mean() - torch.cdist(a, a).mean() - torch.cdist(b, b).mean())


def train(task: Task, method: str, steps: int) -> Run:
    """Train one generator and critic."""
    torch.manual_seed(0)
    generator, critic = networks(task)
    model = BoundedModule(critic, task.data[:1])
    critic_steps = torch.optim.Adam(critic.parameters(), lr=2e-3, betas=(0.5, 0.9))
    generator_steps = torch.optim.Adam(generator.parameters(), lr=2e-3, betas=(0.5, 0.9))
    fixed, run = torch.randn(500, task.noise), Run()
    run.before = energy_distance(generator(fixed), task.data)
    for step in range(steps):
        for _ in range(CRITIC_STEPS):
            real = task.data[torch.randint(len(task.data), (BATCH,))]
            fake = generator(torch.randn(BATCH, task.noise)).detach()
            distance = critic(real).mean() - critic(fake).mean()
            loss = penalty(method, critic, model, between(real, fake), task.radius) - distance
            critic_steps.zero_grad()
            loss.backward()
            critic_steps.step()
            if method == "clipping":
                with torch.no_grad():
                    for parameter in critic.parameters():
                        parameter.clamp_(-CLIP, CLIP)
        generator_steps.zero_grad()
        (-critic(generator(torch.randn(BATCH, task.noise))).mean()).backward()
        generator_steps.step()
        run.distance.append(distance.item())
        if step % 10 == 9:
            run.constants.append((step + 1, certified(task, generator, model)))
    run.samples = generator(fixed).detach()
    run.after = energy_distance(run.samples, task.data)
    return run


@torch.no_grad()
def certified(task: Task, generator: nn.Module, model: BoundedModule) -> float:
    """The largest constant over balls around 200 points between data and generated ones, from CROWN's bounds."""
    real = task.data[torch.randint(len(task.data), (200,))]
    points = between(real, generator(torch.randn(200, task.noise)))
    ball = BoundedTensor(points, PerturbationLpNorm(norm=2.0, eps=task.radius))
    return float(rj.local_lipschitz(model, ball, method="RecurJac-Linear").max())


def draw(found: dict[str, dict[str, Run]], data: dict[str, Tensor], path: Path) -> None:
    """A line of panels per data set: distance, certified constant, and what the RecurJac generator makes."""
    drawn, axes = panels(len(found), 3, 10.0, 3.0 * len(found) + 0.4)
    for line, (name, runs) in zip(axes, found.items(), strict=True):
        for method, run in runs.items():
            line[0].plot(run.distance, color=METHODS[method], label=method, linewidth=1)
            line[1].plot(*zip(*run.constants), color=METHODS[method], label=method, linewidth=1.8)
        line[0].set(title=f"{name}: critic's estimate", yscale="symlog")
        line[1].set(title="largest certified l_2 constant", yscale="log")
        line[1].axhline(1, color="black", linestyle=":", linewidth=1)
        for panel in line[:2]:
            panel.set_xlabel("generator steps")
            panel.grid(alpha=0.3)
        samples = runs["RecurJac"].samples
        if samples.shape[1] == 2:
            for points, color in ((data[name][:500], "#999999"), (samples, METHODS["RecurJac"])):
                line[2].scatter(points[:, 0], points[:, 1], s=4, color=color)
        else:
            rows = samples[:40].reshape(5, 8, 8, 8).transpose(1, 2).reshape(40, 64)
            line[2].imshow(rows, cmap="gray_r")
            line[2].axis("off")
        line[2].set_title("generated, critic held by RecurJac")
    save(drawn, path)


def main() -> None:
    """Train, print, check, draw."""
    parser = argparse.ArgumentParser(description="WGAN critics: clipping, gradient penalty, RecurJac.")
    parser.add_argument(
        "--plot", type=Path, default=Path("train_wgan.png"), help="picture to write: .png, .pdf or .svg"
    )
    parser.add_argument("--quick", action="store_true", help="one data set, few steps")
    options = parser.parse_args()
    torch.set_num_threads(1)  # sums in one order
    torch.manual_seed(0)
    chosen, steps = (tasks()[:1], 30) if options.quick else (tasks(), 400)
    found: dict[str, dict[str, Run]] = {}
    for task in chosen:
        runs = found[task.name] = {method: train(task, method, steps) for method in METHODS}
        for method, run in runs.items():
            late = [constant for step, constant in run.constants if step > steps / 2]
            print(
                f"{task.name}: {method:16} certified constant {min(late):.2f} to {max(late):.2f} in the second half, "
                f"energy distance {run.before:.3f} -> {run.after:.3f}"
            )
        held = max(constant for step, constant in runs["RecurJac"].constants if step > steps / 2)
        free = max(constant for step, constant in runs["gradient penalty"].constants if step > steps / 2)
        assert held < 1.7, "the penalty on the bound keeps the certified constant near 1"
        assert held < free, "closer to 1 than the penalty on the gradient at single points does"
        if not options.quick:
            assert runs["RecurJac"].after < runs["RecurJac"].before / 4, "and the generator learns"
    draw(found, {task.name: task.data for task in chosen}, options.plot)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module=r"torch\.onnx")
    main()
