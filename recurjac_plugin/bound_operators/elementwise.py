"""Activations for the host that it has no sound operator for: IBP and CROWN from the function and its derivative range.

The lines that CROWN needs on ``[l, u]`` follow from the derivative ranges of `activations` on 32 pieces of the
interval: with slope s, ``g(z) = f(z) - s z`` has derivatives in ``[p, q]`` on a piece ``[a, b]``, hence stays below the
lines ``g(a) + q (z - a)`` and ``g(b) - p (b - z)``; where they meet is the largest height it can reach. This intercept
is exact where f is linear or has one kink in a piece, and off by ``f'' w^2 / 8`` on a smooth piece of width w.

Of all lines above f the one that leaves the smallest area touches the concave hull of f at the middle of the interval;
the slope is that of the hull's edge there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.activations.activation import Activation, Operator, Parameters
from recurjac_plugin.errors import UnsupportedError
from recurjac_plugin.host.library import BoundActivation
from recurjac_plugin.numerics.rounding import ELEMENTWISE, eps
from recurjac_plugin.preactivations.defects import TAUGHT

_PIECES = 32
_EDGE_STEPS = 8  # finds the edge of the hull of 33 points; fewer would still be sound


class BoundElementwise(BoundActivation):
    """The host's node of an activation that has a function and an operator; subclasses are named and say which.

    Attributes:
        activation: its row of the table.
        operator: how the row says that networks write it.
    """

    activation: Activation
    operator: Operator
    _constants: tuple[Any, ...] = ()

    def __init__(self, attr: Any = None, inputs: Any = None, output_index: int = 0, options: Any = None) -> None:
        super().__init__(attr, inputs, output_index, options)
        if len(inputs or ()) > 1 + len(self.operator.constants):
            raise UnsupportedError(
                "The network",
                [f"an operator `{self.operator.name}` with {len(inputs)} inputs"],
                f"The activation that is known by this name takes {1 + len(self.operator.constants)}.",
            )
        setattr(self, TAUGHT, True)
        for name, default in self.operator.attributes.items():
            setattr(self, name, (attr or {}).get(name, default))

    def _arguments(self, constants: Sequence[Any]) -> dict[str, Any]:
        """Its attributes and further inputs, by the names that the row gives them."""
        return {name: getattr(self, name) for name in self.operator.attributes} | dict(
            zip(self.operator.constants, constants)
        )

    def _values(self, z: Tensor, parameters: Parameters) -> Tensor:
        """``f(z)``, shaped like z."""
        assert self.activation.function is not None
        return self.activation.function(z, parameters)

    def forward(self, x: Tensor, *constants: Any) -> Tensor:
        """The function itself."""
        return self._values(x, self._arguments(constants))

    def interval_propagate(self, *v: Any) -> tuple[Tensor, Tensor]:
        """IBP: the values at the ends where f is monotone, the horizontal lines around it elsewhere.

        Args:
            *v: lower and upper bounds of every input, the first of shape (b, *shape).

        Returns:
            Lower and upper bounds, each of shape (b, *shape).

        Raises:
            UnsupportedError: the function is not defined on an interval.
        """
        (low, high), *constants = v
        parameters = self._arguments([constant[0] for constant in constants])
        self._require_domain(low, high, parameters)
        at_low, at_high = (self._values(end, parameters) for end in (low, high))
        smallest, largest = torch.minimum(at_low, at_high), torch.maximum(at_low, at_high)
        dl, du = self.activation.derivative_range(low, high, parameters)
        error = _rounding(torch.maximum(at_low.abs(), at_high.abs()), None, torch.maximum(low.abs(), high.abs()))
        smallest, largest = smallest - error, largest + error
        if bool(((dl < 0) & (du > 0)).any()):
            pieces = self._pieces(low, high, parameters)
            zero = torch.zeros_like(low)
            smallest, largest = -pieces.negated().intercept(zero), pieces.intercept(zero)
        return smallest, largest

    def _require_domain(self, lower: Tensor, upper: Tensor, parameters: Parameters) -> None:
        """Refuse intervals that contain a pole: the function has no bounds there, whatever its values at the ends."""
        ordered = torch.minimum(lower, upper), torch.maximum(lower, upper)
        self.activation.within_domain(str(self.name), ordered, ordered, parameters)

    def bound_backward(self, last_lA: Any, last_uA: Any, x: Any, *constants: Any, **kwargs: Any) -> Any:
        """CROWN, by the host's way for activations of one input."""
        self._constants = tuple(map(_value, constants))
        inputs, lower, upper = super().bound_backward(last_lA, last_uA, x, **kwargs)
        return [*inputs, *((None, None) for _ in constants)], lower, upper

    def bound_forward(self, dim_in: int, x: Any, *constants: Any) -> Any:
        """Forward-mode linear bounds, likewise."""
        self._constants = tuple(constant.lb for constant in constants)
        return super().bound_forward(dim_in, x)

    def bound_relax(self, x: Any, init: bool = False, dim_opt: Any = None) -> None:
        """Lines ``lw z + lb <= f(z) <= uw z + ub`` on the bounds of x, all of shape (b, *shape).

        Raises:
            UnsupportedError: the function is not defined on an interval.
        """
        parameters = self._arguments(self._constants)
        self._require_domain(x.lower, x.upper, parameters)
        pieces = self._pieces(x.lower, x.upper, parameters)
        self.uw = pieces.slope()
        self.ub = pieces.intercept(self.uw)
        below = pieces.negated()
        slope = below.slope()
        self.lw, self.lb = -slope, -below.intercept(slope)

    def _pieces(self, lower: Tensor, upper: Tensor, parameters: Parameters) -> _Pieces:
        """The function on pieces of intervals between bounds of shape (b, *shape)."""
        fraction = torch.linspace(0, 1, _PIECES + 1, dtype=lower.dtype, device=lower.device)
        fraction = fraction.reshape(-1, *(1,) * lower.dim())
        knots = lower * (1 - fraction) + upper * fraction
        least, most = self.activation.derivative_range(knots[:-1], knots[1:], parameters)
        return _Pieces(knots, self._values(knots, parameters), least, most)


def _value(constant: Any) -> Any:
    """The value of one of the host's nodes that is not perturbed: what holds it depends on its kind and the version."""
    for name in ("lower", "forward_value", "value"):
        held = getattr(constant, name, None)
        if held is not None:
            return held
    return constant.forward(*[_value(source) for source in constant.inputs])


@torch.no_grad()
def _rounding(value: Tensor, slope: Tensor | None, argument: Tensor) -> Tensor:
    """Error of computed values and intercepts: functions are off by the rounding of their argument, too."""
    size = value + (1 if slope is None else 1 + slope.abs()) * argument
    return ELEMENTWISE * eps(size) * size + torch.finfo(size.dtype).tiny


@dataclass(frozen=True, eq=False)
class _Pieces:
    """A function on intervals cut into pieces; shapes (pieces + 1, *shape) and (pieces, *shape).

    Attributes:
        knots: where the pieces meet.
        values: the function there.
        least, most: its derivative range on each piece.
    """

    knots: Tensor
    values: Tensor
    least: Tensor
    most: Tensor

    def negated(self) -> _Pieces:
        """The same for -f."""
        return _Pieces(self.knots, -self.values, -self.most, -self.least)

    def slope(self) -> Tensor:
        """Slope of the concave hull's edge over the middle of the interval, shape (*shape)."""
        left, right = self._edge()
        return self._chord(left, right)[0]

    def _chord(self, left: Tensor, right: Tensor) -> Tensor:
        """Slope between two knots, by position: all of shape (1, *shape)."""
        width = self.knots.gather(0, right) - self.knots.gather(0, left)
        rise = self.values.gather(0, right) - self.values.gather(0, left)
        flat = width <= 0  # a point: any slope is right, that of f is the best
        return torch.where(flat, self.most[:1], rise / torch.where(flat, 1.0, width))

    @torch.no_grad()
    def _edge(self) -> tuple[Tensor, Tensor]:
        """Positions of the knots between which the hull's edge over the middle lies, shape (1, *shape)."""
        knots, values = self.knots, self.values
        middle = (knots[:1] + knots[-1:]) / 2
        left, right = (torch.full_like(knots[:1], end, dtype=torch.long) for end in (0, _PIECES))
        for _ in range(_EDGE_STEPS):
            highest = (values - self._chord(left, right) * knots).argmax(0, keepdim=True)
            before = knots.gather(0, highest) <= middle
            left, right = torch.where(before, highest, left), torch.where(before, right, highest)
        return left, right

    def intercept(self, slope: Tensor) -> Tensor:
        """The least b found for which ``f(z) <= slope z + b`` on the interval, widened by rounding; shape (*shape)."""
        heights = self.values - slope * self.knots
        first, last = heights[:-1], heights[1:]
        falling, rising = self.least - slope, self.most - slope
        width = self.knots[1:] - self.knots[:-1]
        peak = (falling < 0) & (rising > 0)
        spread = torch.where(peak, rising - falling, 1.0)
        # Where the line up from the first knot meets the line down to the last.
        meeting = ((last - first - falling * width) / spread).clamp(min=0).minimum(width)
        highest = torch.where(peak, first + rising * meeting, torch.maximum(first, last)).amax(0)
        # Knots are rounded, too, which moves the values there by that times the derivative.
        steepest = torch.maximum(slope.abs(), torch.maximum(self.least.abs(), self.most.abs()).amax(0))
        return highest + _rounding(self.values.abs().amax(0), steepest, self.knots.abs().amax(0))
