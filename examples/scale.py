"""How time and memory of a local Lipschitz constant grow with the network, and a ResNet-18 with 11 million weights.

Networks with random weights, one thread, pre-activation bounds included. Every curve varies one thing: width and depth
of a multilayer perceptron, the number of its undetermined neurons (by the radius), its inputs, and the rows bounded at
once. `--resnet` bounds the constant of a margin of a ResNet-18 for CIFAR, whose pre-activations are bounded by
zonotopes, because CROWN has no room there.

Run `python examples/scale.py [--plot FILE] [--quick] [--resnet] [--width N] [--eps E]`. Memory is read from /proc.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import torch
from paper_networks import STYLES, panels, save
from torch import Tensor, nn

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm

METHODS = ("RecurJac", "RecurJac-Linear", "Fast-Lip")
STATUS = Path("/proc/self/status")


@dataclass
class Cost:
    """What one computation took; memory is the peak above what was in use before, NaN where /proc is missing."""

    seconds: float = math.nan
    megabytes: float = math.nan


@contextmanager
def measured() -> Iterator[Cost]:
    """Measure the block."""
    cost = Cost()
    if STATUS.exists():
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts from now
    before, start = _memory("VmRSS"), time.process_time()
    yield cost
    cost.seconds, cost.megabytes = time.process_time() - start, _memory("VmHWM") - before


def _memory(key: str) -> float:
    if not STATUS.exists():
        return math.nan
    lines = dict(line.split(":", 1) for line in STATUS.read_text(encoding="ascii").splitlines())
    return int(lines[key].split()[0]) / 1024


def mlp(inputs: int, width: int, depth: int, outputs: int) -> nn.Sequential:
    """A ReLU network with `depth` hidden layers, weights of He's size."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for a, b in pairwise([inputs, *[width] * depth]):
        layers += [nn.Linear(a, b), nn.ReLU()]
        nn.init.kaiming_normal_(layers[-2].weight)  # type: ignore[arg-type]
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def box(center: Tensor, eps: float) -> BoundedTensor:
    """The l_inf ball as a perturbed input."""
    return BoundedTensor(center, PerturbationLpNorm(norm=math.inf, eps=eps))


@dataclass
class Curve:
    """Costs against one quantity."""

    name: str
    values: list[int] = field(default_factory=list)
    costs: dict[str, list[Cost]] = field(default_factory=lambda: {method: [] for method in METHODS})

    @torch.no_grad()
    def add(self, net: nn.Module, inputs: int, eps: float, value: int | None = None) -> None:
        """Measure one network; `value` None stands for its number of undetermined neurons."""
        center = torch.rand(1, inputs)
        model, x = BoundedModule(net, center), box(center, eps)
        bounds = rj.zonotope_bounds(model, x).values()
        undetermined = sum(int(((low < 0) & (high > 0)).sum()) for low, high in bounds)
        for method in METHODS:
            with measured() as cost:
                rj.local_lipschitz(model, x, method=method)
            self.costs[method].append(cost)
        self.values.append(undetermined if value is None else value)
        shown = ", ".join(f"{m} {c[-1].seconds:.2f} s {c[-1].megabytes:.0f} MB" for m, c in self.costs.items())
        print(f"{self.name} {self.values[-1]} ({undetermined} undetermined): {shown}")


def curves(quick: bool) -> list[Curve]:
    """All curves."""

    def steps(values: Sequence[int]) -> Sequence[int]:
        return values[:2] if quick else values

    width, depth, undetermined, inputs, rows = (
        Curve(name) for name in ("width", "depth", "undetermined neurons", "inputs", "rows")
    )
    Curve("first call").add(mlp(8, 8, 1, 1), 8, 0.01, 8)  # what is done once is not counted
    for n in steps((64, 128, 256, 512, 1024, 2048)):
        width.add(mlp(64, n, 3, 10), 64, 0.01, n)
    for n in steps((2, 4, 8, 16)):
        depth.add(mlp(64, 128, n, 10), 64, 0.01, n)
    for n in steps((1, 4, 16, 64, 256)):
        undetermined.add(mlp(64, 512, 3, 10), 64, 0.001 * n)
    for n in steps((16, 64, 256, 1024, 4096)):
        inputs.add(mlp(n, 256, 3, 10), n, 1 / n, n)
    for n in steps((1, 8, 64, 512)):
        rows.add(mlp(64, 256, 3, n), 64, 0.03, n)
    return [width, depth, undetermined, inputs, rows]


def draw(found: list[Curve], path: Path) -> None:
    """Seconds above, megabytes below, both axes logarithmic."""
    drawn, axes = panels(2, len(found), 13.0, 5.4)
    for column, curve in enumerate(found):
        for method, costs in curve.costs.items():
            look = {"color": STYLES[method]["color"], "marker": STYLES[method]["marker"], "label": method}
            axes[0][column].loglog(curve.values, [cost.seconds for cost in costs], **look)
            axes[1][column].loglog(curve.values, [max(cost.megabytes, 0.1) for cost in costs], **look)
        axes[1][column].set_xlabel(curve.name)
        for line in axes:
            line[column].grid(alpha=0.3)
    axes[0][0].set_ylabel("CPU seconds")
    axes[1][0].set_ylabel("peak memory, MB")
    save(drawn, path)


class Block(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()),
            *(nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)),
        )
        same = inputs == outputs and stride == 1
        projection = (nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        self.shortcut = nn.Sequential() if same else nn.Sequential(*projection)

    def forward(self, x: Tensor) -> Tensor:
        """The sum, behind a ReLU."""
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet18(width: int = 64) -> nn.Sequential:
    """ResNet-18 for 32x32 images (He et al., 2016), statistics of the batch norms from random images."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    channels = width
    for outputs, stride in ((width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)):
        layers += [Block(channels, outputs, stride), Block(outputs, outputs, 1)]
        channels = outputs
    net = nn.Sequential(*layers, nn.AvgPool2d(4), nn.Flatten(), nn.Linear(channels, 10))
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # the plain mean over what it sees
    net.train()
    with torch.no_grad():
        net(torch.rand(32, 3, 32, 32))
    return net.eval()


def bound_resnet(width: int, eps: float) -> None:
    """Bound the local l_inf constant of a margin of a ResNet-18."""
    net = resnet18(width)
    center = torch.rand(1, 3, 32, 32)
    model, x = BoundedModule(net, center), box(center, eps)
    C = torch.zeros(1, 1, 10)
    C[0, 0, :2] = torch.tensor([1.0, -1.0])
    with torch.no_grad(), measured() as first:
        bounds = rj.zonotope_bounds(model, x)
    with torch.no_grad(), measured() as second:
        constant = float(rj.local_lipschitz(model, x, C=C, intermediate_bounds=bounds))
    undetermined = sum(int(((low < 0) & (high > 0)).sum()) for low, high in bounds.values())
    slopes = []
    for point in (center, center + eps, center - eps, center + eps * torch.randn_like(center).sign()):
        leaf = point.clone().requires_grad_()
        margin = (net(leaf) * C[0]).sum()
        slopes.append(float(torch.autograd.grad(margin, leaf)[0].abs().sum()))
    print(
        f"ResNet-18, {sum(p.numel() for p in net.parameters()):,} weights, l_inf {eps:g}: "
        f"local constant {constant:.2f}, "
        f"sampled {max(slopes):.2f}, {undetermined} undetermined neurons; zonotopes {first.seconds:.0f} s "
        f"{first.megabytes:.0f} MB, RecurJac {second.seconds:.0f} s {second.megabytes:.0f} MB"
    )
    assert max(slopes) <= constant * (1 + 1e-4), "no gradient in the ball is larger"


def main() -> None:
    """Measure, check, draw."""
    parser = argparse.ArgumentParser(description="Time and memory of local Lipschitz constants.")
    parser.add_argument("--plot", type=Path, help="picture to write: .png, .pdf or .svg")
    parser.add_argument("--quick", action="store_true", help="two points per curve")
    parser.add_argument("--resnet", action="store_true", help="the ResNet-18 instead of the curves")
    parser.add_argument("--width", type=int, default=64, help="channels of the ResNet's first stage (default 64)")
    parser.add_argument("--eps", type=float, default=1e-5, help="l_inf radius for the ResNet (default 1e-5)")
    options = parser.parse_args()
    if options.resnet:
        bound_resnet(options.width, options.eps)
        return
    torch.set_num_threads(1)
    found = curves(options.quick)
    if not options.quick:
        width = found[0].costs["RecurJac"]
        growth = math.log(width[-1].seconds / width[-3].seconds) / math.log(4)
        print(f"RecurJac's time grows with the width to the power {growth:.1f}")
        assert growth < 4, "polynomially: products of matrices as large as the layers"
    if options.plot:
        draw(found, options.plot)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module=r"torch\.onnx")
    main()
