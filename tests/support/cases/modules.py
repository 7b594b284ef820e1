"""What the networks are made of."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn


class Net(nn.Module):
    """Modules by name, and a function of them and the input."""

    def __init__(self, forward: Callable[..., Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.function = forward
        for name, module in modules.items():
            self.add_module(name, module)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class Constants(Net):
    """As `Net`, with buffers of random numbers: name -> shape."""

    def __init__(self, forward: Callable[..., Tensor], shapes: dict[str, tuple[int, ...]], **modules: nn.Module):
        super().__init__(forward, **modules)
        for name, shape in shapes.items():
            self.register_buffer(name, torch.rand(shape) + 0.5)


class Indices(Net):
    """As `Net`, with a buffer `index` of whole numbers."""

    def __init__(self, forward: Callable[..., Tensor], index: tuple[int, ...], **modules: nn.Module):
        super().__init__(forward, **modules)
        self.register_buffer("index", torch.tensor(index))


def head(inputs: int, outputs: int = 3) -> nn.Module:
    """A nonlinear end, so that the operator before it meets uncertain gradients."""
    return nn.Sequential(nn.Linear(inputs, 7), nn.ReLU(), nn.Linear(7, outputs))


def mlp(activation: Callable[[], nn.Module], sizes: tuple[int, ...] = (5, 9, 8, 3)) -> nn.Module:
    layers: list[nn.Module] = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        layers += [nn.Linear(inputs, outputs)] + [activation()] * (i < len(sizes) - 2)
    return nn.Sequential(*layers)
