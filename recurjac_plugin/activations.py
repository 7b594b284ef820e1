"""Derivative ranges of activation functions over pre-activation intervals.

For an activation ``f`` and an interval ``[l, u]`` of its pre-activation, the recursion needs the smallest and
largest value ``dl <= f'(z) <= du`` on the closed interval. Every activation is described once, by

* its derivative, written without cancellation (``sigmoid(z) sigmoid(-z)``, not ``s (1 - s)``, which is 0 in
  float32 from z = 17 and in float64 from z = 37 on) and without overflow,
* its *critical points*: the places between which the derivative is monotone, with the value(s) it takes there.
  A kink is a critical point with the one-sided derivatives of both sides as values, so an interval that touches
  a kink contains both. They may repeat with a period, and
* where it is not defined everywhere, its *domain*.

The range is then exact: the extremes of a piecewise monotone function are attained at the end points or at the
critical points inside (Zhang, Zhang, Hsieh, AAAI 2019, arXiv:1810.11783, section 3.2, for ReLU, leaky ReLU,
sigmoid, tanh, arctan). A new activation is one row of `ACTIVATIONS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor

from .errors import InputError, UnsupportedError

Parameters = Mapping[str, Any]
"""Attributes of the node (``alpha`` of a leaky ReLU, ...); tensors have the shape of the pre-activation."""

Value = float | Tensor
Derivative = Callable[[Tensor, Parameters], Tensor]
Point = float | tuple[float, float]
CriticalPoints = Callable[[Parameters], Iterable[tuple[Point, tuple[Value, ...]]]]


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
class Activation:
    """One element-wise activation function.

    Attributes:
        name: the function's name, for messages and tables.
        derivative: ``(z, parameters) -> f'(z)``, element-wise, any shape.
        critical_points: ``parameters -> ((z*, (values of f' at z*, ...)), ...)``; between neighbouring points f'
            is monotone. A pair ``(first, last)`` in place of z* is a stretch on which the values may be taken.
        period: the critical points repeat with this period; None if they do not.
        domain: ``parameters -> Domain``; None where f' is finite everywhere.
        linear_pieces: whether f is linear on either side of 0, and 0 there.
    """

    name: str
    derivative: Derivative
    critical_points: CriticalPoints = lambda parameters: ()
    period: float | None = None
    domain: Callable[[Parameters], Domain | None] = lambda parameters: None
    linear_pieces: bool = False

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
            inside = self._inside(point, lower, upper)
            least, most = _extremes(values)
            low = torch.where(inside & (low > least), least, low)
            high = torch.where(inside & (high < most), most, high)
        return low, high

    def _inside(self, point: Point, lower: Tensor, upper: Tensor) -> Tensor:
        """Whether a critical point, or one of its repetitions, lies in the closed intervals."""
        start, end = point if isinstance(point, tuple) else (point, point)
        if self.period is None:
            return (lower <= end) & (upper >= start)
        # In units of the period the repetitions are whole numbers. Rounding must not lose one: reach a little further.
        first, last = (lower.detach() - end) / self.period, (upper.detach() - start) / self.period
        reach = 2 * torch.finfo(lower.dtype).eps * torch.maximum(first.abs(), last.abs())
        return torch.ceil(first - reach) <= torch.floor(last + reach)

    def within_domain(
        self,
        name: str,
        given: tuple[Tensor, Tensor],
        widened: tuple[Tensor, Tensor],
        parameters: Parameters,
    ) -> tuple[Tensor, Tensor]:
        """The widened bounds of a pre-activation, cut off where the function ends.

        Args:
            name: the step, for the message.
            given: lower and upper bounds as they came, in order.
            widened: the same, widened by what rounding may have done to them.
            parameters: of the activation.

        Raises:
            UnsupportedError: the bounds leave the domain, or rounding may have kept them from it.
        """
        domain = self.domain(parameters)
        if domain is None:
            return widened
        cut = widened[0].clamp(min=domain.start), widened[1].clamp(min=domain.start)
        outside = ~(domain.contains(*given) & domain.contains(*cut))
        if bool(outside.any()):
            low, high = (float(bound[outside][0]) for bound in given)
            raise UnsupportedError(
                "The network",
                [
                    f"`{name}` ({self.name}): its pre-activation bounds, e.g. [{low:g}, {high:g}], must be "
                    f"{domain.condition}, where its derivative is finite"
                ],
                "Use a smaller region, or tighter pre-activation bounds (CROWN instead of IBP).",
            )
        return cut


def _extremes(values: tuple[Value, ...]) -> tuple[Value, Value]:
    """Least and largest of the values at one point, element-wise for tensors."""
    numbers = [value for value in values if not isinstance(value, Tensor)]
    least: Value = min(numbers, default=inf)
    most: Value = max(numbers, default=-inf)
    for value in values:
        if isinstance(value, Tensor):
            least, most = torch.minimum(value, torch.as_tensor(least).to(value)), torch.maximum(
                value, torch.as_tensor(most).to(value)
            )
    return least, most


_ABOVE_ZERO = Domain("above 0", lambda lower, upper: lower > 0)
_FROM_ZERO = Domain("at least 0", lambda lower, upper: lower >= 0, start=0.0)
_NOT_ZERO = Domain("on one side of 0", lambda lower, upper: (lower > 0) | (upper < 0))


def _between_poles(lower: Tensor, upper: Tensor) -> Tensor:
    """Whether intervals contain none of the poles ``pi/2 + k pi``, nor come so near that rounding decides."""
    first, last = lower / math.pi - 0.5, upper / math.pi - 0.5
    reach = 4 * torch.finfo(lower.dtype).eps * (1 + torch.maximum(first.abs(), last.abs()))
    return torch.ceil(first - reach) > torch.floor(last + reach)


def _pieces(*pieces: tuple[float, Value]) -> CriticalPoints:
    """Critical points from pairs (z*, value); pairs of the same z* are the two sides of a kink."""
    points: dict[Point, tuple[Value, ...]] = {}
    for point, value in pieces:
        points[point] = (*points.get(point, ()), value)
    return lambda parameters: tuple(points.items())


def _two_slopes(negative: Callable[[Parameters], Value]) -> tuple[Derivative, CriticalPoints]:
    """Derivative and kink of ``z -> z`` for z > 0, ``negative z`` for z < 0."""

    def derivative(z: Tensor, parameters: Parameters) -> Tensor:
        slope = torch.as_tensor(negative(parameters), dtype=z.dtype, device=z.device)
        return torch.where(z > 0, torch.ones_like(z), slope)

    return derivative, lambda parameters: ((0.0, (negative(parameters), 1.0)),)


def _exponential_below_zero(
    coefficients: Callable[[Parameters], tuple[float, float, float]],
) -> tuple[Derivative, CriticalPoints]:
    """The ELU family: derivative ``a`` for z > 0 and ``b exp(c z)`` for z < 0, from ``parameters -> (a, b, c)``."""

    def derivative(z: Tensor, parameters: Parameters) -> Tensor:
        right, left, rate = coefficients(parameters)
        return torch.where(z > 0, right, left * torch.exp(rate * z.clamp(max=0)))

    def critical_points(parameters: Parameters) -> tuple[tuple[Point, tuple[Value, ...]], ...]:
        right, left, _ = coefficients(parameters)
        return ((0.0, (left, right) if left != right else (right,)),)

    return derivative, critical_points


def _clipped(
    ends: Callable[[Parameters], tuple[float, float, float]],
) -> tuple[Derivative, CriticalPoints]:
    """Slope ``a`` between two points and 0 outside, from ``parameters -> (first, last, a)``."""

    def derivative(z: Tensor, parameters: Parameters) -> Tensor:
        first, last, slope = ends(parameters)
        return torch.where((z > first) & (z < last), slope, torch.zeros_like(z))

    def critical_points(parameters: Parameters) -> tuple[tuple[Point, tuple[Value, ...]], ...]:
        first, last, slope = ends(parameters)
        return tuple((point, (0.0, slope)) for point in (first, last))

    return derivative, critical_points


def _hard_sigmoid_ends(parameters: Parameters) -> tuple[float, float, float]:
    slope, offset = parameters.get("alpha", 0.2), parameters.get("beta", 0.5)
    if slope == 0:
        return 0.0, 0.0, 0.0
    first, last = sorted((-offset / slope, (1 - offset) / slope))
    return first, last, slope


def _hard_swish_derivative(z: Tensor, parameters: Parameters) -> Tensor:
    return torch.where(z > 3, 1.0, torch.where(z < -3, 0.0, z / 3 + 0.5))


def _tanh_derivative(z: Tensor, parameters: Parameters) -> Tensor:
    # sech^2 z = 4 e / (1 + e)^2 with e = exp(-2|z|): no cancellation, no overflow.
    e = torch.exp(-2 * z.abs())
    return 4 * e / (1 + e).square()


def _at_zero(value: float) -> CriticalPoints:
    return lambda parameters: ((0.0, (value,)),)


_SOFTPLUS_THRESHOLD = 20.0
"""Torch's softplus is the identity above this. Its derivative jumps from sigmoid(20) = 1 - 2e-9 to 1; that of an ONNX
softplus does not. From there on the range contains both."""


def _softplus_derivative(z: Tensor, parameters: Parameters) -> Tensor:
    return torch.sigmoid(parameters.get("beta", 1.0) * z)


def _softplus_identity(parameters: Parameters) -> tuple[tuple[Point, tuple[Value, ...]], ...]:
    threshold, beta = parameters.get("threshold", _SOFTPLUS_THRESHOLD), parameters.get("beta", 1.0)
    stretch = (threshold / beta, inf) if beta > 0 else (-inf, threshold / beta)
    return ((stretch, (1.0,)),)


# Functions ``z g(z)`` with ``g(z) + g(-z) = 1`` (GELU, SiLU) have ``f'(-z) = 1 - f'(z)``: one extreme gives the other.
# The roots of f'' and the values of f' there were found in 30 digits. A root that is off by d moves the extreme of f'
# by about d^2, so their rounding does not matter.
_SILU_PEAK = (2.3993572805154677, 1.0998393201288669)  # root of z tanh(z / 2) = 2
_GELU_TANH_PEAK = (1.4185040087908284, 1.1289930686587718)
_GELU_PEAK = (math.sqrt(2), 0.5 * (1 + math.erf(1)) + math.exp(-1) / math.sqrt(math.pi))  # f'' = (2 - z^2) phi(z)
_MISH_VALLEY = (-2.2563763963607931, -0.11252612238946256)
_MISH_PEAK = (1.4905711794854284, 1.0884981612517279)


def _point_symmetric(peak: tuple[float, float], rate: float = 1.0) -> tuple[tuple[Point, tuple[Value, ...]], ...]:
    point, value = peak
    return (point / rate, (value,)), (-point / rate, (1 - value,))


def _silu_derivative(z: Tensor, parameters: Parameters) -> Tensor:
    scaled = parameters.get("beta", 1.0) * z
    return torch.sigmoid(scaled) * (1 + scaled * torch.sigmoid(-scaled))


def _gelu_derivative(z: Tensor, parameters: Parameters) -> Tensor:
    z = z.clamp(-50, 50)  # beyond, the derivative is 0 and 1 in every precision
    if parameters.get("approximate", "none") == "tanh":
        square = z.square()
        argument = math.sqrt(8 / math.pi) * z * (1 + 0.044715 * square)
        growth = math.sqrt(8 / math.pi) * z * (1 + 3 * 0.044715 * square)
        return torch.sigmoid(argument) * (1 + growth * torch.sigmoid(-argument))
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
    return 0.5 * torch.special.erfc(-z / math.sqrt(2)) + z * density


def _gelu_extremes(parameters: Parameters) -> tuple[tuple[Point, tuple[Value, ...]], ...]:
    return _point_symmetric(_GELU_TANH_PEAK if parameters.get("approximate", "none") == "tanh" else _GELU_PEAK)


def _mish_derivative(z: Tensor, parameters: Parameters) -> Tensor:
    # tanh(softplus z) = n / (n + 2) and sech^2(softplus z) = 4 (n + 1) / (n + 2)^2 with n = e (e + 2), e = exp z. From
    # z = 20 on the derivative is 1 in every precision.
    z = z.clamp(max=20)
    e = torch.exp(z)
    n = e * (e + 2)
    return (n + 4 * z * torch.sigmoid(z) * (n + 1) / (n + 2)) / (n + 2)


def _pow_derivative(z: Tensor, parameters: Parameters) -> Tensor:
    exponent = parameters["exponent"]
    if exponent == 0:
        return torch.zeros_like(z)
    base = z if exponent == int(exponent) else z.clamp(min=0)
    return exponent * base.pow(exponent - 1)


def _pow_domain(parameters: Parameters) -> Domain | None:
    exponent = parameters["exponent"]
    if exponent == int(exponent):
        return None if exponent >= 0 else _NOT_ZERO
    return _FROM_ZERO if exponent > 1 else _ABOVE_ZERO


ACTIVATIONS: dict[str, Activation] = {
    "BoundRelu": Activation("ReLU", *_two_slopes(lambda p: p.get("leaky_alpha", 0.0)), linear_pieces=True),
    "BoundLeakyRelu": Activation(
        "LeakyReLU", *_two_slopes(lambda p: p.get("leaky_alpha", p.get("alpha"))), linear_pieces=True
    ),
    "BoundPRelu": Activation("PReLU", *_two_slopes(lambda p: p["slope"]), linear_pieces=True),
    "BoundAbs": Activation("Abs", *_two_slopes(lambda p: -1.0), linear_pieces=True),
    "BoundElu": Activation("ELU", *_exponential_below_zero(lambda p: (1.0, p.get("alpha", 1.0), 1.0))),
    "BoundCelu": Activation("CELU", *_exponential_below_zero(lambda p: (1.0, 1.0, 1 / p.get("alpha", 1.0)))),
    "BoundSelu": Activation(
        "SELU", *_exponential_below_zero(lambda p: (p["gamma"], p["gamma"] * p["alpha"], 1.0))
    ),
    "HardTanh": Activation("HardTanh", *_clipped(lambda p: (p["min"], p["max"], 1.0))),
    "BoundHardSigmoid": Activation("HardSigmoid", *_clipped(_hard_sigmoid_ends)),
    "BoundHardSwish": Activation(
        "HardSwish", _hard_swish_derivative, _pieces((-3.0, 0.0), (-3.0, -0.5), (3.0, 1.5), (3.0, 1.0))
    ),
    "BoundTanh": Activation("Tanh", _tanh_derivative, _at_zero(1.0)),
    "BoundSigmoid": Activation("Sigmoid", lambda z, p: torch.sigmoid(z) * torch.sigmoid(-z), _at_zero(0.25)),
    "Logistic": Activation("1/(1+exp)", lambda z, p: -torch.sigmoid(z) * torch.sigmoid(-z), _at_zero(-0.25)),
    "LogSigmoid": Activation("LogSigmoid", lambda z, p: torch.sigmoid(-z)),
    "BoundAtan": Activation("Atan", lambda z, p: 1 / (1 + z.square()), _at_zero(1.0)),
    "BoundSoftsign": Activation("Softsign", lambda z, p: 1 / (1 + z.abs()).square(), _at_zero(1.0)),
    "BoundErf": Activation(
        "Erf", lambda z, p: 2 / math.sqrt(math.pi) * torch.exp(-z.square()), _at_zero(2 / math.sqrt(math.pi))
    ),
    "BoundSoftplus": Activation("Softplus", _softplus_derivative, _softplus_identity),
    "BoundGelu": Activation("GELU", _gelu_derivative, _gelu_extremes),
    "SiLU": Activation("SiLU", _silu_derivative, lambda p: _point_symmetric(_SILU_PEAK, p.get("beta", 1.0))),
    "BoundMish": Activation(
        "Mish", _mish_derivative, lambda p: tuple((z, (value,)) for z, value in (_MISH_VALLEY, _MISH_PEAK))
    ),
    "BoundSin": Activation(
        "Sin", lambda z, p: torch.cos(z), _pieces((0.0, 1.0), (math.pi, -1.0)), period=2 * math.pi
    ),
    "BoundCos": Activation(
        "Cos", lambda z, p: -torch.sin(z), _pieces((math.pi / 2, -1.0), (-math.pi / 2, 1.0)), period=2 * math.pi
    ),
    "BoundTan": Activation(
        "Tan",
        lambda z, p: torch.cos(z).square().reciprocal(),
        _at_zero(1.0),
        period=math.pi,
        domain=lambda p: Domain("between two poles pi/2 + k pi", _between_poles),
    ),
    "BoundExp": Activation("Exp", lambda z, p: torch.exp(z)),
    "BoundLog": Activation("Log", lambda z, p: z.reciprocal(), domain=lambda p: _ABOVE_ZERO),
    "BoundSqrt": Activation("Sqrt", lambda z, p: 0.5 * z.rsqrt(), domain=lambda p: _ABOVE_ZERO),
    "BoundSqr": Activation("Square", lambda z, p: 2 * z),
    "BoundReciprocal": Activation("Reciprocal", lambda z, p: -z.square().reciprocal(), domain=lambda p: _NOT_ZERO),
    "Pow": Activation(
        "Pow",
        _pow_derivative,
        lambda p: ((0.0, (0.0,)),) if p["exponent"] > 1 else (),
        domain=_pow_domain,
    ),
}
"""The activation table: exact class name of the host's node, or the kind of a fused one (`fusions`) -> activation."""

_JUMPS = "piecewise constant: its derivative is zero almost everywhere, and it is not Lipschitz at the jumps"

REFUSED: dict[str, str] = {
    "BoundSign": _JUMPS,
    "BoundSignMerge": _JUMPS,
    "BoundFloor": _JUMPS,
    "BoundCeil": _JUMPS,
    "BoundRound": _JUMPS,
    "BoundATenHeaviside": _JUMPS,
    "BoundPow": "its exponent must be one constant number",
    "BoundRecurJacobian": "the derivative of a Jacobian is not supported",
    "BoundHardTanh": "its ends must be two constant numbers",
}
"""Exact class name of the host's node -> why it has no rule, where more can be said than that."""


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
