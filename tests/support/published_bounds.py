"""Pre-activation bounds of multilayer perceptrons as the published RecurJac program computes them.

CROWN (Zhang, Weng, Chen, Hsieh, Daniel: NeurIPS 2018, arXiv:1811.00866) with that program's choice of lines, its
`crown-general` bounds: S-shaped functions whose interval contains 0 are bounded by the line from an end of the
interval through a point of tangency that ten steps of bisection look for, shifted by 0.01 of its slope. The numbers
published for the integral and the landscape depend on these bounds; the host's lines differ for S-shaped functions.
"""

from __future__ import annotations

import torch


def _sigmoid_slope(z):
    s = 1 / (1 + torch.exp(-z))
    return s * (1 - s)


FUNCTIONS = {
    "tanh": (torch.tanh, lambda z: 1 / torch.cosh(z) ** 2),
    "sigmoid": (lambda z: 1 / (1 + torch.exp(-z)), _sigmoid_slope),
    "arctan": (torch.atan, lambda z: 1 / (1 + z * z)),
}


def _tangency(end, far, value, slope):
    """Where the line from `end` touches the function, on the other side of 0 up to `far`: ten bisections, loosely."""
    d, near = far / 2, torch.zeros_like(far)
    done = torch.zeros_like(far, dtype=torch.bool)
    for _ in range(10):
        excess = (value(d) - value(end)) / (d - end) - slope(d)
        done = done | ((excess > 0) & (excess.abs() < 0.01))
        outside = excess > 0
        following = torch.where(outside, (d + near) / 2, (d + far) / 2)
        far, near = torch.where(outside & ~done, d, far), torch.where(~outside & ~done, d, near)
        d = torch.where(done, d, following)
    return d


def _lines(lower, upper, activation, kink):
    """Slopes and intercepts of the line above and the line below: four tensors."""
    zero, one = torch.zeros_like(lower), torch.ones_like(lower)
    on, off = lower > 0, (upper <= 0) & ~(lower > 0)
    if activation in ("relu", "leaky"):
        above = torch.where(on, one, torch.where(off, kink * one, (upper - kink * lower) / (upper - lower)))
        chord = torch.where(on | off, zero, lower * upper * (kink - 1) / (upper - lower))
        below = torch.where(on | (~off & (upper.abs() > lower.abs())), one, kink * one)
        return above, chord, below, zero
    value, slope = FUNCTIONS[activation]
    wide = (upper - lower).abs() > 1e-5
    chord = torch.where(wide, (value(upper) - value(lower)) / (upper - lower), slope(torch.where(on, lower, upper)))
    chord_at_zero = value(lower) - lower * chord
    middle = (lower + upper) / 2
    tangent, tangent_at_zero = slope(middle), value(middle) - middle * slope(middle)
    right, left = _tangency(lower, upper, value, slope), _tangency(upper, lower, value, slope)
    crossing_above = (value(right) - value(lower)) / (right - lower)
    crossing_below = (value(left) - value(upper)) / (left - upper)
    return (
        torch.where(on, tangent, torch.where(off, chord, crossing_above)),
        torch.where(on, tangent_at_zero,
                    torch.where(off, chord_at_zero, value(lower) - (lower - 0.01) * crossing_above)),
        torch.where(on, chord, torch.where(off, tangent, crossing_below)),
        torch.where(on, chord_at_zero,
                    torch.where(off, tangent_at_zero, value(upper) - (upper + 0.01) * crossing_below)),
    )  # fmt: skip


def _on_ball(A, constant, x0, eps, norm):
    """Largest value of ``A x + constant`` on the ball."""
    dual = {1.0: float("inf"), 2.0: 2.0, float("inf"): 1.0}[norm]
    return A @ x0 + eps * torch.linalg.vector_norm(A, ord=dual, dim=1) + constant


def _upper(weights, biases, lines, sign, x0, eps, norm):
    """Upper bounds of ``sign`` times the last pre-activation."""
    A, constant = sign * weights[-1], sign * biases[-1]
    for weight, bias, (above, above_zero, below, below_zero) in zip(weights[-2::-1], biases[-2::-1], lines[::-1]):
        positive = A > 0
        constant = constant + (A * torch.where(positive, above_zero, below_zero)).sum(1)
        A = A * torch.where(positive, above, below)
        constant = constant + A @ bias
        A = A @ weight
    return _on_ball(A, constant, x0, eps, norm)


def preactivation_bounds(weights, biases, activation, kink, x0, eps, norm):
    """Lower and upper bounds of every hidden pre-activation on the l_p ball of radius eps around x0 (1-D)."""
    found, lines = [], []
    for depth in range(1, len(weights)):
        above, below = (_upper(weights[:depth], biases[:depth], lines, sign, x0, eps, norm) for sign in (1, -1))
        found.append((-below, above))
        lines.append(_lines(-below, above, activation, kink))
    return found
