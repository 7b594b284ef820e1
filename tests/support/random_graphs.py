"""Random networks over the whole support table, and random regions, from a generator or from hypothesis.

A `Recipe` is plain data: printed, it makes the same network again.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from oracle import Box
from random_operators import KINDS, LARGEST, Choices, draw_kind
from torch import Tensor, nn

INPUTS = ((1,), (2,), (3,), (4,), (6,), (2, 4), (3, 3), (1, 4, 4), (2, 3, 3), (2, 4, 5), (2, 4, 4), (4, 3, 3))
"""Shapes of inputs, per sample."""


class Generator:
    """Choices of a seeded generator."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def pick(self, options: Any) -> Any:
        return self.random.choice(list(options))

    def whole(self, low: int, high: int) -> int:
        return self.random.randint(low, high)


@dataclass(frozen=True)
class Recipe:
    """A network: its parts in order, behind them a linear layer if there is a shape left to flatten.

    Attributes:
        shape: of an input, per sample.
        parts: names of kinds with their options.
        outputs: of the last linear layer; 0 for none.
        seed: of the weights.
    """

    shape: tuple[int, ...]
    parts: tuple[tuple[str, tuple], ...]
    outputs: int
    seed: int

    @property
    def exact(self) -> bool:
        """Whether the host's network is the module to float64's rounding."""
        return all(KINDS[name].exact for name, _ in self.parts)

    def network(self, near: Regions | None = None) -> nn.Module:
        """The module in float64, in evaluation mode.

        Args:
            near: regions with one centre, whose biases bring the kinks of all layers near to that centre, about as far
                as a region is wide: activations are undetermined on narrow regions, too.
        """
        torch.manual_seed(self.seed)
        layers: list[nn.Module] = []
        shape = self.shape
        for name, options in self.parts:
            layers.append(KINDS[name].build(options, shape))
            shape = shape_behind(layers[-1], shape)
        if self.outputs:
            layers += [nn.Flatten(), nn.Linear(math.prod(shape), self.outputs)]
        elif len(shape) > 1:
            layers.append(nn.Flatten())
        net = nn.Sequential(*layers)
        for module in net.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2)
        net = net.double().eval()
        if near is not None:
            _bring_kinks(net, near.boxes(self.shape).center[:1], near.exponents)
        return net


@torch.no_grad()
def _bring_kinks(net: nn.Module, center: Tensor, exponents: tuple[float, ...]) -> None:
    """Shift the biases so that what they are added to is nearly 0 at a point."""

    def shift(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        channel = 1 if not isinstance(module, nn.Linear) else output.dim() - 1
        value = output.movedim(channel, 0).flatten(1)[:, 0]
        width = 10.0 ** exponents[int(torch.randint(len(exponents), ()))]
        move = value + width * torch.randn_like(value)
        module.bias -= move  # type: ignore[operator]
        return output - move.reshape(-1, *(1,) * (output.dim() - 1 - channel))

    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)
    biased = [module for module in net.modules() if isinstance(module, kinds) and module.bias is not None]
    hooks = [module.register_forward_hook(shift) for module in biased]
    net(center)
    for hook in hooks:
        hook.remove()


def shape_behind(layer: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape per sample that a layer makes of another one."""
    dtype = torch.get_default_dtype()
    with torch.no_grad():
        return tuple(layer.eval()(torch.zeros(2, *shape, dtype=dtype)).shape[1:])


def draw_recipe(choices: Choices, most: int = 6) -> Recipe:
    """A network of up to so many parts."""
    first = shape = choices.pick(INPUTS)
    parts = []
    alternating = choices.pick((True, True, False))
    for position in range(choices.whole(1, most)):
        name = draw_kind(choices, position, alternating, len(shape) == 3)
        options = KINDS[name].draw(choices, shape)
        if options is None:
            continue
        behind = shape_behind(KINDS[name].build(options, shape), shape)
        if 0 < math.prod(behind) <= LARGEST:
            parts.append((name, options))
            shape = behind
    return Recipe(first, tuple(parts), choices.pick((2, 1, 3, 0)), choices.whole(0, 2**16))


@dataclass(frozen=True)
class Regions:
    """Boxes around random points: of every sample a radius of its own, in every coordinate a part of it.

    Attributes:
        offset: size of the centres.
        exponents: the radii are 10 to these powers.
        flat: whether some coordinates of the boxes are points.
        together: whether all boxes lie around one point.
        seed: of centres and parts.
    """

    offset: float
    exponents: tuple[float, ...]
    flat: bool
    together: bool
    seed: int

    def boxes(self, shape: tuple[int, ...]) -> Box:
        generator = torch.Generator().manual_seed(self.seed)
        size = (len(self.exponents), *shape)

        def uniform() -> Tensor:
            return torch.rand(size, generator=generator, dtype=torch.float64)

        center = self.offset * (2 * uniform() - 1)
        center = center[:1].expand(size) if self.together else center
        radius = 10.0 ** torch.tensor(self.exponents, dtype=torch.float64).reshape(-1, *(1,) * len(shape))
        below, above = radius * uniform(), radius * uniform()
        if self.flat:
            below, above = below * (uniform() > 0.3), above * (uniform() > 0.3)
        return Box(center - below, center + above)


OFFSETS = (1.0, 1.0, 0.0, 3.0, 100.0, 1e4)
WIDEST, NARROWEST = 0.7, -12.0


def draw_regions(choices: Choices, count: int) -> Regions:
    """So many boxes, from narrow to wide: half of them of ordinary radii."""
    exponents = tuple(
        choices.whole(-20, 7) / 10 if i % 2 else choices.whole(int(10 * NARROWEST), int(10 * WIDEST)) / 10
        for i in range(count)
    )
    flat, together = choices.pick((False, False, True)), choices.pick((False, True))
    return Regions(choices.pick(OFFSETS), exponents, flat, together, choices.whole(0, 2**16))


def recipes(seed: int, most: int = 6) -> Iterator[tuple[int, Recipe, Generator]]:
    """Recipes one after the other, each from a seed of its own, with the generator for what else is to be drawn."""
    while True:
        generator = Generator(seed)
        yield seed, draw_recipe(generator, most), generator
        seed += 1
