"""Specimens of extremes, pooling by the maximum, softmax, and what networks build of several operators."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from .arithmetic import elementwise, fixed
from .specimen import Formula, Specimen

_NEAR = (0.25, 0.875)  # constants that the input is compared with lie around these


def _max_pool(attributes: str, *shape: int, **options: object) -> Specimen:
    return Specimen("BoundMaxPool", attributes, lambda: nn.MaxPool2d(**options), shape or (2, 4, 4))  # type: ignore[arg-type]


def _with_half(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], nn.Module]:
    return lambda: Formula(lambda s, x: function(x, s.a(x)), a=fixed(torch.eye(4) / 2))


def _attention() -> nn.Module:
    def function(s: Any, x: Tensor) -> Tensor:
        return torch.matmul(torch.softmax(torch.matmul(s.q(x), s.k(x).transpose(1, 2)), -1), s.v(x))

    return Formula(function, q=nn.Linear(2, 2), k=nn.Linear(2, 2), v=nn.Linear(2, 2))


def _log_sum_exp() -> nn.Module:
    return Formula(lambda s, x: x.logsumexp(-1, keepdim=True))


_EXTREMES = (
    *elementwise("BoundMax", torch.maximum),
    Specimen("BoundMax", "with its half", _with_half(torch.max)),
    Specimen(
        "BoundMax",
        "constants 1/4 and 7/8 on the right",
        lambda: Formula(lambda s, x: torch.maximum(x, s.k), k=torch.tensor([0.25, 0.25, 0.875, 0.875])),
        points=_NEAR,
        terms=1.0,
    ),
    *elementwise("BoundMin", torch.minimum),
    Specimen("BoundMin", "with its half", _with_half(torch.min)),
    Specimen(
        "BoundMin",
        "constants 1/4 and 7/8 on the left",
        lambda: Formula(lambda s, x: torch.minimum(s.k, x), k=torch.tensor([0.25, 0.25, 0.875, 0.875])),
        points=_NEAR,
        terms=1.0,
    ),
    Specimen("BoundReduceMax", "axis=1", lambda: Formula(lambda s, x: x.amax(1)), (3, 4)),
    Specimen("BoundReduceMax", "axis=2, keepdim", lambda: Formula(lambda s, x: x.amax(2, keepdim=True)), (3, 4)),
    Specimen("BoundReduceMax", "axis=1, keepdim, vectors", lambda: Formula(lambda s, x: x.amax(1, keepdim=True))),
    Specimen("BoundReduceMax", "max(1).values", lambda: Formula(lambda s, x: x.max(1).values), (3, 4)),
    Specimen("BoundReduceMin", "axis=1", lambda: Formula(lambda s, x: x.amin(1)), (3, 4)),
    Specimen("BoundReduceMin", "axis=1, keepdim, vectors", lambda: Formula(lambda s, x: x.amin(1, keepdim=True))),
)

_POOLS = (
    _max_pool("2", kernel_size=2),
    _max_pool("2, rest of one", 2, 5, 5, kernel_size=2),
    _max_pool("2, rests that differ", 2, 5, 4, kernel_size=2),
    _max_pool("3", 2, 6, 6, kernel_size=3),
    _max_pool("(2, 1)", kernel_size=(2, 1)),
    _max_pool("2, stride=1", kernel_size=2, stride=1),
    _max_pool("3, stride=2, padding=1", kernel_size=3, stride=2, padding=1),
    _max_pool("2, padding=1", kernel_size=2, padding=1),
    _max_pool("1, stride=2", kernel_size=1, stride=2),
    _max_pool("2, stride=1, dilation=2", kernel_size=2, stride=1, dilation=2),
    _max_pool("2, ceil_mode", 2, 5, 5, kernel_size=2, ceil_mode=True),
    _max_pool("3, stride=2, ceil_mode", 2, 6, 6, kernel_size=3, stride=2, ceil_mode=True),
)

_SOFTMAX = (
    Specimen("BoundSoftmax", "axis=1", lambda: nn.Softmax(1), terms=0.0),
    Specimen("BoundSoftmax", "axis=1, sequences", lambda: nn.Softmax(1), (3, 2)),
    Specimen("BoundSoftmax", "axis=-1, sequences", lambda: nn.Softmax(-1), (3, 2)),
    Specimen("BoundSoftmax", "axis=1, two", lambda: nn.Softmax(1), (2,)),
    Specimen("BoundSoftmax", "attention", _attention, (3, 2), terms=1.0),
    Specimen("BoundLog", "log_softmax", lambda: nn.LogSoftmax(1), terms=1.0),
    Specimen("BoundDiv", "layer normalisation", lambda: nn.LayerNorm(4), terms=1.0),
    Specimen("BoundReduceLogSumExp", "axis=1", lambda: Formula(lambda s, x: x.logsumexp(1)), (3, 4), terms=1.0),
    Specimen("BoundReduceLogSumExp", "axis=-1, keepdim", _log_sum_exp, (3, 4), terms=1.0),
    Specimen("BoundReduceLogSumExp", "axis=1, keepdim, vectors", _log_sum_exp, terms=1.0),
)

EXTREMES: tuple[Specimen, ...] = _EXTREMES + _POOLS + _SOFTMAX
"""Operators that choose or normalise."""
