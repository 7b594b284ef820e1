"""PReLU for the host, which has no such operator: what IBP and CROWN need to know of ``max(x, 0) + a min(x, 0)``.

The slope `a` is a parameter, one for all or one per channel; it may be larger than 1 or negative. Between l < 0 < u the
function is convex for a <= 1 and concave for a >= 1, so on one side the chord is the tightest line, on the other any
line through 0 with a slope between a and 1; as in the host's ReLU the one that follows the larger side is taken.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .host import BoundActivation, bound_op_map

ONNX_NAME = "onnx::PRelu"


def _prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x >= 0, x, slope * x)


class BoundPRelu(BoundActivation):
    """The host's node for PReLU. Its second input, the slope, must not be perturbed."""

    def forward(self, x: Tensor, slope: Tensor) -> Tensor:
        """The function itself."""
        return _prelu(x, slope)

    def interval_propagate(self, *v: Any) -> tuple[Tensor, Tensor]:
        """IBP: extremes at the ends, or at 0 inside (a negative slope makes it the minimum)."""
        (low, high), slope = v[0], v[1][0]
        at_low, at_high = _prelu(low, slope), _prelu(high, slope)
        smallest, largest = torch.minimum(at_low, at_high), torch.maximum(at_low, at_high)
        crossing = (low < 0) & (high > 0)
        return torch.where(crossing, smallest.clamp(max=0), smallest), torch.where(
            crossing, largest.clamp(min=0), largest
        )

    def bound_backward(self, last_lA: Any, last_uA: Any, x: Any, slope: Any, **kwargs: Any) -> Any:
        """CROWN, by the host's way for activations of one input."""
        self._slope = slope.lower
        inputs, lower, upper = super().bound_backward(last_lA, last_uA, x, **kwargs)
        return [*inputs, (None, None)], lower, upper

    def bound_forward(self, dim_in: int, x: Any, slope: Any) -> Any:
        """Forward-mode linear bounds, likewise."""
        self._slope = slope.lb
        return super().bound_forward(dim_in, x)

    def bound_relax(self, x: Any, init: bool = False, dim_opt: Any = None) -> None:
        """Lines ``lw z + lb <= f(z) <= uw z + ub`` on the bounds of x."""
        low, high = x.lower, x.upper
        slope = self._slope.expand_as(low)
        one = torch.ones_like(low)
        stable = torch.where(low >= 0, one, slope)
        crossing = (low < 0) & (high > 0)
        width = torch.where(crossing, high - low, one)
        chord = (high - slope * low) / width
        offset = (slope - 1) * low * (high / width)
        convex = slope <= 1
        through_zero = torch.where(high > -low, one, slope)
        zero = torch.zeros_like(low)
        self.uw = torch.where(crossing, torch.where(convex, chord, through_zero), stable)
        self.ub = torch.where(crossing & convex, offset, zero)
        self.lw = torch.where(crossing, torch.where(convex, through_zero, chord), stable)
        self.lb = torch.where(crossing & ~convex, offset, zero)


def add_to_host() -> bool:
    """Make the host's models understand PReLU; False if it already does."""
    if ONNX_NAME in bound_op_map:
        return False
    bound_op_map[ONNX_NAME] = BoundPRelu
    return True


def remove_from_host() -> None:
    """Undo `add_to_host`."""
    bound_op_map.pop(ONNX_NAME)
