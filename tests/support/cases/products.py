"""Products, quotients, extremes, pooling by the maximum, softmax, and what is made of them."""

from __future__ import annotations

import torch
from torch import nn

from .case import Case
from .modules import Constants, Net, head, mlp
from .reasons import UNFLATTEN

PRODUCT_CASES = [
    Case(
        "product",
        lambda: Net(lambda s, x: s.c(s.a(x).tanh() * s.b(x)), a=nn.Linear(5, 6), b=nn.Linear(5, 6), c=head(6)),
        (5,),
    ),
    Case(
        "product_broadcast",
        lambda: Net(lambda s, x: s.c(s.a(x).relu() * s.b(x)), a=nn.Linear(5, 6), b=nn.Linear(5, 1), c=head(6)),
        (5,),
    ),
    Case(
        "product_with_the_input",
        lambda: Net(lambda s, x: s.c(s.a(x).sigmoid() * x), a=nn.Linear(5, 5), c=head(5)),
        (5,),
    ),
    Case(
        "product_of_itself",
        lambda: Net(lambda s, x: (lambda z: s.c(z * z))(s.a(x).tanh()), a=nn.Linear(5, 6), c=head(6)),
        (5,),
    ),
    Case(
        "product_as_output",
        lambda: Net(lambda s, x: s.a(x).tanh() * s.b(x), a=nn.Linear(5, 4), b=nn.Linear(5, 4)),
        (5,),
    ),
    Case(
        "quotient",
        lambda: Net(lambda s, x: s.c(s.a(x) / (s.b(x).tanh() + 2.5)), a=nn.Linear(5, 6), b=nn.Linear(5, 6), c=head(6)),
        (5,),
    ),
    Case(
        "quotient_of_a_constant",
        lambda: Constants(lambda s, x: s.c(s.k / (s.b(x).sigmoid() + 0.5)), {"k": (6,)}, b=nn.Linear(5, 6), c=head(6)),
        (5,),
    ),
    Case(
        "matrix_product",
        lambda: Net(
            lambda s, x: s.c(torch.matmul(s.a(x).tanh().reshape(-1, 2, 3), s.b(x).reshape(-1, 3, 4)).flatten(1)),
            a=nn.Linear(5, 6),
            b=nn.Linear(5, 12),
            c=head(8),
        ),
        (5,),
    ),
    Case(
        "maximum",
        lambda: Net(
            lambda s, x: s.c(torch.maximum(s.a(x).tanh(), s.b(x))), a=nn.Linear(5, 6), b=nn.Linear(5, 6), c=head(6)
        ),
        (5,),
        taught=True,
    ),
    Case(
        "minimum",
        lambda: Net(
            lambda s, x: s.c(torch.minimum(s.a(x).tanh(), s.b(x))), a=nn.Linear(5, 6), b=nn.Linear(5, 6), c=head(6)
        ),
        (5,),
        taught=True,
    ),
    Case(
        "maximum_with_a_constant",
        lambda: Constants(
            lambda s, x: s.c(torch.maximum(s.a(x), s.k - 0.7)), {"k": (6,)}, a=nn.Linear(5, 6), c=head(6)
        ),
        (5,),
        taught=True,
    ),
    Case(
        "reduce_max",
        lambda: Net(lambda s, x: s.c(s.a(x).reshape(-1, 4, 3).amax(1)), a=nn.Linear(5, 12), c=head(3)),
        (5,),
    ),
    Case(
        "reduce_max_all",
        lambda: Net(lambda s, x: s.c(s.a(x).amax(1, keepdim=True)), a=nn.Linear(5, 7), c=nn.Linear(1, 2)),
        (5,),
    ),
    Case(
        "reduce_min",
        lambda: Net(lambda s, x: s.c(s.a(x).reshape(-1, 3, 5).amin(2)), a=nn.Linear(5, 15), c=head(3)),
        (5,),
        taught=True,
    ),
    Case(
        "max_pool",
        lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), head(12)),
        (2, 5, 5),
    ),
    Case(
        "max_pool_of_three",
        lambda: nn.Sequential(nn.Conv2d(1, 2, 1), nn.Tanh(), nn.MaxPool2d(3), nn.Flatten(), head(8)),
        (1, 6, 6),
    ),
    Case(
        "max_pool_overlapping",
        lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.MaxPool2d(2, stride=1), nn.ReLU(), nn.Flatten(), nn.Linear(27, 3)),
        (2, 5, 5),
    ),
    Case(
        "max_pool_padded",
        lambda: nn.Sequential(nn.Conv2d(2, 3, 2), nn.MaxPool2d(3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)),
        (2, 5, 5),
    ),
    Case("max_pool_of_the_input", lambda: nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), head(8)), (2, 4, 4)),
    Case(
        "log_sum_exp",
        lambda: Net(lambda s, x: s.c(s.a(x).reshape(-1, 4, 3).logsumexp(1)), a=nn.Linear(5, 12), c=head(3)),
        (5,),
        taught=True,
    ),
    Case(
        "softmax",
        lambda: nn.Sequential(mlp(nn.Tanh, (5, 8, 6)), nn.Softmax(1), nn.Linear(6, 3)),
        (5,),
    ),
    Case(
        "softmax_rows",
        lambda: nn.Sequential(nn.Linear(5, 6), nn.Unflatten(1, (2, 3)), nn.Softmax(-1), nn.Flatten(), nn.Linear(6, 3)),
        (5,),
        not_03=UNFLATTEN,
    ),
    Case(
        "layer_norm",
        lambda: nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 3)),
        (5,),
        not_03="0.3 cannot evaluate the layer norm that this torch writes",
    ),
    Case(
        "attention",
        lambda: Net(
            lambda s, x: s.o(
                torch.matmul(torch.softmax(torch.matmul(s.q(x), s.k(x).transpose(1, 2)), -1), s.v(x)).flatten(1)
            ),
            q=nn.Linear(4, 3),
            k=nn.Linear(4, 3),
            v=nn.Linear(4, 3),
            o=nn.Linear(9, 2),
        ),
        (3, 4),
    ),
]
