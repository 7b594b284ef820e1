"""Networks that jump, and points on either side of their jumps."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Formula(nn.Module):
    """A function of the input and of layers by name."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.function(self, x)


def layers(inputs=3, hidden=8, between=6, outputs=2):
    return {
        "first": nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, between)),
        "last": nn.Sequential(nn.Linear(between, hidden), nn.ReLU(), nn.Linear(hidden, outputs)),
    }


def _between(function, **sizes):
    return lambda: Formula(lambda s, x: s.last(function(s.first(x))), **layers(**sizes))


NETWORKS = {
    "sign": _between(torch.sign),
    "floor": _between(lambda z: torch.floor(4 * z)),
    "ceil": _between(lambda z: torch.ceil(4 * z)),
    "round": _between(lambda z: torch.round(4 * z)),
    "trunc": _between(lambda z: torch.trunc(4 * z)),
    "signs of signs": lambda: nn.Sequential(
        nn.Linear(3, 8),
        Formula(lambda s, x: torch.sign(x)),
        nn.Linear(8, 8),
        Formula(lambda s, x: torch.sign(x)),
        nn.Linear(8, 2),
    ),
    "comparison": _between(lambda z: (z > 0.1).to(z.dtype)),
    "and, or, not": _between(lambda z: (((z > -0.2) & (z <= 0.3)) | ~(z < 1)).to(z.dtype)),
    "equal": _between(lambda z: (torch.round(3 * z) == 0).to(z.dtype)),
    "unequal": _between(lambda z: (torch.round(3 * z) != 1).to(z.dtype)),
    "where": lambda: Formula(
        lambda s, x: s.end(torch.where((z := s.first(x))[:, :3] > z[:, 3:], z[:, :3], 2 * z[:, 3:])),
        **layers(),
        end=nn.Linear(3, 2),
    ),
    "mask": _between(lambda z: z * (z > 0.2)),
    "masked_fill": _between(lambda z: z.masked_fill(z < -0.1, 0.5)),
    "heaviside": _between(lambda z: torch.heaviside(z, torch.full((), 0.5, dtype=z.dtype))),
    "fmod": _between(lambda z: torch.fmod(z, 0.5)),
    "remainder": _between(lambda z: torch.remainder(z, 0.5)),
    "division": _between(lambda z: torch.div(z, 0.25, rounding_mode="floor")),
    "hardshrink": _between(lambda z: nn.functional.hardshrink(z, 0.2)),
    "threshold": _between(lambda z: nn.functional.threshold(z, 0.2, -0.5)),
    "argmax": lambda: Formula(
        lambda s, x: s.end(torch.cat([(z := s.first(x)), z.argmax(1, keepdim=True).to(z.dtype)], 1)),
        **layers(),
        end=nn.Linear(7, 2),
    ),
    "at the end": lambda: Formula(lambda s, x: torch.sign(s.first(x)), **layers()),
    "argmin at the end": lambda: Formula(lambda s, x: s.first(x).argmin(1, keepdim=True).to(x.dtype), **layers()),
}


def built(name: str) -> nn.Module:
    torch.manual_seed(sum(map(ord, name)))
    return NETWORKS[name]().eval()


@torch.no_grad()
def either_side(network: nn.Module, low: Tensor, high: Tensor, count: int = 400) -> Tensor:
    """Points of a box (columns,), many of them next to jumps: pairs that differ are halved until they touch."""
    generator = torch.Generator().manual_seed(7)
    first, second = (
        low + (high - low) * torch.rand(count, len(low), generator=generator, dtype=low.dtype) for _ in range(2)
    )
    corners = torch.where(torch.rand(count, len(low), generator=generator) < 0.5, low, high)
    found = [first, corners]
    second = torch.cat([second[: count // 2], corners[count // 2 :]])
    for _ in range(36):
        middle = first / 2 + second / 2
        at_first, at_second, value = (network(x).flatten(1) for x in (first, second, middle))
        nearer = (value - at_first).abs().sum(1) >= (value - at_second).abs().sum(1)  # the larger part of the change
        first = torch.where(nearer.unsqueeze(1), first, middle)
        second = torch.where(nearer.unsqueeze(1), middle, second)
    found += [first, second]
    return torch.minimum(torch.maximum(torch.cat(found), low), high)


@torch.no_grad()
def climbed(network: nn.Module, points: Tensor, low: Tensor, high: Tensor, rows: Tensor, steps: int = 40) -> Tensor:
    """From points on, to where rows (k, n_outputs) of the outputs are larger: jumps have no gradient to follow."""
    generator = torch.Generator().manual_seed(8)
    found = [points]
    for row in rows:
        x = points.clone()
        for step in range(steps):
            moved = x + (high - low) * 0.5 ** (step / 4) * torch.randn(x.shape, generator=generator, dtype=x.dtype)
            moved = torch.minimum(torch.maximum(moved, low), high)
            better = network(moved).flatten(1) @ row > network(x).flatten(1) @ row
            x = torch.where(better.unsqueeze(1), moved, x)
        found.append(x)
    return torch.cat(found)
