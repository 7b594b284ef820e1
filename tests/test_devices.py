"""Where results are computed and in which numbers: devices, number types, what is read back, and how much at a time.

Most of it is seen without a second device, see `second_device`; what needs a CUDA device is marked `gpu`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from cases import on_host
from second_device import DEVICE, Elsewhere, outside
from torch import Tensor, nn

import recurjac_plugin as rj
from recurjac_plugin import stages
from recurjac_plugin.spec import Box, Polytope
from recurjac_plugin.host import IS_03, BoundedModule, BoundedTensor, PerturbationLpNorm


def network() -> nn.Module:
    """A convolution, ReLUs, and a smooth end."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 8), nn.ReLU(), nn.Linear(8, 6),
        nn.Tanh(), nn.Linear(6, 3),
    )  # fmt: skip


def rectified() -> nn.Module:
    """Two linear pieces everywhere, as `verify` and the zonotopes like it."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3))


class Lipschitz(nn.Module):
    """Row sums of a Jacobian."""

    def __init__(self) -> None:
        super().__init__()
        self.net = rectified()

    def forward(self, x: Tensor) -> Tensor:
        return rj.JacobianOP.apply(self.net(x), x).flatten(2).abs().sum(2)


@dataclass
class Problem:
    """A network on the host, and balls around two inputs."""

    net: nn.Module
    model: Any
    x0: Tensor

    @classmethod
    def of(cls, build: Callable[[], nn.Module], dtype: torch.dtype, device: str = "cpu") -> Problem:
        x0 = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(1)).to(device, dtype)
        net = build().to(device, dtype)
        return cls(net, on_host(net, x0), x0)

    def ball(self, eps: float = 0.05, norm: float = math.inf) -> Any:
        return BoundedTensor(self.x0.clone(), PerturbationLpNorm(norm=norm, eps=eps))


def a_property() -> rj.Spec:
    """``y_0 <= b`` with a b that is reached somewhere, so that boxes are cut and a counterexample is looked for."""
    center, closed = np.linspace(-1, 1, 16), np.zeros(16, dtype=bool)
    row = Polytope(np.array([[1.0, -1.0, 0.0]]), np.array([-0.2]), np.array([False]))
    other = Polytope(np.array([[0.0, 1.0, -1.0], [1.0, 0.0, 0.0]]), np.array([-0.3, -0.1]), np.array([False, False]))
    box = Box(center - 0.1, center + 0.1, (row, other), closed, closed)
    return rj.Spec((box,), n_inputs=16, n_outputs=3)


def bounds(p: Problem, **options: Any) -> tuple[Tensor, ...]:
    found = rj.jacobian_bounds(p.model, p.ball(), **options)
    return found.lower, found.upper


def one_row(p: Problem) -> Tensor:
    return torch.tensor([[[1.0, -0.5, 0.25]]]).to(p.x0)


def verified(p: Problem) -> tuple[Tensor, ...]:
    result = rj.verify(p.model, a_property(), input_shape=(1, 4, 4), split=True, timeout=20, seed=0)
    return (torch.tensor(result.lower_bound, dtype=p.x0.dtype, device=p.x0.device),)


def monotone(p: Problem) -> tuple[Tensor, ...]:
    found = rj.monotonicity_report(p.model, p.ball(), max_boxes=9)
    return found.lowest, found.highest


def host_method(p: Problem, method: str) -> tuple[Tensor, ...]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(p.x0.dtype)  # the host makes its unit matrices in it
    try:
        return p.model.compute_bounds(x=(p.ball(),), method=method)
    finally:
        torch.set_default_dtype(before)


METHODS = ("RecurJac", "RecurJac-Linear", "Fast-Lip", "IBP+RecurJac", "CROWN-IBP+RecurJac", "alpha-CROWN+RecurJac")
Quantity = Callable[[Problem], tuple[Tensor, ...]]
QUANTITIES: dict[str, tuple[Callable[[], nn.Module], Quantity]] = {
    **{f"jacobian_bounds {m}": (network, partial(bounds, method=m)) for m in METHODS},
    **{
        f"jacobian_bounds {m} {order}": (network, partial(bounds, method=m, order=order))
        for m in METHODS[:3]
        for order in ("forward", "both")
    },
    "jacobian_bounds shifted": (rectified, partial(bounds, order="forward", shift=1)),
    "jacobian_bounds of a row": (network, lambda p: bounds(p, C=one_row(p))),
    "local_lipschitz": (network, lambda p: (rj.local_lipschitz(p.model, p.ball()),)),
    "local_lipschitz l_2": (network, lambda p: (rj.local_lipschitz(p.model, p.ball(norm=2.0), per_output=True),)),
    **{
        f"global_lipschitz {n:g}": (network, lambda p, n=n: (rj.global_lipschitz(p.model, norm=n),))
        for n in (1.0, 2.0, math.inf)
    },
    "output_bounds": (network, lambda p: rj.output_bounds(p.model, p.ball(), method="RecurJac+CROWN", steps=2)),
    "certified_radius": (
        network,
        lambda p: (
            rj.certified_radius(p.model, p.x0, norm=2, C=rj.margin_rows(p.net(p.x0)), method="RecurJac+CROWN"),
        ),
    ),
    "stationary_free_radius": (
        network,
        lambda p: (rj.stationary_free_radius(p.model, p.x0, norm=2, C=one_row(p)),),
    ),
    "landscape_scan": (
        network,
        lambda p: (
            rj.landscape_scan(p.model, p.x0, norm=2, C=one_row(p), radius=0.1, points=3)
            .constants,
        ),
    ),
    "monotonicity_report": (rectified, monotone),
    "verify": (rectified, verified),
    "zonotope_bounds": (
        rectified,
        lambda p: tuple(end for pair in rj.zonotope_bounds(p.model, p.ball()).values() for end in pair),
    ),
    "sampled_lipschitz": (network, lambda p: (rj.sampled_lipschitz(p.model, p.ball(), points=4, steps=3),)),
    "JacobianOP IBP": (Lipschitz, partial(host_method, method="IBP")),
    "JacobianOP CROWN": (Lipschitz, partial(host_method, method="CROWN")),
    "JacobianOP CROWN-IBP": (Lipschitz, partial(host_method, method="CROWN-IBP")),
    "JacobianOP forward": (Lipschitz, partial(host_method, method="forward")),
    "compute_bounds": (network, partial(host_method, method="RecurJac")),
    "compute_jacobian_bounds": (
        network,
        lambda p: tuple(p.model.compute_jacobian_bounds(p.ball(), method="RecurJac")),
    ),
}


def on_second_device(name: str, **changes: Any) -> tuple[Elsewhere, tuple[Tensor, ...]]:
    """A quantity computed on the second device."""
    build, quantity = QUANTITIES[name]
    problem, there = Problem.of(build, torch.float64), Elsewhere()
    for held in (problem.net, problem.model, problem.x0):
        there.put(held)
    with there():
        return there, quantity(problem)


@pytest.fixture
def _traced_outside(monkeypatch):
    """`verify` builds a model of its own."""

    def bounded_model(network: nn.Module, example: Tensor) -> Any:
        return there_last[0].put(outside(real)(network, example))

    real = stages.bounded_model
    monkeypatch.setattr(stages, "bounded_model", bounded_model)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("name", QUANTITIES)
def test_second(name):
    there, found = on_second_device(name)
    print(dict(there.mixed), dict(there.copies), dict(there.waits))
    assert all(there.holds(value) for value in found)
    assert not there.mixed
