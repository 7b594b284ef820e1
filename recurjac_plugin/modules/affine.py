r"""Is a torch function affine in each sample, ``f(x) = W x + c``? As far as some points show.

.. math:: f(a x + (1 - a) y) = a f(x) + (1 - a) f(y), \qquad
    \langle g, f(x) - f(y) \rangle = \langle W^T g, x - y \rangle

at random x, y of several sizes and random a, also beyond the segment; ``W^T g`` is what autograd says. Source: own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from recurjac_plugin.errors import InputError
from recurjac_plugin.numerics.rounding import AFFINE, eps

_SIZES = (1e-2, 1.0, 1e2, 1e4)  # of points: what bends is straight on either side of its bend
_PAIRS = 4  # of points of each size
_NUMBER_TYPES = (torch.float64, torch.float32)  # the second for functions that bring constants of it along

Function = Callable[[Tensor], Tensor]


def require_affine(function: Function, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> None:
    """Refuse a function that is not affine in each sample.

    Args:
        function: (n, *input_shape) -> (n, *output_shape).
        input_shape: of one sample.
        output_shape: of one sample.

    Raises:
        InputError: it does not take such inputs, its outputs have another shape, or it is not affine: beyond rounding,
            at one of the points tried.
    """
    like = _taken(function, input_shape)
    generator = torch.Generator().manual_seed(0)
    for size in _SIZES:
        x, y = (size * _random((_PAIRS, *input_shape), generator, like) for _ in range(2))
        _check(function, x, y, generator, output_shape)


def _check(function: Function, x: Tensor, y: Tensor, generator: torch.Generator, output_shape: tuple[int, ...]) -> None:
    """Both equations at pairs of points, and that no sample changes another."""
    a = 2 * _random((len(x), *[1] * (x.dim() - 1)), generator, x)
    with torch.no_grad():
        at_x, at_y, between = (function(point.clone()) for point in (x, y, a * x + (1 - a) * y))
        alone = function(x[:1].clone())
    if at_x.shape != (len(x), *output_shape):
        raise InputError(
            f"`function` gives shape {tuple(at_x.shape)} for inputs of shape {tuple(x.shape)}, expected "
            f"{(len(x), *output_shape)}; give the shapes of one sample."
        )
    a = a.reshape(-1, *[1] * len(output_shape))
    values = torch.cat((at_x, at_y, between, a * at_x, (1 - a) * at_y))
    largest = float(values.abs().max()) if values.numel() else 0.0
    room = AFFINE * eps(at_x) * math.sqrt(max(x[0].numel(), 1)) * largest
    _require(between - (a * at_x + (1 - a) * at_y), room, "f(a x + (1 - a) y) is not a f(x) + (1 - a) f(y)")
    _require(alone - at_x[:1], room, "the value at a point depends on the other points of the batch")
    g = _random(tuple(at_x.shape), generator, at_x)
    product, expected = _pulled(function, x, g) * (x - y), g * (at_x - at_y)
    sums = [each.reshape(len(x), -1).sum(1) for each in (product, expected)]
    room *= math.sqrt(max(at_x[0].numel(), 1)) * float(g.abs().max() if g.numel() else 0)
    _require(sums[0] - sums[1], room, "autograd has another derivative of it")


def _require(difference: Tensor, room: float, what: str) -> None:
    most = float(difference.abs().max()) if difference.numel() else 0.0
    if not most <= room:  # NaN, too
        raise InputError(
            f"`function` is not affine in each sample: {what}, by {most:.3g} where rounding is at most {room:.3g}; "
            "give a function that is, or a `LinearMap` of your own."
        )


def _pulled(function: Function, x: Tensor, rows: Tensor) -> Tensor:
    """``W^T g`` as autograd has it at x; zeros where it has nothing."""
    with torch.enable_grad():
        leaf = x.clone().requires_grad_()
        value = function(leaf)
        if not value.requires_grad:
            return torch.zeros_like(x)
        return torch.autograd.grad(value, leaf, rows, materialize_grads=True)[0]


def _taken(function: Function, input_shape: tuple[int, ...]) -> Tensor:
    """A number of the type and on the device that the function takes."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    reason = None
    for device, dtype in itertools.product(devices, _NUMBER_TYPES):
        like = torch.zeros((), dtype=dtype, device=device)
        try:
            with torch.no_grad():
                value = function(like.new_zeros(_PAIRS, *input_shape))
        except (AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            reason = reason or f"{type(error).__name__}: {' '.join(str(error).split())}"
            continue
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise InputError(f"`function` must give a tensor of real numbers, got {type(value).__name__}.")
        return like
    raise InputError(f"`function` does not take inputs of shape {(_PAIRS, *input_shape)} ({reason}).")


def _random(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(like)
