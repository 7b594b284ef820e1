"""The activation table's rows beside torch's functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import torch
from torch.nn import functional

from recurjac_plugin.activations.table import ACTIVATIONS

SLOPE = torch.tensor([-0.5, 0.0, 0.25, 1.0, 3.0], dtype=torch.float64)


@dataclass(frozen=True)
class Row:
    """A use of a row of the table: torch's function, the row's parameters, and where to test it."""

    kind: str
    function: Callable[[torch.Tensor], torch.Tensor]
    parameters: dict[str, Any] = field(default_factory=dict)
    low: float = -math.inf
    high: float = math.inf


ROWS = [
    Row("BoundRelu", torch.relu),
    *(
        Row("BoundLeakyRelu", partial(functional.leaky_relu, negative_slope=a), {"alpha": a})
        for a in (0.01, 0.3, 1.0, 1.7, -0.4)
    ),
    Row("BoundPRelu", lambda z: torch.where(z > 0, z, SLOPE.to(z) * z), {"slope": SLOPE}),
    Row("BoundAbs", torch.abs),
    *(Row("BoundElu", partial(functional.elu, alpha=a), {"alpha": a}) for a in (1.0, 0.3, 2.0)),
    *(
        Row("BoundCelu", lambda z, a=a: torch.where(z > 0, z, a * (torch.exp(z.clamp(max=0) / a) - 1)), {"alpha": a})
        for a in (1.0, 0.3, 2.0)
    ),
    Row("BoundSelu", functional.selu, {"alpha": 1.6732632423543772, "gamma": 1.0507009873554805}),
    Row("HardTanh", lambda z: functional.hardtanh(z, -0.5, 0.7), {"min": -0.5, "max": 0.7}),
    Row("HardTanh", functional.relu6, {"min": 0.0, "max": 6.0}),
    Row("BoundHardSigmoid", lambda z: (z / 6 + 0.5).clamp(0, 1), {"alpha": 1 / 6, "beta": 0.5}),
    Row("BoundHardSigmoid", lambda z: (0.5 - 0.2 * z).clamp(0, 1), {"alpha": -0.2, "beta": 0.5}),
    Row("BoundHardSwish", functional.hardswish),
    Row("BoundTanh", torch.tanh),
    Row("BoundSigmoid", torch.sigmoid),
    Row("Logistic", lambda z: torch.sigmoid(-z)),
    Row("LogSigmoid", functional.logsigmoid),
    Row("BoundAtan", torch.arctan),
    Row("BoundSoftsign", functional.softsign),
    Row("BoundErf", torch.erf),
    *(
        Row("BoundSoftplus", partial(functional.softplus, beta=b, threshold=t), {"beta": b, "threshold": t})
        for b, t in ((1.0, 20.0), (3.0, 20.0), (1.0, 2.0))
    ),
    Row("BoundGelu", functional.gelu),
    Row("BoundGelu", partial(functional.gelu, approximate="tanh"), {"approximate": "tanh"}),
    Row("SiLU", functional.silu),
    *(Row("SiLU", lambda z, b=b: z * torch.sigmoid(b * z), {"beta": b}) for b in (1.702, -0.5)),
    Row("BoundMish", functional.mish),
    Row("BoundSin", torch.sin),
    Row("BoundCos", torch.cos),
    Row("BoundTan", torch.tan, low=-1.5, high=1.5),
    Row("BoundTan", torch.tan, low=math.pi / 2 + 0.1, high=3 * math.pi / 2 - 0.1),
    Row("BoundExp", torch.exp, high=80.0),
    Row("BoundLog", torch.log, low=1e-3),
    Row("BoundSqrt", torch.sqrt, low=1e-3),
    Row("BoundSqr", torch.square),
    Row("BoundReciprocal", torch.reciprocal, low=1e-3),
    Row("BoundReciprocal", torch.reciprocal, high=-1e-3),
    *(Row("Pow", partial(torch.pow, exponent=e), {"exponent": e}) for e in (0.0, 1.0, 2.0, 3.0, 4.0)),
    *(Row("Pow", partial(torch.pow, exponent=e), {"exponent": e}, low=1e-3) for e in (-1.0, -2.0, 0.5, 1.5, 2.5, -0.5)),
    *(Row("Pow", partial(torch.pow, exponent=e), {"exponent": e}, high=-1e-3) for e in (-1.0, -2.0)),
]

each_row = pytest.mark.parametrize("row", ROWS, ids=[f"{row.kind}-{i}" for i, row in enumerate(ROWS)])


def derivative(function, z):
    """Of an element-wise function, by autograd."""
    z = z.detach().requires_grad_()
    y = function(z)
    return torch.autograd.grad(y.sum(), z)[0] if y.requires_grad else torch.zeros_like(z)


def kinks(row):
    """Where the derivative jumps, within one period."""
    points = ACTIVATIONS[row.kind].points(row.parameters)
    return [z if isinstance(z, float) else z[0] for z, values in points if len(values) > 1]


def intervals(count=400, row=None):
    """Intervals of all widths and places, around 0, the kinks and the end of the domain too; shape (count, 5)."""
    scale = torch.logspace(-4, 1, count, dtype=torch.float64).unsqueeze(1)
    center, width = torch.randn(count, 5, dtype=torch.float64), torch.rand(count, 5, dtype=torch.float64)
    lower = center * scale.flip(0)
    lower[::7] = 0
    upper = lower + width * scale
    upper[1::7] = upper[1::7] * 0 + lower[1::7].clamp(min=0)
    lower, upper = torch.minimum(lower, upper), torch.maximum(lower, upper)
    if row is None:
        return lower, upper
    for i, point in enumerate(kinks(row)):  # touching each kink from the left, from the right, and across
        lower[3 * i + 2 :: 29], upper[3 * i + 3 :: 29] = point, point
    lower, upper = torch.minimum(lower, upper), torch.maximum(lower, upper)
    return lower.clamp(row.low, row.high), upper.clamp(row.low, row.high)
