"""Specimens: one operator with its attributes, and the small networks around it.

An operator is bounded differently at different places: on the input its interval is the region itself; behind an
activation it is what the relaxation of that leaves; in front of an activation its own bounds are asked for, not only
what lies behind it; as the output it starts the backward pass. So each specimen is put at three places:

=======  =====================================================
place    network
=======  =====================================================
input    operator, ReLU, (convolution, ReLU,) linear layer
inner    mixing, leaky ReLU, operator, ReLU, ... as above
output   mixing, leaky ReLU, operator
=======  =====================================================

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

PLACES = ("input", "inner", "output")
"""Where an operator stands in a network."""

LEAK = 0.5
"""Slope below 0 of the activation in front of an operator."""


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
            after = _reading(shape) if place != "output" else [nn.Flatten()] if len(shape) > 1 else []
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
