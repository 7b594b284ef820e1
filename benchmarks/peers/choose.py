"""Which method to choose: mean width of the entries, l_inf constant and seconds on networks of three kinds."""

from __future__ import annotations

import contextlib
import io
import itertools
import time
from collections.abc import Iterator
from math import inf
from statistics import median

import torch
from ours import BRANCHING, box, hosted
from tables import machine, show
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedTensor

METHODS = [*rj.METHODS, "auto", "alpha-CROWN+auto"]


def perceptron(kind: type[nn.Module], *sizes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), kind()]
    return nn.Sequential(*layers[:-1])


def convolutional() -> nn.Sequential:
    return nn.Sequential(
        nn.Unflatten(1, (1, 12, 12)), nn.Conv2d(1, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 4, 2, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(144, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip


NETWORKS = {
    "ReLU 20-50x3-10": (lambda: perceptron(nn.ReLU, 20, 50, 50, 50, 10), 20, (0.01, 0.2)),
    "ReLU, 2 convolutions, 144 pixels": (convolutional, 144, (0.01, 0.2)),
    "tanh 20-50x3-10": (lambda: perceptron(nn.Tanh, 20, 50, 50, 50, 10), 20, (0.01, 0.2)),
}
"""Random weights of torch's own, seed 0, doubled, so that neurons change their side."""


def measured(net: nn.Module, x: BoundedTensor, method: str) -> tuple[float, float, float]:
    """Mean width, constant, and median seconds of both together."""
    model, seconds = hosted(net, x.shape[1]), []
    for _ in range(3):
        start = time.process_time()
        with contextlib.redirect_stdout(io.StringIO()):  # the host says there how its optimisation goes
            width = float(rj.jacobian_bounds(model, x, method=method).width.detach().mean())
            constant = float(rj.local_lipschitz(model, x, method=method).detach())
        seconds.append(time.process_time() - start)
    return width, constant, median(seconds)


def rows() -> Iterator[list[object]]:
    for name, (make, columns, radii) in NETWORKS.items():
        torch.manual_seed(0)
        net = make().double().eval()
        with torch.no_grad():
            for parameter in net.parameters():
                parameter.mul_(2)
        center = torch.rand(columns, dtype=torch.float64)
        for radius in radii:
            x = box(center - radius, center + radius)
            first: tuple[float, float, float] | None = None
            for method in METHODS:
                with torch.set_grad_enabled(method.startswith("alpha")):
                    found = measured(net, x, method)
                first = found if first is None else first
                ratios = [mine / its if its else 1.0 for mine, its in zip(found[:2], first[:2])]
                yield [name, radius, method, *(f"{ratio:.3f}" for ratio in ratios), found[2]]
            for label, method in BRANCHING:
                found_between = method(net, x, inf)
                assert first is not None
                ratio = f"{found_between.upper / first[1]:.3f}"
                yield [name, radius, label, "", ratio, found_between.seconds]


def main() -> None:
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    print(machine())
    columns = ("network", "radius", "method", "width / RecurJac's", "l_inf constant / RecurJac's", "seconds")
    show("Which method", columns, rows())


if __name__ == "__main__":
    main()
