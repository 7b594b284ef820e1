"""Operators that choose, repeat, join and reorder elements."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from .case import Case
from .modules import Constants, Indices, Net, head
from .reasons import EXPANDS, NEGATIVE, UNFLATTEN


def between(module: nn.Module, before: int, after: int, shape: tuple[int, ...]) -> nn.Module:
    """Linear, tanh, `module` on the given shape, flatten, ReLU, linear."""
    return nn.Sequential(nn.Linear(5, before), nn.Tanh(), nn.Unflatten(1, shape), module, nn.Flatten(), head(after))


REARRANGEMENT_CASES = [
    Case(
        "concat",
        lambda: Net(
            lambda s, x: s.c(torch.cat([s.a(x).relu(), s.b(x).relu()], 1)),
            a=nn.Linear(5, 4),
            b=nn.Linear(5, 3),
            c=head(7),
        ),
        (5,),
    ),
    Case(
        "concat_input",
        lambda: Net(lambda s, x: s.c(torch.cat([x, s.a(x).relu(), x], 1)), a=nn.Linear(5, 4), c=head(14)),
        (5,),
    ),
    Case(
        "concat_constant",
        lambda: Net(
            lambda s, x: s.c(torch.cat([torch.zeros_like(x) + 1, s.a(x).relu()], 1)), a=nn.Linear(5, 4), c=head(9)
        ),
        (5,),
    ),
    Case(
        "concat_channels",
        lambda: Net(
            lambda s, x: s.c(torch.cat([s.a(x).relu(), x[:, :, 1:-1, 1:-1]], 1).flatten(1)),
            a=nn.Conv2d(2, 3, 3),
            c=head(45),
        ),
        (2, 5, 5),
    ),
    Case(
        "concat_last_axis", lambda: Net(lambda s, x: s.c(torch.cat([x.relu(), x], -1).flatten(1)), c=head(24)), (3, 4)
    ),
    Case("slice", lambda: Net(lambda s, x: s.c(s.a(x).relu()[:, 1:-1]), a=nn.Linear(5, 8), c=head(6)), (5,)),
    Case(
        "slice_2d",
        lambda: Net(
            lambda s, x: s.c(s.a(x).relu()[:, 1:, :2, -1]), a=nn.Conv2d(2, 3, 3), c=nn.Sequential(nn.Flatten(), head(4))
        ),
        (2, 5, 5),
        not_03=NEGATIVE,
    ),
    Case(
        "split",
        lambda: Net(
            lambda s, x: (lambda p: s.c(p[0].relu() + p[1].relu()) - s.d(p[1]))(torch.split(s.a(x), 4, dim=1)),
            a=nn.Linear(5, 8),
            c=head(4),
            d=nn.Linear(4, 3),
        ),
        (5,),
    ),
    Case(
        "chunk_unequal",
        lambda: Net(
            lambda s, x: (lambda p: torch.cat([s.c(p[0].relu()), p[1]], 1))(torch.split(s.a(x), [5, 3], dim=1)),
            a=nn.Linear(5, 8),
            c=head(5),
        ),
        (5,),
    ),
    Case(
        "gather",
        lambda: Indices(lambda s, x: s.c(s.a(x).relu()[:, s.index]), (3, 0, 5), a=nn.Linear(5, 6), c=head(3)),
        (5,),
    ),
    Case(
        "gather_repeated",
        lambda: Indices(lambda s, x: s.c(s.a(x).relu()[:, s.index]), (3, 0, 0, 5), a=nn.Linear(5, 6), c=head(4)),
        (5,),
    ),
    Case("gather_scalar", lambda: Net(lambda s, x: s.c(s.a(x.relu())[:, 1]), a=nn.Linear(4, 6), c=head(6)), (3, 4)),
    Case(
        "pad",
        lambda: Net(
            lambda s, x: s.c(s.a(functional.pad(x.relu(), (1, 2, 0, 1), value=0.5)).flatten(1)),
            a=nn.Conv2d(2, 2, 3),
            c=head(48),
        ),
        (2, 5, 5),
        not_03=NEGATIVE,
    ),
    Case(
        "pad_with_zeros",
        lambda: Net(
            lambda s, x: s.c(s.a(functional.pad(x.relu(), (1, 2, 0, 1), value=0.0)).flatten(1)),
            a=nn.Conv2d(2, 2, 3),
            c=head(48),
        ),
        (2, 5, 5),
        not_03=NEGATIVE,
    ),
    Case(
        "reshape",
        lambda: Net(
            lambda s, x: s.c(s.a(x).relu().reshape(-1, 2, 3).transpose(1, 2).reshape(-1, 6)),
            a=nn.Linear(5, 6),
            c=head(6),
        ),
        (5,),
    ),
    Case(
        "transpose",
        lambda: Net(
            lambda s, x: s.c(s.a(x.permute(0, 2, 1)).relu().permute(0, 2, 1).flatten(1)), a=nn.Linear(3, 2), c=head(8)
        ),
        (3, 4),
    ),
    Case(
        "squeeze",
        lambda: Net(
            lambda s, x: s.c(s.a(x.unsqueeze(1)).relu().squeeze(1).flatten(1)), a=nn.Conv2d(1, 1, 2), c=head(6)
        ),
        (3, 4),
        prefix_03="IBP+",
    ),
    Case(
        "expand",
        lambda: Constants(
            lambda s, x: s.c((s.a(x).relu().unsqueeze(1).expand(-1, 3, -1) * s.w).flatten(1)),
            {"w": (3, 1)},
            a=nn.Linear(5, 4),
            c=head(12),
        ),
        (5,),
        not_03=EXPANDS,
    ),
    Case("unflatten", lambda: between(nn.Conv2d(2, 2, 2), 18, 8, (2, 3, 3)), (5,), not_03=UNFLATTEN, not_07=UNFLATTEN),
]
