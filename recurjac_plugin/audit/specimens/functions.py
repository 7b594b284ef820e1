"""Specimens of functions of one variable: every row of the activation table, with its parameters.

Parameters are sums of a few powers of two where they can be, so that they are the same numbers in float32 and float64.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import inf

import torch
from torch import Tensor, nn
from torch.nn import functional

from .specimen import Formula, Specimen


def _function(kind: str, attributes: str, function: Callable[[Tensor], Tensor], **more: object) -> Specimen:
    """A specimen of a function of torch."""
    return Specimen(kind, attributes, lambda: Formula(lambda s, x: function(x)), **more)  # type: ignore[arg-type]


def _power(exponent: float, low: float = -inf, high: float = inf) -> Specimen:
    side = "" if low == -inf == -high else ", above 0" if high == inf else ", below 0"
    return _function("Pow", f"exponent={exponent:g}{side}", lambda z: z**exponent, domain=(low, high))


ABOVE, BELOW = (2.0**-10, inf), (-inf, -(2.0**-10))
"""Domains on one side of 0."""

_PIECEWISE_LINEAR = (
    Specimen("BoundRelu", "", nn.ReLU),
    *(Specimen("BoundLeakyRelu", f"slope={a:g}", partial(nn.LeakyReLU, a)) for a in (0.25, 0.0, 1.0, 1.5, -0.25)),
    Specimen("BoundPRelu", "slope=0.25", lambda: nn.PReLU(init=0.25)),
    Specimen("BoundPRelu", "slope=-0.5", lambda: nn.PReLU(init=-0.5)),
    Specimen("BoundPRelu", "slope=1.5", lambda: nn.PReLU(init=1.5)),
    Specimen("BoundPRelu", "one slope a coordinate", lambda: nn.PReLU(4, init=0.125)),
    Specimen("BoundPRelu", "images", lambda: nn.PReLU(2, init=0.25), (2, 3, 3)),
    _function("BoundAbs", "", torch.abs),
    _function("HardTanh", "-0.5, 0.75", lambda z: functional.hardtanh(z, -0.5, 0.75), points=(-0.5, 0.75)),
    _function("HardTanh", "clamp(-1, 2)", lambda z: z.clamp(-1, 2), points=(-1.0, 2.0)),
    _function("HardTanh", "clamp(min=-0.5)", lambda z: z.clamp(min=-0.5), points=(-0.5,)),
    _function("HardTanh", "clamp(max=0.75)", lambda z: z.clamp(max=0.75), points=(0.75,)),
    Specimen("HardTanh", "relu6", nn.ReLU6, points=(6.0,)),
    _function("BoundHardSigmoid", "", functional.hardsigmoid, points=(-3.0, 3.0)),
    _function("BoundHardSwish", "", functional.hardswish, points=(-3.0, 3.0)),
)

_EXPONENTIAL = (
    *(Specimen("BoundElu", f"alpha={a:g}", partial(nn.ELU, a)) for a in (1.0, 0.5, 2.0)),
    *(Specimen("BoundCelu", f"alpha={a:g}", partial(nn.CELU, a)) for a in (1.0, 0.5, 2.0)),
    Specimen("BoundSelu", "", nn.SELU),
    _function("BoundTanh", "", torch.tanh),
    _function("BoundSigmoid", "", torch.sigmoid),
    _function("Logistic", "1/(1+exp(z))", lambda z: 1 / (1 + torch.exp(z)), domain=(-80, 80), terms=1.0),
    _function("SiLU", "", functional.silu),
    _function("SiLU", "beta=1.5", lambda z: z * torch.sigmoid(1.5 * z)),
    _function("SiLU", "beta=-0.5", lambda z: z * torch.sigmoid(-0.5 * z)),
    _function("SiLU", "z/(1+exp(-z))", lambda z: z / (1 + torch.exp(-z)), domain=(-80, 80), terms=1.0),
    _function("LogSigmoid", "", functional.logsigmoid, domain=(-25, inf), terms=1.0),
    _function("LogSigmoid", "everywhere", functional.logsigmoid, terms=1.0),
    _function("BoundSoftplus", "", functional.softplus, domain=(-inf, 19.5), points=(15.0,), terms=1.0),
    _function("BoundSoftplus", "everywhere", functional.softplus, points=(20.0,), terms=1.0),
    _function("BoundSoftplus", "beta=2", lambda z: functional.softplus(z, 2.0), domain=(-inf, 9.5), terms=1.0),
    _function("BoundSoftplus", "threshold=2", lambda z: functional.softplus(z, 1.0, 2.0), points=(2.0,), terms=1.0),
    _function("BoundSoftplus", "log(1+exp(z))", lambda z: torch.log(1 + torch.exp(z)), domain=(-80, 80), terms=1.0),
    _function("BoundMish", "", functional.mish, terms=1.0),
    _function("BoundExp", "", torch.exp, domain=(-inf, 40.0)),
)

_SMOOTH = (
    _function("BoundAtan", "", torch.arctan),
    _function("BoundSoftsign", "", functional.softsign, terms=1.0),
    _function("BoundErf", "", torch.erf),
    _function("BoundGelu", "", functional.gelu, points=(-1.0, 1.0)),
    _function("BoundGelu", "approximate=tanh", partial(functional.gelu, approximate="tanh"), points=(-1.0, 1.0)),
    _function("BoundSin", "", torch.sin, points=(1.5, 3.0)),
    _function("BoundCos", "", torch.cos, points=(1.5, 3.0)),
    _function("BoundTan", "between two poles", torch.tan, domain=(-1.25, 1.25), points=(1.0, -1.0)),
    _function("BoundLog", "", torch.log, domain=ABOVE, points=(1.0, 2.0**-8)),
    _function("BoundLog", "below 1e-12", torch.log, domain=(1e-15, 1e-6), points=(1e-13, 1e-14, 2e-12)),
    _function("BoundSqrt", "", torch.sqrt, domain=ABOVE, points=(1.0, 2.0**-8)),
    _function("BoundSqr", "z*z", lambda z: z * z),
    _function("BoundSqr", "square", torch.square),
    _function("BoundReciprocal", "above 0", lambda z: 1 / z, domain=ABOVE, points=(1.0, 2.0**-8)),
    _function("BoundReciprocal", "below 0", lambda z: 1 / z, domain=BELOW, points=(-1.0, -(2.0**-8))),
    _function("BoundReciprocal", "torch.reciprocal", torch.reciprocal, domain=ABOVE, points=(1.0,)),
    *(_power(n) for n in (1.0, 2.0, 3.0, 4.0, 5.0)),
    *(_power(n, *ABOVE) for n in (-1.0, -2.0, -3.0, 0.5, 1.5, 2.5, -0.5)),
    *(_power(n, *BELOW) for n in (-1.0, -2.0)),
)

_JUMPING = (
    _function("BoundSign", "", torch.sign),
    _function("BoundSign", "x > 1/4", lambda z: (z > 0.25).to(z.dtype), points=(0.25,), terms=1.0),
    _function("BoundSign", "x <= 1/4", lambda z: (z <= 0.25).to(z.dtype), points=(0.25,), terms=1.0),
    _function("BoundSign", "where", lambda z: torch.where(z > 0.25, z, -2 * z), points=(0.25,), terms=1.0),
    _function("BoundSign", "argmax", lambda z: z.argmax(1, keepdim=True).to(z.dtype), terms=1.0),
    _function("BoundFloor", "", torch.floor, points=(1.0, 3.0)),
    _function("BoundFloor", "trunc", torch.trunc, points=(1.0, -1.0)),
    _function("BoundFloor", "remainder", lambda z: z - torch.floor(z), points=(1.0, 3.0)),
    _function("BoundCeil", "", torch.ceil, points=(1.0, 3.0)),
    _function("BoundRound", "", torch.round, points=(0.5, 1.5)),
)

FUNCTIONS: tuple[Specimen, ...] = _PIECEWISE_LINEAR + _EXPONENTIAL + _SMOOTH + _JUMPING
"""Functions of one variable."""
