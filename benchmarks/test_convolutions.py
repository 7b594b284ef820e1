"""Convolutional networks with smooth activations, and a training step with Jacobian bounds in the loss: `make bench`.

All elements of the Jacobians of ten outputs, by the pass alone: pre-activation bounds are CROWN's and given, the line
"CROWN" is the host's time for them and for the output. Three layers are a convolution of stride 1 and two of stride 2,
all with padding; five have two more of stride 1. In the extra information is how tight the bounds are.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from devices import finished, group, on_every_device
from torch import Tensor, nn

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm
from recurjac_plugin.host.problem import read
from recurjac_plugin.jacobian.analysis import analyse
from recurjac_plugin.jacobian.methods import parse
from recurjac_plugin.preactivations.host import host_bounds

# activation, channels, side of the image, layers, images
NETWORKS = {
    "SiLU, 8 channels, 2 of 3x16x16": (nn.SiLU, 8, 16, 3, 2),
    "GELU, 8 channels, 2 of 3x16x16": (nn.GELU, 8, 16, 3, 2),
    "tanh, 16 channels, 2 of 3x16x16": (nn.Tanh, 16, 16, 3, 2),
    "SiLU, 32 channels, 3x16x16": (nn.SiLU, 32, 16, 3, 1),
    "tanh, 8 channels, 5 layers, 3x16x16": (nn.Tanh, 8, 16, 5, 1),
    "SiLU, 8 channels, 3x32x32": (nn.SiLU, 8, 32, 3, 1),
    "SiLU, 32 channels, 3x32x32": (nn.SiLU, 32, 32, 3, 1),
}
TOO_LONG = {("SiLU, 32 channels, 3x32x32", "RecurJac-McCormick")}  # minutes
EPS = 0.01


def convolutional(kind: Any, channels: int, side: int, layers: int) -> nn.Module:
    """Convolutions with padding 1, of stride 1 but for the second and third, and a linear layer with ten outputs."""
    torch.manual_seed(0)
    modules: list[nn.Module] = []
    before = 3
    for i in range(layers):
        stride = 2 if i in (1, 2) else 1
        modules += [nn.Conv2d(before, channels, 3, stride, padding=1), kind()]
        before, side = channels, -(-side // stride)
    return nn.Sequential(*modules, nn.Flatten(), nn.Linear(channels * side * side, 10))


def _ball(center: Tensor) -> Any:
    return BoundedTensor(center, PerturbationLpNorm(norm=math.inf, eps=EPS))


@pytest.mark.filterwarnings("ignore")  # the host warns about large matrices
@pytest.mark.parametrize("line", ["CROWN", "RecurJac", "RecurJac-Linear", "RecurJac-McCormick"])
@pytest.mark.parametrize("name", NETWORKS)
@on_every_device
def test_convolutions(benchmark: Any, name: str, line: str, device: str) -> None:
    if (name, line) in TOO_LONG:
        pytest.skip("minutes")
    kind, channels, side, layers, images = NETWORKS[name]
    network = convolutional(kind, channels, side, layers).to(device)
    torch.manual_seed(1)
    center = torch.rand(images, 3, side, side).to(device)
    if kind is nn.GELU:
        rj.register()  # 0.7.1 has no operator for the error function that it is exported as
    try:
        options = {"conv_mode": "matrix"} if kind is nn.GELU else {}
        model, x = BoundedModule(network, center[:1], bound_opts=options, device=device), _ball(center)
        benchmark.group, benchmark.name = group(name, device), line
        with torch.no_grad():
            if line == "CROWN":
                bound = finished(lambda: model.compute_bounds(x=(x,), method="CROWN"), device)
                benchmark.pedantic(bound, rounds=5, warmup_rounds=1)
                return
            rows = torch.eye(10, device=device).expand(images, -1, -1)
            names = [*analyse(model, x, parse(line), rows).graph.reads]
            given = host_bounds(read(model, x), "CROWN", rows, names).intervals

            def bounded() -> Any:
                return analyse(model, x, parse(line), rows, intermediate_bounds=given).jacobian

            lower, upper = benchmark.pedantic(finished(bounded, device), rounds=3, warmup_rounds=1)
    finally:
        rj.unregister()
    benchmark.extra_info["mean width"] = float((upper - lower).mean())


class LateArctan(nn.Module):
    """A network of 30000 inputs with one arctan, at its end."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 5, 4), nn.ReLU(), nn.Conv2d(8, 8, 5, 2), nn.ReLU(), nn.Flatten(), nn.Linear(800, 32),
            nn.ReLU(), nn.Linear(32, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return 2 * torch.atan(self.net(x))


@pytest.mark.parametrize("line", ["RecurJac-Linear", "RecurJac-McCormick"])
def test_one_smooth_layer_at_the_end(benchmark: Any, line: str) -> None:
    torch.manual_seed(1)
    center = torch.rand(1, 3, 100, 100)
    model = BoundedModule(LateArctan(), center)
    x = BoundedTensor(center, PerturbationLpNorm(norm=math.inf, eps=0.003))
    benchmark.group, benchmark.name = "30000 inputs, one arctan at the end", line
    with torch.no_grad():
        rows = torch.ones(1, 1, 1)
        names = [*analyse(model, x, parse(line), rows).graph.reads]
        given = host_bounds(read(model, x), "CROWN", rows, names).intervals
        benchmark.pedantic(
            lambda: analyse(model, x, parse(line), rows, intermediate_bounds=given).jacobian, rounds=5, warmup_rounds=1
        )


@pytest.mark.parametrize("line", ["plain step", "with CROWN's output bounds", *rj.METHODS[:3]])
def test_training_step(benchmark: Any, line: str) -> None:
    """Cross-entropy of four images, and the mean l_1 norm of the gradients' bounds besides."""
    network = convolutional(nn.SiLU, 8, 16, 3)
    torch.manual_seed(1)
    center, label = torch.rand(4, 3, 16, 16), torch.randint(10, (4,))
    model, x = BoundedModule(network, center[:1]), _ball(center)
    benchmark.group, benchmark.name = "training step, SiLU, 8 channels, 4 of 3x16x16", line

    def step() -> None:
        network.zero_grad()
        loss = nn.functional.cross_entropy(network(center), label)
        if line.startswith("with CROWN"):
            lower, upper = model.compute_bounds(x=(x,), method="CROWN")
            loss = loss + (upper - lower).mean()
        elif line in rj.METHODS:
            bounds = rj.jacobian_bounds(model, x, method=line)
            loss = loss + bounds.magnitude.flatten(2).sum(2).mean()
        loss.backward()  # type: ignore[no-untyped-call]

    benchmark.pedantic(step, rounds=3, warmup_rounds=1)
