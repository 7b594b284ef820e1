"""Shapes of graphs: residuals, branches, what is used twice or not at all."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .case import Case
from .modules import Constants, Net, head, mlp
from .reasons import UNFLATTEN


def residual(self: Net, x: Tensor) -> Tensor:
    x = self.a(x).relu()
    return self.c((x + self.b(x)).relu())


GRAPH_CASES = [
    Case(
        "residual",
        lambda: Net(residual, a=nn.Linear(5, 6), b=nn.Linear(6, 6), c=nn.Linear(6, 3)),
        (5,),
    ),
    Case(
        "residual_convolutions",
        lambda: Net(
            lambda s, x: s.d((s.c(s.b(s.a(x).relu()).relu()) + s.a(x)).relu().flatten(1)),
            a=nn.Conv2d(2, 3, 3),
            b=nn.Conv2d(3, 3, 3, padding=1),
            c=nn.Conv2d(3, 3, 3, padding=1),
            d=nn.Linear(27, 3),
        ),
        (2, 5, 5),
    ),
    Case("skip_from_input", lambda: Net(lambda s, x: x + 0.1 * s.f(x), f=mlp(nn.ReLU, (4, 6, 4))), (4,)),
    Case("skip_minus_input", lambda: Net(lambda s, x: s.a(x).relu() - x, a=nn.Linear(4, 4)), (4,)),
    Case(
        "twice_the_same",
        lambda: Net(lambda s, x: s.c((lambda h: h + h)(s.a(x).tanh())) + (x + x)[:, :3], a=nn.Linear(5, 4), c=head(4)),
        (5,),
    ),
    Case("activation_on_input", lambda: Net(lambda s, x: s.c(x.tanh()), c=head(5)), (5,)),
    Case("relu_on_input", lambda: Net(lambda s, x: s.c(x.relu()), c=nn.Linear(5, 3)), (5,)),
    Case("no_activation", lambda: nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)), (5,)),
    Case("activation_last", lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3), nn.Sigmoid()), (5,)),
    Case("one_output", lambda: mlp(nn.Tanh, (5, 6, 6, 1)), (5,)),
    Case(
        "two_activations_of_one_node",
        lambda: Net(
            lambda s, x: (lambda h: s.b(h.relu()) + s.c(h.tanh()))(s.a(x)),
            a=nn.Linear(5, 6),
            b=head(6),
            c=nn.Linear(6, 3),
        ),
        (5,),
    ),
    Case(
        "branches",
        lambda: Net(
            lambda s, x: s.d((s.b(s.a(x).relu()).tanh() + s.c(s.a(x).relu()).relu()).tanh()),
            a=nn.Linear(5, 6),
            b=nn.Linear(6, 6),
            c=nn.Linear(6, 6),
            d=nn.Linear(6, 3),
        ),
        (5,),
    ),
    Case(
        "dead_layer",
        lambda: Net(
            lambda s, x: s.c((s.a(x) - 100).relu()) + s.b(x), a=nn.Linear(5, 4), b=mlp(nn.Tanh), c=nn.Linear(4, 3)
        ),
        (5,),
    ),
    Case(
        "constant_shape",
        lambda: Net(
            lambda s, x: s.c((s.a(x) + torch.zeros_like(x[:, :4])).relu().view(x.shape[0], 2, 2).flatten(1)),
            a=nn.Linear(5, 4),
            c=nn.Linear(4, 3),
        ),
        (5,),
        prefix_03="IBP+",
    ),
    Case(
        "constant_network",
        lambda: Constants(
            lambda s, x: s.c(s.a(x).relu() * s.b(s.k).tanh()),
            {"k": (1, 2)},
            a=nn.Linear(5, 4),
            b=nn.Linear(2, 4),
            c=head(4),
        ),
        (5,),
    ),
    Case(
        "matrix_output",
        lambda: nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 6), nn.Unflatten(1, (2, 3))),
        (5,),
        not_03=UNFLATTEN,
        not_07=UNFLATTEN,
    ),
]
