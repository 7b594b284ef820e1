"""Every activation between linear layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .case import Case
from .modules import Net, mlp
from .reasons import CASTS, UNSQUEEZE


def hard_sigmoid(self: Net, x: Tensor) -> Tensor:
    """Torch's own for the host; for the truth a formula, because torch's has no second derivative."""
    return functional.hardsigmoid(x) if torch.jit.is_tracing() else (x / 6 + 0.5).clamp(0, 1)


ACTIVATION_CASES = [
    Case("relu", lambda: mlp(nn.ReLU), (5,)),
    Case("leaky_relu", lambda: mlp(lambda: nn.LeakyReLU(0.3)), (5,)),
    Case("leaky_relu_steep", lambda: mlp(lambda: nn.LeakyReLU(1.5)), (5,)),
    Case("prelu", lambda: mlp(lambda: nn.PReLU(init=0.4)), (5,), taught=True),
    Case(
        "prelu_channels",
        lambda: nn.Sequential(nn.Linear(5, 8), nn.PReLU(8, 0.2), nn.Linear(8, 6), nn.PReLU(), nn.Linear(6, 2)),
        (5,),
        taught=True,
    ),
    Case(
        "prelu_images",
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.PReLU(init=-0.3), nn.Flatten(), nn.Linear(27, 2)),
        (2, 5, 5),
        not_03=UNSQUEEZE,
        not_07=UNSQUEEZE,
        taught=True,
    ),
    Case("tanh", lambda: mlp(nn.Tanh), (5,)),
    Case("sigmoid", lambda: mlp(nn.Sigmoid), (5,)),
    Case(
        "atan",
        lambda: Net(
            lambda s, x: s.c(torch.arctan(s.b(torch.arctan(s.a(x))))),
            a=nn.Linear(5, 9),
            b=nn.Linear(9, 8),
            c=nn.Linear(8, 3),
        ),
        (5,),
    ),
    Case(
        "mixed",
        lambda: nn.Sequential(
            nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.Sigmoid(), nn.Linear(8, 3)
        ),
        (5,),
    ),
    Case("elu", lambda: mlp(lambda: nn.ELU(0.7)), (5,), taught=True),
    Case("celu", lambda: mlp(lambda: nn.CELU(0.7)), (5,), taught=True, slack=1e-6, not_03=CASTS),
    Case("selu", lambda: mlp(nn.SELU), (5,), taught=True),
    Case("softplus", lambda: mlp(nn.Softplus), (5,), taught=True),
    Case("softplus_untaught", lambda: mlp(nn.Softplus), (5,), prefix_03="IBP+", prefix_07="IBP+"),
    Case("softplus_beta", lambda: mlp(lambda: nn.Softplus(2.0)), (5,), taught=True),
    Case("gelu", lambda: mlp(nn.GELU), (5,), taught=True, slack=1e-6),
    Case("gelu_tanh", lambda: mlp(lambda: nn.GELU("tanh")), (5,), slack=1e-6),
    Case("silu", lambda: mlp(nn.SiLU), (5,)),
    Case("mish", lambda: mlp(nn.Mish), (5,), taught=True),
    Case("hardtanh", lambda: mlp(lambda: nn.Hardtanh(-0.5, 0.7)), (5,), taught=True, slack=1e-6),
    Case("relu6", lambda: mlp(nn.ReLU6), (5,), taught=True),
    Case("clamp", lambda: mlp(lambda: Net(lambda s, x: x.clamp(-0.5, 0.7))), (5,), taught=True, slack=1e-6),
    Case("hardsigmoid", lambda: mlp(lambda: Net(hard_sigmoid)), (5,), taught=True, slack=1e-6),
    Case("hardswish", lambda: mlp(nn.Hardswish), (5,), taught=True, slack=1e-6),
    Case("softsign", lambda: mlp(nn.Softsign), (5,)),
    Case(
        "logistic",
        lambda: mlp(lambda: Net(lambda s, x: 1 / (1 + torch.exp(-x)))),
        (5,),
    ),
    Case("logsigmoid", lambda: mlp(nn.LogSigmoid), (5,)),
    Case("erf", lambda: mlp(lambda: Net(lambda s, x: torch.erf(x))), (5,), taught=True),
    Case("abs", lambda: mlp(lambda: Net(lambda s, x: x.abs())), (5,)),
    Case("sin", lambda: mlp(lambda: Net(lambda s, x: torch.sin(3 * x))), (5,), taught=True),
    Case("cos", lambda: mlp(lambda: Net(lambda s, x: torch.cos(3 * x))), (5,), taught=True),
    Case("sin_untaught", lambda: mlp(lambda: Net(lambda s, x: torch.sin(x))), (5,)),
    Case("tan", lambda: mlp(lambda: Net(lambda s, x: torch.tan(0.7 * x.tanh()))), (5,)),
    Case("exp", lambda: mlp(lambda: Net(lambda s, x: torch.exp(x))), (5,)),
    Case("log", lambda: mlp(lambda: Net(lambda s, x: torch.log(x.relu() + 0.5))), (5,)),
    Case("sqrt", lambda: mlp(lambda: Net(lambda s, x: torch.sqrt(x.relu() + 0.5))), (5,)),
    Case("square", lambda: mlp(lambda: Net(lambda s, x: x * x)), (5,)),
    Case("cube", lambda: mlp(lambda: Net(lambda s, x: x**3)), (5,)),
    Case("fourth_power", lambda: mlp(lambda: Net(lambda s, x: x**4)), (5,)),
    Case("root_power", lambda: mlp(lambda: Net(lambda s, x: x.relu() ** 1.5)), (5,)),
    Case(
        "reciprocal",
        lambda: mlp(lambda: Net(lambda s, x: 1 / (x.tanh() + 2))),
        (5,),
    ),
]
