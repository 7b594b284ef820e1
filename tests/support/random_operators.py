"""Operators to draw random networks from: the whole support table, with attributes.

A *kind* draws its options, which are plain data, for a shape per sample that it suits, and makes a module of them.
Constants are numbers that float32 has, too: exporters write some of them in float32.
"""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from cases.activations import hard_sigmoid
from cases.modules import Constants, Indices, Net
from torch import Tensor, nn
from torch.nn import functional

Shape = tuple[int, ...]
LARGEST = 96  # elements of a layer


class Choices(Protocol):
    """Where random choices come from: a generator, or hypothesis."""

    def pick(self, options: Any) -> Any: ...

    def whole(self, low: int, high: int) -> int: ...


@dataclass(frozen=True)
class Kind:
    """A kind of operator.

    Attributes:
        draw: options for a shape, or None where it does not suit.
        build: makes the module from options and shape; called under a seed.
        exact: whether the host's network computes what the module does to float64's rounding, not float32's.
        nodes: operators of the support table that it stands for.
    """

    draw: Callable[[Choices, Shape], tuple | None]
    build: Callable[[tuple, Shape], nn.Module]
    exact: bool = True


def vector(shape: Shape) -> bool:
    return len(shape) == 1


def tanh_of(function: Callable[[Tensor], Tensor], scale: float, shift: float) -> Callable[[Tensor], Tensor]:
    """A function on a part of its domain: that of ``scale tanh(x) + shift``."""
    return lambda x: function(scale * x.tanh() + shift)


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda: nn.LeakyReLU(0.25),
    "leaky_relu_steep": lambda: nn.LeakyReLU(1.5),
    "leaky_relu_falling": lambda: nn.LeakyReLU(-0.5),
    "prelu": lambda: nn.PReLU(init=0.25),
    "abs": lambda: Net(lambda s, x: x.abs()),
    "elu": lambda: nn.ELU(0.75),
    "celu": lambda: nn.CELU(0.75),
    "selu": nn.SELU,
    "hardtanh": lambda: nn.Hardtanh(-0.5, 0.75),
    "relu6": nn.ReLU6,
    "clamp_low": lambda: Net(lambda s, x: x.clamp(min=-0.25)),
    "clamp_high": lambda: Net(lambda s, x: x.clamp(max=0.5)),
    "hard_sigmoid": lambda: Net(hard_sigmoid),
    "hard_swish": nn.Hardswish,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "logistic": lambda: Net(lambda s, x: 1 / (1 + torch.exp(-x))),
    "log_sigmoid": nn.LogSigmoid,
    "atan": lambda: Net(lambda s, x: torch.arctan(x)),
    "softsign": nn.Softsign,
    "erf": lambda: Net(lambda s, x: torch.erf(x)),
    "softplus": nn.Softplus,
    "softplus_beta": lambda: nn.Softplus(2.0),
    "gelu": nn.GELU,
    "gelu_tanh": lambda: nn.GELU("tanh"),
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "sin": lambda: Net(lambda s, x: torch.sin(2 * x)),
    "cos": lambda: Net(lambda s, x: torch.cos(2 * x)),
    "tan": lambda: Net(lambda s, x: tanh_of(torch.tan, 0.75, 0.0)(x)),
    "exp": lambda: Net(lambda s, x: torch.exp(x)),
    "exp_bounded": lambda: Net(lambda s, x: tanh_of(torch.exp, 2.0, 0.0)(x)),
    "log": lambda: Net(lambda s, x: torch.log(x.relu() + 0.5)),
    "sqrt": lambda: Net(lambda s, x: torch.sqrt(x.relu() + 0.25)),
    "square": lambda: Net(lambda s, x: x * x),
    "square_power": lambda: Net(lambda s, x: x**2),
    "cube": lambda: Net(lambda s, x: x.tanh() ** 3),
    "fourth_power": lambda: Net(lambda s, x: tanh_of(lambda t: t**4, 1.5, 0.25)(x)),
    "root_power": lambda: Net(lambda s, x: (x.relu() + 0.125) ** 1.5),
    "negative_power": lambda: Net(lambda s, x: (x.sigmoid() + 0.5) ** -2.0),
    "reciprocal": lambda: Net(lambda s, x: 1 / (x.tanh() + 1.5)),
}
ROUNDED = ("gelu", "gelu_tanh", "hard_sigmoid", "hard_swish", "selu", "celu", "logistic")
"""Those of which exporters write constants in float32."""


def activation(name: str) -> Kind:
    return Kind(lambda c, shape: (), lambda options, shape: ACTIVATIONS[name](), name not in ROUNDED)


def linear(options: tuple, shape: Shape) -> nn.Module:
    (outputs, gain) = options
    layer = nn.Linear(shape[-1], outputs)
    with torch.no_grad():
        layer.weight *= gain
        nn.init.normal_(layer.bias, std=0.5)
    return layer


def draw_linear(c: Choices, shape: Shape) -> tuple | None:
    if math.prod(shape[:-1]) * 2 > LARGEST:
        return None
    return c.whole(1, min(8, LARGEST // math.prod(shape[:-1]))), c.pick((1.0, 2.0, 0.5, 4.0))


# Convolutions and pooling: options are those of torch, checked against the sizes that are left.


def draw_convolution(c: Choices, shape: Shape) -> tuple | None:
    if len(shape) not in (2, 3):
        return None
    channels, *sides = shape
    kernel = c.whole(1, 3)
    dilation = c.pick((1, 1, 2))
    padding = c.whole(0, 2)
    if dilation * (kernel - 1) + 1 > min(sides) + 2 * padding:
        return None
    groups = c.pick([g for g in (1, 1, 2, 3) if channels % g == 0])
    return groups * c.whole(1, 2), kernel, c.whole(1, 2), padding, dilation, groups, c.pick((True, False))


def convolution(options: tuple, shape: Shape) -> nn.Module:
    outputs, kernel, stride, padding, dilation, groups, bias = options
    kind = nn.Conv1d if len(shape) == 2 else nn.Conv2d
    return kind(shape[0], outputs, kernel, stride, padding, dilation, groups, bias)


def draw_transposed(c: Choices, shape: Shape) -> tuple | None:
    if len(shape) not in (2, 3):
        return None
    channels, *sides = shape
    kernel, stride = c.whole(1, 3), c.whole(1, 2)
    padding = c.whole(0, min(1, kernel - 1))
    if min((side - 1) * stride - 2 * padding + kernel for side in sides) < 1:
        return None
    groups = c.pick([g for g in (1, 1, 2) if channels % g == 0])
    return groups * c.whole(1, 2), kernel, stride, padding, c.whole(0, stride - 1), groups


def transposed(options: tuple, shape: Shape) -> nn.Module:
    outputs, kernel, stride, padding, extra, groups = options
    kind = nn.ConvTranspose1d if len(shape) == 2 else nn.ConvTranspose2d
    return kind(shape[0], outputs, kernel, stride, padding, extra, groups)


def draw_pool(c: Choices, shape: Shape) -> tuple | None:
    if len(shape) != 3:
        return None
    kernel = c.whole(1, 3)
    padding = c.whole(0, kernel // 2)
    if kernel > min(shape[1:]) + 2 * padding:
        return None
    return kernel, c.whole(1, kernel), padding


def square_padding(c: Choices, shape: Shape) -> tuple | None:
    if len(shape) != 3 or min(shape[1:]) < 2:
        return None
    return (c.pick(("zeros", "reflect", "replicate", "circular")), c.whole(1, 1))


def padded_convolution(options: tuple, shape: Shape) -> nn.Module:
    mode, padding = options
    return nn.Conv2d(shape[0], 2, 2, padding=padding, padding_mode=mode)


# Rearrangements


def factored(c: Choices, shape: Shape) -> tuple | None:
    """Two factors of the length of a vector, both more than 1."""
    if not vector(shape):
        return None
    pairs = [(a, shape[0] // a) for a in range(2, shape[0]) if shape[0] % a == 0]
    return c.pick(pairs) if pairs else None


def as_matrix(inner: Callable[..., nn.Module]) -> Callable[[tuple, Shape], nn.Module]:
    """A module on the matrix that a vector is reshaped to; the result is flattened."""

    def build(options: tuple, shape: Shape) -> nn.Module:
        a, b = options
        return Net(lambda s, x: s.inner(x.reshape(-1, a, b)).flatten(1), inner=inner(a, b))

    return build


def draw_slice(c: Choices, shape: Shape) -> tuple | None:
    axis = c.whole(1, len(shape))
    if shape[axis - 1] < 2:
        return None
    start = c.whole(0, shape[axis - 1] - 1)
    return axis, start, c.whole(start + 1, shape[axis - 1])


def build_slice(options: tuple, shape: Shape) -> nn.Module:
    axis, start, end = options
    whole = (slice(None),) * axis
    return Net(lambda s, x: x[(*whole, slice(start, end))])


def draw_gather(c: Choices, shape: Shape) -> tuple | None:
    if not vector(shape):
        return None
    return tuple(c.whole(0, shape[0] - 1) for _ in range(c.whole(1, 5)))


def draw_pad(c: Choices, shape: Shape) -> tuple | None:
    if len(shape) < 2 or math.prod(shape) * 2 > LARGEST:
        return None
    return c.whole(0, 2), c.whole(0, 1), c.pick((0.0, 0.5))


def draw_axis(c: Choices, shape: Shape) -> tuple | None:
    return (c.whole(1, len(shape)), c.pick((True, False))) if len(shape) > 1 else None


def reduction(function: Callable[..., Tensor]) -> Callable[[tuple, Shape], nn.Module]:
    def build(options: tuple, shape: Shape) -> nn.Module:
        axis, keep = options
        return Net(lambda s, x: function(x, axis, keepdim=keep))

    return build


# Two branches from one vector, and what joins them.

OUTER = ("relu", "tanh", "sigmoid", "identity", "softplus", "abs")


def draw_branches(c: Choices, shape: Shape) -> tuple | None:
    return (c.whole(1, 5), c.pick(OUTER), c.pick(OUTER)) if vector(shape) else None


def branch(name: str, inputs: int, outputs: int) -> nn.Module:
    layer = linear((outputs, 1.0), (inputs,))
    return nn.Sequential(layer, nn.Identity() if name == "identity" else ACTIVATIONS[name]())


def joined(join: Callable[[Tensor, Tensor], Tensor]) -> Callable[[tuple, Shape], nn.Module]:
    def build(options: tuple, shape: Shape) -> nn.Module:
        size, first, second = options
        a, b = branch(first, shape[0], size), branch(second, shape[0], size)
        return Net(lambda s, x: join(s.a(x), s.b(x)), a=a, b=b)

    return build


def draw_matrices(c: Choices, shape: Shape) -> tuple | None:
    return (c.whole(1, 3), c.whole(1, 3), c.whole(1, 3)) if vector(shape) else None


def matrices(options: tuple, shape: Shape) -> nn.Module:
    i, k, j = options
    a, b = branch("tanh", shape[0], i * k), branch("identity", shape[0], k * j)
    return Net(lambda s, x: torch.matmul(s.a(x).reshape(-1, i, k), s.b(x).reshape(-1, k, j)).flatten(1), a=a, b=b)


def with_constant(function: Callable[[Tensor, Tensor], Tensor]) -> Kind:
    """An element-wise operator of the input and a constant of the shape of a sample."""

    def build(options: tuple, shape: Shape) -> nn.Module:
        net = Constants(lambda s, x: function(x, s.k), {"k": (1, *shape)})
        net.k.copy_((net.k * 8).round() / 8)
        return net

    return Kind(lambda c, shape: (), build)


def residual(options: tuple, shape: Shape) -> nn.Module:
    (name, minus) = options
    sign = operator.sub if minus else operator.add
    return Net(lambda s, x: sign(s.f(x), x), f=branch(name, shape[0], shape[0]))


def gathered(options: tuple, shape: Shape) -> nn.Module:
    return Indices(lambda s, x: x[:, s.index], options)


def concatenated(options: tuple, shape: Shape) -> nn.Module:
    (name, input_first) = options
    order = 1 if input_first else -1
    return Net(lambda s, x: torch.cat([x, s.f(x)][::order], 1), f=branch(name, shape[0], 3))


def split(options: tuple, shape: Shape) -> nn.Module:
    (at,) = options
    return Net(lambda s, x: (lambda p: torch.cat([p[1].relu(), p[0]], 1))(torch.split(x, [at, shape[0] - at], dim=1)))


def left_factor(a: int, b: int) -> nn.Module:
    net = Constants(lambda s, x: torch.matmul(s.w, x), {"w": (3, a)})
    net.w.copy_(torch.randn(3, a))
    return net


def square_shape(shape: Shape) -> bool:
    return vector(shape) and math.isqrt(shape[0]) ** 2 == shape[0]


KINDS: dict[str, Kind] = {
    "linear": Kind(draw_linear, linear),
    **{name: activation(name) for name in ACTIVATIONS},
    "convolution": Kind(draw_convolution, convolution),
    "transposed_convolution": Kind(draw_transposed, transposed),
    "padded_convolution": Kind(square_padding, padded_convolution),
    "average_pool": Kind(draw_pool, lambda o, shape: nn.AvgPool2d(*o)),
    "average_pool_uncounted": Kind(draw_pool, lambda o, shape: nn.AvgPool2d(*o, count_include_pad=False)),
    "average_pool_divisor": Kind(draw_pool, lambda o, shape: nn.AvgPool2d(*o, divisor_override=3)),
    "global_average_pool": Kind(
        lambda c, shape: () if len(shape) == 3 else None, lambda o, shape: nn.AdaptiveAvgPool2d(1)
    ),
    "max_pool": Kind(draw_pool, lambda o, shape: nn.MaxPool2d(*o)),
    "batch_norm": Kind(
        lambda c, shape: (c.pick((True, False)),),
        lambda o, shape: (nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d)[len(shape) - 1](shape[0], affine=o[0]),
    ),
    "layer_norm": Kind(
        lambda c, shape: () if vector(shape) and shape[0] > 1 else None, lambda o, shape: nn.LayerNorm(shape[0])
    ),
    "flatten": Kind(lambda c, shape: () if len(shape) > 1 else None, lambda o, shape: nn.Flatten()),
    "transpose": Kind(factored, as_matrix(lambda a, b: Net(lambda s, x: x.transpose(1, 2)))),
    "matmul_left": Kind(factored, as_matrix(left_factor)),
    "matmul_right": Kind(factored, as_matrix(lambda a, b: nn.Linear(b, 2, bias=False))),
    "softmax": Kind(lambda c, shape: () if vector(shape) else None, lambda o, shape: nn.Softmax(1)),
    "softmax_rows": Kind(factored, as_matrix(lambda a, b: nn.Softmax(-1))),
    "reduce_max": Kind(factored, as_matrix(lambda a, b: Net(lambda s, x: x.amax(1)))),
    "log_sum_exp": Kind(factored, as_matrix(lambda a, b: Net(lambda s, x: x.logsumexp(1)))),
    "reduce_min": Kind(factored, as_matrix(lambda a, b: Net(lambda s, x: x.amin(2)))),
    "reduce_sum": Kind(draw_axis, reduction(torch.sum)),
    "reduce_mean": Kind(draw_axis, reduction(torch.mean)),
    "centred": Kind(
        lambda c, shape: () if vector(shape) else None, lambda o, shape: Net(lambda s, x: x - x.mean(1, keepdim=True))
    ),
    "slice": Kind(draw_slice, build_slice),
    "split": Kind(lambda c, shape: (c.whole(1, shape[0] - 1),) if vector(shape) and shape[0] > 1 else None, split),
    "gather": Kind(draw_gather, gathered),
    "pad": Kind(draw_pad, lambda o, shape: Net(lambda s, x: functional.pad(x, (o[0], o[1]), value=o[2]))),
    "concat": Kind(lambda c, shape: (c.pick(OUTER), c.pick((True, False))) if vector(shape) else None, concatenated),
    "residual": Kind(lambda c, shape: (c.pick(OUTER), c.pick((True, False))) if vector(shape) else None, residual),
    "sum": Kind(draw_branches, joined(operator.add)),
    "product": Kind(draw_branches, joined(operator.mul)),
    "quotient": Kind(draw_branches, joined(lambda a, b: a / (b.sigmoid() + 0.5))),
    "quotient_of_a_constant": Kind(draw_branches, joined(lambda a, b: 2.0 / (a.tanh() * b.tanh() + 1.5))),
    "maximum": Kind(draw_branches, joined(torch.maximum)),
    "minimum": Kind(draw_branches, joined(torch.minimum)),
    "matrix_product": Kind(draw_matrices, matrices),
    "maximum_with_a_constant": with_constant(lambda x, k: torch.maximum(x, k - 0.75)),
    "minimum_with_a_constant": with_constant(lambda x, k: torch.minimum(k - 1.0, x)),
    "add_constant": with_constant(operator.add),
    "constant_minus": with_constant(lambda x, k: k - x),
    "times_constant": with_constant(operator.mul),
    "divided_by_constant": with_constant(operator.truediv),
    "negative": Kind(lambda c, shape: (), lambda o, shape: Net(lambda s, x: -x)),
    "twice": Kind(lambda c, shape: (), lambda o, shape: Net(lambda s, x: x + x)),
    "cast": Kind(lambda c, shape: (), lambda o, shape: Net(lambda s, x: x.float().double()), exact=False),
}
"""All kinds by name."""

LAYERS = ("linear", "convolution", "transposed_convolution", "padded_convolution")
KINKED = ("relu", "leaky_relu", "abs", "maximum", "max_pool", "hardtanh")
OTHERS = tuple(name for name in KINDS if name not in ACTIVATIONS)

assert {*itertools.chain(LAYERS, ACTIVATIONS, KINKED, OTHERS)} == {*KINDS}


def draw_kind(choices: Choices, position: int, alternating: bool, images: bool) -> str:
    """The name of the next kind: layers and what lies between them in turns, or anything."""
    if alternating:
        family = LAYERS if position % 2 == 0 else choices.pick((KINKED, tuple(ACTIVATIONS), OTHERS))
    else:
        family = choices.pick((LAYERS, KINKED, tuple(ACTIVATIONS), OTHERS))
    name = choices.pick(family)
    # A linear layer suits images, too, but leaves little to convolve.
    return choices.pick(LAYERS[1:]) if images and name == "linear" else name
