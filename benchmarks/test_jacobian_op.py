"""`JacobianOP` beside the host's own operator: the three examples of auto_LiRPA's `examples/vision/jacobian.py`.

Each group is one of them, at eps 1/255 and 4/255 on its network (192-100-200-10, ReLU): the Jacobian, the l_inf
Lipschitz constant of the ten outputs one after the other, and the product with a vector. The same wrapped network is
built with both operators, and the time is that of `compute_jacobian_bounds` as the examples call it, pre-activation
bounds included. By default the host optimises the bounds of the network's output first, which does not change those of
the Jacobian here; the lines "not optimised" leave that out. The extra information is the largest bound of each.

The last groups are the derivative of a function along a system, ``grad V(x) . f(x)``, on 512 boxes of a fraction
of [-1, 1]^3, V a 3-48-48-1 and f a 3-16-3 tanh network, by CROWN; the extra information is the mean width. The host's
operator is that with sound lines (`corrected_operator`).
"""

from __future__ import annotations

import contextlib
import importlib
import math
from typing import Any

import pytest
import torch
from corrected_operator import corrected_operator
from torch import Tensor, nn

import recurjac_plugin as rj
from recurjac_plugin.host import IS_03, BoundedModule, BoundedTensor, PerturbationLpNorm

pytestmark = [
    pytest.mark.skipif(IS_03, reason="auto_LiRPA 0.3 has no Jacobian operator"),
    pytest.mark.filterwarnings("ignore"),  # tracing the host's gradient modules warns about every shape they look at
]


class Example(nn.Module):
    """One of the three models, with either operator."""

    def __init__(self, kind: str, operator: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.operator = kind, operator
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(192, 100), nn.ReLU(), nn.Linear(100, 200), nn.ReLU(), nn.Linear(200, 10)
        )

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        y = self.net(x)
        if self.kind == "Jacobian":
            return self.operator.apply(y, x)
        if self.kind == "Lipschitz":
            return self.operator.apply(y.matmul(other), x).flatten(1).abs().sum(dim=-1, keepdim=True)
        return (self.operator.apply(y, x).flatten(2) * other.flatten(1).unsqueeze(1)).sum(dim=-1)


@pytest.mark.parametrize("line", ["auto_LiRPA", "auto_LiRPA, not optimised", "rj.JacobianOP"])
@pytest.mark.parametrize("eps", [1, 4])
@pytest.mark.parametrize("kind", ["Jacobian", "Lipschitz", "JVP"])
def test_examples_of_the_host(benchmark: Any, kind: str, eps: int, line: str) -> None:
    ours = line == "rj.JacobianOP"
    operator = rj.JacobianOP if ours else importlib.import_module("auto_LiRPA.jacobian").JacobianOP
    x0, vector = torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(1)), torch.linspace(0, 1, 192)
    other = torch.zeros(10, 1) if kind == "Lipschitz" else vector.reshape(1, 3, 8, 8)
    rj.register()
    try:
        model = BoundedModule(Example(kind, operator), (BoundedTensor(x0), other))
        x = BoundedTensor(x0, PerturbationLpNorm(norm=math.inf, eps=eps / 255))

        def once() -> Tensor:
            return model.compute_jacobian_bounds((x, other), optimize="not" not in line)[1].detach().max()

        def run() -> Tensor:
            if kind != "Lipschitz":
                return once()
            found = []
            for row in range(10):
                # In place, as in the example: the host keeps the tensor that the model was built with.
                other.zero_()[row] = 1
                found.append(once())
            return torch.stack(found).max()

        benchmark.group = f"{kind}, eps {eps}/255"
        benchmark.name = line
        benchmark.extra_info["largest upper bound"] = float(
            benchmark.pedantic(run, rounds=5 if "rj" in line or "not" in line else 1, warmup_rounds=int(ours))
        )
    finally:
        rj.unregister()


class Derivative(nn.Module):
    """``grad V(x) . f(x)``, with either operator."""

    def __init__(self, operator: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.operator = operator
        self.v = nn.Sequential(nn.Linear(3, 48), nn.Tanh(), nn.Linear(48, 48), nn.Tanh(), nn.Linear(48, 1))
        self.f = nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return (self.operator.apply(self.v(x), x).flatten(1) * self.f(x)).sum(1, keepdim=True)


@pytest.mark.parametrize("line", ["auto_LiRPA, corrected", "rj.JacobianOP"])
@pytest.mark.parametrize("fraction", [0.01, 0.1])
def test_many_small_boxes(benchmark: Any, fraction: float, line: str) -> None:
    ours = line == "rj.JacobianOP"
    operator = rj.JacobianOP if ours else importlib.import_module("auto_LiRPA.jacobian").JacobianOP
    centers = 2 * torch.rand(512, 3, generator=torch.Generator().manual_seed(1)) - 1
    rj.register()
    try:
        model = BoundedModule(Derivative(operator), torch.zeros_like(centers))
        x = BoundedTensor(centers, PerturbationLpNorm(norm=math.inf, eps=fraction))

        def run() -> float:
            with torch.no_grad(), contextlib.nullcontext() if ours else corrected_operator():
                lower, upper = model.compute_bounds(x=(x,), method="CROWN")
            return float((upper - lower).mean())

        benchmark.group = f"derivative along a system, 512 boxes of {fraction}"
        benchmark.name = line
        benchmark.extra_info["mean width"] = benchmark.pedantic(run, rounds=7, warmup_rounds=1)
    finally:
        rj.unregister()
