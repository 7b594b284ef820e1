"""Models with a `JacobianOP`, and what may follow it."""

from __future__ import annotations

import torch
from cases import mlp, on_host
from torch import Tensor, nn

import recurjac_plugin as rj

J = rj.JacobianOP.apply


class Wrapped(nn.Module):
    """A function of x, and further inputs, in which networks occur."""

    def __init__(self, function, **networks: nn.Module) -> None:
        super().__init__()
        self.function = function
        for name, net in networks.items():
            self.add_module(name, net)
        self.register_buffer("metric", torch.tensor([[2.0, 0.3, 0.0], [0.3, 1.0, 0.1], [0.0, 0.1, 1.5]]))

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        return self.function(self, x, *others)


def contraction(s, x):
    weighted = J(s.f(x), x).transpose(1, 2).matmul(s.metric)
    return (weighted + weighted.transpose(1, 2)).flatten(1)


def inside(s, x, method="RecurJac-McCormick"):
    z = s.g(x)
    return J(s.f(z), z, method).flatten(1)


USES = {
    "jacobian": lambda s, x: J(s.f(x), x).flatten(1),
    "lipschitz": lambda s, x: J(s.f(x), x).abs().sum(2),
    "euler": lambda s, x: J(x + 0.1 * s.f(x), x).flatten(1),
    "step": lambda s, x: x + 0.1 * s.f(x) + 0.5 * J(s.f(x), x).sum(2),
    "contraction": contraction,
    "lyapunov": lambda s, x: (J(s.v(x), x).flatten(1) * s.f(x)).sum(1, keepdim=True),
    "squeezed": lambda s, x: (J(s.v(x), x).squeeze(1) * s.f(x)).sum(1, keepdim=True),
    "squeezed_column": lambda s, x: J(s.f(x), x).matmul(s.metric[:, :1]).squeeze(-1),
    "squeezed_and_cut": lambda s, x: J(s.v(x), x).squeeze(-2)[:, 1:],
    "sub_network": inside,
    "several": lambda s, x: J(s.f(x), x).matmul(J(torch.tanh(x), x)).flatten(1),
    "penalised": lambda s, x: s.v(x) + rj.GradNorm(2)(J(s.v(x), x)).unsqueeze(1),
}


def built(use, activation=nn.Tanh):
    torch.manual_seed(3)
    net = Wrapped(
        USES[use], f=mlp(activation, (3, 8, 7, 3)), g=mlp(activation, (3, 5, 3)), v=mlp(activation, (3, 6, 1))
    ).double()
    x = torch.randn(2, 3, dtype=torch.float64)
    return net, x, on_host(net, x)
