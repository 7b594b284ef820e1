"""The activation table: every function of one variable that bounds of Jacobians go through, one row each.

A new activation is one row: see `activation.Activation` for what it needs, `functions` for what others are made of, and
`recurjac_plugin.register_activation` for rows of one's own.

With ``s(z) = 1 / (1 + exp(-z))``, the rows that are more than a name and its derivative:

=============  =================================  ==========================================  =======================
f              f'                                 critical points z*: f'(z*)                  largest ``|f'''|``
=============  =================================  ==========================================  =======================
tanh z         sech^2 z                           0: 1                                        2
s(z)           s(z) s(-z)                         0: 1/4                                      1/8
log s(z)       s(-z)                              none                                        1 / (6 sqrt 3)
arctan z       1 / (1 + z^2)                      0: 1                                        2
z / (1 + |z|)  1 / (1 + |z|)^2                    0: 1, a corner                              6 / (1 + |z|)^4 off 0
erf z          2 exp(-z^2) / sqrt(pi)             0: 2 / sqrt(pi)                             4 / sqrt(pi)
sin z          cos z                              k pi: (-1)^k                                1
cos z          -sin z                             pi/2 + k pi: -(-1)^k                        1
tan z          1 / cos^2 z                        k pi: 1                                     grows towards the poles
exp z          exp z                              none                                        exp u
log z          1 / z                              none                                        2 / l^3
sqrt z         1 / (2 sqrt z)                     none                                        3/8 l^(-5/2)
z^2            2 z                                none                                        0
1 / z          -1 / z^2                           none                                        6 / z^4, nearest to 0
=============  =================================  ==========================================  =======================
"""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from .activation import Activation, Domain, Operator
from .functions import (
    ABOVE_ZERO,
    GELU_CURVATURE,
    GELU_TANH_CURVATURE,
    MISH_CURVATURE,
    MISH_PEAK,
    MISH_VALLEY,
    NOT_ZERO,
    SIGMOID_CURVATURE,
    SILU_CURVATURE,
    SILU_PEAK,
    bent,
    between_poles,
    clipped,
    critical,
    exponential_below_zero,
    from_zero,
    gelu_derivative,
    gelu_extremes,
    hard_sigmoid_ends,
    hard_swish_derivative,
    mish_derivative,
    not_below_zero,
    point_symmetric,
    pow_curvature,
    pow_derivative,
    pow_domain,
    power,
    silu_derivative,
    smooth_off,
    softplus_derivative,
    softplus_identity,
    tan_curvature,
    tanh_derivative,
    two_slopes,
)

ACTIVATIONS: dict[str, Activation] = {
    "BoundRelu": Activation(
        "ReLU",
        *two_slopes("leaky_alpha", default=0.0),
        linear_pieces=True,
        function=bent("leaky_alpha", default=0.0),
        exact=True,
        values=lambda p: (-math.inf if p.get("leaky_alpha", 0.0) > 0 else 0.0, math.inf),
    ),
    "BoundLeakyRelu": Activation(
        "LeakyReLU",
        *two_slopes("leaky_alpha", "alpha"),
        linear_pieces=True,
        function=bent("leaky_alpha", "alpha"),
        exact=True,
    ),
    "BoundPRelu": Activation(
        "PReLU",
        *two_slopes("slope"),
        linear_pieces=True,
        function=bent("slope"),
        operator=Operator("onnx::PRelu", constants=("slope",)),
        exact=True,
    ),
    "BoundAbs": Activation(
        "Abs",
        *two_slopes(default=-1.0),
        linear_pieces=True,
        function=lambda z, p: z.abs(),
        exact=True,
        values=not_below_zero,
    ),
    "BoundElu": exponential_below_zero(
        "ELU",
        lambda p: (1.0, p.get("alpha", 1.0), 1.0),
        lambda z, p: functional.elu(z, p["alpha"]),
        Operator("onnx::Elu", {"alpha": 1.0}),
    ),
    "BoundCelu": exponential_below_zero(
        "CELU",
        lambda p: (1.0, 1.0, 1 / p.get("alpha", 1.0)),
        lambda z, p: functional.celu(z, p["alpha"]),
        Operator("onnx::Celu", {"alpha": 1.0}),
    ),
    "BoundSelu": exponential_below_zero(
        "SELU",
        lambda p: (p["gamma"], p["gamma"] * p["alpha"], 1.0),
        lambda z, p: p["gamma"] * functional.elu(z, p["alpha"]),
        Operator("onnx::Selu", {"alpha": 1.6732632423543772, "gamma": 1.0507009873554805}),
    ),
    "HardTanh": Activation(
        "HardTanh",
        *clipped(lambda p: (p["min"], p["max"], 1.0)),
        function=lambda z, p: torch.clamp(z, p.get("min"), p.get("max")),
        operator=Operator("onnx::Clip", constants=("min", "max")),
        exact=True,
        values=lambda p: (p["min"], p["max"]),
    ),
    "BoundHardSigmoid": Activation(
        "HardSigmoid",
        *clipped(hard_sigmoid_ends),
        function=lambda z, p: (p["alpha"] * z + p["beta"]).clamp(0, 1),
        operator=Operator("onnx::HardSigmoid", {"alpha": 0.2, "beta": 0.5}),
    ),
    "BoundHardSwish": Activation(
        "HardSwish",
        hard_swish_derivative,
        critical((-3.0, 0.0), (-3.0, -0.5), (3.0, 1.5), (3.0, 1.0)),
        curvature=0.0,
        function=lambda z, p: functional.hardswish(z),
        operator=Operator("onnx::HardSwish"),
    ),
    "BoundTanh": Activation(
        "Tanh",
        tanh_derivative,
        critical((0.0, 1.0)),
        curvature=2.0,
        function=lambda z, p: torch.tanh(z),
        exact=True,
    ),
    "BoundSigmoid": Activation(
        "Sigmoid",
        lambda z, p: torch.sigmoid(z) * torch.sigmoid(-z),
        critical((0.0, 0.25)),
        curvature=0.125,
        function=lambda z, p: torch.sigmoid(z),
        exact=True,
    ),
    "Logistic": Activation(
        "1/(1+exp)",
        lambda z, p: -torch.sigmoid(z) * torch.sigmoid(-z),
        critical((0.0, -0.25)),
        curvature=0.125,
    ),
    "LogSigmoid": Activation("LogSigmoid", lambda z, p: torch.sigmoid(-z), curvature=SIGMOID_CURVATURE),
    "BoundAtan": Activation(
        "Atan",
        lambda z, p: 1 / (1 + z.square()),
        critical((0.0, 1.0)),
        curvature=2.0,
        function=lambda z, p: torch.arctan(z),
        exact=True,
    ),
    "BoundSoftsign": Activation(
        "Softsign",
        lambda z, p: 1 / (1 + z.abs()).square(),
        critical((0.0, 1.0)),
        curvature=lambda l, u, p: smooth_off(0.0, l, u, 6 / (1 + from_zero(l, u)).pow(4)),
        function=lambda z, p: functional.softsign(z),
        operator=Operator("onnx::Softsign"),
    ),
    "BoundErf": Activation(
        "Erf",
        lambda z, p: 2 / math.sqrt(math.pi) * torch.exp(-z.square()),
        critical((0.0, 2 / math.sqrt(math.pi))),
        curvature=4 / math.sqrt(math.pi) * (1 + 1e-12),
        function=lambda z, p: torch.erf(z),
        operator=Operator("onnx::Erf"),
    ),
    "BoundSoftplus": Activation(
        "Softplus",
        softplus_derivative,
        softplus_identity,
        curvature=lambda l, u, p: p.get("beta", 1.0) ** 2 * SIGMOID_CURVATURE,
        function=lambda z, p: torch.logaddexp(z, torch.zeros_like(z)),
        operator=Operator("onnx::Softplus"),
    ),
    "BoundGelu": Activation(
        "GELU",
        gelu_derivative,
        gelu_extremes,
        curvature=lambda l, u, p: GELU_TANH_CURVATURE if p.get("approximate") == "tanh" else GELU_CURVATURE,
        function=lambda z, p: functional.gelu(z, approximate=p.get("approximate", "none")),
        operator=Operator("onnx::Gelu", {"approximate": "none"}),
    ),
    "SiLU": Activation(
        "SiLU",
        silu_derivative,
        lambda p: point_symmetric(SILU_PEAK, p.get("beta", 1.0)),
        curvature=lambda l, u, p: p.get("beta", 1.0) ** 2 * SILU_CURVATURE,
    ),
    "BoundMish": Activation(
        "Mish",
        mish_derivative,
        critical(MISH_VALLEY, MISH_PEAK),
        curvature=MISH_CURVATURE,
        function=lambda z, p: functional.mish(z),
        operator=Operator("onnx::Mish"),
    ),
    "BoundSin": Activation(
        "Sin",
        lambda z, p: torch.cos(z),
        critical((0.0, 1.0), (math.pi, -1.0)),
        period=2 * math.pi,
        curvature=1.0,
        function=lambda z, p: torch.sin(z),
        operator=Operator("onnx::Sin"),
        exact=True,
    ),
    "BoundCos": Activation(
        "Cos",
        lambda z, p: -torch.sin(z),
        critical((math.pi / 2, -1.0), (-math.pi / 2, 1.0)),
        period=2 * math.pi,
        curvature=1.0,
        function=lambda z, p: torch.cos(z),
        operator=Operator("onnx::Cos"),
        exact=True,
    ),
    "BoundTan": Activation(
        "Tan",
        lambda z, p: torch.cos(z).square().reciprocal(),
        critical((0.0, 1.0)),
        period=math.pi,
        domain=lambda p: Domain("between two poles pi/2 + k pi", between_poles),
        curvature=tan_curvature,
        function=lambda z, p: torch.tan(z),
        operator=Operator("onnx::Tan"),
        exact=True,
    ),
    "BoundExp": Activation(
        "Exp",
        lambda z, p: torch.exp(z),
        curvature=lambda l, u, p: torch.exp(u),
        function=lambda z, p: torch.exp(z),
        exact=True,
    ),
    "BoundLog": Activation(
        "Log",
        lambda z, p: z.reciprocal(),
        domain=lambda p: ABOVE_ZERO,
        curvature=lambda l, u, p: 2 / l.pow(3),
        function=lambda z, p: torch.log(z),
        exact=True,
    ),
    "BoundSqrt": Activation(
        "Sqrt",
        lambda z, p: 0.5 * z.rsqrt(),
        domain=lambda p: ABOVE_ZERO,
        curvature=lambda l, u, p: 0.375 * l.pow(-2.5),
        function=lambda z, p: torch.sqrt(z),
        exact=True,
    ),
    "BoundSqr": Activation(
        "Square",
        lambda z, p: 2 * z,
        curvature=0.0,
        function=lambda z, p: z.square(),
        exact=True,
        values=not_below_zero,
    ),
    "BoundReciprocal": Activation(
        "Reciprocal",
        lambda z, p: -z.square().reciprocal(),
        domain=lambda p: NOT_ZERO,
        curvature=lambda l, u, p: 6 / from_zero(l, u).pow(4),
        function=lambda z, p: z.reciprocal(),
        exact=True,
    ),
    "Pow": Activation(
        "Pow",
        pow_derivative,
        lambda p: ((0.0, (0.0,)),) if p["exponent"] > 1 else (),
        domain=pow_domain,
        curvature=pow_curvature,
        function=power,
        exact=True,
        values=lambda p: (0.0, math.inf) if p["exponent"] % 2 == 0 else (-math.inf, math.inf),
    ),
}
"""The activation table: exact class name of the host's node, or the kind of a fused one (`fusions`) -> activation."""

_JUMPS = (
    "piecewise constant: its derivative is zero almost everywhere, and it is not Lipschitz at the jumps (outputs have "
    "bounds by `CROWN`)"
)

REFUSED: dict[str, str] = {
    "BoundSign": _JUMPS,
    "BoundSignMerge": _JUMPS,
    "BoundFloor": _JUMPS,
    "BoundCeil": _JUMPS,
    "BoundRound": _JUMPS,
    "BoundATenHeaviside": _JUMPS,
    "BoundPow": "its exponent must be one constant number",
    "BoundRecurJacobian": "the derivative of a Jacobian is not supported",
    "BoundHardTanh": "its ends must be two constant numbers",
}
"""Exact class name of the host's node -> why it has no rule, where more can be said than that."""
