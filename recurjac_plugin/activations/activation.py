"""One activation function, as everything here sees it: its derivative, and what is known of it.

Conventions of all functions that a row of the table (`table.ACTIVATIONS`) brings along:

* ``z`` is a tensor of pre-activations of any shape, ``lower`` and ``upper`` are the ends ``l <= u`` of their intervals,
  of one shape; what comes back has that shape, dtype and device, and is differentiable.
* ``parameters`` are the attributes of the node at hand (``alpha`` of an ELU). A row reads those that its function has.

Required: `derivative`. Where ``f'`` is not monotone, `critical_points`; where ``f`` is not defined everywhere,
`domain`; for lines around ``f'`` that narrow with the square of the interval's width, `curvature`; for lines around
f in the host's graph, `function`; for hosts that have no node of their own, `operator`.

The range of the derivative over an interval is exact, because the extremes of a piecewise monotone function are
attained at the end points or at the critical points inside (Zhang, Zhang, Hsieh, AAAI 2019, arXiv:1810.11783, section
3.2, for ReLU, leaky ReLU, sigmoid, tanh, arctan).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.errors import UnsupportedError
from recurjac_plugin.numerics.rounding import PERIODIC, eps

Parameters = Mapping[str, Any]
"""Attributes of the node (``alpha`` of a leaky ReLU, ...); tensors have the shape of the pre-activation."""

Value = float | Tensor
Function = Callable[[Tensor, Parameters], Tensor]
Curvature = Callable[[Tensor, Tensor, Parameters], Tensor | float]
Point = float | tuple[float, float]
Points = Sequence[tuple[Point, tuple[Value, ...]]]
CriticalPoints = Callable[[Parameters], Points]


@dataclass(frozen=True)
class Domain:
    """Where the derivative is finite.

    Attributes:
        condition: what the pre-activation must be, for messages: ``"above 0"``.
        contains: ``(lower, upper) -> bool tensor``, whether the closed intervals lie inside.
        start: an end of the domain at which the derivative is still finite. The widening of bounds by rounding stops
            there, because beyond it the function has no value at all.
    """

    condition: str
    contains: Callable[[Tensor, Tensor], Tensor]
    start: float = -inf


@dataclass(frozen=True)
class Operator:
    """How the graph of a network writes an activation.

    Attributes:
        name: ``"onnx::Elu"``, or ``"aten::asinh"`` where the exporter leaves a call of torch's own function.
        attributes: parameters that are attributes of the operator, with their defaults.
        constants: parameters that are further inputs, in order; they must not be perturbed.
    """

    name: str
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: tuple[str, ...] = ()


@dataclass(frozen=True)
class Activation:
    """One element-wise activation function f.

    Attributes:
        name: the function's name, for messages and tables.
        derivative: ``(z, parameters) -> f'(z)``, written without cancellation and without overflow: ``sigmoid(z)
            sigmoid(-z)``, not ``s (1 - s)``, which is 0 in float32 from z = 17 and in float64 from z = 37 on.
        critical_points: ``((z*, (values of f' at z*, ...)), ...)``, or ``parameters ->`` such points; between
            neighbouring points f' is monotone. A kink has the one-sided derivatives of both sides as values, so that an
            interval that touches it contains both. A pair ``(first, last)`` in place of z* is a stretch on which the
            values may be taken.
        period: the critical points repeat with this period; None if they do not.
        domain: ``parameters -> Domain``; None where f' is finite everywhere.
        linear_pieces: whether f is linear on either side of 0, and 0 there.
        curvature: upper bound of the second derivative of f', in absolute value, on intervals without a kink of f: one
            number for all, or ``(lower, upper, parameters) ->`` a bound; infinite where f' itself has a corner, or
            where no bound is known.
        function: ``(z, parameters) -> f(z)``, from whose values `pieces` makes lines; None where nobody asked for any.
        operator: how networks write it, where a host may lack a node for it (`recurjac_plugin.plugin.activations`).
        exact: whether the computed values of `function` are off by a few units of their own last digit, as those of one
            function of torch are. What is made of several is off by as much of its argument, too.
        values: ``parameters ->`` ends that no value of `function` passes, however it is rounded; infinite without any.
    """

    name: str
    derivative: Function
    critical_points: CriticalPoints | Points = ()
    period: float | None = None
    domain: Callable[[Parameters], Domain | None] = lambda parameters: None
    linear_pieces: bool = False
    curvature: Curvature | float = inf
    function: Function | None = None
    operator: Operator | None = None
    exact: bool = False
    values: Callable[[Parameters], tuple[float, float]] = lambda parameters: (-inf, inf)

    def points(self, parameters: Parameters) -> Points:
        """The critical points of a node, and the values of f' there."""
        return self.critical_points(parameters) if callable(self.critical_points) else self.critical_points

    def derivative_range(
        self,
        lower: Tensor,  # shape: (*any)
        upper: Tensor,  # shape: (*any)
        parameters: Parameters,
        at_ends: tuple[Tensor, Tensor] | None = None,  # each of shape (*any)
    ) -> tuple[Tensor, Tensor]:
        """Exact range of the derivative on the closed intervals.

        ``dl = min f'(z)`` and ``du = max f'(z)`` over z in {lower, upper} and the critical points between them.

        Args:
            lower: where the intervals begin.
            upper: where they end.
            parameters: of the node.
            at_ends: the derivative there, if it is known already.

        Returns:
            ``dl, du``, shaped like `lower`.
        """
        at_lower, at_upper = at_ends or (self.derivative(lower, parameters), self.derivative(upper, parameters))
        low, high = torch.minimum(at_lower, at_upper), torch.maximum(at_lower, at_upper)
        for point, values in self.points(parameters):
            inside = self._inside(point, lower, upper)
            least, most = _extremes(values)
            low = torch.where(inside & (low > least), least, low)
            high = torch.where(inside & (high < most), most, high)
        return low, high

    def derivative_curvature(
        self,
        lower: Tensor,  # shape: (*any)
        upper: Tensor,  # shape: (*any)
        parameters: Parameters,
    ) -> Tensor:
        """Upper bound of ``|f'''|`` on the closed intervals; infinite where f' jumps inside.

        Returns:
            Shaped like `lower`.
        """
        bound = self.curvature(lower, upper, parameters) if callable(self.curvature) else self.curvature
        bound = bound if isinstance(bound, Tensor) else lower.new_full((), bound).expand_as(lower)
        for point, values in self.points(parameters):
            if len(values) > 1 or isinstance(point, tuple):
                bound = torch.where(self._inside(point, lower, upper), inf, bound)
        return bound

    def is_monotone_derivative(
        self,
        lower: Tensor,  # shape: (*any)
        upper: Tensor,  # shape: (*any)
        parameters: Parameters,
    ) -> Tensor:
        """Whether no critical point lies in the closed intervals, so that f is convex or concave there: bool."""
        monotone = torch.ones_like(lower, dtype=torch.bool)
        for point, _ in self.points(parameters):
            monotone = monotone & ~self._inside(point, lower, upper)
        return monotone

    def _inside(self, point: Point, lower: Tensor, upper: Tensor) -> Tensor:
        """Whether a critical point, or one of its repetitions, lies in the closed intervals: bool, shaped like them."""
        start, end = point if isinstance(point, tuple) else (point, point)
        if self.period is None:
            return (lower <= end) & (upper >= start)
        # In units of the period the repetitions are whole numbers. Rounding must not lose one: reach a little further.
        first, last = (lower.detach() - end) / self.period, (upper.detach() - start) / self.period
        reach = PERIODIC * eps(lower) * torch.maximum(first.abs(), last.abs())
        return torch.ceil(first - reach) <= torch.floor(last + reach)

    def within_domain(
        self,
        name: str,
        given: tuple[Tensor, Tensor],  # each of shape (*any)
        widened: tuple[Tensor, Tensor],  # likewise
        parameters: Parameters,
    ) -> tuple[Tensor, Tensor]:
        """The widened bounds of a pre-activation, cut off where the function ends.

        Args:
            name: the step, for the message.
            given: lower and upper bounds as they came, in order.
            widened: the same, widened by what rounding may have done to them.
            parameters: of the activation.

        Returns:
            Lower and upper bounds, shaped like the given ones.

        Raises:
            UnsupportedError: the bounds leave the domain, or rounding may have kept them from it.
        """
        domain = self.domain(parameters)
        if domain is None:
            return widened
        cut = widened[0].clamp(min=domain.start), widened[1].clamp(min=domain.start)
        rounding = f", with room for the rounding of {cut[0].dtype}"
        exact = "Compute in float64 (`model.double()`), or with `rigorous=True`, or use a smaller region."
        tighter = "Use a smaller region, or tighter pre-activation bounds (CROWN instead of IBP)."
        for bounds, shown, room, remedy in ((given, given, "", tighter), (cut, widened, rounding, exact)):
            outside = ~domain.contains(*bounds)
            if bool(outside.any()):
                low, high = (float(bound.detach()[outside][0]) for bound in shown)
                raise UnsupportedError(
                    "The network",
                    [
                        f"`{name}` ({self.name}): its pre-activation bounds{room}, e.g. [{low:g}, {high:g}], must be "
                        f"{domain.condition}, where its derivative is finite"
                    ],
                    remedy,
                )
        return cut


def _extremes(values: tuple[Value, ...]) -> tuple[Value, Value]:
    """Least and largest of the values at one point, element-wise for tensors."""
    numbers = [value for value in values if not isinstance(value, Tensor)]
    least: Value = min(numbers, default=inf)
    most: Value = max(numbers, default=-inf)
    for value in values:
        if isinstance(value, Tensor):
            least, most = (
                torch.minimum(value, torch.as_tensor(least).to(value)),
                torch.maximum(value, torch.as_tensor(most).to(value)),
            )
    return least, most
