"""Specimens of sums, differences, products, quotients and matrix products, and of what only adds up numbers.

Operands are a constant, or two linear maps of the input: its two halves, which are independent of each other, or the
input and a mixture of it, which are not. Both are linear layers, so that the host sees nothing but these.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

from .functions import ABOVE
from .specimen import Formula, Specimen, convex


def constant(*shape: int, low: float = -2.0, high: float = 2.0) -> Tensor:
    """Random numbers off 0 that float32 holds, shape as given."""
    return low + torch.randint(1, 32, shape) / 32 * (high - low) + 1 / 128


def fixed(weight: Tensor) -> nn.Linear:
    """A linear layer of these weights, without a bias."""
    layer = nn.Linear(weight.shape[1], weight.shape[0])
    layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(torch.zeros(len(weight)))
    return layer


def halves(size: int, function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], nn.Module]:
    """A function of both halves of the input."""

    def build() -> nn.Module:
        first, second = torch.eye(2 * size).split(size)
        return Formula(lambda s, x: function(s.first(x), s.second(x)), first=fixed(first), second=fixed(second))

    return build


def mixture(size: int, function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], nn.Module]:
    """A function of the input and of convex combinations of it."""
    return lambda: Formula(lambda s, x: function(x, s.mix(x)), mix=fixed(convex(size)))


def with_constant(function: Callable[[Tensor, Tensor], Tensor], *shape: int, **ends: float) -> Callable[[], nn.Module]:
    """A function of the input and a constant of that shape."""
    return lambda: Formula(lambda s, x: function(x, s.k), k=constant(*shape, **ends))


def broadcast_pair(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], nn.Module]:
    """A function of 3 coordinates and of a single one."""

    def build() -> nn.Module:
        return Formula(
            lambda s, x: function(s.first(x), s.second(x)),
            first=fixed(torch.eye(4)[:3]),
            second=fixed(torch.eye(4)[3:]),
        )

    return build


def spread_up(function: Callable[[Tensor, Tensor], Tensor], *shape: int) -> Callable[[], nn.Module]:
    """A function of the input with an axis more, and of a constant that fills it."""
    return lambda: Formula(lambda s, x: function(x.unsqueeze(1), s.k), k=constant(*shape))


def elementwise(kind: str, function: Callable[[Tensor, Tensor], Tensor], terms: float = 2.0) -> list[Specimen]:
    """Both operands perturbed, or one of them, with all shapes of constants."""

    def swapped(x: Tensor, k: Tensor) -> Tensor:
        return function(k, x)

    return [
        Specimen(kind, "both perturbed, independent", halves(3, function), (6,)),
        Specimen(kind, "both perturbed, dependent", mixture(4, function)),
        Specimen(kind, "both perturbed, one broadcast", broadcast_pair(function)),
        Specimen(kind, "constant (4,) on the right", with_constant(function, 4), terms=terms),
        Specimen(kind, "constant (1, 4) on the right", with_constant(function, 1, 4), terms=terms),
        Specimen(kind, "constant (1,) on the right", with_constant(function, 1), terms=terms),
        Specimen(kind, "constant (4,) on the left", with_constant(swapped, 4), terms=terms),
        Specimen(kind, "constant (2, 1, 1) on images", with_constant(function, 2, 1, 1), (2, 3, 3), terms=terms),
        Specimen(kind, "constant (3, 4), one axis more", spread_up(function, 3, 4), terms=terms),
        Specimen(kind, "constant (1, 3, 4), one axis more", spread_up(function, 1, 3, 4), terms=terms),
    ]


_SUMS = (
    *elementwise("BoundAdd", torch.add),
    Specimen("BoundAdd", "number", lambda: Formula(lambda s, x: x + 0.75), terms=1.0),
    Specimen("BoundAdd", "the input to itself", lambda: Formula(lambda s, x: x + x)),
    *elementwise("BoundSub", torch.sub),
    Specimen("BoundSub", "from a number", lambda: Formula(lambda s, x: 0.75 - x), terms=1.0),
    Specimen("BoundNeg", "", lambda: Formula(lambda s, x: -x)),
    Specimen("BoundReduceSum", "axis=1", lambda: Formula(lambda s, x: x.sum(1)), (3, 4)),
    Specimen("BoundReduceSum", "axis=2, keepdim", lambda: Formula(lambda s, x: x.sum(2, keepdim=True)), (3, 4)),
    Specimen("BoundReduceSum", "axes=(1, 2)", lambda: Formula(lambda s, x: x.sum((1, 2)).unsqueeze(1)), (3, 4)),
    Specimen("BoundReduceSum", "axis=1, keepdim, vectors", lambda: Formula(lambda s, x: x.sum(1, keepdim=True))),
    Specimen("BoundReduceMean", "axis=1", lambda: Formula(lambda s, x: x.mean(1)), (3, 4)),
    Specimen("BoundReduceMean", "axis=-1, keepdim", lambda: Formula(lambda s, x: x.mean(-1, keepdim=True)), (3, 4)),
    Specimen("BoundReduceMean", "axes=(2, 3)", lambda: Formula(lambda s, x: x.mean((2, 3))), (2, 4, 4)),
    Specimen("BoundReduceMean", "centred", lambda: Formula(lambda s, x: x - x.mean(1, keepdim=True))),
)

_POSITIVE = {"low": 0.5, "high": 2.0}

_PRODUCTS = (
    *elementwise("BoundMul", torch.mul, 0.0),
    Specimen("BoundMul", "number", lambda: Formula(lambda s, x: -2.5 * x)),
    Specimen("BoundMul", "with a sigmoid of it", mixture(4, lambda x, y: x * torch.sigmoid(y))),
    Specimen("BoundDiv", "constant (4,) on the right", with_constant(torch.div, 4, **_POSITIVE)),
    Specimen("BoundDiv", "constant (1, 4) on the right", with_constant(torch.div, 1, 4, **_POSITIVE)),
    Specimen("BoundDiv", "number on the right", lambda: Formula(lambda s, x: x / -2.5)),
    Specimen(
        "BoundDiv", "constant on the left", with_constant(lambda x, k: k / x, 4), domain=ABOVE, points=(1.0, 2.0**-8)
    ),
    Specimen(
        "BoundDiv", "constant on the left, below 0", with_constant(lambda x, k: k / x, 4), domain=(-inf, -(2.0**-10))
    ),
    Specimen("BoundDiv", "both perturbed, independent", halves(3, torch.div), (6,), ABOVE),
    Specimen("BoundDiv", "both perturbed, dependent", mixture(4, torch.div), domain=ABOVE),
    Specimen("BoundDiv", "dividend of both signs", halves(3, lambda a, b: (a - 2.0) / b), (6,), ABOVE, terms=2.0),
    Specimen("BoundDiv", "by a root", halves(3, lambda a, b: (a - 2.0) / torch.sqrt(b)), (6,), ABOVE, terms=2.0),
)


def _gemm(s: Any, x: Tensor) -> Tensor:
    return torch.addmm(s.b, x, s.w, beta=0.5, alpha=2.0)


_MATRICES = (
    Specimen("BoundLinear", "", lambda: nn.Linear(4, 5), terms=1.0),
    Specimen("BoundLinear", "no bias", lambda: nn.Linear(4, 5, bias=False)),
    Specimen("BoundLinear", "sequences", lambda: nn.Linear(4, 2), (3, 4), terms=1.0),
    Specimen("BoundLinear", "alpha=2, beta=1/2", lambda: Formula(_gemm, w=constant(4, 3), b=constant(3)), terms=2.0),
    Specimen("BoundMatMul", "constant on the right", with_constant(torch.matmul, 4, 3)),
    Specimen("BoundMatMul", "constant on the right, sequences", with_constant(torch.matmul, 4, 2), (3, 4)),
    Specimen("BoundMatMul", "constant on the left", with_constant(lambda x, k: torch.matmul(k, x), 2, 3), (3, 4)),
    Specimen(
        "BoundMatMul", "square constant on the left", with_constant(lambda x, k: torch.matmul(k, x), 3, 3), (3, 4)
    ),
    Specimen(
        "BoundMatMul", "constant (1, 2, 3) on the left", with_constant(lambda x, k: torch.matmul(k, x), 1, 2, 3), (3, 4)
    ),
    Specimen(
        "BoundMatMul",
        "constant on the left of a linear layer",
        lambda: Formula(lambda s, x: torch.matmul(s.k, s.a(x)), k=constant(3, 3), a=nn.Linear(2, 4)),
        (3, 2),
        terms=4.0,
    ),
    Specimen(
        "BoundMatMul",
        "both perturbed, independent",
        halves(6, lambda a, b: torch.matmul(a.reshape(-1, 2, 3), b.reshape(-1, 3, 2))),
        (12,),
    ),
    Specimen(
        "BoundMatMul",
        "both perturbed, dependent",
        lambda: Formula(lambda s, x: torch.matmul(x, x.transpose(1, 2))),
        (2, 3),
    ),
    Specimen("BoundBatchNormalization", "vectors", lambda: _normalised(nn.BatchNorm1d(4)), terms=4.0),
    Specimen("BoundBatchNormalization", "images", lambda: _normalised(nn.BatchNorm2d(2)), (2, 3, 3), terms=4.0),
    Specimen(
        "BoundBatchNormalization",
        "images, affine=False",
        lambda: _normalised(nn.BatchNorm2d(2, affine=False)),
        (2, 3, 3),
        terms=4.0,
    ),
)


def _normalised(module: Any) -> nn.Module:
    """A batch normalisation as training leaves it."""
    size = len(module.running_mean)
    module.running_mean, module.running_var = constant(size), constant(size, low=0.5)
    if module.weight is not None:
        module.weight, module.bias = nn.Parameter(constant(size)), nn.Parameter(constant(size))
    return module


ARITHMETIC: tuple[Specimen, ...] = _SUMS + _PRODUCTS + _MATRICES
"""Sums, products and quotients, element by element and of matrices."""
