"""Derivative ranges of activation functions over pre-activation intervals.

For an activation ``f`` and an interval ``[l, u]`` of its pre-activation, the recursion needs the smallest and
largest value ``dl <= f'(z) <= du`` on the closed interval. Every activation is described once, by

* its derivative, written without cancellation (``sigmoid(z) sigmoid(-z)``, not ``s (1 - s)``, which is 0 in
  float32 from z = 17 and in float64 from z = 37 on) and without overflow,
* its *critical points*: the places between which the derivative is monotone, with the value(s) it takes there.
  A kink is a critical point with the one-sided derivatives of both sides as values, so an interval that touches
  a kink contains both. They may repeat with a period, and
* where it is not defined everywhere, its *domain*,
* the *curvature* of its derivative, a bound of ``|f'''|`` on an interval, from which lines around the derivative are
  made (`curves`).

The range is then exact: the extremes of a piecewise monotone function are attained at the end points or at the
critical points inside (Zhang, Zhang, Hsieh, AAAI 2019, arXiv:1810.11783, section 3.2, for ReLU, leaky ReLU,
sigmoid, tanh, arctan). A new activation is one row of `ACTIVATIONS`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from math import inf, isfinite

import torch
from torch import Tensor

from recurjac_plugin.errors import InputError
from recurjac_plugin.numerics.rounding import NEAR_POLES, eps

from .activation import Activation, CriticalPoints, Curvature, Derivative, Domain, Parameters, Point, Value

_ABOVE_ZERO = Domain("above 0", lambda lower, upper: lower > 0)
_FROM_ZERO = Domain("at least 0", lambda lower, upper: lower >= 0, start=0.0)
_NOT_ZERO = Domain("on one side of 0", lambda lower, upper: (lower > 0) | (upper < 0))


def _between_poles(lower: Tensor, upper: Tensor) -> Tensor:
    """Whether intervals contain none of the poles ``pi/2 + k pi``, nor come so near that rounding decides."""
    first, last = lower / math.pi - 0.5, upper / math.pi - 0.5
    reach = NEAR_POLES * eps(lower) * (1 + torch.maximum(first.abs(), last.abs()))
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


def _exponential_below_zero(name: str, coefficients: Callable[[Parameters], tuple[float, float, float]]) -> Activation:
    """The ELU family: derivative ``a`` for z > 0 and ``b exp(c z)`` for z < 0, from ``parameters -> (a, b, c)``."""

    def derivative(z: Tensor, parameters: Parameters) -> Tensor:
        right, left, rate = coefficients(parameters)
        return torch.where(z > 0, right, left * torch.exp(rate * z.clamp(max=0)))

    def critical_points(parameters: Parameters) -> tuple[tuple[Point, tuple[Value, ...]], ...]:
        right, left, _ = coefficients(parameters)
        return ((0.0, (left, right) if left != right else (right,)),)

    def curvature(lower: Tensor, upper: Tensor, parameters: Parameters) -> Tensor:
        _, left, rate = coefficients(parameters)
        largest = torch.maximum(*(torch.exp(rate * end.clamp(max=0)) for end in (lower, upper)))
        found = torch.where(lower < 0, abs(left) * rate**2 * largest, 0.0)
        return _without(0.0, lower, upper, found)

    return Activation(name, derivative, critical_points, curvature=curvature)


def _without(point: float, lower: Tensor, upper: Tensor, curvature: Tensor) -> Tensor:
    """A curvature that does not hold where the derivative has a corner inside."""
    return torch.where((lower < point) & (upper > point), inf, curvature)


def _at_most(largest: float) -> Curvature:
    """One bound for all intervals."""
    return lambda lower, upper, parameters: largest


def _from_zero(lower: Tensor, upper: Tensor) -> Tensor:
    """Distance of intervals from 0."""
    return torch.where((lower < 0) & (upper > 0), 0.0, torch.minimum(lower.abs(), upper.abs()))


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


# Largest |f'''|, rounded up; of those without a closed form the last digit is.
_SIGMOID_CURVATURE = 1 / (6 * math.sqrt(3)) * (1 + 1e-12)  # of the sigmoid itself, at log(2 + sqrt(3))
_SILU_CURVATURE = 0.30818152
_GELU_CURVATURE = 0.77876964
_GELU_TANH_CURVATURE = 0.77669146
_MISH_CURVATURE = 0.58841205


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


def _pow_curvature(lower: Tensor, upper: Tensor, parameters: Parameters) -> Tensor:
    exponent = parameters["exponent"]
    factor = abs(exponent * (exponent - 1) * (exponent - 2))
    if factor == 0:
        return torch.zeros_like(lower)
    size = torch.maximum(lower.abs(), upper.abs()) if exponent >= 3 else _from_zero(lower, upper)
    return factor * size.pow(exponent - 3)


def _tan_curvature(lower: Tensor, upper: Tensor, parameters: Parameters) -> Tensor:
    square = torch.maximum(*(end.tan().square() for end in (lower, upper)))  # between two poles it grows to both sides
    return (1 + square) * (2 + 6 * square)


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
    "BoundElu": _exponential_below_zero("ELU", lambda p: (1.0, p.get("alpha", 1.0), 1.0)),
    "BoundCelu": _exponential_below_zero("CELU", lambda p: (1.0, 1.0, 1 / p.get("alpha", 1.0))),
    "BoundSelu": _exponential_below_zero("SELU", lambda p: (p["gamma"], p["gamma"] * p["alpha"], 1.0)),
    "HardTanh": Activation("HardTanh", *_clipped(lambda p: (p["min"], p["max"], 1.0))),
    "BoundHardSigmoid": Activation("HardSigmoid", *_clipped(_hard_sigmoid_ends)),
    "BoundHardSwish": Activation(
        "HardSwish",
        _hard_swish_derivative,
        _pieces((-3.0, 0.0), (-3.0, -0.5), (3.0, 1.5), (3.0, 1.0)),
        curvature=_at_most(0.0),
    ),
    "BoundTanh": Activation("Tanh", _tanh_derivative, _at_zero(1.0), curvature=_at_most(2.0)),
    "BoundSigmoid": Activation(
        "Sigmoid", lambda z, p: torch.sigmoid(z) * torch.sigmoid(-z), _at_zero(0.25), curvature=_at_most(0.125)
    ),
    "Logistic": Activation(
        "1/(1+exp)", lambda z, p: -torch.sigmoid(z) * torch.sigmoid(-z), _at_zero(-0.25), curvature=_at_most(0.125)
    ),
    "LogSigmoid": Activation("LogSigmoid", lambda z, p: torch.sigmoid(-z), curvature=_at_most(_SIGMOID_CURVATURE)),
    "BoundAtan": Activation("Atan", lambda z, p: 1 / (1 + z.square()), _at_zero(1.0), curvature=_at_most(2.0)),
    "BoundSoftsign": Activation(
        "Softsign",
        lambda z, p: 1 / (1 + z.abs()).square(),
        _at_zero(1.0),
        curvature=lambda l, u, p: _without(0.0, l, u, 6 / (1 + _from_zero(l, u)).pow(4)),
    ),
    "BoundErf": Activation(
        "Erf",
        lambda z, p: 2 / math.sqrt(math.pi) * torch.exp(-z.square()),
        _at_zero(2 / math.sqrt(math.pi)),
        curvature=_at_most(4 / math.sqrt(math.pi) * (1 + 1e-12)),
    ),
    "BoundSoftplus": Activation(
        "Softplus",
        _softplus_derivative,
        _softplus_identity,
        curvature=lambda l, u, p: p.get("beta", 1.0) ** 2 * _SIGMOID_CURVATURE,
    ),
    "BoundGelu": Activation(
        "GELU",
        _gelu_derivative,
        _gelu_extremes,
        curvature=lambda l, u, p: _GELU_TANH_CURVATURE if p.get("approximate") == "tanh" else _GELU_CURVATURE,
    ),
    "SiLU": Activation(
        "SiLU",
        _silu_derivative,
        lambda p: _point_symmetric(_SILU_PEAK, p.get("beta", 1.0)),
        curvature=lambda l, u, p: p.get("beta", 1.0) ** 2 * _SILU_CURVATURE,
    ),
    "BoundMish": Activation(
        "Mish",
        _mish_derivative,
        lambda p: tuple((z, (value,)) for z, value in (_MISH_VALLEY, _MISH_PEAK)),
        curvature=_at_most(_MISH_CURVATURE),
    ),
    "BoundSin": Activation(
        "Sin",
        lambda z, p: torch.cos(z),
        _pieces((0.0, 1.0), (math.pi, -1.0)),
        period=2 * math.pi,
        curvature=_at_most(1.0),
    ),
    "BoundCos": Activation(
        "Cos",
        lambda z, p: -torch.sin(z),
        _pieces((math.pi / 2, -1.0), (-math.pi / 2, 1.0)),
        period=2 * math.pi,
        curvature=_at_most(1.0),
    ),
    "BoundTan": Activation(
        "Tan",
        lambda z, p: torch.cos(z).square().reciprocal(),
        _at_zero(1.0),
        period=math.pi,
        domain=lambda p: Domain("between two poles pi/2 + k pi", _between_poles),
        curvature=_tan_curvature,
    ),
    "BoundExp": Activation("Exp", lambda z, p: torch.exp(z), curvature=lambda l, u, p: torch.exp(u)),
    "BoundLog": Activation(
        "Log", lambda z, p: z.reciprocal(), domain=lambda p: _ABOVE_ZERO, curvature=lambda l, u, p: 2 / l.pow(3)
    ),
    "BoundSqrt": Activation(
        "Sqrt",
        lambda z, p: 0.5 * z.rsqrt(),
        domain=lambda p: _ABOVE_ZERO,
        curvature=lambda l, u, p: 0.375 * l.pow(-2.5),
    ),
    "BoundSqr": Activation("Square", lambda z, p: 2 * z, curvature=_at_most(0.0)),
    "BoundReciprocal": Activation(
        "Reciprocal",
        lambda z, p: -z.square().reciprocal(),
        domain=lambda p: _NOT_ZERO,
        curvature=lambda l, u, p: 6 / _from_zero(l, u).pow(4),
    ),
    "Pow": Activation(
        "Pow",
        _pow_derivative,
        lambda p: ((0.0, (0.0,)),) if p["exponent"] > 1 else (),
        domain=_pow_domain,
        curvature=_pow_curvature,
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
    *,
    curvature: float = inf,
) -> None:
    """Add an element-wise activation to the table.

    Args:
        class_name: exact name of the host's node class, e.g. ``"BoundSoftsign"`` (sub-classes are not looked up:
            in the host ``BoundGelu`` inherits from ``BoundTanh``).
        derivative: element-wise ``z -> f'(z)`` in torch, any shape, differentiable if gradients are wanted.
        critical_points: ``(z*, value)`` or ``(z*, (value, ...))`` for every point between which f' is not
            monotone: its peaks and valleys, and its kinks with both one-sided derivatives.
        curvature: upper bound of ``|f'''|`` between the kinks, if f' has no corner there. With it the lines of
            `RecurJac-McCormick` around f' narrow with the square of an interval's width.

    Raises:
        InputError: the class already has a rule, a critical point is not finite, or the curvature is negative.
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
    if not curvature >= 0:
        raise InputError(f"`curvature` of `{class_name}` must be at least 0, got {curvature!r}.")
    ACTIVATIONS[class_name] = Activation(
        class_name.removeprefix("Bound"),
        lambda z, parameters: derivative(z),
        lambda parameters: points,
        curvature=_at_most(curvature),
    )


def unregister_activation(class_name: str) -> None:
    """Remove an activation added with `register_activation`.

    Raises:
        InputError: the class has no rule.
    """
    if ACTIVATIONS.pop(class_name, None) is None:
        raise InputError(f"`{class_name}` has no derivative range to remove; known: {', '.join(ACTIVATIONS)}.")
