"""What this package has to say about a constant: a list of methods, each a label and a function."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm


class Constant(NamedTuple):
    """A Lipschitz constant between two bounds, and the seconds of the processor that they took."""

    lower: float
    upper: float
    seconds: float


Method = Callable[[nn.Module, BoundedTensor, float], Constant]
"""``(network, region, norm) -> constant`` for outputs in the same norm as the inputs."""


def box(lower: Tensor, upper: Tensor) -> BoundedTensor:
    """A perturbed input on the box between two corners, shape (columns,) each."""
    x_L, x_U = lower.unsqueeze(0), upper.unsqueeze(0)
    return BoundedTensor((x_L + x_U) / 2, PerturbationLpNorm(norm=math.inf, x_L=x_L, x_U=x_U))


def ball(center: Tensor, radius: float) -> BoundedTensor:
    """A perturbed input on the l_2 ball around a point of shape (columns,)."""
    return BoundedTensor(center.unsqueeze(0), PerturbationLpNorm(norm=2, eps=radius))


def hosted(net: nn.Module, columns: int) -> BoundedModule:
    """The network on the host."""
    return BoundedModule(net, torch.zeros(1, columns, dtype=torch.get_default_dtype()), device="cpu")


def operator_norm(matrix: Tensor, norm: float) -> float:
    """The norm of a matrix as a map between two spaces with that norm."""
    if norm == 2:
        return float(torch.linalg.matrix_norm(matrix, 2))
    return float(matrix.abs().sum(0 if norm == 1 else 1).max())


def one_pass(method: str | None, order: str = "backward") -> Method:
    """A method by its name, one pass without branching."""

    def constant(net: nn.Module, x: BoundedTensor, norm: float) -> Constant:
        model, start = hosted(net, x.shape[1]), time.process_time()
        with torch.no_grad():
            if "norm" in inspect.signature(rj.local_lipschitz).parameters:
                most = float(rj.local_lipschitz(model, x, method=method, order=order, norm=norm))
            else:
                entries = rj.jacobian_bounds(model, x, method=method, order=order).magnitude[0]
                most = operator_norm(entries, norm)
                if norm == math.inf == x.ptb.norm:
                    most = min(most, float(rj.local_lipschitz(model, x, method=method, order=order)))
        return Constant(0.0, most, time.process_time() - start)

    return constant


def branching(seconds: float, gap: float = 1e-6) -> Method:
    """The search between two bounds that meet, for so many seconds, and one pass, as `budget=` has them."""

    def constant(net: nn.Module, x: BoundedTensor, norm: float) -> Constant:
        model, start = hosted(net, x.shape[1]), time.process_time()
        found = rj.tighten(model, x, norm=norm, output_norm=norm, gap=gap, budget=seconds)  # type: ignore[attr-defined]
        upper = min(float(found.upper), float(rj.local_lipschitz(model, x, norm=norm, output_norm=norm)))
        return Constant(float(found.lower), upper, time.process_time() - start)

    return constant


METHODS: list[tuple[str, Method]] = [
    ("RecurJac", one_pass("RecurJac")),
    ("RecurJac-Linear", one_pass("RecurJac-Linear")),
    ("RecurJac-Linear, both orders", one_pass("RecurJac-Linear", "both")),
]
"""Lines of the tables. The searches stand there as soon as the package has them."""

BRANCHING: list[tuple[str, Method]] = (
    [(f"branching, {seconds} s", branching(seconds)) for seconds in (1, 10, 60)] if hasattr(rj, "tighten") else []
)


def perceptron(weights: list[Tensor], biases: list[Tensor], activation: Callable[[], nn.Module]) -> nn.Sequential:
    """A network of dense layers from weights of shape (out, in), with an activation between any two."""
    layers: list[nn.Module] = []
    for weight, bias in zip(weights, biases, strict=True):
        linear = nn.Linear(*weight.T.shape)
        with torch.no_grad():
            linear.weight.copy_(weight)
            linear.bias.copy_(bias)
        layers += [linear, activation()]
    return nn.Sequential(*layers[:-1]).to(torch.get_default_dtype()).eval()


def sampled(net: nn.Module, x: BoundedTensor, norm: float, count: int = 4000) -> float:
    """A lower bound: the largest norm of the Jacobian at random points of a box and its corners, or of a ball."""
    generator, center = torch.Generator().manual_seed(0), x.detach().as_subclass(Tensor)[0]
    share = torch.rand(count, len(center), generator=generator, dtype=center.dtype)
    if x.ptb.norm == math.inf:
        share[: count // 2] = share[: count // 2].round()
        points = x.ptb.x_L + share * (x.ptb.x_U - x.ptb.x_L)
    else:
        away = torch.randn(count, len(center), generator=generator, dtype=center.dtype)
        points = center + x.ptb.eps * share[:, :1] * away / away.norm(dim=1, keepdim=True)
    J = torch.func.vmap(torch.func.jacrev(net), chunk_size=200)(points).detach()
    if norm == 2:
        return float(torch.linalg.matrix_norm(J, 2).max())
    return float(J.abs().sum(1 if norm == 1 else 2).max())
