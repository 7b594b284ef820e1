"""Evaluating a user's module without a trace: modes, buffers, gradients and random numbers are as before.

Nothing is known of such a module: it may do one thing in training and another in evaluation mode, change its buffers or
its input, draw random numbers, and raise whatever it likes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from recurjac_plugin.numerics.rounding import GROSS, SAME_FUNCTION, eps

MODULE_FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NotImplementedError,
    RuntimeError,
    StopIteration,
    TypeError,
    ValueError,
)
"""What a module may raise at inputs that it was not made for."""

Modes = Mapping[nn.Module, bool]
"""Part of a module -> whether it is in training mode."""


def modes_of(module: nn.Module) -> dict[nn.Module, bool]:
    """The modes of all parts of a module at present."""
    return {part: part.training for part in module.modules()}


def evaluation_modes(module: nn.Module) -> dict[nn.Module, bool]:
    """Evaluation mode of all parts."""
    return dict.fromkeys(module.modules(), False)


@contextmanager
def in_modes(modes: Modes) -> Iterator[None]:
    """Set the modes of parts, without their own `train` and `eval`, which may do more than that."""
    before = [(part, part.training) for part in modes]
    try:
        for part, mode in modes.items():
            part.training = mode
        yield
    finally:
        for part, mode in before:
            part.training = mode


@contextmanager
def undisturbed(module: nn.Module) -> Iterator[None]:
    """Put buffers and the state of torch's random numbers back; they go on from seed 0 within."""
    buffers = [(part._buffers, dict(part._buffers)) for part in module.modules() if part._buffers]
    kept = [(tensor, tensor.clone()) for _, named in buffers for tensor in named.values() if tensor is not None]
    devices = sorted({tensor.device.index or 0 for tensor in module.parameters() if tensor.is_cuda})
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, value in kept:
                    if not torch.equal(tensor, value):
                        tensor.copy_(value)
            for held, named in buffers:
                held.clear()
                held.update(named)


def mode_matters(module: nn.Module, where: Sequence[Sequence[Tensor]], modes: Modes) -> bool:
    """Whether a module gives other outputs in the given modes than in evaluation mode.

    Args:
        module: the user's.
        where: arguments to try.
        modes: of all its parts.
    """

    def outputs(mode: Modes, arguments: Sequence[Tensor]) -> Any:
        with in_modes(mode):
            try:
                return module(*clones(arguments))
            except MODULE_FAILURES:
                return None

    with torch.no_grad(), undisturbed(module):
        return any(
            (difference(outputs(evaluation_modes(module), arguments), outputs(modes, arguments)) or (0.0,))[0] != 0
            for arguments in where
        )


def tensors(inputs: Any) -> tuple[Tensor, ...] | None:
    """The arguments of a network as plain tensors; None if there are others among them."""
    several = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    if not all(isinstance(value, Tensor) for value in several):
        return None
    return tuple(value.detach().as_subclass(Tensor) for value in several)


def clones(arguments: Sequence[Tensor]) -> list[Tensor]:
    """Copies of arguments, which a module may change; they require gradients where these are switched on."""
    differentiable = torch.is_grad_enabled()
    return [value.clone().requires_grad_(differentiable and value.is_floating_point()) for value in arguments]


def points(inputs: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    """The given inputs, then others of their shapes and types: random ones, on both sides of 0, large and small.

    Numbers of integer inputs stay among those given.
    """
    generator = torch.Generator().manual_seed(0)
    yield tuple(inputs)
    noise = [torch.randn(value.shape, generator=generator, dtype=torch.float64) for value in inputs]
    for turn, scale in enumerate((1.0, -3.0, 0.1, -0.01), 1):
        yield tuple(
            (scale * z).to(value) if value.is_floating_point() else value.roll(turn, -1) if value.dim() else value
            for value, z in zip(inputs, noise)
        )


def difference(own: Any, other: Any) -> tuple[float, float] | None:
    """Largest difference of another output from a module's own, and the module's largest entry.

    Where the module's entries are not finite they say nothing; where the others alone are not, the difference is
    infinite. Both are infinite if the shapes differ. None if nothing is said, or one is no tensor of floats.
    """
    if not isinstance(own, Tensor) or not isinstance(other, Tensor) or not own.is_floating_point():
        return None
    if own.shape != other.shape:
        return math.inf, math.inf
    first, second = own.detach().double(), other.detach().double()
    finite = first.isfinite()
    if not bool(finite.any()):
        return None
    gap = (first - second)[finite].abs().nan_to_num(nan=math.inf)
    return float(gap.max()), float(first[finite].abs().max())


def within_rounding(gap: tuple[float, float], dtype: torch.dtype, units: float = SAME_FUNCTION) -> bool:
    """Whether a `difference` of outputs is what two ways to compute them make, in so many units, in float64 `GROSS`.

    What is overlooked in a network changes more than the last digits of float64, but it may change float32 by little.
    """
    units = GROSS if dtype == torch.float64 else units
    return gap[0] < math.inf and gap[0] <= units * eps(dtype) * gap[1]
