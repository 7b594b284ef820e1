"""Specimens: one operator with its attributes, and the small networks around it.

An operator is bounded differently at different places: on the input its interval is the region itself; behind an
activation it is what the relaxation of that leaves; in front of an activation its own bounds are asked for, not only
what lies behind it; as the output it starts the backward pass; and beside a residual connection all parts of its lines
show, not only their ends. So each specimen is put at four places:

========  ===================================================================
place     network
========  ===================================================================
input     operator, ReLU, (convolution, ReLU,) linear layer
inner     mixing, leaky ReLU, operator, ReLU, ... as above
output    mixing, leaky ReLU, operator
residual  mixing, leaky ReLU, ``f_i(z) - k z_i`` of the operator f, k from -20 to 20
========  ===================================================================

The mixing is a linear layer, or a 1x1 convolution of images, whose rows are convex combinations: where all inputs lie
in an interval, so does what the operator reads. Images have a ReLU in place of the leaky one, of which 0.3 has no
backward pass for convolutions.

Source: own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf, prod

import torch
from torch import Tensor, nn

PLACES = ("input", "inner", "output", "residual")
"""Where an operator stands in a network."""

LEAK = 0.5
"""Slope below 0 of the activation in front of an operator."""


_SLOPES = (0.0, 0.25, -0.25, 1.0, -1.0, 4.0, -4.0, 20.0, -20.0)
_ELEMENTS = 4


class Formula(nn.Module):
    """A function of the input, and of modules and constants by name.

    Args:
        function: ``(self, x) -> y``.
        **members: modules, and tensors that become buffers.
    """

    def __init__(self, function: Callable[..., Tensor], **members: nn.Module | Tensor) -> None:
        super().__init__()
        self.function = function
        for name, member in members.items():
            if isinstance(member, nn.Module):
                self.add_module(name, member)
            else:
                self.register_buffer(name, member)

    def forward(
        self,
        x: Tensor,  # shape: (b, *shape)
    ) -> Tensor:
        """``function(self, x)``, of shape (b, *output_shape)."""
        return self.function(self, x)


@dataclass(frozen=True)
class Specimen:
    """An operator with its attributes.

    Attributes:
        kind: the row of our tables that it is for: a class name of the host, or the kind of a fused activation.
        attributes: what sets it apart from the other specimens of its kind; "" for the operator as it is.
        build: makes the operator, under a fixed seed.
        shape: of its input, per sample.
        domain: interval in which its inputs lie.
        points: numbers near which something happens, besides 0: kinks, constants that are compared with.
        terms: size of numbers that occur inside of it, whatever its inputs are: 1 for ``log(1 + exp(z))``.
        training: whether the host gets it in training mode; the values are those of evaluation.
    """

    kind: str
    attributes: str
    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = (4,)
    domain: tuple[float, float] = (-inf, inf)
    points: tuple[float, ...] = ()
    terms: float = 0.0
    training: bool = False

    @property
    def operator(self) -> str:
        """Its kind as people call it."""
        return self.kind.removeprefix("Bound")

    @property
    def name(self) -> str:
        """Kind and attributes, by which it can be asked for."""
        return f"{self.operator}({self.attributes})"

    def placed(self, place: str) -> Placed:
        """The operator at a place, with weights that float32 can hold, in float64.

        Args:
            place: one of `PLACES`.
        """
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(sum(map(ord, self.name)))
            operator = self.build().float()
            before = [] if place == "input" else _mixing(self.shape)
            with torch.no_grad():
                shape = tuple(operator.eval()(torch.ones(2, *self.shape)).shape[1:])
            after = _reading(shape) if place in ("input", "inner") else [nn.Flatten()] if len(shape) > 1 else []
            if place == "residual":
                operator, after = Residual(operator, prod(self.shape), prod(shape)), []
        inputs = (prod(self.shape),) if before and len(self.shape) == 2 else self.shape
        return Placed(before, operator, after, inputs).double().eval()


class Placed(nn.Module):
    """A network around an operator: modules in a row.

    Attributes:
        stages: the modules.
        shape: of its input, per sample.
        operator: position of the operator.
        watched: positions of the modules whose output the last ReLUs read, in their order.
    """

    def __init__(
        self, before: Sequence[nn.Module], operator: nn.Module, after: Sequence[nn.Module], shape: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleList([*before, operator, *after])
        self.shape, self.operator = shape, len(before)
        self.watched = tuple(
            i for i in range(len(before), len(self.stages) - 1) if isinstance(self.stages[i + 1], nn.ReLU)
        )

    def forward(
        self,
        x: Tensor,  # shape: (b, *shape)
    ) -> Tensor:
        """The output, (b, *output_shape)."""
        for stage in self.stages:
            x = stage(x)
        return x

    def values(
        self,
        x: Tensor,  # shape: (b, *shape)
    ) -> list[Tensor]:
        """The outputs of all modules, the last one's at the end, (b, *shape) each."""
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found


class _Reshaped(nn.Module):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, *self.shape)


class Residual(nn.Module):
    """``f_i(z) - k z_i`` for some elements i and all slopes k; where the input is smaller, its elements in turn."""

    def __init__(self, operator: nn.Module, inputs: int, outputs: int) -> None:
        super().__init__()
        elements = torch.arange(0, outputs, max(1, outputs // _ELEMENTS)).repeat_interleave(len(_SLOPES))
        slopes = torch.tensor(_SLOPES).repeat(len(elements) // len(_SLOPES))
        self.operator, self.chosen, self.beside = operator, nn.Linear(outputs, 1), nn.Linear(inputs, 1)
        for layer, columns, values in (
            (self.chosen, elements, torch.ones_like(slopes)),
            (self.beside, elements % inputs, -slopes),
        ):
            weight = torch.zeros(len(slopes), layer.in_features)
            weight[torch.arange(len(slopes)), columns] = values
            layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(torch.zeros(len(slopes)))

    def forward(self, x: Tensor) -> Tensor:
        """``f_i(z) - k z_i`` at ``z = x``, shape (b, rows)."""
        result: Tensor = self.chosen(_flat(self.operator(x))) + self.beside(_flat(x))
        return result

    def size(self, x: Tensor) -> Tensor:
        """The sum of both terms' sizes, shape (b, rows)."""
        value, weights = _flat(self.operator(x)).abs(), (self.chosen.weight.abs(), self.beside.weight.abs())
        return value @ weights[0].T + _flat(x).abs() @ weights[1].T


def _flat(x: Tensor) -> Tensor:
    return x.flatten(1) if x.dim() > 2 else x


def convex(count: int) -> Tensor:
    """Rows of a mixing: positive numbers with the sum 1, in multiples of 1/64, shape (count, count)."""
    rows = torch.randint(1, 8, (count, count)).float()
    rows += torch.eye(count) * (64 - rows.sum(1, keepdim=True))
    return rows / 64


def _mixing(shape: tuple[int, ...]) -> list[nn.Module]:
    """A mixing and a leaky ReLU, in front of an operator on that shape."""
    layer: nn.Module
    if len(shape) <= 2:
        size = prod(shape)
        layer = nn.Linear(size, size)
        weight = convex(size)
    else:
        layer = (nn.Conv2d if len(shape) == 3 else nn.Conv3d)(shape[0], shape[0], 1)
        weight = convex(shape[0]).reshape(shape[0], shape[0], *(1,) * (len(shape) - 1))
    layer.weight = nn.Parameter(weight)
    layer.bias = nn.Parameter(torch.zeros(len(weight)))
    if len(shape) > 2:
        return [layer, nn.ReLU()]
    return [layer, nn.LeakyReLU(LEAK), *([_Reshaped(shape)] if len(shape) == 2 else [])]


def _reading(shape: tuple[int, ...]) -> list[nn.Module]:
    """A ReLU on that shape, and layers behind it."""
    layers: list[nn.Module] = [nn.ReLU()]
    if len(shape) == 3 and min(shape[1:]) >= 2:
        layers += [nn.Conv2d(shape[0], 2, 2), nn.ReLU()]
        shape = (2, shape[1] - 1, shape[2] - 1)
    if len(shape) > 1:
        layers.append(nn.Flatten())
    return [*layers, nn.Linear(prod(shape), 3)]
