r"""Planes above ``d y`` where gradient y and pre-activation vary together: over a strip in place of a rectangle.

Where the region has few coordinates, most of what a gradient y and the pre-activation ``z = z0 + t`` of the same neuron
do on it they do together. Both have linear bounds in ``x - x0`` (`linear_upper_bound`), and from these follows, for a
slope a,

.. math:: a t + b - e \;\le\; y \;\le\; a t + b + e ,

a *strip* in the plane of t and y which is much narrower than the range of y. The product ``d(t) y`` is linear in y, so
a plane ``A t + B y + C`` lies above it on the strip if it does so on both edges: with ``A' = A + a B`` if

.. math:: A' t + c_\pm \;\ge\; g_\pm(t) = d(t) (a t + b \pm e), \qquad
    B e = \frac{c_+ - c_-}{2}, \quad C = \frac{c_+ + c_-}{2} - b B .

These are functions of t alone, known at points: whatever curvature of d, the product of both slopes, and their signs
have to do with each other is seen at once. For every A' the least ``c`` follow, and the height of the plane in the
middle of the strip, ``A' t_m + (c_+ + c_-) / 2``, is convex in A'.

McCormick's planes (`mccormick`) know of d only lines, and add what these are off to the largest product of two errors.

Source: own. That a product of derivative and gradient is relaxed as one function, over a rectangle, is that of Laurel,
Qian, Singh, Misailovic: Synthesizing Precise Static Analyzers for Automatic Differentiation (Pasado), OOPSLA 2023.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from recurjac_plugin.activations.curves import Samples
from recurjac_plugin.activations.lines import Relaxation
from recurjac_plugin.gains.crown import linear_upper_bound
from recurjac_plugin.numerics.region import concretized
from recurjac_plugin.numerics.rounding import eps

from .mccormick import DerivativeRelaxation, NetworkRelaxation, Plane, lower_plane

FEW = 4
"""Most coordinates of a region on which strips are looked for."""


class Form(NamedTuple):
    """Linear bounds of numbers in ``x - x0``: ``lower_slope (x - x0) + lower_constant <= y <= ...``.

    Attributes:
        lower_slope, upper_slope: shape (b, k, u, columns).
        lower_constant, upper_constant: shape (b, k, u).
    """

    lower_slope: Tensor
    lower_constant: Tensor
    upper_slope: Tensor
    upper_constant: Tensor


class Strip(NamedTuple):
    """``slope t + middle -+ half``, shape (b, k, u) each."""

    slope: Tensor
    middle: Tensor
    half: Tensor


def has_strips(relaxation: NetworkRelaxation | None) -> bool:
    """Whether strips are looked for: over few coordinates, where sums over t are bounded by substitution."""
    if relaxation is None or not relaxation.substituted or sum(each.columns for each in relaxation.inputs) > FEW:
        return False
    return all(known.samples is not None for known in relaxation.derivatives.values())


def preactivation_form(relaxation: NetworkRelaxation, layer: str) -> Form:
    """CROWN's linear bounds of t at one layer's undetermined neurons: (b, 1, u).

    Source: CROWN, arXiv:1811.00866, Theorem 3.2.
    """
    count = relaxation.gains.count(layer)
    units = torch.eye(count, dtype=relaxation.gains.reference.dtype, device=relaxation.gains.reference.device)
    both = torch.cat((units, -units)).expand(relaxation.gains.batch, -1, -1)
    slope, constant = linear_upper_bound(
        relaxation.gains, relaxation.activations, 2 * count, on_preactivations={layer: both}
    )
    (above, below), (most, least) = slope.split(count, 1), constant.split(count, 1)
    return Form(*(value.unsqueeze(1) for value in (-below, -least, above, most)))


def strip_around(
    relaxation: NetworkRelaxation,
    y: Form,
    t: Form,
    lower: Tensor,  # shape: (b, k, u)
    upper: Tensor,  # shape: (b, k, u)
    known: DerivativeRelaxation,
) -> Strip:
    """The strip that y and t lie in.

    The slope a is that with which the mean of the bounds of y follows the mean of those of t, by least squares. Then
    ``y - a t`` is bounded by the linear bounds of both, and by their ranges.

    Args:
        relaxation: of the network.
        y: linear bounds of the gradients, (b, k, u).
        t: linear bounds of the pre-activations, (b, 1, u).
        lower: lower bounds of y.
        upper: upper bounds.
        known: of the layer.

    Source: own.
    """
    reach = torch.cat([region.reach for region in relaxation.inputs], 1)[:, None, None, :]
    mean_y, mean_t = (y.lower_slope + y.upper_slope) * reach, (t.lower_slope + t.upper_slope) * reach
    square = mean_t.square().sum(3)
    slope = (mean_y * mean_t).sum(3) / torch.where(square > 0, square, 1.0)
    a, rises = slope.unsqueeze(3), slope.unsqueeze(3) >= 0

    def largest(slopes: Tensor) -> Tensor:
        return concretized(relaxation.inputs, slopes.flatten(1, 2)).unflatten(1, slopes.shape[1:3])

    above = y.upper_slope - a * torch.where(rises, t.lower_slope, t.upper_slope)
    below = y.lower_slope - a * torch.where(rises, t.upper_slope, t.lower_slope)
    high = y.upper_constant - slope * torch.where(slope >= 0, t.lower_constant, t.upper_constant) + largest(above)
    low = y.lower_constant - slope * torch.where(slope >= 0, t.upper_constant, t.lower_constant) - largest(-below)
    spread = slope.abs() * known.half
    high = torch.fmin(high, upper - slope * known.middle + spread)
    low = torch.fmax(low, lower - slope * known.middle - spread)
    return Strip(slope, (high + low) / 2, ((high - low) / 2).clamp(min=0))


def strip_plane(
    strip: Strip,
    samples: Samples,  # shape: (n + 1, b, u)
    middle: Tensor,  # shape: (b, 1, u)
) -> Plane:
    """A plane above ``d y`` on a strip, low in its middle: ``d y <= slope y + constant + t_slope t``.

    Its slope in t along the strip is that of the mean of both edges around the middle or from end to end, where they
    are concave or convex the best of all; which of them is decided as in `mccormick_planes`. Between two points, h
    apart, ``d(t) (a t + b -+ e)`` is a product of two lines, which rises above its chord by ``|d' a| h^2 / 4`` at most.

    Source: this module's.
    """
    points, below, above = (value.unsqueeze(2) for value in samples)  # (n + 1, b, 1, u)
    count = len(points) - 1
    step = (points[-1] - points[0]) / count
    turn = torch.maximum(below.diff(dim=0).abs(), above.diff(dim=0).abs())
    turn = torch.cat((turn[:1], torch.maximum(turn[:-1], turn[1:]), turn[-1:])) * step / 4 * strip.slope.abs()
    # An edge as wide as what rounding leaves of a difference has no slope that could be told.
    scale = strip.middle.abs() + strip.slope.abs() * torch.maximum(points[0].abs(), points[-1].abs())
    half = torch.maximum(strip.half, eps(scale) ** 0.5 * scale)
    half = torch.where(half > 0, half, 1.0)
    line = strip.slope * points + strip.middle
    edges = torch.stack((line + half, line - half))  # (2, n + 1, b, k, u)
    edges = torch.maximum(edges * above, edges * below) + turn

    rises = edges.mean(0)
    width, half_way = torch.where(step > 0, step, 1.0), count // 2

    def touching(slope: Tensor) -> Plane:
        """The plane whose slope in t on the strip is given, as low as its edges let it be."""
        upper, lower = (edges - slope * points).amax(1)
        across, least = (upper - lower) / (2 * half), (upper + lower) / 2
        height = slope * middle + least
        return Plane(across, least - across * strip.middle, slope - across * strip.slope, height)

    # Of all slopes with the same height in the middle, as with derivatives that are linear, the mean of both edges'.
    around = (rises[half_way + 1] - rises[half_way - 1]) / (2 * width)
    chord = (rises[-1] - rises[0]) / (count * width)
    return lower_plane(touching(chord), touching(around), rises.amax(0) - rises.amin(0))


def with_strips(
    relaxation: NetworkRelaxation,
    layer: str,
    planes: Relaxation,
    y: Form,
    lower: Tensor,  # shape: (b, k, u)
    upper: Tensor,  # shape: (b, k, u)
) -> Relaxation:
    """Planes above and below ``d y`` of one layer, by a strip wherever that is lower in the middle of it.

    Args:
        relaxation: of the network.
        layer: with derivatives that have samples.
        planes: what there is already.
        y: linear bounds of the gradients.
        lower: lower bounds of y.
        upper: upper bounds.
    """
    known = relaxation.derivatives[layer]
    assert known.samples is not None and planes.upper_t_slope is not None and planes.lower_t_slope is not None
    strip = strip_around(relaxation, y, preactivation_form(relaxation, layer), lower, upper, known)
    usable = torch.stack([each.isfinite() for each in strip]).all(0) & known.half.isfinite()
    strip = Strip(*(torch.where(usable, each, 0.0) for each in strip))
    samples = Samples(torch.where(known.half.isfinite().squeeze(1), known.samples.points, 0.0), *known.samples[1:])
    if relaxation.used is not None:
        usable = usable & relaxation.used[:, None, None]
    derivative = relaxation.gains.derivatives[layer]
    scale = (derivative.upper - derivative.lower).unsqueeze(1) * torch.maximum(lower.abs(), upper.abs())

    def lower_one(strip: Strip, slope: Tensor, constant: Tensor, t_slope: Tensor) -> tuple[Tensor, ...]:
        """Slope, constant and slope in t of the plane above ``d y`` that is lower in the middle of the strip."""
        height = slope * (strip.slope * known.middle + strip.middle) + constant + t_slope * known.middle
        found = lower_plane(strip_plane(strip, samples, known.middle), Plane(slope, constant, t_slope, height), scale)
        return tuple(torch.where(usable, *each) for each in zip(found[:3], (slope, constant, t_slope)))

    above = lower_one(strip, planes.upper_slope, planes.upper_constant, planes.upper_t_slope)
    mirrored = Strip(-strip.slope, -strip.middle, strip.half)
    below = lower_one(mirrored, planes.lower_slope, -planes.lower_constant, -planes.lower_t_slope)
    return Relaxation(below[0], -below[1], above[0], above[1], -below[2], above[2])
