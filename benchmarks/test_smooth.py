"""The methods on smooth networks: time, and in the extra information how tight the bounds are.

All elements of the Jacobian, by the pass alone: pre-activation bounds are CROWN's and given, the line "CROWN" is the
host's time for them and for the output. On auto_LiRPA 0.7 its own operator, which finds its own pre-activation bounds,
is beside them on the small network.

Lipschitz constants of ten outputs, by either `JacobianOP`, as in the benchmark of that name, from 192 inputs through
100, 100 and 60 neurons; the host's optimisation, which changes nothing there, is left out. The host's operator is
unsound for tanh and sigmoid: what is to be compared with is the corrected one (`corrected_operator`).
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import math
from typing import Any

import pytest
import torch
from corrected_operator import corrected_operator
from torch import Tensor, nn

import recurjac_plugin as rj
from recurjac_plugin.host import IS_03, BoundedModule, BoundedTensor, PerturbationLpNorm
from recurjac_plugin.host.problem import read
from recurjac_plugin.jacobian.analysis import analyse
from recurjac_plugin.jacobian.methods import parse
from recurjac_plugin.preactivations.host import host_bounds

NETWORKS = {
    "tanh 784-256x3-10, eps 0.01": (nn.Tanh, (784, 256, 256, 256, 10), 0.01),
    "sigmoid 784-256x3-10, eps 0.05": (nn.Sigmoid, (784, 256, 256, 256, 10), 0.05),
    "tanh 20-30x3-5, eps 0.05": (nn.Tanh, (20, 30, 30, 30, 5), 0.05),
}
OPERATOR = "auto_LiRPA's JacobianOP, corrected"


class Jacobian(nn.Module):
    """The network's Jacobian by the host's operator."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net, self.operator = net, importlib.import_module("auto_LiRPA.jacobian").JacobianOP

    def forward(self, x: Tensor) -> Tensor:
        return self.operator.apply(self.net(x), x)


@pytest.mark.filterwarnings("ignore")  # tracing the host's gradient modules warns about every shape they look at
@pytest.mark.parametrize("line", ["CROWN", *rj.METHODS, OPERATOR])
@pytest.mark.parametrize("name", NETWORKS)
def test_smooth(benchmark: Any, name: str, line: str) -> None:
    activation, sizes, eps = NETWORKS[name]
    if line == OPERATOR and (IS_03 or sizes[0] > 100):
        pytest.skip("auto_LiRPA 0.3 has no Jacobian operator" if IS_03 else "minutes")
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(sizes):
        layers += [nn.Linear(before, after), activation()]
    net = nn.Sequential(*layers[:-1])
    center = torch.rand(1, sizes[0])
    model = BoundedModule(Jacobian(net) if line == OPERATOR else net, center)
    x = BoundedTensor(center, PerturbationLpNorm(norm=math.inf, eps=eps))
    benchmark.group, benchmark.name = name, line
    with torch.no_grad():
        if line == "CROWN":
            benchmark.pedantic(lambda: model.compute_bounds(x=(x,), method="CROWN"), rounds=5, warmup_rounds=1)
            return
        if line == OPERATOR:
            with corrected_operator():
                lower, upper = benchmark.pedantic(lambda: model.compute_jacobian_bounds(x, optimize=False), rounds=3)
        else:
            method, rows = parse(line), torch.eye(sizes[-1]).unsqueeze(0)
            names = [*analyse(model, x, method, rows).graph.reads]
            given = host_bounds(read(model, x), "CROWN", rows, names).intervals
            lower, upper = benchmark.pedantic(
                lambda: analyse(model, x, method, rows, intermediate_bounds=given).jacobian, rounds=5, warmup_rounds=1
            )
    benchmark.extra_info["mean width"] = float((upper - lower).mean())


LAYERS = {
    "ReLU-tanh-sigmoid": (nn.ReLU, nn.Tanh, nn.Sigmoid),
    "tanh-ReLU-tanh": (nn.Tanh, nn.ReLU, nn.Tanh),
    "tanh": (nn.Tanh, nn.Tanh, nn.Tanh),
    "sigmoid": (nn.Sigmoid, nn.Sigmoid, nn.Sigmoid),
}


class Constants(nn.Module):
    """The l_inf Lipschitz constant of every output, by either operator."""

    def __init__(self, layers: str, operator: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        first, second, third = (activation() for activation in LAYERS[layers])
        self.net = nn.Sequential(
            nn.Linear(192, 100), first, nn.Linear(100, 100), second, nn.Linear(100, 60), third, nn.Linear(60, 10)
        )
        self.operator = operator

    def forward(self, x: Tensor) -> Tensor:
        return self.operator.apply(self.net(x), x).abs().sum(2)


@pytest.mark.skipif(IS_03, reason="auto_LiRPA 0.3 has no Jacobian operator")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("line", ["auto_LiRPA", "auto_LiRPA, corrected", "rj.JacobianOP"])
@pytest.mark.parametrize("eps", [1, 4, 13])
@pytest.mark.parametrize("layers", LAYERS)
def test_constants(benchmark: Any, layers: str, eps: int, line: str) -> None:
    theirs = line.startswith("auto_LiRPA")
    rj.register()
    try:
        operator = importlib.import_module("auto_LiRPA.jacobian").JacobianOP if theirs else rj.JacobianOP
        center = torch.randn(1, 192, generator=torch.Generator().manual_seed(1))
        model = BoundedModule(Constants(layers, operator), center)
        x = BoundedTensor(center, PerturbationLpNorm(norm=math.inf, eps=eps / 255))
        benchmark.group, benchmark.name = f"{layers}, eps {eps}/255", line
        with torch.no_grad(), corrected_operator() if "corrected" in line else contextlib.nullcontext():
            upper = benchmark.pedantic(
                lambda: model.compute_jacobian_bounds(x, optimize=False, bound_lower=False)[1],
                rounds=5,
                warmup_rounds=1,
            )
    finally:
        rj.unregister()
    benchmark.extra_info["largest constant"] = float(upper.max())
