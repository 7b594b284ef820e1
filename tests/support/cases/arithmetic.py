"""Products with constants, sums, quotients by constants, sums along axes."""

from __future__ import annotations

import torch
from torch import nn

from .case import Case
from .modules import Constants, Net, head, mlp
from .reasons import CASTS, DROPOUT

ARITHMETIC_CASES = [
    Case(
        "matmul_right",
        lambda: Constants(
            lambda s, x: s.c(torch.matmul(torch.relu(s.a(x)), s.w)), {"w": (6, 4)}, a=nn.Linear(5, 6), c=head(4)
        ),
        (5,),
    ),
    Case(
        "matmul_right_3d",
        lambda: Constants(
            lambda s, x: s.c(torch.matmul(torch.relu(x), s.w).relu().flatten(1)), {"w": (4, 2)}, c=nn.Linear(6, 3)
        ),
        (3, 4),
    ),
    Case(
        "matmul_left",
        lambda: Constants(lambda s, x: s.c(torch.matmul(s.w, torch.relu(x)).flatten(1)), {"w": (2, 3)}, c=head(8)),
        (3, 4),
    ),
    Case(
        "matmul_left_batch_of_one",
        lambda: Constants(lambda s, x: s.c(torch.matmul(s.w, torch.relu(x)).flatten(1)), {"w": (1, 2, 3)}, c=head(8)),
        (3, 4),
    ),
    Case(
        "linear_3d",
        lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2), nn.Flatten(), nn.Linear(6, 2)),
        (3, 4),
    ),
    Case(
        "gemm_scaled",
        lambda: Constants(
            lambda s, x: s.c(torch.addmm(s.b, s.a(x).relu(), s.w, beta=0.5, alpha=2.0)),
            {"w": (6, 4), "b": (4,)},
            a=nn.Linear(5, 6),
            c=head(4),
        ),
        (5,),
    ),
    Case(
        "add_constant",
        lambda: Constants(lambda s, x: s.c(s.a(x) + s.b), {"b": (6,)}, a=nn.Linear(5, 6), c=head(6)),
        (5,),
    ),
    Case(
        "add_broadcast_up",
        lambda: Constants(
            lambda s, x: s.c((s.a(x).unsqueeze(1) + s.b).relu().flatten(1)),
            {"b": (3, 4)},
            a=nn.Linear(5, 4),
            c=head(12),
        ),
        (5,),
    ),
    Case(
        "sub_constant",
        lambda: Constants(
            lambda s, x: s.c(s.b - s.a(x - s.b2)), {"b": (6,), "b2": (1, 5)}, a=nn.Linear(5, 6), c=head(6)
        ),
        (5,),
    ),
    Case(
        "affine_prefix",
        lambda: Constants(lambda s, x: s.c((x - s.m) / s.d), {"m": (5,), "d": (5,)}, c=mlp(nn.ReLU)),
        (5,),
    ),
    Case(
        "mul_constant",
        lambda: Constants(lambda s, x: s.c(s.w * s.a(x).relu() * 2.5), {"w": (6,)}, a=nn.Linear(5, 6), c=head(6)),
        (5,),
    ),
    Case(
        "mul_broadcast_up",
        lambda: Constants(
            lambda s, x: s.c((s.a(x).relu().unsqueeze(1) * s.w).flatten(1)),
            {"w": (1, 3, 4)},
            a=nn.Linear(5, 4),
            c=head(12),
        ),
        (5,),
    ),
    Case(
        "mul_channels",
        lambda: Constants(
            lambda s, x: s.c((s.w * s.a(x).relu()).flatten(1)), {"w": (3, 1, 1)}, a=nn.Conv2d(2, 3, 3), c=head(27)
        ),
        (2, 5, 5),
    ),
    Case(
        "div_constant",
        lambda: Constants(lambda s, x: s.c(s.a(x).relu() / s.w / 0.5), {"w": (6,)}, a=nn.Linear(5, 6), c=head(6)),
        (5,),
    ),
    Case("neg", lambda: Net(lambda s, x: -s.c(-s.a(x).relu()), a=nn.Linear(5, 6), c=head(6)), (5,)),
    Case(
        "reduce_sum",
        lambda: Net(lambda s, x: s.c(s.a(x).relu().sum(1)), a=nn.Linear(4, 6), c=head(6)),
        (3, 4),
    ),
    Case(
        "reduce_sum_keep",
        lambda: Net(
            lambda s, x: s.c((s.a(x).relu().sum(2, keepdim=True) * 0.1).flatten(1)), a=nn.Linear(4, 6), c=head(3)
        ),
        (3, 4),
    ),
    Case(
        "reduce_mean",
        lambda: Net(lambda s, x: s.c(s.a(x).relu().mean((2, 3))), a=nn.Conv2d(2, 3, 3), c=head(3)),
        (2, 5, 5),
    ),
    Case(
        "reduce_mean_keep",
        lambda: Net(
            lambda s, x: s.c(s.a(x).relu() - s.a(x).relu().mean(1, keepdim=True)), a=nn.Linear(5, 6), c=head(6)
        ),
        (5,),
    ),
    Case(
        "dropout",
        lambda: nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Dropout(0.5), nn.Linear(7, 3)),
        (5,),
        not_07=DROPOUT,
        training=True,
        not_03=DROPOUT,
    ),
    Case(
        "identity",
        lambda: nn.Sequential(nn.Identity(), nn.Linear(5, 7), nn.Identity(), nn.ReLU(), nn.Linear(7, 3), nn.Identity()),
        (5,),
    ),
    Case(
        "cast",
        lambda: Net(lambda s, x: s.c(s.a(x).relu().float().double()), a=nn.Linear(5, 4), c=head(4)),
        (5,),
        slack=1e-6,
        not_03=CASTS,
    ),
]
