"""What the rows of the activation table are made of: derivatives, critical points, bounds of the third derivative.

Conventions are those of `activation`: ``z`` and the ends ``lower``, ``upper`` of intervals have any shape, which
results share. Where several functions follow one pattern, the pattern is a function of the numbers in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from math import inf

import torch
from torch import Tensor

from recurjac_plugin.numerics.rounding import NEAR_POLES, eps

from .activation import (
    Activation,
    CriticalPoints,
    Domain,
    Function,
    Operator,
    Parameters,
    Point,
    Points,
    Value,
)

ABOVE_ZERO = Domain("above 0", lambda lower, upper: lower > 0)
FROM_ZERO = Domain("at least 0", lambda lower, upper: lower >= 0, start=0.0)
NOT_ZERO = Domain("on one side of 0", lambda lower, upper: (lower > 0) | (upper < 0))


# Critical points and curvatures of any function.


def critical(*pairs: tuple[float, Value]) -> Points:
    """Critical points from pairs (z*, f'(z*)); pairs of the same z* are the two sides of a kink."""
    points: dict[Point, tuple[Value, ...]] = {}
    for point, value in pairs:
        points[point] = (*points.get(point, ()), value)
    return tuple(points.items())


def from_zero(lower: Tensor, upper: Tensor) -> Tensor:
    """Distance of intervals from 0: ``min |z|`` over [l, u]."""
    return torch.where((lower < 0) & (upper > 0), 0.0, torch.minimum(lower.abs(), upper.abs()))


def smooth_off(point: float, lower: Tensor, upper: Tensor, curvature: Tensor) -> Tensor:
    """A curvature that holds where the derivative's corner is not inside, infinity where it is."""
    return torch.where((lower < point) & (upper > point), inf, curvature)


# Piecewise linear functions.


def two_slopes(*names: str, default: Value | None = None) -> tuple[Function, CriticalPoints]:
    """Derivative and kink of ``f(z) = z`` for z > 0, ``a z`` for z < 0, with a as in `negative_slope`.

    ``f'(z) = 1`` for z > 0, ``a`` for z <= 0; {a, 1} at 0.
    """

    def derivative(z: Tensor, parameters: Parameters) -> Tensor:
        slope = torch.as_tensor(negative_slope(parameters, names, default), dtype=z.dtype, device=z.device)
        return torch.where(z > 0, torch.ones_like(z), slope)

    return derivative, lambda parameters: ((0.0, (negative_slope(parameters, names, default), 1.0)),)


def bent(*names: str, default: Value | None = None) -> Function:
    """The function whose derivative `two_slopes` gives."""
    return lambda z, parameters: torch.where(z > 0, z, negative_slope(parameters, names, default) * z)


def negative_slope(parameters: Parameters, names: Sequence[str], default: Value | None) -> Value:
    """The first of the named parameters that a node has, or the default if it has none."""
    for name in names:
        if name in parameters:
            slope: Value = parameters[name]
            return slope
    if default is None:
        raise KeyError(names)
    return default


def clipped(ends: Callable[[Parameters], tuple[float, float, float]]) -> tuple[Function, CriticalPoints]:
    """Derivative and kinks of a function of slope ``a`` between two points and constant outside.

    Given ``parameters -> (first, last, a)``: ``f'(z) = a`` for first < z < last, 0 elsewhere; {0, a} at both points.
    """

    def derivative(z: Tensor, parameters: Parameters) -> Tensor:
        first, last, slope = ends(parameters)
        return torch.where((z > first) & (z < last), slope, torch.zeros_like(z))

    def critical_points(parameters: Parameters) -> Points:
        first, last, slope = ends(parameters)
        return tuple((point, (0.0, slope)) for point in (first, last))

    return derivative, critical_points


def hard_sigmoid_ends(parameters: Parameters) -> tuple[float, float, float]:
    """``f(z) = min(max(alpha z + beta, 0), 1)``: where it is 0 and where 1, in order, and its slope between."""
    slope, offset = parameters.get("alpha", 0.2), parameters.get("beta", 0.5)
    if slope == 0:
        return 0.0, 0.0, 0.0
    first, last = sorted((-offset / slope, (1 - offset) / slope))
    return first, last, slope


def hard_swish_derivative(z: Tensor, parameters: Parameters) -> Tensor:
    """``f(z) = z min(max(z + 3, 0), 6) / 6``: ``f'(z) = 0`` below -3, ``z / 3 + 1/2`` up to 3, 1 above."""
    return torch.where(z > 3, 1.0, torch.where(z < -3, 0.0, z / 3 + 0.5))


# Exponential functions.


def exponential_below_zero(
    name: str, coefficients: Callable[[Parameters], tuple[float, float, float]], function: Function, operator: Operator
) -> Activation:
    """The ELU family: ``f(z) = a z`` for z > 0, ``(b / c) (exp(c z) - 1)`` for z < 0, from ``parameters -> (a, b, c)``.

    ``f'(z) = a`` for z > 0, ``b exp(c z)`` for z < 0; {a, b} at 0. ``|f'''| = |b| c^2 exp(c z)`` for z < 0.
    """

    def derivative(z: Tensor, parameters: Parameters) -> Tensor:
        right, left, rate = coefficients(parameters)
        return torch.where(z > 0, right, left * torch.exp(rate * z.clamp(max=0)))

    def critical_points(parameters: Parameters) -> Points:
        right, left, _ = coefficients(parameters)
        return ((0.0, (left, right) if left != right else (right,)),)

    def curvature(lower: Tensor, upper: Tensor, parameters: Parameters) -> Tensor:
        _, left, rate = coefficients(parameters)
        largest = torch.maximum(*(torch.exp(rate * end.clamp(max=0)) for end in (lower, upper)))
        bound = torch.where(lower < 0, abs(left) * rate**2 * largest, 0.0)
        return smooth_off(0.0, lower, upper, bound)

    return Activation(name, derivative, critical_points, curvature=curvature, function=function, operator=operator)


# Largest |f'''| over all z, rounded up; of those without a closed form the last digit is.
SIGMOID_CURVATURE = 1 / (6 * math.sqrt(3)) * (1 + 1e-12)  # of the sigmoid itself, at log(2 + sqrt(3))
SILU_CURVATURE = 0.30818152
GELU_CURVATURE = 0.77876964
GELU_TANH_CURVATURE = 0.77669146
MISH_CURVATURE = 0.58841205


def tanh_derivative(z: Tensor, parameters: Parameters) -> Tensor:
    """``f'(z) = sech^2 z = 4 e / (1 + e)^2`` with ``e = exp(-2 |z|)``: no cancellation, no overflow."""
    e = torch.exp(-2 * z.abs())
    return 4 * e / (1 + e).square()


SOFTPLUS_THRESHOLD = 20.0
"""Torch's softplus is the identity above this. Its derivative jumps from sigmoid(20) = 1 - 2e-9 to 1; that of an ONNX
softplus does not. From there on the range contains both."""


def softplus_derivative(z: Tensor, parameters: Parameters) -> Tensor:
    """``f(z) = log(1 + exp(beta z)) / beta``: ``f'(z) = sigmoid(beta z)``."""
    return torch.sigmoid(parameters.get("beta", 1.0) * z)


def softplus_identity(parameters: Parameters) -> Points:
    """The stretch ``beta z >= threshold``, on which the derivative may be 1 as well."""
    threshold, beta = parameters.get("threshold", SOFTPLUS_THRESHOLD), parameters.get("beta", 1.0)
    stretch = (threshold / beta, inf) if beta > 0 else (-inf, threshold / beta)
    return ((stretch, (1.0,)),)


# Functions ``z g(z)`` with ``g(z) + g(-z) = 1`` (GELU, SiLU) have ``f'(-z) = 1 - f'(z)``: one extreme gives the other.
# The roots of f'' and the values of f' there were found in 30 digits. A root that is off by d moves the extreme of f'
# by about d^2, so their rounding does not matter.
SILU_PEAK = (2.3993572805154677, 1.0998393201288669)  # root of z tanh(z / 2) = 2
_GELU_TANH_PEAK = (1.4185040087908284, 1.1289930686587718)
_GELU_PEAK = (math.sqrt(2), 0.5 * (1 + math.erf(1)) + math.exp(-1) / math.sqrt(math.pi))  # f'' = (2 - z^2) phi(z)
MISH_VALLEY = (-2.2563763963607931, -0.11252612238946256)
MISH_PEAK = (1.4905711794854284, 1.0884981612517279)


def point_symmetric(peak: tuple[float, float], rate: float = 1.0) -> Points:
    """Peak and valley of a derivative with ``f'(-z) = 1 - f'(z)``, the argument multiplied by a rate."""
    point, value = peak
    return (point / rate, (value,)), (-point / rate, (1 - value,))


def silu_derivative(z: Tensor, parameters: Parameters) -> Tensor:
    """``f(z) = z sigmoid(beta z)``: ``f'(z) = sigmoid(beta z) (1 + beta z sigmoid(-beta z))``."""
    scaled = parameters.get("beta", 1.0) * z
    return torch.sigmoid(scaled) * (1 + scaled * torch.sigmoid(-scaled))


def gelu_derivative(z: Tensor, parameters: Parameters) -> Tensor:
    """``f(z) = z Phi(z)``: ``f'(z) = Phi(z) + z phi(z)`` with the normal distribution Phi and its density phi.

    With ``approximate="tanh"``: ``f(z) = z sigmoid(a(z))``, ``f'(z) = sigmoid(a) (1 + z a'(z) sigmoid(-a))`` with
    ``a(z) = sqrt(8 / pi) z (1 + 0.044715 z^2)``.
    """
    z = z.clamp(-50, 50)  # beyond, the derivative is 0 and 1 in every precision
    if parameters.get("approximate", "none") == "tanh":
        square = z.square()
        argument = math.sqrt(8 / math.pi) * z * (1 + 0.044715 * square)
        growth = math.sqrt(8 / math.pi) * z * (1 + 3 * 0.044715 * square)
        return torch.sigmoid(argument) * (1 + growth * torch.sigmoid(-argument))
    density = torch.exp(-0.5 * z.square()) / math.sqrt(2 * math.pi)
    return 0.5 * torch.special.erfc(-z / math.sqrt(2)) + z * density


def gelu_extremes(parameters: Parameters) -> Points:
    """Peak and valley of the derivative, at ``+- sqrt(2)`` where it is not approximate."""
    return point_symmetric(_GELU_TANH_PEAK if parameters.get("approximate", "none") == "tanh" else _GELU_PEAK)


def mish_derivative(z: Tensor, parameters: Parameters) -> Tensor:
    """``f(z) = z tanh(softplus z)``: ``f'(z) = tanh(softplus z) + z sech^2(softplus z) sigmoid(z)``.

    With ``e = exp z`` and ``n = e (e + 2)`` these are ``n / (n + 2)`` and ``4 (n + 1) / (n + 2)^2``.
    """
    z = z.clamp(max=20)  # from there on the derivative is 1 in every precision
    e = torch.exp(z)
    n = e * (e + 2)
    return (n + 4 * z * torch.sigmoid(z) * (n + 1) / (n + 2)) / (n + 2)


# Powers and tan, which are not defined everywhere.


def pow_derivative(z: Tensor, parameters: Parameters) -> Tensor:
    """``f(z) = z^n``: ``f'(z) = n z^(n - 1)``; for n that is no whole number 0 below 0, where f has no value."""
    exponent = parameters["exponent"]
    if exponent == 0:
        return torch.zeros_like(z)
    base = z if exponent == int(exponent) else z.clamp(min=0)
    return exponent * base.pow(exponent - 1)


def power(z: Tensor, parameters: Parameters) -> Tensor:
    """``f(z) = z^n``."""
    return z.pow(parameters["exponent"])


def pow_curvature(lower: Tensor, upper: Tensor, parameters: Parameters) -> Tensor:
    """``|f'''| = |n (n - 1) (n - 2)| |z|^(n - 3)``, at the end farther from 0 for n >= 3, at the nearest point else."""
    exponent = parameters["exponent"]
    factor = abs(exponent * (exponent - 1) * (exponent - 2))
    if factor == 0:
        return torch.zeros_like(lower)
    size = torch.maximum(lower.abs(), upper.abs()) if exponent >= 3 else from_zero(lower, upper)
    return factor * size.pow(exponent - 3)


def pow_domain(parameters: Parameters) -> Domain | None:
    """Where ``n z^(n - 1)`` is finite."""
    exponent = parameters["exponent"]
    if exponent == int(exponent):
        return None if exponent >= 0 else NOT_ZERO
    return FROM_ZERO if exponent > 1 else ABOVE_ZERO


def between_poles(lower: Tensor, upper: Tensor) -> Tensor:
    """Whether intervals contain none of the poles ``pi/2 + k pi``, nor come so near that rounding decides."""
    first, last = lower / math.pi - 0.5, upper / math.pi - 0.5
    reach = NEAR_POLES * eps(lower) * (1 + torch.maximum(first.abs(), last.abs()))
    return torch.ceil(first - reach) > torch.floor(last + reach)


def tan_curvature(lower: Tensor, upper: Tensor, parameters: Parameters) -> Tensor:
    """``f''' = (1 + t^2) (2 + 6 t^2)`` with ``t = tan z``, which between two poles grows to both sides."""
    square = torch.maximum(*(end.tan().square() for end in (lower, upper)))
    return (1 + square) * (2 + 6 * square)


def not_below_zero(parameters: Parameters) -> tuple[float, float]:
    """Ends of the values of functions that have no sign but one."""
    return 0.0, inf
