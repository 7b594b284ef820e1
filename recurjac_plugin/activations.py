"""Derivative ranges of activation functions over pre-activation intervals.

For an activation ``f`` and an interval ``[l, u]`` of its pre-activation, the recursion needs the smallest and
largest value ``dl <= f'(z) <= du`` on the closed interval. Every activation is described once, by

* its derivative, written without cancellation (``sigmoid(z) sigmoid(-z)``, not ``s (1 - s)``, which is 0 in
  float32 from z = 17 and in float64 from z = 37 on), and
* its *critical points*: the places between which the derivative is monotone, with the value(s) it takes there.
  A kink is a critical point with the one-sided derivatives of both sides as values, so an interval that touches
  a kink contains both.

The range is then exact: the extremes of a piecewise monotone function are attained at the end points or at the
critical points inside (Zhang, Zhang, Hsieh, AAAI 2019, arXiv:1810.11783, section 3.2, for ReLU, leaky ReLU,
sigmoid, tanh, arctan). A new activation is one row of `ACTIVATIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from .errors import InputError

Parameters = Mapping[str, Any]
"""Attributes of the node (``alpha`` of a leaky ReLU, ...); tensors have the shape of the pre-activation."""

Value = float | Tensor
Derivative = Callable[[Tensor, Parameters], Tensor]
CriticalPoints = Callable[[Parameters], Iterable[tuple[float, tuple[Value, ...]]]]


@dataclass(frozen=True)
class Activation:
    """One element-wise activation function.

    Attributes:
        name: the function's name, for messages and tables.
        derivative: ``(z, parameters) -> f'(z)``, element-wise, any shape.
        critical_points: ``parameters -> ((z*, (values of f' at z*, ...)), ...)``; between neighbouring points f'
            is monotone.
    """

    name: str
    derivative: Derivative
    critical_points: CriticalPoints

    def has_kinks(self, parameters: Parameters) -> bool:
        """Whether the derivative jumps somewhere."""
        return any(len(values) > 1 for _, values in self.critical_points(parameters))

    def derivative_range(
        self,
        lower: Tensor,  # shape: (*any)
        upper: Tensor,  # shape: (*any)
        parameters: Parameters,
    ) -> tuple[Tensor, Tensor]:
        """Exact range of the derivative on the closed intervals ``[lower, upper]``.

        Returns:
            ``dl, du``, shaped like `lower`.
        """
        at_lower, at_upper = self.derivative(lower, parameters), self.derivative(upper, parameters)
        low, high = torch.minimum(at_lower, at_upper), torch.maximum(at_lower, at_upper)
        for point, values in self.critical_points(parameters):
            inside = (lower <= point) & (upper >= point)
            for value in values:
                low = torch.where(inside & (low > value), value, low)
                high = torch.where(inside & (high < value), value, high)
        return low, high


def _two_slopes(negative: Callable[[Parameters], Value]) -> tuple[Derivative, CriticalPoints]:
    """Derivative and kink of ``z -> z`` for z > 0, ``negative z`` for z < 0."""

    def derivative(z: Tensor, parameters: Parameters) -> Tensor:
        slope = torch.as_tensor(negative(parameters), dtype=z.dtype, device=z.device)
        return torch.where(z > 0, torch.ones_like(z), slope)

    return derivative, lambda parameters: ((0.0, (negative(parameters), 1.0)),)


def _tanh_derivative(z: Tensor, parameters: Parameters) -> Tensor:
    # sech^2 z = 4 e / (1 + e)^2 with e = exp(-2|z|): no cancellation, no overflow.
    e = torch.exp(-2 * z.abs())
    return 4 * e / (1 + e).square()


def _at_zero(value: float) -> CriticalPoints:
    return lambda parameters: ((0.0, (value,)),)


ACTIVATIONS: dict[str, Activation] = {
    "BoundRelu": Activation("ReLU", *_two_slopes(lambda p: p.get("leaky_alpha", 0.0))),
    "BoundLeakyRelu": Activation("LeakyReLU", *_two_slopes(lambda p: p.get("leaky_alpha", p.get("alpha")))),
    "BoundPRelu": Activation("PReLU", *_two_slopes(lambda p: p["slope"])),
    "BoundTanh": Activation("Tanh", _tanh_derivative, _at_zero(1.0)),
    "BoundSigmoid": Activation("Sigmoid", lambda z, p: torch.sigmoid(z) * torch.sigmoid(-z), _at_zero(0.25)),
    "BoundAtan": Activation("Atan", lambda z, p: 1 / (1 + z.square()), _at_zero(1.0)),
}
"""The activation table: exact class name of the host's node -> activation."""


def register_activation(
    class_name: str,
    derivative: Callable[[Tensor], Tensor],
    critical_points: Iterable[tuple[float, tuple[float, ...] | float]],
) -> None:
    """Add an element-wise activation to the table.

    Args:
        class_name: exact name of the host's node class, e.g. ``"BoundSoftsign"`` (sub-classes are not looked up:
            in the host ``BoundGelu`` inherits from ``BoundTanh``).
        derivative: element-wise ``z -> f'(z)`` in torch, any shape, differentiable if gradients are wanted.
        critical_points: ``(z*, value)`` or ``(z*, (value, ...))`` for every point between which f' is not
            monotone: its peaks and valleys, and its kinks with both one-sided derivatives.

    Raises:
        InputError: the class already has a rule, or a critical point is not finite.
    """
    if class_name in ACTIVATIONS:
        raise InputError(f"`{class_name}` already has a derivative range; register another class name.")
    try:
        points = tuple(
            (float(point), tuple(map(float, values if isinstance(values, (tuple, list)) else (values,))))
            for point, values in critical_points
        )
    except (TypeError, ValueError) as error:
        raise InputError(
            f"`critical_points` of `{class_name}` must be pairs of a point and the value(s) of the derivative there."
        ) from error
    if not all(isfinite(number) for point, values in points for number in (point, *values)):
        raise InputError(f"`critical_points` of `{class_name}` must be finite, got {points}.")
    ACTIVATIONS[class_name] = Activation(
        class_name.removeprefix("Bound"), lambda z, parameters: derivative(z), lambda parameters: points
    )


def unregister_activation(class_name: str) -> None:
    """Remove an activation added with `register_activation`.

    Raises:
        InputError: the class has no rule.
    """
    if ACTIVATIONS.pop(class_name, None) is None:
        raise InputError(f"`{class_name}` has no derivative range to remove; known: {', '.join(ACTIVATIONS)}.")
