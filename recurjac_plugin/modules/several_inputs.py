"""A module of several inputs as one of a single, flat input, for what takes one input: a ball or box of all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recurjac_plugin.errors import InputError


class FlatInputs(nn.Module):
    """``(x_1, ..., x_m)`` side by side, (b, n) -> the module's output, or its outputs flattened side by side, (b, k).

    Args:
        module: called with one tensor (b, *shape) for each shape.
        shapes: of its inputs, without the batch dimension.
    """

    def __init__(self, module: nn.Module, shapes: Sequence[tuple[int, ...]]) -> None:
        super().__init__()
        self.module = module
        self.shapes = tuple(map(tuple, shapes))

    def forward(self, x: Tensor) -> Any:
        """Cut the inputs out and evaluate the module."""
        start, parts = 0, []
        for shape in self.shapes:
            end = start + math.prod(shape)
            parts.append(x[:, start:end].reshape(-1, *shape))
            start = end
        y = self.module(*parts)
        return torch.cat([each.flatten(1) for each in y], 1) if isinstance(y, (tuple, list)) else y


def flat_inputs(module: nn.Module, shapes: Sequence[tuple[int, ...]]) -> nn.Module:
    """A module of several inputs as one of a single input that has all of them, flattened, one after the other.

    `verify`, `monotonicity`, `certified_radius` and others take one input: a ball or box around all inputs together. An
    input that is not perturbed is a part of a box whose ends are equal there.

    Args:
        module: takes several tensors (b, *shape); it is not changed, and shares its weights.
        shapes: of its inputs, in order, without the batch dimension.

    Returns:
        A module of shape (b, n), n being the number of all elements; in evaluation mode if the given one is.

    Raises:
        InputError: no shapes, or one that is none.
    """
    good = all(
        isinstance(shape, (tuple, list)) and shape and all(isinstance(n, int) and n > 0 for n in shape)
        for shape in shapes
    )
    if not shapes or not good:
        raise InputError(f"`shapes` must be a list of shapes such as [(2,), (3, 4)], got {shapes}.")
    return FlatInputs(module, shapes).train(module.training)
