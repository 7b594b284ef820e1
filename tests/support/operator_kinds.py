"""Operators by themselves, in every use that the host can write: what each test of their bounds runs over."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from recurjac_plugin.host import IS_03


@dataclass(frozen=True)
class Kind:
    """One operator in one use.

    Attributes:
        function: ``(module, x) -> y`` of a batch.
        shape: of x per sample.
        layers: submodules by name.
        offsets: around what numbers it is bounded.
        widest: widest interval.
        spread: how far from the offset its middles are.
        not_03: why 0.3 cannot build it.
        not_07: why newer hosts cannot.
    """

    function: Callable[..., Tensor]
    shape: tuple[int, ...] = (6,)
    layers: Callable[[], dict[str, nn.Module]] = dict
    offsets: tuple[float, ...] = (0.0, 1.0, -30.0)
    widest: float = 3.0
    spread: float = 1.0
    not_03: bool = False
    not_07: bool = False


FAR = (0.0, -7.0, 1e3, -1e5)
POSITIVE = (6.0, 40.0, 1e4)


class Operator(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        for name, layer in kind.layers().items():
            self.add_module(name, layer)

        if IS_03 and not list(self.parameters()):  # which finds the type of a network in its parameters
            self.zero = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        return self.kind.function(self, x - self.zero if hasattr(self, "zero") else x).flatten(1)


def image(*layers):
    return lambda: dict(zip(("a", "b"), copy.deepcopy(layers)))


def elementwise(function, **options):
    return Kind(lambda s, x: function(x), **options)


def halves(x):
    return x[:, :3], x[:, 3:]


KINDS = {
    "tanh": elementwise(torch.tanh, offsets=FAR),
    "sigmoid": elementwise(torch.sigmoid, offsets=FAR),
    "arctan": elementwise(torch.arctan, offsets=FAR),
    "exp": elementwise(torch.exp),
    "log": elementwise(torch.log, offsets=POSITIVE),
    "sqrt": elementwise(torch.sqrt, offsets=POSITIVE),
    "reciprocal": elementwise(torch.reciprocal, offsets=(6.0, -6.0, 1e4, -1e5)),
    "square": elementwise(torch.square, offsets=FAR),
    "cube": elementwise(lambda x: x**3, offsets=(0.0, -7.0, 1e3)),
    "fourth power": elementwise(lambda x: x**4, offsets=(0.0, -7.0, 1e3)),
    "fractional power": elementwise(lambda x: x**1.5, offsets=POSITIVE),
    "negative power": elementwise(lambda x: x**-2.0, offsets=POSITIVE),
    "sin": elementwise(torch.sin, offsets=FAR),
    "cos": elementwise(torch.cos, offsets=FAR),
    "tan": elementwise(torch.tan, offsets=(0.0, 9.4), widest=1.0, spread=0.2),
    "abs": elementwise(torch.abs, offsets=FAR),
    "leaky": elementwise(lambda x: functional.leaky_relu(x, 0.3), offsets=FAR),
    "leaky below zero": elementwise(lambda x: functional.leaky_relu(x, -0.4), offsets=FAR),
    "leaky above one": elementwise(lambda x: functional.leaky_relu(x, 1.7), offsets=FAR),
    "PReLU": Kind(lambda s, x: s.a(x), layers=lambda: {"a": nn.PReLU(6, init=-0.3)}, offsets=FAR),
    "clip": elementwise(lambda x: functional.hardtanh(x, -0.4, 0.9)),
    "GELU": elementwise(functional.gelu),
    "GELU by tanh": elementwise(lambda x: functional.gelu(x, approximate="tanh")),
    "SiLU": elementwise(functional.silu),
    "product": Kind(lambda s, x: torch.mul(*halves(x)), offsets=FAR),
    "product with a constant": elementwise(lambda x: x * torch.linspace(-2, 2, 6).to(x), offsets=FAR),
    "sum with a constant of another shape": Kind(
        lambda s, x: x + torch.linspace(-2, 2, 3).to(x), (2, 3), offsets=FAR
    ),
    "sum that repeats": Kind(lambda s, x: x - x[:, :, :1], (2, 3), offsets=FAR),
    "scaled layer": Kind(
        lambda s, x: torch.addmm(s.a.bias, x, s.a.weight.T, beta=0.5, alpha=2.0), layers=lambda: {"a": nn.Linear(6, 4)},
        offsets=FAR,
    ),
    "quotient": Kind(lambda s, x: halves(x)[0] / (halves(x)[1] + 1.5), offsets=POSITIVE),
    "quotient of a constant": elementwise(lambda x: torch.linspace(-2, 2, 6).to(x) / x, offsets=(6.0, -6.0, 1e4)),
    "maximum": Kind(lambda s, x: torch.maximum(*halves(x)), offsets=FAR),
    "minimum": Kind(lambda s, x: torch.minimum(*halves(x)), offsets=FAR),
    "maximum of shares": elementwise(lambda x: torch.maximum(x, 0.5 * x), offsets=FAR),
    "maximum with a constant": elementwise(
        lambda x: torch.maximum(torch.linspace(-1, 1, 6).to(x), x), offsets=FAR
    ),
    "minimum with a constant": elementwise(
        lambda x: torch.minimum(x, torch.linspace(-1, 1, 6).to(x)), offsets=FAR
    ),
    "largest of an axis": Kind(lambda s, x: x.amax(2), (2, 5), offsets=FAR),
    "largest of all": Kind(lambda s, x: x.amax((1, 2)).unsqueeze(1), (2, 3), offsets=FAR),
    "smallest of an axis": Kind(lambda s, x: x.amin(1), (3, 2), offsets=FAR),
    "pool": Kind(lambda s, x: s.a(x), (2, 4, 4), image(nn.MaxPool2d(2)), FAR),
    "pool of odd sizes": Kind(lambda s, x: s.a(x), (1, 5, 4), image(nn.MaxPool2d(2)), FAR),
    "overlapping pool": Kind(lambda s, x: s.a(x), (1, 4, 5), image(nn.MaxPool2d((2, 3), stride=1)), FAR),
    "padded pool": Kind(lambda s, x: s.a(x), (1, 4, 4), image(nn.MaxPool2d(3, stride=2, padding=1)), FAR),
    "average": Kind(lambda s, x: s.a(x), (1, 4, 4), image(nn.AvgPool2d(2)), FAR),
    "average of odd sizes": Kind(lambda s, x: s.a(x), (1, 5, 4), image(nn.AvgPool2d(2)), FAR),
    "overlapping average": Kind(lambda s, x: s.a(x), (1, 4, 5), image(nn.AvgPool2d((2, 3), stride=1)), FAR),
    "padded average": Kind(lambda s, x: s.a(x), (1, 4, 4), image(nn.AvgPool2d(2, padding=1)), FAR),
    "softmax": elementwise(lambda x: x.softmax(1), offsets=FAR, widest=30.0),
    "softmax of rows": Kind(lambda s, x: x.softmax(2), (2, 4)),
    "softmax of columns": Kind(lambda s, x: x.softmax(1), (3, 2)),
    "softmax of a part": elementwise(lambda x: torch.cat((x, torch.zeros_like(x)), 1).softmax(1)),
    "matrix product": Kind(lambda s, x: x[:, :2] @ x[:, 2:].transpose(1, 2), (5, 3), offsets=FAR),
    "matrix from the left": Kind(
        lambda s, x: torch.linspace(-1, 2, 6).reshape(2, 3).to(x) @ x, (3, 2), offsets=FAR
    ),
    "matrices from the right": Kind(
        lambda s, x: x @ torch.linspace(-1, 2, 12).reshape(2, 2, 3).to(x), (2, 3, 2), offsets=FAR
    ),
    "gather": elementwise(lambda x: x[:, [0, 0, 3, 5, 3]], offsets=FAR),
    "padding": Kind(lambda s, x: s.a(x), (1, 2, 3), image(nn.ConstantPad2d((1, 0, 2, 1), 3.0)), FAR),
    "concatenation": elementwise(lambda x: torch.cat((x, torch.ones_like(x[:, :2])), 1), offsets=FAR),
    "grouped convolution": Kind(lambda s, x: s.a(x), (4, 3, 4), image(nn.Conv2d(4, 6, 2, groups=2)), FAR),
    "depthwise convolution": Kind(
        lambda s, x: s.a(x), (3, 4, 4), image(nn.Conv2d(3, 3, 3, padding=1, stride=2, groups=3)), FAR
    ),
    "dilated convolution": Kind(
        lambda s, x: s.a(x), (2, 5, 5), image(nn.Conv2d(2, 3, 2, dilation=2, padding=1)), FAR
    ),
    "convolution in one dimension": Kind(
        lambda s, x: s.a(x), (2, 7), image(nn.Conv1d(2, 3, 3, stride=2, padding=1)), FAR, not_03=True
    ),
    "grouped convolution in one dimension": Kind(
        lambda s, x: s.a(x), (4, 6), image(nn.Conv1d(4, 4, 2, groups=2, dilation=2)), FAR, not_03=True
    ),
    "transposed convolution": Kind(lambda s, x: s.a(x), (2, 3, 3), image(nn.ConvTranspose2d(2, 3, 2)), FAR),
    "windows through GELU": Kind(
        lambda s, x: s.b(functional.gelu(s.a(x))), (1, 5, 5), image(nn.Conv2d(1, 3, 2), nn.Conv2d(3, 2, 2)), (0.0, 1.0)
    ),
    "windows through groups": Kind(
        lambda s, x: s.b(s.a(x).relu()), (2, 5, 5), image(nn.Conv2d(2, 4, 2, groups=2), nn.Conv2d(4, 2, 2)), FAR
    ),
    "windows through pools": Kind(
        lambda s, x: s.b(functional.max_pool2d(s.a(x), 2, stride=1)), (1, 5, 5),
        image(nn.Conv2d(1, 3, 2), nn.Conv2d(3, 2, 2, stride=2)), FAR,
    ),
}  # fmt: skip


WIDTHS = (0.0, 1e-12, 1e-9, 1e-6, 1e-3, 0.3)


def regions(kind: Kind, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Boxes of all widths around all offsets, (b, *shape) each; sides of a box differ, and some have none."""
    generator = torch.Generator().manual_seed(3)
    ends = []
    for offset in kind.offsets:
        for width in (*WIDTHS, kind.widest):
            center = torch.randn(kind.shape, generator=generator, dtype=torch.float64)
            center = offset + kind.spread * center.clamp(-3, 3)
            side = width * torch.rand(kind.shape, generator=generator, dtype=torch.float64).round(decimals=1)
            ends.append((center - side / 2, center + side / 2))
    lower, upper = (torch.stack(side).to(dtype) for side in zip(*ends))
    return torch.minimum(lower, upper), torch.maximum(lower, upper)
